# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization of minilm-sst2 and minilm-wnut17, with everything chosen on training data.

Calibration: 128 training items (random.Random(13).sample), one by one. All 120 quantizers are on unless a row
says otherwise. Logit error: qdqbert.logit_error on 96 other training items (seed 14): the mean divergence of
the predicted classes from float's, over sentences of SST-2 and tokens of WNUT-17.

1. float on the reported sets (SST-2 dev; WNUT-17 dev and test); it must equal the checkpoints' README, or
   nothing else is run;
2. every method, and the mixes of Calibration.search: by kind of site, and refined site by site. The one with
   the least logit error is the chosen one;
3. quantizers left in float, one after the other, each time the one that lowers the logit error most; the
   first set whose score on held-out training items is within half a percent (relative) of float's is the
   chosen one;
4. every method and every set on the reported sets, with 95 % bootstrap intervals and paired differences to
   float. Nothing above looks at them.

The checkpoints were fine-tuned on all of WNUT-17's training sentences and on 20,000 of SST-2's 67,349; the
held-out rows of SST-2 avoid those, as far as the README says how they were drawn.

Scores do not depend on threads or machine. The search and every logit error after it are kept in the result
file; --resume uses those.

    python benchmarks/accuracy/bench_ptq_tasks.py
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bench_ptq_squad import QUANTIZERS, Amax

import harness
import systems
from harness import require, shared


@dataclass(frozen=True)
class Case:
    """A checkpoint with its data.

    `counts` are what the checkpoints' README reports of float: name in the evaluation's metrics, value.
    """

    checkpoint: str
    task: str
    train: tuple[str, ...]
    reported: dict[str, tuple[str, ...]]
    counts: dict[str, dict[str, int]]
    trained_on: int  # rows of the training file that random.Random(13).sample drew for fine-tuning; 0: all


CASES = {
    "sst2": Case(
        "minilm-sst2",
        "SST2",
        ("glue", "SST-2", "train.tsv"),
        {"dev": ("glue", "SST-2", "dev.tsv")},
        {"dev": {"correct": 751, "total": 872}},
        20_000,
    ),
    "wnut17": Case(
        "minilm-wnut17",
        "NER",
        ("ner", "wnut17", "wnut17train.conll"),
        {
            "dev": ("ner", "wnut17", "emerging.dev.conll"),
            "test": ("ner", "wnut17", "emerging.test.annotated"),
        },
        {
            "dev": {"right entities": 407, "predicted entities": 644, "gold entities": 836},
            "test": {"right entities": 353, "predicted entities": 619, "gold entities": 1079},
        },
        0,
    ),
}


class Bench:
    """A model, its data and every pass that was made."""

    def __init__(self, name: str, arguments: Any, keep: Callable[[], None], body: dict[str, Any]) -> None:
        self.case, self.arguments, self.keep, self.body = CASES[name], arguments, keep, body
        self.qdqbert = require("qdqbert")
        tasks = require("qdqbert.tasks")
        folder = shared("checkpoints", self.case.checkpoint)
        reader = getattr(tasks, self.case.task)
        self.model = systems.qdqbert_model(str(folder), arguments.threads, reader.model_class)
        tokenizer = require("qdqbert.tokenization").load_tokenizer(folder)
        self.names = [name for name, _ in self.model.named_modules() if name.endswith("_quantizer")]
        if len(self.names) != QUANTIZERS:
            raise AssertionError(f"expected {QUANTIZERS} quantizers, found {len(self.names)}")

        def read(parts: Sequence[str]) -> Any:
            return reader.read(shared("data", *parts), tokenizer, self.model.config)

        train = read(self.case.train)
        used = set(random.Random(13).sample(range(len(train)), arguments.samples))
        self.calibration = train.batches(arguments.samples, seed=13)
        if self.case.trained_on:
            used |= set(random.Random(13).sample(range(len(train)), self.case.trained_on))
        rest = [index for index in range(len(train)) if index not in used]
        drawn = random.Random(14).sample(rest, arguments.ranking + arguments.held_out)
        ranking = train.select(drawn[: arguments.ranking])
        self.ranking = list(ranking.batches(arguments.ranking, seed=0, batch_size=8))
        self.tasks = {"held-out": train.select(drawn[arguments.ranking :])}
        for part, place in self.case.reported.items():
            self.tasks[part] = read(place)
        if arguments.limit:
            self.tasks = {k: t.select(range(arguments.limit)) for k, t in self.tasks.items()}
        self.ranges: dict[str, Amax] = {}
        self.evaluations: dict[tuple[str, str], Any] = {}
        self.logit_error: Any = None

    # ---- passes ---------------------------------------------------------------------------------

    def rules(self, off: Iterable[str]) -> Any:
        """Everything on but `off`."""
        listed = list(off)
        if len(listed) == len(self.names):
            return self.qdqbert.quantizers(self.model, {"*": "off"})
        return (
            self.qdqbert.quantizers(self.model, dict.fromkeys(listed, "off"))
            if listed
            else (contextlib.nullcontext())
        )

    def use(self, ranges: Amax) -> None:
        """Give activation quantizers these ranges."""
        self.qdqbert.quantizers(self.model, {name: {"amax": amax} for name, amax in ranges.items()})

    def key(self, ranges: Amax, off: Sequence[str]) -> str:
        """Return a short name of exact ranges and of what is off."""
        if len(off) == len(self.names):
            return "float"
        digest = systems.digest(np.concatenate([ranges[name].ravel() for name in sorted(ranges)]))[:12]
        left = ",".join(str(self.names.index(name)) for name in sorted(off, key=self.names.index))
        return f"{digest} off {left or 'none'}"

    def score(self, part: str, ranges: Amax, off: Sequence[str]) -> Any:
        """Evaluate on a set; each once."""
        key = (part, self.key(ranges, off))
        if key not in self.evaluations:
            if len(off) < len(self.names):
                self.use(ranges)
            with self.rules(off):
                self.evaluations[key] = self.tasks[part].evaluate(self.model, progress=False)
        return self.evaluations[key]

    def error(self, ranges: Amax, off: Sequence[str]) -> float:
        """Mean logit error on the ranking items."""
        kept: dict[str, float] = self.body["errors"]
        key = f"{self.arguments.ranking} items, {self.key(ranges, off)}"
        if key not in kept:
            if self.logit_error is None:
                self.logit_error = require("qdqbert.logit_error").LogitError(self.model, self.ranking)
            self.use(ranges)
            with self.rules(off):
                kept[key] = self.logit_error.measure()
            if len(kept) % 20 == 0:
                self.keep()
        return kept[key]

    # ---- parts ----------------------------------------------------------------------------------

    def float_part(self) -> None:
        """Float on the reported sets against the README."""
        for part, expected in self.case.counts.items():
            result = self.score(part, {}, self.names)
            print(f"float, {part}: {result}", flush=True)
            found = {name: result.metrics[name] for name in expected}
            if not self.arguments.limit and found != expected:
                raise AssertionError(f"{part}: the README's {expected}, found {found}")

    def calibrate(self) -> str:
        """Ranges by every method from one pass, and the mixes; return what has the least logit error."""
        package = require("qdqbert.calibration_search")
        started = time.perf_counter()
        calibration = self.qdqbert.Calibration(self.model).collect(self.calibration)
        self.body["calibration_seconds"] = time.perf_counter() - started
        for method in package.METHODS_TRIED:
            self.ranges[method] = calibration.ranges(**package.method_options(method))
        # The digest keeps --resume from taking a search among other ranges.
        key = [self.arguments.ranking, self.arguments.sites, self.arguments.rounds]
        key += [self.key(ranges, []) for ranges in self.ranges.values()]
        found = self.body.get("search", {})
        if found.get("of") != key:
            report = calibration.search(
                self.ranking, sites=self.arguments.sites, rounds=self.arguments.rounds
            )
            print(report, flush=True)
            found = self.body["search"] = {"of": key, **report.as_dict()}
            self.keep()
        kinds, kind_of = found["kinds"], package.kind_of
        self.ranges[package.MIX] = {
            name: self.ranges[kinds[kind_of(name)]][name] for name in self.ranges["max"]
        }
        refined = {name: self.ranges[method][name] for name, method in found["refined"].items()}
        self.ranges[package.MIX_BY_SITE] = self.ranges[found["refined_from"]] | refined
        best: str = found["best"]
        return best

    def sets(self, method: str) -> list[list[str]]:
        """Growing sets left in float, up to the first that is close enough on held-out training items."""
        ranges = self.ranges[method]
        base = self.score("held-out", {}, self.names)
        wanted = (1 - self.arguments.margin) * base.value
        estimate = {name: self.error(ranges, [name]) for name in self.names}
        path: list[list[str]] = [[]]
        rows = self.body["sets"] = []
        while True:
            score = self.score("held-out", ranges, path[-1]).value
            rows.append(
                {"off": path[-1], "error": self.error(ranges, path[-1]), "held_out": score, "wanted": wanted}
            )
            print(f"  {len(path[-1]):2d} off: held-out {score:.2f} ({wanted:.2f} wanted)", flush=True)
            self.keep()
            if score >= wanted or len(path) > self.arguments.steps:
                return path
            left = [name for name in self.names if name not in path[-1]]
            candidates = sorted(left, key=estimate.__getitem__)[: self.arguments.width]
            for name in candidates:
                estimate[name] = self.error(ranges, [*path[-1], name])
            path.append([*path[-1], min(candidates, key=estimate.__getitem__)])

    def report(self, best: str, sets: Sequence[Sequence[str]]) -> None:
        """Every method and every set on the reported sets."""
        for part in self.case.reported:
            base = self.score(part, {}, self.names)
            interval = base.figures[0].interval()
            rows: list[tuple[str, ...]] = [
                ("float", "", f"{base.value:.2f} ({interval.low:.2f} .. {interval.high:.2f})", "", "")
            ]
            kept = {"float": {"score": base.value, "low": interval.low, "high": interval.high}}

            def add(label: str, ranges: Amax, off: Sequence[str], part: str = part, base: Any = base) -> None:
                result = self.score(part, ranges, off)
                own = result.figures[0].interval()
                difference = result.figures[0].difference(base.figures[0])
                relative = 100 * difference.mean / base.value
                rows.append(  # noqa: B023  (called in this turn of the loop)
                    (
                        label,
                        f"{self.error(ranges, off):.5f}",
                        f"{result.value:.2f} ({own.low:.2f} .. {own.high:.2f})",
                        f"{difference.mean:+.2f} ({difference.low:+.2f} .. {difference.high:+.2f})",
                        f"{relative:+.2f} %",
                    )
                )
                kept[label] = {  # noqa: B023
                    "score": result.value,
                    "low": own.low,
                    "high": own.high,
                    "error": self.error(ranges, off),
                    "difference": difference.mean,
                    "difference_low": difference.low,
                    "difference_high": difference.high,
                    "relative_percent": relative,
                    "off": list(off),
                }

            for method, ranges in self.ranges.items():
                add(method + (" (chosen)" if method == best else ""), ranges, [])
            for off in sets[1:]:
                mark = " (chosen)" if off is sets[-1] else ""
                add(f"{best}, {len(off)} of {QUANTIZERS} off{mark}", self.ranges[best], off)
            print(f"\n{self.case.checkpoint}, {part}: {base.figures[0].name}, {base.items} {base.item}s")
            header = ("row", "logit error", "score (95 %)", "against float (paired 95 %)", "relative")
            print(harness.table(rows, header), flush=True)
            self.body.setdefault("reported", {})[part] = kept
        for name in sets[-1]:
            print(f"    off: {name}")
        self.keep()


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "ptq_tasks.json")
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as this process may use")
    parser.add_argument("--samples", type=int, default=128, help="calibration samples")
    parser.add_argument("--ranking", type=int, default=96, help="training items of the logit error")
    parser.add_argument("--held-out", type=int, default=1000, help="training items that decide when to stop")
    parser.add_argument("--limit", type=int, default=0, help="first items of each scored set only (0: all)")
    parser.add_argument("--sites", type=int, default=16, help="sites that the mix is refined at")
    parser.add_argument("--rounds", type=int, default=2, help="most turns of the refinement")
    parser.add_argument(
        "--margin", type=float, default=0.005, help="relative loss at which sets stop growing"
    )
    parser.add_argument("--width", type=int, default=6, help="candidates looked at for each set")
    parser.add_argument("--steps", type=int, default=12, help="most quantizers left in float")
    parser.add_argument("--resume", action="store_true", help="use the logit errors kept in the result file")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.limit, arguments.samples, arguments.ranking, arguments.held_out = 8, 4, 4, 8
        arguments.sites, arguments.rounds, arguments.width, arguments.steps = 1, 1, 2, 1
    facts = harness.machine_facts(("tokenizers",))
    harness.print_facts(facts)
    body: dict[str, Any] = {"arguments": {k: v for k, v in vars(arguments).items() if k != "json"}}
    if arguments.json.exists():
        kept = json.loads(arguments.json.read_text(encoding="utf-8"))
        for name in CASES:
            if name in kept and (arguments.resume or (arguments.cases and name not in arguments.cases)):
                body[name] = kept[name]

    def keep() -> None:
        with contextlib.redirect_stdout(None):
            harness.write_json(arguments.json, facts, body)

    for name in arguments.cases or CASES:
        started = time.perf_counter()
        part = body.setdefault(name, {})
        part.setdefault("errors", {})
        bench = Bench(name, arguments, keep, part)
        bench.float_part()
        best = bench.calibrate()
        print(f"chosen by logit error: {best}", flush=True)
        bench.report(best, bench.sets(best))
        part["seconds"] = time.perf_counter() - started
    harness.write_json(arguments.json, facts, body)


if __name__ == "__main__":
    main()

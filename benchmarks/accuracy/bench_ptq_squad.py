# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization of minilm-squad: every method, each site's cost, the smallest set left in float.

Calibration: the first window of each of 128 questions of train-du44 (random.Random(13).sample), one by one.
Evaluation: 384 tokens, stride 128, EM/F1 of SQuAD v1.1. All 120 quantizers are on unless a row says
otherwise.

1. float on xquad.en; it must equal the checkpoint's README within 0.02, or nothing else is run;
2. every method on xquad.en, and the mix by kind of site of Calibration.search; beside them the other
   quantizers' figures from the checkpoint's README;
3. each kind of site (a quantizer's place in a layer, all layers at once): F1 with this kind alone
   quantized, and with all but this kind quantized, on every third question of xquad.en;
4. every single quantizer by logit error, and greedily the sets that are left in float until F1 on xquad.en
   is within 1 % (relative) of float: once by single quantizers, once by whole kinds; then members that are
   not needed are put back;
5. float, the best method and the sets on the whole of dev-v1.1 (10,570 questions); where a set that was
   chosen on xquad.en does not hold there, the greedy search goes on.

Logit error: qdqbert.logit_error, the mean divergence of the start and end distributions from float's, on 32
other questions of train-du44 (seed 14), so that no ranking looks at the evaluation data; only the decision
when to stop does (xquad.en is part of dev). Scores do not depend on threads or machine. Every finished pass
is kept in the result file; --resume uses those.

    python benchmarks/accuracy/bench_ptq_squad.py

--no-dev leaves out part 5, --quick does 1 and 2 only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems
from harness import require, shared
from qdqbert.calibration_search import METHODS_TRIED, MIX, kind_of, method_options
from qdqbert.logit_error import LogitError

QUANTIZERS = 120
SLACK = 1.0  # points of F1 by which a third of the questions may mislead
Amax = dict[str, NDArray[np.float32]]


def readme_scores() -> dict[str, tuple[float, float]]:
    """Float EM and F1 of minilm-squad by file, from the checkpoints' README."""
    text = shared("checkpoints", "README.md").read_text(encoding="utf-8")
    found = re.findall(r"- (\S+)\.json, [\d,]+ questions, [\d,]+ features: EM ([\d.]+), F1 ([\d.]+)", text)
    return {name: (float(em), float(f1)) for name, em, f1 in found}


def readme_peers() -> list[tuple[str, float, float]]:
    """Other quantizers on this checkpoint, from the same README.

    The table with a column named "quantizer".
    """
    rows: list[tuple[str, float, float]] = []
    inside = False
    for line in shared("checkpoints", "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "quantizer":
            inside = True
        elif inside and not line.strip().startswith("|"):
            break
        elif inside and not set(cells[0]) <= set("- "):
            rows.append((cells[0].replace("`", ""), float(cells[1]), float(cells[2])))
    return rows


class Bench:
    """The model, its data and every pass that was made."""

    def __init__(self, arguments: Any, facts: dict[str, Any]) -> None:
        self.arguments = arguments
        self.facts = facts
        self.qdqbert = require("qdqbert")
        self.squad = require("qdqbert.tasks.squad")
        folder = shared("checkpoints", "minilm-squad")
        self.tokenizer = require("qdqbert.tokenization").load_tokenizer(folder)
        self.model = systems.qdqbert_model(str(folder), arguments.threads, "QDQBertForQuestionAnswering")
        self.names = [name for name, _ in self.model.named_modules() if name.endswith("_quantizer")]
        if len(self.names) != QUANTIZERS:
            raise AssertionError(f"expected {QUANTIZERS} quantizers, found {len(self.names)}")
        self.kinds = list(dict.fromkeys(map(kind_of, self.names)))
        train = self.squad.read_squad(shared("data", "squad", "train-du44-v1.1.json")).examples
        self.calibration = list(
            self.squad.calibration_batches(train, self.tokenizer, samples=arguments.samples, seed=13)
        )
        self.ranking = list(
            self.squad.calibration_batches(
                train, self.tokenizer, samples=arguments.ranking, seed=14, batch_size=8
            )
        )
        self._data: dict[str, Any] = {}
        self.part = f"xquad.en / {arguments.stride}"
        self.ranges: dict[str, Amax] = {}
        self.logit_error: LogitError | None = None
        self.body: dict[str, Any] = {"passes": {}, "seconds": {}}
        if arguments.resume and arguments.json.exists():
            kept = json.loads(arguments.json.read_text(encoding="utf-8"))
            self.body["passes"] = kept.get("passes", {})
            self.body["resumed_from_commit"] = kept["machine"].get("commit")

    # ---- passes ---------------------------------------------------------------------------------

    def data(self, name: str) -> Any:
        """Return a data set, cut at --limit questions; "xquad.en / 3" is every third question."""
        if name not in self._data:
            stem, _, stride = name.partition(" / ")
            dataset = self.squad.read_squad(shared("data", "squad", f"{stem}.json"))
            if stride:
                dataset = dataclasses.replace(dataset, examples=dataset.examples[:: int(stride)])
            if self.arguments.limit:
                dataset = dataclasses.replace(dataset, examples=dataset.examples[: self.arguments.limit])
            self._data[name] = dataset
        return self._data[name]

    def rules(self, off: Iterable[str]) -> Any:
        """Everything on but `off`."""
        listed = list(off)
        if len(listed) == len(self.names):
            return self.qdqbert.quantizers(self.model, {"*": "off"})
        rules = dict.fromkeys(listed, "off")
        return self.qdqbert.quantizers(self.model, rules) if rules else contextlib.nullcontext()

    def use(self, method: str) -> None:
        """Give every activation quantizer the range of this method."""
        self.qdqbert.quantizers(
            self.model, {name: {"amax": amax} for name, amax in self.ranges[method].items()}
        )

    def digest(self, method: str) -> str:
        """Return a short name of the exact ranges of a method."""
        ranges = self.ranges[method]
        return systems.digest(np.concatenate([ranges[name].ravel() for name in sorted(ranges)]))[:8]

    def calibrate(self) -> None:
        """Ranges by every method from one pass over the samples."""
        started = time.perf_counter()
        calibration = self.collected = self.qdqbert.calibrate(
            self.model, self.calibration, method="percentile"
        )
        self.body["seconds"]["calibration, pass"] = time.perf_counter() - started
        for method in METHODS_TRIED:
            started = time.perf_counter()
            self.ranges[method] = calibration.ranges(**method_options(method))
            self.body["seconds"][f"ranges by {method}"] = time.perf_counter() - started
        dead = [
            f"{method}: {name}"
            for method, ranges in self.ranges.items()
            for name, amax in ranges.items()
            if not (np.isfinite(amax).all() and (amax > 0).all())
        ]
        if dead:
            raise AssertionError(f"ranges that are not positive: {dead[:4]}")

    def score(self, dataset: str, method: str, off: Sequence[str]) -> dict[str, float]:
        """EM and F1, from the kept passes if it was made before."""
        chosen = sorted(off, key=self.names.index)
        label = (
            "all"
            if len(chosen) == len(self.names)
            else ",".join(str(self.names.index(name)) for name in chosen)
        )
        # The digest keeps --resume from taking a pass that was made with other ranges.
        ranges = "float" if label == "all" else f"{method} {self.digest(method)}"
        key = f"{dataset} | {ranges} | off {label or 'none'}"
        if self.arguments.limit:
            key += f" | first {self.arguments.limit}"
        passes: dict[str, Any] = self.body["passes"]
        if key not in passes:
            if label != "all":
                self.use(method)
            started = time.perf_counter()
            with self.rules(chosen):
                result = self.squad.evaluate(self.model, self.data(dataset), self.tokenizer, progress=False)
            passes[key] = {
                "em": result.exact_match,
                "f1": result.f1,
                "seconds": time.perf_counter() - started,
                "questions": len(self.data(dataset).examples),
                "windows": result.features,
            }
            self.save()
        found: dict[str, float] = passes[key]
        return found

    def error(self, off: Sequence[str]) -> float:
        """Mean logit error on the ranking questions, ranges as they stand."""
        if self.logit_error is None:
            self.logit_error = LogitError(self.model, self.ranking)
        with self.rules(off):
            return self.logit_error.measure()

    def save(self) -> None:
        """Write the result so far."""
        with contextlib.redirect_stdout(None):
            harness.write_json(self.arguments.json, self.facts, self.body)

    @contextlib.contextmanager
    def timed(self, part: str) -> Any:
        """Keep how long a part took."""
        started = time.perf_counter()
        yield
        self.body["seconds"][part] = time.perf_counter() - started
        self.save()
        print(f"# {part}: {self.body['seconds'][part]:.0f} s", flush=True)


def change(value: float, base: float) -> tuple[str, str]:
    """Difference, and relative difference in percent."""
    return f"{value - base:+.2f}", f"{100 * (value - base) / base:+.2f} %"


# ---- parts -------------------------------------------------------------------------------------


def float_part(bench: Bench) -> dict[str, float]:
    """Float on xquad.en against the README."""
    score = bench.score("xquad.en", "float", bench.names)
    expected = readme_scores().get("xquad.en")
    print(f"\nfloat, xquad.en: EM {score['em']:.4f}, F1 {score['f1']:.4f} ({score['seconds']:.1f} s)")
    if expected and not bench.arguments.limit:
        worst = max(abs(score["em"] - expected[0]), abs(score["f1"] - expected[1]))
        bench.body["float_against_readme"] = {"expected": expected, "largest_difference": worst}
        if worst > 0.02:
            raise AssertionError(
                f"float scores differ from the checkpoint's README {expected} by {worst:.4f} > 0.02"
            )
    return score


def mix_part(bench: Bench) -> None:
    """For each kind of activation site the method with the least error when it alone is quantized."""
    found = bench.collected.search(bench.ranking, sites=0)
    bench.ranges[MIX] = {name: bench.ranges[found.kinds[kind_of(name)]][name] for name in bench.ranges["max"]}
    bench.body["mix"] = {"chosen": found.kinds, "errors": found.alone}


def methods_part(bench: Bench, float_score: dict[str, float]) -> str:
    """Every method on xquad.en, beside the peers; returns the best."""
    float_f1 = float_score["f1"]
    scores = {method: bench.score("xquad.en", method, []) for method in bench.ranges}
    rows: list[tuple[Any, ...]] = [("qdqbert float", f"{float_score['em']:.2f}", f"{float_f1:.2f}", "", "")]
    for method, score in scores.items():
        rows.append(
            (
                f"qdqbert static int8, all 120 on, {method}",
                f"{score['em']:.2f}",
                f"{score['f1']:.2f}",
                *change(score["f1"], float_f1),
            )
        )
    base = readme_scores().get("xquad.en", (0.0, float_f1))[1]
    rows += [
        (f"peer: {name}", f"{em:.2f}", f"{f1:.2f}", *change(f1, base)) for name, em, f1 in readme_peers()
    ]
    print("\nxquad.en, 1,190 questions")
    print(harness.table(rows, ("method", "EM", "F1", "against float", "relative")), flush=True)
    bench.body["methods"] = scores
    bench.body["peers"] = readme_peers()
    best = max(scores, key=lambda method: scores[method]["f1"])
    bench.body["best"] = best
    return best


def kinds_part(bench: Bench, best: str) -> None:
    """Each kind alone quantized, and all but it."""
    data = bench.part
    float_f1 = bench.score(data, "float", bench.names)["f1"]
    all_on = bench.score(data, best, [])["f1"]
    rows = []
    kept = {}
    for kind in bench.kinds:
        own = [name for name in bench.names if kind_of(name) == kind]
        others = [name for name in bench.names if kind_of(name) != kind]
        alone, without = bench.score(data, best, others)["f1"], bench.score(data, best, own)["f1"]
        kept[kind] = {"alone": alone, "all_but": without}
        rows.append(
            (
                kind,
                len(own),
                f"{alone:.2f}",
                f"{alone - float_f1:+.2f}",
                f"{without:.2f}",
                f"{without - all_on:+.2f}",
            )
        )
    rows.sort(key=lambda row: float(row[3]))
    print(f"\nBy kind of site, {best}, F1 on {data} (float {float_f1:.2f}, all on {all_on:.2f})")
    print(
        harness.table(rows, ("kind", "quantizers", "this alone", "cost", "all but this", "gain")), flush=True
    )
    bench.body["kinds"] = {"data": data, "float": float_f1, "all_on": all_on, "kinds": kept}


class Greedy:
    """Grows the set left in float by the unit that lowers the logit error most."""

    def __init__(self, bench: Bench, best: str, units: Mapping[str, list[str]], width: int) -> None:
        self.bench, self.best, self.units, self.width = bench, best, units, width
        self.chosen: list[str] = []
        bench.use(best)
        self.estimate = {unit: bench.error(names) for unit, names in units.items()}

    def off(self, units: Sequence[str]) -> list[str]:
        """Names of the quantizers of these units."""
        return [name for unit in units for name in self.units[unit]]

    def step(self) -> bool:
        """Add one unit: the best of the `width` that looked best so far; False when all are in."""
        left = [unit for unit in self.units if unit not in self.chosen]
        if not left:
            return False
        self.bench.use(self.best)
        candidates = sorted(left, key=self.estimate.__getitem__)[: self.width]
        for unit in candidates:
            self.estimate[unit] = self.bench.error(self.off([*self.chosen, unit]))
        self.chosen.append(min(candidates, key=self.estimate.__getitem__))
        return True

    def prune(self, holds: Callable[[list[str]], bool]) -> None:
        """Put back what is not needed, the smallest contribution first, one at a time."""
        self.bench.use(self.best)
        cost = {
            unit: self.bench.error(self.off([u for u in self.chosen if u != unit])) for unit in self.chosen
        }
        for unit in sorted(self.chosen, key=cost.__getitem__):
            rest = [u for u in self.chosen if u != unit]
            if rest and holds(rest):
                self.chosen = rest


def greedy_part(bench: Bench, best: str, float_f1: float, by: str) -> Greedy:
    """One greedy search on xquad.en."""
    target = (1 - bench.arguments.relative) * float_f1
    if by == "kind":
        units = {kind: [name for name in bench.names if kind_of(name) == kind] for kind in bench.kinds}
    else:
        units = {name: [name] for name in bench.names}
    greedy = Greedy(bench, best, units, bench.arguments.width)
    bench.body.setdefault("single_errors", {})[by] = dict(greedy.estimate)

    part_target = (1 - bench.arguments.relative) * bench.score(bench.part, "float", bench.names)["f1"]

    def f1(chosen: list[str]) -> float:
        return bench.score("xquad.en", best, greedy.off(chosen))["f1"]

    def reaches(chosen: list[str]) -> bool:
        # A part of the questions rules out most sets in a third of the time.
        part = bench.score(bench.part, best, greedy.off(chosen))["f1"]
        path.append({"left_in_float": list(chosen), "part_f1": part})
        text = f"  {len(chosen):2d}: {bench.part} F1 {part:.2f} ({part_target:.2f} wanted)"
        if part >= part_target - SLACK:
            path[-1]["f1"] = f1(chosen)
            text += f", xquad.en F1 {path[-1]['f1']:.2f} ({target:.2f} wanted)"
        print(text + f"; last {chosen[-1] if chosen else 'none'}", flush=True)
        return float(path[-1].get("f1", 0.0)) >= target

    path: list[dict[str, Any]] = []
    reached = reaches([])
    while not reached and len(greedy.chosen) < bench.arguments.steps and greedy.step():
        reached = reaches(greedy.chosen)
    if reached:
        greedy.prune(reaches)
    off = greedy.off(greedy.chosen)
    final = f1(greedy.chosen)
    print(
        f"left in float by {by}: {len(greedy.chosen)} ({len(off)} of {len(bench.names)} quantizers), "
        f"xquad.en F1 "
        f"{final:.2f}, {100 * (final - float_f1) / float_f1:+.2f} %"
        + ("" if reached else " (target not reached)")
    )
    for unit in greedy.chosen:
        print(f"    {unit}")
    bench.body.setdefault("greedy", {})[by] = {
        "path": path,
        "left_in_float": greedy.chosen,
        "quantizers_off": len(off),
        "f1": final,
        "reached": reached,
    }
    sys.stdout.flush()
    return greedy


def dev_part(bench: Bench, best: str, searches: Mapping[str, Greedy]) -> None:
    """Score the final rows on the whole of dev-v1.1."""
    score = bench.score("dev-v1.1", "float", bench.names)
    float_f1 = score["f1"]
    expected = readme_scores().get("dev-v1.1")
    if expected and not bench.arguments.limit:
        worst = max(abs(score["em"] - expected[0]), abs(score["f1"] - expected[1]))
        bench.body["float_dev_against_readme"] = {"expected": expected, "largest_difference": worst}
        if worst > 0.02:
            raise AssertionError(f"float dev scores differ from the README {expected} by {worst:.4f} > 0.02")
    rows: list[tuple[Any, ...]] = [
        ("float", QUANTIZERS, f"{score['em']:.2f}", f"{float_f1:.2f}", "", "", f"{score['seconds']:.0f}")
    ]
    kept = {"float": score}

    def add(label: str, method: str, off: list[str]) -> float:
        made = bench.score("dev-v1.1", method, off)
        kept[label] = {**made, "method": method, "off": len(off)}
        rows.append(
            (
                label,
                len(off),
                f"{made['em']:.2f}",
                f"{made['f1']:.2f}",
                *change(made["f1"], float_f1),
                f"{made['seconds']:.0f}",
            )
        )
        return made["f1"]

    add(f"all on, {best}", best, [])
    single = max(METHODS_TRIED, key=lambda method: bench.body["methods"][method]["f1"])
    if single != best:
        add(f"all on, {single}", single, [])
    for by, greedy in searches.items():
        if not greedy.chosen:
            continue
        f1 = add(f"{best}, {len(greedy.chosen)} left in float by {by}", best, greedy.off(greedy.chosen))
        for _ in range(bench.arguments.extra):
            if f1 >= (1 - bench.arguments.relative) * float_f1 or not greedy.step():
                break
            f1 = add(
                f"{best}, {len(greedy.chosen)} left in float by {by} (+ {greedy.chosen[-1]})",
                best,
                greedy.off(greedy.chosen),
            )
        kept[f"final set by {by}"] = {"left_in_float": greedy.chosen}
    bench.body["dev"] = kept
    print("\ndev-v1.1, 10,570 questions")
    print(harness.table(rows, ("row", "off", "EM", "F1", "against float", "relative", "s")), flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "ptq_squad.json")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as this process may use")
    parser.add_argument("--samples", type=int, default=128, help="calibration samples")
    parser.add_argument(
        "--stride", type=int, default=3, help="parts of xquad.en are every so-manieth question"
    )
    parser.add_argument("--ranking", type=int, default=32, help="questions of the logit error")
    parser.add_argument("--limit", type=int, default=0, help="first questions of each data set only (0: all)")
    parser.add_argument(
        "--relative", type=float, default=0.01, help="largest relative loss of F1 that is wanted"
    )
    parser.add_argument("--width", type=int, default=8, help="candidates looked at in each greedy step")
    parser.add_argument("--steps", type=int, default=30, help="most greedy steps")
    parser.add_argument("--extra", type=int, default=2, help="most further steps where dev-v1.1 needs them")
    parser.add_argument("--quick", action="store_true", help="parts 1 and 2 only")
    parser.add_argument("--no-dev", action="store_true", help="without part 5")
    parser.add_argument("--resume", action="store_true", help="use the passes kept in the result file")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.limit, arguments.samples, arguments.ranking, arguments.steps, arguments.width = (
            6,
            4,
            4,
            2,
            2,
        )
        arguments.extra, arguments.relative = 1, -1.0

    facts = harness.machine_facts(("tokenizers",))
    harness.print_facts(facts)
    bench = Bench(arguments, facts)
    with bench.timed("float"):
        float_score = float_part(bench)
    float_f1 = float_score["f1"]
    with bench.timed("calibration"):
        bench.calibrate()
    with bench.timed("mix"):
        mix_part(bench)
    with bench.timed("methods"):
        best = methods_part(bench, float_score)
    if not arguments.quick:
        with bench.timed("kinds"):
            kinds_part(bench, best)
        searches = {}
        for by in ("kind", "quantizer"):
            with bench.timed(f"greedy by {by}"):
                searches[by] = greedy_part(bench, best, float_f1, by)
        if not arguments.no_dev:
            with bench.timed("dev"):
                dev_part(bench, best, searches)
    harness.write_json(arguments.json, facts, bench.body)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""One text, one answer: whether the logits of real questions depend on anything but the question.

Two models: minilm-squad on the first window (384 tokens) of the first 1,000 questions of xquad.en, and
topics-tiny on the first 1,000 questions of its test file. Each model is calibrated once (percentile 99.99,
128 samples) and saved; then every kernel variant (QDQBERT_CPU_ISA, a process of its own), with all
quantizers off and with all on, answers the questions

- on one thread, alone;
- on one thread, in batches of eight of similar length;
- on two threads, in batches of sixteen random mates, padded with random ids to the longest window allowed;
- the same with padding "compute": the padding is computed, and must not change the others (a quarter of the
  questions, since it costs twice the time);

and the SHA-256 of each question's logits is compared with that of the strongest variant, one thread, alone.
The figure is the number of questions whose logits differ in any bit. The variants without vector code (ref,
openblas) take many times longer: on minilm-squad they answer the first --slow-float and --slow-quantized
questions alone, questions dealt out over processes of one thread, and a tenth of them in random batches on
two threads. On topics-tiny they answer all.

    python benchmarks/models/bench_bits.py

It takes about 10 minutes; with --slow-float 1000 --slow-quantized 1000 an hour more.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems
from harness import Missing, require, shared

SLOW = ("ref", "openblas")
Text = tuple[NDArray[np.int64], NDArray[np.int64]]  # input_ids, token_type_ids


# ---- the two models and their texts ------------------------------------------------------------


def texts_of(model: str, folder: str, count: int) -> list[Text]:
    """Return the first `count` questions as unpadded model inputs."""
    tokenizer = require("qdqbert.tokenization").load_tokenizer(folder)
    if model == "minilm-squad":
        squad = require("qdqbert.tasks.squad")
        windows = require("qdqbert.tasks.squad_features")
        examples = squad.read_squad(shared("data", "squad", "xquad.en.json")).examples[:count]
        features = windows.features_of(examples, tokenizer, squad.SquadOptions())
        return [(feature[0].input_ids, feature[0].token_type_ids) for feature in features]
    lines = (
        shared("checkpoints", "topics-tiny", "test.tsv")
        .read_text(encoding="utf-8")
        .splitlines()[1 : count + 1]
    )
    encoded = [np.array(tokenizer.encode(line.split("\t")[0]).ids[:64], np.int64) for line in lines]
    return [(ids, np.zeros_like(ids)) for ids in encoded]


def load(model: str, folder: str, threads: int) -> Any:
    """Return the model with its head."""
    head = "QDQBertForQuestionAnswering" if model == "minilm-squad" else "QDQBertForSequenceClassification"
    return systems.qdqbert_model(folder, threads, head)


def pad(texts: Sequence[Text], length: int) -> systems.Inputs:
    """Return a batch padded on the right to `length`; padded ids are random, so that a leak would show."""
    rng = np.random.default_rng(len(texts) * 1000 + length)
    ids = rng.integers(0, 1000, (len(texts), length), dtype=np.int64)
    mask = np.zeros((len(texts), length), np.int64)
    types = rng.integers(0, 2, (len(texts), length), dtype=np.int64)
    for row, (input_ids, token_types) in enumerate(texts):
        ids[row, : len(input_ids)] = input_ids
        types[row, : len(input_ids)] = token_types
        mask[row, : len(input_ids)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def batches_of(
    texts: Sequence[Text], which: Sequence[int], batch: str, longest: int
) -> Iterator[tuple[list[int], int]]:
    """Yield indices of each batch, and the length that it is padded to."""
    order = list(which)
    if batch == "alone":
        for index in order:
            yield [index], len(texts[index][0])
    elif batch == "similar":
        order.sort(key=lambda index: len(texts[index][0]))
        for start in range(0, len(order), 8):
            part = order[start : start + 8]
            yield part, max(len(texts[index][0]) for index in part)
    else:
        random.Random(7).shuffle(order)
        for start in range(0, len(order), 16):
            yield order[start : start + 16], longest


# ---- one combination, in its own process -------------------------------------------------------


def run_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Hashes of the logits of the questions in ``plan["which"]``, by index."""
    texts = texts_of(plan["model"], plan["folder"], plan["count"])
    model = load(plan["model"], plan["folder"], plan["threads"])
    model.padding = plan["padding"]
    longest = 384 if plan["model"] == "minilm-squad" else 64
    hashes: dict[str, str] = {}
    finite = True
    started = time.perf_counter()
    off = systems.quantizers_off(model) if not plan["quantized"] else None
    if off is not None:
        off.__enter__()
    for part, length in batches_of(texts, plan["which"], plan["batch"], longest):
        out = model(**pad([texts[index] for index in part], length))
        sides = (out.start_logits, out.end_logits) if plan["model"] == "minilm-squad" else (out.logits,)
        for row, index in enumerate(part):
            kept = len(texts[index][0]) if plan["model"] == "minilm-squad" else None
            values = [np.ascontiguousarray(np.asarray(side)[row][:kept]) for side in sides]
            finite = finite and all(bool(np.isfinite(value).all()) for value in values)
            hashes[str(index)] = hashlib.sha256(b"".join(value.tobytes() for value in values)).hexdigest()[
                :16
            ]
    if not finite:
        raise AssertionError(f"{plan['name']}: a logit is not finite")
    return {"hashes": hashes, "seconds": time.perf_counter() - started}


def in_process(plan: dict[str, Any]) -> dict[str, Any]:
    """`run_plan` in a fresh Python with its kernel variant and threads."""
    environment = dict(os.environ, QDQBERT_CPU_ISA=plan["isa"], TOKENIZERS_PARALLELISM="false")
    environment.update(dict.fromkeys(harness.THREAD_VARIABLES[:3], str(plan["threads"])))
    done = subprocess.run(
        [sys.executable, __file__, "--plan"],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{plan['name']}: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# ---- all combinations --------------------------------------------------------------------------


def plans_of(
    model: str, folder: str, count: int, arguments: Any, variants: Sequence[str]
) -> list[dict[str, Any]]:
    """Every combination; the first two (float, quantized) are what the others are compared with."""
    fast = [name for name in variants if name not in SLOW]
    slow = [name for name in variants if name in SLOW]
    everything = list(range(count))
    plans: list[dict[str, Any]] = []

    def add(
        quantized: bool, isa: str, threads: int, batch: str, padding: str, which: list[int], shards: int = 1
    ) -> None:
        if isa == "openblas" and not quantized:
            return  # that variant replaces the integer product alone: its float forward is ref's
        arithmetic = "quantized" if quantized else "float"
        for shard in range(shards):
            plans.append(
                {
                    "name": f"{isa}, {threads} thread{'s' * (threads > 1)}, {batch}, {padding}, {arithmetic}",
                    "model": model,
                    "folder": folder,
                    "count": count,
                    "isa": isa,
                    "threads": threads,
                    "batch": batch,
                    "padding": padding,
                    "quantized": quantized,
                    "which": which[shard::shards],
                }
            )

    for isa in reversed(fast):
        for threads, batch, padding in (
            (1, "alone", "skip"),
            (1, "similar", "skip"),
            (2, "random", "skip"),
            (2, "random", "compute"),
        ):
            for quantized in (False, True):
                which = everything[: max(1, count // 4)] if padding == "compute" else everything
                add(quantized, isa, threads, batch, padding, which)
    for isa in reversed(slow):
        for quantized in (False, True):
            limit = arguments.slow_quantized if quantized else arguments.slow_float
            which = everything if model == "topics-tiny" else everything[:limit]
            add(quantized, isa, 1, "alone", "skip", which, shards=arguments.jobs)
            add(quantized, isa, 2, "random", "skip", which[: max(1, len(which) // 10)])
    return plans


def prepare(model: str, folder: pathlib.Path) -> dict[str, Any]:
    """Calibrate the checkpoint and save it; run in a child so that the parent stays small."""
    source = shared("checkpoints", model)
    tokenizer = require("qdqbert.tokenization").load_tokenizer(source)
    loaded = load(model, str(source), 0)
    if model == "minilm-squad":
        squad = require("qdqbert.tasks.squad")
        examples = squad.read_squad(shared("data", "squad", "train-du44-v1.1.json")).examples
        batches = list(squad.calibration_batches(examples, tokenizer, samples=128))
    else:
        lines = shared("checkpoints", model, "train.tsv").read_text(encoding="utf-8").splitlines()[1:129]
        texts = [np.array(tokenizer.encode(line.split("\t")[0]).ids[:64], np.int64) for line in lines]
        batches = [{"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]} for ids in texts]
    require("qdqbert").calibrate(loaded, batches, method="percentile", percentile=99.99)
    loaded.save_pretrained(folder)
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).exists() and not (folder / name).exists():
            (folder / name).write_bytes((source / name).read_bytes())
    variants = [name for name, supported in require("qdqbert._core").variants() if supported]
    return {"variants": variants, "quantizers": systems.quantizer_count(loaded)}


def run_model(
    model: str, arguments: Any, folder: pathlib.Path, missing: dict[str, str]
) -> dict[str, Any] | None:
    """All combinations of one model; prints a line per combination."""
    try:
        with harness.Worker(
            "prepare", _prepare_worker, {"model": model, "folder": str(folder)}, threads=arguments.jobs
        ) as worker:
            facts = worker.facts
    except Missing as error:
        missing[model] = str(error)
        print(f"# missing: {model}: {error}")
        return None
    variants = [
        name for name in facts["variants"] if arguments.variants is None or name in arguments.variants
    ]
    count = min(arguments.limit, 1190 if model == "minilm-squad" else 1500)
    plans = plans_of(model, str(folder), count, arguments, variants)
    print(
        f"\n{model}: {count} questions, {facts['quantizers']} quantizers, variants {', '.join(variants)}, "
        f"{len(plans)} runs",
        flush=True,
    )
    # Single-threaded runs go side by side; those with two threads have the machine to themselves.
    results: dict[int, dict[str, Any]] = {}
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {
            pool.submit(in_process, plan): number for number, plan in enumerate(plans) if plan["threads"] == 1
        }
        for future in concurrent.futures.as_completed(futures):
            results[futures[future]] = future.result()
    for number, plan in enumerate(plans):
        if number not in results:
            results[number] = in_process(plan)
    if [plan["quantized"] for plan in plans[:2]] != [False, True]:
        raise SystemExit(
            "the first two runs must be the float and the quantized base: give a vector variant too"
        )
    base = {quantized: results[index]["hashes"] for index, quantized in ((0, False), (1, True))}
    if base[False] == base[True]:
        raise AssertionError(f"{model}: quantized and float logits are the same: the quantizers were not on")
    rows: dict[str, dict[str, Any]] = {}
    for number, plan in enumerate(plans):
        row = rows.setdefault(plan["name"], {"questions": 0, "differing": 0, "cpu_s": 0.0})
        hashes = results[number]["hashes"]
        row["questions"] += len(hashes)
        row["differing"] += sum(base[plan["quantized"]][index] != value for index, value in hashes.items())
        row["cpu_s"] += results[number]["seconds"]
    print(
        harness.table(
            [(name, row["questions"], row["differing"], f"{row['cpu_s']:.1f}") for name, row in rows.items()],
            ("variant, threads, batch, padding, arithmetic", "questions", "differing", "s"),
        )
    )
    total = sum(row["differing"] for row in rows.values())
    answers = sum(row["questions"] for row in rows.values())
    print(f"{model}: {total} of {answers} answers differ", flush=True)
    digests = {
        ("quantized" if quantized else "float"): hashlib.sha256(
            "".join(base[quantized][str(index)] for index in range(count)).encode()
        ).hexdigest()
        for quantized in (False, True)
    }
    return {
        "questions": count,
        "answers": answers,
        "differing": total,
        "rows": rows,
        "digest_of_all": digests,
        **facts,
    }


def _prepare_worker(model: str, folder: str) -> tuple[Any, dict[str, Any]]:
    return (lambda: None), prepare(model, pathlib.Path(folder))


def main() -> None:
    """Run the benchmark, or one combination of it when called by itself."""
    if sys.argv[1:] == ["--plan"]:
        print(json.dumps(run_plan(json.load(sys.stdin))))
        return
    parser = harness.parser(__doc__, "bits.json")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["topics-tiny", "minilm-squad"],
        choices=("topics-tiny", "minilm-squad"),
    )
    parser.add_argument("--limit", type=int, default=1000, help="questions")
    parser.add_argument(
        "--slow-float", type=int, default=20, help="questions of minilm-squad in float on ref"
    )
    parser.add_argument(
        "--slow-quantized", type=int, default=200, help="the same quantized, on ref and openblas"
    )
    parser.add_argument("--variants", nargs="+", help="default: all that this CPU runs")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes side by side"
    )
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.limit, arguments.slow_float, arguments.slow_quantized = 12, 1, 2

    facts = harness.machine_facts(("tokenizers",))
    harness.print_facts(facts)
    missing: dict[str, str] = {}
    body: dict[str, Any] = {"missing": missing, "models": {}}
    failed = 0
    for model in arguments.models:
        with tempfile.TemporaryDirectory(prefix="qdqbert-bits-") as name:
            result = run_model(model, arguments, pathlib.Path(name), missing)
        if result is not None:
            body["models"][model] = result
            failed += result["differing"]
    harness.write_json(arguments.json, facts, body)
    if failed:
        raise SystemExit(f"{failed} answers differ")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A frozen model from its int8 checkpoint beside the float one: bytes on disk, memory, first answer.

BERT-base of random weights is calibrated on random tokens and saved twice: as floats with ranges, and frozen
as int8 codes.  Each row is a fresh process that has imported the package and the C core: resident size above
that moment after `from_pretrained` and one answer to 16 tokens, and the time of the two together, with the
files in the page cache.  Both kinds, and a model that is frozen in the process, take turns.  The logits of
all must have equal bits before a figure counts.

A mapped file counts the pages that were read as resident; `anonymous` leaves them out.

    python benchmarks/startup/bench_frozen.py [--processes 5] [--shape base] [--threads 2]
"""

from __future__ import annotations

import hashlib
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import harness
import systems

KINDS = {
    "float": ("float", False, "quantized, floats in memory"),
    "int8": ("int8", False, "int8 checkpoint"),
    "freeze": ("float", True, "quantized, then model.freeze()"),
}
TOKENS = 16


def tokens(vocabulary: int, rows: int = 1) -> Any:
    """Return reproducible ids."""
    return np.random.default_rng(1).integers(1, vocabulary, (rows, TOKENS))


def write_both(folder: pathlib.Path, shape: str) -> dict[str, int]:
    """Save the calibrated model twice; bytes of the weights."""
    qdqbert = harness.require("qdqbert")
    plain = systems.write_checkpoint(folder / "plain", shape, head="question_answering")
    model = qdqbert.QDQBertForQuestionAnswering.from_pretrained(plain)
    batches = [{"input_ids": tokens(model.config.vocab_size, 4)}]
    qdqbert.calibrate(model, batches, method="max")
    model.save_pretrained(folder / "float")
    model.freeze()
    model.save_pretrained(folder / "int8")
    return {kind: (folder / kind / "model.safetensors").stat().st_size for kind in ("float", "int8")}


def first_answer(folder: str, freezes: bool, threads: int) -> tuple[Any, dict[str, Any]]:
    """Load and answer once, in a fresh process."""
    qdqbert = harness.require("qdqbert")
    kind = qdqbert.QDQBertForQuestionAnswering
    device = qdqbert.Device(num_threads=threads)
    before = harness.rss_bytes()
    started = time.perf_counter()
    model = kind.from_pretrained(folder, device=device)
    loaded = time.perf_counter()
    if freezes:
        model.freeze()
    out = model(tokens(model.config.vocab_size))
    answered = time.perf_counter()
    after = harness.rss_bytes()
    logits = np.stack([out.start_logits, out.end_logits])
    return (lambda: None), {
        "load_s": loaded - started,
        "answer_s": answered - started,
        "resident": after["VmRSS"] - before["VmRSS"],
        "anonymous": after["RssAnon"] - before["RssAnon"],
        "peak": after["VmHWM"] - before["VmRSS"],
        "sha256": hashlib.sha256(logits.tobytes()).hexdigest(),
    }


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "frozen.json")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes of each kind, in turns")
    parser.add_argument("--shape", choices=sorted(systems.SHAPES), default="base")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.processes, arguments.shape = 1, "tiny"
    facts = harness.machine_facts(("safetensors",))
    harness.print_facts(facts)
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="qdqbert-frozen-") as name:
        folder = pathlib.Path(name)
        sizes = write_both(folder, arguments.shape)
        for turn in range(-1, arguments.processes):  # the first fills the file cache
            for kind, (saved, freezes, _) in KINDS.items():
                options = {
                    "folder": str(folder / saved),
                    "freezes": freezes,
                    "threads": arguments.threads,
                }
                with harness.Worker(kind, first_answer, options, threads=arguments.threads) as worker:
                    if turn >= 0:
                        runs[kind].append(worker.facts)
    digests = {run["sha256"] for each in runs.values() for run in each}
    if len(digests) != 1:
        raise AssertionError(f"logits differ: {digests}")
    body: dict[str, Any] = {"file_bytes": sizes, "shape": arguments.shape, "kinds": {}}
    lines = []
    for kind, (saved, _, text) in KINDS.items():
        keys = ("load_s", "answer_s", "resident", "anonymous", "peak")
        entry = {key: harness.summary([run[key] for run in runs[kind]]) for key in keys}
        body["kinds"][kind] = entry
        lines.append(
            (
                text,
                f"{sizes[saved] / 1e6:.1f}",
                harness.milliseconds(entry["load_s"]["p50"]),
                harness.milliseconds(entry["answer_s"]["min"]),
                harness.milliseconds(entry["answer_s"]["p50"]),
                f"{entry['resident']['p50'] / 1e6:.0f}",
                f"{entry['anonymous']['p50'] / 1e6:.0f}",
                f"{entry['peak']['p50'] / 1e6:.0f}",
            )
        )
    print(f"\nFirst answer of {arguments.shape} to {TOKENS} tokens, {arguments.threads} threads; ms and MB")
    header = ("model", "file", "load", "answer min", "p50", "resident", "anonymous", "peak")
    print(harness.table(lines, header))
    harness.write_json(arguments.json, facts, body)


if __name__ == "__main__":
    main()

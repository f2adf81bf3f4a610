# SPDX-License-Identifier: Apache-2.0
"""Two callers of one int8 model, each with one thread, beside one: what serving gets from the second core.

A model of random weights, calibrated on the same tokens, on a device of one thread; Python threads call it as
fast as they can, each with inputs of its own. One caller and two take turns, for some seconds in all. Before
anything is timed, two callers at once must give the logits of one, bit for bit.

    python benchmarks/models/bench_concurrent.py [--models base minilm] [--rounds 12]
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems

SHAPES = ((1, 16), (1, 128))
CALLERS = 2


def answers(model: Any, inputs: list[dict[str, Any]]) -> list[str]:
    """Return the digests of one answer to each of some inputs, all asked at once."""
    found = [""] * len(inputs)
    start = threading.Barrier(len(inputs))

    def ask(i: int) -> None:
        start.wait()
        found[i] = systems.digest(np.asarray(model(**inputs[i])[0]))

    callers = [threading.Thread(target=ask, args=(i,)) for i in range(len(inputs))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return found


def calls_per_second(model: Any, inputs: list[dict[str, Any]], seconds: float) -> float:
    """Return how many calls a second the callers, one for each input, make together."""
    start = threading.Barrier(len(inputs) + 1)
    made = [0] * len(inputs)
    spent = [0.0] * len(inputs)

    def call(i: int) -> None:
        start.wait()
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            model(**inputs[i])
            made[i] += 1
        spent[i] = time.perf_counter() - begin

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(inputs))]
    for caller in callers:
        caller.start()
    start.wait()
    for caller in callers:
        caller.join()
    return sum(count / taken for count, taken in zip(made, spent, strict=True))


def measure(model: Any, shape: str, batch: tuple[int, int], rounds: int, seconds: float) -> dict[str, Any]:
    """Check and time one batch."""
    inputs = [systems.make_inputs(shape, *batch, seed=seed) for seed in range(1, CALLERS + 1)]
    alone = [answers(model, [one])[0] for one in inputs]
    if answers(model, inputs) != alone:
        raise SystemExit(f"{shape} {batch}: two callers at once get other logits than one")
    rates: dict[int, list[float]] = {1: [], CALLERS: []}
    for _ in range(rounds):
        for callers in rates:
            rates[callers].append(calls_per_second(model, inputs[:callers], seconds))
    ratios = [two / one for one, two in zip(rates[1], rates[CALLERS], strict=True)]
    return {
        "model": shape,
        "batch": list(batch),
        "calls_per_second": {str(callers): sorted(found) for callers, found in rates.items()},
        "ratio": {
            "median": statistics.median(ratios),
            "of_best": max(rates[CALLERS]) / max(rates[1]),
            "all": ratios,
        },
    }


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "concurrent.json")
    parser.add_argument("--models", nargs="+", default=["base", "minilm"])
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    models = ["tiny"] if arguments.smoke else arguments.models
    facts = harness.machine_facts()
    harness.print_facts(facts)
    qdqbert = harness.require("qdqbert")
    rows = []
    for shape in models:
        with tempfile.TemporaryDirectory(prefix="qdqbert-bench-") as folder:
            model = systems.qdqbert_model(str(systems.write_checkpoint(pathlib.Path(folder), shape)), 1)
        qdqbert.calibrate(model, [systems.make_inputs(shape, 1, 128)], method="max")
        for batch in SHAPES:
            smoke = arguments.smoke
            rows.append(
                measure(model, shape, batch, 2 if smoke else arguments.rounds, 0.02 if smoke else 0.4)
            )
    harness.write_json(arguments.json, facts, {"rows": rows})
    lines = [
        (
            f"{row['model']} {tuple(row['batch'])}",
            f"{row['calls_per_second']['1'][-1]:.1f}",
            f"{row['calls_per_second'][str(CALLERS)][-1]:.1f}",
            f"{row['ratio']['median']:.2f}",
            f"{row['ratio']['of_best']:.2f}",
        )
        for row in rows
    ]
    header = ("batch", "calls/s, one caller", "two callers", "ratio, median", "of the best")
    print(harness.table(lines, header))


if __name__ == "__main__":
    main()

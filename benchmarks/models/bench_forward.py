# SPDX-License-Identifier: Apache-2.0
"""Forward pass of a BERT encoder: qdqbert float and simulated beside PyTorch and ONNX Runtime fp32.

Same random weights and inputs for all. Before anything is timed, every float system must agree with
PyTorch's (largest absolute difference of the last hidden state, --tolerance), qdqbert's bits must not
depend on the number of threads, and the simulated forward must be near the float one (it is an 8-bit
approximation: relative RMS below 0.25).

The simulated forward has every quantizer on, calibrated by max on the timed inputs.

    python benchmarks/models/bench_forward.py            about 6 minutes, 4 GB
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems
from harness import Missing, Worker

ALL = ("qdqbert", "qdqbert-simulated", "torch-sdpa", "torch-eager", "torch-compile", "onnxruntime")
DEFAULT = ("qdqbert", "qdqbert-simulated", "torch-sdpa", "torch-eager", "onnxruntime")


def start(name: str, folder: pathlib.Path, shape: str, inputs: systems.Inputs, threads: int) -> Worker:
    """Return the worker of one system; `Missing` if it cannot run here."""
    common: dict[str, Any] = {"inputs": inputs, "threads": threads}
    if name.startswith("qdqbert"):
        arguments = {"folder": str(folder), "quantized": name.endswith("simulated"), **common}
        return Worker(name, systems.ours, arguments, threads=threads)
    if name.startswith("torch"):
        arguments = {"folder": str(folder), "variant": name.partition("-")[2], **common}
        return Worker(name, systems.torch_fp32, arguments, threads=threads)
    with Worker(
        "export", systems.export_in_child, {"folder": str(folder), "shape": shape, "fused": True}
    ) as export:
        path = export.facts["path"]
    return Worker(name, systems.onnxruntime_fp32, {"path": path, **common}, threads=threads)


def check(workers: list[Worker], tolerance: float) -> dict[str, Any]:
    """Compare outputs; raise when a float system is off by more than `tolerance`."""
    outputs = {worker.name: np.asarray(worker.ask("output"), np.float32) for worker in workers}
    reference = next(
        name for name in ("torch-eager", "torch-sdpa", "onnxruntime", "qdqbert") if name in outputs
    )
    errors: dict[str, Any] = {"reference": reference}
    for name, output in outputs.items():
        if output.shape != outputs[reference].shape:
            raise AssertionError(
                f"{name}: output {output.shape}, {reference} gives {outputs[reference].shape}"
            )
        difference = output.astype(np.float64) - outputs[reference]
        worst = float(np.abs(difference).max())
        rms = float(np.sqrt(np.mean(difference**2) / np.mean(outputs[reference].astype(np.float64) ** 2)))
        errors[name] = {"max_abs": worst, "relative_rms": rms}
        if name.endswith("simulated"):
            if not rms < 0.25:
                raise AssertionError(
                    f"{name}: relative RMS error {rms:.3g} against {reference}, expected < 0.25"
                )
        elif not worst <= tolerance:
            raise AssertionError(
                f"{name}: differs from {reference} by {worst:.3g}, expected <= {tolerance:g}"
            )
    return errors


def measure(
    arguments: Any, folder: pathlib.Path, batch: int, length: int, threads: int, peak: Any
) -> dict[str, Any]:
    """One row: all systems at one shape and one thread count."""
    inputs = systems.make_inputs(arguments.shape, batch, length)
    workers: list[Worker] = []
    missing: dict[str, str] = {}
    try:
        for name in arguments.systems:
            try:
                workers.append(start(name, folder, arguments.shape, inputs, threads))
            except Missing as error:
                missing[name] = str(error)
                print(f"# missing: {name}: {error}")
        if not workers:
            raise SystemExit("no system could be started")
        errors = check(workers, arguments.tolerance)
        turns = harness.interleave(
            workers, rounds=arguments.rounds, turn_s=arguments.turn, peak=peak, peak_threads=threads
        )
    finally:
        for worker in workers:
            worker.close()
    size = systems.SHAPES[arguments.shape]
    operations = harness.bert_operations(
        batch * length, [length] * batch, size["layers"], size["hidden"], size["intermediate"], pooled=batch
    )
    rates = turns["peak"]
    row: dict[str, Any] = {
        "batch": batch,
        "length": length,
        "threads": threads,
        "operations": operations,
        "peak_gflops": harness.summary(rates) if rates else None,
        "errors": errors,
        "missing": missing,
        "systems": {},
    }
    for worker in workers:
        times = [seconds for turn in turns["times"][worker.name] for seconds in turn]
        entry: dict[str, Any] = {"seconds": harness.summary(times), "cpu_per_wall": turns["cpu"][worker.name]}
        entry["facts"] = worker.facts
        if rates:
            entry["percent_of_peak"] = 100 * operations / entry["seconds"]["min"] / (max(rates) * 1e9)
        if worker.name != "qdqbert" and "qdqbert" in turns["times"]:
            entry["time_over_qdqbert"] = harness.paired_ratio(
                turns["times"][worker.name], turns["times"]["qdqbert"]
            )
        row["systems"][worker.name] = entry
    return row


def show(row: dict[str, Any]) -> None:
    """One row as a table."""
    rate = f", peak {row['peak_gflops']['max']:.0f} GF/s" if row["peak_gflops"] else ""
    print(
        f"\n({row['batch']},{row['length']}), {row['threads']} thread(s), "
        f"{row['operations'] * 1e-9:.1f} GFLOP{rate}; ms"
    )
    lines = []
    for name, entry in row["systems"].items():
        seconds = entry["seconds"]
        ratio = entry.get("time_over_qdqbert")
        lines.append(
            (
                name,
                *(harness.milliseconds(seconds[key]) for key in ("min", "p50", "p90")),
                seconds["n"],
                f"{entry['percent_of_peak']:.0f} %" if "percent_of_peak" in entry else "-",
                f"{ratio['p50']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})" if ratio else "1",
                f"{ratio['min']:.2f}" if ratio else "1",
                f"{entry['cpu_per_wall']:.2f}",
                f"{row['errors'][name]['max_abs']:.1e}",
            )
        )
    print(
        harness.table(
            lines,
            (
                "system",
                "min",
                "p50",
                "p90",
                "n",
                "of peak",
                "time / qdqbert: p50 (p10-p90)",
                "of minima",
                "cores",
                f"max diff to {row['errors']['reference']}",
            ),
        )
    )
    sys.stdout.flush()


def same_bits(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Qdqbert's outputs must not depend on the thread count; raises if they do."""
    seen: dict[tuple[str, int, int], set[str]] = {}
    for row in rows:
        for name, entry in row["systems"].items():
            if "sha256" in entry["facts"]:
                seen.setdefault((name, row["batch"], row["length"]), set()).add(entry["facts"]["sha256"])
    for (name, batch, length), hashes in seen.items():
        if len(hashes) != 1:
            raise AssertionError(
                f"{name} ({batch},{length}): bits depend on the number of threads: {sorted(hashes)}"
            )
    return {f"{name} ({batch},{length})": hashes.pop() for (name, batch, length), hashes in seen.items()}


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "forward.json")
    parser.add_argument("--shape", choices=sorted(systems.SHAPES), default="base")
    parser.add_argument("--rows", nargs="+", default=["1x128", "8x128"], metavar="BxT", help="batch x length")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--systems", nargs="+", choices=ALL, default=list(DEFAULT))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--turn", type=float, default=0.4, help="seconds of timed calls per turn")
    parser.add_argument(
        "--tolerance", type=float, default=2e-4, help="largest difference between float systems"
    )
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shape, arguments.rows, arguments.rounds, arguments.turn = "tiny", ["1x16", "3x32"], 2, 0.02

    facts = harness.machine_facts(("torch", "transformers", "onnxruntime", "onnx"))
    harness.print_facts(facts)
    peak = harness.open_peak()
    rows = []
    with tempfile.TemporaryDirectory(prefix="qdqbert-bench-") as name:
        folder = systems.write_checkpoint(pathlib.Path(name) / "bert", arguments.shape)
        for text in arguments.rows:
            batch, length = (int(part) for part in text.split("x"))
            for threads in arguments.threads:
                row = measure(arguments, folder, batch, length, threads, peak)
                show(row)
                rows.append(row)
    hashes = same_bits(rows)
    print(f"\nqdqbert gives the same bits with every thread count: {hashes}")
    harness.write_json(arguments.json, facts, {"shape": arguments.shape, "rows": rows, "sha256": hashes})


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What calibration costs: time over a float forward on the same samples, and peak memory by batches.

Three parts, each of which can be left out:

time
    One turn is a whole pass over the samples: qdqbert float forward, calibrate(max), calibrate(percentile);
    ONNX Runtime forward (unfused graph, as its calibrator needs it), its MinMax and its Percentile. The
    factor of a calibration is its time over the forward of the *same* system. qdqbert alone is timed on
    more samples, in batches of one and of eight.
memory
    A fresh process per method and number of batches: load, one forward, then calibrate; peak resident size
    during the calibration less the resident size before it.
nncf
    nncf.quantize(ModelType.TRANSFORMER) on the OpenVINO model, once, against OpenVINO's forward on the same
    samples. It is the whole of NNCF's quantization (statistics and bias correction): it has no smaller
    unit.

Before anything is timed: every input quantizer has an amax; max over all batches equals, bit for bit, max
over the same samples in another split; a percentile is not above its maximum.

    python benchmarks/calibration/bench_calibration.py            about 8 minutes, 7 GB
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems
from harness import Call, Missing, Worker, require

PERCENTILE = 99.99


def samples(shape: str, count: int, batch: int, length: int) -> list[systems.Inputs]:
    """`count` sequences in batches of `batch`; the same sequences whatever the batch is."""
    whole = systems.make_inputs(shape, count, length)
    return [{name: value[i : i + batch] for name, value in whole.items()} for i in range(0, count, batch)]


# ---- qdqbert -----------------------------------------------------------------------------------


def amaxes(model: Any) -> dict[str, float]:
    """Range of every activation quantizer, by name."""
    found = {}
    for name, module in model.named_modules():
        if name.endswith("_input_quantizer"):
            if module.amax is None:
                raise AssertionError(f"{name} has no amax after calibration")
            found[name] = float(np.asarray(module.amax))
    return found


def calibrate(model: Any, batches: Sequence[systems.Inputs], method: str) -> None:
    """Calibrate by the short form of the package."""
    options = {"percentile": PERCENTILE} if method == "percentile" else {}
    require("qdqbert").calibrate(model, batches, method=method, **options)


def check_ours(folder: str, shape: str, length: int) -> tuple[Call, dict[str, Any]]:
    """Check what must hold before calibration is timed."""
    model = systems.qdqbert_model(folder, 1)
    calibrate(model, samples(shape, 6, 1, length), "max")
    single = amaxes(model)
    calibrate(model, samples(shape, 6, 4, length), "max")
    split = amaxes(model)
    if single != split:
        raise AssertionError("max calibration depends on how the samples are split into batches")
    calibrate(model, samples(shape, 6, 4, length), "percentile")
    above = [name for name, value in amaxes(model).items() if value > single[name] * (1 + 1e-3)]
    if above:
        raise AssertionError(f"percentile ranges above the maximum: {above[:3]}")
    return (lambda: None), {"quantizers": len(single)}


def ours(
    folder: str, batches: list[systems.Inputs], threads: int, method: str
) -> tuple[Call, dict[str, Any]]:
    """One pass over the batches: a float forward (method "forward") or a calibration."""
    model = systems.qdqbert_model(folder, threads)
    if method == "forward":
        block = systems.quantizers_off(model)
        block.__enter__()

        def call() -> None:
            for batch in batches:
                model(**batch)

        call.block = block  # type: ignore[attr-defined]
    else:

        def call() -> None:
            calibrate(model, batches, method)

    return call, systems.device_facts(model)


def ours_memory(
    folder: str, batches: list[systems.Inputs], threads: int, method: str
) -> tuple[Call, dict[str, Any]]:
    """Peak memory of one calibration, above what the loaded model that has run once holds."""
    model = systems.qdqbert_model(folder, threads)
    with systems.quantizers_off(model):
        model(**batches[0])
    return (lambda: None), memory_of(lambda: calibrate(model, batches, method))


def memory_of(work: Call) -> dict[str, Any]:
    """Resident size before `work`, and the peak during it."""
    resettable = harness.reset_peak_rss()
    before = harness.rss_bytes()["VmRSS"]
    work()
    return {"before": before, "peak": harness.rss_bytes()["VmHWM"], "peak_was_reset": resettable}


# ---- ONNX Runtime ------------------------------------------------------------------------------


def _calibrator(path: str, method: str, folder: str) -> Any:
    calibrate_module = require("onnxruntime.quantization.calibrate", "onnxruntime onnx")
    methods = {
        "MinMax": calibrate_module.CalibrationMethod.MinMax,
        "Percentile": calibrate_module.CalibrationMethod.Percentile,
        "Entropy": calibrate_module.CalibrationMethod.Entropy,
    }
    options: dict[str, Any] = {"symmetric": True}
    if method == "Percentile":
        options["percentile"] = PERCENTILE
    augmented = str(pathlib.Path(folder) / f"augmented-{method}.onnx")
    return calibrate_module.create_calibrator(
        path,
        ["MatMul", "Gemm"],
        augmented_model_path=augmented,
        calibrate_method=methods[method],
        extra_options=options,
    )


class _Reader:
    """The calibration data reader that onnxruntime asks for: one feed at a time, then None."""

    def __init__(self, feeds: Sequence[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next feed."""
        return next(self._feeds, None)


def _collect(calibrator: Any, feeds: Sequence[dict[str, Any]]) -> None:
    """One calibration from nothing."""
    calibrator.intermediate_outputs = []
    calibrator.calibrate_tensors_range = None
    calibrator.collector = None
    calibrator.collect_data(_Reader(feeds))
    if not calibrator.compute_data().data:
        raise AssertionError("onnxruntime's calibrator returned no range")


def onnxruntime_forward(
    path: str, batches: list[systems.Inputs], threads: int
) -> tuple[Call, dict[str, Any]]:
    """One pass of forward calls."""
    session = systems.onnxruntime_session(path, threads)
    feeds = [systems.onnx_feed(session, batch) for batch in batches]

    def call() -> None:
        for feed in feeds:
            session.run(None, feed)

    return call, {}


def onnxruntime_calibration(
    path: str, batches: list[systems.Inputs], method: str, memory: bool
) -> tuple[Call, dict[str, Any]]:
    """One pass that calibrates all MatMul and Gemm activations.

    The calibrator makes its own session with as many threads as the process may use.
    """
    with tempfile.TemporaryDirectory(prefix="qdqbert-ort-") as folder:
        started = time.perf_counter()
        calibrator = _calibrator(path, method, folder)
        facts: dict[str, Any] = {"set_up_s": time.perf_counter() - started}
    feeds = [systems.onnx_feed(calibrator.infer_session, batch) for batch in batches]
    if memory:
        calibrator.infer_session.run(None, feeds[0])
        facts.update(memory_of(lambda: _collect(calibrator, feeds)))
        return (lambda: None), facts
    return (lambda: _collect(calibrator, feeds)), facts


# ---- NNCF --------------------------------------------------------------------------------------


def nncf_once(path: str, batches: list[systems.Inputs], threads: int) -> tuple[Call, dict[str, Any]]:
    """nncf.quantize once, and OpenVINO's float forward on the same samples before and after it."""
    openvino = require("openvino")
    nncf = require("nncf")
    nncf.set_log_level(40)
    core = openvino.Core()
    model = core.read_model(path)
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(model, "CPU", settings)
    compiled(batches[0])

    def forward() -> float:
        started = time.perf_counter()
        for batch in batches:
            compiled(batch)
        return time.perf_counter() - started

    forwards = [forward()]
    harness.reset_peak_rss()
    before = harness.rss_bytes()["VmRSS"]
    started = time.perf_counter()
    nncf.quantize(
        model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches)
    )
    seconds = time.perf_counter() - started
    peak = harness.rss_bytes()["VmHWM"]
    forwards.append(forward())
    facts = {"forward_s": forwards, "quantize_s": seconds, "before": before, "peak": peak}
    return (lambda: None), facts


# ---- parts -------------------------------------------------------------------------------------


def try_worker(
    name: str, missing: dict[str, str], factory: Any, arguments: dict[str, Any], threads: int
) -> Worker | None:
    """Return a worker, or None with the reason printed and kept."""
    try:
        return Worker(name, factory, arguments, threads=threads)
    except Missing as error:
        missing[name] = str(error)
        print(f"# missing: {name}: {error}")
        return None


def export(folder: pathlib.Path, shape: str, missing: dict[str, str]) -> str | None:
    """Return the unfused ONNX file, or None."""
    worker = try_worker(
        "onnx export",
        missing,
        systems.export_in_child,
        {"folder": str(folder), "shape": shape, "fused": False},
        1,
    )
    if worker is None:
        return None
    with worker:
        return str(worker.facts["path"])


def time_part(
    arguments: Any, folder: pathlib.Path, graph: str | None, missing: dict[str, str], count: int, batch: int
) -> dict[str, Any]:
    """Interleaved passes over the same samples; beside the peers if there is a `graph`."""
    batches = samples(arguments.shape, count, batch, arguments.length)
    threads = arguments.threads
    own = {"folder": str(folder), "batches": batches, "threads": threads}
    plan: list[tuple[str, Any, dict[str, Any]]] = [
        (f"qdqbert {method}", ours, {**own, "method": method}) for method in ("forward", *arguments.methods)
    ]
    if graph is not None:
        theirs = {"path": graph, "batches": batches}
        plan.append(("onnxruntime forward", onnxruntime_forward, {**theirs, "threads": threads}))
        plan += [
            (f"onnxruntime {method}", onnxruntime_calibration, {**theirs, "method": method, "memory": False})
            for method in ("MinMax", "Percentile")
        ]
    workers = [
        worker
        for name, factory, options in plan
        if (worker := try_worker(name, missing, factory, options, threads)) is not None
    ]
    try:
        for worker in workers:
            if worker.name.startswith("qdqbert") or worker.name.endswith("forward"):
                worker.ask("output")  # the warm pass; the slow calibrators have none
        turns = harness.interleave(workers, rounds=arguments.rounds, turn_s=0, peak=None, warm=False)
        facts = {worker.name: worker.facts for worker in workers}
    finally:
        for worker in workers:
            worker.close()
    part: dict[str, Any] = {
        "batch": batch,
        "length": arguments.length,
        "samples": count,
        "threads": threads,
        "systems": {},
    }
    for name, times in turns["times"].items():
        entry: dict[str, Any] = {
            "seconds": harness.summary([t for turn in times for t in turn]),
            "facts": facts[name],
        }
        entry["cpu_per_wall"] = turns["cpu"][name]
        base = f"{name.split()[0]} forward"
        if name != base and base in turns["times"]:
            entry["factor"] = harness.paired_ratio(times, turns["times"][base])
        part["systems"][name] = entry
    print(
        f"\n{count} samples of {arguments.length} tokens in batches of {batch}, {threads} threads; "
        "seconds for one pass"
    )
    lines = []
    for name, entry in part["systems"].items():
        factor = entry.get("factor")
        seconds = entry["seconds"]
        lines.append(
            (
                name,
                f"{seconds['min']:.3f}",
                f"{seconds['p50']:.3f}",
                f"{seconds['p90']:.3f}",
                seconds["n"],
                f"{factor['p50']:.3f} ({factor['p10']:.3f}-{factor['p90']:.3f})" if factor else "1",
                f"{factor['min']:.3f}" if factor else "1",
            )
        )
    print(
        harness.table(lines, ("pass", "min", "p50", "p90", "n", "x own forward: p50 (p10-p90)", "of minima"))
    )
    sys.stdout.flush()
    return part


def memory_part(
    arguments: Any, folder: pathlib.Path, graph: str | None, missing: dict[str, str]
) -> list[dict[str, Any]]:
    """Peak memory above the loaded model, by number of batches of one sample."""
    rows: list[dict[str, Any]] = []
    plan: list[tuple[str, str, int]] = [
        ("qdqbert", method, count) for method in arguments.methods for count in arguments.counts
    ]
    if graph is not None:
        plan += [
            ("onnxruntime", method, count)
            for method in ("MinMax", "Percentile")
            for count in arguments.peer_counts
        ]
    for system, method, count in plan:
        name = f"{system} {method}"
        if name in missing:
            continue
        batches = samples(arguments.shape, count, 1, arguments.length)
        if system == "qdqbert":
            factory: Any = ours_memory
            options = {"folder": str(folder), "threads": arguments.threads}
        else:
            factory, options = onnxruntime_calibration, {"path": graph, "memory": True}
        options |= {"batches": batches, "method": method}
        worker = try_worker(name, missing, factory, options, arguments.threads)
        if worker is None:
            continue
        with worker:
            rows.append({"system": system, "method": method, "batches": count, **worker.facts})
    print(f"\nPeak memory during calibration, batches of (1,{arguments.length}), fresh processes; MiB")
    lines = []
    for row in rows:
        first = next(r for r in rows if (r["system"], r["method"]) == (row["system"], row["method"]))
        growth = (row["peak"] - row["before"] - first["peak"] + first["before"]) / 2**20
        per_batch = growth / (row["batches"] - first["batches"]) if row is not first else None
        row["growth_per_batch_mib"] = per_batch
        lines.append(
            (
                f"{row['system']} {row['method']}",
                row["batches"],
                f"{row['before'] / 2**20:.0f}",
                f"{row['peak'] / 2**20:.0f}",
                f"{(row['peak'] - row['before']) / 2**20:.1f}",
                "-" if per_batch is None else f"{per_batch:.2f}",
            )
        )
    print(harness.table(lines, ("method", "batches", "before", "peak", "peak - before", "growth per batch")))
    sys.stdout.flush()
    return rows


def nncf_part(arguments: Any, graph: str, missing: dict[str, str]) -> dict[str, Any] | None:
    """Measure the NNCF row."""
    batches = samples(arguments.shape, arguments.nncf_samples, 1, arguments.length)
    worker = try_worker(
        "nncf",
        missing,
        nncf_once,
        {"path": graph, "batches": batches, "threads": arguments.threads},
        arguments.threads,
    )
    if worker is None:
        return None
    with worker:
        facts = worker.facts
    facts["samples"] = arguments.nncf_samples
    facts["factor"] = facts["quantize_s"] / min(facts["forward_s"])
    print(
        f"\nnncf.quantize, {facts['samples']} samples: {facts['quantize_s']:.1f} s, forward "
        f"{min(facts['forward_s']):.2f} s, factor {facts['factor']:.2f}, peak "
        f"{facts['peak'] / 2**20:.0f} MiB "
        f"({(facts['peak'] - facts['before']) / 2**20:.0f} above the loaded model)"
    )
    return facts


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "calibration.json")
    parser.add_argument("--shape", choices=sorted(systems.SHAPES), default="base")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--samples", type=int, default=32, help="sequences per timed pass beside the peers")
    parser.add_argument(
        "--own-samples", type=int, default=64, help="sequences per timed pass of qdqbert alone"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], help="batch sizes of qdqbert alone")
    parser.add_argument(
        "--methods", nargs="+", default=["max", "percentile"], choices=("max", "percentile", "mse", "entropy")
    )
    parser.add_argument("--threads", type=int, default=harness.machine_facts()["cpu"]["usable_cpus"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--counts", nargs="+", type=int, default=[8, 32, 128], help="batches of the memory part"
    )
    parser.add_argument(
        "--peer-counts", nargs="+", type=int, default=[4, 8, 16], help="the same for onnxruntime"
    )
    parser.add_argument("--nncf-samples", type=int, default=100)
    parser.add_argument(
        "--parts", nargs="+", default=["time", "memory", "nncf"], choices=("time", "memory", "nncf")
    )
    parser.add_argument("--no-peers", action="store_true", help="qdqbert alone")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shape, arguments.length, arguments.samples, arguments.rounds = "tiny", 16, 8, 2
        arguments.own_samples = 8
        arguments.counts, arguments.peer_counts, arguments.nncf_samples = [2, 4], [2, 4], 4

    facts = harness.machine_facts(("onnxruntime", "onnx", "torch", "transformers", "openvino", "nncf"))
    harness.print_facts(facts)
    missing: dict[str, str] = {}
    body: dict[str, Any] = {"shape": arguments.shape, "percentile": PERCENTILE, "missing": missing}
    with tempfile.TemporaryDirectory(prefix="qdqbert-bench-") as name:
        folder = systems.write_checkpoint(pathlib.Path(name) / "bert", arguments.shape)
        checked = try_worker(
            "qdqbert",
            missing,
            check_ours,
            {"folder": str(folder), "shape": arguments.shape, "length": arguments.length},
            1,
        )
        if checked is not None:
            with checked:
                body["checked"] = checked.facts
        graph = None if arguments.no_peers else export(folder, arguments.shape, missing)
        if "time" in arguments.parts:
            body["time"] = (
                [] if graph is None else [time_part(arguments, folder, graph, missing, arguments.samples, 1)]
            )
            body["time"] += [
                time_part(arguments, folder, None, missing, arguments.own_samples, batch)
                for batch in arguments.batches
            ]
        if "memory" in arguments.parts:
            body["memory"] = memory_part(arguments, folder, graph, missing)
        if "nncf" in arguments.parts and graph is not None:
            body["nncf"] = nncf_part(arguments, graph, missing)
    harness.write_json(arguments.json, facts, body)


if __name__ == "__main__":
    main()

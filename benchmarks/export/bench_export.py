# SPDX-License-Identifier: Apache-2.0
"""Seconds, peak memory and size of exporting BERT-base and BERT-large, weights as codes and as floats.

A model for question answering with random weights is calibrated (max) on one text and exported to a temporary
folder, each time in a process of its own.  The size is compared with what the tensors alone have: a byte for
each element of a quantized weight, four for everything else (scales and zero points left out).  The peak is
that of the export: resident size above what the process had before it, and the whole, each over the file.

Before that, the file must hold: the package's rules for TensorRT, and read back by `from_onnx`, a model
whose logits have the same bits.

    python benchmarks/export/bench_export.py            about 3 minutes, 6 GB
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems

MEGABYTE = 1e6


def tensor_bytes(model: Any, weights: str) -> int:
    """Bytes of a file's tensors: codes where a weight is quantized and codes are asked for, else floats."""
    quantized = {
        name.removesuffix("._weight_quantizer") + ".weight"
        for name, _ in model.named_modules()
        if name.endswith("._weight_quantizer")
    }
    return sum(
        value.size * (1 if weights == "int8" and name in quantized else 4)
        for name, value in model.named_parameters()
    )


def export_worker(folder: str, shape: str, weights: str, file: str) -> tuple[Any, dict[str, Any]]:
    """Export once; what it took."""
    qdqbert = harness.require("qdqbert")
    harness.require("onnx")
    model = systems.qdqbert_model(folder, 2, "QDQBertForQuestionAnswering")
    inputs = systems.make_inputs(shape, 1, 64)
    qdqbert.calibrate(model, [inputs], method="max")
    qdqbert.onnx.export  # noqa: B018  the import of onnx is no part of an export
    before = harness.rss_bytes()["VmRSS"]
    was_reset = harness.reset_peak_rss()
    started = time.perf_counter()
    written = qdqbert.onnx.export(model, file, weights=weights)
    seconds = time.perf_counter() - started
    peak = harness.rss_bytes()["VmHWM"]
    size = sum(each.stat().st_size for each in written)
    violations = qdqbert.onnx.check(file)
    if violations:
        raise AssertionError(f"{shape}, {weights}: {violations[0]}")
    expected = model(**inputs)
    found = qdqbert.onnx.from_onnx(file)(**inputs)
    for name in ("start_logits", "end_logits"):
        if not np.array_equal(found[name], expected[name]):
            raise AssertionError(f"{shape}, {weights}: {name} of the file's model are not the model's")
    facts = {
        "seconds": seconds,
        "file_bytes": size,
        "files": len(written),
        "tensor_bytes": tensor_bytes(model, weights),
        "resident_before": before,
        "peak": peak,
        "peak_was_reset": was_reset,
    }
    return (lambda: None), facts


def export_rows(shapes: list[str], repeats: int) -> list[dict[str, Any]]:
    """All shapes and forms of weights."""
    rows = []
    for shape in shapes:
        with tempfile.TemporaryDirectory(prefix="qdqbert-export-") as name:
            folder = pathlib.Path(name)
            checkpoint = folder / "checkpoint"
            checkpoint.mkdir()
            systems.write_checkpoint(checkpoint, shape, head="question_answering")
            for weights in ("int8", "float"):
                arguments = {
                    "folder": str(checkpoint),
                    "shape": shape,
                    "weights": weights,
                    "file": str(folder / f"{weights}.onnx"),
                }
                runs = []
                for _ in range(repeats):
                    with harness.Worker(weights, export_worker, arguments, threads=2) as worker:
                        runs.append(worker.facts)
                rows.append({"shape": shape, "weights": weights, "runs": runs})
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print a line for each."""
    lines = []
    for row in rows:
        size = row["runs"][0]["file_bytes"]
        above = max(run["peak"] - run["resident_before"] for run in row["runs"])
        lines.append(
            (
                f"BERT-{row['shape']}, {row['weights']}",
                f"{size / MEGABYTE:.1f}",
                f"{100 * (size / row['runs'][0]['tensor_bytes'] - 1):+.2f} %",
                f"{min(run['seconds'] for run in row['runs']):.2f}",
                f"{above / size:.2f}",
                f"{max(run['peak'] for run in row['runs']) / size:.2f}",
            )
        )
    print(
        harness.table(
            lines,
            ("file", "MB", "over its tensors", "s, min", "peak above start / file", "whole process / file"),
        )
    )


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "export.json")
    parser.add_argument("--shapes", nargs="+", choices=sorted(systems.SHAPES), default=["base", "large"])
    parser.add_argument("--repeats", type=int, default=3, help="exports of each kind")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.repeats = ["tiny"], 1

    facts = harness.machine_facts(("onnx",))
    harness.print_facts(facts)
    rows = export_rows(arguments.shapes, arguments.repeats)
    print_rows(rows)
    harness.write_json(arguments.json, facts, {"rows": rows})


if __name__ == "__main__":
    main()

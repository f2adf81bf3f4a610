# SPDX-License-Identifier: Apache-2.0
"""Reading a checkpoint's tensors into memory: our readers against torch.load and safetensors.numpy.

One file of BERT-base's tensors as safetensors and as pytorch_model.bin (ZIP and legacy form), each read whole
into float32 arrays by two readers in turn, in one process, with the file in the page cache.  That both give
the same bytes is asserted before anything is timed.

One process, because reading is mostly the cost of the pages that it fills: on a virtual machine a process
gets pages that its host has, or pages that the host must find first, and the second takes twice as long.
Several processes, one after the other, show what is left of that.

    python benchmarks/startup/bench_reading.py [--processes 3] [--rounds 15] [--shape base]

Without torch the .bin rows are missing, and the output says so: only torch writes such files.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import harness
import systems
from harness import Missing


def read_ours(path: str, kind: str) -> dict[str, Any]:
    """Read every tensor with the package's reader of that file."""
    from qdqbert.serialization.safetensors_file import SafetensorsFile
    from qdqbert.serialization.torch_file import TorchFile

    tensors = {}
    with (SafetensorsFile if kind == "safetensors" else TorchFile)(path) as file:
        for name, info in file.tensors.items():
            tensors[name] = np.empty(info.shape, np.float32)
            info.read_into(tensors[name])
    return tensors


def pair(path: str, kind: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Make the call of one worker: both readers, one after the other; it returns their seconds."""
    other: Callable[[], Any]
    if kind == "safetensors":
        load_file = harness.require("safetensors.numpy", "safetensors").load_file

        def other() -> Any:
            return load_file(path)

        expected = other()
    else:
        torch = harness.require("torch")
        torch.set_num_threads(1)

        def other() -> Any:
            return torch.load(path, map_location="cpu", weights_only=True)

        expected = {name: tensor.numpy() for name, tensor in other().items()}
    found = read_ours(path, kind)
    if {k: systems.digest(v) for k, v in found.items()} != {
        k: systems.digest(v) for k, v in expected.items()
    }:
        raise AssertionError(f"{kind}: the two readers give different tensors")
    del found, expected
    first = [False]

    def call() -> tuple[float, float]:
        seconds = [0.0, 0.0]
        first[0] = not first[0]
        for turn in (0, 1) if first[0] else (1, 0):
            start = time.perf_counter()
            tensors = other() if turn else read_ours(path, kind)
            seconds[turn] = time.perf_counter() - start
            del tensors
        return seconds[0], seconds[1]

    return call, {}


def write_files(folder: pathlib.Path, shape: str, missing: dict[str, str]) -> dict[str, pathlib.Path]:
    """Write the same tensors in every format that can be written here."""
    paths = {"safetensors": systems.write_checkpoint(folder, shape) / "model.safetensors"}
    try:
        torch = harness.require("torch")
    except Missing as error:
        missing["bin"] = str(error)
        print(f"# missing: {error}")
        return paths
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in systems.bert_tensors(shape).items()}
    for kind, is_zip in (("zip", True), ("legacy", False)):
        paths[kind] = folder / f"{kind}.bin"
        torch.save(tensors, paths[kind], _use_new_zipfile_serialization=is_zip)
    return paths


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "reading.json")
    parser.add_argument("--processes", type=int, default=3, help="processes, one after the other")
    parser.add_argument("--rounds", type=int, default=15, help="turns of both readers in each process")
    parser.add_argument("--shape", choices=sorted(systems.SHAPES), default="base")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.processes, arguments.rounds, arguments.shape = 1, 2, "tiny"
    facts = harness.machine_facts(("torch", "safetensors"))
    harness.print_facts(facts)
    missing: dict[str, str] = {}
    body: dict[str, Any] = {"missing": missing, "formats": {}}
    lines = []
    with tempfile.TemporaryDirectory(prefix="qdqbert-reading-") as name:
        for kind, path in write_files(pathlib.Path(name), arguments.shape, missing).items():
            other = "safetensors" if kind == "safetensors" else "torch"
            turns: list[tuple[float, float]] = []
            for _ in range(arguments.processes):
                with harness.Worker(kind, pair, {"path": str(path), "kind": kind}, threads=1) as worker:
                    worker.ask("output")
                    turns += [worker.ask("output") for _ in range(arguments.rounds)]
            ratio = harness.summary([ours / theirs for ours, theirs in turns])
            body["formats"][kind] = {
                "bytes": path.stat().st_size,
                "seconds": {
                    system: harness.summary(seconds)
                    for system, seconds in zip(("qdqbert", other), zip(*turns, strict=True), strict=True)
                },
                "ratio": ratio,
            }
            mine, others = (body["formats"][kind]["seconds"][system] for system in ("qdqbert", other))
            lines.append(
                (
                    kind,
                    harness.milliseconds(mine["p50"]),
                    f"{other} {harness.milliseconds(others['p50'])}",
                    f"{ratio['p50']:.2f} ({ratio['min']:.2f} .. {ratio['p90']:.2f})",
                )
            )
    print(harness.table(lines, ("file", "qdqbert, ms", "other, ms", "ratio (min .. p90)")))
    harness.write_json(arguments.json, facts, body)


if __name__ == "__main__":
    main()

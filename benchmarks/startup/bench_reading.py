# SPDX-License-Identifier: Apache-2.0
"""Reading a checkpoint's tensors into memory: our readers against torch.load and safetensors.numpy.

One file of BERT-base's tensors as safetensors and as pytorch_model.bin (ZIP and legacy form), each read whole
into float32 arrays by the reader of one system in its own process, interleaved, with the file in the page
cache.  That all readers give the same bytes is asserted before anything is timed.

    python benchmarks/startup/bench_reading.py [--rounds 9] [--shape base]

Without torch the .bin rows are missing, and the output says so: only torch writes such files.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
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


def reader(system: str, path: str, kind: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Make the call of one worker; its facts hold the digest of what it read."""
    if system == "torch":
        torch = harness.require("torch")

        def call() -> Any:
            return torch.load(path, map_location="cpu", weights_only=True)

        values = {name: tensor.numpy() for name, tensor in call().items()}
    elif system == "safetensors":
        load_file = harness.require("safetensors.numpy", "safetensors").load_file

        def call() -> Any:
            return load_file(path)

        values = call()
    else:

        def call() -> Any:
            return read_ours(path, kind)

        values = call()
    return call, {"sha256": {name: systems.digest(value) for name, value in values.items()}}


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
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shape", choices=sorted(systems.SHAPES), default="base")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.shape = 2, "tiny"
    facts = harness.machine_facts(("torch", "safetensors"))
    harness.print_facts(facts)
    missing: dict[str, str] = {}
    body: dict[str, Any] = {"missing": missing, "formats": {}}
    lines = []
    with tempfile.TemporaryDirectory(prefix="qdqbert-reading-") as name:
        for kind, path in write_files(pathlib.Path(name), arguments.shape, missing).items():
            other = "safetensors" if kind == "safetensors" else "torch"
            with (
                harness.Worker(
                    "qdqbert", reader, {"system": "qdqbert", "path": str(path), "kind": kind}, threads=1
                ) as ours,
                harness.Worker(
                    other, reader, {"system": other, "path": str(path), "kind": kind}, threads=1
                ) as theirs,
            ):
                if ours.facts["sha256"] != theirs.facts["sha256"]:
                    raise AssertionError(f"{kind}: the two readers give different tensors")
                run = harness.interleave([ours, theirs], rounds=arguments.rounds, turn_s=0.5)
            times = run["times"]
            ratio = harness.paired_ratio(times["qdqbert"], times[other])
            body["formats"][kind] = {
                "bytes": path.stat().st_size,
                "seconds": {
                    system: harness.summary([x for turn in runs for x in turn])
                    for system, runs in times.items()
                },
                "ratio": ratio,
            }
            mine, others = (body["formats"][kind]["seconds"][system] for system in ("qdqbert", other))
            lines.append(
                (
                    kind,
                    harness.milliseconds(mine["p50"]),
                    f"{other} {harness.milliseconds(others['p50'])}",
                    f"{ratio['p50']:.2f}",
                )
            )
    print(harness.table(lines, ("file", "qdqbert, ms", "other, ms", "ratio")))
    harness.write_json(arguments.json, facts, body)


if __name__ == "__main__":
    main()

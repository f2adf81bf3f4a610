# SPDX-License-Identifier: Apache-2.0
"""int8 BERT on this CPU: qdqbert beside ONNX Runtime, OpenVINO, CTranslate2 and PyTorch, in turns.

Random weights in the shapes of BERT-base and MiniLM-L6; (1,16) (1,32) (1,128) (1,384) (8,128) (8,384), and 32
sequences as long as short questions are; 1 and 2 threads. It is `qdqbert bench` (qdqbert/bench: workers,
turns, checks, configurations of the peers) over that matrix, with one result file, of which README's table
is made.

    python benchmarks/models/bench_int8.py              all peers, about 40 minutes, 12 GB
    python benchmarks/models/bench_int8.py --quick      ONNX Runtime and CTranslate2, five shapes, 10 minutes
    python benchmarks/models/bench_int8.py --readme     puts the table of the result file into README.md
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
from collections.abc import Iterable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems
from qdqbert.bench import Settings, compare
from qdqbert.bench.batches import Batch, even, varied
from qdqbert.bench.comparison import PEERS
from qdqbert.cli.bench import row_lines
from qdqbert.errors import Error

MODELS = ("base", "minilm")
EVEN = ((1, 16), (1, 32), (1, 128), (1, 384), (8, 128), (8, 384))
VARIED = 32
QUICK = {"base": ((1, 16), (1, 128), (8, 128)), "minilm": ((1, 16), (1, 128))}
QUICK_SYSTEMS = ("qdqbert", "ort-float", "ort-dynamic", "ort-dynamic-u8u8", "ctranslate2-int8")
REMOVE_PADDING = ("ctranslate2",)
MARKS = ("<!-- table of bench_int8.py: begin -->\n", "<!-- table of bench_int8.py: end -->\n")
NAMES = {"base": "base", "minilm": "MiniLM", "tiny": "tiny"}


def settings_of(arguments: Any, model: str) -> Settings:
    """Return what is compared for one model."""
    if arguments.smoke:
        batches: tuple[Batch, ...] = (even(1, 16), varied(4))
        return Settings(batches, (1, 2), tuple(arguments.against), 2, 0.01, tuple(arguments.only))
    if arguments.quick:
        batches = tuple(even(*shape) for shape in QUICK[model])
        against = ("onnxruntime", "ctranslate2")
        return Settings(batches, tuple(arguments.threads), against, 4, 0.1, QUICK_SYSTEMS)
    batches = (*(even(*shape) for shape in EVEN), varied(VARIED))
    return Settings(
        batches,
        tuple(arguments.threads),
        tuple(arguments.against),
        arguments.rounds,
        0.2,
        tuple(arguments.only),
    )


# ---- the table ---------------------------------------------------------------------------------


def best(row: dict[str, Any], names: Iterable[str]) -> tuple[str, dict[str, Any]] | None:
    """Return the fastest of some systems, by least time."""
    found = [(name, row["systems"][name]) for name in names if name in row["systems"]]
    return min(found, key=lambda item: item[1]["seconds"]["min"], default=None)


def beside(row: dict[str, Any], names: Iterable[str]) -> str:
    """Return the fastest of some peers: its time and how many times ours that is."""
    found = best(row, names)
    if found is None:
        return ""
    name, entry = found
    ratio = entry["time_over_ours"]
    return (
        f"{name} {harness.milliseconds(entry['seconds']['min'])}: {ratio['p50']:.2f}x ({ratio['min']:.2f}x)"
    )


def table_of(document: dict[str, Any]) -> str:
    """Return README's table of a result."""
    lines = []
    for model, found in document["models"].items():
        for row in found["rows"]:
            peers = {name: entry for name, entry in row["systems"].items() if not name.startswith("qdqbert")}
            codes = [name for name, entry in peers.items() if entry["operands"] == "qs8"]
            exact = [name for name in codes if peers[name]["codes"] == "8 bit, exact"]
            floats = [name for name, entry in peers.items() if entry["operands"] == "f32"]
            mine, mine_float = row["systems"]["qdqbert"], row["systems"]["qdqbert-float"]
            groups = [("", codes)]
            if "varied" in row["batch"]:
                groups = [
                    (", no padding", [name for name in codes if name.startswith(REMOVE_PADDING)]),
                    (", padded", [name for name in codes if not name.startswith(REMOVE_PADDING)]),
                ]
            for note, rivals in groups:
                lines.append(
                    (
                        f"{NAMES[model]} {row['batch']}{note}, {row['threads']}T",
                        f"{harness.milliseconds(mine['seconds']['min'])} / "
                        f"{harness.milliseconds(mine['seconds']['p50'])}",
                        f"{100 * mine['share_of_roof']:.0f} %",
                        beside(row, rivals),
                        beside(row, [name for name in exact if name in rivals]),
                        f"{harness.milliseconds(mine_float['seconds']['min'])}, "
                        f"{100 * mine_float['share_of_roof']:.0f} %",
                        beside(row, floats),
                    )
                )
    header = (
        "batch, threads",
        "int8, ms: min / median",
        "of peak",
        "best int8 peer",
        "best exact 8-bit peer",
        "float, ms, of peak",
        "best float peer",
    )
    return "\n".join(line.rstrip() for line in harness.table(lines, header).splitlines())


def put_into_readme(document: dict[str, Any], readme: pathlib.Path) -> None:
    """Replace what stands between the marks."""
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{readme}: no lines {MARKS[0].strip()} and {MARKS[1].strip()}")
    readme.write_text(f"{before}{MARKS[0]}\n{table_of(document)}\n\n{MARKS[1]}{after}", encoding="utf-8")
    print(f"# wrote the table into {readme.name}")


# ---- the run -----------------------------------------------------------------------------------


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "int8.json")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--against", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--only", nargs="+", default=[], metavar="SYSTEM", help="leave other systems out")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="a part of the matrix, under 10 minutes")
    parser.add_argument("--readme", action="store_true", help="only put the table of --json into README.md")
    arguments = parser.parse_args()
    if arguments.readme:
        put_into_readme(json.loads(arguments.json.read_text(encoding="utf-8")), harness.ROOT / "README.md")
        return
    packages = sorted({module for peer in arguments.against for module in PEERS[peer]})
    facts = harness.machine_facts(packages)
    harness.print_facts(facts)
    document: dict[str, Any] = {"models": {}}
    for model in ["tiny"] if arguments.smoke else arguments.models:
        with tempfile.TemporaryDirectory(prefix="qdqbert-bench-") as name:
            folder = systems.write_checkpoint(pathlib.Path(name) / "bert", model)
            try:
                found = compare(str(folder), settings_of(arguments, model), lambda line: print(f"# {line}"))
            except Error as error:
                raise SystemExit(str(error)) from None
        del found["machine"]
        document["models"][model] = found
        for row in found["rows"]:
            print("\n" + "\n".join(row_lines(row)))
        harness.write_json(arguments.json, facts, document)  # after each model: an interruption loses one
    print("\n" + table_of(document))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""``qdqbert bench DIR``: a checkpoint and its peers, timed on one machine in the same minutes."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from qdqbert.cli.report import Report, UsageError, emphasize
from qdqbert.text_table import format_table

__all__ = ["add_arguments", "row_lines", "run"]

_PEERS = ("onnxruntime", "openvino", "ctranslate2", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1, 8], metavar="N", help="sequences of a batch (1 8)"
    )
    parser.add_argument(
        "--seq-len", type=int, nargs="+", default=[128], metavar="N", help="tokens of a sequence (128)"
    )
    parser.add_argument(
        "--varied",
        type=int,
        nargs="*",
        default=[],
        metavar="N",
        help="also batches of so many sequences as long as short questions are, 8 .. 76 tokens",
    )
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="(as many as there are)")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        choices=_PEERS,
        metavar="PEER",
        help=f"{', '.join(_PEERS)}; from the extra `bench`",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="SYSTEM", help="leave other systems out")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="turns of each system (8)")
    parser.add_argument(
        "--turn", type=float, default=0.2, metavar="S", help="seconds of timed calls in a turn (0.2)"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="print one JSON object instead of text; with FILE write it there, beside the text",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Compare, and say who was how fast."""
    from qdqbert.bench import Settings, compare
    from qdqbert.bench.batches import even, varied
    from qdqbert.device import default_device
    from qdqbert.serialization.atomic import write_text

    for name, values in (("--batch", arguments.batch), ("--seq-len", arguments.seq_len)):
        if min(values) < 1:
            raise UsageError(f"{name}: expected at least 1, found {min(values)}")
    if arguments.rounds < 1 or not 0 < arguments.turn < math.inf:
        raise UsageError("--rounds, --turn: expected more than 0, and an end")
    threads = arguments.threads or [default_device().num_threads]
    if min([*threads, *(arguments.varied or [1])]) < 1:
        raise UsageError("--threads, --varied: expected at least 1")
    settings = Settings(
        batches=(
            *(even(batch, length) for batch in arguments.batch for length in arguments.seq_len),
            *(varied(batch) for batch in arguments.varied),
        ),
        threads=tuple(threads),
        against=tuple(arguments.against),
        rounds=arguments.rounds,
        turn_s=arguments.turn,
        only=tuple(arguments.only),
    )
    found = compare(arguments.folder, settings, _say)
    data = {"folder": arguments.folder, **found}
    if isinstance(arguments.json, str):
        write_text(Path(arguments.json), json.dumps(data, indent=1) + "\n")
    lines = [emphasize(arguments.folder), *machine_lines(data["machine"])]
    if data["model"]["calibrated_here"]:
        lines.append("no quantizer had a range: calibrated here, on random tokens")
    for row in data["rows"]:
        lines += ["", *row_lines(row)]
    return Report(data, [*lines, "", *_legend()])


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"  {line}", file=sys.stderr, flush=True)


def machine_lines(machine: dict[str, Any]) -> list[str]:
    """Say on what was measured, and whether others were there."""
    cpu = machine["cpu"]
    lines = [
        f"{cpu.get('model', '?')}, {cpu['usable_cpus']} CPUs, {' '.join(cpu.get('flags', []))}; "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}",
        ", ".join(f"{name} {version}" for name, version in machine["packages"].items()),
    ]
    if machine["load_1min"] > 0.5:
        lines.append(f"others were running (load {machine['load_1min']:.2f}): these times say little")
    return lines


def row_lines(row: dict[str, Any]) -> list[str]:
    """Return one batch as a table, in the order of the least times."""
    roof = row["roof"]
    head = (
        f"{row['batch']}, {row['threads']} thread{'s' * (row['threads'] > 1)}: {row['tokens']} tokens, "
        f"{row['operations'] / 1e9:.1f} G operations; peak loop {roof['qs8'] / 1e9:.0f} GOP/s int8, "
        f"{roof['f32'] / 1e9:.0f} GF/s float"
    )
    cells = []
    for name, entry in sorted(row["systems"].items(), key=lambda item: item[1]["seconds"]["min"]):
        seconds, ratio = entry["seconds"], entry.get("time_over_ours")
        cells.append(
            [
                name,
                entry["codes"],
                *(_milliseconds(seconds[key]) for key in ("min", "p50", "p90")),
                f"{100 * entry['share_of_roof']:.0f} %",
                f"{ratio['p50']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})" if ratio else "",
                f"{ratio['min']:.2f}" if ratio else "",
                f"{entry['error']:.1e}",
                f"{entry['cpu_per_wall']:.2f}",
            ]
        )
    header = [
        "system",
        "codes",
        "min ms",
        "median",
        "p90",
        "of peak",
        "time / ours",
        "minima",
        "error",
        "cores",
    ]
    return [head, *format_table(header, cells, left=2)]


def _milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _legend() -> list[str]:
    return [
        "of peak: operations of the products in the least time, of the peak loop of the same operands",
        "time / ours: int8 over qdqbert, float over qdqbert-float; median of rounds (10th - 90th percentile)",
        "error: of the last hidden state against qdqbert-float, relative, root mean square",
    ]

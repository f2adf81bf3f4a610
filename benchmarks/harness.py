# SPDX-License-Identifier: Apache-2.0
"""What benchmark scripts share beside `qdqbert.bench`, of which `qdqbert bench` is made too.

`qdqbert.bench.turns` has workers, turns and statistics, `qdqbert.bench.machine` facts about the machine,
`qdqbert.roof` the roof. Here are the places of data, the options that scripts have, tables and result files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from qdqbert.bench import machine
from qdqbert.bench.batches import bert_operations
from qdqbert.bench.peers import require
from qdqbert.bench.turns import (
    THREAD_VARIABLES,
    Call,
    Missing,
    Worker,
    paired_ratio,
    quantile,
    reset_peak_rss,
    rss_bytes,
    summary,
)
from qdqbert.bench.turns import interleave as turns_of
from qdqbert.device import default_device
from qdqbert.roof import measure_roof

__all__ = [
    "THREAD_VARIABLES",
    "Call",
    "Missing",
    "Peak",
    "Worker",
    "bert_operations",
    "interleave",
    "machine_facts",
    "milliseconds",
    "open_peak",
    "paired_ratio",
    "parser",
    "print_facts",
    "quantile",
    "require",
    "reset_peak_rss",
    "rss_bytes",
    "shared",
    "summary",
    "table",
    "write_json",
]

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"

# ---- where things are --------------------------------------------------------------------------


def shared(*parts: str) -> pathlib.Path:
    """Return a path in the shared data folder: $QDQBERT_SHARED, else ../shared beside the repository."""
    base = pathlib.Path(os.environ.get("QDQBERT_SHARED", ROOT.parent / "shared"))
    path = base.joinpath(*parts)
    if not path.exists():
        raise Missing(f"{path} does not exist (set QDQBERT_SHARED to the folder with data/ and checkpoints/)")
    return path


# ---- the machine -------------------------------------------------------------------------------


def _first_line(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def machine_facts(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a reader must know to compare with another run, compiler and commit included."""
    commit = _first_line(["git", "rev-parse", "--short=12", "HEAD"])
    if commit and _first_line(["git", "status", "--porcelain", "--untracked-files=no"]):
        commit += " + changes"
    return {
        **machine.machine_facts(packages),
        "compiler": _first_line(["cc", "--version"]),
        "commit": commit,
        "_steal_start": machine.steal_seconds(),
    }


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print the facts in a few lines, and a warning when the machine is busy."""
    cpu = facts["cpu"]
    print(
        f"# {cpu.get('model', '?')} (family {cpu.get('family', '?')}), {cpu['usable_cpus']} CPUs usable, "
        f"{' '.join(cpu.get('flags', []))}"
    )
    print(f"# {facts['memory_gib']} GiB, {facts['system']}, Python {facts['python']}, {facts['compiler']}")
    print(
        "# "
        + ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
        + f", commit {facts['commit'] or '?'}, {facts['utc']}"
    )
    if facts["load_1min"] > 0.5:
        print(f"# WARNING: load average {facts['load_1min']:.2f}: others are running; not for publishing")
    sys.stdout.flush()


# ---- the roof ----------------------------------------------------------------------------------


class Peak:
    """The peak fma loop of this machine (`qdqbert.roof`)."""

    def measure(self, threads: int, seconds: float = 0.15) -> float:
        """Best rate in the given time, in GFLOP/s over all threads (1 multiply-add = 2 operations)."""
        return measure_roof(default_device(), "f32", threads, seconds) / 1e9


def open_peak() -> Peak | None:
    """Return `Peak`: where the package runs, its loop does."""
    return Peak()


# ---- turns -------------------------------------------------------------------------------------


def interleave(
    workers: Sequence[Worker],
    *,
    rounds: int,
    turn_s: float,
    peak: Peak | None = None,
    peak_threads: int = 1,
    warm: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Take turns (`qdqbert.bench.turns.interleave`), with the float peak of each round as ``peak``."""
    roof = None if peak is None else lambda: peak.measure(peak_threads)
    turns = turns_of(workers, rounds=rounds, turn_s=turn_s, roof=roof, warm=warm, progress=progress)
    return {**turns, "peak": turns.pop("roof")}


# ---- scripts -----------------------------------------------------------------------------------


def parser(description: str | None, default_json: str) -> argparse.ArgumentParser:
    """Return an argument parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--json",
        type=pathlib.Path,
        default=RESULTS / default_json,
        help=f"where the result goes (default: benchmarks/results/{default_json})",
    )
    made.add_argument(
        "--smoke", action="store_true", help="tiny sizes: does the script run? Its times mean nothing"
    )
    return made


def write_json(path: pathlib.Path, facts: dict[str, Any], body: Mapping[str, Any]) -> None:
    """Write facts and body; floats keep six significant digits, the file is replaced as a whole."""
    facts = dict(facts)
    start = facts.pop("_steal_start", None)
    end = machine.steal_seconds()
    if start is not None and end is not None:
        facts["steal_s"] = round(end - start, 2)
    document = {"command": ["python", *_relative(sys.argv)], "machine": facts, **body}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(json.dumps(_rounded(document), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    print(f"# wrote {path}")


def _relative(arguments: Sequence[str]) -> list[str]:
    """Make the repository's own paths in the arguments relative: a result names no machine's folders."""
    kept = []
    for argument in arguments:
        with contextlib.suppress(ValueError, OSError):
            if os.path.exists(argument) or os.path.isabs(argument):
                argument = str(pathlib.Path(argument).resolve().relative_to(ROOT))
        kept.append(argument)
    return kept


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, pathlib.Path):
        return value.name
    return value


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Return a Markdown table, aligned for a terminal too."""
    text = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in text) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in text
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    """Three significant digits of milliseconds."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"

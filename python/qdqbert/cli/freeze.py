# SPDX-License-Identifier: Apache-2.0
"""``qdqbert freeze DIR --output OUT``: a quantized checkpoint as one of int8 codes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from qdqbert.cli.checkpoint import check_output, open_model, save_checkpoint
from qdqbert.cli.report import Report
from qdqbert.errors import CheckpointError, StateError
from qdqbert.text_table import format_bytes

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="quantized checkpoint folder")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to save the int8 codes in")


def run(arguments: argparse.Namespace) -> Report:
    """Load, freeze, save."""
    check_output(arguments.folder, arguments.output)
    model = open_model(arguments.folder)
    try:
        report = model.freeze()
    except StateError as error:
        raise CheckpointError(f"{arguments.folder}: {error}") from error
    save_checkpoint(model, arguments.folder, arguments.output)
    before, after = _weight_bytes(arguments.folder), _weight_bytes(arguments.output)
    data: dict[str, Any] = {
        "folder": arguments.folder,
        "output": arguments.output,
        "frozen": list(report.frozen),
        "kept": report.kept,
        "bytes": {"before": before, "after": after},
    }
    lines = [
        *str(report).splitlines(),
        f"saved in {arguments.output}: {format_bytes(after)} of weights, {format_bytes(before)} in "
        f"{arguments.folder}",
    ]
    return Report(data, lines)


def _weight_bytes(folder: str) -> int:
    files = (path for path in Path(folder).iterdir() if path.suffix in (".safetensors", ".bin"))
    return sum(path.stat().st_size for path in files)

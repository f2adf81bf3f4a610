# SPDX-License-Identifier: Apache-2.0
"""What a verb hands back: data for machines, text for people, and an exit status."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

__all__ = [
    "BAD_INPUT",
    "BROKEN_PIPE",
    "FAILURE",
    "INTERRUPTED",
    "OK",
    "USAGE",
    "VERIFICATION_FAILED",
    "Report",
    "UsageError",
    "emphasize",
    "format_bytes",
    "format_table",
]

# Exit statuses; documented by `qdqbert --help`.
OK = 0
FAILURE = 1
USAGE = 2
BAD_INPUT = 3
VERIFICATION_FAILED = 4
INTERRUPTED = 130
BROKEN_PIPE = 141


class UsageError(Exception):
    """Arguments that do not go together; argparse finds the simpler mistakes itself."""


@dataclass(slots=True)
class Report:
    """Result of a verb.

    Attributes
    ----------
    data : dict
        What ``--json`` prints, beside `command`, `version` and `status`.
    lines : list of str
        What is printed otherwise.
    status : int
        Exit status.
    """

    data: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    status: int = OK


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Align columns with spaces.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequences of str
        As many cells as the header.
    left : int
        How many columns, from the first, are aligned to the left; the others to the right.

    Returns
    -------
    list of str
        The header, a rule, and one line for each row, without trailing spaces.
    """
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(_width(cells[column]) for cells in table) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell + " " * (width - _width(cell)) if column < left else " " * (width - _width(cell)) + cell
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]


def format_bytes(size: float) -> str:
    """Size in decimal units, three digits: ``1.88 MB``.

    Parameters
    ----------
    size : float
        Bytes, >= 0.

    Returns
    -------
    str
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1000
    return f"{size:.3g} GB" if size < 1000 else f"{size:.0f} GB"


def emphasize(text: str, stream: TextIO | None = None) -> str:
    """Bold on a terminal that wants colours, otherwise the text as it is.

    Parameters
    ----------
    text : str
    stream : file, optional
        Where it will be printed; stdout by default.

    Returns
    -------
    str

    References
    ----------
    https://no-color.org: a `NO_COLOR` that is not empty forbids it.
    """
    stream = stream or sys.stdout
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if is_plain or stream is None or not stream.isatty():
        return text
    return f"\x1b[1m{text}\x1b[0m"


def _width(text: str) -> int:
    """Columns on a terminal: wide letters take two, combining marks none, escape sequences none."""
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in plain
    )

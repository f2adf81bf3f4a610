# SPDX-License-Identifier: Apache-2.0
"""What a verb hands back: data for machines, text for people, and an exit status."""

from __future__ import annotations

import os
import sys
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

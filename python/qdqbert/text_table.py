# SPDX-License-Identifier: Apache-2.0
"""Tables and sizes as plain text, for terminals and for `print`."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["format_bytes", "format_table", "shorten"]


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int | Sequence[int] = 1
) -> list[str]:
    """Align columns with spaces.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequences of str
        As many cells as the header.
    left : int or sequence of int
        Columns that are aligned to the left, by number, or how many from the first; the others to the right.

    Returns
    -------
    list of str
        The header, a rule, and one line for each row, without trailing spaces.
    """
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(_width(cells[column]) for cells in table) for column in range(len(header))]
    lefts = range(left) if isinstance(left, int) else left

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell + " " * (width - _width(cell)) if column in lefts else " " * (width - _width(cell)) + cell
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


def shorten(text: str, columns: int) -> str:
    """Text of at most so many columns, with ``...`` for what was cut from its middle.

    Parameters
    ----------
    text : str
    columns : int
        At least 5.

    Returns
    -------
    str
        In one line: what is no letter, such as a line break, becomes a question mark.

    Examples
    --------
    >>> shorten("abcdefghijklmnop", 9)
    'abc...nop'
    """
    letters = "".join(letter if letter.isprintable() else "?" for letter in text)
    if _width(letters) <= columns:
        return letters
    end = ""
    while _width(letters[-1] + end) <= (columns - 3) // 2:
        letters, end = letters[:-1], letters[-1] + end
    while _width(letters) + 3 + _width(end) > columns:
        letters = letters[:-1]
    return f"{letters}...{end}"


def _width(text: str) -> int:
    """Columns on a terminal: wide letters take two, combining marks none, escape sequences none."""
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in plain
    )

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
    widths = [_letter_width(letter) for letter in letters]
    room = sum(widths)
    if room <= columns:
        return letters
    first_of_end, width_of_end = len(letters), 0
    while width_of_end + widths[first_of_end - 1] <= (columns - 3) // 2:
        first_of_end -= 1
        width_of_end += widths[first_of_end]
    last, room = first_of_end, room - width_of_end
    while room + 3 + width_of_end > columns:
        last -= 1
        room -= widths[last]
    return f"{letters[:last]}...{letters[first_of_end:]}"


def _letter_width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _width(text: str) -> int:
    """Columns on a terminal: wide letters take two, combining marks none, escape sequences none."""
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    return sum(map(_letter_width, plain))

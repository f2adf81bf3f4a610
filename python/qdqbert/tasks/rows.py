# SPDX-License-Identifier: Apache-2.0
"""Lines and rows of data files, one at a time, with errors that name the file and the line.

Lines end in LF or CRLF, a byte order mark at the start of a file is dropped, and text is UTF-8.  Nothing else
counts as the end of a line: texts hold U+2028, form feeds and other characters at which `str.splitlines`
cuts.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qdqbert.tasks.data_error import DataError, has_lone_surrogate

__all__ = ["Row", "find_column", "iterate_lines", "iterate_rows", "text_cell"]

# Cells by column, a text each; in JSON lines whatever stands there.
Row = dict[str, Any]


def iterate_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file without their ends.

    Parameters
    ----------
    file : Path

    Yields
    ------
    (int, str)
        Line number, from 1, and text.

    Raises
    ------
    DataError
        If the file is missing, cannot be read, or is not UTF-8.
    """
    for line, text in _raw_lines(file):
        yield line, text.removesuffix("\n").removesuffix("\r")


def iterate_rows(file: Path, *, tsv_escapes: bool = False) -> Iterator[tuple[int, Row]]:
    r"""Rows of a table with a header, or objects of JSON lines.

    Parameters
    ----------
    file : Path
        By suffix: ``.tsv`` (tabs, no quotes), ``.csv`` (commas, double quotes) or ``.jsonl`` / ``.json`` (one
        object a line).
    tsv_escapes : bool
        Whether a backslash in a TSV takes the next character literally; otherwise it is a character like any
        other, as GLUE's files need it.

    Yields
    ------
    (int, dict)
        Line on which the row starts, from 1, and its cells by column.

    Raises
    ------
    DataError
        If the file is missing, of another suffix, not UTF-8, or a row has another number of cells than the
        header or is not an object.
    """
    suffix = file.suffix.lower()
    if suffix not in (".tsv", ".csv", ".jsonl", ".json"):
        raise DataError(f"{file}: expected a file named .tsv, .csv, .jsonl or .json")
    if suffix.startswith(".json"):
        yield from _json_rows(file)
        return
    header: list[str] = []
    for line, cells in _cells(file, suffix == ".tsv", tsv_escapes):
        if not header:
            header = cells
        elif len(cells) != len(header):
            raise DataError(
                f"{file}:{line}: expected {len(header)} columns ({', '.join(header)}), found {len(cells)}"
            )
        else:
            yield line, dict(zip(header, cells, strict=True))


def find_column(file: Path, line: int, row: Row, names: tuple[str, ...], wanted: str) -> str:
    """Name under which a row has a column.

    Parameters
    ----------
    file : Path
    line : int
    row : dict
    names : tuple of str
        Known names, the first found is taken.
    wanted : str
        What to call the column in messages.

    Returns
    -------
    str

    Raises
    ------
    DataError
        If the row has none of them.
    """
    for name in names:
        if name in row:
            return name
    raise DataError(f"{file}:{line}: expected a column {wanted!r}, found {', '.join(row) or 'none'}")


def text_cell(file: Path, line: int, row: Row, name: str, *, numbers: bool = False) -> str:
    """Text of a cell.

    Parameters
    ----------
    file : Path
    line : int
    row : dict
    name : str
        Column that the row has.
    numbers : bool
        Whether numbers of JSON lines are taken too, as their text.

    Returns
    -------
    str

    Raises
    ------
    DataError
        If there is something else, or half of a surrogate pair in the text.
    """
    value = row[name]
    if isinstance(value, str) and not has_lone_surrogate(value):
        return value
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{file}:{line}: {name}: expected a text, found {value!r:.40}")


def _raw_lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with file.open("rb") as stream:
            for line, data in enumerate(stream, start=1):
                try:
                    text = data.decode("utf-8-sig" if line == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{file}:{line}: expected UTF-8, found byte 0x{data[error.start]:02x}"
                    ) from error
                yield line, text
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error


def _cells(file: Path, is_tsv: bool, tsv_escapes: bool) -> Iterator[tuple[int, list[str]]]:
    """Cells of each row of a table, blank lines left out, with the line on which it starts."""
    if is_tsv and not tsv_escapes:
        for line, text in iterate_lines(file):
            if text:
                yield line, text.split("\t")
        return
    lines = (text for _, text in _raw_lines(file))
    if is_tsv:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\", strict=True)
    else:
        reader = csv.reader(lines, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}:{line}: {error}") from error


def _json_rows(file: Path) -> Iterator[tuple[int, Row]]:
    for line, content in iterate_lines(file):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}:{line}: not JSON: {error.msg} at column {error.colno}") from error
        except RecursionError as error:
            raise DataError(f"{file}:{line}: JSON nested too deeply") from error
        except ValueError as error:  # a number of thousands of digits
            raise DataError(f"{file}:{line}: not JSON that can be read: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{file}:{line}: expected an object with text and label, found {type(row).__name__}"
            )
        yield line, row

# SPDX-License-Identifier: Apache-2.0
"""Reading tagged sentences in CoNLL columns: one word a line, a blank line between sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.rows import iterate_lines

if TYPE_CHECKING:
    import os

__all__ = ["TaggedSentence", "read_conll"]


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """Words with a tag each.

    Attributes
    ----------
    words, tags : tuple of str
        Of one length, >= 1.
    line : int
        Where it starts in its file, from 1.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    line: int = 0


def read_conll(path: str | os.PathLike[str]) -> list[TaggedSentence]:
    """Read tagged sentences.

    Parameters
    ----------
    path : path
        Each line holds a word in its first column and the tag in its last; columns are separated by tabs, or
        by spaces where a line has no tab (CoNLL-2003).  Lines without a word separate sentences; lines that
        begin with ``-DOCSTART-`` do so too and are not read.  A tag is ``O``, or B-, I-, E- or S- and a type.

    Returns
    -------
    list of TaggedSentence
        At least one.

    Raises
    ------
    DataError
        If the file is missing, not UTF-8, without a sentence, or a line lacks a column or has no tag in its
        last one; with ``file:line``.

    Notes
    -----
    A word may hold spaces that are no separators (U+00A0 and others): only tabs and ASCII spaces separate.
    """
    file = Path(path)
    sentences: list[TaggedSentence] = []
    words: list[str] = []
    tags: list[str] = []
    columns = first_line = 0

    def finish() -> None:
        if words:
            sentences.append(TaggedSentence(tuple(words), tuple(tags), first_line))
            words.clear()
            tags.clear()

    for line, text in iterate_lines(file):
        if not text.strip() or text.startswith("-DOCSTART-"):
            finish()
            continue
        cells = text.split("\t") if "\t" in text else [cell for cell in text.split(" ") if cell]
        columns = columns or len(cells)
        if len(cells) != columns or columns < 2:
            expected = f"{columns} columns as above" if columns > 1 else "a word and its tag"
            raise DataError(f"{file}:{line}: expected {expected}, found {len(cells)}: {text!r:.60}")
        word, tag = cells[0], cells[-1].strip()
        if not word.strip():
            raise DataError(f"{file}:{line}: expected a word in the first column, found none")
        if tag != "O" and not (tag[:2] in ("B-", "I-", "E-", "S-") and len(tag) > 2):
            raise DataError(
                f"{file}:{line}: expected O or a tag such as B-person in the last column, found {tag!r:.40}"
            )
        if not words:
            first_line = line
        words.append(word)
        tags.append(tag)
    finish()
    if not sentences:
        raise DataError(f"{file}: expected at least one sentence, found none")
    return sentences

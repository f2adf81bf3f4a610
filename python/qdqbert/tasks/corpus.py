# SPDX-License-Identifier: Apache-2.0
"""A corpus as one stream of wordpieces, for language models.

Lines are encoded one after the other and joined without separators, so that only the wordpieces are kept, at
four bytes each.  Text counts as it stands: wikitext-2's ``<unk>``, its `` @-@ `` and its headings are encoded
like other text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.rows import iterate_lines

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Corpus", "encoded_lines", "read_corpus"]

# Encoded in one call: so many lines, or, where they are long, as many as have so many characters.
_LINES = 512
_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class Corpus:
    """Wordpieces of a text.

    Attributes
    ----------
    pieces : ndarray (N,) int32
        Ids.
    is_inside_word : ndarray (N,) bool
        Whether a wordpiece goes on with the word of the one before it.
    """

    pieces: npt.NDArray[np.int32]
    is_inside_word: npt.NDArray[np.bool_]


def read_corpus(files: Sequence[Path], tokenizer: Tokenizer) -> Corpus:
    """Read text files, one after the other.

    Parameters
    ----------
    files : sequence of Path
        UTF-8 text; lines without text are left out.
    tokenizer : tokenizers.Tokenizer

    Returns
    -------
    Corpus

    Raises
    ------
    DataError
        If a file is missing, not UTF-8, or gives no wordpiece.
    """
    pieces: list[npt.NDArray[np.int32]] = []
    inside: list[npt.NDArray[np.bool_]] = []
    for file in files:
        for line in encoded_lines(file, tokenizer):
            if line is not None:
                pieces.append(line.pieces)
                inside.append(line.is_inside_word)
    return Corpus(np.concatenate(pieces), np.concatenate(inside))


def encoded_lines(file: Path, tokenizer: Tokenizer) -> Iterator[Corpus | None]:
    """Wordpieces of one line after the other; a bounded number of lines is in memory.

    Parameters
    ----------
    file : Path
        As in `read_corpus`, errors too.
    tokenizer : tokenizers.Tokenizer

    Yields
    ------
    Corpus or None
        None for a line without text.
    """
    found = 0
    for chunk in _chunks(text.strip() for _, text in iterate_lines(file)):
        encodings = iter(tokenizer.encode_batch([text for text in chunk if text], add_special_tokens=False))
        for text in chunk:
            if not text:
                yield None
                continue
            encoding = next(encodings)
            words = np.array(encoding.word_ids, dtype=np.int64)
            found += len(words)
            yield Corpus(np.array(encoding.ids, dtype=np.int32), np.diff(words, prepend=-1) == 0)
    if not found:
        raise DataError(f"{file}: expected text, found none")


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for line in lines:
        chunk.append(line)
        characters += len(line)
        if len(chunk) == _LINES or characters >= _CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk

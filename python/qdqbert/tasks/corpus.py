# SPDX-License-Identifier: Apache-2.0
"""A corpus as one stream of wordpieces, for language models.

Lines are encoded one after the other and joined without separators, so that only the wordpieces are kept, at
four bytes each.  Text counts as it stands: wikitext-2's ``<unk>``, its `` @-@ `` and its headings are encoded
like other text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.batching import chunks
from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.rows import iterate_lines

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Corpus", "read_corpus"]

# Lines encoded in one call.
_LINES = 512


@dataclass(frozen=True, slots=True)
class Corpus:
    """Wordpieces of a text.

    Attributes
    ----------
    pieces : ndarray (N,) int32
        Ids, N >= 1.
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
        found = 0
        texts = (text.strip() for _, text in iterate_lines(file))
        for chunk in chunks((text for text in texts if text), _LINES):
            for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
                words = np.array(encoding.word_ids, dtype=np.int64)
                pieces.append(np.array(encoding.ids, dtype=np.int32))
                inside.append(np.diff(words, prepend=-1) == 0)
                found += len(words)
        if not found:
            raise DataError(f"{file}: expected text, found none")
    return Corpus(np.concatenate(pieces), np.concatenate(inside))

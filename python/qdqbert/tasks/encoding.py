# SPDX-License-Identifier: Apache-2.0
"""Texts and pairs of texts, and what models take of them: ``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.batching import batch_inputs
from qdqbert.tokenization import special_token_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["EncodedText", "TextExample", "bare_tokenizer", "encode_text", "pad_id", "padded"]


@dataclass(frozen=True, slots=True)
class TextExample:
    """One text, or a pair, with its label.

    Attributes
    ----------
    text : str
    label : str
        As in the file.
    text_pair : str or None
    line : int
        Where it starts in its file, from 1.
    """

    text: str
    label: str
    text_pair: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A sequence of a model.

    Attributes
    ----------
    input_ids, token_type_ids : ndarray (T,) int64
    """

    input_ids: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.input_ids)


def encode_text(text: str, pair: str | None, tokenizer: Tokenizer, max_length: int) -> EncodedText:
    """Encode a text or a pair, cut to `max_length`.

    Parameters
    ----------
    text : str
    pair : str or None
    tokenizer : tokenizers.Tokenizer
    max_length : int
        Wordpieces kept, special tokens included; at least 4.  Of a pair the longer one loses first, one
        wordpiece at a time; of equally long ones the second.

    Returns
    -------
    EncodedText

    Raises
    ------
    ValueError
        If `max_length` is too small.
    CheckpointError
        If the vocabulary has no [CLS] or [SEP].
    """
    if max_length < 4:
        raise ValueError(f"max_length: expected at least 4, found {max_length}")
    cls, sep = special_token_id(tokenizer, "[CLS]"), special_token_id(tokenizer, "[SEP]")
    first = tokenizer.encode(text, add_special_tokens=False).ids
    if pair is None:
        ids = [cls, *first[: max_length - 2], sep]
        return EncodedText(np.array(ids, dtype=np.int64), np.zeros(len(ids), dtype=np.int64))
    second = tokenizer.encode(pair, add_special_tokens=False).ids
    room = max_length - 3
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        longer.pop()
    ids = [cls, *first, sep, *second, sep]
    types = np.zeros(len(ids), dtype=np.int64)
    types[len(first) + 2 :] = 1
    return EncodedText(np.array(ids, dtype=np.int64), types)


def padded(encoded: Sequence[EncodedText], tokenizer: Tokenizer) -> dict[str, npt.NDArray[np.int64]]:
    """Model inputs of some sequences, padded on the right to their longest.

    Parameters
    ----------
    encoded : sequence of EncodedText
        B of them.
    tokenizer : tokenizers.Tokenizer
        Names the padding.

    Returns
    -------
    dict of ndarray (B, T) int64
        See `batch_inputs`.
    """
    return batch_inputs(
        [sequence.input_ids for sequence in encoded],
        [sequence.token_type_ids for sequence in encoded],
        pad_id(tokenizer),
    )


def pad_id(tokenizer: Tokenizer) -> int:
    """Id of [PAD]; 0 where the vocabulary has none, since what stands there is never looked at.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer

    Returns
    -------
    int
    """
    return int(tokenizer.token_to_id("[PAD]") or 0)


def bare_tokenizer(tokenizer: Any) -> Tokenizer:
    """Tokenizer that the tasks work with.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer or BertTokenizerFast
        Of the latter, whose backend cuts and pads as its last call wanted, a copy of the backend is taken.

    Returns
    -------
    tokenizers.Tokenizer
        Without truncation and padding.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        given: Tokenizer = tokenizer
        return given
    bare = Tokenizer.from_str(backend.to_str())
    bare.no_truncation()
    bare.no_padding()
    return bare

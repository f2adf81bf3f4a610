# SPDX-License-Identifier: Apache-2.0
"""Texts and pairs of texts, and what models take of them: ``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.batching import batch_inputs, chunks
from qdqbert.tokenization import special_token_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "EncodedText",
    "TextExample",
    "bare_tokenizer",
    "encode_text",
    "encode_texts",
    "kept_of_pair",
    "pad_id",
    "padded",
]

# Texts of one call of the library, which spreads them over its threads.
_TEXTS = 512


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
    return next(encode_texts([(text, pair)], tokenizer, max_length))


def encode_texts(
    texts: Iterable[tuple[str, str | None]], tokenizer: Tokenizer, max_length: int
) -> Iterator[EncodedText]:
    """Encode many texts or pairs; a bounded number of them is in memory.

    Parameters
    ----------
    texts : iterable of (str, str or None)
        Texts, each with the second one of its pair.
    tokenizer : tokenizers.Tokenizer
    max_length : int
        As in `encode_text`.

    Yields
    ------
    EncodedText
        In order.

    Raises
    ------
    ValueError, CheckpointError
        As in `encode_text`.
    """
    if max_length < 4:
        raise ValueError(f"max_length: expected at least 4, found {max_length}")
    cls, sep = special_token_id(tokenizer, "[CLS]"), special_token_id(tokenizer, "[SEP]")
    for chunk in chunks(texts, _TEXTS):
        firsts = tokenizer.encode_batch([text for text, _ in chunk], add_special_tokens=False)
        seconds = iter(
            tokenizer.encode_batch([pair for _, pair in chunk if pair is not None], add_special_tokens=False)
        )
        for (_, pair), encoding in zip(chunk, firsts, strict=True):
            first = encoding.ids
            if pair is None:
                ids = [cls, *first[: max_length - 2], sep]
                yield EncodedText(np.array(ids, dtype=np.int64), np.zeros(len(ids), dtype=np.int64))
                continue
            second = next(seconds).ids
            kept = kept_of_pair(len(first), len(second), max_length - 3)
            ids = [cls, *first[: kept[0]], sep, *second[: kept[1]], sep]
            types = np.zeros(len(ids), dtype=np.int64)
            types[kept[0] + 2 :] = 1
            yield EncodedText(np.array(ids, dtype=np.int64), types)


def kept_of_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Wordpieces that are kept of each text of a pair.

    Parameters
    ----------
    first, second : int
        Wordpieces of the texts.
    room : int
        Most of both; >= 1.

    Returns
    -------
    (int, int)
        What is left when the longer text loses one wordpiece at a time, and of equally long ones the second.

    Examples
    --------
    >>> kept_of_pair(9, 2, 7), kept_of_pair(9, 9, 7)
    ((5, 2), (4, 3))
    """
    if first + second <= room:
        return first, second
    if second <= room // 2:
        return room - second, second
    if first <= room - room // 2:
        return first, room - first
    return room - room // 2, room // 2


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

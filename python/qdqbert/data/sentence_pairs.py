# SPDX-License-Identifier: Apache-2.0
"""Consecutive sentences for next sentence prediction: half of the pairs torn apart, anew in every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.data.feature_table import FeatureTable
from qdqbert.data.training_data import Limits, TrainingData, padding_collator
from qdqbert.seeds import require_seed
from qdqbert.tasks.batching import chunks
from qdqbert.tasks.encoding import bare_tokenizer, kept_of_pair
from qdqbert.tasks.next_sentence import NextSentence, exchange_half, read_pairs
from qdqbert.tasks.task import longest_input
from qdqbert.tokenization import special_token_id

__all__ = ["SentencePairs", "read_sentence_pairs"]

# Sentences of one call of the library.
_SENTENCES = 512


class SentencePairs(Sequence[dict[str, Any]]):
    """Pairs of sentences, half of which do not belong together.

    Sentences are encoded once; an epoch costs a permutation.

    Parameters
    ----------
    firsts, seconds : FeatureTable
        Wordpieces of the sentences, without special tokens.
    identities : sequence of int
        Equal where second sentences are.
    special : pair of int
        Ids of [CLS] and [SEP].
    max_length : int
        Wordpieces kept of a pair, special tokens included; >= 4.
    seed : int
        >= 0.
    source : str
        File names, for messages.
    epoch : int
        >= 0; with `seed` it decides which pairs are torn apart, and how.

    Raises
    ------
    DataError
        If the pairs are too few or too alike.
    """

    def __init__(
        self,
        firsts: FeatureTable,
        seconds: FeatureTable,
        identities: Sequence[int],
        special: tuple[int, int],
        max_length: int,
        seed: int,
        source: str,
        epoch: int = 0,
    ) -> None:
        self._shared = (firsts, seconds, identities, special, max_length, seed, source)
        self._firsts, self._seconds = firsts, seconds
        self._special, self._max_length = special, max_length
        key = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1, np.uint64)
        self._other = exchange_half(identities, int(key[0]), source)

    def at_epoch(self, epoch: int) -> Self:
        """Return the same pairs, torn apart as in an epoch.

        Parameters
        ----------
        epoch : int
            >= 0.

        Returns
        -------
        SentencePairs
        """
        return type(self)(*self._shared, epoch)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each item, (items,) int64."""
        both: npt.NDArray[np.int64] = self._firsts.lengths + self._seconds.lengths[self._other]
        return (both + 3).clip(max=self._max_length)

    def __len__(self) -> int:
        return len(self._other)

    def __getitem__(self, index: Any) -> Any:
        """Item of a number, or the items of a slice as a list."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        other = int(self._other[place])
        first, second = self._firsts[place]["input_ids"], self._seconds[other]["input_ids"]
        kept = kept_of_pair(len(first), len(second), self._max_length - 3)
        cls, sep = self._special
        ids = np.concatenate([[cls], first[: kept[0]], [sep], second[: kept[1]], [sep]])
        types = np.zeros(len(ids), dtype=np.int64)
        types[kept[0] + 2 :] = 1
        return {"input_ids": ids, "token_type_ids": types, "labels": int(other != place)}


def read_sentence_pairs(
    files: list[Path], tokenizer: Any, config: Any, limits: Limits, *, task_seed: int = 0
) -> TrainingData:
    """Read files of consecutive sentences.

    Parameters
    ----------
    files : list of Path
        One pair a line, a tab between its sentences.
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    config : QDQBertConfig
    limits : Limits
    task_seed : int
        Decides, with the epoch, which pairs get another's second sentence; >= 0.

    Returns
    -------
    TrainingData
        Items with ``labels``: 0 where the second sentence follows the first, 1 where it does not.

    Raises
    ------
    DataError
        If a file is missing or malformed, or its pairs are too few or too alike to be shuffled.
    ValueError, TypeError
        If an option is out of its range.
    """
    longest = longest_input(limits.max_seq_length, config)
    require_seed("task_seed", task_seed)
    bare = bare_tokenizer(tokenizer)
    pairs = [pair for file in files for pair in read_pairs(file)][: limits.max_train_samples]
    seconds = [pair.text_pair or "" for pair in pairs]
    known: dict[str, int] = {}
    dataset = SentencePairs(
        _sentences((pair.text for pair in pairs), bare),
        _sentences(seconds, bare),
        [known.setdefault(text, len(known)) for text in seconds],
        (special_token_id(bare, "[CLS]"), special_token_id(bare, "[SEP]")),
        longest,
        task_seed,
        ", ".join(map(str, files)),
    )
    return TrainingData(
        NextSentence.name,
        NextSentence.model_class,
        dataset,
        padding_collator(tokenizer, limits, longest),
        len(dataset),
    )


def _sentences(texts: Iterable[str], tokenizer: Any) -> FeatureTable:
    encodings = (
        encoding
        for chunk in chunks(texts, _SENTENCES)
        for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False)
    )
    return FeatureTable.of({"input_ids": encoding.ids} for encoding in encodings)

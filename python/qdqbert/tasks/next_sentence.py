# SPDX-License-Identifier: Apache-2.0
"""Next sentence prediction: does the second sentence follow the first?  Accuracy.

A file holds pairs that follow each other.  Half of them, chosen by a seed, are given the second sentence of
another pair of that half, as BERT was trained; so the answer "follows" and the answer "random" are equally
often right.

Reference: Devlin et al., 2019, "BERT", task 2; Chen, Chu and Gimpel, 2019, "Evaluation Benchmarks and
Learning Criteria for Discourse-Aware Sentence Representations" (the pairs of DiscoEval).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.seeds import require_seed
from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.encoding import TextExample, bare_tokenizer
from qdqbert.tasks.metrics import correct_mean
from qdqbert.tasks.rows import iterate_lines
from qdqbert.tasks.sequence_task import SequenceTask
from qdqbert.tasks.task import Figure, Scored, as_paths, longest_input

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["NextSentence", "exchange_half", "read_pairs", "shuffle_half"]

_NAMES = ("follows", "random")


class NextSentence(SequenceTask):
    """Pairs labelled 0 where the second sentence follows the first, 1 where it was taken from elsewhere.

    The order of the two logits is that of `BertForNextSentencePrediction`.

    Parameters
    ----------
    examples, labels, tokenizer, max_length
        As in `SequenceTask`.
    """

    name = "next-sentence"
    model_class = "QDQBertForNextSentencePrediction"
    metric = "accuracy"
    item = "pair"

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
        task_seed: int = 0,
    ) -> Self:
        """Read files of pairs and shuffle half of the second sentences.

        Parameters
        ----------
        paths : path or sequence of paths
            One pair a line, a tab between its sentences.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
        max_length : int, optional
            Wordpieces kept of a pair, special tokens included; 4 .. the model's positions, which is the
            default.
        task_seed : int
            Chooses the pairs that are shuffled, and their new sentences; >= 0.

        Raises
        ------
        DataError
            If a file is missing or malformed, or its pairs are too few or too alike to be shuffled.
        ValueError
            If an option is out of its range.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config)
        require_seed("task_seed", task_seed)
        files = as_paths(paths)
        pairs = [pair for file in files for pair in read_pairs(file)]
        source = ", ".join(map(str, files))
        examples, labels = shuffle_half(pairs, task_seed, source)
        return cls(examples, labels, tokenizer, longest)

    def _figures(self, outputs: Sequence[Sequence[npt.NDArray[np.float32]]]) -> Scored:
        logits = np.stack([rows[0] for rows in outputs])
        if logits.shape[1] != 2:
            raise ValueError(f"logits: expected 2 for each pair, found {logits.shape[1]}")
        predicted = logits.argmax(axis=1)
        counts: dict[str, float] = {
            "correct": int((predicted == self.labels).sum()),
            "total": len(self),
        }
        return (Figure("accuracy", correct_mean(self.labels, predicted)),), counts, predicted

    def _expected(self, index: int) -> str:
        return _NAMES[int(self.labels[index])]

    def _answer(self, predictions: Any, index: int) -> str:
        return _NAMES[int(predictions[index])]


def read_pairs(path: str | os.PathLike[str]) -> list[TextExample]:
    """Read pairs of consecutive sentences.

    Parameters
    ----------
    path : path
        One pair a line, a tab between its sentences; no header, quotes or escapes.

    Returns
    -------
    list of TextExample
        At least one; with label ``"follows"``.

    Raises
    ------
    DataError
        If the file is missing, not UTF-8 or empty, or a line is not two sentences; with ``file:line``.
    """
    file = Path(path)
    pairs = []
    for line, text in iterate_lines(file):
        if not text.strip():
            continue
        cells = [cell.strip() for cell in text.split("\t")]
        if len(cells) != 2 or not all(cells):
            raise DataError(
                f"{file}:{line}: expected two sentences with a tab between them, "
                f"found {len([cell for cell in cells if cell])}"
            )
        pairs.append(TextExample(cells[0], _NAMES[0], cells[1], line))
    if not pairs:
        raise DataError(f"{file}: expected at least one pair, found none")
    return pairs


def shuffle_half(
    pairs: Sequence[TextExample], seed: int, source: str = "data"
) -> tuple[list[TextExample], npt.NDArray[np.int64]]:
    """Give half of the pairs the second sentence of another one.

    Parameters
    ----------
    pairs : sequence of TextExample
    seed : int
        >= 0.
    source : str
        File name, for messages.

    Returns
    -------
    (list of TextExample, ndarray (pairs,) int64)
        Pairs in their order; 1 for those whose second sentence is another's (half of them, rounded down), 0
        for the others.

    Raises
    ------
    DataError
        If there are fewer than four pairs, or more than half of the shuffled second sentences are one and the
        same, so that some pair would keep it.
    """
    other = exchange_half([pair.text_pair for pair in pairs], seed, source)
    labels = (other != np.arange(len(pairs))).astype(np.int64)
    examples = list(pairs)
    for index in np.flatnonzero(labels).tolist():
        pair = pairs[index]
        examples[index] = TextExample(pair.text, _NAMES[1], pairs[other[index]].text_pair, pair.line)
    return examples, labels


def exchange_half(seconds: Sequence[Hashable], seed: int, source: str = "data") -> npt.NDArray[np.int64]:
    """Choose half of the pairs, and for each of them another's second sentence.

    Parameters
    ----------
    seconds : sequence of hashable
        The second sentences, or what is equal where they are.
    seed : int
        >= 0.
    source : str
        File name, for messages.

    Returns
    -------
    ndarray (pairs,) int64
        Place of the second sentence of each pair: for half of the pairs, rounded down, that of another one
        of that half, which is different; its own for the others.

    Raises
    ------
    DataError
        As in `shuffle_half`.
    """
    if len(seconds) < 4:
        raise DataError(
            f"{source}: expected at least four pairs to shuffle half of them, found {len(seconds)}"
        )
    require_seed("seed", seed)
    order = np.random.default_rng(seed).permutation(len(seconds))
    chosen = order[: len(seconds) // 2].tolist()
    # Pairs with one second sentence stand together, in an order that is random otherwise. Moved on by as many
    # places as the largest such group has, none meets its own, if that group is no more than half of all.
    groups: dict[Hashable, list[int]] = {}
    for index in chosen:
        groups.setdefault(seconds[index], []).append(index)
    shift = max(map(len, groups.values()))
    if 2 * shift > len(chosen):
        raise DataError(f"{source}: too many second sentences are alike to be shuffled")
    grouped = np.array([index for group in groups.values() for index in group], dtype=np.int64)
    other = np.arange(len(seconds))
    other[grouped] = np.roll(grouped, -shift)
    return other

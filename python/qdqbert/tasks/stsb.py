# SPDX-License-Identifier: Apache-2.0
"""STS-B: how much do two sentences mean the same, from 0 to 5?  Spearman's and Pearson's correlation.

Reference: Cer et al., 2017, "SemEval-2017 Task 1: Semantic Textual Similarity".  BERT's paper reports
Spearman's, so that comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.encoding import TextExample, bare_tokenizer
from qdqbert.tasks.metrics import Pearson, Spearman
from qdqbert.tasks.sequence_task import Columns, SequenceTask, labelled_examples
from qdqbert.tasks.task import Figure, Scored, as_paths, longest_input

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["STSB"]

_COLUMNS = Columns(text=("sentence1",), pair=("sentence2",), label=("score", "label", "similarity_score"))


class STSB(SequenceTask):
    """Pairs with a number from 0 to 5; columns `sentence1`, `sentence2`, `score`.

    The model is a regression: sequence classification with one label, whose logit is the predicted number.
    Correlations do not depend on its unit.

    Parameters
    ----------
    examples, labels, tokenizer, max_length
        As in `SequenceTask`.
    """

    name = "stsb"
    metric = "Spearman"
    item = "pair"

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
    ) -> Self:
        """Read files of the task.

        Parameters
        ----------
        paths : path or sequence of paths
            ``.tsv`` as GLUE has it, or ``.csv`` or ``.jsonl`` with the same columns.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
            With one label.
        max_length : int, optional
            Wordpieces kept of a pair, special tokens included; 4 .. the model's positions, which is the
            default.

        Raises
        ------
        DataError
            If a file is missing, empty or malformed, or a score is no number from 0 to 5; with file and line.
        ValueError
            If the configuration or `max_length` does not fit.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config)
        if config.num_labels != 1:
            raise ValueError(f"config.num_labels: expected 1 (a regression), found {config.num_labels}")
        examples: list[TextExample] = []
        scores: list[float] = []
        for file in as_paths(paths):
            before = len(examples)
            for example in labelled_examples(file, _COLUMNS):
                examples.append(example)
                scores.append(_score(f"{file}:{example.line}", example.label))
            if len(examples) == before:
                raise DataError(f"{file}: expected at least one pair, found none")
        return cls(examples, np.array(scores, dtype=np.float64), tokenizer, longest)

    def _figures(self, outputs: Sequence[Sequence[npt.NDArray[np.float32]]]) -> Scored:
        logits = np.stack([rows[0] for rows in outputs])
        if logits.shape[1] != 1:
            raise ValueError(f"logits: expected 1 for each pair, found {logits.shape[1]}")
        predicted = logits[:, 0]
        figures = (
            Figure("Spearman", Spearman(self.labels, predicted)),
            Figure("Pearson", Pearson(self.labels, predicted)),
        )
        return figures, {}, predicted

    def _expected(self, index: int) -> str:
        return f"{self.labels[index]:.2f}"

    def _answer(self, predictions: Any, index: int) -> str:
        return f"{predictions[index]:.2f}"


def _score(place: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 5.0:
        raise DataError(f"{place}: score: expected a number from 0 to 5, found {text!r:.40}")
    return value

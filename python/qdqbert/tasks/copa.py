# SPDX-License-Identifier: Apache-2.0
"""COPA: which of two alternatives is the cause, or the effect, of a premise?  Accuracy of multiple choice.

Each alternative is a pair: the premise with the question that COPA puts ("What was the cause of this?", "What
happened as a result?"), and the alternative.  The alternative with the larger logit is the answer.

Reference: Roemmele, Bejan and Gordon, 2011, "Choice of Plausible Alternatives: An Evaluation of Commonsense
Causal Reasoning".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.copa_data import CopaExample, read_copa
from qdqbert.tasks.encoding import EncodedText, bare_tokenizer, encode_texts, padded
from qdqbert.tasks.metrics import correct_mean
from qdqbert.tasks.task import FeatureTask, Figure, Inputs, Scored, as_paths, longest_input

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["COPA"]

_QUESTION = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
_Choices = tuple[EncodedText, ...]


class COPA(FeatureTask[_Choices, npt.NDArray[np.float32]]):
    """Questions with two alternatives, for a multiple choice head.

    Parameters
    ----------
    examples : sequence of CopaExample
    tokenizer : tokenizers.Tokenizer
    max_length : int
        Wordpieces kept of a pair, special tokens included; >= 4.
    """

    name = "copa"
    model_class = "QDQBertForMultipleChoice"
    metric = "accuracy"
    item = "question"

    def __init__(self, examples: Sequence[CopaExample], tokenizer: Tokenizer, max_length: int) -> None:
        self.examples = examples
        self._tokenizer, self._max_length = tokenizer, max_length

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
    ) -> Self:
        """Read files of questions.

        Parameters
        ----------
        paths : path or sequence of paths
            ``.xml`` or ``.jsonl``, see `read_copa`.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
        max_length : int, optional
            Wordpieces kept of a pair, special tokens included; 4 .. the model's positions, which is the
            default.

        Raises
        ------
        DataError
            If a file is missing or malformed; with file and line.
        ValueError
            If `max_length` does not fit.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config)
        examples = [example for file in as_paths(paths) for example in read_copa(file)]
        return cls(examples, tokenizer, longest)

    def __len__(self) -> int:
        return len(self.examples)

    def _select(self, indices: Sequence[int]) -> Self:
        return type(self)([self.examples[index] for index in indices], self._tokenizer, self._max_length)

    def choices(self, index: int) -> tuple[EncodedText, ...]:
        """Return the inputs of a question, one for each alternative.

        Parameters
        ----------
        index : int

        Returns
        -------
        tuple of EncodedText
        """
        example = self.examples[index]
        premise = f"{example.premise} {_QUESTION[example.question]}"
        texts = [(premise, alternative) for alternative in example.alternatives]
        return tuple(encode_texts(texts, self._tokenizer, self._max_length))

    def _features(self, index: int) -> list[_Choices]:
        return [self.choices(index)]

    def _size(self, feature: _Choices) -> int:
        return len(feature) * max(map(len, feature))

    def _inputs(self, features: Sequence[_Choices]) -> Inputs:
        """Model inputs of shape (B, 2, T)."""
        flat = padded([choice for feature in features for choice in feature], self._tokenizer)
        return {name: values.reshape(len(features), 2, -1) for name, values in flat.items()}

    def _outputs(self, out: Any, features: Sequence[_Choices]) -> Sequence[npt.NDArray[np.float32]]:
        logits = np.asarray(out.logits)
        if logits.shape != (len(features), 2):
            raise ValueError(
                f"logits: expected shape {(len(features), 2)} (one value for each alternative), "
                f"found {logits.shape}"
            )
        if np.isnan(logits).any():
            raise ValueError("logits: expected numbers, found NaN")
        return [row.copy() for row in logits]

    def _figures(self, outputs: Sequence[Sequence[npt.NDArray[np.float32]]]) -> Scored:
        predicted = np.array([int(rows[0].argmax()) for rows in outputs], dtype=np.int64)
        labels = np.array([example.label for example in self.examples], dtype=np.int64)
        counts: dict[str, float] = {"correct": int((predicted == labels).sum()), "total": len(self)}
        return (Figure("accuracy", correct_mean(labels, predicted)),), counts, predicted

    def _text(self, index: int) -> str:
        example = self.examples[index]
        return f"{example.premise} {_QUESTION[example.question]}"

    def _expected(self, index: int) -> str:
        example = self.examples[index]
        return example.alternatives[example.label]

    def _answer(self, predictions: Any, index: int) -> str:
        return self.examples[index].alternatives[int(predictions[index])]

# SPDX-License-Identifier: Apache-2.0
"""``multiple-choice``: which of several texts goes best with a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from qdqbert.forward_passes import evaluating
from qdqbert.pipelines.base import Options, Pipeline, Row
from qdqbert.pipelines.scores import softmax

__all__ = ["MultipleChoiceOptions", "MultipleChoicePipeline"]


@dataclasses.dataclass(frozen=True, slots=True)
class MultipleChoiceOptions(Options):
    """Options of ``multiple-choice``.

    Attributes
    ----------
    top_k : int or None
        Choices, best first; 1 gives a dictionary, anything else a list; None: all.
    truncation : bool or str
        As in a call of the tokenizer; without it a pair longer than the model takes is an error.
    """

    top_k: int | None = 1
    truncation: bool | str = False

    def __post_init__(self) -> None:
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, int)):
            raise TypeError(f"top_k: expected an integer or None, got {self.top_k!r}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {self.top_k}")


class MultipleChoicePipeline(Pipeline[MultipleChoiceOptions]):
    """Choose among texts.

    Parameters
    ----------
    model : QDQBertForMultipleChoice
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`.
    **options
        `MultipleChoiceOptions`.

    Examples
    --------
    >>> choose = pipeline("multiple-choice", folder)                                   # doctest: +SKIP
    >>> choose("The glass fell.", ["It broke.", "It flew."])                           # doctest: +SKIP
    {'score': 0.93, 'index': 0, 'choice': 'It broke.'}
    """

    task = "multiple-choice"
    auto_class = "AutoModelForMultipleChoice"
    options_class: ClassVar[type[Options]] = MultipleChoiceOptions

    def __call__(self, inputs: Any, choices: Any = None, **options: Any) -> Any:
        """Choose among texts.

        Parameters
        ----------
        inputs : {"prompt": str, "choices": list of str}, a list or an iterator of them, or str
        choices : list of str, optional
            If `inputs` is a prompt.
        **options
            For this call.

        Returns
        -------
        {"score": float, "index": int, "choice": str}, or a list or iterator of them
            Scores of one prompt's choices add up to 1.  Unless `top_k` is 1 a list for each prompt.
        """
        if choices is not None:
            inputs = {"prompt": inputs, "choices": choices}
        return super().__call__(inputs, **options)

    def _rows(self, item: Any, options: MultipleChoiceOptions) -> list[Row]:
        if not isinstance(item, Mapping) or item.keys() != {"prompt", "choices"}:
            raise ValueError(f"inputs: expected {{'prompt': ..., 'choices': [...]}}, got {item!r:.60}")
        prompt, choices = item["prompt"], item["choices"]
        if not isinstance(prompt, str):
            raise ValueError(f"prompt: expected a text, got {prompt!r:.60}")
        if not isinstance(choices, list | tuple) or not choices:
            raise ValueError(f"choices: expected a list of at least one text, got {choices!r:.60}")
        for index, choice in enumerate(choices):
            if not isinstance(choice, str):
                raise ValueError(f"choices[{index}]: expected a text, got {choice!r:.60}")
        return [
            row for choice in choices for row in self._encode(prompt, choice, truncation=options.truncation)
        ]

    def _forward(self, rows: Sequence[Row]) -> Any:
        # Choices are scored one by one, so those of several prompts share a batch: each is one of one.
        inputs = {name: array[:, None] for name, array in self._inputs(rows).items()}
        with evaluating(self.model):
            return self.model(**inputs, return_dict=True)

    def _take(self, outputs: Any, index: int, row: Row, options: MultipleChoiceOptions) -> np.float32:
        score: np.float32 = outputs.logits[index, 0]
        return score

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: MultipleChoiceOptions,
        given: frozenset[str],
    ) -> Any:
        scores = softmax(np.array(taken, dtype=np.float32))
        order = np.argsort(-scores, kind="stable")[: options.top_k]
        results = [{"score": float(scores[i]), "index": int(i), "choice": item["choices"][i]} for i in order]
        return results[0] if options.top_k == 1 else results

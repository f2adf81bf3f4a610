# SPDX-License-Identifier: Apache-2.0
"""``next-sentence-prediction``: whether the second text of a pair follows the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.pipelines.base import Options, Pipeline, Row
from qdqbert.pipelines.scores import softmax

__all__ = ["NextSentencePredictionOptions", "NextSentencePredictionPipeline"]

# The classes of the head, by the names of the paper.
_LABELS = ("IsNext", "NotNext")


@dataclasses.dataclass(frozen=True, slots=True)
class NextSentencePredictionOptions(Options):
    """Options of ``next-sentence-prediction``.

    Attributes
    ----------
    top_k : int or None
        1: the likelier label; 2 or None: a list of both, the likelier first.
    truncation : bool or str
        As in a call of the tokenizer; without it a pair longer than the model takes is an error.
    """

    top_k: int | None = 1
    truncation: bool | str = False

    def __post_init__(self) -> None:
        if self.top_k not in (None, 1, 2):
            raise ValueError(f"top_k: expected 1, 2 or None, got {self.top_k!r}")


class NextSentencePredictionPipeline(Pipeline[NextSentencePredictionOptions]):
    """Tell whether a text follows another.

    Parameters
    ----------
    model : QDQBertForNextSentencePrediction
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`.
    **options
        `NextSentencePredictionOptions`.
    """

    task = "next-sentence-prediction"
    auto_class = "AutoModelForNextSentencePrediction"
    options_class: ClassVar[type[Options]] = NextSentencePredictionOptions

    def __call__(self, inputs: Any, text_pair: Any = None, **options: Any) -> Any:
        """Tell whether texts follow others.

        Parameters
        ----------
        inputs : {"text": str, "text_pair": str}, a list or an iterator of them, or str
        text_pair : str, optional
            The second text, if `inputs` is the first.
        **options
            For this call.

        Returns
        -------
        {"label": "IsNext" or "NotNext", "score": float}, or a list or iterator of them
            With ``top_k`` of 2 or None a list of both for each pair.
        """
        if text_pair is not None:
            inputs = {"text": inputs, "text_pair": text_pair}
        return super().__call__(inputs, **options)

    def _rows(self, item: Any, options: NextSentencePredictionOptions) -> list[Row]:
        if not isinstance(item, Mapping) or item.keys() != {"text", "text_pair"}:
            raise ValueError(f"inputs: expected {{'text': ..., 'text_pair': ...}}, got {item!r:.60}")
        for key in ("text", "text_pair"):
            if not isinstance(item[key], str):
                raise ValueError(f"{key}: expected a text, got {item[key]!r:.60}")
        return self._encode(item["text"], item["text_pair"], truncation=options.truncation)

    def _take(
        self, outputs: Any, index: int, row: Row, options: NextSentencePredictionOptions
    ) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = outputs.logits[index].copy()
        return logits

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: NextSentencePredictionOptions,
        given: frozenset[str],
    ) -> Any:
        scores = softmax(taken[0])
        order = np.argsort(-scores, kind="stable")
        results = [{"label": _LABELS[i], "score": float(scores[i])} for i in order]
        return results[0] if options.top_k == 1 else results

# SPDX-License-Identifier: Apache-2.0
"""``text-classification``: the label of a text or of a pair of texts, or several with their scores."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.pipelines.base import Options, Pipeline, Row
from qdqbert.pipelines.scores import sigmoid, softmax

__all__ = ["TextClassificationOptions", "TextClassificationPipeline"]

_FUNCTIONS = ("default", "none", "softmax", "sigmoid")


@dataclasses.dataclass(frozen=True, slots=True)
class TextClassificationOptions(Options):
    """Options of ``text-classification``.

    Attributes
    ----------
    top_k : int or None
        Labels of a text, best first; None: all.  Naming it at all makes the result a list.
    function_to_apply : {None, "default", "none", "softmax", "sigmoid"}
        From logits to scores.  None and default: sigmoid for one label and for
        ``problem_type="multi_label_classification"``, otherwise softmax.
    return_all_scores : bool, optional
        Deprecated in transformers: True is ``top_k=None``, False ``top_k=1``.
    truncation, max_length, padding, add_special_tokens
        As in a call of the tokenizer; without `truncation` a text longer than the model takes is an error.
    """

    top_k: int | None = 1
    function_to_apply: str | None = None
    return_all_scores: bool | None = None
    truncation: bool | str = False
    max_length: int | None = None
    padding: bool | str = False
    add_special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, int)):
            raise TypeError(f"top_k: expected an integer or None, got {self.top_k!r}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {self.top_k}")
        if self.function_to_apply is not None and self.function_to_apply not in _FUNCTIONS:
            raise ValueError(
                f"function_to_apply: expected one of {', '.join(_FUNCTIONS)}, got {self.function_to_apply!r}"
            )


class TextClassificationPipeline(Pipeline[TextClassificationOptions]):
    """Label texts.

    Parameters
    ----------
    model : QDQBertForSequenceClassification
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`.
    **options
        `TextClassificationOptions`.

    Examples
    --------
    >>> from qdqbert import pipeline
    >>> from qdqbert.cli.demo import bundled_folder
    >>> classify = pipeline("text-classification", bundled_folder())
    >>> texts = ["The state has mountains.", "Chopin wrote for the piano."]
    >>> [result["label"] for result in classify(texts)]
    ['Montana', 'Frédéric_Chopin']
    """

    task = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    options_class: ClassVar[type[Options]] = TextClassificationOptions

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Label texts.

        Parameters
        ----------
        inputs : str, {"text": str, "text_pair": str}, a list or an iterator of them
        **options
            For this call.

        Returns
        -------
        list of {"label": str, "score": float}
            For one string, and for each input of a list if `top_k` is named; a dictionary for each input of a
            list or iterator, and for one pair, if it is not.
        """
        if options.get("return_all_scores") is not None and "top_k" not in options:
            warnings.warn(
                "return_all_scores is deprecated: top_k=None gives all labels, top_k=1 the best",
                UserWarning,
                stacklevel=2,
            )
        result = super().__call__(inputs, **options)
        return [result] if isinstance(inputs, str) and "top_k" not in options else result

    def _rows(self, item: Any, options: TextClassificationOptions) -> list[Row]:
        return self._encode(
            *_texts(item),
            truncation=options.truncation,
            max_length=options.max_length,
            padding=options.padding,
            add_special_tokens=options.add_special_tokens,
        )

    def _take(
        self, outputs: Any, index: int, row: Row, options: TextClassificationOptions
    ) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = outputs.logits[index].copy()
        return logits

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: TextClassificationOptions,
        given: frozenset[str],
    ) -> Any:
        scores = self._scores(taken[0], options.function_to_apply)
        is_list = "top_k" in given
        top_k = options.top_k
        if not is_list and options.return_all_scores is not None:
            top_k = None if options.return_all_scores else 1
        if top_k == 1 and not is_list:
            best = int(scores.argmax())
            return {"label": self._label(best), "score": float(scores[best])}
        # Without top_k the old form: every label, in the order of the model.
        order = np.argsort(-scores, kind="stable")[:top_k] if is_list else range(len(scores))
        return [{"label": self._label(int(i)), "score": float(scores[i])} for i in order]

    def _scores(self, logits: npt.NDArray[np.float32], function: str | None) -> npt.NDArray[np.float32]:
        config = self.model.config
        if function in (None, "default"):
            is_multi_label = config.problem_type == "multi_label_classification"
            function = "sigmoid" if is_multi_label or config.num_labels == 1 else "softmax"
        if function == "none":
            return logits
        return sigmoid(logits) if function == "sigmoid" else softmax(logits)


def _texts(item: Any) -> Iterator[str]:
    """Yield the text, or the two texts of a pair."""
    if isinstance(item, Mapping):
        if "text" not in item or not item.keys() <= {"text", "text_pair"}:
            raise ValueError(
                f"inputs: expected the keys 'text' and 'text_pair', got {', '.join(map(str, item))}"
            )
        values = [item["text"], *([item["text_pair"]] if item.get("text_pair") is not None else [])]
    elif isinstance(item, list) and len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
        values = item[0]  # an old form of a pair
    else:
        values = [item]
    for value in values:
        if not isinstance(value, str):
            raise ValueError(
                f"inputs: expected a text, or a pair as {{'text': ..., 'text_pair': ...}}, got {value!r:.60}"
            )
        yield value

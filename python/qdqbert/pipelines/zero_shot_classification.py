# SPDX-License-Identifier: Apache-2.0
"""``zero-shot-classification``: labels chosen at the call, scored by a model of entailment.

Each label becomes a hypothesis, "This example is sports.", and the model tells whether the text entails it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.pipelines.base import Options, Pipeline, Row
from qdqbert.pipelines.scores import softmax

__all__ = ["ZeroShotClassificationOptions", "ZeroShotClassificationPipeline"]

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ZeroShotClassificationOptions(Options):
    """Options of ``zero-shot-classification``.

    Attributes
    ----------
    candidate_labels : list of str, or str
        Labels; a string is split at commas.  Needed, for the pipeline or for the call.
    hypothesis_template : str
        With ``{}`` where the label goes.
    multi_label : bool
        Whether each label is scored by itself, against contradiction; otherwise scores add up to 1.
    """

    candidate_labels: Sequence[str] | str = ()
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False

    def __post_init__(self) -> None:
        labels = self.candidate_labels
        if not isinstance(labels, str | list | tuple) or not all(isinstance(label, str) for label in labels):
            raise TypeError(f"candidate_labels: expected strings, got {labels!r:.60}")
        template = self.hypothesis_template
        if not isinstance(template, str) or template.format("x") == template:
            raise ValueError(
                f"hypothesis_template: expected a text with {{}} where the label goes, got {template!r:.60}"
            )

    @property
    def labels(self) -> list[str]:
        """The labels, one by one."""
        if isinstance(self.candidate_labels, str):
            return [label.strip() for label in self.candidate_labels.split(",") if label.strip()]
        return list(self.candidate_labels)


class ZeroShotClassificationPipeline(Pipeline[ZeroShotClassificationOptions]):
    """Score labels that the model has never seen.

    Parameters
    ----------
    model : QDQBertForSequenceClassification
        Trained on entailment; ``config.label2id`` names the label of entailment.
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`.
    **options
        `ZeroShotClassificationOptions`.

    Examples
    --------
    >>> judge = pipeline("zero-shot-classification", folder)           # doctest: +SKIP
    >>> judge("He won the match.", ["sport", "music"])["labels"]       # doctest: +SKIP
    ['sport', 'music']
    """

    task = "zero-shot-classification"
    auto_class = "AutoModelForSequenceClassification"
    options_class: ClassVar[type[Options]] = ZeroShotClassificationOptions

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        if self.entailment_id == -1:
            _logger.warning(
                "no label of config.label2id (%s) begins with 'entail': the last one is taken for entailment",
                ", ".join(map(str, self.model.config.label2id)),
            )

    @property
    def entailment_id(self) -> int:
        """Id of the label whose name begins with "entail", or -1."""
        labels = self.model.config.label2id.items()
        return next((int(i) for label, i in labels if str(label).lower().startswith("entail")), -1)

    def __call__(self, inputs: Any, candidate_labels: Any = None, **options: Any) -> Any:
        """Score labels.

        Parameters
        ----------
        inputs : str, a list or an iterator of them
            Texts; a long one is cut so that the hypothesis fits.
        candidate_labels : list of str, or str
        **options
            For this call.

        Returns
        -------
        {"sequence": str, "labels": list of str, "scores": list of float}, or a list of them
            Labels best first.

        Raises
        ------
        ValueError
            If there is no label or no text.
        """
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        return super().__call__(inputs, **options)

    def _rows(self, item: Any, options: ZeroShotClassificationOptions) -> list[Row]:
        if not isinstance(item, str) or not item:
            raise ValueError(f"inputs: expected a text, got {item!r:.60}")
        if not options.labels:
            raise ValueError("candidate_labels: expected at least one label, got none")
        return [
            row
            for label in options.labels
            for row in self._encode(item, options.hypothesis_template.format(label), truncation="only_first")
        ]

    def _take(
        self, outputs: Any, index: int, row: Row, options: ZeroShotClassificationOptions
    ) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = outputs.logits[index].copy()
        return logits

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: ZeroShotClassificationOptions,
        given: frozenset[str],
    ) -> dict[str, Any]:
        logits, labels = np.stack(taken), options.labels
        entailment = self.entailment_id
        if options.multi_label or len(labels) == 1:
            contradiction = -1 if entailment == 0 else 0
            scores = softmax(logits[:, [contradiction, entailment]])[:, 1]
        else:
            scores = softmax(logits[:, entailment])
        order = scores.argsort()[::-1]
        return {
            "sequence": item,
            "labels": [labels[i] for i in order],
            "scores": [float(scores[i]) for i in order],
        }

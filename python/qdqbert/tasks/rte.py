# SPDX-License-Identifier: Apache-2.0
"""RTE: does the second sentence follow from the first?  Accuracy, and F1 of entailment.

Reference: Dagan, Glickman and Magnini, 2006, "The PASCAL Recognising Textual Entailment Challenge"; the four
editions that GLUE joins.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.metrics import F1, correct_mean
from qdqbert.tasks.sequence_task import Columns, PairOfClasses, TwoClassTask
from qdqbert.tasks.task import Figure

__all__ = ["RTE"]


class RTE(TwoClassTask):
    """Pairs labelled 0 or entailment, 1 or not_entailment; columns `sentence1`, `sentence2`, `label`.

    Parameters
    ----------
    examples, labels, tokenizer, max_length
        As in `SequenceTask`.
    """

    name = "rte"
    metric = "accuracy"
    item = "pair"
    classes: ClassVar[PairOfClasses] = PairOfClasses((("entailment",), ("not_entailment",)))
    columns: ClassVar[Columns] = Columns(
        text=("sentence1", "premise"), pair=("sentence2", "hypothesis"), label=("label", "gold_label")
    )

    def _scores(self, predicted: npt.NDArray[np.int64]) -> tuple[Figure, ...]:
        return (
            Figure("accuracy", correct_mean(self.labels, predicted)),
            Figure("F1", F1(self.labels, predicted, positive=0)),
        )

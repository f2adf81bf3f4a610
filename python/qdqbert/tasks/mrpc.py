# SPDX-License-Identifier: Apache-2.0
"""MRPC, and other pairs that say the same or do not (QQP): F1 of those that do, and accuracy.

Reference: Dolan and Brockett, 2005, "Automatically Constructing a Corpus of Sentential Paraphrases".
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.metrics import F1, correct_mean
from qdqbert.tasks.sequence_task import Columns, PairOfClasses, TwoClassTask
from qdqbert.tasks.task import Figure

__all__ = ["MRPC"]


class MRPC(TwoClassTask):
    """Pairs labelled 0 or not_equivalent, 1 or equivalent.

    Columns are those of MRPC's own files (`Quality`, ``#1 String``, ``#2 String``), of QQP's (`question1`,
    `question2`, `is_duplicate`), or `sentence1`, `sentence2`, `label`.

    Parameters
    ----------
    examples, labels, tokenizer, max_length
        As in `SequenceTask`.
    """

    name = "mrpc"
    metric = "F1"
    item = "pair"
    classes: ClassVar[PairOfClasses] = PairOfClasses(
        (
            ("not_equivalent", "not_duplicate", "not_paraphrase"),
            ("equivalent", "duplicate", "paraphrase"),
        )
    )
    columns: ClassVar[Columns] = Columns(
        text=("sentence1", "#1 String", "question1"),
        pair=("sentence2", "#2 String", "question2"),
        label=("label", "Quality", "is_duplicate"),
    )

    def _scores(self, predicted: npt.NDArray[np.int64]) -> tuple[Figure, ...]:
        return (
            Figure("F1", F1(self.labels, predicted)),
            Figure("accuracy", correct_mean(self.labels, predicted)),
        )

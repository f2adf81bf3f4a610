# SPDX-License-Identifier: Apache-2.0
"""SST-2: is a sentence of a film review positive or negative?  Accuracy.

Reference: Socher et al., 2013, "Recursive Deep Models for Semantic Compositionality Over a Sentiment
Treebank"; in GLUE: Wang et al., 2019, "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural
Language Understanding".
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.metrics import correct_mean
from qdqbert.tasks.sequence_task import Columns, PairOfClasses, TwoClassTask
from qdqbert.tasks.task import Figure

__all__ = ["SST2"]


class SST2(TwoClassTask):
    """Sentences labelled 0 or negative, 1 or positive; columns `sentence` and `label`.

    Parameters
    ----------
    examples, labels, tokenizer, max_length
        As in `SequenceTask`.
    """

    name = "sst2"
    metric = "accuracy"
    classes: ClassVar[PairOfClasses] = PairOfClasses((("negative", "neg"), ("positive", "pos")))
    columns: ClassVar[Columns] = Columns(text=("sentence", "text"), label=("label",))

    def _scores(self, predicted: npt.NDArray[np.int64]) -> tuple[Figure, ...]:
        return (Figure("accuracy", correct_mean(self.labels, predicted)),)

# SPDX-License-Identifier: Apache-2.0
"""CoLA: is a sentence acceptable English?  Matthews' correlation.

Reference: Warstadt, Singh and Bowman, 2019, "Neural Network Acceptability Judgments".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.encoding import TextExample
from qdqbert.tasks.metrics import Matthews, correct_mean
from qdqbert.tasks.rows import iterate_lines
from qdqbert.tasks.sequence_task import Columns, PairOfClasses, TwoClassTask
from qdqbert.tasks.task import Figure

__all__ = ["CoLA"]


class CoLA(TwoClassTask):
    """Sentences labelled 0 or unacceptable, 1 or acceptable.

    A ``.tsv`` is the official one: no header; source, label, the linguist's mark (ignored) and sentence.  CSV
    and JSON lines have columns `sentence` and `label`.

    Parameters
    ----------
    examples, labels, tokenizer, max_length
        As in `SequenceTask`.
    """

    name = "cola"
    metric = "Matthews"
    classes: ClassVar[PairOfClasses] = PairOfClasses((("unacceptable",), ("acceptable",)))
    columns: ClassVar[Columns] = Columns(text=("sentence", "text"), label=("label",))

    @classmethod
    def _examples(cls, file: Path) -> Iterator[TextExample]:
        if file.suffix.lower() != ".tsv":
            yield from super()._examples(file)
            return
        for line, text in iterate_lines(file):
            cells = text.split("\t")
            if len(cells) != 4:
                raise DataError(
                    f"{file}:{line}: expected 4 columns (source, label, mark, sentence), found {len(cells)}"
                )
            yield TextExample(cells[3].strip(), cells[1].strip(), None, line)

    def _scores(self, predicted: npt.NDArray[np.int64]) -> tuple[Figure, ...]:
        return (
            Figure("Matthews", Matthews(self.labels, predicted)),
            Figure("accuracy", correct_mean(self.labels, predicted)),
        )

# SPDX-License-Identifier: Apache-2.0
"""One interface to the tasks, so that calibrate, quantize, eval and demo are written once.

A `Workload` is a data file read for a model: it gives calibration batches and scores the model.  Both tasks
score every item separately, because that is what a paired comparison of two models needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.cli.report import UsageError
from qdqbert.tasks import squad, text_classification

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TASKS", "Score", "Workload", "add_data_arguments", "add_task_arguments", "open_workload"]

TASKS = ("squad", "classification")

_LONGEST_WINDOW = 384
_SQUAD_ONLY = (
    "doc_stride",
    "max_query_length",
    "max_answer_length",
    "n_best_size",
    "null_score_diff_threshold",
)
_Batch = dict[str, npt.NDArray[np.int64]]


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """How a model did.

    Attributes
    ----------
    value : float
        The figure to compare by, percent: F1 or accuracy.
    metrics : dict of str to float
        Everything that was measured, percent and counts.
    items : ndarray (N,) float64
        The figure for each item, percent.
    milliseconds : float
        Time inside the model for an item (not reading, tokenizing, or searching answers), wall clock.
    details : object
        What the task itself returned.
    """

    value: float
    metrics: dict[str, float]
    items: npt.NDArray[np.float64]
    milliseconds: float
    details: Any


class _Stopwatch:
    """A model whose calls are timed."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.seconds = 0.0

    def __call__(self, **inputs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return self._model(**inputs)
        finally:
            self.seconds += time.perf_counter() - begin


class Workload(ABC):
    """A data file, read and checked for one model.

    Attributes
    ----------
    task : str
        One of `TASKS`.
    metric : str
        Name of the figure to compare by.
    item : str
        What is counted: "question" or "text".
    """

    task: str
    metric: str
    item: str

    @abstractmethod
    def __len__(self) -> int:
        """Items."""

    @abstractmethod
    def select(self, indices: Sequence[int]) -> Self:
        """Return the workload of some of the items."""

    @abstractmethod
    def batches(self, samples: int, seed: int, batch_size: int) -> Iterator[_Batch]:
        """Model inputs of some random items."""

    @abstractmethod
    def score(self, model: Any, progress: bool | None = None) -> Score:
        """Run the model on every item."""


class _Squad(Workload):
    task, metric, item = "squad", "F1", "question"

    def __init__(
        self, dataset: squad.SquadDataset, tokenizer: Tokenizer, options: squad.SquadOptions
    ) -> None:
        self.dataset, self._tokenizer, self._options = dataset, tokenizer, options

    def __len__(self) -> int:
        return len(self.dataset.examples)

    def select(self, indices: Sequence[int]) -> Self:
        examples = tuple(self.dataset.examples[index] for index in indices)
        return type(self)(
            dataclasses.replace(self.dataset, examples=examples), self._tokenizer, self._options
        )

    def batches(self, samples: int, seed: int, batch_size: int) -> Iterator[_Batch]:
        return squad.calibration_batches(
            self.dataset.examples,
            self._tokenizer,
            self._options,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
        )

    def score(self, model: Any, progress: bool | None = None) -> Score:
        timed = _Stopwatch(model)
        result = squad.evaluate(
            timed, self.dataset, self._tokenizer, self._options, keep_n_best=True, progress=progress
        )
        return Score(
            result.f1,
            result.metrics,
            result.question_f1,
            1000.0 * timed.seconds / len(self),
            result.predictions,
        )


class _Classification(Workload):
    task, metric, item = "classification", "accuracy", "text"

    def __init__(
        self,
        examples: Sequence[text_classification.TextExample],
        labels: npt.NDArray[np.int64],
        tokenizer: Tokenizer,
        max_length: int,
    ) -> None:
        self.examples, self._labels, self._tokenizer, self._max_length = (
            examples,
            labels,
            tokenizer,
            max_length,
        )

    def __len__(self) -> int:
        return len(self.examples)

    def select(self, indices: Sequence[int]) -> Self:
        examples = [self.examples[index] for index in indices]
        return type(self)(examples, self._labels[list(indices)], self._tokenizer, self._max_length)

    def batches(self, samples: int, seed: int, batch_size: int) -> Iterator[_Batch]:
        return text_classification.calibration_batches(
            self.examples,
            self._tokenizer,
            max_length=self._max_length,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
        )

    def score(self, model: Any, progress: bool | None = None) -> Score:
        timed = _Stopwatch(model)
        result = text_classification.evaluate(
            timed,
            self.examples,
            self._labels,
            self._tokenizer,
            max_length=self._max_length,
            progress=progress,
        )
        metrics = {"accuracy": result.accuracy, "correct": int(result.correct.sum()), "total": len(self)}
        return Score(
            result.accuracy,
            metrics,
            100.0 * result.correct.astype(np.float64),
            1000.0 * timed.seconds / len(self),
            result,
        )


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how data becomes model inputs."""
    group = parser.add_argument_group("task")
    group.add_argument("--task", choices=TASKS, help="default: what the checkpoint's head is for")
    group.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="longest input in wordpieces (default: 384 for squad, otherwise what the model takes)",
    )
    group.add_argument("--doc-stride", type=int, metavar="N", help="squad: step between windows (128)")
    group.add_argument("--max-query-length", type=int, metavar="N", help="squad: longest question (64)")
    group.add_argument("--max-answer-length", type=int, metavar="N", help="squad: longest answer (30)")
    group.add_argument("--n-best-size", type=int, metavar="N", help="squad: candidates kept (20)")
    group.add_argument(
        "--null-score-diff-threshold",
        type=float,
        metavar="X",
        help="squad v2.0: how much better 'no answer' must score to be given (0)",
    )


def add_data_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the data file and the choice of calibration samples."""
    parser.add_argument("--data", required=True, metavar="FILE", help=what)
    parser.add_argument("--samples", type=int, default=128, metavar="N", help="calibration samples (128)")
    parser.add_argument("--seed", type=int, default=13, metavar="N", help="which samples are drawn (13)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="samples of a batch (1)")


def open_workload(
    arguments: argparse.Namespace, task: str, path: str | Path, tokenizer: Tokenizer, config: Any
) -> Workload:
    """Read a data file for a model.

    Parameters
    ----------
    arguments : Namespace
        With what `add_task_arguments` adds.
    task : str
        One of `TASKS`.
    path : path
    tokenizer : tokenizers.Tokenizer
    config : QDQBertConfig

    Returns
    -------
    Workload

    Raises
    ------
    DataError
        If the file is missing, malformed, or has labels that the model does not know.
    UsageError
        If lengths do not go together or exceed the model's positions, or an option is of another task.
    """
    given = {name: getattr(arguments, name) for name in _SQUAD_ONLY if getattr(arguments, name) is not None}
    if given and task != "squad":
        raise UsageError(f"--{next(iter(given)).replace('_', '-')}: is for squad only, the task is {task}")
    positions = int(config.max_position_embeddings)
    longest = arguments.max_length
    if longest is None:
        longest = min(_LONGEST_WINDOW, positions) if task == "squad" else positions
    if not 4 <= longest <= positions:
        raise UsageError(f"--max-length: expected 4 .. {positions} (the model's positions), found {longest}")
    if task == "squad":
        dataset = squad.read_squad(path)
        try:
            options = squad.SquadOptions(
                max_seq_length=longest, version_2_with_negative=dataset.version_2, **given
            )
        except ValueError as error:
            raise UsageError(f"--{str(error).replace('_', '-')}") from error
        return _Squad(dataset, tokenizer, options)
    examples = text_classification.read_texts(path)
    labels = text_classification.label_ids(examples, config.id2label, str(path))
    return _Classification(examples, labels, tokenizer, longest)

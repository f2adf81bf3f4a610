# SPDX-License-Identifier: Apache-2.0
"""One protocol for every task: read data for a model, give calibration batches, score the model.

A task is data read for one model.  Its life is the same for every head::

    tokenizer = qdqbert.AutoTokenizer.from_pretrained(folder)
    task = qdqbert.tasks.SST2.read("dev.tsv", tokenizer, model.config)
    qdqbert.calibrate(model, task.batches(samples=128), method="percentile")
    result = task.evaluate(model)
    print(result)  # sst2, 872 sentences: accuracy 86.12 (83.83 .. 88.42)
    result["accuracy"].difference(before["accuracy"])  # paired: the same items

A model is anything that is called with keyword arguments (`input_ids`, `attention_mask`, `token_type_ids`:
int64 arrays) and returns an object with `logits`, as the models of this package do; whatever computes logits
elsewhere can be scored here too.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from qdqbert.forward_passes import evaluating
from qdqbert.seeds import require_seed
from qdqbert.tasks.batching import MAX_BATCH_TOKENS, chunks, iterate_outputs
from qdqbert.tasks.bootstrap import Interval, PairedDifference, bootstrap_difference, bootstrap_interval
from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.metrics import Statistic

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["Evaluation", "FeatureTask", "Figure", "Inputs", "Scored", "Task", "as_paths", "longest_input"]

Inputs = dict[str, npt.NDArray[np.int64]]
F = TypeVar("F")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of an evaluation.

    Attributes
    ----------
    name : str
    statistic : Statistic
        Over the items of the task.
    scale : float
        What its values are multiplied with: 100 makes percent of shares.
    higher_is_better : bool
    is_detail : bool
        Whether tables for people leave it out.
    """

    name: str
    statistic: Statistic
    scale: float = 100.0
    higher_is_better: bool = True
    is_detail: bool = False

    @property
    def value(self) -> float:
        """Score, in percent where `scale` is 100; NaN where the metric is not defined."""
        return self.scale * self.statistic.value()

    def interval(self, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
        """Bootstrap interval of the score.

        Parameters
        ----------
        confidence, resamples, seed
            As in `bootstrap_interval`.

        Returns
        -------
        Interval
            In the unit of `value`.

        Raises
        ------
        ValueError
            If a number is out of its range.
        """
        found = bootstrap_interval(self.statistic, confidence=confidence, resamples=resamples, seed=seed)
        return Interval(self.scale * found.low, self.scale * found.high, found.undefined)

    def difference(
        self, baseline: Figure, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> PairedDifference:
        """Subtract another model's score on the same items, with a paired bootstrap interval.

        Parameters
        ----------
        baseline : Figure
            Of the same task and name.
        confidence, resamples, seed
            As in `bootstrap_difference`.

        Returns
        -------
        PairedDifference
            In the unit of `value`.

        Raises
        ------
        ValueError
            If the figures are of different metrics or items, or a number is out of its range.
        """
        if (self.name, self.scale) != (baseline.name, baseline.scale):
            raise ValueError(f"baseline: expected a figure named {self.name!r}, found {baseline.name!r}")
        found = bootstrap_difference(
            self.statistic,
            baseline.statistic,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
        return PairedDifference(*(self.scale * value for value in (found.mean, found.low, found.high)))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a model did on a task.

    Attributes
    ----------
    task : str
        Name of the task.
    item : str
        What was scored, e.g. "sentence".
    items : int
        How many.
    figures : tuple of Figure
        The first is the one to compare models by.
    counts : dict of str to float
        What else was counted.
    predictions : sequence
        Of each item, in order; what one is depends on the task.
    milliseconds : float
        Time inside the model for an item, wall clock.
    """

    task: str
    item: str
    items: int
    figures: tuple[Figure, ...]
    counts: dict[str, float]
    predictions: Any
    milliseconds: float

    @property
    def value(self) -> float:
        """Score to compare by: that of the first figure."""
        return self.figures[0].value

    @property
    def metrics(self) -> dict[str, float]:
        """Scores and counts by name."""
        return {figure.name: figure.value for figure in self.figures} | self.counts

    def __getitem__(self, name: str) -> Figure:
        """Figure of a name."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"{name!r}: expected one of {', '.join(figure.name for figure in self.figures)}")

    def __str__(self) -> str:
        parts = []
        for figure in self.figures:
            if not figure.is_detail:
                interval = figure.interval()
                parts.append(f"{figure.name} {figure.value:.2f} ({interval.low:.2f} .. {interval.high:.2f})")
        plural = "" if self.items == 1 else "s"
        return f"{self.task}, {self.items} {self.item}{plural}: {', '.join(parts)}"


# Figures, counts, and the prediction of each item.
Scored = tuple[tuple[Figure, ...], dict[str, float], Any]


class Task(ABC):
    """Data read and checked for one model.

    Attributes
    ----------
    name : str
        As on the command line.
    model_class : str
        Class of the models that it is for, e.g. ``"QDQBertForTokenClassification"``.
    metric : str
        Name of the figure to compare models by.
    higher_is_better : bool
        Whether more of it is better.
    item : str
        What is counted and resampled, e.g. "sentence".
    batch_tokens : int
        Most tokens of one call of a model, where nothing else is asked for.
    """

    name: ClassVar[str]
    model_class: ClassVar[str]
    metric: str
    higher_is_better: ClassVar[bool] = True
    item: ClassVar[str]
    # Tokens of a batch; a task with large outputs asks for less.
    batch_tokens: ClassVar[int] = MAX_BATCH_TOKENS

    @classmethod
    @abstractmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
    ) -> Self:
        """Read data files for a model.

        Parameters
        ----------
        paths : path or sequence of paths
            One or more files; their items follow each other.
        tokenizer : tokenizers.Tokenizer or BertTokenizerFast
        config : QDQBertConfig
            Of the model: its positions and its labels.
        max_length : int, optional
            Longest input in wordpieces, special tokens included; up to the model's positions.

        Raises
        ------
        DataError
            If a file is missing or malformed, or does not fit the model; with file and line.
        ValueError
            If the model's configuration or an option does not fit the task.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Items."""

    def select(self, indices: Sequence[int]) -> Self:
        """Return the task of some of the items.

        Parameters
        ----------
        indices : sequence of int
            In [0, items); in the order of the new task.

        Returns
        -------
        Task
        """
        return self._select(indices)

    def batches(self, samples: int = 128, *, seed: int = 13, batch_size: int = 1) -> Iterator[Inputs]:
        """Model inputs for calibration, of ``random.Random(seed).sample(items, samples)``, in that order.

        Parameters
        ----------
        samples : int
            Items, >= 1; all of them, shuffled, if there are fewer.  Of a text that is cut into several inputs
            the first is taken.
        seed : int
            Which items are drawn.
        batch_size : int
            Items of a batch, >= 1; 1 leaves nothing to pad.

        Yields
        ------
        dict of ndarray int64
            `input_ids`, `attention_mask`, `token_type_ids`.

        Raises
        ------
        ValueError
            If `samples` or `batch_size` is not positive, or `seed` negative.
        TypeError
            If `seed` is no integer.
        """
        if samples < 1 or batch_size < 1:
            raise ValueError(
                f"samples, batch_size: expected at least 1 of each, found {samples}, {batch_size}"
            )
        require_seed("seed", seed)
        chosen = random.Random(seed).sample(range(len(self)), min(samples, len(self)))
        for batch in chunks(chosen, batch_size):
            yield self._batch(batch)

    def evaluate(
        self, model: Any, *, max_batch_tokens: int | None = None, progress: bool | None = None
    ) -> Evaluation:
        """Run a model on every item and score what comes back.

        Parameters
        ----------
        model : callable
            See the module's text.
        max_batch_tokens : int, optional
            Most tokens, padding included, of one call of the model; >= 1.
        progress : bool, optional
            Whether to show a bar on stderr; by default on a terminal only.

        Returns
        -------
        Evaluation

        Raises
        ------
        ValueError
            If the model's outputs do not have the shape that the task needs.
        """
        timed = _Stopwatch(model)
        budget = self.batch_tokens if max_batch_tokens is None else max_batch_tokens
        figures, counts, predictions = self._score(timed, budget, progress)
        return Evaluation(
            self.name, self.item, len(self), figures, counts, predictions, timed.milliseconds / len(self)
        )

    def text_of(self, index: int) -> str:
        """Return an item as people read it.

        Parameters
        ----------
        index : int
            Of the item.

        Returns
        -------
        str
        """
        return self._text(index)

    def expected(self, index: int) -> str:
        """Return the right answer to an item, as people read it.

        Parameters
        ----------
        index : int
            Of the item.

        Returns
        -------
        str
        """
        return self._expected(index)

    def answer(self, evaluation: Evaluation, index: int) -> str:
        """Return the answer to an item that a model gave, as people read it.

        Parameters
        ----------
        evaluation : Evaluation
            Of this task.
        index : int
            Of the item.

        Returns
        -------
        str
        """
        return self._answer(evaluation.predictions, index)

    @abstractmethod
    def _select(self, indices: Sequence[int]) -> Self: ...

    @abstractmethod
    def _batch(self, indices: Sequence[int]) -> Inputs:
        """Model inputs of some items."""

    @abstractmethod
    def _score(self, model: Any, max_batch_tokens: int, progress: bool | None) -> Scored:
        """Figures, counts and predictions."""

    @abstractmethod
    def _text(self, index: int) -> str: ...

    @abstractmethod
    def _expected(self, index: int) -> str: ...

    @abstractmethod
    def _answer(self, predictions: Any, index: int) -> str: ...


class FeatureTask(Task, Generic[F, R]):
    """A task whose items become sequences, each of which the model answers.

    A subclass says what the sequences of an item are (`_features`: F, at least one), how some of them become
    model inputs (`_inputs`), what is kept of the model's outputs for each of them (`_outputs`: R), and what
    the outputs of all items amount to (`_figures`).
    """

    @abstractmethod
    def _features(self, index: int) -> list[F]: ...

    @abstractmethod
    def _size(self, feature: F) -> int:
        """Tokens of a feature."""

    @abstractmethod
    def _inputs(self, features: Sequence[F]) -> Inputs: ...

    @abstractmethod
    def _outputs(self, out: Any, features: Sequence[F]) -> Sequence[R]: ...

    @abstractmethod
    def _figures(self, outputs: Sequence[Sequence[R]]) -> Scored:
        """Figures, counts and predictions, from the outputs of each item's features."""

    def _batch(self, indices: Sequence[int]) -> Inputs:
        return self._inputs([self._features(index)[0] for index in indices])

    def _score(self, model: Any, max_batch_tokens: int, progress: bool | None) -> Scored:
        answers = iterate_outputs(
            model,
            (self._features(index) for index in range(len(self))),
            size=self._size,
            inputs=self._inputs,
            outputs=self._outputs,
            max_batch_tokens=max_batch_tokens,
            total=len(self),
            unit=self.item,
            description=self.name,
            progress=progress,
        )
        return self._figures(list(answers))


class _Stopwatch:
    """A model whose calls are timed, and made in evaluation mode.

    Parameters
    ----------
    model : callable

    Attributes
    ----------
    milliseconds : float
        Spent in calls so far, wall clock.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.milliseconds = 0.0

    def __call__(self, **inputs: Any) -> Any:
        """Call the model."""
        begin = time.perf_counter()
        try:
            with evaluating(self._model):
                return self._model(**inputs)
        finally:
            self.milliseconds += 1000.0 * (time.perf_counter() - begin)


def as_paths(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Take one path or several.

    Parameters
    ----------
    paths : path or sequence of paths

    Returns
    -------
    list of Path
        At least one.

    Raises
    ------
    ValueError
        If there is none.
    DataError
        If one is a folder.
    """
    several = paths if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]
    files = [Path(path) for path in several]
    if not files:
        raise ValueError("paths: expected at least one file, found none")
    for file in files:
        if file.is_dir():
            raise DataError(f"{file}: expected a file, found a folder")
    return files


def longest_input(max_length: int | None, config: Any, *, default: int | None = None, least: int = 4) -> int:
    """Length to which inputs are cut, checked against the model's positions.

    Parameters
    ----------
    max_length : int or None
        None: `default`, or as many tokens as the model has positions for.
    config : QDQBertConfig
    default : int, optional
        Taken where the model has as many positions.
    least : int
        What the task needs.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If `max_length` is not in `least` .. ``config.max_position_embeddings``.
    """
    positions = int(config.max_position_embeddings)
    if max_length is None:
        max_length = positions if default is None else min(default, positions)
    if not least <= max_length <= positions:
        raise ValueError(
            f"max_length: expected {least} .. {positions} (the model's positions), found {max_length}"
        )
    return max_length

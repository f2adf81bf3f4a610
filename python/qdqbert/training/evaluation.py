# SPDX-License-Identifier: Apache-2.0
"""The loop of evaluations and predictions, and what is kept of its batches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.forward_passes import evaluating
from qdqbert.training.trainer_state import EvalLoopOutput, EvalPrediction
from qdqbert.training.training_loop import batches_of, items_of

if TYPE_CHECKING:
    from qdqbert.tasks.task import Task
    from qdqbert.training.trainer import Trainer

__all__ = ["PADDING", "Gathered", "evaluate_batches", "evaluate_task", "figure_key", "only"]

PADDING = -100


class Gathered:
    """Arrays of batches, or tuples of them, to be put together at the end.

    Arrays whose second axis differs from batch to batch, padded lengths, are filled up with `PADDING`.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Any, ...]] = []
        self._is_tuple = False

    def add(self, value: Any) -> None:
        """Append a batch's value; None is nothing.

        Parameters
        ----------
        value : array, tuple of arrays or None
        """
        if value is None:
            return
        self._is_tuple = isinstance(value, tuple)
        self._parts.append(tuple(value) if self._is_tuple else (value,))

    def result(self) -> Any:
        """Return one array, or a tuple of them; None if nothing was added."""
        if not self._parts:
            return None
        columns = tuple(_joined(column) for column in zip(*self._parts, strict=True))
        return columns if self._is_tuple else columns[0]


def evaluate_batches(
    trainer: Trainer,
    loader: Any,
    loss_only: bool,
    ignore_keys: Sequence[str] | None,
    prefix: str,
) -> EvalLoopOutput:
    """Run a trainer's model on every batch, in evaluation mode, and score what comes back.

    Parameters
    ----------
    trainer : Trainer
        Its `prediction_step` runs the model, its ``compute_metrics`` scores.
    loader : BatchLoader or iterable of dicts of arrays
    loss_only : bool
        Keep the loss alone.
    ignore_keys : sequence of str or None
        Outputs that are not kept.
    prefix : str
        What the names of figures begin with.

    Returns
    -------
    EvalLoopOutput
    """
    model, args = trainer.model, trainer.args
    predictions, labels, inputs_kept = Gathered(), Gathered(), Gathered()
    loss_sum, scored, samples = 0.0, 0, 0
    with evaluating(model):
        for inputs in batches_of(loader, 0, 0):
            items = items_of(inputs)
            samples += items
            loss, logits, label = trainer.prediction_step(model, inputs, loss_only, ignore_keys)
            if loss is not None:
                loss_sum, scored = loss_sum + float(loss) * items, scored + items
            if logits is not None and trainer.preprocess_logits_for_metrics is not None:
                logits = trainer.preprocess_logits_for_metrics(logits, label)
            predictions.add(logits)
            labels.add(label)
            if args.include_inputs_for_metrics:
                inputs_kept.add(np.asarray(inputs[model.main_input_name]))
            trainer._call("on_prediction_step")
    kept, expected = predictions.result(), labels.result()
    figures: dict[str, Any] = {}
    if trainer.compute_metrics is not None and kept is not None and expected is not None:
        computed = trainer.compute_metrics(EvalPrediction(kept, expected, inputs_kept.result()))
        if not isinstance(computed, Mapping):
            raise TypeError(f"compute_metrics: expected a dict of figures, got {type(computed).__name__}")
        figures.update(computed)
    if scored:
        figures[f"{prefix}_loss"] = loss_sum / scored
    metrics = {
        name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": _plain(value)
        for name, value in figures.items()
    }
    return EvalLoopOutput(kept, expected, metrics, samples)


def evaluate_task(trainer: Trainer, task: Task, prefix: str) -> EvalLoopOutput:
    """Score a trainer's model on a task.

    Parameters
    ----------
    trainer : Trainer
    task : Task
    prefix : str
        What the names of figures begin with.

    Returns
    -------
    EvalLoopOutput
        Its predictions are what `Task.evaluate` gives.
    """
    disabled = trainer.args.disable_tqdm
    evaluation = task.evaluate(trainer.model, progress=None if disabled is None else not disabled)
    metrics = {f"{prefix}_{figure_key(name)}": float(value) for name, value in evaluation.metrics.items()}
    return EvalLoopOutput(
        evaluation.predictions, None, {**metrics, f"{prefix}_samples": len(task)}, len(task)
    )


def figure_key(name: str) -> str:
    """Return the name of a task's figure as the keys of metrics have it: ``exact_match`` for SQuAD's EM.

    Parameters
    ----------
    name : str
    """
    return "exact_match" if name == "EM" else re.sub(r"\W+", "_", name.lower())


def only(values: tuple[Any, ...] | None) -> Any:
    """Return the only value of a tuple of one, None for none, and otherwise the tuple.

    Parameters
    ----------
    values : tuple or None
    """
    return values[0] if values is not None and len(values) == 1 else (values or None)


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], tuple):  # hidden states: a tuple of arrays in each batch
        return tuple(_joined(column) for column in zip(*parts, strict=True))
    arrays = [np.atleast_1d(np.asarray(part)) for part in parts]
    if arrays[0].ndim > 1 and len({array.shape[1] for array in arrays}) > 1:
        length = max(array.shape[1] for array in arrays)
        arrays = [_padded(array, length) for array in arrays]
    return np.concatenate(arrays)


def _padded(array: Any, length: int) -> Any:
    widths = [(0, 0), (0, length - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
    return np.pad(array, widths, constant_values=PADDING)


def _plain(value: Any) -> Any:
    """Return a figure as JSON can hold it."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value

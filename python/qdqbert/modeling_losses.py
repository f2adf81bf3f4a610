# SPDX-License-Identifier: Apache-2.0
"""Losses of the heads: what labels may look like, and what counts.

The sums are in C, in float64.  Losses are float32 scalars, NaN where no label counts, as in PyTorch.  Those
of a recorded forward know their gradient with respect to the logits, in the shape that the C model gives
them; for that they keep labels, copied, and the logits, which are read-only from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qdqbert import _core
from qdqbert.arrays import Array
from qdqbert.errors import ShapeError
from qdqbert.forward_inputs import as_array, as_floats, as_integers, as_labels
from qdqbert.loss import Loss
from qdqbert.recording import OutputGradients, Recording

if TYPE_CHECKING:
    from qdqbert.configuration_qdqbert import QDQBertConfig
    from qdqbert.device import Device

__all__ = [
    "IGNORED",
    "Scoring",
    "choice_loss",
    "computed_places",
    "labelled_loss",
    "sequence_loss",
    "span_loss",
    "token_labels",
    "token_loss",
]

IGNORED = -100


class Scoring(NamedTuple):
    """What losses need beside logits and labels.

    Attributes
    ----------
    device : Device
        That computes them.
    recording : Recording or None
        Of the forward that gave the logits, if there is a way back.
    label_smoothing : float
        Share of the target that cross-entropies spread over all classes, 0 .. 1.
    """

    device: Device
    recording: Recording | None
    label_smoothing: float = 0.0


def choice_loss(
    argument: str,
    logits: Array,
    labels: Any,
    scoring: Scoring,
    shape: tuple[int, ...] | None = None,
) -> Loss:
    """Cross-entropy of one class for each row.

    Parameters
    ----------
    argument : str
        Name of the labels, for messages.
    logits : ndarray, shape (rows, classes)
    labels : integers, shape (rows,) or (rows, 1)
        In [0, classes), or -100 for rows that do not count.
    scoring : Scoring
    shape : tuple of int, optional
        That the C model gives the logits; that of `logits` if left out.

    Raises
    ------
    TypeError, ShapeError, IndexError
        For labels of a wrong kind, shape or range.
    """
    classes = as_integers(argument, labels)
    assert classes is not None
    if classes.size != len(logits):
        raise ShapeError(f"{argument}: expected ({len(logits)},), got {classes.shape}")
    return _cross_entropy(logits, classes, scoring, logits.shape if shape is None else shape)


def token_loss(
    labels: Any, logits: Array, attention_mask: Any, scoring: Scoring, *, skips_padding: bool
) -> Loss:
    """Cross-entropy of one class for each token.

    Parameters
    ----------
    labels : integers, shape (batch, length)
        In [0, classes), or -100 for tokens that do not count.
    logits : ndarray, shape (batch, length, classes)
    attention_mask : integers, shape (batch, past + length), or None
        As it was given to the model.
    scoring : Scoring
    skips_padding : bool
        Whether positions whose mask is 0 were not computed: then their labels do not count either.

    Raises
    ------
    TypeError, ShapeError, IndexError
        For labels of a wrong kind, shape or range.
    """
    rows = token_labels(labels, logits.shape[:2], attention_mask, skips_padding, False)
    return labelled_loss(rows, logits, scoring)


def labelled_loss(rows: Array, logits: Array, scoring: Scoring) -> Loss:
    """Cross-entropy of the classes that `token_labels` returned, or of some of them.

    Parameters
    ----------
    rows : ndarray, integers
        In [0, classes), or -100 for what does not count.
    logits : ndarray, shape (*rows.shape, classes)
    scoring : Scoring

    Raises
    ------
    IndexError
        For labels out of range.
    """
    return _cross_entropy(logits, rows, scoring, logits.shape)


def token_labels(
    labels: Any, shape: tuple[int, ...], attention_mask: Any, skips_padding: bool, is_shifted: bool
) -> Array:
    """Return the label that each position is scored with, -100 where none counts.

    Parameters
    ----------
    labels, attention_mask, skips_padding
        As in `token_loss`.
    shape : tuple of int
        (batch, length).
    is_shifted : bool
        Whether a token is scored by its predecessor.

    Raises
    ------
    TypeError, ShapeError
        For labels of a wrong kind or shape.
    """
    classes = as_integers("labels", labels)
    assert classes is not None
    if classes.shape != shape:
        raise ShapeError(f"labels: expected {shape}, got {classes.shape}")
    if is_shifted:
        classes = np.concatenate([classes[:, 1:], np.full((shape[0], 1), IGNORED)], axis=1)
    computed = _computed(attention_mask, shape, skips_padding)
    return classes if computed is None else np.where(computed, classes, IGNORED)


def _computed(attention_mask: Any, shape: tuple[int, ...], skips_padding: bool) -> Array | None:
    """Return which positions of a (batch, length) call were computed; None: all."""
    if not skips_padding or attention_mask is None:
        return None
    mask = as_array("attention_mask", attention_mask)
    # Of the positions that logits come from: a mask also covers cached tokens, before those of this call.
    return np.broadcast_to(mask[:, -shape[1] :] != 0, shape) if mask.ndim == 2 else None


def computed_places(attention_mask: Any, shape: tuple[int, ...], skips_padding: bool) -> list[Array]:
    """Return for each sequence which of its positions were computed, in order.

    Parameters
    ----------
    attention_mask : integers, shape (batch, length), or None
        As it was given to the model.
    shape : tuple of int
        (batch, length).
    skips_padding : bool
        Whether positions whose mask is 0 were not computed.
    """
    computed = _computed(attention_mask, shape, skips_padding)
    everywhere = np.arange(shape[1])
    return [everywhere if computed is None else np.flatnonzero(computed[row]) for row in range(shape[0])]


def span_loss(
    start: Array,
    end: Array,
    start_positions: Any,
    end_positions: Any,
    attention_mask: Any,
    scoring: Scoring,
    *,
    skips_padding: bool,
) -> Loss:
    """Mean of the cross-entropies of start and end, over the positions that were computed.

    Each sequence has its own positions to choose from, so padding and batch mates change no bit.

    Parameters
    ----------
    start, end : ndarray, shape (batch, length)
        Logits.
    start_positions, end_positions : integers, shape (batch,) or (batch, 1)
        Clamped to [0, length]; `length` itself does not count.
    attention_mask : integers, shape (batch, length), or None
        As it was given to the model.
    scoring : Scoring
    skips_padding : bool
        Whether positions whose mask is 0 were not computed: then they are no choices, and do not count.

    Raises
    ------
    TypeError, ShapeError
        For positions of a wrong kind or shape.
    """
    places = computed_places(attention_mask, start.shape, skips_padding)
    sides = [
        _Span(start, _positions("start_positions", start, start_positions), places, scoring),
        _Span(end, _positions("end_positions", end, end_positions), places, scoring),
    ]

    def gradients_of(factor: float) -> OutputGradients:
        return OutputGradients(logits=np.stack([side.gradient(factor / 2) for side in sides], axis=-1))

    return _loss(sum(side.value() for side in sides) / 2, scoring, gradients_of, start, end)


class _Span:
    """Cross-entropy of one position of each sequence, among those that were computed.

    Parameters
    ----------
    logits : ndarray, shape (batch, length)
    labels : ndarray, integers, shape (batch,)
        Positions; sequences whose position was not computed, or is `length`, do not count.
    places : list of ndarray
        See `computed_places`.
    scoring : Scoring
    """

    def __init__(self, logits: Array, labels: Array, places: list[Array], scoring: Scoring) -> None:
        self._logits, self._device, self._smoothing = logits, scoring.device, scoring.label_smoothing
        self._rows: list[tuple[int, Array, Array]] = []
        for row, (label, mine) in enumerate(zip(labels, places, strict=True)):
            index = np.flatnonzero(mine == label)
            if index.size:
                self._rows.append((row, mine, index))

    def _choices(self, row: int, places: Array) -> Array:
        return np.ascontiguousarray(self._logits[row, places])[np.newaxis]

    def value(self) -> float:
        """Mean over the sequences that count; NaN if none does."""
        losses = [
            _core.cross_entropy(self._device, self._choices(row, places), index, IGNORED, self._smoothing)
            for row, places, index in self._rows
        ]
        return sum(losses) / len(losses) if losses else math.nan

    def gradient(self, factor: float) -> Array:
        """Return a multiple of the gradient, of the shape of the logits."""
        d = np.full(self._logits.shape, 0.0 if self._rows else math.nan, np.float32)
        for row, places, index in self._rows:
            d[row, places] = _core.cross_entropy_grad(
                self._device,
                self._choices(row, places),
                index,
                IGNORED,
                self._smoothing,
                factor / len(self._rows),
            )[0]
        return d


def _positions(argument: str, logits: Array, positions: Any) -> Array:
    labels = as_integers(argument, positions)
    assert labels is not None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != logits.shape[:1]:
        raise ShapeError(f"{argument}: expected ({logits.shape[0]},), got {labels.shape}")
    return np.ascontiguousarray(labels.clip(0, logits.shape[1]))


def sequence_loss(config: QDQBertConfig, logits: Array, labels: Any, scoring: Scoring) -> Loss:
    """Loss of a text's labels, by ``config.problem_type``.

    If that is None it is chosen from `labels` and, as in the original, written into the configuration.

    Parameters
    ----------
    config : QDQBertConfig
    logits : ndarray, shape (batch, num_labels)
    labels : numbers
        Classes, shape (batch,); floats, shape (batch,), for regression with one label; floats, shape
        (batch, num_labels), otherwise.
    scoring : Scoring

    Raises
    ------
    TypeError, ShapeError, IndexError
        For labels of a wrong kind, shape or range.
    ValueError
        If labels that are no classes are to be smoothed.
    """
    given = as_labels("labels", labels)
    num_labels = config.num_labels
    problem_type = config.problem_type
    if problem_type is None:
        if num_labels == 1:
            problem_type = "regression"
        elif given.dtype.kind in "iu":
            problem_type = "single_label_classification"
        else:
            problem_type = "multi_label_classification"
    if problem_type == "single_label_classification":
        loss = choice_loss("labels", logits, given, scoring)
    else:
        loss = _elementwise_loss(problem_type, logits, given, scoring)
    config.problem_type = problem_type
    return loss


def _elementwise_loss(problem_type: str, logits: Array, given: Array, scoring: Scoring) -> Loss:
    if scoring.label_smoothing:
        raise ValueError(f"label_smoothing: {problem_type} has no classes to smooth; expected 0")
    values = as_floats("labels", given)
    assert values is not None
    x = logits
    if problem_type == "regression" and logits.shape[1] == 1:
        x, values = logits.reshape(-1), values.reshape(-1)
    if values.shape != x.shape:
        raise ShapeError(f"labels: expected {x.shape} for {problem_type}, got {given.shape}")
    is_regression = problem_type == "regression"
    loss_of = _core.mean_squared_error if is_regression else _core.binary_cross_entropy
    gradient_of = _core.mean_squared_error_grad if is_regression else _core.binary_cross_entropy_grad
    kept = values.copy()

    def gradients_of(factor: float) -> OutputGradients:
        return OutputGradients(logits=gradient_of(x, kept, factor).reshape(logits.shape))

    return _loss(loss_of(x, kept), scoring, gradients_of, logits)


def _cross_entropy(logits: Array, labels: Array, scoring: Scoring, shape: tuple[int, ...]) -> Loss:
    """Mean cross-entropy over the last axis; its gradient has `shape`."""
    rows = logits.reshape(-1, logits.shape[-1])
    kept = np.array(labels).reshape(-1)  # a copy: callers reuse theirs
    device, _, smoothing = scoring

    def gradients_of(factor: float) -> OutputGradients:
        d = _core.cross_entropy_grad(device, rows, kept, IGNORED, smoothing, factor)
        return OutputGradients(logits=d.reshape(shape))

    value = _core.cross_entropy(device, rows, kept, IGNORED, smoothing)
    return _loss(value, scoring, gradients_of, logits)


def _loss(
    value: float,
    scoring: Scoring,
    gradients_of: Callable[[float], OutputGradients],
    *logits: Array,
) -> Loss:
    if scoring.recording is not None:
        for each in logits:
            each.flags.writeable = False  # what the gradient will be computed from
    return Loss.of(value, scoring.recording, gradients_of)

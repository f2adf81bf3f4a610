# SPDX-License-Identifier: Apache-2.0
"""Losses of the heads: what labels may look like, and what counts.

The sums are in C, in float64.  Losses are float32 scalars, NaN where no label counts, as in PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert import _core
from qdqbert.arrays import Array
from qdqbert.errors import ShapeError
from qdqbert.forward_inputs import as_array, as_floats, as_integers, as_labels

if TYPE_CHECKING:
    from qdqbert.configuration_qdqbert import QDQBertConfig

__all__ = ["choice_loss", "sequence_loss", "span_loss", "token_loss"]

_IGNORED = -100


def choice_loss(argument: str, logits: Array, labels: Any) -> np.float32:
    """Cross-entropy of one class for each row.

    Parameters
    ----------
    argument : str
        Name of the labels, for messages.
    logits : ndarray, shape (rows, classes)
    labels : integers, shape (rows,) or (rows, 1)
        In [0, classes), or -100 for rows that do not count.

    Raises
    ------
    TypeError, ShapeError, IndexError
        For labels of a wrong kind, shape or range.
    """
    classes = as_integers(argument, labels)
    assert classes is not None
    if classes.size != len(logits):
        raise ShapeError(f"{argument}: expected ({len(logits)},), got {classes.shape}")
    return np.float32(_core.cross_entropy(logits, classes.reshape(-1), _IGNORED))


def token_loss(
    labels: Any, logits: Array, attention_mask: Any, *, skips_padding: bool, is_shifted: bool = False
) -> np.float32:
    """Cross-entropy of one class for each token.

    Parameters
    ----------
    labels : integers, shape (batch, length)
        In [0, classes), or -100 for tokens that do not count.
    logits : ndarray, shape (batch, length, classes)
    attention_mask : integers, shape (batch, past + length), or None
        As it was given to the model.
    skips_padding : bool
        Whether positions whose mask is 0 were not computed: then their labels do not count either.
    is_shifted : bool
        Whether a token is scored by its predecessor.

    Raises
    ------
    TypeError, ShapeError, IndexError
        For labels of a wrong kind, shape or range.
    """
    classes = as_integers("labels", labels)
    assert classes is not None
    batch, length, count = logits.shape
    if classes.shape != (batch, length):
        raise ShapeError(f"labels: expected ({batch}, {length}), got {classes.shape}")
    mask = None
    if skips_padding and attention_mask is not None:
        mask = as_array("attention_mask", attention_mask)
    if is_shifted:
        logits, classes = np.ascontiguousarray(logits[:, :-1]), classes[:, 1:]
    if mask is not None and mask.ndim == 2:
        # Of the positions that logits come from: a mask also covers cached tokens, before those of this call.
        computed = mask[:, -length:][:, : classes.shape[1]]
        classes = np.where(computed == 0, _IGNORED, classes)
    rows = np.ascontiguousarray(classes).reshape(-1)
    return np.float32(_core.cross_entropy(logits.reshape(-1, count), rows, _IGNORED))


def span_loss(start: Array, end: Array, start_positions: Any, end_positions: Any) -> np.float32:
    """Mean of the cross-entropies of start and end, over positions.

    Parameters
    ----------
    start, end : ndarray, shape (batch, length)
        Logits.
    start_positions, end_positions : integers, shape (batch,) or (batch, 1)
        Clamped to [0, length]; `length` itself does not count.

    Raises
    ------
    TypeError, ShapeError
        For positions of a wrong kind or shape.
    """
    first = _position_loss("start_positions", start, start_positions)
    last = _position_loss("end_positions", end, end_positions)
    return np.float32((first + last) / 2)


def _position_loss(argument: str, logits: Array, positions: Any) -> float:
    labels = as_integers(argument, positions)
    assert labels is not None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != logits.shape[:1]:
        raise ShapeError(f"{argument}: expected ({logits.shape[0]},), got {labels.shape}")
    length = logits.shape[1]
    return _core.cross_entropy(logits, np.ascontiguousarray(labels.clip(0, length)), length)


def sequence_loss(config: QDQBertConfig, logits: Array, labels: Any) -> np.float32:
    """Loss of a text's labels, by ``config.problem_type``.

    If that is None it is chosen from `labels` and, as in the original, written into the configuration.

    Parameters
    ----------
    config : QDQBertConfig
    logits : ndarray, shape (batch, num_labels)
    labels : numbers
        Classes, shape (batch,); floats, shape (batch,), for regression with one label; floats, shape
        (batch, num_labels), otherwise.

    Raises
    ------
    TypeError, ShapeError, IndexError
        For labels of a wrong kind, shape or range.
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
        loss = choice_loss("labels", logits, given)
    else:
        values = as_floats("labels", given)
        assert values is not None
        if problem_type == "regression" and num_labels == 1:
            logits, values = logits.reshape(-1), values.reshape(-1)
        if values.shape != logits.shape:
            raise ShapeError(f"labels: expected {logits.shape} for {problem_type}, got {given.shape}")
        is_regression = problem_type == "regression"
        loss_of = _core.mean_squared_error if is_regression else _core.binary_cross_entropy
        loss = np.float32(loss_of(logits, values))
    config.problem_type = problem_type
    return loss

# SPDX-License-Identifier: Apache-2.0
"""How far a model's answers are from those in float, on inputs without labels.

What is measured follows from what the model answers:

======================================  =====================================================================
logits of a text, choices, next text    KL divergence of the classes from float's, per text
several labels (``problem_type``)       the same of each label, which is true or not, added up, per text
numbers (``problem_type``, or 1 label)  squared difference, mean over the numbers, per text
start and end logits                    KL divergence of the two distributions over positions, per text
logits of tokens                        KL divergence of the classes, per token
hidden states (a model without head)    squared difference, mean over the components, per token
======================================  =====================================================================

Positions whose attention mask is 0 do not count.  Divergences are in nats.  All sums are in float64 and in a
fixed order, so an error is as independent of threads and batch mates as the model's answers are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.arrays import Array
from qdqbert.forward_inputs import as_mask
from qdqbert.forward_passes import require_batches, run_batch
from qdqbert.modeling_outputs import SequenceClassifierOutput
from qdqbert.module import Module
from qdqbert.rules import quantizers

__all__ = ["LogitError"]

_Doubles = npt.NDArray[np.float64]
_LABELS = ("labels", "start_positions", "end_positions", "next_sentence_label")
# Elements in float64 at a time: 8 MB for each of a handful of arrays.
_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class _Measure:
    """A way to compare answers: its name, and the errors of rows from two matrices of equal shape."""

    name: str
    rows: Callable[[_Doubles, _Doubles], _Doubles]


@dataclass(frozen=True)
class _Answer:
    """What counts of one batch: a row for each thing that is compared, the items that they belong to."""

    values: Array  # (rows, columns) float32; -inf at positions that do not count
    items: int
    measure: _Measure


class LogitError:
    """Mean error of a model's answers against those in float.

    Parameters
    ----------
    model : Module
        A model of this package, or a module of one's own that returns such an output or an array.
    batches : iterable
        Of dicts with the model's arguments, or of `input_ids` alone.  Labels in them are not looked at.

    Raises
    ------
    ValueError
        If there are no batches, nothing in them counts, or an answer in float is NaN or infinite.  What the
        model raises for a bad batch is raised with the batch's number before it.
    TypeError
        If `batches` is one batch, or the model returns something else.

    Notes
    -----
    The answers in float are computed once, here, with every quantizer off; then the quantizers are as they
    were.  They stay in memory: 4 bytes for each logit that counts.

    Examples
    --------
    >>> import qdqbert
    >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
    >>> model = qdqbert.QDQBertForSequenceClassification(config)
    >>> error = LogitError(model, [{"input_ids": [[5, 6, 7]]}])
    >>> with qdqbert.quantizers(model, {"*": "off"}):
    ...     error.measure()
    0.0
    """

    def __init__(self, model: Module, batches: Iterable[Any]) -> None:
        require_batches(batches)
        self._model = model
        self._batches = [_arguments(model, batch) for batch in batches]
        if not self._batches:
            raise ValueError("batches: expected at least one")
        with quantizers(model, {"*": "off"}):
            self._reference = list(self._answers())
        for index, answer in enumerate(self._reference):
            if not np.isfinite(answer.values[answer.values != -np.inf]).all():
                raise ValueError(f"batch {index}: the model's answers in float are NaN or infinite")
        self._items = sum(answer.items for answer in self._reference)
        if self._items == 0:
            raise ValueError("batches: every position is masked, so that nothing counts")

    @property
    def name(self) -> str:
        """What is measured, with its unit."""
        return self._reference[0].measure.name

    def measure(self) -> float:
        """Return the mean error of the model as it stands: 0 or more, infinite if an answer is NaN.

        Raises
        ------
        StateError
            If the model cannot run.
        """
        total = 0.0
        for reference, answer in zip(self._reference, self._answers(), strict=True):
            total += _error(reference, answer)
        return math.inf if math.isnan(total) else total / self._items

    def _answers(self) -> Iterator[_Answer]:
        for index, batch in enumerate(self._batches):
            yield _answer(self._model, run_batch(self._model, index, batch), batch)


def _arguments(model: Module, batch: Any) -> Any:
    """Return what a batch hands to the model, less the labels, which may settle ``config.problem_type``."""
    if not hasattr(model, "_output_class"):  # a module of one's own: its arguments are not ours to know
        return batch
    named = batch if isinstance(batch, Mapping) else {"input_ids": batch}
    kept = {name: value for name, value in named.items() if name not in _LABELS}
    return kept | {"return_dict": True}


def _answer(model: Module, output: Any, batch: Any) -> _Answer:
    """Take what counts out of a model's output."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if hasattr(output, "start_logits"):
        counts = _counts(mask, output.start_logits)
        sides = [np.where(counts, side, -np.inf) for side in (output.start_logits, output.end_logits)]
        texts = counts.any(axis=1)
        values = np.concatenate([side[texts] for side in sides]).astype(np.float32)
        return _Answer(values, int(texts.sum()), _SPAN)
    if isinstance(output, np.ndarray):
        rows = output.reshape(-1, output.shape[-1] if output.ndim else 1)
        return _Answer(np.array(rows), len(rows), _OUTPUT)
    if hasattr(output, "logits"):
        logits, measure = output.logits, _CLASS
        if logits.ndim == 3:
            values = logits[_counts(mask, logits)]
            return _Answer(values, len(values), _TOKEN)
        if isinstance(output, SequenceClassifierOutput):
            measure = _sequence_measure(getattr(model, "config", None), logits)
        return _Answer(np.array(logits), len(logits), measure)
    if hasattr(output, "last_hidden_state"):
        values = output.last_hidden_state[_counts(mask, output.last_hidden_state)]
        return _Answer(values, len(values), _HIDDEN)
    raise TypeError(
        "model: expected one that returns logits, hidden states or an array, "
        f"got an output of {type(output).__name__}"
    )


def _sequence_measure(config: Any, logits: Array) -> _Measure:
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification":
        return _LABEL
    return _NUMBER if problem == "regression" or logits.shape[1] == 1 else _CLASS


def _counts(attention_mask: Any, logits: Array) -> npt.NDArray[np.bool_]:
    """Tell which positions of (batch, length, ...) are not masked."""
    batch, length = logits.shape[:2]
    mask = as_mask("attention_mask", attention_mask)
    if mask is None or mask.ndim != 2:  # one with three axes says who sees whom, not what is padding
        return np.ones((batch, length), dtype=np.bool_)
    # A mask also covers cached tokens, before those of this call; an axis of size 1 counts for all.
    return np.broadcast_to(mask[:, -length:] != 0, (batch, length))


def _error(reference: _Answer, answer: _Answer) -> float:
    """Return the sum of the errors of all rows."""
    rows, columns = reference.values.shape
    if answer.values.shape != reference.values.shape:
        raise ValueError(f"model: answered {answer.values.shape} values, in float {(rows, columns)}")
    errors = np.empty(rows)
    step = max(1, _ELEMENTS // max(1, columns))
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is looked at by who adds
        for start in range(0, rows, step):
            part = slice(start, start + step)
            errors[part] = reference.measure.rows(
                reference.values[part].astype(np.float64), answer.values[part].astype(np.float64)
            )
        return float(errors.sum())


def _divergence(reference: _Doubles, other: _Doubles) -> _Doubles:
    """Kullback-Leibler divergence of each row's softmax from the reference's."""
    p, q = _log_softmax(reference), _log_softmax(other)
    difference = p - q
    difference[reference == -np.inf] = 0.0  # never chosen: no part of the mean, and -inf - -inf is NaN
    errors: _Doubles = (np.exp(p) * difference).sum(axis=1)
    return errors


def _log_softmax(x: _Doubles) -> _Doubles:
    y = x - x.max(axis=1, keepdims=True)
    normalized: _Doubles = y - np.log(np.exp(y).sum(axis=1, keepdims=True))
    return normalized


def _label_divergence(reference: _Doubles, other: _Doubles) -> _Doubles:
    """Sum over labels of the divergence of one that is true with probability sigmoid(logit)."""
    p, q = _log_sigmoid(reference), _log_sigmoid(other)
    not_p, not_q = _log_sigmoid(-reference), _log_sigmoid(-other)
    terms = np.exp(p) * (p - q) + np.exp(not_p) * (not_p - not_q)
    errors: _Doubles = terms.sum(axis=1)
    return errors


def _log_sigmoid(x: _Doubles) -> _Doubles:
    value: _Doubles = -np.logaddexp(0.0, -x)
    return value


def _squared_difference(reference: _Doubles, other: _Doubles) -> _Doubles:
    errors: _Doubles = np.square(other - reference).mean(axis=1)
    return errors


_CLASS = _Measure("KL divergence of the classes, nats per text", _divergence)
_TOKEN = _Measure("KL divergence of the classes, nats per token", _divergence)
_SPAN = _Measure("KL divergence of start and end, nats per text", _divergence)
_LABEL = _Measure("KL divergence of the labels, nats per text", _label_divergence)
_NUMBER = _Measure("mean squared error of the outputs, per text", _squared_difference)
_HIDDEN = _Measure("mean squared error of last_hidden_state, per token", _squared_difference)
_OUTPUT = _Measure("mean squared error of the output, per row", _squared_difference)

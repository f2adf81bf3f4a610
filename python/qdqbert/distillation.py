# SPDX-License-Identifier: Apache-2.0
"""Training against a teacher: what makes a small budget of quantization-aware training go far.

A quantized model that is trained on labels alone learns them anew; trained on the logits and hidden states of
the float model that it comes from, it learns what quantization changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qdqbert import _core
from qdqbert.arrays import Array
from qdqbert.errors import ShapeError
from qdqbert.forward_inputs import as_array
from qdqbert.forward_passes import evaluating
from qdqbert.loss import Loss
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_losses import IGNORED, computed_places
from qdqbert.recording import OutputGradients, Recording

__all__ = ["Distillation"]

_LABELS = ("labels", "next_sentence_label", "start_positions", "end_positions")


class Distillation:
    """Loss of a model against a teacher and labels.

    It is::

        alpha * temperature**2 * KL(teacher || student) + (1 - alpha) * loss of the labels
            + hidden_weight * mean squared difference of hidden states

    Parameters
    ----------
    teacher : QDQBertPreTrainedModel
        A model of the same head, such as a copy of the student with its quantizers off.  It is called in
        evaluation mode.
    temperature : float
        Above 0; both models' logits are divided by it.
    alpha : float
        Weight of the teacher's logits, 0 .. 1; with 1 no labels are needed.  A regression is compared by the
        squared difference of logits, without a temperature; several labels of one text each as a choice
        between yes and no, and the mean of them.
    hidden_weight : float
        Weight of the hidden states, at least 0.
    layers : mapping of int to int, optional
        Which of the student's hidden states are compared with which of the teacher's: 0 comes before the
        first layer, i after layer i.  If left out all of the student's are, with as many of the teacher's at
        equal distances.

    Raises
    ------
    TypeError, ValueError
        If an argument is none, or out of range.

    References
    ----------
    Hinton et al., 2015, "Distilling the Knowledge in a Neural Network".

    Examples
    --------
    >>> import copy, qdqbert
    >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
    >>> student = qdqbert.QDQBertForSequenceClassification(config).train()
    >>> teacher = copy.deepcopy(student).eval()
    >>> changes = qdqbert.quantizers(teacher, {"*": "off"})
    >>> distillation = Distillation(teacher, hidden_weight=1.0)
    >>> distillation(student, {"input_ids": [[5, 6, 7]], "labels": [1]}).backward()
    """

    def __init__(
        self,
        teacher: QDQBertPreTrainedModel,
        temperature: float = 2.0,
        alpha: float = 0.5,
        hidden_weight: float = 0.0,
        layers: Mapping[int, int] | None = None,
    ) -> None:
        if not isinstance(teacher, QDQBertPreTrainedModel):
            raise TypeError(f"teacher: expected a model, got {type(teacher).__name__}")
        self.teacher: QDQBertPreTrainedModel = teacher
        self.temperature: float = _number("temperature", temperature)
        self.alpha: float = _number("alpha", alpha)
        self.hidden_weight: float = _number("hidden_weight", hidden_weight)
        if self.temperature == 0.0:
            raise ValueError("temperature: expected a number above 0, got 0")
        if self.alpha > 1.0:
            raise ValueError(f"alpha: expected 0 .. 1, got {alpha}")
        if layers is not None and not isinstance(layers, Mapping):
            raise TypeError(f"layers: expected a mapping of int to int, got {type(layers).__name__}")
        self.layers: dict[int, int] | None = None if layers is None else dict(layers)

    def __call__(self, model: QDQBertPreTrainedModel, batch: Mapping[str, Any]) -> Loss:
        """Run student and teacher on a batch.

        Parameters
        ----------
        model : QDQBertPreTrainedModel
            The student; in training mode the loss has a way back.
        batch : mapping
            Arguments of the forward, with labels unless `alpha` is 1.  Of a language model and a token
            classifier the tokens count whose labels do; without labels, those that are not masked.

        Returns
        -------
        Loss

        Raises
        ------
        TypeError, ValueError
            If the models do not fit each other, or there are no labels.
        ShapeError
            If their logits or hidden states have other shapes.
        """
        self._require_fit(model)
        given = dict(batch)
        labels = {name: given.pop(name) for name in _LABELS if given.get(name) is not None}
        wants_labels = self.alpha < 1.0 and model._head != "none"
        if wants_labels and not labels:
            raise ValueError(f"batch: there are no labels, which alpha={self.alpha:g} gives a weight")
        if self.hidden_weight:
            given["output_hidden_states"] = True
        is_language_model = model._head == "language_model" and bool(labels)
        if is_language_model:
            given |= {**labels, "only_labelled": True}
        student = model(**given, **({} if is_language_model else labels), return_dict=True)
        recording = model._engine.recorded if model.training else None
        loss: Any = Loss(0.0)
        if wants_labels:
            if student.loss is None:
                raise ValueError(
                    f"batch: {', '.join(labels)} are not all labels that {type(model).__name__} needs"
                )
            loss = loss + (1.0 - self.alpha) * student.loss
        result: Loss = loss
        if not self.alpha and not self.hidden_weight:
            return result
        with evaluating(self.teacher):
            teacher = self.teacher(**given, return_dict=True)
        if self.alpha:
            counts = None if is_language_model else self._counts(student, given, labels)
            if "start_logits" in student:
                soft = self._soft_span_loss(model, student, teacher, given.get("attention_mask"), recording)
            else:
                soft = self._soft_loss(model, student, teacher, counts, recording)
            result = result + self.alpha * soft
        if self.hidden_weight:
            result = result + self.hidden_weight * self._hidden_loss(student, teacher, given, recording)
        return result

    def _require_fit(self, model: Any) -> None:
        if not isinstance(model, QDQBertPreTrainedModel):
            raise TypeError(f"model: expected a model, got {type(model).__name__}")
        if type(model)._output_class is not type(self.teacher)._output_class:
            raise TypeError(
                f"model: expected the head of the teacher, a {type(self.teacher).__name__}, got "
                f"{type(model).__name__}"
            )
        if model._engine is self.teacher._engine:
            raise ValueError("model: is its own teacher; expected another one, such as a copy")
        if self.alpha and model._head == "none":
            raise ValueError("alpha: the model has no logits to compare; expected 0")

    # ---- logits --------------------------------------------------------------------------------------------

    def _counts(self, student: Any, given: Mapping[str, Any], labels: Mapping[str, Any]) -> Array | None:
        """Return -100 for each row of logits that does not count; None: all do."""
        logits = student.get("logits")
        if logits is None or logits.ndim != 3:
            return None
        counts = np.zeros(logits.shape[:2], np.int64)
        if "labels" in labels:
            counts[as_array("labels", labels["labels"]) == IGNORED] = IGNORED
        mask = given.get("attention_mask")
        if mask is not None and (array := as_array("attention_mask", mask)).shape == counts.shape:
            counts[array == 0] = IGNORED
        return counts.reshape(-1)

    def _soft_span_loss(
        self,
        model: QDQBertPreTrainedModel,
        student: Any,
        teacher: Any,
        attention_mask: Any,
        recording: Recording | None,
    ) -> Loss:
        """Compare starts and ends, of each sequence over the positions that both models computed."""
        names = ("start_logits", "end_logits")
        pairs = [_same_shape(student[name], teacher[name], recording) for name in names]
        skips = "skip" in (model.padding, self.teacher.padding)
        places = computed_places(attention_mask, pairs[0][0].shape, skips)
        device, heat = model.device, self.temperature

        def choices(logits: Array, row: int) -> Array:
            return np.ascontiguousarray(logits[row, places[row]])[np.newaxis]

        def value_of(x: Array, y: Array) -> float:
            return sum(
                _core.kl_divergence(device, choices(x, row), choices(y, row), None, IGNORED, heat)
                for row in range(len(places))
            )

        def gradient_of(x: Array, y: Array, factor: float) -> Array:
            d = np.zeros(x.shape, np.float32)
            for row, mine in enumerate(places):
                d[row, mine] = _core.kl_divergence_grad(
                    device, choices(x, row), choices(y, row), None, IGNORED, heat, factor
                )[0]
            return d

        share = heat**2 / (len(pairs) * len(places))

        def gradients_of(factor: float) -> OutputGradients:
            sides = tuple(gradient_of(x, y, share * factor) for x, y in pairs)
            return OutputGradients(logits=model._logits_gradient(sides))

        return Loss.of(share * sum(value_of(x, y) for x, y in pairs), recording, gradients_of)

    def _soft_loss(
        self,
        model: QDQBertPreTrainedModel,
        student: Any,
        teacher: Any,
        counts: Array | None,
        recording: Recording | None,
    ) -> Loss:
        x, y = _same_shape(student["logits"], teacher["logits"], recording)
        device, heat = model.device, self.temperature
        if model._head == "sequence_classification" and x.shape[-1] == 1:
            return Loss.of(
                _core.mean_squared_error(x, y),
                recording,
                lambda factor: OutputGradients(
                    logits=model._logits_gradient(_core.mean_squared_error_grad(x, y, factor))
                ),
            )
        is_each_label_a_choice = model.config.problem_type == "multi_label_classification"
        rows, others = (
            _yes_or_no(z) if is_each_label_a_choice else z.reshape(-1, z.shape[-1]) for z in (x, y)
        )

        def gradients_of(factor: float) -> OutputGradients:
            d = _core.kl_divergence_grad(device, rows, others, counts, IGNORED, heat, heat**2 * factor)
            d = np.ascontiguousarray(d[:, 1]) if is_each_label_a_choice else d
            return OutputGradients(logits=model._logits_gradient(d.reshape(x.shape)))

        value = heat**2 * _core.kl_divergence(device, rows, others, counts, IGNORED, heat)
        return Loss.of(value, recording, gradients_of)

    # ---- hidden states -------------------------------------------------------------------------------------

    def _hidden_loss(
        self, student: Any, teacher: Any, given: Mapping[str, Any], recording: Recording | None
    ) -> Loss:
        mine, theirs = student.hidden_states, teacher.hidden_states
        mapped = self._mapped(len(mine), len(theirs))
        if mine[0].shape != theirs[0].shape:
            raise ShapeError(
                f"teacher: expected hidden states of shape {mine[0].shape}, got {theirs[0].shape}"
            )
        counts = np.ones((*mine[0].shape[:2], 1), np.float32)
        mask = given.get("attention_mask")
        if mask is not None and (array := as_array("attention_mask", mask)).size == counts.size:
            counts = (array.reshape(counts.shape) != 0).astype(np.float32)
        elements = float(counts.sum()) * mine[0].shape[2] * len(mapped)

        def differences(index: int) -> Array:
            return np.asarray((mine[index] - theirs[mapped[index]]) * counts)

        def gradients_of(factor: float) -> OutputGradients:
            scale = np.float32(2.0 * factor / elements)
            return OutputGradients(
                hidden_states=tuple(
                    differences(index) * scale if index in mapped else None for index in range(len(mine))
                )
            )

        if recording is not None:
            for each in mine:
                each.flags.writeable = False
        value = sum(float(np.sum(np.square(differences(index)), dtype=np.float64)) for index in mapped)
        return Loss.of(value / elements, recording, gradients_of)

    def _mapped(self, mine: int, theirs: int) -> dict[int, int]:
        """Return which of `mine` hidden states is compared with which of `theirs`."""
        if self.layers is None:
            if (theirs - 1) % (mine - 1):
                raise ValueError(
                    f"layers: expected a mapping, since {theirs - 1} layers of the teacher are no multiple "
                    f"of the {mine - 1} of the student"
                )
            return {index: index * ((theirs - 1) // (mine - 1)) for index in range(mine)}
        if not self.layers:
            raise ValueError("layers: expected at least one pair of hidden states")
        for index, other in self.layers.items():
            if not (isinstance(index, int) and 0 <= index < mine):
                raise ValueError(f"layers: expected 0 .. {mine - 1} of the student, got {index!r}")
            if not (isinstance(other, int) and 0 <= other < theirs):
                raise ValueError(f"layers: expected 0 .. {theirs - 1} of the teacher, got {other!r}")
        return self.layers


def _yes_or_no(logits: Array) -> Array:
    """Return logits of "no" and "yes" for each label: softmax of (0, x) is the sigmoid of x."""
    return np.stack([np.zeros_like(logits), logits], axis=-1).reshape(-1, 2)


def _same_shape(mine: Array, theirs: Array, recording: Recording | None) -> tuple[Array, Array]:
    """Return a pair of logits; the student's are what the gradient will be computed from."""
    if mine.shape != theirs.shape:
        raise ShapeError(f"teacher: expected logits of shape {mine.shape}, got {theirs.shape}")
    if recording is not None:
        mine.flags.writeable = False
    return mine, theirs


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
    return float(value)

# SPDX-License-Identifier: Apache-2.0
"""Models that classify: texts, pairs of texts, choices, tokens, and spans."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from qdqbert import _core
from qdqbert import modeling_outputs as outputs_of
from qdqbert.arrays import Array
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import ShapeError
from qdqbert.forward_inputs import as_array, as_floats
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_engine import require_one_input
from qdqbert.modeling_losses import choice_loss, sequence_loss, span_loss, token_loss
from qdqbert.modeling_model import QDQBertModel
from qdqbert.modeling_tree import Dropout, Linear, QDQBertOnlyNSPHead

__all__ = [
    "QDQBertForMultipleChoice",
    "QDQBertForNextSentencePrediction",
    "QDQBertForQuestionAnswering",
    "QDQBertForSequenceClassification",
    "QDQBertForTokenClassification",
]


class QDQBertForNextSentencePrediction(QDQBertPreTrainedModel):
    """BERT that tells whether the second text of a pair follows the first: class 0 if it does.

    Parameters
    ----------
    config : QDQBertConfig
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If a field of `config` cannot be; it is named.
    """

    _head = "next_sentence"
    _output_class: type[outputs_of.NextSentencePredictorOutput] = outputs_of.NextSentencePredictorOutput

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        self._build(config, device, seed)

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=True))
        self.add_module("cls", QDQBertOnlyNSPHead(self._engine.handles, "cls"))

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        next_sentence_label: Any = None,
        label_smoothing: float = 0.0,
    ) -> Any:
        """Score each pair as continued and as random.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
            As in `QDQBertModel.forward`.
        labels : integers, shape (batch,)
            0: the second text follows the first; 1: it is random.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.
        next_sentence_label : integers, shape (batch,)
            The old name of `labels`, with a FutureWarning.
        label_smoothing : float
            Share of the target that is spread over all classes, 0 .. 1; with labels.

        Returns
        -------
        NextSentencePredictorOutput or tuple

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        if next_sentence_label is not None:
            if labels is not None:
                raise TypeError("next_sentence_label: is the old name of labels, which is given as well")
            warnings.warn(
                "next_sentence_label is the old name of labels and will go; use labels",
                FutureWarning,
                stacklevel=3,
            )
            labels = next_sentence_label
        run = self._run(
            _core.OUTPUT_LOGITS,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        scoring = self._scoring(run, label_smoothing, labels)
        loss = None if labels is None else choice_loss("labels", run.logits, labels, scoring)
        return self._output(
            return_dict,
            loss=loss,
            logits=run.logits,
            hidden_states=run.hidden_states,
            attentions=run.attentions,
        )


class QDQBertForSequenceClassification(QDQBertPreTrainedModel):
    """BERT that gives a text one label, several labels, or a number.

    Parameters
    ----------
    config : QDQBertConfig
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If a field of `config` cannot be; it is named.
    """

    _head = "sequence_classification"
    _output_class: type[outputs_of.SequenceClassifierOutput] = outputs_of.SequenceClassifierOutput

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        self._build(config, device, seed)

    @property
    def num_labels(self) -> int:
        """Number of logits of a text."""
        return self.config.num_labels

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=True))
        self.add_module("dropout", Dropout(self.config.hidden_dropout_prob))
        self.add_module("classifier", Linear(self._engine.handles, "classifier"))

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> Any:
        """Classify each sequence.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
            As in `QDQBertModel.forward`.
        labels : numbers
            Classes, shape (batch,); floats of shape (batch,) for regression with one label; floats of shape
            (batch, num_labels) otherwise.  If ``config.problem_type`` is None it is chosen from `labels` and,
            as in the original, written into the configuration.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.
        label_smoothing : float
            Share of the target that is spread over all classes, 0 .. 1; with labels.

        Returns
        -------
        SequenceClassifierOutput or tuple

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        run = self._run(
            _core.OUTPUT_LOGITS,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        scoring = self._scoring(run, label_smoothing, labels)
        loss = None if labels is None else sequence_loss(self.config, run.logits, labels, scoring)
        return self._output(
            return_dict,
            loss=loss,
            logits=run.logits,
            hidden_states=run.hidden_states,
            attentions=run.attentions,
        )


class QDQBertForMultipleChoice(QDQBertPreTrainedModel):
    """BERT that picks one of several texts, such as the endings of a story.

    Parameters
    ----------
    config : QDQBertConfig
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If a field of `config` cannot be; it is named.
    """

    _head = "sequence_classification"
    _output_class: type[outputs_of.MultipleChoiceModelOutput] = outputs_of.MultipleChoiceModelOutput
    _num_labels = 1

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        self._build(config, device, seed)

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=True))
        self.add_module("dropout", Dropout(self.config.hidden_dropout_prob))
        self.add_module("classifier", Linear(self._engine.handles, "classifier"))

    def _logits_gradient(self, d_logits: Any) -> Array:
        return super()._logits_gradient(d_logits).reshape(-1, 1)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> Any:
        """Score the choices of each example.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids : shape (batch, choices, length)
            As in `QDQBertModel.forward`, of each choice.  Of all but `input_ids` one row counts for all.
        head_mask : floats, shape (heads,) or (layers, heads)
        inputs_embeds : floats, shape (batch, choices, length, hidden)
        labels : integers, shape (batch,)
            The right choice, in [0, choices).
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.
        label_smoothing : float
            Share of the target that is spread over all classes, 0 .. 1; with labels.

        Returns
        -------
        MultipleChoiceModelOutput or tuple
            `logits` have the shape (batch, choices); hidden states and attentions have batch * choices rows.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        require_one_input(input_ids, inputs_embeds)
        name, given, rank = (
            ("input_ids", input_ids, 3) if input_ids is not None else ("inputs_embeds", inputs_embeds, 4)
        )
        choices = _number_of_choices(name, given, rank)
        run = self._run(
            _core.OUTPUT_LOGITS,
            input_ids=_flat("input_ids", input_ids, choices, 3),
            attention_mask=_flat("attention_mask", attention_mask, choices, 3),
            token_type_ids=_flat("token_type_ids", token_type_ids, choices, 3),
            position_ids=_flat("position_ids", position_ids, choices, 3),
            head_mask=head_mask,
            inputs_embeds=_flat("inputs_embeds", inputs_embeds, choices, 4),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        logits = run.logits.reshape(-1, choices)
        scoring = self._scoring(run, label_smoothing, labels)
        loss = None
        if labels is not None:
            loss = choice_loss("labels", logits, labels, scoring, run.logits.shape)
        return self._output(
            return_dict,
            loss=loss,
            logits=logits,
            hidden_states=run.hidden_states,
            attentions=run.attentions,
        )


class QDQBertForTokenClassification(QDQBertPreTrainedModel):
    """BERT that gives each token a label, such as the kind of name that it is part of.

    Parameters
    ----------
    config : QDQBertConfig
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If a field of `config` cannot be; it is named.
    """

    _head = "token_classification"
    _output_class: type[outputs_of.TokenClassifierOutput] = outputs_of.TokenClassifierOutput

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        self._build(config, device, seed)

    @property
    def num_labels(self) -> int:
        """Number of logits of a token."""
        return self.config.num_labels

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=False))
        self.add_module("dropout", Dropout(self.config.hidden_dropout_prob))
        self.add_module("classifier", Linear(self._engine.handles, "classifier"))

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> Any:
        """Classify each token.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
            As in `QDQBertModel.forward`.
        labels : integers, shape (batch, length)
            In [0, num_labels), or -100 where none counts.  Nor does one at a position that was not computed.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.
        label_smoothing : float
            Share of the target that is spread over all classes, 0 .. 1; with labels.

        Returns
        -------
        TokenClassifierOutput or tuple
            Positions that were not computed have logits 0.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        run = self._run(
            _core.OUTPUT_LOGITS,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        scoring = self._scoring(run, label_smoothing, labels)
        loss = None
        if labels is not None:
            skips_padding = self.padding == "skip"
            loss = token_loss(labels, run.logits, attention_mask, scoring, skips_padding=skips_padding)
        return self._output(
            return_dict,
            loss=loss,
            logits=run.logits,
            hidden_states=run.hidden_states,
            attentions=run.attentions,
        )


class QDQBertForQuestionAnswering(QDQBertPreTrainedModel):
    """BERT that marks the span of text that answers a question.

    Parameters
    ----------
    config : QDQBertConfig
        With two labels: start and end.
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If ``config.num_labels`` is not 2, or another field cannot be; it is named.
    """

    _head = "question_answering"
    _output_class: type[outputs_of.QuestionAnsweringModelOutput] = outputs_of.QuestionAnsweringModelOutput

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        if isinstance(config, QDQBertConfig) and config.num_labels != 2:
            raise ValueError(
                f"num_labels: question answering needs 2 (start and end), got {config.num_labels}"
            )
        self._build(config, device, seed)

    @property
    def num_labels(self) -> int:
        """Number of logits of a token: two."""
        return self.config.num_labels

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=False))
        self.add_module("qa_outputs", Linear(self._engine.handles, "qa_outputs"))

    def _logits_gradient(self, d_logits: Any) -> Array:
        sides = (
            [as_floats("d_logits", each) for each in d_logits] if isinstance(d_logits, tuple | list) else []
        )
        if len(sides) != 2 or sides[0] is None or sides[1] is None or sides[0].shape != sides[1].shape:
            raise ShapeError(
                "d_logits: expected a pair, of start_logits and of end_logits, each of shape (batch, length)"
            )
        return np.stack([sides[0], sides[1]], axis=-1)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> Any:
        """Score every token as start and as end of the answer.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
            As in `QDQBertModel.forward`.
        start_positions, end_positions : integers, shape (batch,) or (batch, 1)
            Labels; both or none.  Positions outside the sequence are not counted.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.
        label_smoothing : float
            Share of the target that is spread over all classes, 0 .. 1; with labels.

        Returns
        -------
        QuestionAnsweringModelOutput or tuple
            The loss is the mean of the two cross-entropies over the positions that were computed; the others
            have logit 0, and are no choices.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        run = self._run(
            _core.OUTPUT_LOGITS,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        start = np.ascontiguousarray(run.logits[..., 0])
        end = np.ascontiguousarray(run.logits[..., 1])
        scoring = self._scoring(run, label_smoothing, start_positions)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(
                start,
                end,
                start_positions,
                end_positions,
                attention_mask,
                scoring,
                skips_padding=self.padding == "skip",
            )
        return self._output(
            return_dict,
            loss=loss,
            start_logits=start,
            end_logits=end,
            hidden_states=run.hidden_states,
            attentions=run.attentions,
        )


def _number_of_choices(argument: str, value: Any, rank: int) -> int:
    shape = as_array(argument, value).shape
    if len(shape) != rank or 0 in shape:
        last = ", hidden" if rank == 4 else ""
        raise ShapeError(
            f"{argument}: expected (batch, choices, length{last}) with at least one token, got {shape}"
        )
    return int(shape[1])


def _flat(argument: str, value: Any, choices: int, rank: int) -> Array | None:
    """Turn (batch, choices, ...) into (batch * choices, ...); one row of integers counts for all choices."""
    if value is None:
        return None
    array = as_array(argument, value)
    if rank == 3 and array.ndim <= 3 and array.ndim > 0 and array.size == array.shape[-1]:
        return array.reshape(1, -1)
    if array.ndim != rank or array.shape[1] != choices:
        last = ", hidden" if rank == 4 else ""
        raise ShapeError(
            f"{argument}: expected (batch, choices, length{last}) with {choices} choices, got {array.shape}"
        )
    return array.reshape(-1, *array.shape[2:])

# SPDX-License-Identifier: Apache-2.0
"""The models: `QDQBertModel`, `QDQBertForQuestionAnswering`, `QDQBertForSequenceClassification`.

Signatures, defaults and outputs are those of transformers' QDQBERT; arrays are NumPy's.  Three things are
decided differently, and on purpose:

- ``model.padding``: positions whose ``attention_mask`` is 0 are not computed and read as zero (``"skip"``).
The
  original computes them, lets them into its statistics and then nobody uses them; ``"compute"`` does the
  same.
- Models are in evaluation mode from the start, since training is not built yet.
- Fresh weights come from a seed, parameter by parameter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qdqbert import _core
from qdqbert import modeling_outputs as outputs_of
from qdqbert.arrays import Array
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import ShapeError, UnsupportedError
from qdqbert.forward_inputs import as_floats, as_integers, as_labels
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_tree import Dropout, Linear, QDQBertEmbeddings, QDQBertEncoder, QDQBertPooler
from qdqbert.module import Module

__all__ = [
    "QDQBertForQuestionAnswering",
    "QDQBertForSequenceClassification",
    "QDQBertModel",
    "QDQBertPreTrainedModel",
]


class QDQBertModel(QDQBertPreTrainedModel):
    """BERT without a head: hidden states, and a pooled vector of the first token.

    Parameters
    ----------
    config : QDQBertConfig
    add_pooling_layer : bool
        Whether there is a pooler.
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If a field of `config` cannot be; it is named.
    UnsupportedError
        For decoders, relative positions and pruned heads.
    """

    _head = "none"

    def __init__(
        self,
        config: QDQBertConfig,
        add_pooling_layer: bool = True,
        *,
        device: Device | None = None,
        seed: int | None = 0,
    ) -> None:
        self._prefix = ""
        self._has_pooler = bool(add_pooling_layer)
        self._build(config, device, seed, self._has_pooler)

    @classmethod
    def _inside(cls, parent: QDQBertPreTrainedModel, has_pooler: bool) -> QDQBertModel:
        """Return the base model that a model with a head holds: the same engine, under the prefix."""
        self = cls.__new__(cls)
        Module.__init__(self)
        self.config = parent.config
        self.name_or_path = parent.name_or_path
        self._engine = parent._engine
        self._prefix = f"{parent.base_model_prefix}."
        self._has_pooler = has_pooler
        self._build_children()
        return self

    @classmethod
    def _model_arguments(cls) -> tuple[str, ...]:
        return ("add_pooling_layer",)

    def _build_children(self) -> None:
        handles, prefix = self._engine.handles, self._prefix
        self.add_module("embeddings", QDQBertEmbeddings(handles, f"{prefix}embeddings", self.config))
        self.add_module("encoder", QDQBertEncoder(handles, f"{prefix}encoder", self.config))
        if self._has_pooler:
            self.add_module("pooler", QDQBertPooler(handles, f"{prefix}pooler"))

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Run the encoder.

        Parameters
        ----------
        input_ids : integers, shape (batch, length)
            In [0, vocab_size).
        attention_mask : integers or bool, shape (batch, length) or (batch, length, length)
            0 where nobody looks; a mask with three dimensions implies ``padding="compute"``.
        token_type_ids : integers, shape (batch, length)
            In [0, type_vocab_size); zeros if left out.
        position_ids : integers, shape (batch, length)
            In [0, max_position_embeddings); 0 .. length - 1 in each row if left out.
        head_mask : floats, shape (heads,) or (layers, heads)
            Factors on the probabilities of each head.
        inputs_embeds : floats, shape (batch, length, hidden)
            Instead of `input_ids`.
        encoder_hidden_states, encoder_attention_mask, past_key_values, use_cache
            Of decoders; refused.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.

        Returns
        -------
        BaseModelOutputWithPoolingAndCrossAttentions or tuple
            As a tuple, the second entry is None if there is no pooler.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        UnsupportedError
            For arguments of decoders.
        """
        _refuse_decoder_arguments(encoder_hidden_states, encoder_attention_mask, past_key_values, use_cache)
        wanted = _core.OUTPUT_LAST_HIDDEN_STATE | (_core.OUTPUT_POOLER_OUTPUT if self._has_pooler else 0)
        last, pooled, _, states, attentions = self._run(
            wanted,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
        )
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return (last, pooled, *(value for value in (states, attentions) if value is not None))
        return outputs_of.BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=last, pooler_output=pooled, hidden_states=states, attentions=attentions
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
        If ``config.num_labels`` is not 2, or another field cannot be.
    UnsupportedError
        For decoders, relative positions and pruned heads.
    """

    _head = "question_answering"

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        if isinstance(config, QDQBertConfig) and config.num_labels != 2:
            raise ValueError(
                f"num_labels: question answering needs 2 (start and end), got {config.num_labels}"
            )
        self._build(config, device, seed)

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=False))
        self.add_module("qa_outputs", Linear(self._engine.handles, "qa_outputs"))

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

        Returns
        -------
        QuestionAnsweringModelOutput or tuple
            The loss is the mean of the two cross-entropies.  Positions that were not computed have logit 0.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        _, _, logits, states, attentions = self._run(
            _core.OUTPUT_LOGITS,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
        )
        start, end = np.ascontiguousarray(logits[..., 0]), np.ascontiguousarray(logits[..., 1])
        loss = None
        if start_positions is not None and end_positions is not None:
            first = _span_loss("start_positions", start, start_positions)
            last = _span_loss("end_positions", end, end_positions)
            loss = np.float32((first + last) / 2)
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return tuple(value for value in (loss, start, end, states, attentions) if value is not None)
        return outputs_of.QuestionAnsweringModelOutput(
            loss=loss, start_logits=start, end_logits=end, hidden_states=states, attentions=attentions
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
    UnsupportedError
        For decoders, relative positions and pruned heads.
    """

    _head = "sequence_classification"

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

        Returns
        -------
        SequenceClassifierOutput or tuple

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        _, _, logits, states, attentions = self._run(
            _core.OUTPUT_LOGITS,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
        )
        loss = None if labels is None else self._loss(logits, as_labels("labels", labels))
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return tuple(value for value in (loss, logits, states, attentions) if value is not None)
        return outputs_of.SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=states, attentions=attentions
        )

    def _loss(self, logits: Array, labels: Array) -> np.float32:
        num_labels = self.num_labels
        problem_type = self.config.problem_type
        if problem_type is None:
            if num_labels == 1:
                problem_type = "regression"
            elif labels.dtype.kind in "iu":
                problem_type = "single_label_classification"
            else:
                problem_type = "multi_label_classification"
        if problem_type == "single_label_classification":
            classes = as_integers("labels", labels)
            assert classes is not None
            loss = _core.cross_entropy(logits, classes.reshape(-1), -100)
        else:
            values = as_floats("labels", labels)
            assert values is not None
            if problem_type == "regression" and num_labels == 1:
                loss = _core.mean_squared_error(logits.reshape(-1), values.reshape(-1))
            elif problem_type == "regression":
                loss = _core.mean_squared_error(logits, values)
            else:
                loss = _core.binary_cross_entropy(logits, values)
        self.config.problem_type = problem_type
        return np.float32(loss)


def _span_loss(argument: str, logits: Array, positions: Any) -> float:
    """Cross-entropy over positions, clamped to [0, length]; length itself is not counted."""
    labels = as_integers(argument, positions)
    assert labels is not None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != logits.shape[:1]:
        raise ShapeError(f"{argument}: expected ({logits.shape[0]},), got {labels.shape}")
    length = logits.shape[1]
    return _core.cross_entropy(logits, np.ascontiguousarray(labels.clip(0, length)), length)


def _refuse_decoder_arguments(
    encoder_hidden_states: Any, encoder_attention_mask: Any, past_key_values: Any, use_cache: bool | None
) -> None:
    for name, value in (
        ("encoder_hidden_states", encoder_hidden_states),
        ("encoder_attention_mask", encoder_attention_mask),
        ("past_key_values", past_key_values),
        ("use_cache", use_cache or None),
    ):
        if value is not None:
            raise UnsupportedError(f"{name}: only a decoder takes it, and the decoder is not built yet")

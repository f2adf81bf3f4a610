# SPDX-License-Identifier: Apache-2.0
"""`QDQBertModel`: embeddings, encoder or decoder, pooler."""

from __future__ import annotations

from typing import Any

from qdqbert import _core
from qdqbert import modeling_outputs as outputs_of
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_tree import QDQBertEmbeddings, QDQBertEncoder, QDQBertPooler
from qdqbert.module import Module

__all__ = ["QDQBertModel"]


class QDQBertModel(QDQBertPreTrainedModel):
    """BERT without a head: hidden states, and a pooled vector of the first token.

    With ``config.is_decoder`` each token attends to itself and those before it, and the model can go on from
    a cache; with ``config.add_cross_attention`` its layers attend to an encoder's states as well.

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
    """

    _head = "none"
    _output_class: type[outputs_of.BaseModelOutputWithPoolingAndCrossAttentions] = (
        outputs_of.BaseModelOutputWithPoolingAndCrossAttentions
    )

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

    def _constructor_arguments(self) -> dict[str, Any]:
        return {"add_pooling_layer": self._has_pooler}

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
        """Run the layers.

        Parameters
        ----------
        input_ids : integers, shape (batch, length)
            In [0, vocab_size).
        attention_mask : integers or bool, shape (batch, past + length) or (batch, length, past + length)
            0 where nobody looks; a mask with three dimensions implies ``padding="compute"`` and says all,
            also in a decoder.  An axis of size 1 counts for all sequences, queries or keys.
        token_type_ids : integers, shape (batch, length), or (1, length), (length,), or what else broadcasts
            In [0, type_vocab_size); zeros if left out.
        position_ids : integers, shape (batch, length), or (1, length), (length,), or what else broadcasts
            In [0, max_position_embeddings); past .. past + length - 1 in each row if left out.
        head_mask : floats, shape (heads,) or (layers, heads)
            Factors on the probabilities of each head, pruned ones included.
        inputs_embeds : floats, shape (batch, length, hidden)
            Instead of `input_ids`.
        encoder_hidden_states : floats, shape (batch, encoder length, hidden)
            What cross-attention looks at; it is left out without them.
        encoder_attention_mask : integers or bool, (batch, encoder length) or (batch, length, encoder length)
            0 where cross-attention does not look; an axis of size 1 counts for all.
        past_key_values : sequence of sequences of floats
            What an earlier call returned, for the tokens before these.  Cached projections of an encoder are
            used as they are, whether its states are given again or not.  Not in training mode.
        use_cache : bool, optional
            Return `past_key_values`; of decoders.  The configuration decides if left out.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.

        Returns
        -------
        BaseModelOutputWithPoolingAndCrossAttentions or tuple
            As a tuple, the second entry is None if there is no pooler, and `past_key_values` come before
            `hidden_states`, as in the original.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range, and for an encoder's states where there is no
            cross-attention; the argument is named.
        """
        run = self._run(
            _core.OUTPUT_LAST_HIDDEN_STATE | (_core.OUTPUT_POOLER_OUTPUT if self._has_pooler else 0),
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        if self._returns_tuple(return_dict):
            rest = (run.past_key_values, run.hidden_states, run.attentions, run.cross_attentions)
            return (
                run.last_hidden_state,
                run.pooler_output,
                *(value for value in rest if value is not None),
            )
        return self._output_class(
            last_hidden_state=run.last_hidden_state,
            pooler_output=run.pooler_output,
            hidden_states=run.hidden_states,
            past_key_values=run.past_key_values,
            attentions=run.attentions,
            cross_attentions=run.cross_attentions,
        )

# SPDX-License-Identifier: Apache-2.0
"""Language models: causal, which generates, and masked."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert import modeling_outputs as outputs_of
from qdqbert.arrays import Array
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import CheckpointError, ShapeError
from qdqbert.forward_inputs import as_array, as_floats, as_integers, as_mask, as_past
from qdqbert.generation.configuration import GENERATION_CONFIG_NAME, GenerationConfig
from qdqbert.generation.loop import GenerationMixin
from qdqbert.loss import Loss
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_engine import Run, require_one_input
from qdqbert.modeling_losses import IGNORED, labelled_loss, token_labels
from qdqbert.modeling_model import QDQBertModel
from qdqbert.modeling_tree import Linear, QDQBertOnlyMLMHead
from qdqbert.serialization.folder import Source
from qdqbert.serialization.folder_change import FolderChange
from qdqbert.surgery import set_output_table, table_of, untie

__all__ = ["QDQBertForMaskedLM", "QDQBertLMHeadModel"]

_logger = logging.getLogger(__name__)


class _LanguageModel(GenerationMixin, QDQBertPreTrainedModel):
    """What both language models share: the head, whose table is the word embeddings' if they are tied."""

    _head = "language_model"
    _tied_weights_keys: ClassVar[list[str] | None] = [
        "predictions.decoder.weight",
        "predictions.decoder.bias",
    ]

    def _build_children(self) -> None:
        self.add_module("bert", QDQBertModel._inside(self, has_pooler=False))
        words = "bert.embeddings.word_embeddings.weight"
        self.add_module("cls", QDQBertOnlyMLMHead(self._engine.handles, "cls", words, self.config))

    def _scored(
        self,
        labels: Any,
        input_ids: Any,
        inputs_embeds: Any,
        attention_mask: Any,
        only_labelled: bool,
        only_where: Any,
        *,
        is_shifted: bool,
    ) -> tuple[Array | None, Array | None]:
        """Return the label of each token that is scored, and the tokens if they are not all."""
        if labels is None and only_labelled:
            raise ValueError("only_labelled: there are no labels; expected False")
        if labels is None and only_where is None:
            return None, None
        require_one_input(input_ids, inputs_embeds)
        name, words = ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
        shape = as_array(name, words).shape[:2]
        if labels is None:
            return None, _places(only_where, shape)
        if only_where is not None:
            raise ValueError("only_where: labels say already which tokens count; expected None beside them")
        rows = token_labels(labels, shape, attention_mask, self.padding == "skip", is_shifted)
        if not only_labelled:
            return rows, None
        # One token at least is scored, for the sake of the engine.
        positions = (
            np.flatnonzero(rows.reshape(-1) != IGNORED) if (rows != IGNORED).any() else np.zeros(1, np.int64)
        )
        return rows.reshape(-1)[positions], positions

    def _loss(self, run: Run, rows: Array | None, label_smoothing: float) -> Loss | None:
        scoring = self._scoring(run, label_smoothing, rows)
        return None if rows is None else labelled_loss(rows, run.logits, scoring)

    def _load_generation_config(self, source: Source | None) -> None:
        path = None
        if source is not None:
            try:
                path = source.find(GENERATION_CONFIG_NAME)
            except CheckpointError:
                # Offline: the weights are in the hub's cache, and whether this file exists nobody knows.
                if source.folder is not None:
                    raise
        if path is not None:
            self.generation_config = GenerationConfig.from_json_file(path)

    def _save_more(self, change: FolderChange) -> None:
        change.write_text(GENERATION_CONFIG_NAME, self.generation_config.to_json_string())

    def get_output_embeddings(self) -> Linear:
        """Return the layer that scores the vocabulary."""
        decoder = self.get_submodule("cls.predictions.decoder")
        assert isinstance(decoder, Linear)
        return decoder

    def set_output_embeddings(self, value: Any) -> None:
        """Give the head a copy of another table; words keep theirs, so the two are not tied any more.

        Parameters
        ----------
        value : floats, shape (vocab_size, hidden), or module with such a ``weight``
            A ``bias`` of shape (vocab_size,) that it has replaces ``cls.predictions.bias``.

        Raises
        ------
        TypeError, ShapeError
            If it is no such table.
        MemoryError
            The model is then as it was.
        StateError
            If another thread changes the sizes at the same time.
        """
        table = table_of("value", value, self.get_input_embeddings().embedding_dim)
        bias = as_floats("value.bias", getattr(value, "bias", None))
        set_output_table(self._engine, self.config, table, bias)

    def untie_weights(self) -> None:
        """Give the head a table of its own, equal to that of the words so far.

        ``config.tie_word_embeddings`` is False from then on; `tie_weights` with True undoes it.

        Raises
        ------
        MemoryError
            If old and new model do not fit side by side; the model is then as it was.
        StateError
            If another thread changes the sizes at the same time.
        """
        untie(self._engine, self.config)


class QDQBertLMHeadModel(_LanguageModel):
    """BERT as a causal language model: each token is scored by those before it.

    It is a decoder if ``config.is_decoder`` is set; without that every token sees all others, and a warning
    says so.  `generate` continues texts.

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

    _output_class: type[outputs_of.CausalLMOutputWithCrossAttentions] = (
        outputs_of.CausalLMOutputWithCrossAttentions
    )

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        if isinstance(config, QDQBertConfig) and not config.is_decoder:
            _logger.warning(
                "QDQBertLMHeadModel: config.is_decoder is False, so tokens see those after them; set "
                "is_decoder=True for a causal model"
            )
        self._build(config, device, seed)

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
        labels: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        label_smoothing: float = 0.0,
        only_labelled: bool = False,
        only_where: Any = None,
    ) -> Any:
        """Score the vocabulary at every token.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
        encoder_hidden_states, encoder_attention_mask, past_key_values, use_cache
            As in `QDQBertModel.forward`; with `labels` there is no cache.
        labels : integers, shape (batch, length)
            The tokens themselves: the model shifts them by one.  -100 where none counts; nor does one whose
            predecessor was not computed.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.
        label_smoothing : float
            Share of the target that is spread over all classes, 0 .. 1; with labels.
        only_labelled : bool
            Score the tokens alone whose labels count: the same loss and gradients for less work.  Logits then
            have the shape (tokens, vocab_size), row by row.
        only_where : bools, or 0 and 1, shape (batch, length), optional
            Score the tokens alone where this is True, for less work: the logits are then
            ``logits[only_where]`` of all, (tokens, vocab_size).  Not with `labels`.

        Returns
        -------
        CausalLMOutputWithCrossAttentions or tuple
            Positions that were not computed have logits 0.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        rows, positions = self._scored(
            labels, input_ids, inputs_embeds, attention_mask, only_labelled, only_where, is_shifted=True
        )
        run = self._run(
            _core.OUTPUT_LOGITS,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache if labels is None else False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            logits_positions=positions,
        )
        loss = self._loss(run, rows, label_smoothing)
        return self._output(
            return_dict,
            loss=loss,
            logits=run.logits,
            past_key_values=run.past_key_values,
            hidden_states=run.hidden_states,
            attentions=run.attentions,
            cross_attentions=run.cross_attentions,
        )

    # ---- generation ----------------------------------------------------------------------------------------

    def prepare_inputs_for_generation(
        self, input_ids: Any, past_key_values: Any = None, attention_mask: Any = None, **model_kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments of the next forward.

        Parameters
        ----------
        input_ids : integers, shape (batch, length)
            All tokens so far.
        past_key_values : sequence, optional
            Cache of the first of them; only the others are fed again.
        attention_mask : integers, shape (batch, length), optional
            Ones if left out.
        **model_kwargs
            ``encoder_hidden_states`` and ``encoder_attention_mask`` are handed on.

        Returns
        -------
        dict
            ``input_ids``, ``attention_mask``, ``past_key_values``, and what is handed on.
        """
        ids = _tokens(input_ids)
        mask = as_mask("attention_mask", attention_mask)
        mask = np.ones_like(ids) if mask is None else mask
        if past_key_values is not None:
            past = as_past(past_key_values, self.config.num_hidden_layers).length
            ids = ids[:, past if ids.shape[1] > past else -1 :]
        encoder = ("encoder_hidden_states", "encoder_attention_mask")
        handed_on = {name: model_kwargs[name] for name in encoder if model_kwargs.get(name) is not None}
        inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": past_key_values}
        return inputs | handed_on

    def _reorder_cache(self, past_key_values: Any, beam_idx: Any) -> tuple[tuple[Array, ...], ...]:
        """Return a cache of other rows: row i is row ``beam_idx[i]`` of the old one."""
        rows = np.asarray(beam_idx)
        return tuple(tuple(np.take(each, rows, axis=0) for each in layer) for layer in past_key_values)

    def _next_token_logits(self, inputs: dict[str, Any], use_cache: bool) -> tuple[Array, Any]:
        use_cache = use_cache and self.config.is_decoder
        run = self._run(
            _core.OUTPUT_LOGITS,
            **(dict.fromkeys(_PLAIN_ARGUMENTS) | inputs),
            use_cache=use_cache,
            only_last_logits=True,
            may_record=False,
        )
        return run.logits, run.past_key_values


class QDQBertForMaskedLM(_LanguageModel):
    """BERT that fills in masked words.

    Parameters
    ----------
    config : QDQBertConfig
        With ``is_decoder`` tokens do not see those after them, which a warning says.
    device : Device, optional
    seed : int
        Of the fresh weights.

    Raises
    ------
    ValueError
        If a field of `config` cannot be; it is named.
    """

    _output_class: type[outputs_of.MaskedLMOutput] = outputs_of.MaskedLMOutput

    def __init__(self, config: QDQBertConfig, *, device: Device | None = None, seed: int | None = 0) -> None:
        if isinstance(config, QDQBertConfig) and config.is_decoder:
            _logger.warning(
                "QDQBertForMaskedLM: config.is_decoder is True, so tokens do not see those after them; set "
                "is_decoder=False for attention in both directions"
            )
        self._build(config, device, seed)

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
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        label_smoothing: float = 0.0,
        only_labelled: bool = False,
        only_where: Any = None,
    ) -> Any:
        """Score the vocabulary at every token.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
        encoder_hidden_states, encoder_attention_mask
            As in `QDQBertModel.forward`.
        labels : integers, shape (batch, length)
            The right tokens; -100 where none counts, as at all that are not masked.  Nor does one at a
            position that was not computed.
        output_attentions, output_hidden_states, return_dict : bool, optional
            The configuration decides if left out.
        label_smoothing : float
            Share of the target that is spread over all classes, 0 .. 1; with labels.
        only_labelled : bool
            Score the tokens alone whose labels count: the same loss and gradients for less work.  Logits then
            have the shape (tokens, vocab_size), row by row.
        only_where : bools, or 0 and 1, shape (batch, length), optional
            Score the tokens alone where this is True, for less work: the logits are then
            ``logits[only_where]`` of all, (tokens, vocab_size).  Not with `labels`.

        Returns
        -------
        MaskedLMOutput or tuple
            Positions that were not computed have logits 0.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        rows, positions = self._scored(
            labels, input_ids, inputs_embeds, attention_mask, only_labelled, only_where, is_shifted=False
        )
        run = self._run(
            _core.OUTPUT_LOGITS,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            logits_positions=positions,
        )
        loss = self._loss(run, rows, label_smoothing)
        return self._output(
            return_dict,
            loss=loss,
            logits=run.logits,
            hidden_states=run.hidden_states,
            attentions=run.attentions,
        )

    # ---- generation ----------------------------------------------------------------------------------------

    def prepare_inputs_for_generation(
        self, input_ids: Any, attention_mask: Any = None, **model_kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments of the next forward: a token is added that nobody sees, to be filled in.

        Parameters
        ----------
        input_ids : integers, shape (batch, length)
        attention_mask : integers, shape (batch, length), optional
            Ones if left out.
        **model_kwargs
            Taken for the sake of other models; nothing here depends on them.

        Returns
        -------
        dict
            ``input_ids`` with a padding token at the end of each row, ``attention_mask`` with a 0.

        Raises
        ------
        ValueError
            If ``config.pad_token_id`` is None.
        """
        if self.config.pad_token_id is None:
            raise ValueError("The PAD token should be defined for generation")
        ids = _tokens(input_ids)
        mask = as_mask("attention_mask", attention_mask)
        mask = np.ones_like(ids) if mask is None else mask
        column = np.zeros((len(ids), 1), np.int64)
        return {
            "input_ids": np.concatenate([ids, column + self.config.pad_token_id], axis=1),
            "attention_mask": np.concatenate([mask, column], axis=1),
        }

    def _next_token_logits(self, inputs: dict[str, Any], use_cache: bool) -> tuple[Array, Any]:
        # The added token is masked, and its scores are what is wanted: it has to be computed.
        run = self._run(
            _core.OUTPUT_LOGITS,
            **(dict.fromkeys(_PLAIN_ARGUMENTS) | inputs),
            compute_padding=True,
            only_last_logits=True,
            may_record=False,
        )
        return run.logits, None

    def _reorder_cache(self, past_key_values: Any, beam_idx: Any) -> Any:
        raise AssertionError("a masked language model keeps no cache")


_PLAIN_ARGUMENTS = (
    "token_type_ids",
    "position_ids",
    "head_mask",
    "inputs_embeds",
    "output_attentions",
    "output_hidden_states",
)


def _places(only_where: Any, shape: tuple[int, ...]) -> Array:
    """Return the tokens where the argument is True, as the engine counts them."""
    asked = as_integers("only_where", only_where)
    assert asked is not None
    if asked.shape != shape:
        raise ShapeError(f"only_where: expected {shape}, got {asked.shape}")
    strange = asked[(asked != 0) & (asked != 1)]
    if strange.size:
        raise ValueError(f"only_where: expected True and False, or 0 and 1, got {strange[0]}")
    return np.flatnonzero(asked)


def _tokens(input_ids: Any) -> npt.NDArray[np.int64]:
    """Return the tokens so far as an array of rows."""
    ids = as_integers("input_ids", input_ids)
    if ids is None or ids.ndim != 2 or ids.size == 0:
        raise ShapeError(
            "input_ids: expected (batch, length) with at least one token, "
            f"got {None if ids is None else ids.shape}"
        )
    return ids

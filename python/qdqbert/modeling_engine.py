# SPDX-License-Identifier: Apache-2.0
"""The C model behind a model and the base model inside it: its making, and the forward call."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qdqbert import _core
from qdqbert.arrays import Array
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device, default_device
from qdqbert.errors import CheckpointError, ShapeError
from qdqbert.forks import ForkLock
from qdqbert.forward_inputs import (
    as_floats,
    as_head_mask,
    as_integers,
    as_mask,
    as_past,
    as_rows,
    require_past,
    spread_mask,
)
from qdqbert.modeling_bound import Bound
from qdqbert.modeling_tree import Handles
from qdqbert.module import Module
from qdqbert.nn.quant_mixin import require_fake_quant
from qdqbert.nn.tensor_quantizer import descriptor_options
from qdqbert.quant_descriptor import QuantDescriptor
from qdqbert.quant_modules import new_model_descriptors, set_up_new_model
from qdqbert.quantization_settings import (
    SECTION,
    CalibrationNote,
    note_of,
    read_descriptors,
    section_of,
)
from qdqbert.recording import Reach, Recording
from qdqbert.sessions import Loan, SessionPool

__all__ = ["Engine", "Run", "kept_heads", "require_one_input"]

_logger = logging.getLogger(__name__)

_POOLING_HEADS = ("next_sentence", "sequence_classification")
_OWN_TABLE = "cls.predictions.decoder.weight"  # of a language model that does not share that of the words


class Run(NamedTuple):
    """Outputs of one forward call; None where not asked for.

    Attributes
    ----------
    last_hidden_state : ndarray, shape (batch, length, hidden)
    pooler_output : ndarray, shape (batch, hidden)
    logits : ndarray
        Of the shape of the head.
    hidden_states : tuple of ndarray, shape (batch, length, hidden)
        Before each layer and after the last.
    attentions : tuple of ndarray, shape (batch, heads of the layer, length, past + length)
    cross_attentions : tuple of ndarray, shape (batch, heads, length, encoder length)
    past_key_values : tuple of tuples of ndarray
        For each layer keys and values, shape (batch, heads of the layer, past + length, head size), and where
        there is cross-attention its keys and values, shape (batch, heads, encoder length, head size).
    recording : Recording
        The way back, if the call was recorded.
    """

    last_hidden_state: Any
    pooler_output: Any
    logits: Any
    hidden_states: tuple[Array, ...] | None
    attentions: tuple[Array, ...] | None
    cross_attentions: tuple[Array, ...] | None
    past_key_values: tuple[tuple[Array, ...], ...] | None
    recording: Recording | None


def kept_heads(config: QDQBertConfig) -> list[list[int]]:
    """Return the heads that pruning has left in each layer, by their first numbers.

    Parameters
    ----------
    config : QDQBertConfig
        Validated.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    pruned: list[set[int]] = [set() for _ in range(layers)]
    for layer, gone in config.pruned_heads.items():
        pruned[layer].update(gone)
    return [[head for head in range(heads) if head not in gone] for gone in pruned]


def require_one_input(input_ids: Any, inputs_embeds: Any) -> None:
    """Refuse both and neither.

    Parameters
    ----------
    input_ids, inputs_embeds : array_like or None

    Raises
    ------
    ValueError
        As the original does.
    """
    if input_ids is not None and inputs_embeds is not None:
        raise ValueError("You cannot specify both input_ids and inputs_embeds at the same time")
    if input_ids is None and inputs_embeds is None:
        raise ValueError("You have to specify either input_ids or inputs_embeds")


class Engine:
    """What a model and the base model inside it share.

    Parameters
    ----------
    config : QDQBertConfig
    head : str
        Kind of head, as the C model calls it.
    add_pooling_layer : bool
        Counts for ``"none"`` only.
    num_labels : int or None
        Rows of the head's classifier; None: the configuration's.
    device : Device or None
        None: the process's default device.

    Attributes
    ----------
    own : WeakKeyDictionary of Module to (str, frozenset of str)
        The modules of the tree as it was made: dotted name, and the attributes that are not users'.
    """

    def __init__(
        self,
        config: QDQBertConfig,
        head: str,
        add_pooling_layer: bool,
        num_labels: int | None,
        device: Device | None,
    ) -> None:
        config.validate()
        section = section_of(config)
        descriptors = read_descriptors(section)
        self.calibration: CalibrationNote | None = note_of(section)
        is_from_file = descriptors is not None
        if descriptors is None:
            descriptors = new_model_descriptors()
        require_fake_quant(*descriptors)
        self.input_desc: QuantDescriptor
        self.weight_desc: QuantDescriptor
        self.input_desc, self.weight_desc = descriptors
        self.padding = "skip"
        self._head, self._add_pooling_layer, self._num_labels = head, add_pooling_layer, num_labels
        self._device = default_device() if device is None else device
        self._said: set[str] = set()
        self._recorded = threading.local()
        self._counting = ForkLock()
        # All the random state there is: what is dropped follows from these two numbers.
        self.dropout_seed: int = 0
        self.dropout_step: int = 0
        self.bf16_products = False  # of forwards that are recorded
        try:
            core = self.make_core(config)
        except (TypeError, OverflowError) as error:
            # Descriptors take some fields as they come; only the engine refuses them.
            if is_from_file:
                raise CheckpointError(f"{SECTION}: {error}") from error
            raise
        if not is_from_file:
            set_up_new_model(core.quantizers())
        self.handles: Handles = Handles(core, config, self.input_desc, self.weight_desc)
        self.own: weakref.WeakKeyDictionary[Module, tuple[str, frozenset[str]]] = weakref.WeakKeyDictionary()

    def note_tree(self, root: Module, theirs: frozenset[str]) -> None:
        """Note the modules of the tree, and which of their attributes they were made with.

        Parameters
        ----------
        root : Module
            The model.
        theirs : frozenset of str
            Attributes that a derived class had set before.
        """
        alike: dict[tuple[str, ...], frozenset[str]] = {}  # modules of one class have the same attributes
        for path, module in root.named_modules():
            names = tuple(vars(module))
            if names not in alike:
                alike[names] = frozenset(name for name in names if name.startswith("_") or name == "config")
            self.own[module] = path, (alike[names] - theirs if module is root else alike[names])

    def make_core(
        self, config: QDQBertConfig, codes: Sequence[str] = (), lent: dict[str, Array] | None = None
    ) -> _core.Model:
        """Return a new C model of the sizes of a configuration, its parameters zero.

        Parameters
        ----------
        config : QDQBertConfig
        codes : sequence of str
            Weights that it keeps as codes.
        lent : dict of str to ndarray, optional
            Parameters that it reads where they are.

        Raises
        ------
        ValueError, MemoryError
            If there can be no such model, or not enough memory for it.
        """
        heads = [len(left) for left in kept_heads(config)]
        is_whole = all(count == config.num_attention_heads for count in heads)
        return _core.Model(
            self._device,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            num_labels=config.num_labels if self._num_labels is None else self._num_labels,
            layer_norm_eps=config.layer_norm_eps,
            hidden_act=config.hidden_act,
            add_pooling_layer=self._add_pooling_layer,
            head=self._head,
            input_quantizer=descriptor_options(self.input_desc),
            weight_quantizer=descriptor_options(self.weight_desc),
            position_embedding_type=config.position_embedding_type,
            add_cross_attention=bool(config.add_cross_attention),
            tie_word_embeddings=bool(config.tie_word_embeddings),
            heads_of_layers=None if is_whole else heads,
            padding_token=_padding_token(config),
            codes=codes,
            lent=lent,
        )

    @property
    def core(self) -> _core.Model:
        """The present C model."""
        return self.handles.bound.model

    @property
    def sessions(self) -> SessionPool:
        """The sessions of the present C model."""
        return self.handles.bound.sessions

    def warn_once(self, text: str, *arguments: Any) -> None:
        """Log a warning the first time that this model has cause for it.

        Parameters
        ----------
        text : str
            As `logging` formats it; said once whatever the arguments are.
        *arguments
        """
        if text not in self._said:
            self._said.add(text)
            _logger.warning(text, *arguments)

    # ---- forward -------------------------------------------------------------------------------------------

    def run(
        self,
        config: QDQBertConfig,
        wanted: int,
        *,
        input_ids: Any,
        attention_mask: Any,
        token_type_ids: Any,
        position_ids: Any,
        head_mask: Any,
        inputs_embeds: Any,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = False,
        compute_padding: bool = False,
        only_last_logits: bool = False,
        logits_positions: Array | None = None,
        records: bool = False,
        recomputes: bool = False,
        dropout: Array | None = None,
    ) -> Run:
        """Convert the arguments of a forward call, and run.

        Parameters
        ----------
        config : QDQBertConfig
            The model's, as it is at the moment of the call.
        wanted : int
            Sum of ``_core.OUTPUT_*``, to which what the other arguments ask for is added.
        compute_padding : bool
            Compute positions whose mask is 0 whatever `padding` says.
        only_last_logits : bool
            Of a language model: score the last token of each row alone; logits then have the shape
            (batch, vocabulary).
        logits_positions : ndarray, shape (positions,), int64, optional
            The same for these tokens, ``row * length + token`` each; logits then have the shape
            (positions, vocabulary).
        records : bool
            Keep what backward needs; see `Run.recording`.
        recomputes : bool
            Of a call that is recorded: keep little, and let backward compute the rest again.
        dropout : ndarray, shape (dropouts of the C model,), float32, optional
            Of a call that is recorded: probability of an element to be dropped, at each place.
        input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
            See `QDQBertModel.forward`.
        output_attentions, output_hidden_states, use_cache : bool, optional
            The configuration decides if None.
        encoder_hidden_states, encoder_attention_mask, past_key_values
            See `QDQBertModel.forward`.

        Raises
        ------
        TypeError, ShapeError, IndexError, ValueError
            For arguments of a wrong kind, shape or range; the argument is named.
        """
        require_one_input(input_ids, inputs_embeds)
        bound = self.handles.bound
        sizes = bound.config
        ids, embeds = as_integers("input_ids", input_ids), as_floats("inputs_embeds", inputs_embeds)
        mask = as_mask("attention_mask", attention_mask)
        heads = None
        if head_mask is not None:
            heads = as_head_mask(head_mask, kept_heads(sizes), sizes.num_attention_heads)
        past = as_past(past_key_values, sizes.num_hidden_layers)
        batch, length = self._batch_and_length(sizes, ids, embeds, past.length)
        states, encoder_mask = self._encoder_inputs(
            sizes, encoder_hidden_states, encoder_attention_mask, past.cross_keys is not None
        )
        if past_key_values is not None:
            all_heads = sizes.num_attention_heads
            left = [len(layer) for layer in kept_heads(sizes)]
            require_past(past, batch, left, all_heads, sizes.hidden_size // all_heads)
        encoder_length = _encoder_length(states, past.cross_keys)
        mask = spread_mask(mask, batch, length, past.length + length)
        encoder_mask = spread_mask(encoder_mask, batch, length, encoder_length)
        self._warn_of_padding(config, ids, mask)
        wanted |= self._wanted(config, sizes, output_attentions, output_hidden_states, use_cache)
        keep = bool(wanted & (_core.OUTPUT_ATTENTIONS | _core.OUTPUT_CROSS_ATTENTIONS)) or heads is not None
        is_square = any(each is not None and each.ndim == 3 for each in (mask, encoder_mask))
        if only_last_logits:
            logits_positions = np.arange(1, batch + 1) * length - 1
        arguments: list[Any] = [
            ids,
            embeds,
            mask,
            as_rows("token_type_ids", token_type_ids, batch, length),
            as_rows("position_ids", position_ids, batch, length),
            heads,
            compute_padding or is_square or self.padding == "compute",
            bool(config.is_decoder),
            past.keys,
            past.values,
            states,
            encoder_mask,
            past.cross_keys,
            past.cross_values,
            wanted,
            logits_positions,
        ]
        keep = keep or bound.model.needs_probabilities()
        recording = None
        if records:
            if past.length:
                raise ValueError(
                    "past_key_values: a forward in training mode takes no keys of earlier calls; call eval()"
                )
            loan_of = functools.partial(
                bound.sessions.training_session,
                batch,
                length,
                keep,
                encoder_length=encoder_length,
                recomputes=recomputes,
                bf16_products=self.bf16_products,
            )
            reach = Reach(
                prefix="bert." if self._head != "none" else "",
                head_pools=self._head in _POOLING_HEADS,
                looks_up_words=ids is not None,
                shares_table=self._head == "language_model" and _OWN_TABLE not in bound.parameters,
                adds_positions=sizes.position_embedding_type == "absolute",
                attends_encoder=encoder_length > 0,
                projects_encoder=states is not None and past.cross_keys is None,
            )
            outputs, recording = self._record(bound, loan_of, reach, arguments, dropout)
        else:
            with bound.sessions.session(
                batch, length, keep, past=past.length, encoder_length=encoder_length
            ) as session:
                outputs = session.forward(*arguments)
        last, pooled, logits, hidden, attentions, crossed, keys, values, cross_keys, cross_values = outputs
        cache = None
        if keys is not None:
            columns: list[Any] = [keys, values]
            if past.cross_keys is not None:
                columns += [past.cross_keys, past.cross_values]
            elif cross_keys is not None:
                columns += [cross_keys, cross_values]
            cache = tuple(zip(*columns, strict=True))
        return Run(last, pooled, logits, hidden, attentions, crossed, cache, recording)

    def _record(
        self,
        bound: Bound,
        loan_of: Callable[[], Loan],
        reach: Reach,
        arguments: list[Any],
        dropout: Array | None,
    ) -> tuple[Any, Recording]:
        """Run a forward that can be walked back; return its outputs and the way back."""
        # Backward reads the arrays again, and callers reuse theirs.
        kept: list[Any] = [np.array(each) if isinstance(each, np.ndarray) else each for each in arguments]
        kept.append(None if dropout is None else (self.dropout_seed, self._next_step(), dropout))
        self._recorded.last = None  # its session may be the one to use
        loan = loan_of()
        try:
            outputs = loan.session.forward(*kept)
        except BaseException:  # whose traceback holds this frame, and with it the loan
            loan.give_back()
            raise
        recording = Recording(self.handles, bound, loan, reach)
        self._recorded.last = recording
        return outputs, recording

    def _next_step(self) -> int:
        """Count a recorded forward, and return the number that it has."""
        with self._counting:
            step = self.dropout_step
            self.dropout_step = (step + 1) % 2**64
        return step

    def forget_recorded(self) -> None:
        """Drop the last recorded forward of this thread, and what it holds."""
        self._recorded.last = None

    @property
    def recorded(self) -> Recording | None:
        """The last recorded forward of this thread, if it is still there."""
        return getattr(self._recorded, "last", None)

    def _wanted(
        self,
        config: QDQBertConfig,
        sizes: QDQBertConfig,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        use_cache: bool | None,
    ) -> int:
        wanted = 0
        if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            wanted |= _core.OUTPUT_HIDDEN_STATES
        if config.output_attentions if output_attentions is None else output_attentions:
            wanted |= _core.OUTPUT_ATTENTIONS
            wanted |= _core.OUTPUT_CROSS_ATTENTIONS if sizes.add_cross_attention else 0
        if config.is_decoder:
            wanted |= _core.OUTPUT_CACHE if (config.use_cache if use_cache is None else use_cache) else 0
        elif use_cache:
            self.warn_once("use_cache=True has no effect: only a decoder (config.is_decoder) keeps a cache")
        return wanted

    def asked_by_default(self, config: QDQBertConfig, *, keeps_cache: bool) -> int:
        """Return the sum of ``_core.OUTPUT_*`` that a forward asks for if its arguments say nothing.

        Parameters
        ----------
        config : QDQBertConfig
            The model's, as it is now.
        keeps_cache : bool
            Whether the model's forward has an argument `use_cache`.
        """
        return self._wanted(config, self.handles.bound.config, None, None, None if keeps_cache else False)

    def _encoder_inputs(
        self, config: QDQBertConfig, hidden_states: Any, attention_mask: Any, has_cached: bool
    ) -> tuple[Array | None, Array | None]:
        """Return encoder states and mask as arrays; refuse them where nothing would look at them."""
        states = as_floats("encoder_hidden_states", hidden_states)
        mask = as_mask("encoder_attention_mask", attention_mask)
        if not config.add_cross_attention:
            for name, is_given in (
                ("encoder_hidden_states", states is not None),
                ("encoder_attention_mask", mask is not None),
                ("past_key_values", has_cached),
            ):
                if is_given:
                    raise ValueError(
                        f"{name}: the model has no cross-attention layers to use the encoder with; build it "
                        "with config.is_decoder=True and config.add_cross_attention=True"
                    )
        if mask is not None and states is None and not has_cached:
            raise ValueError("encoder_attention_mask: there are no encoder_hidden_states that it masks")
        return states, mask

    def _batch_and_length(
        self, config: QDQBertConfig, ids: Array | None, embeds: Array | None, past: int
    ) -> tuple[int, int]:
        name, array, rank = ("input_ids", ids, 2) if ids is not None else ("inputs_embeds", embeds, 3)
        assert array is not None
        if array.ndim != rank or array.size == 0:
            raise ShapeError(
                f"{name}: expected {'(batch, length)' if rank == 2 else '(batch, length, hidden)'} with at "
                f"least one sequence and one token, got {array.shape}"
            )
        batch, length = array.shape[:2]
        if past + length > config.max_position_embeddings:
            cached = f" after {past} in past_key_values" if past else ""
            raise ShapeError(
                f"{name}: {length} tokens in a sequence{cached}, the model has "
                f"{config.max_position_embeddings} positions"
            )
        return int(batch), int(length)

    def _warn_of_padding(self, config: QDQBertConfig, ids: Array | None, mask: Array | None) -> None:
        """Say once that a batch looks padded and has no mask, as the original does."""
        pad = config.pad_token_id
        if mask is not None or ids is None or pad is None or not (ids[:, [0, -1]] == pad).any():
            return
        same = [
            f"{name} ({pad})"
            for name in ("bos_token_id", "eos_token_id", "sep_token_id")
            if getattr(config, name, None) == pad
        ]
        note = f" (or they are not, as the token is also {' and '.join(same)})" if same else ""
        self.warn_once(
            "input_ids begin or end with the padding token (pad_token_id %s), so they are probably padded%s, "
            "and there is no attention_mask: padding is attended to like text",
            pad,
            note,
        )


def _encoder_length(states: Array | None, cross_keys: list[Array] | None) -> int:
    if cross_keys is not None:
        return int(cross_keys[0].shape[2]) if cross_keys[0].ndim == 4 else 0
    return int(states.shape[1]) if states is not None and states.ndim == 3 else 0


def _padding_token(config: QDQBertConfig) -> int | None:
    """Return the token whose word vector is not trained, as in `torch.nn.Embedding`."""
    token = config.pad_token_id
    return token if token is not None and 0 <= token < config.vocab_size else None

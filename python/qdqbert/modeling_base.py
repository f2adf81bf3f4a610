# SPDX-License-Identifier: Apache-2.0
"""What all models share: the C model behind them, fresh weights, the forward call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qdqbert import _core
from qdqbert.arrays import Array
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device, default_device
from qdqbert.errors import CheckpointError, ShapeError, UnsupportedError
from qdqbert.forward_inputs import as_floats, as_head_mask, as_integers, as_mask
from qdqbert.modeling_checkpoint import CheckpointModule
from qdqbert.modeling_tree import Handles
from qdqbert.module import Module, Slot
from qdqbert.nn.quant_mixin import require_fake_quant
from qdqbert.nn.tensor_quantizer import descriptor_options
from qdqbert.quant_modules import new_model_descriptors, require_exportable, set_up_new_model
from qdqbert.quantization_settings import read_descriptors
from qdqbert.sessions import SessionPool

if TYPE_CHECKING:
    from qdqbert.modeling_qdqbert import QDQBertModel

__all__ = ["QDQBertPreTrainedModel"]

_PADDINGS = ("skip", "compute")


class _Engine:
    """What a model and the base model inside it share: C model, handles, sessions, padding rule."""

    def __init__(
        self, config: QDQBertConfig, head: str, add_pooling_layer: bool, device: Device | None
    ) -> None:
        config.validate()
        descriptors = read_descriptors(getattr(config, "quantization_config", None))
        is_from_file = descriptors is not None
        if descriptors is None:
            descriptors = new_model_descriptors()
        require_fake_quant(*descriptors)
        self.input_desc, self.weight_desc = descriptors
        self.padding = "skip"
        try:
            self.core = self._make_core(config, head, add_pooling_layer, device)
        except (TypeError, OverflowError) as error:
            # Descriptors take some fields as they come; only the engine refuses them.
            if is_from_file:
                raise CheckpointError(f"quantization_config: {error}") from error
            raise
        if not is_from_file:
            set_up_new_model(self.core.quantizers())
        self.handles = Handles(self.core, self.input_desc, self.weight_desc)
        self.sessions = SessionPool(self.core)

    def _make_core(
        self, config: QDQBertConfig, head: str, add_pooling_layer: bool, device: Device | None
    ) -> _core.Model:
        return _core.Model(
            default_device() if device is None else device,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            num_labels=config.num_labels,
            layer_norm_eps=config.layer_norm_eps,
            hidden_act=config.hidden_act,
            add_pooling_layer=add_pooling_layer,
            head=head,
            input_quantizer=descriptor_options(self.input_desc),
            weight_quantizer=descriptor_options(self.weight_desc),
        )


class QDQBertPreTrainedModel(CheckpointModule):
    """What all models share: construction, loading, saving, and the forward call.

    Parameters
    ----------
    config : QDQBertConfig
    device : Device, optional
        Where to run; the process's default device if left out.
    seed : int
        Of the fresh weights.
    """

    config_class = QDQBertConfig
    base_model_prefix: ClassVar[str] = "bert"
    main_input_name: ClassVar[str] = "input_ids"
    _head: ClassVar[str]

    config: QDQBertConfig
    _engine: _Engine

    def _build(
        self, config: QDQBertConfig, device: Device | None, seed: int | None, add_pooling_layer: bool = True
    ) -> _Engine:
        if not isinstance(config, QDQBertConfig):
            raise TypeError(f"config: expected QDQBertConfig, got {type(config).__name__}")
        super().__init__()
        self.config = config
        self.name_or_path = config.name_or_path
        self._engine = _Engine(config, self._head, add_pooling_layer, device)
        self._build_children()
        if seed is not None:
            self._initialize(seed, {name for name, _ in self.named_parameters()})
        return self._engine

    def _build_children(self) -> None:
        raise NotImplementedError

    def _named_slots(self, prefix: str = "") -> Iterator[tuple[str, Slot]]:
        weights: dict[str, tuple[int, ...] | None] = {}
        for name, slot in super()._named_slots(prefix):
            module, _, last = name.rpartition(".")
            if last == "weight":
                weights[module] = slot.shape
            elif last == "_amax":
                weight = weights.get(module.removesuffix("._weight_quantizer"))
                inputs = weights.get(module.removesuffix("._input_quantizer"))
                features = inputs[1] if inputs else None
                if module.endswith(("add_local_input_quantizer", "add_residual_input_quantizer")):
                    features = self.config.hidden_size
                slot = dataclasses.replace(slot, check=_range_check(weight, features))
            yield name, slot

    # ---- fresh weights -------------------------------------------------------------------------------------

    def _initialize(self, seed: int, names: set[str]) -> None:
        """Fill: normal weights, zero biases, a zero padding row, LayerNorm weights of one."""
        for index, (name, slot) in enumerate(self._named_slots()):
            if name not in names or not slot.is_parameter or slot.open is None:
                continue
            target = slot.open()
            if name.endswith("LayerNorm.weight"):
                target.fill(1.0)
            elif name.endswith(".bias"):
                target.fill(0.0)
            else:
                # One stream per parameter: which others are fresh does not change the numbers.
                np.random.default_rng([seed, index]).standard_normal(out=target, dtype=np.float32)
                target *= np.float32(self.config.initializer_range)
                padding = self.config.pad_token_id
                if (
                    name.endswith("word_embeddings.weight")
                    and padding is not None
                    and 0 <= padding < len(target)
                ):
                    target[padding] = 0.0

    # ---- properties ----------------------------------------------------------------------------------------

    @property
    def padding(self) -> str:
        """What happens at positions whose mask is 0: ``"skip"`` or ``"compute"``."""
        return self._engine.padding

    @padding.setter
    def padding(self, value: str) -> None:
        if value not in _PADDINGS:
            raise ValueError(f"padding: expected 'skip' or 'compute', got {value!r}")
        self._engine.padding = value

    @property
    def device(self) -> Device:
        """Where the model runs."""
        return self._engine.core.device

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Number format of the parameters."""
        return np.dtype(np.float32)

    @property
    def base_model(self) -> QDQBertModel:
        """The model without its head."""
        model = self._modules.get(self.base_model_prefix, self)
        return model  # type: ignore[return-value]

    def get_input_embeddings(self) -> Module:
        """Return the word embedding."""
        return self.base_model.get_submodule("embeddings.word_embeddings")

    def num_parameters(self, exclude_embeddings: bool = False) -> int:
        """Return the number of elements of all parameters.

        Parameters
        ----------
        exclude_embeddings : bool
            Leave the embedding tables out.
        """
        return sum(
            value.size
            for name, value in self.named_parameters()
            if not (exclude_embeddings and name.endswith("_embeddings.weight"))
        )

    def execution_sites(self) -> list[tuple[str, str, str]]:
        """Return (name, ``"integer"`` or ``"float"`` or ``"dequantized"``, why) of every product."""
        return self._engine.core.sites()

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Refuse, as the original does.

        Raises
        ------
        UnsupportedError
            Always; it is also a NotImplementedError.
        """
        raise UnsupportedError(f"`resize_position_embeddings` is not implemented for {type(self)}")

    # ---- forward -------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; see the subclasses."""
        raise NotImplementedError

    def _run(
        self,
        wanted: int,
        input_ids: Any,
        attention_mask: Any,
        token_type_ids: Any,
        position_ids: Any,
        head_mask: Any,
        inputs_embeds: Any,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> tuple[Any, Any, Any, tuple[Array, ...] | None, tuple[Array, ...] | None]:
        """Convert the arguments, run, and split the stacked outputs into tuples of layers."""
        require_exportable(self)
        config = self.config
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("You cannot specify both input_ids and inputs_embeds at the same time")
        if input_ids is None and inputs_embeds is None:
            raise ValueError("You have to specify either input_ids or inputs_embeds")
        want_attentions = config.output_attentions if output_attentions is None else output_attentions
        want_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wanted |= _core.OUTPUT_ATTENTIONS if want_attentions else 0
        wanted |= _core.OUTPUT_HIDDEN_STATES if want_states else 0
        ids, embeds = as_integers("input_ids", input_ids), as_floats("inputs_embeds", inputs_embeds)
        mask = as_mask("attention_mask", attention_mask)
        heads = as_head_mask(head_mask, config.num_hidden_layers, config.num_attention_heads)
        batch, length = self._batch_and_length(ids, embeds)
        keep = bool(want_attentions) or heads is not None or self._engine.core.needs_probabilities()
        compute = self.padding == "compute" or (mask is not None and mask.ndim == 3)
        with self._engine.sessions.session(batch, length, keep) as session:
            last, pooled, logits, states, attentions, *_ = session.forward(
                ids,
                embeds,
                mask,
                as_integers("token_type_ids", token_type_ids),
                as_integers("position_ids", position_ids),
                heads,
                compute,
                False,
                None,
                None,
                None,
                None,
                None,
                None,
                wanted,
            )
        return last, pooled, logits, states, attentions

    def _batch_and_length(self, ids: Array | None, embeds: Array | None) -> tuple[int, int]:
        name, array, rank = ("input_ids", ids, 2) if ids is not None else ("inputs_embeds", embeds, 3)
        assert array is not None
        if array.ndim != rank or array.size == 0:
            raise ShapeError(
                f"{name}: expected {'(batch, length)' if rank == 2 else '(batch, length, hidden)'} with at "
                f"least one sequence and one token, got {array.shape}"
            )
        batch, length = array.shape[:2]
        if length > self.config.max_position_embeddings:
            raise ShapeError(
                f"{name}: {length} tokens in a sequence, the model has "
                f"{self.config.max_position_embeddings} positions"
            )
        return int(batch), int(length)


def _range_check(weight: tuple[int, ...] | None, features: int | None) -> Callable[[Array], None]:
    """Return the check of a range: magnitudes; of a shape that fits the weight, one number, or features."""

    def check(amax: Array) -> None:
        if weight is None:
            fits = amax.size == 1 or (1 <= amax.ndim <= 3 and amax.size == amax.shape[-1] == features)
        else:
            sizes = zip(reversed(amax.shape), reversed(weight), strict=False)
            fits = amax.ndim <= len(weight) and all(mine in (1, size) for mine, size in sizes)
        if not fits:
            expected = "one number" if features is None else f"one number, or (1, 1, {features})"
            expected = expected if weight is None else f"a shape that broadcasts to {weight}"
            raise ValueError(f"expected {expected}, got shape {amax.shape}")
        if (amax < 0).any():
            raise ValueError(f"expected magnitudes, got {float(amax.min())}")

    return check

# SPDX-License-Identifier: Apache-2.0
"""What all models share: construction, fresh weights, properties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from qdqbert import surgery
from qdqbert.arrays import Array
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import UnsupportedError
from qdqbert.modeling_checkpoint import CheckpointModule
from qdqbert.modeling_copies import CopyableModel
from qdqbert.modeling_engine import Engine, Run
from qdqbert.modeling_losses import Scoring
from qdqbert.modeling_training import TrainableModel
from qdqbert.modeling_tree import Embedding, QDQBertEncoder
from qdqbert.module import Module, Slot, changing
from qdqbert.quant_modules import require_exportable
from qdqbert.seeds import require_seed

if TYPE_CHECKING:
    from qdqbert.modeling_qdqbert import QDQBertModel
    from qdqbert.summary import ModelSummary

__all__ = ["QDQBertPreTrainedModel"]

_PADDINGS = ("skip", "compute")

OutputT = TypeVar("OutputT", covariant=True)


class _Gives(Protocol[OutputT]):
    """A model by what it returns."""

    @property
    def _output_class(self) -> type[OutputT]: ...

    def forward(self, *args: Any, **kwargs: Any) -> Any: ...


class QDQBertPreTrainedModel(TrainableModel, CopyableModel, CheckpointModule):
    """What all models share; it is made through its subclasses.

    Parameters
    ----------
    *args, **kwargs
        Not looked at: those of a subclass.

    Raises
    ------
    UnsupportedError
        If it is made itself.

    Attributes
    ----------
    config : QDQBertConfig
    name_or_path : str
        Where the weights are from; empty if they are fresh.
    """

    config_class = QDQBertConfig
    base_model_prefix: ClassVar[str] = "bert"
    main_input_name: ClassVar[str] = "input_ids"
    supports_gradient_checkpointing: ClassVar[bool] = True
    _tied_weights_keys: ClassVar[list[str] | None] = None
    _head: ClassVar[str]
    _output_class: type[Any]
    _num_labels: ClassVar[int | None] = None
    _prefix: str = ""  # of its names in the C model

    config: QDQBertConfig
    name_or_path: str
    _engine: Engine

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(
            f"{type(self).__name__}: the base of all models has no layers of its own; make one of its "
            "subclasses, such as QDQBertModel"
        )

    def _build(
        self, config: QDQBertConfig, device: Device | None, seed: int | None, add_pooling_layer: bool = True
    ) -> None:
        if not isinstance(config, QDQBertConfig):
            raise TypeError(f"config: expected QDQBertConfig, got {type(config).__name__}")
        if seed is not None:
            require_seed("seed", seed)
        theirs = frozenset(vars(self)) - {"_prefix", "_has_pooler"}
        super().__init__()
        self.config = config
        self.name_or_path = config.name_or_path
        self._engine = Engine(config, self._head, add_pooling_layer, self._num_labels, device)
        self._build_children()
        self._fix_children()
        self._engine.note_tree(self, theirs)
        if seed is not None:
            self.init_weights(seed)
        if getattr(config, "gradient_checkpointing", False):
            # A switch of old configurations, taken over and then forgotten.
            self.gradient_checkpointing_enable()
            delattr(config, "gradient_checkpointing")

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
                slot.check = _range_check(weight, features)
            yield name, slot

    # ---- fresh weights -------------------------------------------------------------------------------------

    def init_weights(self, seed: int = 0) -> None:
        """Give every parameter fresh weights, as `_init_weights` does for one module.

        Parameters
        ----------
        seed : int
            At least 0.

        Raises
        ------
        TypeError, ValueError
            If `seed` is none.
        StateError
            If the model is frozen.
        """
        require_seed("seed", seed)
        self._require_floats("init_weights")
        self._initialize(seed, {name for name, _ in self.named_parameters()})

    def _init_weights(self, module: Module, seed: int = 0) -> None:
        """Give the parameters of one module of this model, not of its children, fresh weights.

        Matrices are normal with the standard deviation ``config.initializer_range``, biases zero, the row of
        the padding token zero, LayerNorm weights one.  Quantizers are left alone.

        Parameters
        ----------
        module : Module
            Of this model.
        seed : int
            At least 0.

        Raises
        ------
        TypeError, ValueError
            If `module` is not in this model, or `seed` is none.
        """
        require_seed("seed", seed)
        path = next((path for path, each in self.named_modules() if each is module), None)
        if path is None:
            raise ValueError(f"module: this {type(module).__name__} is not in the model")
        self._require_floats("_init_weights")
        own = (f"{path}.{name}" if path else name for name in module._slots())
        self._initialize(seed, set(own))

    def _initialize(self, seed: int, names: set[str]) -> None:
        if not names:  # and walking the tree would take as long as building it
            return
        fresh = [
            (index, name, slot)
            for index, (name, slot) in enumerate(self._named_slots())
            if name in names and slot.is_parameter and slot.open is not None and slot.tied_to is None
        ]
        with changing(slot for _, _, slot in fresh):
            for index, name, slot in fresh:
                assert slot.open is not None
                _initialize_one(slot.open(), name, [seed, index], self.config)

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
    def vocab_size(self) -> int:
        """Rows of the word embedding."""
        return self.config.vocab_size

    @property
    def base_model(self) -> QDQBertModel:
        """The model without its head."""
        model = self._modules.get(self.base_model_prefix, self)
        return model  # type: ignore[return-value]

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of elements of all parameters; tied ones count once, weights of codes too.

        Parameters
        ----------
        only_trainable : bool
            Leave out those whose `requires_grad` is false.
        exclude_embeddings : bool
            Leave the embedding tables out.
        """
        tables = {f"{path}.weight" for path, module in self.named_modules() if isinstance(module, Embedding)}
        frozen = [
            slot.shape or ()
            for name, slot in self._named_slots()
            if slot.refusal is not None and not slot.is_parameter
        ]
        return sum(
            value.size
            for name, value in self.named_parameters()
            if (value.requires_grad or not only_trainable) and not (exclude_embeddings and name in tables)
        ) + sum(math.prod(shape) for shape in frozen if not only_trainable)

    def execution_sites(self) -> list[tuple[str, str, str]]:
        """Return (name, ``"integer"`` or ``"float"`` or ``"dequantized"``, why) of every product."""
        return [site[:3] for site in self._engine.core.sites()]

    def summary(self) -> ModelSummary:
        """Return a table of the model: weights, quantizers, and how each product is computed.

        Returns
        -------
        ModelSummary
            ``print`` shows it, notebooks too; `ModelSummary.as_dict` is for programs.

        Examples
        --------
        >>> from qdqbert import QDQBertConfig, QDQBertModel
        >>> print(QDQBertModel(QDQBertConfig(num_hidden_layers=2)).summary().totals()[-1])
        21 products: 20 integer, 1 float
        """
        from qdqbert.summary import summarize

        return summarize(self)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether training computes activations twice to save memory."""
        return bool(self.base_model.encoder.gradient_checkpointing)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Switch checkpointing on, for training; a forward alone is not affected.

        Parameters
        ----------
        gradient_checkpointing_kwargs : mapping, optional
            ``use_reentrant`` (bool), PyTorch's choice between two ways to the same gradients; here there is
            one way, so both values mean the same.

        Raises
        ------
        TypeError
            If it has other keys.
        """
        unknown = sorted(set(gradient_checkpointing_kwargs or {}) - {"use_reentrant"})
        if unknown:
            raise TypeError(f"gradient_checkpointing_kwargs: unknown {', '.join(unknown)}")
        self._set_gradient_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Switch checkpointing off."""
        self._set_gradient_checkpointing(False)

    def _set_gradient_checkpointing(self, is_on: bool) -> None:
        for module in self.modules():
            if isinstance(module, QDQBertEncoder):
                module.gradient_checkpointing = is_on

    def can_generate(self) -> bool:
        """Whether the model has `generate`: language models do."""
        return False

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: there is no language head.

        Parameters
        ----------
        *args, **kwargs
            Not looked at.

        Raises
        ------
        TypeError
            Always; language models override this.
        """
        raise TypeError(
            f"{type(self).__name__} cannot generate: it has no language head; QDQBertLMHeadModel has one"
        )

    # ---- surgery -------------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> Embedding:
        """Return the word embedding."""
        words = self.base_model.get_submodule("embeddings.word_embeddings")
        assert isinstance(words, Embedding)
        return words

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the table of words by a copy of another.

        Parameters
        ----------
        value : floats, shape (vocabulary, hidden), or module with such a ``weight``
            With another number of rows the model is resized, as by `resize_token_embeddings`.

        Raises
        ------
        TypeError, ShapeError
            If it is no such table.
        MemoryError
            The model is then as it was.
        StateError
            If another thread changes the sizes at the same time.
        """
        words = surgery.table_of("value", value, self.get_input_embeddings().embedding_dim)
        surgery.resize_vocabulary(self._engine, self.config, len(words), 0, words)

    def get_output_embeddings(self) -> Module | None:
        """Return the layer that scores the vocabulary, or None: language models have one."""
        return None

    def tie_weights(self) -> None:
        """Score with the table of the words, if ``config.tie_word_embeddings`` says so.

        Models are made like that; this is for a configuration that was changed since.  A table that the head
        had of its own is dropped.
        """
        surgery.tie(self._engine, self.config)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, *, seed: int = 0
    ) -> Embedding:
        """Change the number of words.

        The first rows of the tables stay, new ones are fresh (see `_init_weights`), biases of new words are
        zero, and ``config.vocab_size`` follows.  Modules that somebody holds stay valid; an optimizer whose
        moments are of the old sizes refuses its next step.

        Parameters
        ----------
        new_num_tokens : int, optional
            At least 1; the present number if left out.
        pad_to_multiple_of : int, optional
            Round the number up to a multiple of this.
        seed : int
            Of the fresh rows.

        Returns
        -------
        Embedding
            The word embedding.

        Raises
        ------
        ValueError
            If a number is no integer of at least 1.
        TypeError, ValueError
            If `seed` is none.
        MemoryError
            If old and new model do not fit side by side; the model is then as it was.
        StateError
            If another thread changes the sizes at the same time.
        """
        present = self.get_input_embeddings().num_embeddings
        size = present if new_num_tokens is None else new_num_tokens
        for name, number in (("new_num_tokens", size), ("pad_to_multiple_of", pad_to_multiple_of)):
            is_integer = isinstance(number, int | np.integer) and not isinstance(number, bool)
            if number is not None and not (is_integer and number >= 1):
                raise ValueError(f"{name}: expected an integer of at least 1, got {number!r}")
        require_seed("seed", seed)
        if pad_to_multiple_of is not None:
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        if size != present:
            surgery.resize_vocabulary(self._engine, self.config, int(size), seed)
        self.config.vocab_size = int(size)
        return self.get_input_embeddings()

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Refuse, as the original does.

        Parameters
        ----------
        new_num_position_embeddings : int
            Not looked at.

        Raises
        ------
        UnsupportedError
            Always; it is also a NotImplementedError.
        """
        raise UnsupportedError(f"`resize_position_embeddings` is not implemented for {type(self)}")

    def get_position_embeddings(self) -> Embedding:
        """Refuse, as the original does: see ``embeddings.position_embeddings`` of the base model.

        Raises
        ------
        UnsupportedError
            Always; it is also a NotImplementedError.
        """
        raise UnsupportedError(f"`get_position_embeddings` is not implemented for {type(self)}")

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Take heads out of self-attention.

        Query, key and value lose rows, the output layer columns.  All quantizers stay, with their ranges; of
        ranges along rows, columns or heads those that are left.  ``config.pruned_heads`` has the union, from
        which the model is built again.  Modules that somebody holds stay valid; an optimizer whose moments
        are of the old sizes refuses its next step.

        Parameters
        ----------
        heads_to_prune : mapping of int to iterable of int
            Layer (negative ones count from the last) to heads, by their numbers before any pruning.  Heads
            that are gone already are passed over.

        Raises
        ------
        TypeError, IndexError
            For what names no layers and heads.
        ValueError
            If no head would be left in a layer.
        MemoryError
            If old and new model do not fit side by side; the model is then as it was.
        StateError
            If another thread changes the sizes at the same time.
        """
        surgery.prune_heads(self._engine, self.config, heads_to_prune, self.base_model._prefix)

    # ---- forward -------------------------------------------------------------------------------------------

    def __call__(self: _Gives[OutputT], *args: Any, **kwargs: Any) -> OutputT:
        """Call `forward`.

        A checker sees the class of the output.  That ``return_dict=False``, here or in the configuration,
        makes it a tuple cannot be told from ``model(**batch)``: annotate the result there.
        """
        output: OutputT = self.forward(*args, **kwargs)
        return output

    def _run(self, wanted: int, *, may_record: bool = True, **inputs: Any) -> Run:
        """Run the engine, and record the call in training mode; see `Engine.run`."""
        require_exportable(self)
        if not (may_record and self.training):
            return self._engine.run(self.config, wanted, **inputs)
        return self._engine.run(
            self.config,
            wanted,
            records=True,
            recomputes=self.is_gradient_checkpointing,
            dropout=self._dropout_probabilities(),
            **inputs,
        )

    def _scoring(self, run: Run, label_smoothing: float, labels: Any) -> Scoring:
        """Return what the losses of a forward need beside logits and labels."""
        if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, int | float | np.floating):
            raise TypeError(f"label_smoothing: expected a number, got {type(label_smoothing).__name__}")
        if label_smoothing and labels is None:
            raise ValueError("label_smoothing: there are no labels to smooth; expected 0")
        return Scoring(self.device, run.recording, float(label_smoothing))

    def _returns_tuple(self, return_dict: bool | None) -> bool:
        return not (self.config.use_return_dict if return_dict is None else return_dict)

    def _output(self, return_dict: bool | None, **fields: Any) -> Any:
        """Return the fields as the model's output, or as a tuple of those that are there, in this order."""
        if self._returns_tuple(return_dict):
            return tuple(value for value in fields.values() if value is not None)
        return self._output_class(**fields)


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


def _initialize_one(target: Array, name: str, stream: list[int], config: QDQBertConfig) -> None:
    if name.endswith("LayerNorm.weight"):
        target.fill(1.0)
    elif name.endswith(".bias"):
        target.fill(0.0)
    else:
        # One stream per parameter: which others are fresh does not change the numbers.
        np.random.default_rng(stream).standard_normal(out=target, dtype=np.float32)
        target *= np.float32(config.initializer_range)
        padding = config.pad_token_id
        if name.endswith("word_embeddings.weight") and padding is not None and 0 <= padding < len(target):
            target[padding] = 0.0

# SPDX-License-Identifier: Apache-2.0
"""The modules inside a model, under the original's names.

They compute nothing: the C model runs the whole forward.  They are what users walk through, switch quantizers
on and print.  Each leaf leads to its parameters in the C block by name, and class names, order and texts are
the original's.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert._core import STAGE_CLIP, Change, Model
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.errors import StateError, UnsupportedError
from qdqbert.forward_inputs import as_integers
from qdqbert.modeling_bound import FROM_FILE, Bound, difference_of
from qdqbert.module import Module, ModuleList, Slot
from qdqbert.nn import Clip, QuantLinear, TensorQuantizer
from qdqbert.nn.tensor_quantizer import set_range
from qdqbert.parameter import ModelPlace, Parameter, ParameterState
from qdqbert.quant_descriptor import QuantDescriptor

__all__ = [
    "Dropout",
    "Embedding",
    "Handles",
    "LayerNorm",
    "Linear",
    "QDQBertEmbeddings",
    "QDQBertEncoder",
    "QDQBertLayer",
    "QDQBertOnlyMLMHead",
    "QDQBertOnlyNSPHead",
    "QDQBertPooler",
]

# The original's class of every name that the C core knows, and what its repr says.
_ACTIVATION_CLASSES = {
    "gelu": "GELUActivation",
    "gelu_10": "ClippedGELUActivation",
    "gelu_accurate": "AccurateGELUActivation",
    "gelu_fast": "FastGELUActivation",
    "gelu_new": "NewGELUActivation",
    "gelu_python": "GELUActivation",
    "gelu_pytorch_tanh": "PytorchGELUTanh",
    "laplace": "LaplaceActivation",
    "leaky_relu": "LeakyReLU",
    "linear": "LinearActivation",
    "mish": "MishActivation",
    "quick_gelu": "QuickGELUActivation",
    "relu": "ReLU",
    "relu2": "ReLUSquaredActivation",
    "relu6": "ReLU6",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "swish": "SiLU",
    "tanh": "Tanh",
}
_ACTIVATION_TEXTS = {"leaky_relu": "negative_slope=0.01"}


class Handles:
    """Where the modules of a tree find their parameters and quantizers: by name, in the present C model.

    A model that changes its sizes gets another C model, and its modules stay.  So none of them keeps a view
    or a handle: they ask here, and setting `bound`, which is one assignment, turns the whole tree.

    Parameters
    ----------
    model : _core.Model
    config : QDQBertConfig
        What it was made from.
    input_desc, weight_desc : QuantDescriptor
        What its quantizers were made from.
    """

    def __init__(
        self, model: Model, config: QDQBertConfig, input_desc: QuantDescriptor, weight_desc: QuantDescriptor
    ) -> None:
        self.bound: Bound = Bound.to(model, config)
        # Held while `bound` and the user's configuration are set together.
        self.turning: threading.Lock = threading.Lock()
        # Around the quantizers, by name.  The tree owns them and they ask here: a strong reference would be a
        # cycle, and the memory of a dropped model would wait for the garbage collector.
        self.modules: weakref.WeakValueDictionary[str, TensorQuantizer] = weakref.WeakValueDictionary()
        # What outlives a change of sizes: which parameters training may change, by name.
        self.states: dict[str, ParameterState] = {}
        self._input_desc, self._weight_desc = input_desc, weight_desc

    def parameter(self, name: str) -> Slot:
        """Return the slot of one parameter.

        Parameters
        ----------
        name : str
            Dotted name in the model.
        """
        bound = self.bound
        if name in bound.codes:
            return bound.slot_of_codes(name, self.state(name))
        model, (index, view) = bound.model, bound.parameters[name]
        return Slot(
            read=lambda: view,
            write=lambda value: _copy(model, index, value),
            shape=view.shape,
            open=lambda: model.parameter_write(index),
            owner=model,
            state=self.state(name),
            place=self._place(name),
            refusal=FROM_FILE if name in bound.lent else None,
            difference=(
                (lambda value: difference_of(value, view, "others than the file's", FROM_FILE))
                if name in bound.lent
                else None
            ),
        )

    def state(self, name: str) -> ParameterState:
        """Return what all views of one parameter share.

        Parameters
        ----------
        name : str
            Dotted name in the model.
        """
        return self.states.setdefault(name, ParameterState(name=name))

    def _place(self, name: str) -> ModelPlace:
        model, myself = self.bound.model, weakref.ref(self)

        def is_present() -> bool:
            handles = myself()
            return handles is None or handles.bound.model is model

        return ModelPlace(model, self.bound.parameters[name][0], is_present, bool(self.bound.codes))

    def learned_bounds(self) -> Iterator[tuple[str, list[Slot]]]:
        """Yield (name of the quantizer, its two bounds) of the quantizers with a learned range."""
        for name, module in list(self.modules.items()):
            if isinstance(clip := module._modules.get("clip"), Clip):
                yield name, list(clip._slots().values())

    def value(self, name: str) -> Parameter:
        """Return the read-only view of one parameter.

        Parameters
        ----------
        name : str
            Dotted name in the model.
        """
        return Parameter(self.bound.parameters[name][1], self.state(name), self._place(name))

    def quantizer(self, name: str) -> TensorQuantizer:
        """Return the module around one quantizer, made on the first call.

        Parameters
        ----------
        name : str
            Dotted name in the model.
        """
        module = self.modules.get(name)
        if module is None:
            descriptor = self._weight_desc if name.endswith("_weight_quantizer") else self._input_desc
            handle = self.bound.quantizers[name]
            set_range(handle, descriptor)
            if descriptor.learn_amax:
                handle.stages |= STAGE_CLIP
            module = TensorQuantizer.from_handle(
                lambda: self.bound.quantizers[name], descriptor, name, self.bound.model.device
            )
            self.modules[name] = module
        return module


def _copy(model: Model, index: int, value: npt.NDArray[np.float32]) -> None:
    with Change((model,)):
        model.parameter_write(index)[...] = value


class Part(Module):
    """A module that is nothing without its model, and is copied with it alone."""

    def __reduce__(self) -> Any:
        """Refuse to be pickled.

        Raises
        ------
        StateError
            Always.
        """
        raise StateError(
            f"{type(self).__name__}: is a part of a model, which computes it, and cannot be copied or "
            "pickled by itself; copy the model"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Refuse to be copied.

        Raises
        ------
        StateError
            Always.
        """
        return self.__reduce__()


class Leaf(Part):
    """A module with parameters that stand under its name in the model.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    names : str
        Its parameters.
    """

    _handles: Handles
    _path: str
    _names: tuple[str, ...]

    def __init__(self, handles: Handles, path: str, *names: str) -> None:
        super().__init__()
        vars(self).update(
            _handles=handles, _path=path, _names=names
        )  # past Module.__setattr__: none is a child

    def _slots(self) -> Mapping[str, Slot]:
        return {name: self._handles.parameter(f"{self._path}.{name}") for name in self._names}

    @property
    def weight(self) -> Parameter:
        """Read-only view of the weight."""
        return self._handles.value(f"{self._path}.weight")


class Embedding(Leaf):
    """A table of vectors.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    config : QDQBertConfig, optional
        Names the padding row of the table of words.
    """

    def __init__(self, handles: Handles, path: str, config: QDQBertConfig | None = None) -> None:
        super().__init__(handles, path, "weight")
        self._config = config

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return int(self.weight.shape[0])

    @property
    def embedding_dim(self) -> int:
        """Columns of the table."""
        return int(self.weight.shape[1])

    @property
    def padding_idx(self) -> int | None:
        """Row of the padding token, which starts as zero; None if there is none in the table."""
        index = None if self._config is None else self._config.pad_token_id
        return index if index is not None and 0 <= index < self.num_embeddings else None

    def forward(self, input: Any) -> npt.NDArray[np.float32]:
        """Look rows up: ``model.get_input_embeddings()(input_ids)`` gives ``inputs_embeds``.

        Parameters
        ----------
        input : integers, any shape

        Returns
        -------
        ndarray, shape (*input, columns), float32

        Raises
        ------
        TypeError
            If they are no integers.
        IndexError
            If there is no such row; the first one is named.
        """
        rows = as_integers("input", input)
        if rows is None:
            raise TypeError("input: expected integers, got None")
        table = self._handles.bound.parameters[f"{self._path}.weight"][1]
        wrong = np.argwhere((rows < 0) | (rows >= len(table)))
        if wrong.size:
            place = tuple(int(i) for i in wrong[0])
            raise IndexError(f"input{list(place)} is {rows[place]}, expected 0 .. {len(table) - 1}")
        return np.asarray(table)[rows]

    def extra_repr(self) -> str:
        """Return rows, columns and the padding row."""
        rows, columns = self.weight.shape
        return f"{rows}, {columns}" + (
            f", padding_idx={self.padding_idx}" if self.padding_idx is not None else ""
        )


class LayerNorm(Leaf):
    """Normalization over the features of a token.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    eps : float
        Added to the variance.
    """

    def __init__(self, handles: Handles, path: str, eps: float) -> None:
        super().__init__(handles, path, "weight", "bias")
        self.eps = eps

    @property
    def bias(self) -> Parameter:
        """Read-only view of the bias."""
        return self._handles.value(f"{self._path}.bias")

    def extra_repr(self) -> str:
        """Return shape and eps."""
        return f"{self.weight.shape}, eps={self.eps}, elementwise_affine=True"


class Linear(Leaf):
    """A product that is not quantized.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    tied : mapping of str to str, optional
        Dotted names of the tensors that ``weight`` and ``bias`` are, where the model has none of their own.
    """

    def __init__(self, handles: Handles, path: str, tied: Mapping[str, str] | None = None) -> None:
        super().__init__(handles, path, "weight", "bias")
        self._tied = dict(tied or {})

    def _owner(self, name: str) -> str | None:
        """Dotted name of the tensor that `name` is tied to, or None."""
        has_own = f"{self._path}.{name}" in self._handles.bound.parameters
        return None if has_own else self._tied.get(name)

    def _slots(self) -> Mapping[str, Slot]:
        slots = {}
        for name in self._names:
            owner = self._owner(name)
            slot = self._handles.parameter(owner or f"{self._path}.{name}")
            slots[name] = dataclasses.replace(slot, tied_to=owner, required=owner is None)
        return slots

    @property
    def weight(self) -> Parameter:
        """Read-only view of the weight."""
        return self._handles.value(self._owner("weight") or f"{self._path}.weight")

    @property
    def bias(self) -> Parameter:
        """Read-only view of the bias."""
        return self._handles.value(self._owner("bias") or f"{self._path}.bias")

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return int(self.weight.shape[0])

    def extra_repr(self) -> str:
        """Return input and output features."""
        rows, columns = self.weight.shape
        return f"in_features={columns}, out_features={rows}, bias=True"


class Dropout(Module):
    """Where training drops elements and scales the others up; the identity in evaluation mode.

    Parameters
    ----------
    p : float
        Probability of an element to be dropped, 0 .. 1; settable.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p}, inplace=False"


class Activation(Part):
    """An activation function, one of those that have a name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._text = _ACTIVATION_TEXTS.get(name, "")

    def extra_repr(self) -> str:
        """Return the constants that the original shows."""
        return self._text


def activation(name: str) -> Activation:
    """Return the module that stands for an activation function, of the original's class name."""
    made: type[Activation] = type(_ACTIVATION_CLASSES[name], (Activation,), {"__doc__": Activation.__doc__})
    return made(name)


def quant_linear(handles: Handles, path: str) -> QuantLinear:
    """Return the quantized linear layer of a name."""
    return QuantLinear.from_handles(
        lambda: {name: handles.parameter(f"{path}.{name}") for name in ("weight", "bias")},
        handles.quantizer(f"{path}._input_quantizer"),
        handles.quantizer(f"{path}._weight_quantizer"),
    )


class QDQBertEmbeddings(Part):
    """Word, position and token-type embeddings, and their normalization.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    config : QDQBertConfig
    """

    def __init__(self, handles: Handles, path: str, config: QDQBertConfig) -> None:
        super().__init__()
        self.add_module("word_embeddings", Embedding(handles, f"{path}.word_embeddings", config))
        self.add_module("position_embeddings", Embedding(handles, f"{path}.position_embeddings"))
        self.add_module("token_type_embeddings", Embedding(handles, f"{path}.token_type_embeddings"))
        self.add_module("LayerNorm", LayerNorm(handles, f"{path}.LayerNorm", config.layer_norm_eps))
        self.add_module("dropout", Dropout(config.hidden_dropout_prob))
        self._length = config.max_position_embeddings

    def _slots(self) -> Mapping[str, Slot]:
        # They follow from the configuration and are never saved.
        return {
            "position_ids": _derived(lambda: np.arange(self._length, dtype=np.int64)[None]),
            "token_type_ids": _derived(lambda: np.zeros((1, self._length), np.int64)),
        }


class QDQBertSelfAttention(Part):
    """Query, key and value, and the quantizers of the two products between them."""

    def __init__(self, handles: Handles, path: str, config: QDQBertConfig) -> None:
        super().__init__()
        for name in ("query", "key", "value"):
            self.add_module(name, quant_linear(handles, f"{path}.{name}"))
        self.add_module("dropout", Dropout(config.attention_probs_dropout_prob))
        if config.position_embedding_type != "absolute":
            self.add_module("distance_embedding", Embedding(handles, f"{path}.distance_embedding"))
        for letter in "qkva":
            name = f"matmul_{letter}_input_quantizer"
            self.add_module(name, handles.quantizer(f"{path}.{name}"))
        self.attention_head_size: int = config.hidden_size // config.num_attention_heads

    @property
    def all_head_size(self) -> int:
        """Features of the heads that are left, together."""
        return int(self.query.out_features)

    @property
    def num_attention_heads(self) -> int:
        """Heads that are left."""
        return self.all_head_size // self.attention_head_size


class _Output(Part):
    """A linear layer, the quantizers of the residual add, and the normalization after it."""

    def __init__(self, handles: Handles, path: str, config: QDQBertConfig) -> None:
        super().__init__()
        self.add_module("dense", quant_linear(handles, f"{path}.dense"))
        self.add_module("LayerNorm", LayerNorm(handles, f"{path}.LayerNorm", config.layer_norm_eps))
        self.add_module("dropout", Dropout(config.hidden_dropout_prob))
        for name in ("add_local_input_quantizer", "add_residual_input_quantizer"):
            self.add_module(name, handles.quantizer(f"{path}.{name}"))


class QDQBertSelfOutput(_Output):
    """What follows attention."""


class QDQBertOutput(_Output):
    """What follows the feed-forward layer."""


class QDQBertAttention(Part):
    """Attention with its output: of a layer's tokens to each other, or to the states of an encoder."""

    def __init__(self, handles: Handles, path: str, config: QDQBertConfig) -> None:
        super().__init__()
        self.add_module("self", QDQBertSelfAttention(handles, f"{path}.self", config))
        self.add_module("output", QDQBertSelfOutput(handles, f"{path}.output", config))


class QDQBertIntermediate(Part):
    """The first half of the feed-forward layer."""

    def __init__(self, handles: Handles, path: str, config: QDQBertConfig) -> None:
        super().__init__()
        self.add_module("dense", quant_linear(handles, f"{path}.dense"))
        self.add_module("intermediate_act_fn", activation(config.hidden_act))


class QDQBertLayer(Part):
    """Attention and feed-forward; in a decoder perhaps also attention to an encoder.

    Layers are made by their model and run inside it: the C model computes whole forwards.  The class is there
    for ``isinstance`` and annotations.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    config : QDQBertConfig
    """

    def __init__(self, handles: Handles, path: str = "", config: QDQBertConfig | None = None) -> None:
        super().__init__()
        if not isinstance(handles, Handles) or config is None:
            raise UnsupportedError(
                "QDQBertLayer: a layer lives inside a model and cannot be made alone; see "
                "QDQBertModel(config).encoder.layer"
            )
        self.add_module("attention", QDQBertAttention(handles, f"{path}.attention", config))
        if config.add_cross_attention:
            self.add_module("crossattention", QDQBertAttention(handles, f"{path}.crossattention", config))
        self.add_module("intermediate", QDQBertIntermediate(handles, f"{path}.intermediate", config))
        self.add_module("output", QDQBertOutput(handles, f"{path}.output", config))


class QDQBertEncoder(Part):
    """The stack of layers.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    config : QDQBertConfig
    """

    def __init__(self, handles: Handles, path: str, config: QDQBertConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False  # for training; see `gradient_checkpointing_enable`
        layers = [QDQBertLayer(handles, f"{path}.layer.{i}", config) for i in range(config.num_hidden_layers)]
        self.add_module("layer", ModuleList(layers))


class QDQBertPredictionHeadTransform(Part):
    """A dense layer, the activation and a normalization before tokens are scored."""

    def __init__(self, handles: Handles, path: str, config: QDQBertConfig) -> None:
        super().__init__()
        self.add_module("dense", Linear(handles, f"{path}.dense"))
        self.add_module("transform_act_fn", activation(config.hidden_act))
        self.add_module("LayerNorm", LayerNorm(handles, f"{path}.LayerNorm", config.layer_norm_eps))


class QDQBertLMPredictionHead(Part):
    """Scores of every token of the vocabulary; the bias is a parameter of its own, shared with `decoder`."""

    def __init__(self, handles: Handles, path: str, words: str, config: QDQBertConfig) -> None:
        super().__init__()
        self._handles, self._bias = handles, f"{path}.bias"
        self.add_module("transform", QDQBertPredictionHeadTransform(handles, f"{path}.transform", config))
        tied = {"weight": words, "bias": self._bias}
        self.add_module("decoder", Linear(handles, f"{path}.decoder", tied))

    def _slots(self) -> Mapping[str, Slot]:
        return {"bias": self._handles.parameter(self._bias)}

    @property
    def bias(self) -> Parameter:
        """Read-only view of the bias, shape (vocabulary,)."""
        return self._handles.value(self._bias)


class QDQBertOnlyMLMHead(Part):
    """The head of both language models.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    words : str
        Name of the table of word embeddings.
    config : QDQBertConfig
    """

    def __init__(self, handles: Handles, path: str, words: str, config: QDQBertConfig) -> None:
        super().__init__()
        predictions = QDQBertLMPredictionHead(handles, f"{path}.predictions", words, config)
        self.add_module("predictions", predictions)


class QDQBertOnlyNSPHead(Part):
    """The head that tells whether a text follows another.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    """

    def __init__(self, handles: Handles, path: str) -> None:
        super().__init__()
        self.add_module("seq_relationship", Linear(handles, f"{path}.seq_relationship"))


class QDQBertPooler(Part):
    """A dense layer and tanh over the first token.

    Parameters
    ----------
    handles : Handles
    path : str
        Dotted name in the model.
    """

    def __init__(self, handles: Handles, path: str) -> None:
        super().__init__()
        self.add_module("dense", Linear(handles, f"{path}.dense"))
        self.add_module("activation", activation("tanh"))


def _derived(make: Callable[[], npt.NDArray[Any]]) -> Slot:
    def refuse(value: npt.NDArray[Any]) -> None:
        raise AssertionError("a derived buffer is never written")

    return Slot(read=make, write=refuse, is_parameter=False, required=False, persistent=False)

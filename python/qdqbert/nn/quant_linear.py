# SPDX-License-Identifier: Apache-2.0
"""A linear layer with quantized input and weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array, as_float32, as_float_array
from qdqbert.copies import Copyable, constructed
from qdqbert.errors import ShapeError
from qdqbert.module import Module, Slot
from qdqbert.nn.quant_mixin import QuantMixin, pop_quant_desc_in_kwargs
from qdqbert.nn.tensor_quantizer import TensorQuantizer
from qdqbert.parameter import Parameter
from qdqbert.quant_descriptor import QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW, QuantDescriptor
from qdqbert.seeds import require_seed

__all__ = ["Linear", "QuantLinear"]


class QuantLinear(Module, QuantMixin, Copyable):
    """``y = Q(x) Q(weight)^T + bias``, with a quantizer for the input and one for the weight.

    Parameters
    ----------
    in_features, out_features : int
        At least 1.
    bias : bool
        Whether there is a bias.
    seed : int or None
        For the start values, which are drawn as PyTorch's ``Linear`` draws them: uniform in
        ``+-1 / sqrt(in_features)``.  None: a different start each time.
    **kwargs
        ``quant_desc_input`` and ``quant_desc_weight``: descriptors; those of the class by default.

    Raises
    ------
    TypeError
        If there are other keywords, or a size or the seed is no integer.
    ValueError
        If a size is below 1, the seed below 0, or a descriptor has ``fake_quant=False``.

    References
    ----------
    Wu et al., 2020, "Integer Quantization for Deep Learning Inference", section 3.3.

    Examples
    --------
    >>> QuantLinear(3, 2, seed=0)([[1.0, 2.0, 3.0]]).shape
    (1, 2)
    """

    default_quant_desc_weight: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW
    _machinery = frozenset(("_fake_quant", "_fixed", "_modules", "_tensors"))  # the quantizers are carried

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer):
                raise TypeError(f"{name}: expected an integer, got {type(size).__name__}")
            if size < 1:
                raise ValueError(f"{name}: expected at least 1, got {size}")
        if seed is not None:
            require_seed("seed", seed)
        self.init_quantizer(*pop_quant_desc_in_kwargs(type(self), input_only=False, **kwargs))
        random = np.random.default_rng(seed)
        bound = 1.0 / math.sqrt(in_features)
        weight = random.uniform(-bound, bound, (int(out_features), int(in_features))).astype(np.float32)
        tensors = {"weight": _own_slot(weight)}
        if bias:
            tensors["bias"] = _own_slot(random.uniform(-bound, bound, int(out_features)).astype(np.float32))
        self._tensors: Callable[[], Mapping[str, Slot]] = lambda: tensors
        self.weight_quantizer._tensor_shape = lambda: weight.shape

    @classmethod
    def from_handles(
        cls,
        tensors: Callable[[], Mapping[str, Slot]],
        input_quantizer: TensorQuantizer,
        weight_quantizer: TensorQuantizer,
    ) -> Self:
        """View of a linear layer inside a model.

        Parameters
        ----------
        tensors : callable () -> mapping of str to Slot
            ``weight`` and, if there is one, ``bias``, as they are in the model at the moment.
        input_quantizer, weight_quantizer : TensorQuantizer
            Views of the model's quantizers.

        Returns
        -------
        QuantLinear

        Raises
        ------
        ShapeError
            If the weight has no two dimensions.
        """
        self = cls.__new__(cls)
        Module.__init__(self)
        shape = tensors()["weight"].shape
        if shape is None or len(shape) != 2:
            raise ShapeError(f"weight: expected (out_features, in_features), got {shape}")
        self._tensors = tensors
        self._fake_quant = True
        self._input_quantizer = input_quantizer
        self._weight_quantizer = weight_quantizer
        weight_quantizer._tensor_shape = lambda: tensors()["weight"].shape
        return self

    def _copy_state(self) -> dict[str, Any]:
        """Return weight and bias (None if there is none), and their flags."""
        tensors = {name: slot.read() for name, slot in self._tensors().items()}
        flags = {name: slot.state.requires_grad for name, slot in self._tensors().items()}
        return {"parameters": tensors, "requires_grad": flags}

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make a layer that belongs to no model."""
        tensors = state["parameters"]
        rows, columns = tensors["weight"].shape
        any_descriptor = {f"quant_desc_{name}": QuantDescriptor() for name in ("input", "weight")}
        self: Self = constructed(cls, columns, rows, "bias" in tensors, seed=0, **any_descriptor)
        for name, slot in self._tensors().items():
            slot.write(tensors[name])
            slot.state.requires_grad = state["requires_grad"][name]
        return self

    def _carry(self, carried: dict[str, Any]) -> None:
        """Take the quantizers with what else is carried."""
        super()._carry(carried)
        if isinstance(self.weight_quantizer, TensorQuantizer):
            self.weight_quantizer._tensor_shape = lambda: self._tensors()["weight"].shape

    def _weight_shape(self) -> tuple[int, ...]:
        shape = self._tensors()["weight"].shape
        assert shape is not None
        return tuple(int(size) for size in shape)

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return self._weight_shape()[1]

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self._weight_shape()[0]

    @property
    def weight(self) -> Parameter:
        """Weight (out_features, in_features), float32, read-only; assign an array to copy it in.

        In a frozen model, which has its codes alone, it is ``code / scale``, computed anew on each access.
        """
        return self._parameter("weight")

    @weight.setter
    def weight(self, value: npt.ArrayLike) -> None:
        self._assign("weight", value)

    @property
    def bias(self) -> Parameter | None:
        """Bias (out_features,), float32, read-only, or None; assign an array to copy it in."""
        return self._parameter("bias") if "bias" in self._tensors() else None

    @bias.setter
    def bias(self, value: npt.ArrayLike) -> None:
        if "bias" not in self._tensors():
            raise AttributeError("bias: this layer has none")
        self._assign("bias", value)

    def _assign(self, name: str, value: npt.ArrayLike) -> None:
        slot = self._tensors()[name]
        array = as_float32(value, name)
        if array.shape != slot.shape:
            raise ShapeError(f"{name}: expected {slot.shape}, got {array.shape}")
        slot.write(array)

    def _slots(self) -> Mapping[str, Slot]:
        return self._tensors()

    def forward(self, input: npt.ArrayLike) -> Array:
        """Quantize input and weight, multiply, add the bias.

        Parameters
        ----------
        input : array_like, shape (..., in_features), floating point

        Returns
        -------
        ndarray, shape (..., out_features), type of `input`

        Raises
        ------
        ShapeError
            If the last dimension is not `in_features`.
        TypeError
            If `input` is not floating point.
        ValueError
            If a tensor to be collected or multiplied as integers has a NaN or an infinity.
        StateError
            If an export switch is on and a quantizer is not ready (`qdqbert.nn.export_checks`).
        """
        array = as_float_array(input, "input")
        self.input_quantizer._require_exportable(array.dtype)
        self.weight_quantizer._require_exportable()
        y = _core.quant_linear(
            self.input_quantizer._device,
            self.input_quantizer._handle,
            self.weight_quantizer._handle,
            as_float32(array, "input"),
            self.weight,
            self.bias,
        )
        return y.astype(array.dtype, copy=False)

    def __call__(self, input: npt.ArrayLike) -> Array:
        """Call `forward`."""
        return self.forward(input)

    def extra_repr(self) -> str:
        """Sizes, as PyTorch prints them."""
        has_bias = "bias" in self._tensors()
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={has_bias}"


Linear = QuantLinear


def _own_slot(array: Array) -> Slot:
    """Slot of an array that the module keeps itself."""
    view = array.view()
    view.flags.writeable = False

    def write(value: Array) -> None:
        array[...] = value

    return Slot(read=lambda: view, write=write, shape=array.shape)

# SPDX-License-Identifier: Apache-2.0
"""Quantization as functions on arrays, with their gradients.

Public names are those of ``pytorch_quantization.tensor_quant`` (and `reduce_amax` of its ``utils``).
Gradients, which the original hides in autograd, are the functions that end in ``_grad``; the classes that
end in ``Function`` are the original's names for both together.

Arithmetic is that of NUMERICS section 4, in float32.  Inputs are anything NumPy can read as floating-point
numbers: arrays, buffers, objects with ``__array__`` or DLPack.  float16 and float64 inputs are computed in
float32 and the result comes back in the input's type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array, as_float32, as_float_array
from qdqbert.device import default_device
from qdqbert.quant_descriptor import (
    QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW,
    QUANT_DESC_8BIT_PER_TENSOR,
    QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR,
    QuantDescriptor,
    ScaledQuantDescriptor,
)

__all__ = [
    "QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW",
    "QUANT_DESC_8BIT_PER_TENSOR",
    "QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR",
    "FakeAffineTensorQuantFunction",
    "FakeTensorQuantFunction",
    "LegacyFakeTensorQuantFunction",
    "QuantDescriptor",
    "ScaledE4M3Function",
    "ScaledQuantDescriptor",
    "TensorQuantFunction",
    "fake_affine_tensor_quant",
    "fake_affine_tensor_quant_grad",
    "fake_tensor_quant",
    "fake_tensor_quant_grad",
    "legacy_fake_tensor_quant",
    "legacy_fake_tensor_quant_grad",
    "reduce_amax",
    "scaled_e4m3",
    "scaled_e4m3_grad",
    "tensor_quant",
    "tensor_quant_grad",
]

_E4M3_MAX = 448.0
_FLOAT16_MAX = 65504.0


def tensor_quant(
    inputs: npt.ArrayLike,
    amax: npt.ArrayLike,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> tuple[Array, Array]:
    """Integer values of a tensor, and the scale that made them.

    Parameters
    ----------
    inputs : array_like, any shape, float16, float32 or float64
    amax : array_like, floating point
        Magnitude that maps to the highest code, at least 0; broadcasts to `inputs`.  Where it is at most
        2**-24 every value becomes 0 and the scale 1.
    num_bits : int
        0 .. 16.
    unsigned : bool
        Codes 0 .. 2**num_bits - 1.
    narrow_range : bool
        Lowest signed code is minus the highest.

    Returns
    -------
    outputs : ndarray, shape and type of `inputs`
        Integer-valued.
    scale : ndarray, shape of `amax`, type of `inputs`
        Codes per unit: ``(2**(num_bits - 1 + unsigned) - 1) / amax``.

    Raises
    ------
    TypeError
        If a tensor is not floating point, `num_bits` is not an int, or `unsigned` meets a negative element.
    ValueError
        If `amax` is negative somewhere or does not broadcast, `num_bits` is out of range, or a scale is too
        large for float16 inputs.

    References
    ----------
    Wu et al., 2020, "Integer Quantization for Deep Learning Inference", section 3.1.2.
    """
    x, dtype = _split(inputs, "inputs")
    codes, scale = _codes(x, amax, num_bits, unsigned, narrow_range)
    if dtype == np.float16 and scale.size and scale.max() > _FLOAT16_MAX:
        smallest = float(np.asarray(amax).min())
        raise ValueError(f"scale is too large for FP16 with amax={smallest}")
    return codes.astype(dtype, copy=False), scale.astype(dtype, copy=False)


def tensor_quant_grad(inputs: npt.ArrayLike, amax: npt.ArrayLike, grad_outputs: npt.ArrayLike) -> Array:
    """Gradient of `tensor_quant`: straight through inside the range, 0 outside.

    Parameters
    ----------
    inputs, amax : array_like
        As given to `tensor_quant`.
    grad_outputs : array_like, shape of `inputs`
        Gradient of the outputs.

    Returns
    -------
    ndarray, shape and type of `inputs`
        `grad_outputs` where ``abs(inputs) <= amax``, otherwise 0.

    Raises
    ------
    TypeError
        If a tensor is not floating point.
    ValueError
        If shapes do not match.

    References
    ----------
    Bengio et al., 2013, "Estimating or Propagating Gradients Through Stochastic Neurons".
    """
    x, dtype = _split(inputs, "inputs")
    ranges = as_float32(amax, "amax")

    def gradient(dy: npt.NDArray[np.float32]) -> Array:
        return _core.tensor_quant_grad(default_device(), x, ranges, dy)

    return _straight_through(grad_outputs, gradient).astype(dtype, copy=False)


def fake_tensor_quant(
    inputs: npt.ArrayLike,
    amax: npt.ArrayLike,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> Array:
    """Quantize a tensor and dequantize it again.

    Parameters
    ----------
    inputs, amax, num_bits, unsigned, narrow_range
        As for `tensor_quant`.

    Returns
    -------
    ndarray, shape and type of `inputs`
        ``outputs / scale`` of `tensor_quant`, divided in the type of `inputs`.

    Raises
    ------
    TypeError, ValueError
        As `tensor_quant`; float16 knows no scale that is too large here.
    """
    x, dtype = _split(inputs, "inputs")
    if dtype == np.float32:
        try:
            return _core.fake_tensor_quant(
                default_device(),
                x,
                as_float32(amax, "amax"),
                _bits(num_bits),
                bool(unsigned),
                bool(narrow_range),
            )
        except ValueError:
            refuse_negative(x, unsigned)
            raise
    codes, scale = _codes(x, amax, num_bits, unsigned, narrow_range)
    with np.errstate(all="ignore"):
        # The original divides what it has cast back; float64 keeps its digits, float16 rounds twice.
        return np.asarray(codes.astype(dtype) / scale.astype(dtype))


def legacy_fake_tensor_quant(
    inputs: npt.ArrayLike,
    amax: npt.ArrayLike,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> Array:
    """Do what `fake_tensor_quant` does; the original has two implementations under two names.

    Parameters
    ----------
    inputs, amax, num_bits, unsigned, narrow_range
        As in `fake_tensor_quant`.
    """
    return fake_tensor_quant(inputs, amax, num_bits, unsigned, narrow_range)


def fake_tensor_quant_grad(inputs: npt.ArrayLike, amax: npt.ArrayLike, grad_outputs: npt.ArrayLike) -> Array:
    """Gradient of `fake_tensor_quant`; the same as `tensor_quant_grad`.

    Parameters
    ----------
    inputs, amax, grad_outputs
        As in `tensor_quant_grad`.
    """
    return tensor_quant_grad(inputs, amax, grad_outputs)


def legacy_fake_tensor_quant_grad(
    inputs: npt.ArrayLike, amax: npt.ArrayLike, grad_outputs: npt.ArrayLike
) -> Array:
    """Gradient of `legacy_fake_tensor_quant`; the same as `tensor_quant_grad`.

    Parameters
    ----------
    inputs, amax, grad_outputs
        As in `tensor_quant_grad`.
    """
    return tensor_quant_grad(inputs, amax, grad_outputs)


def fake_affine_tensor_quant(
    inputs: npt.ArrayLike, min_range: npt.ArrayLike, max_range: npt.ArrayLike, num_bits: int = 8
) -> Array:
    """Quantize with a zero point and dequantize again.

    ``step = (max_range - min_range) / (2**num_bits - 1)``; 0 need not be a code's value exactly in the
    middle, as it is for `fake_tensor_quant`.  Discouraged for weights: the zero point costs a product of its
    own.

    Parameters
    ----------
    inputs : array_like, any shape, floating point
    min_range, max_range : array_like of one element
        Values of the lowest and highest code, `min_range` below `max_range`.
    num_bits : int
        1 .. 16.

    Returns
    -------
    ndarray, shape and type of `inputs`

    Raises
    ------
    TypeError
        If a tensor is not floating point or `num_bits` is not an int.
    ValueError
        If a bound has more than one element, or the bounds or `num_bits` are out of range.

    References
    ----------
    Wu et al., 2020, "Integer Quantization for Deep Learning Inference", section 3.1.1.
    """
    x, dtype = _split(inputs, "inputs")
    low, high = _scalar(min_range, "min_range"), _scalar(max_range, "max_range")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"min_range, max_range: expected finite bounds that increase, got {low} and {high}")
    return _core.fake_affine(default_device(), x, low, high, _bits(num_bits)).astype(dtype, copy=False)


def fake_affine_tensor_quant_grad(
    inputs: npt.ArrayLike, min_range: npt.ArrayLike, max_range: npt.ArrayLike, grad_outputs: npt.ArrayLike
) -> Array:
    """Gradient of `fake_affine_tensor_quant`: straight through inside the range, bounds included.

    Parameters
    ----------
    inputs, min_range, max_range : array_like
        As given to `fake_affine_tensor_quant`.
    grad_outputs : array_like, shape of `inputs`
        Gradient of the outputs.

    Returns
    -------
    ndarray, shape and type of `inputs`

    Raises
    ------
    TypeError, ValueError
        As `fake_affine_tensor_quant`.
    """
    x, dtype = _split(inputs, "inputs")
    # clip's gradient passes strictly between its bounds; the next numbers outwards make that inclusive.
    low = np.nextafter(np.float32(_scalar(min_range, "min_range")), np.float32(-np.inf), dtype=np.float32)
    high = np.nextafter(np.float32(_scalar(max_range, "max_range")), np.float32(np.inf), dtype=np.float32)

    def gradient(dy: npt.NDArray[np.float32]) -> Array:
        return _core.clip_grad(default_device(), x, np.asarray(low), np.asarray(high), dy)[0]

    return _straight_through(grad_outputs, gradient).astype(dtype, copy=False)


def scaled_e4m3(inputs: npt.ArrayLike, amax: npt.ArrayLike | None = None, E: int = 4, M: int = 3) -> Array:
    """Round a tensor to the 8-bit floating-point format E4M3.

    Parameters
    ----------
    inputs : array_like, any shape, floating point
    amax : array_like or None
        Magnitude that maps to 448, the largest E4M3 value; broadcasts to `inputs`.  None: no scaling.
    E, M : int
        Bits of exponent and mantissa: 4 and 3.

    Returns
    -------
    ndarray, shape and type of `inputs`
        Ties round to even; magnitudes beyond the range, infinities too, become the largest value; NaN stays
        NaN; magnitudes below 2**-24 become 0.

    Raises
    ------
    NotImplementedError
        If `E` and `M` are not 4 and 3.
    TypeError
        If a tensor is not floating point.
    ValueError
        If `amax` does not broadcast.

    References
    ----------
    Micikevicius et al., 2022, "FP8 Formats for Deep Learning".
    """
    if (E, M) != (4, 3):
        raise NotImplementedError("Only support E=4 & M=3 for now.")
    x, dtype = _split(inputs, "inputs")
    ranges = None if amax is None else as_float32(amax, "amax")
    return _core.scaled_e4m3(default_device(), x, ranges).astype(dtype, copy=False)


def scaled_e4m3_grad(inputs: npt.ArrayLike, amax: npt.ArrayLike | None, grad_outputs: npt.ArrayLike) -> Array:
    """Gradient of `scaled_e4m3`: `tensor_quant_grad`, with the range 448 if `amax` is None.

    Parameters
    ----------
    inputs, grad_outputs
        As in `tensor_quant_grad`.
    amax : array_like or None
    """
    return tensor_quant_grad(inputs, np.float32(_E4M3_MAX) if amax is None else amax, grad_outputs)


def reduce_amax(
    input: npt.ArrayLike,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = True,
) -> Array:
    """Largest magnitude over axes.

    Parameters
    ----------
    input : array_like, any shape, floating point
    axis : int, sequence of int or None
        Axes that are reduced, as in `numpy.max`; None: all of them, to a 0-dim result.
    keepdims : bool
        Whether reduced axes stay with size 1.  A sequence of axes that leaves one element gives a 0-dim
        result either way, as in the original.

    Returns
    -------
    ndarray, type of `input`
        NaN where a NaN was reduced.

    Raises
    ------
    ValueError
        If there are more axes than dimensions.
    IndexError
        If an axis is out of range.
    TypeError
        If `input` is not floating point.
    """
    x, dtype = _split(input, "input")
    if axis is None:
        return _reduce_amax(input, x, dtype, ()).reshape(()).astype(dtype, copy=False)
    axes: Sequence[int] = (axis,) if isinstance(axis, int) else tuple(axis)
    if len(axes) > x.ndim:
        raise ValueError("Cannot reduce more axes than tensor's dim.")
    for each in axes:
        if not -x.ndim <= each < x.ndim:
            raise IndexError(
                "Dimension out of range (expected to be in range of "
                f"[{-x.ndim}, {x.ndim - 1}], but got {each})"
            )
    reduced = {each % x.ndim for each in axes}
    kept = tuple(each for each in range(x.ndim) if each not in reduced)
    result = _reduce_amax(input, x, dtype, kept)
    if not keepdims:
        result = result.reshape([x.shape[each] for each in kept])
    if not isinstance(axis, int) and result.size == 1:
        result = result.reshape(())
    return result.astype(dtype, copy=False)


# ---- the original's autograd functions ---------------------------------------------------------------------


class TensorQuantFunction:
    """`tensor_quant` as the original's autograd function: ``apply``, and its gradient."""

    apply: Final = staticmethod(tensor_quant)
    grad: Final = staticmethod(tensor_quant_grad)


class FakeTensorQuantFunction:
    """`fake_tensor_quant` as the original's autograd function: ``apply``, and its gradient."""

    apply: Final = staticmethod(fake_tensor_quant)
    grad: Final = staticmethod(fake_tensor_quant_grad)


class LegacyFakeTensorQuantFunction:
    """`legacy_fake_tensor_quant` as the original's autograd function: ``apply``, and its gradient."""

    apply: Final = staticmethod(legacy_fake_tensor_quant)
    grad: Final = staticmethod(legacy_fake_tensor_quant_grad)


class FakeAffineTensorQuantFunction:
    """`fake_affine_tensor_quant` as the original's autograd function: ``apply``, and its gradient."""

    apply: Final = staticmethod(fake_affine_tensor_quant)
    grad: Final = staticmethod(fake_affine_tensor_quant_grad)


class ScaledE4M3Function:
    """`scaled_e4m3` as the original's autograd function: ``apply``, and its gradient."""

    apply: Final = staticmethod(scaled_e4m3)
    grad: Final = staticmethod(scaled_e4m3_grad)


def _straight_through(grad_outputs: Any, gradient: Callable[[npt.NDArray[np.float32]], Array]) -> Array:
    """Gradient of a clipped straight-through estimator, whose float32 form is `gradient`."""
    dy = as_float_array(grad_outputs, "grad_outputs")
    if dy.dtype == np.float64:
        # float32 decides which elements pass; what passes keeps its digits.
        return np.where(gradient(np.ones(dy.shape, np.float32)) != 0, dy, 0.0)
    return gradient(as_float32(dy, "grad_outputs"))


def _reduce_amax(
    value: Any, x: npt.NDArray[np.float32], dtype: np.dtype[Any], kept: tuple[int, ...]
) -> Array:
    """Largest magnitude over every axis but the kept ones; a maximum of float64 keeps its digits."""
    if dtype == np.float64:
        reduced = tuple(axis for axis in range(x.ndim) if axis not in kept)
        return np.asarray(
            np.abs(as_float_array(value, "input")).max(axis=reduced, keepdims=True, initial=0.0)
        )
    return _core.reduce_amax(default_device(), x, kept)


def _split(value: Any, name: str) -> tuple[npt.NDArray[np.float32], np.dtype[Any]]:
    """Tensor as float32, and the type that results go back to."""
    array = as_float_array(value, name)
    return as_float32(array, name), array.dtype


def _codes(
    x: npt.NDArray[np.float32], amax: Any, num_bits: object, unsigned: bool, narrow_range: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    try:
        return _core.tensor_quant(
            default_device(), x, as_float32(amax, "amax"), _bits(num_bits), bool(unsigned), bool(narrow_range)
        )
    except ValueError:
        refuse_negative(x, unsigned)
        raise


def refuse_negative(x: npt.NDArray[np.float32], unsigned: bool) -> None:
    """Raise the original's TypeError if an unsigned quantizer failed because of a negative element.

    Parameters
    ----------
    x : ndarray
        What was to be quantized.
    unsigned : bool
        Whether it was quantized without sign.

    Raises
    ------
    TypeError
        If `unsigned` and an element of `x` is negative.
    """
    if unsigned and bool((x < 0).any()):
        raise TypeError("Negative values encountered in unsigned quantization.") from None


def _bits(num_bits: object) -> int:
    if not isinstance(num_bits, int) or isinstance(num_bits, bool):
        raise TypeError(f"num_bits: expected int, got {type(num_bits).__name__}")
    return num_bits


def _scalar(value: Any, name: str) -> float:
    array = as_float32(value, name)
    if array.size != 1:
        raise ValueError(f"{name}: expected one element, got shape {array.shape}")
    return float(array.reshape(()))

# SPDX-License-Identifier: Apache-2.0
"""The functions of ``pytorch_quantization.cuda_ext``, for code that calls the extension itself.

The name is the original's; nothing here needs a GPU.  The functions run where the rest of the package runs,
with the arithmetic of the original's kernels: computed in float32 and rounded once to the type of the input,
whatever that is.  Where the kernels slip, these do not: ``narrow_range`` is honoured, the size of `amax` is
checked, and a range of exactly 2**-24 gives zeros, as everywhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.arrays import Array, as_float32, as_float_array
from qdqbert.errors import ShapeError
from qdqbert.tensor_quant import fake_tensor_quant as _fake_tensor_quant
from qdqbert.tensor_quant import scaled_e4m3

__all__ = ["fake_e4m3fy", "fake_tensor_quant", "fake_tensor_quant_", "fake_tensor_quant_with_axis"]


def fake_tensor_quant_(
    inputs: Array,
    amax: npt.ArrayLike,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> None:
    """Quantize and dequantize an array in place, with one range.

    Parameters
    ----------
    inputs : ndarray, any shape, C-contiguous and writable, float16, float32 or float64
        Overwritten; unchanged if an error is raised.
    amax : array_like of one element
        Magnitude that maps to the highest code.
    num_bits, unsigned, narrow_range
        As in `qdqbert.tensor_quant.fake_tensor_quant`.

    Raises
    ------
    TypeError
        If `inputs` is no such array, or `unsigned` meets a negative element.
    ValueError
        If `inputs` is not contiguous or is read-only, `amax` has more than one element or is negative, or
        `num_bits` is out of range.

    Examples
    --------
    >>> x = np.float32([0.4, 2.6, 9.0])
    >>> fake_tensor_quant_(x, 7.0, num_bits=4)
    >>> x.tolist()
    [0.0, 3.0, 7.0]
    """
    if not isinstance(inputs, np.ndarray) or inputs.dtype.kind != "f" or inputs.dtype.itemsize > 8:
        raise TypeError(
            f"inputs: expected an array of float16, float32 or float64 to write to, got {inputs!r:.80}"
        )
    if not inputs.flags.c_contiguous:
        raise ValueError("inputs: expected a contiguous array, got one with strides " + str(inputs.strides))
    if not inputs.flags.writeable:
        raise ValueError("inputs: expected a writable array, got one that is read-only")
    inputs[...] = fake_tensor_quant(inputs, amax, num_bits, unsigned, narrow_range)


def fake_tensor_quant(
    inputs: npt.ArrayLike,
    amax: npt.ArrayLike,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> Array:
    """Quantize and dequantize a tensor with one range.

    Parameters
    ----------
    inputs : array_like, any shape, floating point
    amax : array_like of one element
        Magnitude that maps to the highest code.
    num_bits, unsigned, narrow_range
        As in `qdqbert.tensor_quant.fake_tensor_quant`.

    Returns
    -------
    ndarray, shape and type of `inputs`

    Raises
    ------
    TypeError
        If a tensor is not floating point, `num_bits` is not an int, or `unsigned` meets a negative element.
    ValueError
        If `amax` has more than one element or is negative, or `num_bits` is out of range.
    """
    ranges = as_float32(amax, "amax")
    if ranges.size != 1:
        raise ShapeError(f"amax: expected one element, got shape {ranges.shape}")
    return _in_float32(inputs, ranges.reshape(()), num_bits, unsigned, narrow_range)


def fake_tensor_quant_with_axis(
    inputs: npt.ArrayLike,
    amax: npt.ArrayLike,
    axis: int,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> Array:
    """Quantize and dequantize a tensor with one range for each index of an axis.

    Parameters
    ----------
    inputs : array_like, at least one dimension, floating point
    amax : array_like, shape (inputs.shape[axis],)
        Magnitudes that map to the highest code.
    axis : int
        In [-rank, rank).
    num_bits, unsigned, narrow_range
        As in `qdqbert.tensor_quant.fake_tensor_quant`.

    Returns
    -------
    ndarray, shape and type of `inputs`

    Raises
    ------
    IndexError
        If `axis` is out of range.
    TypeError
        If a tensor is not floating point, `axis` or `num_bits` is not an int, or `unsigned` meets a negative
        element.
    ValueError
        If `amax` has another shape or is negative somewhere, or `num_bits` is out of range.
    """
    x, ranges = as_float_array(inputs, "inputs"), as_float32(amax, "amax")
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise TypeError(f"axis: expected int, got {type(axis).__name__}")
    if not -x.ndim <= axis < x.ndim:
        raise IndexError(f"axis: expected [{-x.ndim}, {x.ndim}) for shape {x.shape}, got {axis}")
    if ranges.shape != (x.shape[axis],):
        raise ShapeError(
            f"amax: expected ({x.shape[axis]},) for axis {axis} of {x.shape}, got {ranges.shape}"
        )
    shape = [1] * x.ndim
    shape[axis] = -1
    return _in_float32(x, ranges.reshape(shape), num_bits, unsigned, narrow_range)


def fake_e4m3fy(inputs: npt.ArrayLike) -> Array:
    """Round a tensor to the 8-bit floating-point format E4M3 without scaling it.

    Parameters
    ----------
    inputs : array_like, any shape, floating point

    Returns
    -------
    ndarray, shape and type of `inputs`
        As `qdqbert.tensor_quant.scaled_e4m3` with ``amax=None``.

    Raises
    ------
    TypeError
        If `inputs` is not floating point.
    """
    return scaled_e4m3(inputs)


def _in_float32(inputs: Any, amax: Array, num_bits: int, unsigned: bool, narrow_range: bool) -> Array:
    """Quantize in float32 and round once, as the kernels do; `fake_tensor_quant` rounds float16 twice."""
    x = as_float_array(inputs, "inputs")
    y = _fake_tensor_quant(as_float32(x, "inputs"), amax, num_bits, unsigned, narrow_range)
    return y.astype(x.dtype, copy=False)

# SPDX-License-Identifier: Apache-2.0
"""What users may pass for tensors of floating-point numbers and for axes, and what C is given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "as_float32", "as_float_array", "axis_tuple", "digest_of"]

Array = npt.NDArray[Any]


def as_float_array(value: Any, name: str) -> Array:
    """Array of a tensor argument, without copying where NumPy can avoid it.

    Parameters
    ----------
    value : object
        NumPy array or scalar, Python number, (nested) list of numbers, or any object with the buffer
        protocol, ``__array__`` or DLPack.
    name : str
        Argument, for messages.

    Returns
    -------
    ndarray
        float16, float32 or float64, in the machine's byte order; Python numbers and lists of them become
        float32, which is what the original's tensors hold.

    Raises
    ------
    TypeError
        If the value is no tensor of floating-point numbers.
    """
    try:
        if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
            array = np.from_dlpack(value)
        else:
            array = np.asarray(value)
            if isinstance(value, int | float | list | tuple) and array.dtype.kind in "fi":
                array = array.astype(np.float32)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected an array of floating-point numbers, got {value!r:.80}") from error
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected float16, float32 or float64, got {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def as_float32(value: Any, name: str) -> npt.NDArray[np.float32]:
    """`as_float_array` as C-contiguous float32, converted if need be; the rank is kept.

    Parameters
    ----------
    value : object
    name : str

    Returns
    -------
    ndarray, float32

    Raises
    ------
    TypeError
        If the value is no tensor of floating-point numbers.
    """
    array = as_float_array(value, name)
    return np.require(array, dtype=np.float32, requirements=["C_CONTIGUOUS", "ALIGNED"])


def axis_tuple(axis: object) -> tuple[int, ...] | None:
    """Axes as C takes them.

    Parameters
    ----------
    axis : int, sequence of int or None

    Returns
    -------
    tuple of int or None

    Raises
    ------
    TypeError
        If `axis` is anything else.
    """
    if axis is None:
        return None
    axes: Sequence[object] = axis if isinstance(axis, tuple | list) else (axis,)
    numbers = [
        int(each) for each in axes if isinstance(each, int | np.integer) and not isinstance(each, bool)
    ]
    if len(numbers) != len(axes):
        raise TypeError(f"axis: expected int, sequence of int or None, got {axis!r}")
    return tuple(numbers)


def digest_of(named: Iterable[tuple[str, Array]]) -> str:
    """Return the SHA-256, in hexadecimal, over named arrays in the order of their names.

    Parameters
    ----------
    named : iterable of (str, ndarray)
        Each adds its name in UTF-8, a zero byte, and its elements, float32 little-endian.

    Examples
    --------
    >>> first, second = np.float32([1.5]), np.float32([[2.0]])
    >>> digest_of([("b", second), ("a", first)]) == digest_of([("a", first), ("b", second)])
    True
    """
    digest = hashlib.sha256()
    for name, value in sorted(named, key=lambda each: each[0]):
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(value, "<f4").data)
    return digest.hexdigest()

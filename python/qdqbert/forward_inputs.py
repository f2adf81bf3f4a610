# SPDX-License-Identifier: Apache-2.0
"""Arguments of a forward call as the arrays that C reads: contiguous int64 and float32.

Whatever offers numbers is accepted: lists, the buffer protocol, ``__array__`` (PyTorch CPU tensors among
others) and DLPack.  Only the kind of number is checked here; shapes and ranges are checked against the model
by the C side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qdqbert.errors import ShapeError

__all__ = [
    "Past",
    "as_array",
    "as_floats",
    "as_head_mask",
    "as_integers",
    "as_labels",
    "as_mask",
    "as_past",
    "as_rows",
]

Floats = npt.NDArray[np.float32]

_INT64 = np.iinfo(np.int64)


def as_array(argument: str, value: Any) -> npt.NDArray[Any]:
    """Return `value` as an array of numbers in their own dtype, without copying where that can be avoided.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    value : array_like
        Anything with the buffer protocol, ``__array__`` or DLPack, or nested lists.

    Raises
    ------
    TypeError
        If it cannot be read as an array of numbers.
    ShapeError
        If its rows differ in length.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            array = np.from_dlpack(value)
        else:
            array = np.asarray(value)
    except (TypeError, RuntimeError, BufferError) as error:
        raise TypeError(f"{argument}: cannot be read as an array: {error}") from error
    except ValueError as error:
        raise ShapeError(f"{argument}: rows of one length expected: {error}") from error
    if array.dtype.kind == "O":
        raise TypeError(f"{argument}: expected numbers, got {type(value).__name__}")
    return array


def as_integers(argument: str, value: Any) -> npt.NDArray[np.int64] | None:
    """Return `value` as contiguous int64, or None for None.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    value : array of any integer dtype or bool, or nested lists of int

    Raises
    ------
    TypeError
        If it holds no integers.
    ShapeError
        If its rows differ in length.
    ValueError
        If an unsigned value does not fit int64.
    """
    if value is None:
        return None
    array = as_array(argument, value)
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no integers to tell its dtype
    if array.dtype.kind not in "iub":
        raise TypeError(f"{argument}: expected integers, got {array.dtype}")
    if array.dtype == np.uint64 and array.size and int(array.max()) > _INT64.max:
        raise ValueError(f"{argument}: {int(array.max())} does not fit int64")
    return np.ascontiguousarray(array, dtype=np.int64).reshape(array.shape)


def as_rows(argument: str, value: Any, batch: int) -> npt.NDArray[np.int64] | None:
    """Return one row of integers for each sequence: a single one, shape (1, length), counts for all.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    value : array_like or None
    batch : int
        Sequences.

    Raises
    ------
    TypeError, ShapeError, ValueError
        As in `as_integers`.
    """
    rows = as_integers(argument, value)
    if rows is not None and rows.ndim == 2 and len(rows) == 1:
        rows = rows.repeat(batch, axis=0)
    return rows


def as_mask(argument: str, value: Any) -> npt.NDArray[np.int64] | None:
    """Return an attention mask as contiguous int64, or None for None.

    Floats are taken too, as the original does, but only 0 and 1: it would scale scores by others.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    value : array_like or None

    Raises
    ------
    TypeError, ShapeError, ValueError
        As in `as_integers`; ValueError also names the first float that is neither 0 nor 1.
    """
    if value is None:
        return None
    array = as_array(argument, value)
    if array.dtype.kind == "f" and array.size:
        wrong = np.argwhere((array != 0) & (array != 1))
        if wrong.size:
            place = tuple(int(i) for i in wrong[0])
            raise ValueError(f"{argument}{list(place)} is {array[place]}, expected 0 or 1")
        array = array.astype(np.int64)
    return as_integers(argument, array if isinstance(value, np.ndarray) or array.size else value)


def as_floats(argument: str, value: Any) -> npt.NDArray[np.float32] | None:
    """Return `value` as contiguous float32, or None for None.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    value : array_like or None

    Raises
    ------
    TypeError
        If it holds no real numbers.
    ShapeError
        If its rows differ in length.
    """
    if value is None:
        return None
    array = as_array(argument, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{argument}: expected real numbers, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)


def as_head_mask(value: Any, kept: Sequence[Sequence[int]], num_heads: int) -> npt.NDArray[np.float32] | None:
    """Return the factors of the heads that are left, layer after layer, or None for None.

    Parameters
    ----------
    value : floats, shape (heads,) or (layers, heads)
        For all heads, pruned ones included: heads keep their numbers.
    kept : sequence of sequence of int
        The heads that each layer has left.
    num_heads : int
        Before pruning.

    Raises
    ------
    TypeError, ShapeError
        As in `as_floats`; also for any other shape.
    """
    mask = as_floats("head_mask", value)
    if mask is None:
        return None
    if mask.shape not in ((num_heads,), (len(kept), num_heads)):
        raise ShapeError(
            f"head_mask: expected ({num_heads},) or ({len(kept)}, {num_heads}), got {mask.shape}"
        )
    rows = np.broadcast_to(mask, (len(kept), num_heads))
    return np.concatenate([row[list(heads)] for row, heads in zip(rows, kept, strict=True)])


class Past(NamedTuple):
    """The arrays of ``past_key_values``, layer by layer.

    Attributes
    ----------
    length : int
        Tokens in the cache; 0 without one.
    keys, values : list of ndarray, shape (batch, heads of the layer, length, head size), or None
    cross_keys, cross_values : list of ndarray, shape (batch, heads, encoder length, head size), or None
    """

    length: int
    keys: list[Floats] | None
    values: list[Floats] | None
    cross_keys: list[Floats] | None
    cross_values: list[Floats] | None


def as_past(value: Any, num_layers: int) -> Past:
    """Return a cache of keys and values as contiguous float32, whose shapes C compares with the model.

    Parameters
    ----------
    value : sequence of sequences of floats, or None
        For each layer (keys, values) or (keys, values, cross-attention keys, cross-attention values), as a
        model returns them.
    num_layers : int

    Raises
    ------
    TypeError, ShapeError
        If it is built otherwise.
    """
    if value is None:
        return Past(0, None, None, None, None)
    if not isinstance(value, list | tuple) or not all(isinstance(layer, list | tuple) for layer in value):
        raise TypeError("past_key_values: expected a tuple of arrays for each layer, in a tuple")
    if len(value) != num_layers:
        raise ShapeError(f"past_key_values: expected {num_layers} layers, got {len(value)}")
    sizes = {len(layer) for layer in value}
    if sizes not in ({2}, {4}):
        raise ShapeError(
            "past_key_values: expected 2 arrays for each layer, or 4 with those of cross-attention, "
            f"got {', '.join(map(str, sorted(sizes)))}"
        )
    columns: list[list[Floats]] = [[] for _ in range(sizes.pop())]
    for index, layer in enumerate(value):
        for place, each in enumerate(layer):
            array = as_floats(f"past_key_values[{index}][{place}]", each)
            if array is None or array.ndim != 4:
                raise ShapeError(
                    f"past_key_values[{index}][{place}]: expected (batch, heads, length, head size), "
                    f"got {None if array is None else array.shape}"
                )
            columns[place].append(array)
    length = int(columns[0][0].shape[2])
    keys, values = (columns[0], columns[1]) if length else (None, None)
    return Past(length, keys, values, *(columns[2:] or (None, None)))


def as_labels(argument: str, value: Any) -> npt.NDArray[Any]:
    """Return labels as an array of numbers in their own dtype.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    value : array_like

    Raises
    ------
    TypeError
        If it holds no numbers.
    """
    array = as_array(argument, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{argument}: expected numbers, got {array.dtype}")
    return array

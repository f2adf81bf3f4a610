# SPDX-License-Identifier: Apache-2.0
"""Arguments of a forward call as the arrays that C reads: contiguous int64 and float32.

Whatever offers numbers is accepted: lists, the buffer protocol, ``__array__`` (PyTorch CPU tensors among
others) and DLPack.  Only the kind of number is checked here; shapes and ranges are checked against the model
by the C side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

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
    "require_past",
    "spread_mask",
]

Floats = npt.NDArray[np.float32]

_INT64 = np.iinfo(np.int64)
# A view into a file or a packed record may lie at any address.
_AS_C_READS: tuple[Literal["C"], Literal["A"], Literal["E"]] = ("C", "A", "E")


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
    return np.require(array, np.int64, _AS_C_READS)


def as_rows(argument: str, value: Any, batch: int, length: int) -> npt.NDArray[np.int64] | None:
    """Return one integer for each token: what broadcasts to (batch, length) counts as often as it says.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    value : array_like or None
        (batch, length), (1, length), (batch, 1), (1, 1), (length,), (1,), or one number; the original adds
        the embeddings of any of them.
    batch, length : int
        Sequences, and tokens of each.

    Returns
    -------
    ndarray, shape (batch, length), int64, or None
        As it came if it does not broadcast: the C side says what does not fit.

    Raises
    ------
    TypeError, ShapeError, ValueError
        As in `as_integers`.
    """
    rows = as_integers(argument, value)
    return rows if rows is None or rows.ndim > 2 else _spread(rows, (batch, length))


def spread_mask(
    mask: npt.NDArray[np.int64] | None, batch: int, length: int, keys: int
) -> npt.NDArray[np.int64] | None:
    """Return a mask of every sequence and key: an axis of size 1 counts for all, as in the original.

    Parameters
    ----------
    mask : ndarray, int64, shape (batch, keys) or (batch, length, keys), or None
        Any axis may be 1.
    batch, length, keys : int

    Returns
    -------
    ndarray, shape (batch, keys) or (batch, length, keys), int64, or None
        As it came if it has another shape: the C side says what does not fit.
    """
    if mask is None or mask.ndim not in (2, 3):
        return mask
    return _spread(mask, (batch, keys) if mask.ndim == 2 else (batch, length, keys))


def _spread(array: npt.NDArray[np.int64], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return `array` broadcast to `shape` and contiguous, or as it came if it does not broadcast."""
    sizes = zip(reversed(array.shape), reversed(shape), strict=False)
    if array.shape == shape or any(mine not in (1, size) for mine, size in sizes):
        return array
    return np.ascontiguousarray(np.broadcast_to(array, shape))


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
    return np.require(array, np.float32, _AS_C_READS)


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
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"past_key_values: expected a tuple of arrays for each layer, in a tuple, got {_kind(value)}"
        )
    for index, layer in enumerate(value):
        if not isinstance(layer, list | tuple):
            raise TypeError(f"past_key_values[{index}]: expected a tuple of arrays, got {_kind(layer)}")
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


def require_past(past: Past, batch: int, heads: Sequence[int], cross_heads: int, head_size: int) -> None:
    """Check that a cache is one of these sequences and of a model of these sizes.

    Parameters
    ----------
    past : Past
    batch : int
        Sequences.
    heads : sequence of int
        Of the self-attention of each layer.
    cross_heads : int
        Of the cross-attention of every layer.
    head_size : int

    Raises
    ------
    ShapeError
        Naming the first array that has another shape.
    """
    places = (past.keys, past.values, past.cross_keys, past.cross_values)
    for place, arrays in enumerate(places):
        for index, array in enumerate(arrays or ()):
            first = past.cross_keys[0] if past.cross_keys is not None and place > 1 else None
            keys, count = (past.length, heads[index]) if first is None else (first.shape[2], cross_heads)
            expected = (batch, count, keys, head_size)
            if array.shape != expected:
                raise ShapeError(
                    f"past_key_values[{index}][{place}]: expected (batch, heads, length, head size) = "
                    f"{expected}, got {array.shape}"
                )


def _kind(value: Any) -> str:
    """Return what a value is, for messages: its type, and of texts and numbers themselves."""
    kind = type(value).__name__
    return f"{kind} {value!r:.40}" if isinstance(value, str | bytes | int | float) else kind


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

# SPDX-License-Identifier: Apache-2.0
"""Numbers of a file as float32 of a model: any number format, any strides, one chunk of memory beside.

Whatever the container (safetensors, PyTorch's two, TensorFlow's), a tensor is a place in a file, a number
format, a shape and strides.  It is read straight into the memory where the model keeps it; what is not
contiguous float32 goes there chunk by chunk.

Number formats have the names that safetensors gives them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.serialization.data_file import DataFile

__all__ = ["FORMAT_BYTES", "StoredTensor", "contiguous_strides", "placement_error"]

CHUNK_BYTES = 1 << 20

# Bytes of one number.
FORMAT_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
    "C128": 16,
}
# Those that have a meaning as float32.
_NUMPY_DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "F64": "<f8",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    # Not "?": a byte that is neither 0 nor 1 is true.
    "BOOL": "u1",
}


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a tensor whose last index runs fastest.

    Parameters
    ----------
    shape : tuple of int
    """
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= size
    return tuple(reversed(strides))


def placement_error(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, count: int) -> str | None:
    """Say what is wrong with a tensor's place in a run of numbers, or None.

    Parameters
    ----------
    shape, strides : tuple of int
        None negative.
    offset : int
        Of the first element, in elements.
    count : int
        Numbers in the run.

    Returns
    -------
    str or None
        What follows "a tensor that" in a sentence.
    """
    if len(shape) != len(strides):
        return f"has {len(shape)} sizes and {len(strides)} strides"
    if 0 in shape:
        return None
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= count:
        return f"reaches to element {last} of a storage of {count}"
    # Overlapping elements would let a small file be read many times over.  A broadcast axis is a copy.
    reach = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride > 0:
            if stride <= reach:
                return "has elements on top of each other"
            reach += (size - 1) * stride
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Attributes
    ----------
    file : DataFile
        Open while the tensor is read.
    name : str
        For messages.
    number_format : str
        A key of `FORMAT_BYTES`.
    shape : tuple of int
    strides : tuple of int
        In elements, none negative.
    begin : int
        Byte of the file where the element with all indices 0 lies.  The maker has checked that every element
        lies in the file.
    """

    file: DataFile
    name: str
    number_format: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    begin: int

    def is_contiguous(self) -> bool:
        """Whether the elements lie in the order of the shape, without gaps."""
        expected = contiguous_strides(self.shape)
        return 0 in self.shape or all(
            size == 1 or mine == theirs
            for size, mine, theirs in zip(self.shape, self.strides, expected, strict=True)
        )

    def rows(self, begin: int, end: int) -> StoredTensor:
        """Return the part with the first index from `begin` to before `end`.

        Parameters
        ----------
        begin, end : int
        """
        step = begin * self.strides[0] * FORMAT_BYTES[self.number_format]
        return dataclasses.replace(self, shape=(end - begin, *self.shape[1:]), begin=self.begin + step)

    def transposed(self) -> StoredTensor:
        """Return the same numbers with the axes in reverse order."""
        return dataclasses.replace(self, shape=self.shape[::-1], strides=self.strides[::-1])

    def read_into(self, target: npt.NDArray[np.float32]) -> None:
        """Read the tensor as float32.

        Parameters
        ----------
        target : ndarray, float32
            C-contiguous and writable; of the tensor's shape.

        Raises
        ------
        CheckpointError
            If the number format has no meaning as float32, or the file ends early or cannot be read.
        """
        if self.number_format not in _NUMPY_DTYPES:
            raise self.file.fail(f"{self.name}: {self.number_format} cannot be read as float32")
        if target.shape != self.shape or target.dtype != np.float32 or not target.flags.c_contiguous:
            raise ValueError(f"target: expected contiguous float32 of shape {self.shape}, got {target.shape}")
        if not target.size:
            return
        if not self.is_contiguous():
            self._gather_into(target)
        elif self.number_format == "F32" and np.little_endian:
            self.file.read_into(self.begin, _bytes_of(target.reshape(-1)), self.name)
        else:
            self._convert_into(target.reshape(-1))

    def read_codes(self, buffer: npt.NDArray[np.int8] | None = None) -> npt.NDArray[np.int8]:
        """Return a tensor of int8 as it is.

        Parameters
        ----------
        buffer : ndarray, one dimension, int8, optional
            Memory to read it into, if that is large enough: new pages cost as much as the reading.

        Raises
        ------
        CheckpointError
            If it is of another number format, or the file ends early or cannot be read.
        """
        self._require_codes()
        count = math.prod(self.shape)
        is_used = buffer is not None and buffer.size >= count
        codes = (buffer[:count] if is_used and buffer is not None else np.empty(count, np.int8)).reshape(
            self.shape
        )
        if codes.size:
            self.file.read_into(self.begin, _bytes_of(codes.reshape(-1)), self.name)
        return codes

    def place_of_codes(self) -> tuple[int, int]:
        """Return (descriptor of the open file, byte) where a tensor of int8 lies row by row.

        Raises
        ------
        CheckpointError
            If it is of another number format, or the file ends before.
        """
        self._require_codes()
        self.file.require(self.begin, math.prod(self.shape), self.name)
        return self.file.descriptor, self.begin

    def _require_codes(self) -> None:
        if self.number_format != "I8" or not self.is_contiguous():
            raise self.file.fail(f"{self.name}: is {self.number_format}, expected I8")

    def mapped(self) -> npt.NDArray[np.float32] | None:
        """Return a tensor of float32 in the memory of its file, read-only; None if it is stored otherwise.

        Raises
        ------
        CheckpointError
            If the file ends early or cannot be mapped.
        """
        count = math.prod(self.shape)
        is_plain = self.number_format == "F32" and np.little_endian and self.is_contiguous()
        if not is_plain or not count or self.begin % 4:
            return None
        memory = self.file.map(self.begin, 4 * count, self.name)
        return np.frombuffer(memory, np.float32).reshape(self.shape)

    def _convert_into(self, target: npt.NDArray[np.float32]) -> None:
        dtype = np.dtype(_NUMPY_DTYPES[self.number_format])
        step = CHUNK_BYTES // dtype.itemsize
        buffer = np.empty(min(step, target.size), dtype)
        for begin in range(0, target.size, step):
            part = target[begin : begin + step]
            chunk = buffer[: part.size]
            self.file.read_into(self.begin + begin * dtype.itemsize, _bytes_of(chunk), self.name)
            self._assign(part, chunk)

    def _gather_into(self, target: npt.NDArray[np.float32]) -> None:
        """Read the part of the file that a slice of the tensor spans, and pick its elements.

        Slices go along the axis whose steps are the longest in the file, so that together they span little
        more than the tensor does.  A broadcast axis, of stride 0, spans nothing.
        """
        dtype = np.dtype(_NUMPY_DTYPES[self.number_format])
        axis = max(range(target.ndim), key=lambda i: self.strides[i] if self.shape[i] > 1 else -1)
        stride = self.strides[axis]
        others = sum(
            (size - 1) * step
            for i, (size, step) in enumerate(zip(self.shape, self.strides, strict=True))
            if i != axis
        )
        count = max(1, (CHUNK_BYTES // dtype.itemsize - others - 1) // max(stride, 1) + 1)
        for begin in range(0, self.shape[axis], count):
            taken = min(count, self.shape[axis] - begin)
            span = np.empty((taken - 1) * stride + others + 1, dtype)
            self.file.read_into(self.begin + begin * stride * dtype.itemsize, _bytes_of(span), self.name)
            shape = (*self.shape[:axis], taken, *self.shape[axis + 1 :])
            steps = tuple(step * dtype.itemsize for step in self.strides)
            picked = np.lib.stride_tricks.as_strided(span, shape, steps, writeable=False)
            where = (slice(None),) * axis + (slice(begin, begin + taken),)
            self._assign(target[where], picked)

    def _assign(self, target: npt.NDArray[np.float32], numbers: npt.NDArray[Any]) -> None:
        if self.number_format == "BF16":
            np.left_shift(numbers, 16, out=target.view(np.uint32), dtype=np.uint32)
        elif self.number_format == "BOOL":
            np.not_equal(numbers, 0, out=target, casting="unsafe")
        else:
            # A float64 beyond float32's range becomes infinite, as in a cast.
            with np.errstate(over="ignore"):
                target[...] = numbers

    def read(self) -> npt.NDArray[np.float32]:
        """Return the tensor as a new array; errors as `read_into`.

        Raises
        ------
        CheckpointError
            Also if it has more elements than its file has bytes: a broadcast one may.
        """
        if math.prod(self.shape) > self.file.size:
            raise self.file.fail(f"{self.name}: shape {self.shape} in a file of {self.file.size} bytes")
        target = np.empty(self.shape, np.float32)
        self.read_into(target)
        return target


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """Return the memory of a contiguous array as bytes."""
    return array.view(np.uint8).data

# SPDX-License-Identifier: Apache-2.0
"""Constant tensors of an ONNX file as arrays, whatever the file says of them.

A ``TensorProto`` has a type, sizes, and its elements in one of several fields, or in another file.  None of
these need agree.  Sizes are compared with the elements before anything is allocated, and another file is
opened only if it lies, links followed, in the folder of the model: paths out of it have been used to read
other people's files (CVE-2022-25882, CVE-2024-27318).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from qdqbert.errors import CheckpointError
from qdqbert.serialization.data_file import DataFile

__all__ = ["KINDS", "TensorReader", "kind_of"]

Array = npt.NDArray[Any]

# Bits of the last one say what a tensor may have; NumPy has no more either.
_MOST_AXES = 32
_LONGEST_NUMBER = 20  # digits of a place in a file


class _Kind(NamedTuple):
    """An element type: its number in a file, bits, the dtype of its bytes, the field beside ``raw_data``."""

    number: int
    bits: int
    dtype: str
    field: str


KINDS = {
    "FLOAT": _Kind(1, 32, "<f4", "float_data"),
    "UINT8": _Kind(2, 8, "u1", "int32_data"),
    "INT8": _Kind(3, 8, "i1", "int32_data"),
    "UINT16": _Kind(4, 16, "<u2", "int32_data"),
    "INT16": _Kind(5, 16, "<i2", "int32_data"),
    "INT32": _Kind(6, 32, "<i4", "int32_data"),
    "INT64": _Kind(7, 64, "<i8", "int64_data"),
    "BOOL": _Kind(9, 8, "u1", "int32_data"),
    "FLOAT16": _Kind(10, 16, "<u2", "int32_data"),
    "DOUBLE": _Kind(11, 64, "<f8", "double_data"),
    "UINT32": _Kind(12, 32, "<u4", "uint64_data"),
    "UINT64": _Kind(13, 64, "<u8", "uint64_data"),
    "BFLOAT16": _Kind(16, 16, "<u2", "int32_data"),
    "FLOAT8E4M3FN": _Kind(17, 8, "u1", "int32_data"),
    "UINT4": _Kind(21, 4, "u1", "int32_data"),
    "INT4": _Kind(22, 4, "u1", "int32_data"),
}
"""Element types that have values here, by the names of ``onnx.TensorProto``."""

# Types that only have a name.
_OTHER_NAMES = {8: "STRING", 14: "COMPLEX64", 15: "COMPLEX128", 18: "FLOAT8E4M3FNUZ", 19: "FLOAT8E5M2"}
_OTHER_NAMES |= {20: "FLOAT8E5M2FNUZ", 23: "FLOAT4E2M1", 24: "FLOAT8E8M0", 25: "UINT2", 26: "INT2"}
_NAMES = {kind.number: name for name, kind in KINDS.items()} | _OTHER_NAMES


def kind_of(number: int) -> str:
    """Return the name of an element type; a number that has none, as text.

    Parameters
    ----------
    number : int
        As in ``TensorProto.data_type``.
    """
    return _NAMES.get(number, f"type {number}")


class TensorReader:
    """Reads the tensors of one file.

    Parameters
    ----------
    folder : path or None
        Where data outside the file may lie; None: nowhere, of a model that is not from a file.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def shape(self, tensor: onnx.TensorProto) -> tuple[int, ...]:
        """Return the sizes of a tensor.

        Parameters
        ----------
        tensor : onnx.TensorProto

        Raises
        ------
        CheckpointError
            If one is negative, or there are more than 32.
        """
        sizes = tuple(tensor.dims)
        if len(sizes) > _MOST_AXES or any(size < 0 for size in sizes):
            raise _fail(tensor, f"has the sizes {_short(sizes)}")
        return sizes

    def verify(self, tensor: onnx.TensorProto) -> None:
        """Compare sizes and elements, and for data outside the file its path and its end; read nothing.

        Parameters
        ----------
        tensor : onnx.TensorProto

        Raises
        ------
        CheckpointError
            If they do not agree, or the path is not allowed.
        """
        if tensor.data_type in _OTHER_NAMES:
            self.shape(tensor)  # elements that have no meaning here
        elif self._is_outside(tensor):
            file, _, _ = self._place(tensor)
            file.close()
        else:
            self._check_count(tensor)

    def values(self, tensor: onnx.TensorProto) -> Array:
        """Return the elements.

        Parameters
        ----------
        tensor : onnx.TensorProto

        Returns
        -------
        ndarray
            Floats below 32 bits as float32, integers of 4 bits as int8 or uint8, bool as bool, others as they
            are.

        Raises
        ------
        CheckpointError
            As `verify`, and if the element type has no values here or data cannot be read.
        """
        kind, sizes = self._kind(tensor), self.shape(tensor)
        count = math.prod(sizes)
        if self._is_outside(tensor):
            file, begin, size = self._place(tensor)
            with file:
                data = file.read(begin, size, f"tensor {tensor.name!r}")
            stored = np.frombuffer(data, kind.dtype)
        else:
            self._check_count(tensor)
            if tensor.HasField("raw_data"):
                stored = np.frombuffer(tensor.raw_data, kind.dtype)
            else:
                stored = np.array(getattr(tensor, kind.field), _FIELD_DTYPES[kind.field]).astype(kind.dtype)
        decode = _DECODERS.get(_NAMES[kind.number])
        return (stored if decode is None else decode(stored)[:count]).reshape(sizes)

    # ---- in the file ---------------------------------------------------------------------------------------

    def _kind(self, tensor: onnx.TensorProto) -> _Kind:
        kind = KINDS.get(kind_of(tensor.data_type))
        if kind is None:
            raise _fail(tensor, f"has elements of {kind_of(tensor.data_type)}, which are not read")
        return kind

    def _bytes(self, tensor: onnx.TensorProto) -> int:
        kind, sizes = self._kind(tensor), self.shape(tensor)
        return (math.prod(sizes) * kind.bits + 7) // 8

    def _check_count(self, tensor: onnx.TensorProto) -> None:
        kind, expected = self._kind(tensor), self._bytes(tensor)
        if tensor.HasField("segment"):
            raise _fail(tensor, "is a segment of another one, which is not read")
        if tensor.HasField("raw_data"):
            found, unit = len(tensor.raw_data), "bytes"
        else:
            found, unit = len(getattr(tensor, kind.field)), "elements"
            expected = expected if kind.bits < 8 else expected * 8 // kind.bits
        if found != expected:
            needed = f"has the sizes {_short(tuple(tensor.dims))}, for which it needs {expected} {unit}"
            raise _fail(tensor, f"{needed}, and has {found}")

    # ---- outside it ----------------------------------------------------------------------------------------

    @staticmethod
    def _is_outside(tensor: onnx.TensorProto) -> bool:
        return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)

    def _place(self, tensor: onnx.TensorProto) -> tuple[DataFile, int, int]:
        """Return the open file, the first byte and the number of bytes of a tensor."""
        facts = {entry.key: entry.value for entry in tensor.external_data}
        size, begin = self._bytes(tensor), _number(tensor, facts, "offset", 0)
        length = _number(tensor, facts, "length", size)
        if length != size:
            raise _fail(tensor, f"needs {size} bytes of its sizes, and its entry has {length}")
        file = DataFile(self._allowed_path(tensor, facts.get("location", "")))
        if begin + size > file.size:
            file.close()
            raise _fail(
                tensor, f"ends at byte {begin + size} of {facts['location']!r:.80}, which has {file.size}"
            )
        return file, begin, size

    def _allowed_path(self, tensor: onnx.TensorProto, location: str) -> Path:
        if self._folder is None:
            raise _fail(tensor, f"lies in {location!r:.80}, and the model is not from a file")
        if not location:
            raise _fail(tensor, "lies outside the file, and there is no path to it")
        try:
            folder = self._folder.resolve()
            path = (folder / location).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            text = f"has the path {location!r:.80}, which cannot be followed: {error}"
            raise _fail(tensor, text) from error
        if Path(location).is_absolute() or not path.is_relative_to(folder) or path == folder:
            raise _fail(tensor, f"has the path {location!r:.80}, which leaves the folder of the model")
        return path


def _number(tensor: onnx.TensorProto, facts: dict[str, str], key: str, default: int) -> int:
    text = facts.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise _fail(tensor, f"has the {key} {text!r:.40}")
    return int(text)


def _fail(tensor: onnx.TensorProto, text: str) -> CheckpointError:
    return CheckpointError(f"tensor {tensor.name!r:.200}: {text}")


def _short(sizes: tuple[int, ...]) -> str:
    return str(list(sizes)) if len(sizes) <= 8 else f"{list(sizes[:8])}... ({len(sizes)} in all)"


# ---- decoding ----------------------------------------------------------------------------------------------

_FIELD_DTYPES = {
    "float_data": np.float32,
    "double_data": np.float64,
    "int32_data": np.int32,
    "int64_data": np.int64,
    "uint64_data": np.uint64,
}


def _decode_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _decode_e4m3(bits: Array) -> Array:
    """Sign, 4 bits of exponent with bias 7, 3 of mantissa; all ones is NaN, and there is no infinity."""
    codes = np.arange(128)
    exponent, mantissa = codes >> 3, codes & 7
    table = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * np.exp2(exponent - 10.0))
    table[127] = np.nan
    return np.concatenate([table, -table]).astype(np.float32)[bits]


def _decode_nibbles(packed: Array) -> Array:
    """Two in a byte, the first in the low half."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)


_DECODERS: dict[str, Callable[[Array], Array]] = {
    "BOOL": lambda stored: stored != 0,
    "FLOAT16": lambda bits: bits.view("<f2").astype(np.float32),
    "BFLOAT16": _decode_bfloat16,
    "FLOAT8E4M3FN": _decode_e4m3,
    "UINT4": _decode_nibbles,
    "INT4": lambda packed: (_decode_nibbles(packed) ^ 8).astype(np.int8) - 8,
}

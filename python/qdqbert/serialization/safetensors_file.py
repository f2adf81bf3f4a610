# SPDX-License-Identifier: Apache-2.0
"""The safetensors format, read and written without holding a file in memory.

A file is eight bytes of header length (little endian), a JSON header and the tensors, which fill the rest
without gaps: ``{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {...}}``.

The ``safetensors`` package returns whole tensors, so a float16 checkpoint exists twice while it is converted,
bfloat16 needs PyTorch, and a mapped file counts its pages as the process's memory.  Here a tensor is read
straight into the memory where the model keeps it, and other number formats are converted chunk by chunk, so
loading costs one chunk beyond the model.  The package is the witness of the tests.

Everything the header claims is checked against the file before any tensor is read: length, offsets, shapes,
no holes, no overlaps, no duplicate names.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from qdqbert.errors import CheckpointError
from qdqbert.serialization.atomic import replacing

__all__ = ["SafetensorsFile", "TensorInfo", "write_safetensors"]

# Enough for a hundred thousand tensors; the format's own limit is 100 MB, which as Python objects would be
# gigabytes.
MAX_HEADER_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20
_LFS_MARK = b"version https://git-lfs"

_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
_NUMPY_DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "F64": "<f8",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header says about one tensor.

    Attributes
    ----------
    dtype : str
        As in the header, such as ``"F32"``.
    shape : tuple of int
    begin, end : int
        Its bytes, from the start of the data.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """A safetensors file, open for reading; a context manager.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    tensors : dict of str to TensorInfo
        In the order of the data.
    metadata : dict of str to str

    Raises
    ------
    CheckpointError
        If the file is missing, is a Git-LFS pointer, or its header is damaged or does not fit the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file: BinaryIO = open(self.path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error
        try:
            self._data_begin, header = self._read_header()
            self.metadata, self.tensors = self._check_header(header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _fail(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {text}")

    def _read_header(self) -> tuple[int, dict[str, Any]]:
        size = os.fstat(self._file.fileno()).st_size
        start = self._file.read(max(8, len(_LFS_MARK)))
        if start.startswith(_LFS_MARK):
            raise self._fail("is a Git-LFS pointer, not the weights; run `git lfs pull` in its repository")
        if len(start) < 8:
            raise self._fail(f"not a safetensors file: {size} bytes, expected at least 8")
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise self._fail(
                f"not a safetensors file, or cut off: it claims a header of {length} bytes, "
                f"the file has {size} (at most {MAX_HEADER_BYTES} are accepted)"
            )
        text = bytearray(length)
        self._file.seek(8)
        self._read_exactly(memoryview(text), "the header")
        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise self._fail(f"the header is not valid JSON: {error}") from error
        if not isinstance(header, dict):
            raise self._fail(f"the header is a {type(header).__name__}, expected an object")
        return 8 + length, header

    def _check_header(self, header: dict[str, Any]) -> tuple[dict[str, str], dict[str, TensorInfo]]:
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._fail("__metadata__: expected an object of strings")
        tensors = {name: self._check_entry(name, entry) for name, entry in header.items()}
        ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
        position = 0
        for name, info in ordered.items():
            if info.begin != position:
                what = "overlaps the tensor before it" if info.begin < position else "leaves a hole before it"
                raise self._fail(
                    f"{name}: begins at byte {info.begin} of the data, {what} (expected {position})"
                )
            position = info.end
        available = os.fstat(self._file.fileno()).st_size - self._data_begin
        if position != available:
            raise self._fail(
                f"{'cut off' if position > available else 'has bytes that belong to no tensor'}: "
                f"the header describes {position} bytes of data, the file has {available}"
            )
        return metadata, ordered

    def _check_entry(self, name: str, entry: Any) -> TensorInfo:
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise self._fail(
                f"{name}: expected an entry with dtype, shape and data_offsets, got {str(entry)[:80]}"
            )
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
            raise self._fail(f"{name}: unknown dtype {str(dtype)[:40]!r}")
        if not isinstance(shape, list) or len(shape) > 32 or not all(_is_size(n) for n in shape):
            raise self._fail(f"{name}: shape is {str(shape)[:80]}, expected a list of sizes")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
            raise self._fail(f"{name}: data_offsets is {str(offsets)[:80]}, expected two positions")
        expected = math.prod(shape) * _DTYPE_BYTES[dtype]
        if offsets[1] - offsets[0] != expected:
            raise self._fail(
                f"{name}: data_offsets {offsets} hold {offsets[1] - offsets[0]} bytes, "
                f"{dtype} of shape {shape} has {expected}"
            )
        return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])

    def _read_exactly(self, target: memoryview, what: str) -> None:
        while target.nbytes:
            count = self._file.readinto(target)  # type: ignore[attr-defined]
            if not count:
                raise self._fail(f"cut off inside {what}")
            target = target[count:]

    def read_into(self, name: str, target: npt.NDArray[np.float32]) -> None:
        """Read a tensor as float32 into memory of its shape.

        Parameters
        ----------
        name : str
        target : ndarray, float32
            C-contiguous and writable; of the tensor's shape.

        Raises
        ------
        CheckpointError
            If the tensor's dtype cannot be read as float32, or the file ends early or cannot be read.
        """
        info = self.tensors[name]
        if info.dtype not in _NUMPY_DTYPES:
            raise self._fail(f"{name}: {info.dtype} cannot be read as float32")
        if target.shape != info.shape or target.dtype != np.float32 or not target.flags.c_contiguous:
            raise ValueError(f"target: expected contiguous float32 of shape {info.shape}, got {target.shape}")
        try:
            self._file.seek(self._data_begin + info.begin)
            if info.dtype == "F32" and np.little_endian:
                self._read_exactly(_bytes_of(target.reshape(-1)), name)
            else:
                self._convert_into(name, info.dtype, target.reshape(-1))
        except OSError as error:
            raise self._fail(f"{name}: cannot be read: {error.strerror}") from error

    def _convert_into(self, name: str, dtype: str, target: npt.NDArray[np.float32]) -> None:
        source_dtype = np.dtype(_NUMPY_DTYPES[dtype])
        step = _CHUNK_BYTES // source_dtype.itemsize
        buffer = np.empty(min(step, target.size), source_dtype)
        for begin in range(0, target.size, step):
            part = target[begin : begin + step]
            chunk = buffer[: part.size]
            self._read_exactly(_bytes_of(chunk), name)
            if dtype == "BF16":
                np.left_shift(chunk, 16, out=part.view(np.uint32), dtype=np.uint32)
            else:
                with np.errstate(
                    over="ignore"
                ):  # float64 beyond float32's range becomes infinite, as in a cast
                    part[...] = chunk

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as a new float32 array; errors as in `read_into`.

        Parameters
        ----------
        name : str
        """
        target = np.empty(self.tensors[name].shape, np.float32)
        self.read_into(name, target)
        return target


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """Return the memory of a contiguous array as bytes."""
    return array.view(np.uint8).data


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} stands twice")
            seen.add(key)
    return result


def write_safetensors(
    path: Path, tensors: Iterable[tuple[str, npt.NDArray[np.float32]]], metadata: dict[str, str]
) -> int:
    """Write float32 tensors, replacing an old file at once.

    Parameters
    ----------
    path : Path
    tensors : iterable of (str, ndarray)
        Written from where they lie, sorted by name as the library does.
    metadata : dict of str to str

    Returns
    -------
    int
        Bytes of tensor data.

    Raises
    ------
    OSError
        If the file cannot be written; an old file is as it was.
    """
    entries = sorted(tensors, key=lambda item: item[0])
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, array in entries:
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, array in entries:
            contiguous = np.ascontiguousarray(array, dtype="<f4").reshape(-1)
            if contiguous.size:
                file.write(_bytes_of(contiguous))
    return position

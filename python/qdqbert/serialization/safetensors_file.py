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

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from qdqbert.serialization.atomic import replacing
from qdqbert.serialization.data_file import DataFile
from qdqbert.serialization.foreign_files import describe_foreign
from qdqbert.serialization.stored_tensor import FORMAT_BYTES, StoredTensor, contiguous_strides

__all__ = ["SafetensorsFile", "write_safetensors", "write_safetensors_to"]

# Enough for a hundred thousand tensors; the format's own limit is 100 MB, which as Python objects would be
# gigabytes.
MAX_HEADER_BYTES = 8 << 20


class SafetensorsFile:
    """A safetensors file, open for reading; a context manager.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    tensors : dict of str to StoredTensor
        In the order of the data.
    metadata : dict of str to str

    Raises
    ------
    CheckpointError
        If the file is missing, is something else, or its header is damaged or does not fit the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = DataFile(path)
        self.path: Path = self._file.path
        self.metadata: dict[str, str]
        self.tensors: dict[str, StoredTensor]
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

    def _read_header(self) -> tuple[int, dict[str, Any]]:
        file = self._file
        start = file.read(0, min(8, file.size), "the length of the header")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > MAX_HEADER_BYTES or 8 + length > file.size:
            kind = describe_foreign(file.head())
            # A length that is too large may still be followed by a header.
            if kind and not kind.startswith("a safetensors"):
                raise file.fail(f"is {kind}")
            raise file.fail(
                f"not a safetensors file, or cut off: it claims a header of {length} bytes, "
                f"the file has {file.size} bytes (at most {MAX_HEADER_BYTES} are accepted)"
            )
        text = file.read(8, length, "the header")
        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise file.fail(f"the header is not valid JSON: {error}") from error
        if not isinstance(header, dict):
            raise file.fail(f"the header is a {type(header).__name__}, expected an object")
        return 8 + length, header

    def _check_header(self, header: dict[str, Any]) -> tuple[dict[str, str], dict[str, StoredTensor]]:
        fail = self._file.fail
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise fail("__metadata__: expected an object of strings")
        places = {name: self._check_entry(name, entry) for name, entry in header.items()}
        tensors, position = {}, 0
        for name, (begin, end, number_format, shape) in sorted(places.items(), key=lambda item: item[1][:2]):
            if begin != position:
                what = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
                raise fail(f"{name}: begins at byte {begin} of the data, {what} (expected {position})")
            position = end
            tensors[name] = StoredTensor(
                self._file, name, number_format, shape, contiguous_strides(shape), self._data_begin + begin
            )
        available = self._file.size - self._data_begin
        if position != available:
            raise fail(
                f"{'cut off' if position > available else 'has bytes that belong to no tensor'}: "
                f"the header describes {position} bytes of data, the file has {available}"
            )
        return metadata, tensors

    def _check_entry(self, name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
        """Return (begin, end, number format, shape)."""
        fail = self._file.fail
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise fail(f"{name}: expected an entry with dtype, shape and data_offsets, got {str(entry)[:80]}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in FORMAT_BYTES:
            raise fail(f"{name}: unknown dtype {str(dtype)[:40]!r}")
        if not isinstance(shape, list) or len(shape) > 32 or not all(map(_is_size, shape)):
            raise fail(f"{name}: shape is {str(shape)[:80]}, expected a list of sizes")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
            raise fail(f"{name}: data_offsets is {str(offsets)[:80]}, expected two positions")
        expected = math.prod(shape) * FORMAT_BYTES[dtype]
        if offsets[1] - offsets[0] != expected:
            raise fail(
                f"{name}: data_offsets {offsets} hold {offsets[1] - offsets[0]} bytes, "
                f"{dtype} of shape {shape} has {expected}"
            )
        return offsets[0], offsets[1], dtype, tuple(shape)

    def read_into(self, name: str, target: npt.NDArray[np.float32]) -> None:
        """Read a tensor as float32 into memory of its shape; errors as `StoredTensor.read_into`.

        Parameters
        ----------
        name : str
        target : ndarray, float32
            C-contiguous and writable; of the tensor's shape.
        """
        self.tensors[name].read_into(target)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as a new float32 array; errors as in `read_into`.

        Parameters
        ----------
        name : str
        """
        return self.tensors[name].read()


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
    path: Path, tensors: Iterable[tuple[str, npt.NDArray[Any]]], metadata: dict[str, str]
) -> int:
    """Write tensors of float32 and int8, replacing an old file at once.

    Parameters
    ----------
    path : Path
    tensors, metadata
        As in `write_safetensors_to`.

    Returns
    -------
    int
        Bytes of tensor data.

    Raises
    ------
    OSError
        If the file cannot be written; an old file is as it was.
    """
    with replacing(path) as file:
        return write_safetensors_to(file, tensors, metadata)


def write_safetensors_to(
    file: BinaryIO, tensors: Iterable[tuple[str, npt.NDArray[Any]]], metadata: dict[str, str]
) -> int:
    """Write tensors of float32 and int8 into an open file.

    Parameters
    ----------
    file : binary file
    tensors : iterable of (str, ndarray)
        Written from where they lie, wider numbers first and then sorted by name, as the library does.
    metadata : dict of str to str

    Returns
    -------
    int
        Bytes of tensor data.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    entries = sorted(tensors, key=lambda item: (item[1].dtype == np.int8, item[0]))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, array in entries:
        header[name] = {
            "dtype": "I8" if array.dtype == np.int8 else "F32",
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for _, array in entries:
        dtype = "i1" if array.dtype == np.int8 else "<f4"
        contiguous = np.ascontiguousarray(array, dtype=dtype).reshape(-1)
        if contiguous.size:
            file.write(contiguous.view(np.uint8).data)
    return position

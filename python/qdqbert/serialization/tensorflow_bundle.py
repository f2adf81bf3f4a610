# SPDX-License-Identifier: Apache-2.0
"""A TensorFlow checkpoint (``model.ckpt.index`` and ``model.ckpt.data-00000-of-00001``), without TensorFlow.

The index is a sorted table from names to messages that say number format, shape, file, place, size and
CRC-32C of each variable; the files of data hold nothing but the numbers.  ``.meta`` is the graph;
it is not needed.

Source: TensorFlow, core/protobuf/tensor_bundle.proto and core/framework/{tensor_shape,types}.proto.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.serialization.crc32c import Crc32c, unmask
from qdqbert.serialization.data_file import DataFile
from qdqbert.serialization.sorted_table import read_table, read_varint
from qdqbert.serialization.stored_tensor import FORMAT_BYTES, StoredTensor, contiguous_strides

__all__ = ["TensorflowBundle"]

_FORMATS = {
    1: "F32",
    2: "F64",
    3: "I32",
    4: "U8",
    5: "I16",
    6: "I8",
    8: "C64",
    9: "I64",
    10: "BOOL",
    14: "BF16",
    17: "U16",
    18: "C128",
    19: "F16",
    22: "U32",
    23: "U64",
}
_LITTLE_ENDIAN = 0
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MAX_DIMENSIONS = 32
_MAX_SIZE = 1 << 48
_MAX_SHARDS = 1000
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    begin: int
    size: int
    crc: int


class TensorflowBundle:
    """A TensorFlow checkpoint, open for reading; a context manager.

    Parameters
    ----------
    prefix : path
        What the names of its files start with, such as ``bert_model.ckpt``.

    Attributes
    ----------
    path : Path
        Of the index.
    tensors : dict of str to StoredTensor
        Variables of numbers, by TensorFlow's names.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged or something else, or an entry does not fit its file.
    UnsupportedError
        If the checkpoint is of TensorFlow 2's objects, has parts of variables, or was written big-endian.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self._prefix = Path(prefix)
        self.path: Path = self._prefix.with_name(self._prefix.name + ".index")
        self._shards: list[DataFile] = []
        self._crcs: dict[str, int] = {}
        try:
            with DataFile(self.path) as index:
                count, entries = _read_index(index)
            # Entries are checked against each other before any file of theirs is opened.
            self._shards = [self._open_shard(number, count) for number in range(count)]
            self.tensors: dict[str, StoredTensor] = self._place(entries)
        except BaseException:
            self.close()
            raise

    def _open_shard(self, number: int, count: int) -> DataFile:
        path = self._prefix.with_name(f"{self._prefix.name}.data-{number:05d}-of-{count:05d}")
        if not path.exists():
            raise CheckpointError(
                f"{self.path}: is the index of a TensorFlow checkpoint whose data are missing: no {path.name}"
            )
        return DataFile(path)

    def _place(self, entries: dict[str, _Entry]) -> dict[str, StoredTensor]:
        tensors, extents = {}, []
        for name, entry in entries.items():
            if entry.shard >= len(self._shards):
                raise self._fail(f"{name} is in file {entry.shard} of {len(self._shards)}")
            file = self._shards[entry.shard]
            if entry.begin + entry.size > file.size:
                raise file.fail(
                    f"cut off: {name} ends at byte {entry.begin + entry.size}, the file has {file.size}"
                )
            extents.append((entry.shard, entry.begin, entry.size, name))
            number_format = _FORMATS.get(entry.dtype)
            if number_format is None:
                continue
            expected = math.prod(entry.shape) * FORMAT_BYTES[number_format]
            if entry.size != expected:
                raise self._fail(
                    f"{name} has {entry.size} bytes, {number_format} of shape {entry.shape} has {expected}"
                )
            tensors[name] = StoredTensor(
                file, name, number_format, entry.shape, contiguous_strides(entry.shape), entry.begin
            )
            self._crcs[name] = entry.crc
        last = (-1, 0)
        for shard, begin, size, name in sorted(extents):
            if shard == last[0] and begin < last[1]:
                raise self._fail(f"{name} lies on top of another variable")
            last = shard, max(begin + size, last[1] if shard == last[0] else 0)
        return tensors

    def verify(self, names: Iterable[str]) -> None:
        """Read variables and compare their checksums.

        Parameters
        ----------
        names : iterable of str
            Of `tensors`.

        Raises
        ------
        CheckpointError
            If a variable is damaged or cannot be read.
        """
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        for name in names:
            tensor, crc = self.tensors[name], Crc32c()
            size = math.prod(tensor.shape) * FORMAT_BYTES[tensor.number_format]
            for begin in range(0, size, _CHUNK_BYTES):
                chunk = buffer[: min(_CHUNK_BYTES, size - begin)]
                tensor.file.read_into(tensor.begin + begin, chunk, name)
                crc.update(chunk)
            if crc.value() != unmask(self._crcs[name]):
                raise tensor.file.fail(f"{name} is damaged: its checksum is wrong")

    def _fail(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {text}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._shards:
            file.close()


def _read_index(index: DataFile) -> tuple[int, dict[str, _Entry]]:
    """Return the number of data files and the entries by name."""
    table = read_table(index)
    try:
        if not table or table[0][0] != b"":
            raise ValueError("it has no header")
        shards, endianness = 1, _LITTLE_ENDIAN
        for field, value in _fields(table[0][1]):
            if field == 1:
                shards = _integer(value)
            elif field == 2:
                endianness = _integer(value)
        if not 1 <= shards <= _MAX_SHARDS:
            raise ValueError(f"it has {shards} files of data, at most {_MAX_SHARDS} are accepted")
        if endianness != _LITTLE_ENDIAN:
            raise UnsupportedError(f"{index.path}: written by a machine that is not little-endian")
        entries = {}
        for key, message in table[1:]:
            name = key.decode("utf-8")
            if name == _OBJECT_GRAPH:
                raise UnsupportedError(
                    f"{index.path}: is a checkpoint of TensorFlow 2's objects; only those of TensorFlow 1, "
                    "with one variable a name, are read"
                )
            entries[name] = _parse_entry(index, name, message)
    except UnicodeDecodeError:
        raise index.fail("a name in the index is not UTF-8") from None
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise index.fail(f"the index is damaged: {error}") from None
    return shards, entries


def _parse_entry(index: DataFile, name: str, message: bytes) -> _Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    for field, value in _fields(message):
        if field in numbers:
            numbers[field] = _integer(value)
        elif field == 2 and isinstance(value, bytes):
            shape = _parse_shape(value)
        elif field == 7:
            raise UnsupportedError(f"{index.path}: {name} is stored in parts (a partitioned variable)")
    if max(numbers[4], numbers[5]) >= _MAX_SIZE:
        raise ValueError(f"{name} lies at byte {numbers[4]} and has {numbers[5]} bytes")
    return _Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], numbers[6])


def _parse_shape(message: bytes) -> tuple[int, ...]:
    sizes = []
    for field, value in _fields(message):
        if field == 2 and isinstance(value, bytes):
            size = 0
            for inner, number in _fields(value):
                if inner == 1:
                    size = _integer(number)
            if size >= _MAX_SIZE:
                raise ValueError(f"a shape with the size {size}")
            sizes.append(size)
        elif field == 3 and value:
            raise ValueError("a shape of unknown rank")
        if len(sizes) > _MAX_DIMENSIONS:
            raise ValueError(f"a shape of more than {_MAX_DIMENSIONS} dimensions")
    return tuple(sizes)


def _integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("a message has bytes where a number should be")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a protocol buffer message."""
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            value: int | bytes
            value, position = read_varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value = int.from_bytes(message[position : position + size], "little")
            position += size
        elif kind == 2:
            size, position = read_varint(message, position)
            value = message[position : position + size]
            position += size
        else:
            raise ValueError(f"a field of kind {kind} in a message")
        if position > len(message):
            raise ValueError("a message is cut off")
        yield tag >> 3, value

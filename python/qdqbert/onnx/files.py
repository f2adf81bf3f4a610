# SPDX-License-Identifier: Apache-2.0
"""Write an ONNX file piece by piece, and its large tensors beside it where they are wanted there.

The file is one protobuf message, ``ModelProto``.  Its nodes are serialized by the ``onnx`` package; around
them the tensors are written one at a time.  A message may have its fields in any order, and a field that
repeats in several places, so a serialized graph with fields ``initializer`` appended is the graph with these
tensors; their lengths are known beforehand from the shapes.  So a file needs memory for its largest tensor,
not for two copies of all.

Protobuf's messages end at 2 GB.  Larger models, and others on request, have their large tensors in a second
file, ``model.onnx.<16 hexadecimal digits>.data``, whose name follows from what is in it.  It is there, whole,
before the model that names it takes its place, and one that a former model left is removed after that; one
writer at a time does so.  Whoever opens ``model.onnx`` finds what belongs to it, whatever stopped the writer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import onnx

from qdqbert.onnx.graph_builder import Initializer
from qdqbert.serialization.atomic import lock, new_file_mode, replacing

__all__ = ["LARGEST_MESSAGE", "message_bytes", "write_model_file"]

LARGEST_MESSAGE = (1 << 31) - 1
"""Bytes that protobuf takes in one message."""

_INLINE = 1024  # bytes of a tensor that is not worth an entry in the other file
_PAGE = 4096  # where tensors begin in the other file, so that a runtime can map them
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # numbers of fields


class _Entry(NamedTuple):
    """A tensor, and what stands before its bytes in the message; they follow if they are not elsewhere."""

    initializer: Initializer
    header: bytes
    is_inline: bool

    @property
    def size(self) -> int:
        return len(self.header) + (self.initializer.nbytes if self.is_inline else 0)


def write_model_file(
    path: Path, model: onnx.ModelProto, initializers: Sequence[Initializer], external_data: bool | str
) -> list[Path]:
    """Write a model, replacing an old file at once.

    Parameters
    ----------
    path : path
        In a folder that exists.
    model : onnx.ModelProto
        Without initializers.
    initializers : sequence of Initializer
    external_data : bool or "auto"
        Whether large tensors go to a second file; ``"auto"``: if one message cannot hold them.

    Returns
    -------
    list of path
        What was written.

    Raises
    ------
    ValueError
        If one message cannot hold them and `external_data` is false, or there are two files and the name of
        the first is not UTF-8.
    OSError
        If a file cannot be written; `path` is as it was.
    """
    with _one_writer(path):
        return _written(path, model, initializers, external_data)


def _written(
    path: Path, model: onnx.ModelProto, initializers: Sequence[Initializer], external_data: bool | str
) -> list[Path]:
    entries = [_inline(each) for each in initializers]
    size = _message_size(model, entries)
    if external_data is False and size > LARGEST_MESSAGE:
        raise ValueError(
            f"external_data: False, but the model has {size:,} bytes and one file holds {LARGEST_MESSAGE:,}"
        )
    if external_data is False or (external_data == "auto" and size <= LARGEST_MESSAGE):
        with replacing(path) as file:
            _write_message(file, model, entries)
        _remove_former(path, None)
        return [path]
    data, entries = _elsewhere(path, model, initializers)
    was_there = data.exists()
    try:
        with replacing(data) as file:
            for entry in entries:
                if not entry.is_inline:
                    file.write(bytes(-file.tell() % _PAGE))
                    file.write(_bytes_of(entry.initializer))
        with replacing(path) as file:
            _write_message(file, model, entries)
    except BaseException:
        if not was_there:
            with contextlib.suppress(FileNotFoundError):
                data.unlink()
        raise
    _remove_former(path, data)
    return [path, data]


def message_bytes(model: onnx.ModelProto, initializers: Sequence[Initializer]) -> bytes:
    """Return what `write_model_file` writes where there is no second file.

    Parameters
    ----------
    model : onnx.ModelProto
        Without initializers.
    initializers : sequence of Initializer
    """
    file = io.BytesIO()
    _write_message(file, model, [_inline(each) for each in initializers])
    return file.getvalue()


# ---- tensors -----------------------------------------------------------------------------------------------


def _inline(initializer: Initializer) -> _Entry:
    header = _tensor(initializer).SerializeToString()
    return _Entry(initializer, header + _field(_RAW_DATA, initializer.nbytes), True)


def _elsewhere(
    path: Path, model: onnx.ModelProto, initializers: Sequence[Initializer]
) -> tuple[Path, list[_Entry]]:
    """Return the name of the second file, and entries of which the large ones lie there."""
    places: dict[str, int] = {}
    end = 0
    for each in initializers:
        if each.nbytes > _INLINE:
            places[each.name] = end + -end % _PAGE
            end = places[each.name] + each.nbytes
    # The properties name weights, ranges and number formats; with the layout they say every byte.
    digest = hashlib.sha256(repr([each[:3] for each in initializers]).encode())
    for prop in model.metadata_props:
        digest.update(f"{prop.key}\0{prop.value}\0".encode())
    data = path.with_name(f"{path.name}.{digest.hexdigest()[:16]}.data")
    try:
        data.name.encode()  # it stands in the model, whose texts are UTF-8
    except UnicodeEncodeError as error:
        raise ValueError(
            f"path: {os.fsencode(path)!r} is not UTF-8, so a second file has no name; use external_data=False"
        ) from error
    entries = []
    for each in initializers:
        if each.name not in places:
            entries.append(_inline(each))
            continue
        tensor = _tensor(each)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        place = {"location": data.name, "offset": places[each.name], "length": each.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        entries.append(_Entry(each, tensor.SerializeToString(), False))
    return data, entries


def _tensor(initializer: Initializer) -> onnx.TensorProto:
    """Return the tensor without its elements."""
    return onnx.TensorProto(
        name=initializer.name,
        dims=initializer.shape,
        data_type=onnx.TensorProto.DataType.Value(initializer.kind),
    )


def _bytes_of(initializer: Initializer) -> memoryview:
    array = np.ascontiguousarray(initializer.make())
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.nbytes != initializer.nbytes:
        raise AssertionError(f"{initializer.name}: {array.nbytes} bytes, announced {initializer.nbytes}")
    return array.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    """Wait until no other export writes to a path: the last to remove would remove what the other wrote.

    The lock is on a file of its own, as a training run has the one of its folder.
    """
    place = path.with_name(f".{path.name}.lock")
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, new_file_mode())
        try:
            lock(descriptor)
            # Whoever had it may have removed the file before the lock was ours; then it locks nothing.
            if not _is_at(descriptor, place):
                continue
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    place.unlink()
            return
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(place))
    except FileNotFoundError:
        return False


def _remove_former(path: Path, kept: Path | None) -> None:
    """Remove second files of models that stood at a path before, and what killed writers have left."""
    name, second = re.escape(path.name), r"\.[0-9a-f]{16}\.data"
    # No other writer is alive: see `_one_writer`.
    pattern = re.compile(rf"{name}{second}|\.{name}({second})?\.[a-z0-9_]{{8}}\.tmp")
    for each in path.parent.iterdir():
        if each != kept and pattern.fullmatch(each.name):
            with contextlib.suppress(FileNotFoundError):
                each.unlink()


# ---- message -----------------------------------------------------------------------------------------------


def _write_message(file: BinaryIO, model: onnx.ModelProto, entries: Sequence[_Entry]) -> None:
    rest, graph, size = _parts(model, entries)
    file.write(rest + _field(_GRAPH, size) + graph)
    for entry in entries:
        file.write(_field(_INITIALIZER, entry.size) + entry.header)
        if entry.is_inline:
            file.write(_bytes_of(entry.initializer))


def _message_size(model: onnx.ModelProto, entries: Sequence[_Entry]) -> int:
    rest, _, size = _parts(model, entries)
    return len(rest) + len(_field(_GRAPH, size)) + size


def _parts(model: onnx.ModelProto, entries: Sequence[_Entry]) -> tuple[bytes, bytes, int]:
    """Return the model without its graph, the graph without its tensors, and its size with them."""
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    graph = model.graph.SerializeToString()
    size = len(graph) + sum(len(_field(_INITIALIZER, entry.size)) + entry.size for entry in entries)
    return rest.SerializeToString(), graph, size


def _field(number: int, size: int) -> bytes:
    """Return what stands before a field of bytes: its number with the wire type 2, and its length."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(value: int) -> bytes:
    """Return an unsigned integer in protobuf's form: 7 bits in a byte, the lowest first."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])

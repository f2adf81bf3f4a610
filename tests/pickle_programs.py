# SPDX-License-Identifier: Apache-2.0
"""Pickles and files of ``torch.save``, put together opcode by opcode: sound ones, and any other.

Neither Python's pickler nor PyTorch is used: what is tested must not depend on what would be written today,
and the hostile programs could not be written at all.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

PROTO = b"\x80\x02"
STOP = b"."
MAGIC = 0x1950A86A20F9469CFC6C
STORAGE_CLASSES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode()
    return b"X" + struct.pack("<L", len(encoded)) + encoded


def number(value: int) -> bytes:
    """The shortest integer opcode of protocol 2."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<l", value)
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)


def name(module: str, qualified: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{qualified}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE of a function with arguments."""
    return function + b"(" + b"".join(arguments) + b"tR"


def sizes(values: Any) -> bytes:
    """A tuple of integers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def ordered(items: Mapping[str, bytes]) -> bytes:
    """An OrderedDict of values that are programs."""
    members = b"".join(text(key) + value for key, value in items.items())
    return call(name("collections", "OrderedDict")) + b"(" + members + b"u"


def storage(
    key: str, count: int, kind: str = "FloatStorage", *, legacy: bool = False, view: bytes = b"N"
) -> bytes:
    """A persistent id of a storage."""
    members = text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count)
    return b"(" + members + (view if legacy else b"") + b"tQ"


def tensor(over: bytes, offset: int, shape: Any, strides: Any, function: str = "_rebuild_tensor_v2") -> bytes:
    """A call that makes a tensor over a storage."""
    arguments = [
        over,
        number(offset),
        sizes(shape),
        sizes(strides),
        b"\x89",
        call(name("collections", "OrderedDict")),
    ]
    return call(name("torch._utils", function), *arguments)


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous array, in elements."""
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def state_program(arrays: Mapping[str, np.ndarray], *, legacy: bool = False) -> bytes:
    """A pickle of contiguous arrays, storage keys 0, 1, ..."""
    items = {}
    for key, (each, array) in enumerate(arrays.items()):
        over = storage(str(key), array.size, STORAGE_CLASSES[str(array.dtype)], legacy=legacy)
        items[each] = tensor(over, 0, array.shape, strides_of(array.shape))
    return PROTO + ordered(items) + STOP


def legacy_file(
    program: bytes, storages: Mapping[str, np.ndarray | bytes], keys: bytes | None = None
) -> bytes:
    """A file as before PyTorch 1.6; a storage that is bytes is taken as it is, with its count."""
    facts = b"}(" + text("protocol_version") + number(1001) + text("little_endian") + b"\x88u"
    if keys is None:
        keys = PROTO + b"](" + b"".join(map(text, storages)) + b"e" + STOP
    parts = [PROTO + number(MAGIC) + STOP, PROTO + number(1001) + STOP, PROTO + facts + STOP, program, keys]
    for values in storages.values():
        is_raw = isinstance(values, bytes)
        parts += (
            [values] if is_raw else [struct.pack("<q", values.size), np.ascontiguousarray(values).tobytes()]
        )
    return b"".join(parts)


class Archive:
    """A ZIP archive whose every field can be set.

    Parameters
    ----------
    members : mapping of str to bytes
        By whole name.
    **changes
        ``entries``: {name: {field: value}} over the fields of directory entries (method, flags, packed, size,
        offset, disk, name, extra); ``locals``: the same for local headers (method, name, signature); ``end``:
        over those of the end record (disk, first_disk, here, count, size, begin, comment, and ``before``,
        bytes that stand before it).
    """

    def __init__(self, members: Mapping[str, bytes], **changes: Any) -> None:
        self.members = dict(members)
        self.changes = changes

    def write(self) -> bytes:
        """Return the bytes of the file."""
        body, entries = b"", b""
        for each, data in self.members.items():
            local = {"signature": b"PK\x03\x04", "method": 0, "name": each, **self._of("locals", each)}
            encoded = local["name"].encode()
            offset = len(body)
            body += struct.pack(
                "<4s5H3L2H",
                local["signature"],
                20,
                0,
                local["method"],
                0,
                0,
                0,
                len(data),
                len(data),
                len(encoded),
                0,
            )
            body += encoded + data
            entry = {
                "method": 0, "flags": 0x800, "packed": len(data), "size": len(data), "offset": offset,
                "disk": 0, "name": each, "extra": b"", **self._of("entries", each),
            }  # fmt: skip
            encoded = entry["name"] if isinstance(entry["name"], bytes) else entry["name"].encode()
            entries += struct.pack(
                "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, entry["flags"], entry["method"], 0, 0, 0,
                entry["packed"], entry["size"], len(encoded), len(entry["extra"]), 0, entry["disk"], 0, 0,
                entry["offset"],
            )  # fmt: skip
            entries += encoded + entry["extra"]
        count = len(self.members)
        end = {
            "disk": 0,
            "first_disk": 0,
            "here": count,
            "count": count,
            "size": len(entries),
            "begin": len(body),
        }
        end |= {"comment": 0, "before": b"", **self.changes.get("end", {})}
        record = struct.pack(
            "<4s4H2LH", b"PK\x05\x06", end["disk"], end["first_disk"], end["here"], end["count"], end["size"],
            end["begin"], end["comment"],
        )  # fmt: skip
        return body + entries + end["before"] + record

    def _of(self, kind: str, member: str) -> dict[str, Any]:
        found: dict[str, Any] = self.changes.get(kind, {}).get(member, {})
        return found


def zip_members(program: bytes, storages: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Members of a file since PyTorch 1.6."""
    return {
        "archive/data.pkl": program,
        "archive/byteorder": b"little",
        **{f"archive/data/{key}": np.ascontiguousarray(values).tobytes() for key, values in storages.items()},
        "archive/version": b"3\n",
    }


def zip_file(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file of contiguous arrays, as since PyTorch 1.6."""
    storages = {str(key): array for key, array in enumerate(arrays.values())}
    return Archive(zip_members(state_program(arrays), storages)).write()


def old_file(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file of contiguous arrays, as before PyTorch 1.6."""
    storages = {str(key): array for key, array in enumerate(arrays.values())}
    return legacy_file(state_program(arrays, legacy=True), storages)

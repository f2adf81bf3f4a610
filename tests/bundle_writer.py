# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as TensorFlow 1 writes them, from the formats' descriptions: sorted table, messages, CRC-32C.

The CRC here is the definition, bit by bit; the one of the package is another derivation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

DTYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9, "bool": 10,
    "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
MAGIC = 0xDB4775248B80FB57


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """CRC-32C as it is stored."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a message: a varint, or bytes with their length."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def fixed32(number: int, value: int) -> bytes:
    """A field of four bytes."""
    return varint(number << 3 | 5) + value.to_bytes(4, "little")


def header(shards: int = 1, endianness: int = 0) -> bytes:
    """BundleHeaderProto."""
    return field(1, shards) + (field(2, endianness) if endianness else b"") + field(3, field(1, 1))


def shape_of(shape: tuple[int, ...]) -> bytes:
    """TensorShapeProto."""
    return b"".join(field(2, field(1, size)) for size in shape)


def entry(dtype: int, shape: tuple[int, ...], offset: int, data: bytes, shard: int = 0) -> bytes:
    """BundleEntryProto; zeros are left out, as the library does."""
    message = field(1, dtype) + field(2, shape_of(shape))
    message += field(3, shard) if shard else b""
    message += field(4, offset) if offset else b""
    return message + field(5, len(data)) + fixed32(6, masked(data))


def block(entries: list[tuple[bytes, bytes]], restart_interval: int = 16) -> bytes:
    """Entries whose keys share what they begin with, and the restarts."""
    out, restarts, last = b"", [], b""
    for index, (key, value) in enumerate(entries):
        shared = 0
        if index % restart_interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + b"".join(r.to_bytes(4, "little") for r in restarts) + len(restarts).to_bytes(4, "little")


def with_trailer(content: bytes, compression: int = 0) -> bytes:
    """A block with its compression and checksum."""
    tail = content + bytes([compression])
    return tail + masked(tail).to_bytes(4, "little")


def table(entries: list[tuple[bytes, bytes]], entries_per_block: int = 10) -> bytes:
    """A whole table, entries in the order given."""
    out, index = b"", []
    for begin in range(0, len(entries), entries_per_block):
        part = entries[begin : begin + entries_per_block]
        content = block(part)
        index.append((part[-1][0], varint(len(out)) + varint(len(content))))
        out += with_trailer(content)
    meta, index_block = block([]), block(index, 1)
    handles = varint(len(out)) + varint(len(meta))
    out += with_trailer(meta)
    handles += varint(len(out)) + varint(len(index_block))
    out += with_trailer(index_block)
    return out + handles.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def write_bundle(prefix: Path, arrays: Mapping[str, np.ndarray], shards: int = 1) -> None:
    """Write arrays in turn into `shards` files of data, and the index."""
    data = [b""] * shards
    entries = [(b"", header(shards))]
    for index, name in enumerate(sorted(arrays)):
        array, shard = arrays[name], index % shards
        content = np.ascontiguousarray(array).tobytes()
        message = entry(DTYPES[str(array.dtype)], array.shape, len(data[shard]), content, shard)
        entries.append((name.encode(), message))
        data[shard] += content
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))

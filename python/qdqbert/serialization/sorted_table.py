# SPDX-License-Identifier: Apache-2.0
"""LevelDB's sorted table, in which TensorFlow keeps the index of a checkpoint.

A table is blocks of entries in the order of their keys, an index block with the last key and the place of
each of them, and a footer of 48 bytes.  An entry says how many bytes of its key are those of the key before
it.  Each block is followed by one byte for its compression and by its masked CRC-32C.

Source: LevelDB, doc/table_format.md; the same format in TensorFlow, lib/io/table*.
"""

from __future__ import annotations

from qdqbert.serialization.crc32c import crc32c, unmask
from qdqbert.serialization.data_file import DataFile

__all__ = ["read_table", "read_varint"]

_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_MAGIC = 0xDB4775248B80FB57
# The index of a BERT has 50 kB.
_MAX_BYTES = 16 << 20
_MAX_KEY_BYTES = 1024
_MAX_ENTRIES = 100_000


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return an unsigned number of seven bits a byte, and the position behind it.

    Parameters
    ----------
    data : bytes
    position : int
        Of the first byte.

    Raises
    ------
    ValueError
        If it does not end, or has more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, position
    raise ValueError("a number of more than 64 bits")


def read_table(file: DataFile) -> list[tuple[bytes, bytes]]:
    """Return the (key, value) pairs of a table in the order of their keys.

    Parameters
    ----------
    file : DataFile

    Raises
    ------
    CheckpointError
        If it is no table, a block is damaged or compressed, or keys are not in order.
    """
    if file.size < _FOOTER_BYTES:
        raise file.refuse_foreign("an index of a TensorFlow checkpoint")
    if file.size > _MAX_BYTES:
        raise file.fail(f"an index of {file.size} bytes; at most {_MAX_BYTES} are accepted")
    data = file.read(0, file.size, "the index")
    footer = data[-_FOOTER_BYTES:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise file.refuse_foreign("an index of a TensorFlow checkpoint, or it is cut off")
    entries: list[tuple[bytes, bytes]] = []
    try:
        _, position = _read_handle(footer, 0)
        handle, _ = _read_handle(footer, position)
        for _, value in _read_block(data, *handle):
            (begin, size), end = _read_handle(value, 0)
            if end != len(value):
                raise ValueError("a place in the index block has bytes behind it")
            for key, entry in _read_block(data, begin, size):
                if entries and key <= entries[-1][0]:
                    raise ValueError(f"the key {key[:60]!r} is not in order")
                entries.append((key, entry))
            if len(entries) > _MAX_ENTRIES:
                raise ValueError(f"more than {_MAX_ENTRIES} entries")
    except ValueError as error:
        raise file.fail(f"the table is damaged: {error}") from None
    return entries


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    begin, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (begin, size), position


def _read_block(data: bytes, begin: int, size: int) -> list[tuple[bytes, bytes]]:
    end = begin + size
    if end + _TRAILER_BYTES > len(data) - _FOOTER_BYTES:
        raise ValueError(f"a block from byte {begin} on that ends at {end}, of {len(data)}")
    compression = data[end]
    if compression:
        name = "snappy" if compression == 1 else f"method {compression}"
        raise ValueError(f"a block is compressed ({name}); TensorFlow writes its checkpoints without")
    stored = int.from_bytes(data[end + 1 : end + _TRAILER_BYTES], "little")
    if unmask(stored) != crc32c(data[begin : end + 1]):
        raise ValueError(f"the checksum of the block at byte {begin} is wrong")
    block = data[begin:end]
    restarts = int.from_bytes(block[-4:], "little")
    limit = size - 4 - 4 * restarts
    if size < 4 or limit < 0:
        raise ValueError(f"the block at byte {begin} has {restarts} restarts and {size} bytes")
    entries: list[tuple[bytes, bytes]] = []
    position, key = 0, b""
    while position < limit:
        shared, position = read_varint(block, position)
        added, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or shared + added > _MAX_KEY_BYTES or position + added + length > limit:
            raise ValueError(f"an entry of the block at byte {begin} does not lie in it")
        key = key[:shared] + block[position : position + added]
        position += added
        entries.append((key, block[position : position + length]))
        position += length
        if len(entries) > _MAX_ENTRIES:
            raise ValueError(f"more than {_MAX_ENTRIES} entries")
    return entries

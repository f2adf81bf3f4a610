# SPDX-License-Identifier: Apache-2.0
"""Where the members of a ZIP archive without compression lie, whatever the archive says about itself.

``torch.save`` stores each tensor as a member as it is, so a member is a place in the file.  Python's
``zipfile`` believes more than is needed here (it takes archives with anything before or behind them, names
that stand twice, members on top of each other, and makes an object of half a kilobyte for each entry of a
directory of any size).  Checksums are not computed: ``torch.load`` does not either, and ``torch.save`` may
leave them out.

Source: PKWARE, "APPNOTE.TXT - .ZIP File Format Specification", 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct

from qdqbert.serialization.data_file import DataFile

__all__ = ["Member", "stored_members"]

# (first byte, bytes)
Member = tuple[int, int]

_MAX_DIRECTORY_BYTES = 16 << 20
_MAX_MEMBERS = 100_000
_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_END = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL = 0xFFFFFFFF
# Sizes follow the data; names are UTF-8.
_ALLOWED_FLAGS = 0x0808


def stored_members(file: DataFile) -> dict[str, Member]:
    """Return the place of every member by name.

    Parameters
    ----------
    file : DataFile
        That starts as an archive does.

    Raises
    ------
    CheckpointError
        If the directory is missing or damaged, a member is compressed or encrypted, stands twice, lies on top
        of another one, or does not lie in the file.
    """
    directory, begin, count = _directory(file)
    members: dict[str, Member] = {}
    extents: list[tuple[int, int, str]] = []
    position = 0
    for _ in range(count):
        name, header, size, position = _entry(file, directory, position)
        if name in members:
            raise file.fail(f"{name!a} is in the archive twice")
        first = _data_begin(file, header, name)
        members[name] = first, size
        extents.append((header, first + size, name))
    if position != len(directory):
        raise file.fail(
            f"the archive's directory has {len(directory) - position} bytes more than its entries"
        )
    end = 0
    for header, behind, name in sorted(extents):
        if header < end:
            raise file.fail(f"{name!a} lies on top of another member of the archive")
        end = behind
    if end > begin:
        raise file.fail("the last member of the archive reaches into its directory, or is cut off")
    return members


def _directory(file: DataFile) -> tuple[bytes, int, int]:
    """Return the central directory, its first byte, and the number of its entries."""
    place = file.size - _END.size
    if place < 0 or file.read(place, 4, "the end of the archive") != b"PK\x05\x06":
        raise file.fail(
            "is a ZIP archive without its directory at the end: cut off (an incomplete download or copy), or "
            "something was appended"
        )
    end = _END.unpack(file.read(place, _END.size, "the end of the archive"))
    _, disk, first_disk, here, count, size, begin, comment = end
    if comment:
        raise file.fail("the archive ends in a comment, which torch.save never writes")
    if count == 0xFFFF or _FULL in (size, begin):
        place -= _ZIP64_LOCATOR.size
        locator = _ZIP64_LOCATOR.unpack(file.read(max(place, 0), _ZIP64_LOCATOR.size, "the archive's end"))
        if place < 0 or locator[0] != b"PK\x06\x07":
            raise file.fail("the archive says that it is large, and has no record of large archives")
        place = locator[2]
        record = _ZIP64_END.unpack(file.read(place, _ZIP64_END.size, "the archive's end"))
        if record[0] != b"PK\x06\x06":
            raise file.fail("the archive's record of large archives is damaged")
        disk, first_disk, here, count, size, begin = record[4:]
    if disk or first_disk or here != count:
        raise file.fail("the archive is a part of several")
    if size > _MAX_DIRECTORY_BYTES or count > _MAX_MEMBERS:
        raise file.fail(f"the archive has a directory of {count} members, {size} bytes: too many")
    if begin + size > place:
        raise file.fail("the archive's directory does not lie before its end")
    return file.read(begin, size, "the archive's directory"), begin, count


def _entry(file: DataFile, directory: bytes, position: int) -> tuple[str, int, int, int]:
    """Return (name, first byte of the local header, bytes of data, position of the next entry)."""
    begin = position + _ENTRY.size
    if begin > len(directory) or directory[position : position + 4] != b"PK\x01\x02":
        raise file.fail("the archive's directory is damaged or cut off")
    fields = _ENTRY.unpack_from(directory, position)
    flags, method = fields[3:5]
    packed, size, name_bytes, extra_bytes, comment_bytes, disk = fields[8:14]
    header = fields[16]
    end = begin + name_bytes + extra_bytes + comment_bytes
    if end > len(directory):
        raise file.fail("the archive's directory is cut off")
    try:
        name = directory[begin : begin + name_bytes].decode("utf-8")
    except UnicodeDecodeError:
        raise file.fail("a name in the archive is not UTF-8") from None
    if method:
        raise file.fail(f"{name!a} is compressed (method {method}); torch.save stores tensors as they are")
    if flags & ~_ALLOWED_FLAGS:
        raise file.fail(f"{name!a} has the flags 0x{flags:04x}: encrypted, or not by torch.save")
    extra = directory[begin + name_bytes : begin + name_bytes + extra_bytes]
    size, packed, header = _large_values(file, extra, (size, packed, header))
    if size != packed or disk:
        raise file.fail(f"{name!a} is stored in {packed} bytes and has {size}")
    return name, header, size, end


def _large_values(file: DataFile, extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int]:
    """Replace values that say "too large" by those of the extra field of large archives."""
    if _FULL not in values:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1 and position + length <= len(extra):
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, position))
            size, packed, header = (next(numbers, _FULL) if v == _FULL else v for v in values)
            return size, packed, header
        position += length
    raise file.fail("a member of the archive says that it is large, and not how large")


def _data_begin(file: DataFile, header: int, name: str) -> int:
    encoded = name.encode("utf-8")
    local = file.read(header, _LOCAL.size + len(encoded), f"the archive's member {name!a}")
    fields = _LOCAL.unpack_from(local)
    if fields[0] != b"PK\x03\x04" or fields[9] != len(encoded) or local[_LOCAL.size :] != encoded:
        raise file.fail(f"{name!a} is not where the archive's directory says")
    if fields[3]:
        raise file.fail(f"{name!a} is compressed; torch.save stores tensors as they are")
    return int(header + _LOCAL.size + len(encoded) + fields[10])

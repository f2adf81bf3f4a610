# SPDX-License-Identifier: Apache-2.0
"""Files of weights that lie, written by hand: every field of every container says once what it must not.

Each case is a folder's files beside a sound ``config.json``, and what the refusal has to say.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile_pickles import GOOD, PROGRAMS, VALUES

from pickle_programs import (
    MAGIC,
    PROTO,
    STOP,
    Archive,
    legacy_file,
    number,
    old_file,
    ordered,
    storage,
    tensor,
    text,
    zip_file,
    zip_members,
)

Files = dict[str, bytes]
Case = tuple[Files, str]

BIN = "pytorch_model.bin"
OLD_GOOD = tensor(storage("0", 6, legacy=True), 0, (2, 3), (3, 1))
MEMBERS = zip_members(PROTO + ordered({"x": GOOD}) + STOP, {"0": VALUES})
PICKLE = "archive/data.pkl"
DATA = "archive/data/0"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 437955512\n"


def zipped(program: bytes, **changes: Any) -> bytes:
    return Archive({**MEMBERS, PICKLE: PROTO + program + STOP}, **changes).write()


def archive(members: dict[str, bytes] | None = None, **changes: Any) -> bytes:
    return Archive(MEMBERS if members is None else members, **changes).write()


def old(program: bytes, storages: Any = None, keys: bytes | None = None) -> bytes:
    return legacy_file(PROTO + program + STOP, {"0": VALUES} if storages is None else storages, keys)


def old_parts(index: int, program: bytes) -> bytes:
    """An old file whose pickle of that number is another."""
    facts = b"}(" + text("little_endian") + b"\x88u"
    keys = b"](" + text("0") + b"e"
    parts = [number(MAGIC), number(1001), facts, ordered({"x": OLD_GOOD}), keys]
    parts[index] = program
    tail = struct.pack("<q", 6) + VALUES.tobytes()
    return b"".join(PROTO + part + STOP for part in parts) + tail


ZIPS: dict[str, tuple[bytes, str]] = {
    "a storage that is not there": (
        zipped(ordered({"x": tensor(storage("7", 6), 0, (6,), (1,))})),
        "not in the arch",
    ),
    "a storage by a path": (
        zipped(ordered({"x": tensor(storage("../data.pkl", 6), 0, (6,), (1,))})),
        "not in the archive",
    ),
    "a storage too small": (
        zipped(ordered({"x": tensor(storage("0", 5), 0, (5,), (1,))})),
        "should have 20 bytes",
    ),
    "a storage too large": (
        zipped(ordered({"x": tensor(storage("0", 7), 0, (7,), (1,))})),
        "should have 28 bytes",
    ),
    "a storage of another format": (
        zipped(ordered({"x": tensor(storage("0", 6, "DoubleStorage"), 0, (6,), (1,))})),
        "should have 48 bytes",
    ),
    "five members of a storage": (
        zipped(ordered({"x": tensor(storage("0", 6, legacy=True), 0, (6,), (1,))})),
        "described by 5 values",
    ),
    "bytes behind the pickle": (
        archive({**MEMBERS, PICKLE: MEMBERS[PICKLE] + b"x"}),
        "1 bytes behind the end",
    ),
    "an empty pickle": (archive({**MEMBERS, PICKLE: b""}), "no end"),
    "a pickle without end": (archive({**MEMBERS, PICKLE: MEMBERS[PICKLE][:-1]}), "no end"),
    "a pickle of 17 MB": (archive({**MEMBERS, PICKLE: bytes(17 << 20)}), "at most 16777216 are accepted"),
    "no pickle": (archive({k: v for k, v in MEMBERS.items() if k != PICKLE}), r"without data\.pkl"),
    "a TorchScript archive": (archive({**MEMBERS, "archive/constants.pkl": b""}), "TorchScript"),
    "a TorchScript archive without weights": (
        archive({"a/constants.pkl": b"", "a/code/x.py": b""}),
        "TorchScript",
    ),
    "a NumPy archive": (archive({"x.npy": b"", "y.npy": b""}), "not what torch.save writes"),
    "two folders": (archive({**MEMBERS, "other/x": b""}), "not what torch.save writes"),
    "no members": (archive({}), "an empty ZIP archive"),
    "big endian": (archive({**MEMBERS, "archive/byteorder": b"big"}), "byteorder is b'big'"),
    "an unknown byte order": (archive({**MEMBERS, "archive/byteorder": b"\xff" * 999}), "byteorder"),
    "a compressed member": (archive(entries={DATA: {"method": 8}}), "compressed"),
    "a compressed pickle": (archive(entries={PICKLE: {"method": 12}}), "compressed"),
    "a member compressed in its own header": (archive(locals={DATA: {"method": 8}}), "compressed"),
    "an encrypted member": (archive(entries={DATA: {"flags": 1}}), "encrypted"),
    "a member of strong encryption": (archive(entries={DATA: {"flags": 0x41}}), "encrypted"),
    "sizes that differ": (archive(entries={DATA: {"size": 23}}), "stored in 24 bytes and has 23"),
    "a size beyond the file": (
        archive(entries={DATA: {"size": 2**31, "packed": 2**31}}),
        "reaches into|lies on",
    ),
    "a size that reaches into the next member": (
        archive(entries={DATA: {"size": 30, "packed": 30}}),
        "on top of another",
    ),
    "a place beyond the file": (
        archive(entries={DATA: {"offset": 2**31}}),
        "cut off inside the archive's member",
    ),
    "a place that is another member's": (archive(entries={DATA: {"offset": 0}}), "is not where"),
    "a place in the middle": (archive(entries={DATA: {"offset": 3}}), "is not where"),
    "a member on another disk": (archive(entries={DATA: {"disk": 1}}), "stored in"),
    "a name that stands twice": (
        archive(entries={DATA: {"name": PICKLE}}),
        "in the archive twice|is not where",
    ),
    "another name in the header": (archive(locals={DATA: {"name": "archive/data/1"}}), "is not where"),
    "a name that is no UTF-8": (archive(entries={DATA: {"name": b"archive/\xff\xfe"}}), "not UTF-8"),
    "another signature of a member": (archive(locals={DATA: {"signature": b"PK\x03\x05"}}), "is not where"),
    "a large member without its size": (archive(entries={DATA: {"size": 2**32 - 1}}), "not how large"),
    "a large member with half its size": (
        archive(entries={DATA: {"size": 2**32 - 1, "extra": struct.pack("<2HL", 1, 4, 24)}}),
        "stored in 24 bytes",
    ),
    "an extra field that is cut off": (
        archive(entries={DATA: {"size": 2**32 - 1, "extra": struct.pack("<2H", 1, 24)}}),
        "not how large",
    ),
    "a large member of 16 exabytes": (
        archive(
            entries={
                DATA: {
                    "size": 2**32 - 1,
                    "packed": 2**32 - 1,
                    "extra": struct.pack("<2H2Q", 1, 16, 2**64 - 1, 2**64 - 1),
                }
            }
        ),
        "reaches into|lies on",
    ),
    "a comment": (archive(end={"comment": 5}), "ends in a comment"),
    "a part of several": (archive(end={"disk": 1}), "a part of several"),
    "another disk's directory": (archive(end={"first_disk": 1}), "a part of several"),
    "entries that differ": (archive(end={"here": 1}), "a part of several"),
    "too many entries": (archive(end={"here": 9, "count": 9}), "damaged or cut off"),
    "too few entries": (archive(end={"here": 1, "count": 1}), "bytes more than its entries"),
    "no entries": (archive(end={"here": 0, "count": 0}), "bytes more than its entries"),
    "a directory beyond the file": (archive(end={"begin": 2**31}), "does not lie before its end"),
    "a directory that is too long": (archive(end={"size": 2**31}), "too many"),
    "a directory somewhere else": (archive(end={"begin": 0}), "damaged or cut off"),
    "a large archive without its record": (archive(end={"here": 0xFFFF, "count": 0xFFFF}), "no record"),
    "a large archive with a false record": (
        archive(end={"begin": 2**32 - 1, "before": struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)}),
        "is damaged",
    ),
    "a large archive whose record is nowhere": (
        archive(end={"begin": 2**32 - 1, "before": struct.pack("<4sLQL", b"PK\x06\x07", 0, 2**63, 1)}),
        "cut off",
    ),
    "something behind": (archive() + b"x", "without its directory at the end"),
    "something before": (b"#!/bin/sh\n" + archive(), "is not a file of torch.save"),
    "cut off in the directory": (archive()[:-30], "without its directory at the end"),
    "cut off in the middle": (archive()[:200], "without its directory at the end"),
    "the first four bytes": (b"PK\x03\x04", "without its directory at the end"),
    "an end without a beginning": (b"PK\x03\x04" + archive({})[-22:], "no file|not what|is a ZIP archive"),
}

OLDS: dict[str, tuple[bytes, str]] = {
    "another magic number": (old_parts(0, number(MAGIC + 1)), "torch.save did not write"),
    "no magic number": (old_parts(0, b"N"), "torch.save did not write"),
    "another protocol": (old_parts(1, number(1000)), "a protocol that is not known: 1000"),
    "a protocol that is a list": (old_parts(1, b"]"), "a protocol that is not known"),
    "big endian": (old_parts(2, b"}(" + text("little_endian") + b"\x89u"), "not little-endian"),
    "no byte order": (old_parts(2, b"}"), "not little-endian"),
    "facts that are a list": (old_parts(2, b"]"), "not little-endian"),
    "keys that are a dictionary": (old_parts(4, b"}"), "no list of storages"),
    "keys that are numbers": (old_parts(4, b"](" + number(0) + b"e"), "no list of storages"),
    "keys twice": (old_parts(4, b"](" + text("0") + text("0") + b"e"), "2 storages follow"),
    "keys that are missing": (old_parts(4, b"]"), "0 storages follow, the pickle describes 1"),
    "keys that are others": (old_parts(4, b"](" + text("1") + b"e"), "or others"),
    "four members of a storage": (
        old(ordered({"x": tensor(storage("0", 6)[:-2] + b"NNtQ", 0, (6,), (1,))})),
        "6 val",
    ),
    "a storage in two ways": (
        old(ordered({"x": OLD_GOOD, "y": tensor(storage("0", 5, legacy=True), 0, (5,), (1,))})),
        "in two ways",
    ),
    "a view that is a string": (
        old(ordered({"x": tensor(storage("0", 6, legacy=True, view=text("v")), 0, (6,), (1,))})),
        "three values",
    ),
    "a view of two values": (
        old(
            ordered(
                {"x": tensor(storage("0", 6, legacy=True, view=b"(" + text("v") + b"K\0t"), 0, (6,), (1,))}
            )
        ),
        "three values",
    ),
    "a view beyond its storage": (
        old(
            ordered(
                {
                    "x": tensor(
                        storage("0", 6, legacy=True, view=b"(" + text("v") + number(4) + number(3) + b"t"),
                        0,
                        (3,),
                        (1,),
                    )
                }
            )
        ),
        "reaches to 7 of a storage of 6",
    ),
    "a view from before its storage": (
        old(
            ordered(
                {
                    "x": tensor(
                        storage("0", 6, legacy=True, view=b"(" + text("v") + number(-1) + number(3) + b"t"),
                        0,
                        (3,),
                        (1,),
                    )
                }
            )
        ),
        "without an offset and a size",
    ),
    "a tensor beyond its view": (
        old(
            ordered(
                {
                    "x": tensor(
                        storage("0", 6, legacy=True, view=b"(" + text("v") + number(1) + number(3) + b"t"),
                        0,
                        (4,),
                        (1,),
                    )
                }
            )
        ),
        "reaches to element 3 of a storage of 3",
    ),
    "a count that differs": (
        old(ordered({"x": OLD_GOOD}), {"0": struct.pack("<q", 5) + VALUES.tobytes()}),
        "has 5 numbers",
    ),
    "a negative count": (
        old(ordered({"x": OLD_GOOD}), {"0": struct.pack("<q", -6) + VALUES.tobytes()}),
        "has 18446744073709551610",
    ),
    "a storage that is cut off": (
        old(ordered({"x": OLD_GOOD}), {"0": struct.pack("<q", 6) + VALUES.tobytes()[:-1]}),
        "cut off inside storage",
    ),
    "a count that is cut off": (old(ordered({"x": OLD_GOOD}), {"0": b"\6\0\0"}), "cut off inside storage"),
    "no storages": (old(ordered({"x": OLD_GOOD}), {"0": b""}), "cut off inside storage"),
    "something behind": (old(ordered({"x": OLD_GOOD})) + b"x", "1 bytes that belong to no storage"),
    "a storage of 2**47 numbers": (
        old(
            ordered({"x": tensor(storage("0", 2**47, legacy=True), 0, (6,), (1,))}),
            {"0": struct.pack("<q", 2**47) + VALUES.tobytes()},
        ),
        "cut off inside storage",
    ),
    "a pickle alone": (PROTO + b"}" + STOP, "torch.save did not write"),
    "cut off in the magic number": (PROTO + number(MAGIC)[:5], "cut off"),
    "cut off after the magic number": (PROTO + number(MAGIC) + STOP, "no end"),
    "protocol 1": (b"\x80\x01" + number(1) + STOP, "pickle protocol 1"),
}

SINGLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "one byte": (b"P", "is not a file of torch.save"),
    "a Git-LFS pointer": (LFS, "Git-LFS pointer"),
    "a web page": (b"<!DOCTYPE html><html>not found</html>", "a web page"),
    "an error in JSON": (b'{"error": "Repository not found"}', "JSON text"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "a gzip file": (b"\x1f\x8b" + bytes(99), "gzip"),
    "a tar archive": (bytes(257) + b"ustar\x0000" + bytes(250), "before version 0.4"),
    "zeros": (bytes(5000), "filled with zeros"),
    "a safetensors file": (bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}", "a safetensors file"),
    "text": (b"hello world", "is not a file of torch.save"),
}

INDEXES: dict[str, tuple[Any, str]] = {
    "a list": ([], "expected a JSON object"),
    "no map": ({}, "weight_map"),
    "an empty map": ({"weight_map": {}}, "weight_map"),
    "a map that is a list": ({"weight_map": ["x"]}, "weight_map"),
    "a shard that is a number": ({"weight_map": {"x": 5}}, "in the same folder"),
    "a shard that is nothing": ({"weight_map": {"x": ""}}, "in the same folder"),
    "a shard above": ({"weight_map": {"x": "../pytorch_model.bin"}}, "in the same folder"),
    "a shard below": ({"weight_map": {"x": "sub/pytorch_model.bin"}}, "in the same folder"),
    "an absolute shard": ({"weight_map": {"x": "/etc/passwd"}}, "in the same folder"),
    "the folder itself": ({"weight_map": {"x": "."}}, "in the same folder"),
    "the folder above": ({"weight_map": {"x": ".."}}, "in the same folder"),
    "a shard with a zero": ({"weight_map": {"x": "a\0b"}}, "cannot be read|in the same folder|no "),
    "a shard that is missing": ({"weight_map": {"x": "gone.bin"}}, r"no gone\.bin"),
    "a shard that is the index": ({"weight_map": {"x": "pytorch_model.bin.index.json"}}, "JSON text"),
    "a shard that is the configuration": ({"weight_map": {"x": "config.json"}}, "JSON text"),
    "a name of 5000 letters": ({"weight_map": {"x": "a" * 5000}}, "in the same folder"),
    "too deep": (json.loads("[" * 90 + "]" * 90), "expected a JSON object"),
    "deep in the map": ({"weight_map": json.loads('{"a":' * 90 + "1" + "}" * 90)}, "nested deeper"),
}


def cases() -> dict[str, Case]:
    """Every case by a name that says what is wrong."""
    made: dict[str, Case] = {}
    for each, (program, message) in PROGRAMS.items():
        made[f"zip, {each}"] = {BIN: zipped(program)}, message
        if "members" not in each and "persistent id of one" not in each:
            made[f"old, {each}"] = {BIN: old(program)}, message + "|described|storages follow"
    groups: dict[str, dict[str, tuple[bytes, str]]] = {"zip": ZIPS, "old": OLDS, "file": SINGLE}
    for group, members in groups.items():
        made |= {
            f"{group}: {each}": ({BIN: content}, message) for each, (content, message) in members.items()
        }
    for each, (value, message) in INDEXES.items():
        made[f"index, {each}"] = {f"{BIN}.index.json": json.dumps(value).encode()}, message
    return made


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes: overwrite, insert, remove, repeat, cut off."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(len(data) + 1))
        length = int(rng.integers(1, 9))
        match int(rng.integers(7)):
            case 0:
                data[place : place + 1] = bytes([int(rng.integers(256))])
            case 1:
                data[place:place] = rng.bytes(length)
            case 2:
                del data[place : place + length]
            case 3:
                source = int(rng.integers(len(data) + 1))
                data[place:place] = data[source : source + 4 * length]
            case 4:
                data[place : place + length] = rng.choice(INTERESTING)[: max(0, len(data) - place)]
            case 5 if rng.integers(8) == 0:
                del data[place:]
            case _:
                if place < len(data):
                    data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


INTERESTING = np.array(
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\x7f",
        b"\x00\x00\x00\x80",
        b"\xff" * 8,
        b"(",
        b"t",
        b"R",
        b"Q",
        b"u",
        b"s",
        b"b",
        b".",
        b"}",
        b"]",
        b")",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x93",
        b"q\x00",
        b"h\x00",
        b"j\x00\x00\x00\x00",
        b"K\xff",
        b"M\xff\xff",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 8,
        b"cos\nsystem\n",
        b"PK\x01\x02",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"PK\x06\x06",
        b"PK\x06\x07",
        b"X\xff\xff\xff\xff",
    ],
    dtype=object,
)


def sound_files(arrays: dict[str, np.ndarray]) -> dict[str, Callable[[], bytes]]:
    """Writers of files that load."""
    return {"zip": lambda: zip_file(arrays), "old": lambda: old_file(arrays)}

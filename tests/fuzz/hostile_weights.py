# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501
"""Files of weights that lie, written by hand: every field of every container says once what it must not.

Each case is a folder's files beside a sound ``config.json``, and what the refusal has to say.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from pickle_programs import (
    MAGIC,
    PROTO,
    STOP,
    Archive,
    call,
    legacy_file,
    name,
    number,
    old_file,
    ordered,
    sizes,
    storage,
    tensor,
    text,
    zip_file,
    zip_members,
)

Files = dict[str, bytes]
Case = tuple[Files, str]

BIN = "pytorch_model.bin"
VALUES = np.arange(6, dtype=np.float32)
GOOD = tensor(storage("0", 6), 0, (2, 3), (3, 1))
OLD_GOOD = tensor(storage("0", 6, legacy=True), 0, (2, 3), (3, 1))
MEMBERS = zip_members(PROTO + ordered({"x": GOOD}) + STOP, {"0": VALUES})
PICKLE = "archive/data.pkl"
DATA = "archive/data/0"
DICT = call(name("collections", "OrderedDict"))
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


def identity(*members: bytes) -> bytes:
    return b"(" + b"".join(members) + b"tQ"


def rebuilt(function: str, *arguments: bytes) -> bytes:
    return call(name("torch._utils", function), *arguments)


# ---- what both containers' pickles may hold ---------------------------------------------------------------

OVER = storage("0", 6)
FLAGS = (b"\x89", DICT)
PROGRAMS: dict[str, tuple[bytes, str]] = {
    "a call of os.system": (call(name("os", "system"), text("true")), r"names os\.system"),
    "a call of builtins.eval": (call(name("builtins", "eval"), text("1")), r"names builtins\.eval"),
    "a call of subprocess.Popen": (call(name("subprocess", "Popen"), text("x")), r"names subprocess\.Popen"),
    "a class of transformers": (name("transformers.models.bert.modeling_bert", "BertModel"), "names transformers"),
    "argparse.Namespace": (ordered({"x": GOOD, "args": name("argparse", "Namespace")}), r"argparse\.Namespace"),
    "a NumPy array": (ordered({"x": name("numpy.core.multiarray", "_reconstruct")}), r"numpy\.core\.multiarray"),
    "a function of torch": (name("torch", "load"), r"names torch\.load"),
    "torch.hub": (call(name("torch.hub", "load"), text("x")), r"names torch\.hub\.load"),
    "a JIT module": (name("torch.jit", "_pickle.restore_type_tag"), r"names torch\.jit\._pickle"),
    "a bypass by setattr": (call(name("torch._utils", "_rebuild_tensor_v2.__globals__"), b"N"), "names torch"),
    "a quantized tensor": (name("torch._utils", "_rebuild_qtensor"), "_rebuild_qtensor"),
    "a nested tensor": (name("torch._utils", "_rebuild_nested_tensor"), "_rebuild_nested_tensor"),
    "a meta tensor": (name("torch._utils", "_rebuild_meta_tensor_no_storage"), "_rebuild_meta_tensor"),
    "a wrapper subclass": (name("torch._utils", "_rebuild_wrapper_subclass"), "_rebuild_wrapper_subclass"),
    "a tensor with a type": (name("torch._tensor", "_rebuild_from_type_v2"), "_rebuild_from_type_v2"),
    "a name with a newline's worth": (b"cos\rsystem\nx\n", "names os"),
    "a name that is not ASCII": ("cös\nsystem\n".encode(), "names"),
    "a name of nothing": (b"c\n\n", r"names \."),
    "a number": (number(3), "holds a int"),
    "a list": (b"]", "holds a list"),
    "None": (b"N", "holds a NoneType"),
    "a tuple": (b")", "holds a tuple"),
    "a string": (text("x"), "holds a str"),
    "a tensor alone": (GOOD, "holds a single tensor"),
    "an empty dictionary": (b"}", "its keys are none"),
    "a dictionary of numbers": (ordered({"a": number(1)}), "its keys are 'a'"),
    "a tensor under a number": (b"}" + number(5) + GOOD + b"s", "a tensor under 5"),
    "a dictionary deeper": (ordered({"a": ordered({"x": GOOD})}), "none of them is a known name"),
    "two state dicts": (ordered({"model": ordered({"x": GOOD}), "net": ordered({"x": GOOD})}), "model and net"),
    "a dictionary of itself": (b"}q\0" + text("model") + b"h\0s", "its keys are 'model'"),
    "a call of a string": (text("torch") + b")R", "a call of what is no function"),
    "a call of a tensor": (GOOD + b")R", "a call of what is no function"),
    "a call of a call": (DICT + b")R", "a call of what is no function"),
    "a call with a list": (name("collections", "OrderedDict") + b"]R", "a call of what is no function"),
    "a dictionary of one argument": (call(name("collections", "OrderedDict"), number(1)), "cannot take"),
    "a dictionary of a tuple": (call(name("collections", "OrderedDict"), b")"), "cannot take"),
    "a dictionary of what are no pairs": (call(name("collections", "OrderedDict"), b"](Ne"), "no pairs"),
    "a dictionary of pairs of lists": (
        call(name("collections", "OrderedDict"), b"](](]Nee"), "no pairs"
    ),
    "a size of nothing": (call(name("torch", "Size")), "cannot take"),
    "a dtype that is called": (call(name("torch", "float32")), "cannot take"),
    "a storage class that is called": (call(name("torch", "FloatStorage"), number(3)), "cannot take"),
    "a parameter of nothing": (rebuilt("_rebuild_parameter", b"N", b"\x88", DICT), "cannot take"),
    "a parameter of a storage": (rebuilt("_rebuild_parameter", OVER, b"\x88", DICT), "cannot take"),
    "a tensor of two arguments": (rebuilt("_rebuild_tensor_v2", OVER, number(0)), "cannot take"),
    "a tensor over None": (rebuilt("_rebuild_tensor_v2", b"N", number(0), b")", b")", *FLAGS), "over no storage"),
    "a tensor over a tensor": (
        rebuilt("_rebuild_tensor_v2", GOOD, number(0), b")", b")", *FLAGS), "over no storage but TensorRecord"
    ),
    "a shape that is a list": (
        rebuilt("_rebuild_tensor_v2", OVER, number(0), b"]", b")", *FLAGS), "shape is no tuple of sizes"
    ),
    "a shape of strings": (
        rebuilt("_rebuild_tensor_v2", OVER, number(0), text("a") + b"\x85", b"K\1\x85", *FLAGS), "shape"
    ),
    "a shape of bools": (
        rebuilt("_rebuild_tensor_v2", OVER, number(0), b"\x88\x85", b"K\1\x85", *FLAGS), "shape is no tuple"
    ),
    "a negative size": (tensor(OVER, 0, (-2, 3), (3, 1)), "shape is no tuple of sizes"),
    "a negative stride": (tensor(OVER, 5, (2, 3), (-3, 1)), "strides is no tuple of sizes"),
    "a negative offset": (tensor(OVER, -1, (2, 3), (3, 1)), "offset is -1"),
    "an offset that is None": (
        rebuilt("_rebuild_tensor_v2", OVER, b"N", sizes((2,)), sizes((1,)), *FLAGS), "offset is None"
    ),
    "an offset of 2**200": (tensor(OVER, 2**200, (2, 3), (3, 1)), "offset is"),
    "a size of 2**64": (tensor(OVER, 0, (2**64,), (1,)), "shape is no tuple of sizes"),
    "sizes whose product is huge": (tensor(OVER, 0, (2**40,) * 4, (1,) * 4), "reaches to element"),
    "33 dimensions": (tensor(OVER, 0, (1,) * 33, (1,) * 33), "shape is no tuple of sizes"),
    "strides missing": (tensor(OVER, 0, (2, 3), (3,)), "2 sizes and 1 strides"),
    "a tensor beyond its storage": (tensor(OVER, 1, (2, 3), (3, 1)), "reaches to element 6 of a storage of 6"),
    "a stride beyond its storage": (tensor(OVER, 0, (2, 3), (4, 1)), "reaches to element 6"),
    "elements on top of each other": (tensor(OVER, 0, (2, 3), (2, 1)), "on top of each other"),
    "a scalar beyond its storage": (tensor(OVER, 6, (), ()), "reaches to element 6"),
    "a v3 tensor without a dtype": (
        rebuilt("_rebuild_tensor_v3", OVER, number(0), b")", b")", *FLAGS), "cannot take"
    ),
    "a v3 tensor of a class": (
        rebuilt("_rebuild_tensor_v3", OVER, number(0), b")", b")", *FLAGS, name("torch", "FloatStorage")),
        r"no known dtype but torch\.FloatStorage",
    ),
    "a v3 tensor of a string": (
        rebuilt("_rebuild_tensor_v3", OVER, number(0), b")", b")", *FLAGS, text("torch.float32")), "no known dtype"
    ),
    "a v3 tensor wider than its storage": (
        rebuilt("_rebuild_tensor_v3", OVER, number(0), sizes((6,)), sizes((1,)), *FLAGS, name("torch", "float64")),
        "reaches to element 5 of a storage of 3",
    ),
    "an untyped storage without a dtype": (
        tensor(storage("0", 24, "UntypedStorage"), 0, (6,), (1,)), "untyped bytes without a dtype"
    ),
    "a storage class that is unknown": (tensor(storage("0", 6, "QInt8Storage"), 0, (6,), (1,)), "QInt8Storage"),
    "a storage class that is a dtype": (tensor(storage("0", 6, "float32"), 0, (6,), (1,)), "no known class"),
    "a persistent id that is a string": (text("0") + b"Q", "names no storage"),
    "a persistent id that is empty": (b")Q", "names no storage"),
    "a persistent id of a number": (identity(number(1)), "names no storage"),
    "a persistent id of another kind": (identity(text("thing")), "kind 'thing'"),
    "a persistent id of a module": (identity(text("module"), text("x")), "a whole pickled model"),
    "a persistent id of one member": (identity(text("storage")), "described by 0 values"),
    "a storage without a class": (
        identity(text("storage"), text("x"), text("0"), text("cpu"), number(6)), "no known class but 'x'"
    ),
    "a storage under a number": (
        identity(text("storage"), name("torch", "FloatStorage"), number(0), text("cpu"), number(6)), "the key 0"
    ),
    "a storage of a negative size": (
        identity(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(-6)), "size -6"
    ),
    "a storage of a list's size": (
        identity(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"]"), "size list"
    ),
    "a storage of 2**60 numbers": (
        identity(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(2**60)), "the size"
    ),
    "attributes on a tensor": (GOOD + b"}b", "expects a dictionary"),
    "attributes that are a tuple": (DICT + b")b", "attributes that are no dictionary"),
    "an instance by NEWOBJ": (name("collections", "OrderedDict") + b")\x81", "opcode NEWOBJ"),
    "an instance by INST": (b"(icollections\nOrderedDict\n", "opcode INST"),
    "an instance by OBJ": (b"(" + name("collections", "OrderedDict") + b"o", "opcode OBJ"),
    "an extension": (b"\x82\1", "opcode EXT1"),
    "a persistent id in text": (b"P0\n", "opcode PERSID"),
    "a set": (b"\x8f", "opcode EMPTY_SET"),
    "a byte array": (b"\x96" + bytes(8), "opcode BYTEARRAY8"),
    "an integer of 2 GB": (b"\x8b\xff\xff\xff\x7f", "opcode LONG4"),
    "a number in text": (b"I3\n", "opcode INT"),
    "a duplicate": (b"N2", "opcode DUP"),
    "an unknown opcode": (b"\xfe", "opcode 0xfe"),
}  # fmt: skip

ZIPS: dict[str, tuple[bytes, str]] = {
    "a storage that is not there": (zipped(ordered({"x": tensor(storage("7", 6), 0, (6,), (1,))})), "not in the arch"),
    "a storage by a path": (
        zipped(ordered({"x": tensor(storage("../data.pkl", 6), 0, (6,), (1,))})), "not in the archive"
    ),
    "a storage too small": (zipped(ordered({"x": tensor(storage("0", 5), 0, (5,), (1,))})), "should have 20 bytes"),
    "a storage too large": (zipped(ordered({"x": tensor(storage("0", 7), 0, (7,), (1,))})), "should have 28 bytes"),
    "a storage of another format": (
        zipped(ordered({"x": tensor(storage("0", 6, "DoubleStorage"), 0, (6,), (1,))})), "should have 48 bytes"
    ),
    "five members of a storage": (
        zipped(ordered({"x": tensor(storage("0", 6, legacy=True), 0, (6,), (1,))})), "described by 5 values"
    ),
    "bytes behind the pickle": (archive({**MEMBERS, PICKLE: MEMBERS[PICKLE] + b"x"}), "1 bytes behind the end"),
    "an empty pickle": (archive({**MEMBERS, PICKLE: b""}), "no end"),
    "a pickle without end": (archive({**MEMBERS, PICKLE: MEMBERS[PICKLE][:-1]}), "no end"),
    "a pickle of 17 MB": (archive({**MEMBERS, PICKLE: bytes(17 << 20)}), "at most 16777216 are accepted"),
    "no pickle": (archive({k: v for k, v in MEMBERS.items() if k != PICKLE}), r"without data\.pkl"),
    "a TorchScript archive": (archive({**MEMBERS, "archive/constants.pkl": b""}), "TorchScript"),
    "a TorchScript archive without weights": (archive({"a/constants.pkl": b"", "a/code/x.py": b""}), "TorchScript"),
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
    "a size beyond the file": (archive(entries={DATA: {"size": 2**31, "packed": 2**31}}), "reaches into|lies on"),
    "a size that reaches into the next member": (
        archive(entries={DATA: {"size": 30, "packed": 30}}), "on top of another"
    ),
    "a place beyond the file": (archive(entries={DATA: {"offset": 2**31}}), "cut off inside the archive's member"),
    "a place that is another member's": (archive(entries={DATA: {"offset": 0}}), "is not where"),
    "a place in the middle": (archive(entries={DATA: {"offset": 3}}), "is not where"),
    "a member on another disk": (archive(entries={DATA: {"disk": 1}}), "stored in"),
    "a name that stands twice": (archive(entries={DATA: {"name": PICKLE}}), "in the archive twice|is not where"),
    "another name in the header": (archive(locals={DATA: {"name": "archive/data/1"}}), "is not where"),
    "a name that is no UTF-8": (archive(entries={DATA: {"name": b"archive/\xff\xfe"}}), "not UTF-8"),
    "another signature of a member": (archive(locals={DATA: {"signature": b"PK\x03\x05"}}), "is not where"),
    "a large member without its size": (archive(entries={DATA: {"size": 2**32 - 1}}), "not how large"),
    "a large member with half its size": (
        archive(entries={DATA: {"size": 2**32 - 1, "extra": struct.pack("<2HL", 1, 4, 24)}}), "stored in 24 bytes"
    ),
    "an extra field that is cut off": (
        archive(entries={DATA: {"size": 2**32 - 1, "extra": struct.pack("<2H", 1, 24)}}), "not how large"
    ),
    "a large member of 16 exabytes": (
        archive(entries={DATA: {"size": 2**32 - 1, "packed": 2**32 - 1,
                                "extra": struct.pack("<2H2Q", 1, 16, 2**64 - 1, 2**64 - 1)}}),
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
        archive(end={"begin": 2**32 - 1, "before": struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)}), "is damaged"
    ),
    "a large archive whose record is nowhere": (
        archive(end={"begin": 2**32 - 1, "before": struct.pack("<4sLQL", b"PK\x06\x07", 0, 2**63, 1)}), "cut off"
    ),
    "something behind": (archive() + b"x", "without its directory at the end"),
    "something before": (b"#!/bin/sh\n" + archive(), "is not a file of torch.save"),
    "cut off in the directory": (archive()[:-30], "without its directory at the end"),
    "cut off in the middle": (archive()[:200], "without its directory at the end"),
    "the first four bytes": (b"PK\x03\x04", "without its directory at the end"),
    "an end without a beginning": (b"PK\x03\x04" + archive({})[-22:], "no file|not what|is a ZIP archive"),
}  # fmt: skip

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
    "four members of a storage": (old(ordered({"x": tensor(storage("0", 6)[:-2] + b"NNtQ", 0, (6,), (1,))})), "6 val"),
    "a storage in two ways": (
        old(ordered({"x": OLD_GOOD, "y": tensor(storage("0", 5, legacy=True), 0, (5,), (1,))})), "in two ways"
    ),
    "a view that is a string": (
        old(ordered({"x": tensor(storage("0", 6, legacy=True, view=text("v")), 0, (6,), (1,))})), "three values"
    ),
    "a view of two values": (
        old(ordered({"x": tensor(storage("0", 6, legacy=True, view=b"(" + text("v") + b"K\0t"), 0, (6,), (1,))})),
        "three values",
    ),
    "a view beyond its storage": (
        old(ordered({"x": tensor(
            storage("0", 6, legacy=True, view=b"(" + text("v") + number(4) + number(3) + b"t"), 0, (3,), (1,))})),
        "reaches to 7 of a storage of 6",
    ),
    "a view from before its storage": (
        old(ordered({"x": tensor(
            storage("0", 6, legacy=True, view=b"(" + text("v") + number(-1) + number(3) + b"t"), 0, (3,), (1,))})),
        "without an offset and a size",
    ),
    "a tensor beyond its view": (
        old(ordered({"x": tensor(
            storage("0", 6, legacy=True, view=b"(" + text("v") + number(1) + number(3) + b"t"), 0, (4,), (1,))})),
        "reaches to element 3 of a storage of 3",
    ),
    "a count that differs": (
        old(ordered({"x": OLD_GOOD}), {"0": struct.pack("<q", 5) + VALUES.tobytes()}), "has 5 numbers"
    ),
    "a negative count": (
        old(ordered({"x": OLD_GOOD}), {"0": struct.pack("<q", -6) + VALUES.tobytes()}), "has 18446744073709551610"
    ),
    "a storage that is cut off": (
        old(ordered({"x": OLD_GOOD}), {"0": struct.pack("<q", 6) + VALUES.tobytes()[:-1]}), "cut off inside storage"
    ),
    "a count that is cut off": (old(ordered({"x": OLD_GOOD}), {"0": b"\6\0\0"}), "cut off inside storage"),
    "no storages": (old(ordered({"x": OLD_GOOD}), {"0": b""}), "cut off inside storage"),
    "something behind": (old(ordered({"x": OLD_GOOD})) + b"x", "1 bytes that belong to no storage"),
    "a storage of 2**47 numbers": (
        old(ordered({"x": tensor(storage("0", 2**47, legacy=True), 0, (6,), (1,))}),
            {"0": struct.pack("<q", 2**47) + VALUES.tobytes()}),
        "cut off inside storage",
    ),
    "a pickle alone": (PROTO + b"}" + STOP, "torch.save did not write"),
    "cut off in the magic number": (PROTO + number(MAGIC)[:5], "cut off"),
    "cut off after the magic number": (PROTO + number(MAGIC) + STOP, "no end"),
    "protocol 1": (b"\x80\x01" + number(1) + STOP, "pickle protocol 1"),
}  # fmt: skip

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
        b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8, b"(", b"t",
        b"R", b"Q", b"u", b"s", b"b", b".", b"}", b"]", b")", b"\x85", b"\x86", b"\x87", b"\x93", b"q\x00", b"h\x00",
        b"j\x00\x00\x00\x00", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 8, b"cos\nsystem\n",
        b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"X\xff\xff\xff\xff",
    ],
    dtype=object,
)  # fmt: skip


def sound_files(arrays: dict[str, np.ndarray]) -> dict[str, Callable[[], bytes]]:
    """Writers of files that load."""
    return {"zip": lambda: zip_file(arrays), "old": lambda: old_file(arrays)}

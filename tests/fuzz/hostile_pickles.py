# SPDX-License-Identifier: Apache-2.0
"""Pickles that lie, written by hand, with what the refusal of each has to say."""

from __future__ import annotations

import numpy as np

from pickle_programs import call, name, number, ordered, sizes, storage, tensor, text

VALUES = np.arange(6, dtype=np.float32)
GOOD = tensor(storage("0", 6), 0, (2, 3), (3, 1))
DICT = call(name("collections", "OrderedDict"))


def identity(*members: bytes) -> bytes:
    return b"(" + b"".join(members) + b"tQ"


def rebuilt(function: str, *arguments: bytes) -> bytes:
    return call(name("torch._utils", function), *arguments)


OVER = storage("0", 6)
FLAGS = (b"\x89", DICT)
PROGRAMS: dict[str, tuple[bytes, str]] = {
    "a call of os.system": (call(name("os", "system"), text("true")), r"names os\.system"),
    "a call of builtins.eval": (call(name("builtins", "eval"), text("1")), r"names builtins\.eval"),
    "a call of subprocess.Popen": (call(name("subprocess", "Popen"), text("x")), r"names subprocess\.Popen"),
    "a class of transformers": (
        name("transformers.models.bert.modeling_bert", "BertModel"),
        "names transformers",
    ),
    "argparse.Namespace": (
        ordered({"x": GOOD, "args": name("argparse", "Namespace")}),
        r"argparse\.Namespace",
    ),
    "a NumPy array": (
        ordered({"x": name("numpy.core.multiarray", "_reconstruct")}),
        r"numpy\.core\.multiarray",
    ),
    "a function of torch": (name("torch", "load"), r"names torch\.load"),
    "torch.hub": (call(name("torch.hub", "load"), text("x")), r"names torch\.hub\.load"),
    "a JIT module": (name("torch.jit", "_pickle.restore_type_tag"), r"names torch\.jit\._pickle"),
    "a bypass by setattr": (
        call(name("torch._utils", "_rebuild_tensor_v2.__globals__"), b"N"),
        "names torch",
    ),
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
    "two state dicts": (
        ordered({"model": ordered({"x": GOOD}), "net": ordered({"x": GOOD})}),
        "model and net",
    ),
    "a dictionary of itself": (b"}q\0" + text("model") + b"h\0s", "its keys are 'model'"),
    "a call of a string": (text("torch") + b")R", "a call of what is no function"),
    "a call of a tensor": (GOOD + b")R", "a call of what is no function"),
    "a call of a call": (DICT + b")R", "a call of what is no function"),
    "a call with a list": (name("collections", "OrderedDict") + b"]R", "a call of what is no function"),
    "a dictionary of one argument": (call(name("collections", "OrderedDict"), number(1)), "cannot take"),
    "a dictionary of a tuple": (call(name("collections", "OrderedDict"), b")"), "cannot take"),
    "a dictionary of what are no pairs": (call(name("collections", "OrderedDict"), b"](Ne"), "no pairs"),
    "a dictionary of pairs of lists": (call(name("collections", "OrderedDict"), b"](](]Nee"), "no pairs"),
    "a size of nothing": (call(name("torch", "Size")), "cannot take"),
    "a dtype that is called": (call(name("torch", "float32")), "cannot take"),
    "a storage class that is called": (call(name("torch", "FloatStorage"), number(3)), "cannot take"),
    "a parameter of nothing": (rebuilt("_rebuild_parameter", b"N", b"\x88", DICT), "cannot take"),
    "a parameter of a storage": (rebuilt("_rebuild_parameter", OVER, b"\x88", DICT), "cannot take"),
    "a tensor of two arguments": (rebuilt("_rebuild_tensor_v2", OVER, number(0)), "cannot take"),
    "a tensor over None": (
        rebuilt("_rebuild_tensor_v2", b"N", number(0), b")", b")", *FLAGS),
        "over no storage",
    ),
    "a tensor over a tensor": (
        rebuilt("_rebuild_tensor_v2", GOOD, number(0), b")", b")", *FLAGS),
        "over no storage but TensorRecord",
    ),
    "a shape that is a list": (
        rebuilt("_rebuild_tensor_v2", OVER, number(0), b"]", b")", *FLAGS),
        "shape is no tuple of sizes",
    ),
    "a shape of strings": (
        rebuilt("_rebuild_tensor_v2", OVER, number(0), text("a") + b"\x85", b"K\1\x85", *FLAGS),
        "shape",
    ),
    "a shape of bools": (
        rebuilt("_rebuild_tensor_v2", OVER, number(0), b"\x88\x85", b"K\1\x85", *FLAGS),
        "shape is no tuple",
    ),
    "a negative size": (tensor(OVER, 0, (-2, 3), (3, 1)), "shape is no tuple of sizes"),
    "a negative stride": (tensor(OVER, 5, (2, 3), (-3, 1)), "strides is no tuple of sizes"),
    "a negative offset": (tensor(OVER, -1, (2, 3), (3, 1)), "offset is -1"),
    "an offset that is None": (
        rebuilt("_rebuild_tensor_v2", OVER, b"N", sizes((2,)), sizes((1,)), *FLAGS),
        "offset is None",
    ),
    "an offset of 2**200": (tensor(OVER, 2**200, (2, 3), (3, 1)), "offset is"),
    "a size of 2**64": (tensor(OVER, 0, (2**64,), (1,)), "shape is no tuple of sizes"),
    "sizes whose product is huge": (tensor(OVER, 0, (2**40,) * 4, (1,) * 4), "reaches to element"),
    "33 dimensions": (tensor(OVER, 0, (1,) * 33, (1,) * 33), "shape is no tuple of sizes"),
    "strides missing": (tensor(OVER, 0, (2, 3), (3,)), "2 sizes and 1 strides"),
    "a tensor beyond its storage": (
        tensor(OVER, 1, (2, 3), (3, 1)),
        "reaches to element 6 of a storage of 6",
    ),
    "a stride beyond its storage": (tensor(OVER, 0, (2, 3), (4, 1)), "reaches to element 6"),
    "elements on top of each other": (tensor(OVER, 0, (2, 3), (2, 1)), "on top of each other"),
    "a scalar beyond its storage": (tensor(OVER, 6, (), ()), "reaches to element 6"),
    "a v3 tensor without a dtype": (
        rebuilt("_rebuild_tensor_v3", OVER, number(0), b")", b")", *FLAGS),
        "cannot take",
    ),
    "a v3 tensor of a class": (
        rebuilt("_rebuild_tensor_v3", OVER, number(0), b")", b")", *FLAGS, name("torch", "FloatStorage")),
        r"no known dtype but torch\.FloatStorage",
    ),
    "a v3 tensor of a string": (
        rebuilt("_rebuild_tensor_v3", OVER, number(0), b")", b")", *FLAGS, text("torch.float32")),
        "no known dtype",
    ),
    "a v3 tensor wider than its storage": (
        rebuilt(
            "_rebuild_tensor_v3", OVER, number(0), sizes((6,)), sizes((1,)), *FLAGS, name("torch", "float64")
        ),
        "reaches to element 5 of a storage of 3",
    ),
    "an untyped storage without a dtype": (
        tensor(storage("0", 24, "UntypedStorage"), 0, (6,), (1,)),
        "untyped bytes without a dtype",
    ),
    "a storage class that is unknown": (
        tensor(storage("0", 6, "QInt8Storage"), 0, (6,), (1,)),
        "QInt8Storage",
    ),
    "a storage class that is a dtype": (tensor(storage("0", 6, "float32"), 0, (6,), (1,)), "no known class"),
    "a persistent id that is a string": (text("0") + b"Q", "names no storage"),
    "a persistent id that is empty": (b")Q", "names no storage"),
    "a persistent id of a number": (identity(number(1)), "names no storage"),
    "a persistent id of another kind": (identity(text("thing")), "kind 'thing'"),
    "a persistent id of a module": (identity(text("module"), text("x")), "a whole pickled model"),
    "a persistent id of one member": (identity(text("storage")), "described by 0 values"),
    "a storage without a class": (
        identity(text("storage"), text("x"), text("0"), text("cpu"), number(6)),
        "no known class but 'x'",
    ),
    "a storage under a number": (
        identity(text("storage"), name("torch", "FloatStorage"), number(0), text("cpu"), number(6)),
        "the key 0",
    ),
    "a storage of a negative size": (
        identity(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(-6)),
        "size -6",
    ),
    "a storage of a list's size": (
        identity(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"]"),
        "size list",
    ),
    "a storage of 2**60 numbers": (
        identity(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(2**60)),
        "the size",
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
}

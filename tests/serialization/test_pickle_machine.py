# SPDX-License-Identifier: Apache-2.0
"""The machine computes what Python's own would for the programs it knows, and runs nothing else."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import resource
import struct
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from pickle_programs import PROTO, STOP, call, name, number, ordered, text
from qdqbert.serialization.pickle_machine import (
    _BY_OPCODE,
    MAX_STEPS,
    IncompletePickle,
    PickleError,
    PickleMachine,
    Symbol,
)

SYMBOLS = ("collections.OrderedDict", "torch.device", "x.y")


def run(program: bytes) -> Any:
    def called(symbol: Symbol, arguments: tuple[Any, ...]) -> Any:
        return {} if symbol.name == "collections.OrderedDict" and not arguments else (symbol.name, arguments)

    machine = PickleMachine(program, SYMBOLS, called, lambda identity: ("persistent", identity))
    value = machine.run()
    assert machine.position == len(program)
    return value


def refusal(program: bytes) -> str:
    with pytest.raises(PickleError) as caught:
        run(program)
    return str(caught.value)


def random_value(rng: np.random.Generator, depth: int = 0) -> Any:
    kind = int(rng.integers(9 if depth > 4 else 13))
    match kind:
        case 0:
            return None
        case 1:
            return bool(rng.integers(2))
        case 2:
            return int(rng.integers(-300, 300))
        case 3:
            return int(rng.integers(-(2**62), 2**62)) ** int(rng.integers(1, 5))
        case 4:
            return float(rng.standard_normal())
        case 5 | 6:
            return "".join(map(chr, rng.integers(32, 0x2FF, rng.integers(0, 300))))
        case 7:
            return int(rng.integers(0, 70_000))
        case 8:
            return ()
        case 9:
            return [random_value(rng, depth + 1) for _ in range(int(rng.integers(5)))]
        case 10:
            return tuple(random_value(rng, depth + 1) for _ in range(int(rng.integers(5))))
        case 11:
            return {f"k{i}": random_value(rng, depth + 1) for i in range(int(rng.integers(5)))}
        case _:
            shared = random_value(rng, depth + 1)
            return [shared, (shared, shared)]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back_as_python_reads_them(protocol: int) -> None:
    rng = np.random.default_rng(protocol)
    for _ in range(300):
        value = random_value(rng)
        program = pickle.dumps(value, protocol=protocol)
        assert run(program) == value
        assert run(pickletools.optimize(program)) == value


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_come_back(protocol: int) -> None:
    value = [b"", b"\x00\xff", b"x" * 1000]
    assert run(pickle.dumps(value, protocol=protocol)) == value


def test_shared_and_circular_values_keep_their_identity() -> None:
    shared: list[Any] = []
    circular = [shared, shared]
    circular.append(circular)
    found = run(pickle.dumps(circular, protocol=2))
    assert found[0] is found[1]
    assert found[2] is found


def test_an_ordered_dictionary_with_attributes_is_a_dictionary() -> None:
    """As torch writes a state dict, whose attribute `_metadata` says the versions of its modules."""

    class StateDict(OrderedDict):  # type: ignore[type-arg]
        pass

    state = OrderedDict(a=1)
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    assert run(pickle.dumps(state, protocol=2)) == {"a": 1}


def test_symbols_and_persistent_ids_go_to_the_caller() -> None:
    assert run(PROTO + call(name("x", "y"), number(1), text("a")) + STOP) == ("x.y", (1, "a"))
    assert run(PROTO + text("id") + b"Q" + STOP) == ("persistent", "id")
    assert repr(run(PROTO + name("x", "y") + STOP)) == "<x.y>"


def test_several_programs_follow_each_other() -> None:
    machine = PickleMachine(PROTO + number(1) + STOP + PROTO + number(2) + STOP, (), tuple, tuple)  # type: ignore[arg-type]
    assert machine.run() == 1
    assert machine.run() == 2
    with pytest.raises(IncompletePickle):
        machine.run()


def test_every_truncation_is_incomplete() -> None:
    for protocol in (2, 4):
        program = pickle.dumps([{"a": (1, 2.5, "x" * 300)}, [True, None, 2**80]], protocol=protocol)
        for length in range(len(program)):
            with pytest.raises(IncompletePickle):
                run(program[:length])


def test_only_opcodes_of_tensors_and_plain_containers_are_known() -> None:
    names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
    known = {names[chr(code)] for code in _BY_OPCODE} | {"STOP"}
    forbidden = {
        "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER",
        "READONLY_BUFFER", "LONG4", "BYTEARRAY8", "DUP", "POP", "POP_MARK",
    }  # fmt: skip
    assert not known & forbidden
    assert {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"} <= known
    assert len(known) == 40


@pytest.mark.parametrize("code", sorted(set(range(256)) - set(_BY_OPCODE) - {ord(".")}))
def test_any_other_opcode_is_refused_with_its_place(code: int) -> None:
    assert "at byte 4 of the pickle, which torch.save never writes" in refusal(PROTO + b"N}" + bytes([code]))


class Payload:
    """Runs a command when Python unpickles it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


PAYLOADS = {
    "os.system": (os.system, "touch hacked"),
    "eval": (eval, "__import__('os').system('touch hacked')"),
    "exec": (exec, "open('hacked', 'w')"),
    "open": (open, "hacked", "w"),
    "getattr": (getattr, os, "system"),
    "__import__": (__import__, "os"),
    "io.BytesIO": (io.BytesIO, b""),
    "struct.Struct": (struct.Struct, "<B"),
    "time.sleep": (time.sleep, 9),
}


@pytest.mark.parametrize("payload", sorted(set(PAYLOADS) - {"getattr"}))
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_call_of_anything_is_refused_by_its_name(
    payload: str, protocol: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function, *arguments = PAYLOADS[payload]
    said = refusal(pickle.dumps({"x": Payload(function, *arguments)}, protocol=protocol))
    module = function.__module__.replace("builtins", "__builtin__" if protocol == 2 else "builtins")
    assert f"the pickle names {module}.{function.__qualname__}" in said
    assert "not imported" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "module_and_name",
    [
        "os\nsystem",
        "x\ny.z",
        "x.y\n",
        "\nx.y",
        "x\nY",
        "torch\ndevice.__init__",
        "collections\nOrderedDict.fromkeys",
    ],
)
def test_a_name_is_known_as_a_whole_or_not(module_and_name: str) -> None:
    assert "names " in refusal(PROTO + b"c" + module_and_name.encode() + b"\n" + STOP)


def test_a_symbol_is_nothing_but_its_name() -> None:
    """It cannot be called by other opcodes, take attributes, or be a key."""
    symbol = name("x", "y")
    assert "expects a dictionary" in refusal(PROTO + symbol + b"}b" + STOP)
    assert "no string and no small integer but Symbol" in refusal(PROTO + b"}" + symbol + b"Ns" + STOP)
    assert "a call of what is no function" in refusal(PROTO + text("x.y") + b")R" + STOP)
    assert "a call of what is no function" in refusal(PROTO + symbol + b"]R" + STOP)
    assert not hasattr(Symbol("x"), "__dict__")


MALFORMED = {
    "nothing on the stack": (STOP, "takes a value that is not there"),
    "two values": (b"NN" + STOP, "1 values are left over"),
    "an open mark": (b"(N" + STOP, "left over"),
    "a value beneath a mark": (b"N(." , "takes a value"),
    "a tuple without a mark": (b"Nt" + STOP, "needs a mark"),
    "a tuple of two of one": (b"N\x86" + STOP, "takes a value"),
    "items for no list": (b"N(Ne" + STOP, "expects a list"),
    "an item for no list": (b"NNa" + STOP, "expects a list"),
    "a member of no dictionary": (b"]" + text("a") + b"Ns" + STOP, "expects a dictionary"),
    "members of no dictionary": (b"](" + text("a") + b"Nu" + STOP, "expects a dictionary"),
    "a key without a value": (b"}(" + text("a") + b"u" + STOP, "a key without a value"),
    "a list as key": (b"}]Ns" + STOP, "but list"),
    "a tuple as key": (b"})Ns" + STOP, "but tuple"),
    "a float as key": (b"}G" + bytes(8) + b"Ns" + STOP, "but float"),
    "an integer of 65 bits as key": (b"}" + number(2**64) + b"Ns" + STOP, "but int"),
    "nothing to store": (b"q\0N" + STOP, "stores a value that is not there"),
    "nothing to store above a mark": (b"N(q\0t" + STOP, "stores a value"),
    "a value that was not stored": (b"h\7" + STOP, "value 7, which it has not stored"),
    "protocol 0": (b"\x80\x00N" + STOP, "pickle protocol 0"),
    "protocol 6": (b"\x80\x06N" + STOP, "pickle protocol 6"),
    "a string that is no UTF-8": (b"X\2\0\0\0\xff\xfe" + STOP, "not UTF-8"),
    "half of a surrogate pair": (b"X\3\0\0\0\xed\xa0\x80" + STOP, "not UTF-8"),
    "a name of 201 bytes": (b"c" + b"x" * 201 + b"\ny\n" + STOP, "a name of more than 200 bytes"),
    "a name made of a list": (b"]" + text("y") + b"\x93" + STOP, "a global without a proper name"),
    "a long name on the stack": (text("x" * 100) + text("y" * 101) + b"\x93" + STOP, "without a proper name"),
    "attributes of a list": (b"]}b" + STOP, "expects a dictionary"),
    "attributes that are a list": (b"}]b" + STOP, "attributes that are no dictionary"),
    "arguments in a list": (name("x", "y") + b"]R" + STOP, "a call of what is no function"),
    "a call of a dictionary": (b"})R" + STOP, "a call of what is no function"),
}  # fmt: skip


@pytest.mark.parametrize("program", sorted(MALFORMED))
def test_a_malformed_program_is_refused(program: str) -> None:
    code, message = MALFORMED[program]
    assert message in refusal(PROTO + code)


# ---- bounds -----------------------------------------------------------------------------------------------

BOMBS = {
    "empty lists": (b"]" * (2 * MAX_STEPS), f"after {MAX_STEPS} opcodes"),
    "empty dictionaries in each other": (b"}" * (2 * MAX_STEPS), f"after {MAX_STEPS} opcodes"),
    "stored values": (b"".join(b"}r" + struct.pack("<L", i) for i in range(MAX_STEPS)), "opcodes"),
    "values stored far away": (
        b"N" + b"".join(b"r" + struct.pack("<L", 2**32 - i) for i in range(1, MAX_STEPS)), "opcodes",
    ),
    "marks": (b"(" * (2 * MAX_STEPS), "opcodes"),
    "tuples in tuples": (b"N" + b"\x85" * (MAX_STEPS - 10) + b"N", "no end"),
    "floats": (b"G00000000" * MAX_STEPS, "opcodes"),
    "frames": (b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f" * MAX_STEPS, "opcodes"),
    "a string of 16 exabytes": (b"\x8d" + b"\xff" * 8, "cut off"),
    "a string of 4 GB": (b"X\xff\xff\xff\xff", "cut off"),
    "bytes of 4 GB": (b"B\xff\xff\xff\xff", "cut off"),
    "a Python 2 string of 4 GB": (b"T\xff\xff\xff\xff", "cut off"),
    "a line without end": (b"c" + b"x" * (1 << 20), "a name of more than"),
}  # fmt: skip


@pytest.mark.uninstrumented
@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_a_bomb_takes_little_time_and_memory(bomb: str) -> None:
    code, message = BOMBS[bomb]
    program = PROTO + code
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = refusal(program)
    spent = time.process_time() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert message in said
    # Half a million opcodes of at most one object each, on a slow and shared processor.
    assert spent < 10
    assert grown < 400 << 10


def test_values_that_hold_each_other_a_billion_times_cost_nothing() -> None:
    """Neither tuples, which Python's hash would walk, nor what they hold is ever walked."""
    doubled = b"N\x85q\0" + b"h\0h\0\x86q\0" * 200
    value = run(PROTO + b"(" + doubled + b"t" + STOP)
    assert len(value) == 201
    assert "but tuple" in refusal(PROTO + b"(" + doubled + b"t}h\0Ns" + STOP)


def test_deep_values_are_made_and_dropped_without_recursion() -> None:
    depth = 200_000
    value = run(PROTO + b"]" * depth + b"a" * (depth - 1) + STOP)
    assert len(value) == 1
    del value
    assert "left over" in refusal(PROTO + b"(" * 1000 + b"N" + STOP)
    assert run(PROTO + ordered({"a": b"]" * 500 + b"a" * 499}) + STOP)["a"]


def test_integers_that_collide_in_a_dictionary_are_no_keys() -> None:
    """Multiples of 2**61 - 1 have one hash: a dictionary of them takes quadratic time."""
    members = b"".join(number(i * (2**61 - 1)) + b"N" for i in range(5, 1000))
    assert "but int" in refusal(PROTO + b"}(" + members + b"u" + STOP)

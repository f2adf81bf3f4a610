# SPDX-License-Identifier: Apache-2.0
"""A machine for the pickles that ``torch.save`` writes, and for no others.

A pickle is a program.  Python's own machine runs any of them: it imports what the program names and calls it,
so that reading a checkpoint can run code, and an allow-list over that machine has been got around more than
once (CVE-2025-32434, CVE-2026-24747).  This machine is closed instead:

- it knows only the opcodes that a pickled dictionary of tensors consists of; any other one is an error;
- it imports nothing and calls nothing.  A global is a `Symbol`, an inert name out of a fixed set; a call of a
  symbol, and a reference to a tensor's storage, are handed to two functions of the caller, which build
  records;
- values are None, bool, int, float, str, bytes, tuples, lists, dictionaries, and those records;
- work, memory and sizes are bounded: a program of at most `MAX_STEPS` opcodes, integers of 255 bytes, keys
  that are strings or integers of 64 bits.  Nothing is walked recursively, so values that contain themselves
  or each other a thousand times over cost nothing.

There is no fallback to Python's machine, and the module ``pickle`` is not imported.

The opcodes are described in the documentation of Python's ``pickletools``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Any

__all__ = ["MAX_STEPS", "IncompletePickle", "PickleError", "PickleMachine", "Symbol"]

# Some 40 for a tensor, so 13,000 tensors.  Each step makes at most one small object, so this bounds the
# memory as well.
MAX_STEPS = 1 << 19
_MAX_NAME = 200
_KEY_LIMIT = 1 << 63
_HIGHEST_PROTOCOL = 5
# Both raise struct.error at the end of the bytes, which `run` turns into IncompletePickle.
_UINT1 = struct.Struct("<B").unpack_from
_UINT4 = struct.Struct("<L").unpack_from

# Opcodes that hostile or merely other pickles use, for messages.
_REFUSED = {
    ord("i"): "INST, which calls a class",
    ord("o"): "OBJ, which calls a class",
    0x81: "NEWOBJ, which makes an object of a class",
    0x92: "NEWOBJ_EX, which makes an object of a class",
    0x82: "EXT1, which names a registered class",
    0x83: "EXT2, which names a registered class",
    0x84: "EXT4, which names a registered class",
    ord("P"): "PERSID, a reference in text form",
    0x97: "NEXT_BUFFER, which refers to memory outside the file",
    0x98: "READONLY_BUFFER, which refers to memory outside the file",
    0x8F: "EMPTY_SET",
    0x90: "ADDITEMS",
    0x91: "FROZENSET",
    0x96: "BYTEARRAY8",
    0x8B: "LONG4, an integer of unbounded size",
    ord("I"): "INT, a number in text form",
    ord("L"): "LONG, a number in text form",
    ord("F"): "FLOAT, a number in text form",
    ord("V"): "UNICODE, a string in text form",
    ord("S"): "STRING, a string in text form",
    ord("d"): "DICT",
    ord("l"): "LIST",
    ord("p"): "PUT",
    ord("g"): "GET",
    ord("0"): "POP",
    ord("1"): "POP_MARK",
    ord("2"): "DUP",
}


class PickleError(Exception):
    """The program is none that ``torch.save`` writes; the message says where and why."""


class IncompletePickle(PickleError):
    """The bytes end inside the program."""


class Symbol:
    """The name of a global, and nothing else.

    Parameters
    ----------
    name : str
        Dotted.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: str = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


class PickleMachine:
    """Runs one program after the other over the same bytes.

    Parameters
    ----------
    data : bytes
    symbols : collection of str
        Dotted names that programs may use.
    call : callable (Symbol, tuple) -> object
        Makes the value of a call, or raises `PickleError`.
    load_persistent : callable (object) -> object
        Makes the value of a persistent id, or raises `PickleError`.

    Attributes
    ----------
    position : int
        Of the next byte to be read; after `run`, that behind the program.
    """

    def __init__(
        self,
        data: bytes,
        symbols: Collection[str],
        call: Callable[[Symbol, tuple[Any, ...]], Any],
        load_persistent: Callable[[Any], Any],
    ) -> None:
        self._data = data
        self._symbols = symbols
        self._call = call
        self._load_persistent = load_persistent
        self.position: int = 0
        self._known: dict[str, Symbol] = {}

    def run(self) -> Any:
        """Run the program at `position` and return its result.

        Raises
        ------
        IncompletePickle
            If the bytes end inside it.
        PickleError
            For everything else that is not as torch writes it.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._floor = 0
        self._memo: dict[int, Any] = {}
        try:
            return self._run()
        except struct.error:
            raise IncompletePickle(f"the pickle is cut off after {len(self._data)} bytes") from None

    def _run(self) -> Any:
        data, end, operations = self._data, len(self._data), _OPERATIONS
        for _ in range(MAX_STEPS):
            begin = self.position
            if begin >= end:
                raise IncompletePickle(f"the pickle has no end: {begin} bytes without STOP")
            opcode = data[begin]
            self.position = begin + 1
            if opcode == _STOP:
                result = self._pop()
                if self._stack or self._marks:
                    raise PickleError(f"{len(self._stack)} values are left over at the end of the pickle")
                return result
            operation = operations[opcode]
            if operation is None:
                name = _REFUSED.get(opcode, f"0x{opcode:02x}")
                raise PickleError(
                    f"opcode {name} at byte {begin} of the pickle, which torch.save never writes"
                )
            operation(self)
        raise PickleError(f"the pickle goes on after {MAX_STEPS} opcodes")

    # ---- bytes and stack -----------------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        begin = self.position
        end = begin + count
        if end > len(self._data):
            raise IncompletePickle(
                f"the pickle is cut off: {count} bytes at {begin}, there are {len(self._data)}"
            )
        self.position = end
        return self._data[begin:end]

    def _number1(self) -> int:
        number: int = _UINT1(self._data, self.position)[0]
        self.position += 1
        return number

    def _number4(self) -> int:
        number: int = _UINT4(self._data, self.position)[0]
        self.position += 4
        return number

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + _MAX_NAME + 1)
        if end < 0:
            if len(self._data) - self.position <= _MAX_NAME:
                raise IncompletePickle("the pickle is cut off inside a name")
            raise PickleError(f"a name of more than {_MAX_NAME} bytes at {self.position}")
        return self._text(end - self.position, skip=1)

    def _text(self, count: int, skip: int = 0) -> str:
        try:
            text = self._take(count).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PickleError(
                f"a string that is not UTF-8 before byte {self.position}: {error.reason}"
            ) from None
        self.position += skip
        return text

    def _pop(self) -> Any:
        if len(self._stack) <= self._floor:
            raise PickleError(
                f"an opcode before byte {self.position} of the pickle takes a value that is not there"
            )
        return self._stack.pop()

    def _top(self, kind: type, what: str) -> Any:
        if len(self._stack) <= self._floor or type(self._stack[-1]) is not kind:
            raise PickleError(
                f"an opcode before byte {self.position} of the pickle expects {what} on the stack"
            )
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise PickleError(
                f"an opcode before byte {self.position} of the pickle needs a mark that is not there"
            )
        begin = self._floor
        items = self._stack[begin:]
        del self._stack[begin:]
        self._marks.pop()
        self._floor = self._marks[-1] if self._marks else 0
        return items

    # ---- opcodes -------------------------------------------------------------------------------------------

    def _proto(self) -> None:
        protocol = self._take(1)[0]
        if not 2 <= protocol <= _HIGHEST_PROTOCOL:
            raise PickleError(f"pickle protocol {protocol}; 2 .. {_HIGHEST_PROTOCOL} are known")

    def _frame(self) -> None:
        self._take(8)  # A hint for buffered readers.

    def _mark(self) -> None:
        self._floor = len(self._stack)
        self._marks.append(self._floor)

    def _none(self) -> None:
        self._stack.append(None)

    def _true(self) -> None:
        self._stack.append(True)

    def _false(self) -> None:
        self._stack.append(False)

    def _int4(self) -> None:
        self._stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def _int1(self) -> None:
        self._stack.append(self._number1())

    def _int2(self) -> None:
        self._stack.append(int.from_bytes(self._take(2), "little"))

    def _long1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number1()), "little", signed=True))

    def _float(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def _unicode1(self) -> None:
        self._stack.append(self._text(self._number1()))

    def _unicode4(self) -> None:
        self._stack.append(self._text(self._number4()))

    def _unicode8(self) -> None:
        self._stack.append(self._text(int.from_bytes(self._take(8), "little")))

    # Python 2 wrote its strings, which are bytes, with these two; names of tensors among them.
    def _string1(self) -> None:
        self._stack.append(self._text(self._number1()))

    def _string4(self) -> None:
        self._stack.append(self._text(self._number4()))

    def _bytes1(self) -> None:
        self._stack.append(self._take(self._number1()))

    def _bytes4(self) -> None:
        self._stack.append(self._take(self._number4()))

    def _empty_tuple(self) -> None:
        self._stack.append(())

    def _tuple1(self) -> None:
        self._stack.append((self._pop(),))

    def _tuple2(self) -> None:
        second = self._pop()
        self._stack.append((self._pop(), second))

    def _tuple3(self) -> None:
        third, second = self._pop(), self._pop()
        self._stack.append((self._pop(), second, third))

    def _tuple(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _empty_list(self) -> None:
        self._stack.append([])

    def _append(self) -> None:
        item = self._pop()
        self._top(list, "a list").append(item)

    def _appends(self) -> None:
        items = self._pop_to_mark()
        self._top(list, "a list").extend(items)

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict, "a dictionary")[_key(key)] = value

    def _set_items(self) -> None:
        items = self._pop_to_mark()
        target = self._top(dict, "a dictionary")
        if len(items) % 2:
            raise PickleError(f"a key without a value before byte {self.position} of the pickle")
        for index in range(0, len(items), 2):
            target[_key(items[index])] = items[index + 1]

    def _put1(self) -> None:
        self._store(self._number1())

    def _put4(self) -> None:
        self._store(self._number4())

    def _memoize(self) -> None:
        self._store(len(self._memo))

    def _store(self, index: int) -> None:
        if len(self._stack) <= self._floor:
            raise PickleError(
                f"an opcode before byte {self.position} of the pickle stores a value that is not there"
            )
        self._memo[index] = self._stack[-1]

    def _get1(self) -> None:
        self._recall(self._number1())

    def _get4(self) -> None:
        self._recall(self._number4())

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise PickleError(f"the pickle refers to value {index}, which it has not stored")
        self._stack.append(self._memo[index])

    def _global(self) -> None:
        module = self._line()
        self._push_symbol(f"{module}.{self._line()}")

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)) or len(name) + len(module) > _MAX_NAME:
            raise PickleError(f"a global without a proper name before byte {self.position} of the pickle")
        self._push_symbol(f"{module}.{name}")

    def _push_symbol(self, name: str) -> None:
        if name not in self._symbols:
            raise PickleError(
                f"the pickle names {ascii(name)[1:-1]}, which is no part of a tensor or a plain container; "
                "it was not imported. Checkpoints are read as data: save model.state_dict() alone"
            )
        self._stack.append(self._known.setdefault(name, Symbol(name)))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not Symbol or type(arguments) is not tuple:
            raise PickleError(f"a call of what is no function before byte {self.position} of the pickle")
        self._stack.append(self._call(function, arguments))

    def _build(self) -> None:
        """Drop the attributes of a dictionary: a state dict's are its modules' versions."""
        state = self._pop()
        self._top(dict, "a dictionary")
        if type(state) is not dict:
            raise PickleError(f"attributes that are no dictionary before byte {self.position} of the pickle")

    def _persistent(self) -> None:
        self._stack.append(self._load_persistent(self._pop()))


def _key(value: Any) -> str | int:
    """Return a key that is cheap to hash and to compare, whoever chose it."""
    if isinstance(value, str) or (isinstance(value, int) and -_KEY_LIMIT <= value < _KEY_LIMIT):
        return value
    raise PickleError(
        f"a dictionary with a key that is no string and no small integer but {type(value).__name__}"
    )


_STOP = ord(".")
_BY_OPCODE: dict[int, Callable[[PickleMachine], None]] = {
    0x80: PickleMachine._proto,
    0x95: PickleMachine._frame,
    ord("("): PickleMachine._mark,
    ord("N"): PickleMachine._none,
    0x88: PickleMachine._true,
    0x89: PickleMachine._false,
    ord("J"): PickleMachine._int4,
    ord("K"): PickleMachine._int1,
    ord("M"): PickleMachine._int2,
    0x8A: PickleMachine._long1,
    ord("G"): PickleMachine._float,
    0x8C: PickleMachine._unicode1,
    ord("X"): PickleMachine._unicode4,
    0x8D: PickleMachine._unicode8,
    ord("U"): PickleMachine._string1,
    ord("T"): PickleMachine._string4,
    ord("C"): PickleMachine._bytes1,
    ord("B"): PickleMachine._bytes4,
    ord(")"): PickleMachine._empty_tuple,
    0x85: PickleMachine._tuple1,
    0x86: PickleMachine._tuple2,
    0x87: PickleMachine._tuple3,
    ord("t"): PickleMachine._tuple,
    ord("]"): PickleMachine._empty_list,
    ord("a"): PickleMachine._append,
    ord("e"): PickleMachine._appends,
    ord("}"): PickleMachine._empty_dict,
    ord("s"): PickleMachine._set_item,
    ord("u"): PickleMachine._set_items,
    ord("q"): PickleMachine._put1,
    ord("r"): PickleMachine._put4,
    0x94: PickleMachine._memoize,
    ord("h"): PickleMachine._get1,
    ord("j"): PickleMachine._get4,
    ord("c"): PickleMachine._global,
    0x93: PickleMachine._stack_global,
    ord("R"): PickleMachine._reduce,
    ord("b"): PickleMachine._build,
    ord("Q"): PickleMachine._persistent,
}
_OPERATIONS = tuple(_BY_OPCODE.get(opcode) for opcode in range(256))

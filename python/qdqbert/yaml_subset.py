# SPDX-License-Identifier: Apache-2.0
"""Read and write the small part of YAML that quantization descriptors use.

A descriptor is a mapping of names to scalars and (nested) lists.  Pulling in a YAML library for that would be
the only reason for one more run-time dependency, so this module writes exactly what PyYAML's default dumper
writes for such data (block style, sorted keys) and reads it back, together with the forms that people type by
hand: comments, flow lists, ``{}``, and the ``!!python/tuple`` tag that the original toolkit writes for
``num_bits=(4, 3)``.

Scalars resolve by the rules of YAML 1.1, as PyYAML's do; a number such as ``1e-3`` (a string in YAML 1.1) is
read as a number.  Anchors, documents, multi-line strings and tags other than the one above are refused.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence

__all__ = ["dump", "load"]

_BOOLEANS = {
    word: value
    for value, words in ((True, ("yes", "true", "on")), (False, ("no", "false", "off")))
    for spelling in words
    for word in (spelling, spelling.capitalize(), spelling.upper())
}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOATS = {
    sign + word: float(sign + name)
    for sign in ("", "+", "-")
    for name, words in (("inf", (".inf", ".Inf", ".INF")), ("nan", (".nan", ".NaN", ".NAN")))
    for word in words
}
_PLAIN = re.compile(r"[A-Za-z_](?:[\w./+() -]*[\w./+()-])?\Z", re.ASCII)
_KEY = re.compile(
    r"(?P<key>'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|[^\s'\"\[\]{},#&*!|>%@`-][^:#]*+)\s*:(?:\s+|\Z)"
)
_SINGLE = re.compile(r"'(?:[^']|'')*'")
_DOUBLE = re.compile(r'"(?:[^"\\]|\\.)*"')
_FLOW_SCALAR = re.compile(r"[^,\[\]{}]*")
_TAG = "!!python/tuple"
# A list of lists of lists is the most that a range has; what nests deeper would exhaust the stack.
_MAX_DEPTH = 32


def dump(mapping: Mapping[str, object]) -> str:
    """YAML text of a mapping.

    Parameters
    ----------
    mapping : Mapping of str to None, bool, int, float, str or nested list or tuple of these
        Keys are written in sorted order; tuples are written as lists.

    Returns
    -------
    str
        Block-style text that ends with a newline; ``{}`` for an empty mapping.

    Raises
    ------
    TypeError
        If a value is of another type; the key is named.
    """
    lines: list[str] = []
    for key in sorted(mapping):
        value = mapping[key]
        try:
            if isinstance(value, list | tuple) and value:
                lines.append(f"{_scalar_text(key)}:")
                lines.extend(_sequence_lines(value))
            else:
                lines.append(f"{_scalar_text(key)}: {_scalar_text(value)}")
        except TypeError as error:
            raise TypeError(f"{key}: {error}") from None
    return "\n".join(lines) + "\n" if lines else "{}\n"


def load(text: str) -> object:
    """Value of a YAML text.

    Parameters
    ----------
    text : str
        A mapping, list or scalar within the subset that the module describes.

    Returns
    -------
    object
        dict, list, str, int, float, bool or None.

    Raises
    ------
    ValueError
        If the text leaves the subset; the line is named.
    """
    lines = deque(
        (number, len(line) - len(line.lstrip(" ")), line.strip())
        for number, line in enumerate(_without_comments(text), start=1)
        if line.strip() and line.strip() not in ("---", "...")
    )
    if not lines:
        return None
    value = _block(lines, lines[0][1], _MAX_DEPTH)
    if lines:
        raise ValueError(f"line {lines[0][0]}: unexpected {_shown(lines[0][2])}")
    return value


_Line = tuple[int, int, str]


def _scalar_text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float_text(float(value))
    if isinstance(value, str):
        return _string_text(value)
    if isinstance(value, list | tuple) and not value:
        return "[]"
    raise TypeError(f"cannot be written as YAML: {type(value).__name__}")


def _float_text(value: float) -> str:
    text = repr(value)
    if text.lstrip("-") in ("inf", "nan"):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    if "." not in text and "e" in text:
        return text.replace("e", ".0e", 1)
    return text


def _string_text(value: str) -> str:
    if _PLAIN.match(value) and isinstance(_resolve(value), str):
        return value
    if value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value)


def _sequence_lines(values: Sequence[object]) -> list[str]:
    lines: list[str] = []
    for value in values:
        if isinstance(value, list | tuple) and value:
            nested = _sequence_lines(value)
            lines.append("- " + nested[0])
            lines.extend("  " + line for line in nested[1:])
        else:
            lines.append("- " + _scalar_text(value))
    return lines


def _without_comments(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        quote = ""
        kept = line
        for position, character in enumerate(line):
            if quote:
                quote = "" if character == quote else quote
            elif character in "'\"":
                quote = character
            elif character == "#" and (position == 0 or line[position - 1].isspace()):
                kept = line[:position]
                break
        lines.append(kept.rstrip())
    return lines


def _shown(text: str) -> str:
    """Text for a message, cut where it would hide the message."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _deeper(depth: int, number: int) -> int:
    if depth == 0:
        raise ValueError(f"line {number}: nested deeper than {_MAX_DEPTH} levels")
    return depth - 1


def _block(lines: deque[_Line], indent: int, depth: int) -> object:
    """Take one value from the front of the lines; `depth` is how many levels may follow."""
    number, _, text = lines[0]
    depth = _deeper(depth, number)
    if text == "-" or text.startswith("- "):
        return _block_sequence(lines, indent, depth)
    if _KEY.match(text):
        return _block_mapping(lines, indent, depth)
    lines.popleft()
    return _inline(text, number)


def _block_sequence(lines: deque[_Line], indent: int, depth: int) -> list[object]:
    items: list[object] = []
    while lines and lines[0][1] == indent and (lines[0][2] == "-" or lines[0][2].startswith("- ")):
        number, _, text = lines.popleft()
        content = text[1:].lstrip()
        if content:
            inner = indent + len(text) - len(content)
            lines.appendleft((number, inner, content))
            items.append(_block(lines, inner, depth))
        else:
            items.append(_nested(lines, indent, False, depth))
    return items


def _block_mapping(lines: deque[_Line], indent: int, depth: int) -> dict[str, object]:
    mapping: dict[str, object] = {}
    while lines and lines[0][1] == indent:
        number, _, text = lines.popleft()
        match = _KEY.match(text)
        if match is None:
            raise ValueError(f"line {number}: expected 'key: value', got {_shown(text)}")
        key = str(_inline(match["key"].rstrip(), number, resolve=False))
        if key in mapping:
            raise ValueError(f"line {number}: key {_shown(key)} stands twice")
        content = text[match.end() :]
        if content == _TAG:
            content = ""
        mapping[key] = _inline(content, number) if content else _nested(lines, indent, True, depth)
    return mapping


def _nested(lines: deque[_Line], indent: int, in_mapping: bool, depth: int) -> object:
    """Value on the lines below a key or dash; a list may stand at the key's own indentation."""
    if lines and (
        lines[0][1] > indent or (in_mapping and lines[0][1] == indent and lines[0][2].startswith("-"))
    ):
        return _block(lines, lines[0][1], depth)
    return None


def _inline(text: str, number: int, resolve: bool = True) -> object:
    if text.startswith(_TAG + " "):
        text = text[len(_TAG) :].lstrip()
    if text.startswith(("[", "{")):
        value, end = _flow(text, 0, number, _MAX_DEPTH)
        if end < len(text):
            raise ValueError(f"line {number}: unexpected {_shown(text[end:])} after a flow collection")
        return value
    if text.startswith(("'", '"')):
        value, end = _quoted(text, 0, number)
        if end < len(text):
            raise ValueError(f"line {number}: unexpected {_shown(text[end:])} after a quoted string")
        return value
    if text and text[0] in "&*!|>%@`":
        raise ValueError(f"line {number}: {_shown(text)} is outside the subset of YAML that descriptors use")
    return _scalar(text, number) if resolve else text


def _scalar(text: str, number: int) -> object:
    try:
        return _resolve(text)
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"line {number}: {_shown(text)}: {error}") from None


def _after_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _quoted(text: str, begin: int, number: int) -> tuple[str, int]:
    """Quoted string at a place of the text, and the place of what follows it."""
    match = (_SINGLE if text[begin] == "'" else _DOUBLE).match(text, begin)
    if match is None:
        raise ValueError(f"line {number}: unterminated string {_shown(text[begin:])}")
    end = _after_space(text, match.end())
    if text[begin] == "'":
        return match[0][1:-1].replace("''", "'"), end
    try:
        return str(json.loads(match[0])), end
    except ValueError:
        raise ValueError(f"line {number}: unknown escape in {_shown(match[0])}") from None


def _flow(text: str, begin: int, number: int, depth: int) -> tuple[object, int]:
    """Flow value at a place of the text, and the place of what follows it."""
    depth = _deeper(depth, number)
    first = text[begin : begin + 1]
    if first == "{":
        place = _after_space(text, begin + 1)
        if text.startswith("}", place):
            return {}, _after_space(text, place + 1)
        raise ValueError(f"line {number}: flow mappings are outside the subset of YAML that descriptors use")
    if first == "[":
        items: list[object] = []
        place = _after_space(text, begin + 1)
        while place < len(text) and text[place] != "]":
            item, place = _flow(text, place, number, depth)
            items.append(item)
            if text.startswith(",", place):
                place = _after_space(text, place + 1)
            elif not text.startswith("]", place):
                raise ValueError(f"line {number}: expected ',' or ']', got {_shown(text[place:])}")
        if place == len(text):
            raise ValueError(f"line {number}: a flow list is not closed")
        return items, _after_space(text, place + 1)
    if first in ("'", '"'):
        return _quoted(text, begin, number)
    match = _FLOW_SCALAR.match(text, begin)
    assert match is not None  # it matches the empty string
    return _inline(match[0].strip(), number), match.end()


def _resolve(text: str) -> object:
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.match(text):
        return int(text.replace("_", ""))
    if text in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[text]
    if _FLOAT.match(text):
        return float(text.replace("_", ""))
    return text

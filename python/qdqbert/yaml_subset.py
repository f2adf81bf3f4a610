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
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOATS = {
    sign + word: float(sign + name)
    for sign in ("", "+", "-")
    for name, words in (("inf", (".inf", ".Inf", ".INF")), ("nan", (".nan", ".NaN", ".NAN")))
    for word in words
}
_PLAIN = re.compile(r"[A-Za-z_](?:[\w./+() -]*[\w./+()-])?\Z", re.ASCII)
_KEY = re.compile(
    r"(?P<key>'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|[^\s'\"\[\]{},#&*!|>%@`-][^:#]*?)\s*:(?:\s+|\Z)"
)
_TAG = "!!python/tuple"


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
    lines = [
        (number, len(line) - len(line.lstrip(" ")), line.strip())
        for number, line in enumerate(_without_comments(text), start=1)
        if line.strip() and line.strip() not in ("---", "...")
    ]
    if not lines:
        return None
    value, rest = _block(lines, lines[0][1])
    if rest:
        raise ValueError(f"line {rest[0][0]}: unexpected {rest[0][2]!r}")
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


def _block(lines: list[_Line], indent: int) -> tuple[object, list[_Line]]:
    number, _, text = lines[0]
    if text == "-" or text.startswith("- "):
        return _block_sequence(lines, indent)
    if _KEY.match(text):
        return _block_mapping(lines, indent)
    return _inline(text, number), lines[1:]


def _block_sequence(lines: list[_Line], indent: int) -> tuple[list[object], list[_Line]]:
    items: list[object] = []
    while lines and lines[0][1] == indent and (lines[0][2] == "-" or lines[0][2].startswith("- ")):
        number, _, text = lines[0]
        content = text[1:].lstrip()
        lines = lines[1:]
        if content:
            inner = indent + len(text) - len(content)
            item, lines = _block([(number, inner, content), *lines], inner)
        else:
            item, lines = _nested(lines, indent, False)
        items.append(item)
    return items, lines


def _block_mapping(lines: list[_Line], indent: int) -> tuple[dict[str, object], list[_Line]]:
    mapping: dict[str, object] = {}
    while lines and lines[0][1] == indent:
        number, _, text = lines[0]
        match = _KEY.match(text)
        if match is None:
            raise ValueError(f"line {number}: expected 'key: value', got {text!r}")
        key = str(_inline(match["key"], number, resolve=False))
        if key in mapping:
            raise ValueError(f"line {number}: key {key!r} stands twice")
        content = text[match.end() :]
        if content == _TAG:
            content = ""
        lines = lines[1:]
        if content:
            mapping[key] = _inline(content, number)
        else:
            mapping[key], lines = _nested(lines, indent, True)
    return mapping, lines


def _nested(lines: list[_Line], indent: int, in_mapping: bool) -> tuple[object, list[_Line]]:
    """Value on the lines below a key or dash; a list may stand at the key's own indentation."""
    if lines and (
        lines[0][1] > indent or (in_mapping and lines[0][1] == indent and lines[0][2].startswith("-"))
    ):
        return _block(lines, lines[0][1])
    return None, lines


def _inline(text: str, number: int, resolve: bool = True) -> object:
    if text.startswith(_TAG + " "):
        text = text[len(_TAG) :].lstrip()
    if text[:1] in "[{":
        value, rest = _flow(text, number)
        if rest:
            raise ValueError(f"line {number}: unexpected {rest!r} after a flow collection")
        return value
    if text[:1] in "'\"":
        value, rest = _quoted(text, number)
        if rest:
            raise ValueError(f"line {number}: unexpected {rest!r} after a quoted string")
        return value
    if text[:1] in "&*!|>%@`":
        raise ValueError(f"line {number}: {text!r} is outside the subset of YAML that descriptors use")
    return _resolve(text) if resolve else text


def _quoted(text: str, number: int) -> tuple[str, str]:
    pattern = r"'((?:[^']|'')*)'" if text[0] == "'" else r'"(?:[^"\\]|\\.)*"'
    match = re.match(pattern, text)
    if match is None:
        raise ValueError(f"line {number}: unterminated string {text!r}")
    rest = text[match.end() :].lstrip()
    if text[0] == "'":
        return match[1].replace("''", "'"), rest
    try:
        return str(json.loads(match[0])), rest
    except ValueError:
        raise ValueError(f"line {number}: unknown escape in {match[0]}") from None


def _flow(text: str, number: int) -> tuple[object, str]:
    """One flow value at the start of text, and what follows it."""
    if text.startswith("{"):
        if text[1:].lstrip().startswith("}"):
            return {}, text[1:].lstrip()[1:].lstrip()
        raise ValueError(f"line {number}: flow mappings are outside the subset of YAML that descriptors use")
    if text.startswith("["):
        items: list[object] = []
        text = text[1:].lstrip()
        while text and not text.startswith("]"):
            item, text = _flow(text, number)
            items.append(item)
            if text.startswith(","):
                text = text[1:].lstrip()
            elif not text.startswith("]"):
                raise ValueError(f"line {number}: expected ',' or ']', got {text!r}")
        if not text:
            raise ValueError(f"line {number}: a flow list is not closed")
        return items, text[1:].lstrip()
    if text[:1] in "'\"":
        return _quoted(text, number)
    match = re.match(r"[^,\[\]{}]*", text)
    scalar = match[0] if match else ""
    return _inline(scalar.strip(), number), text[len(scalar) :]


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

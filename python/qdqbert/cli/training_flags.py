# SPDX-License-Identifier: Apache-2.0
"""Every field of `TrainingArguments` as a flag, with the text of its docstring.

Flags are spelled as in transformers (``--learning_rate``), and with hyphens too.  Those that mean nothing
here are flags as well, which say why when they are used; ``--help`` leaves them out.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from qdqbert.training.arguments import TrainingArguments
from qdqbert.training.refused_arguments import REFUSED

__all__ = ["add_flag", "add_training_flags", "given_arguments", "read_flag"]

# The command has a --debug of its own, for tracebacks.
_LEFT_OUT = frozenset({"output_dir", "debug"})
_METAVARS = {"int": "N", "float": "X", "bool": "BOOL", "json": "JSON"}


def read_flag(word: str) -> bool:
    """Value of a switch that is spelled out, as in ``--group_by_length true``.

    Parameters
    ----------
    word : str

    Raises
    ------
    ArgumentTypeError
        If it is no truth value.
    """
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if word.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false, got {word!r}")
    return values[word.lower()]


def add_flag(group: Any, name: str, text: str, **options: Any) -> None:
    """Add a flag in both spellings, ``--max_seq_length`` and ``--max-seq-length``.

    Parameters
    ----------
    group : argument group or parser
    name : str
        With underscores.
    text : str
        Help.
    **options
        Of ``add_argument``; a `type` of bool makes a switch that may be spelled out.
    """
    if options.get("type") is bool:
        options.update(type=read_flag, nargs="?", const=True, metavar="BOOL")
    names = list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))
    group.add_argument(*names, dest=name, help=text.replace("%", "%%"), **options)


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field but ``output_dir``."""
    group = parser.add_argument_group("training", "as transformers' TrainingArguments; defaults are theirs")
    texts = _texts()
    for field in dataclasses.fields(TrainingArguments):
        if field.name in _LEFT_OUT:
            continue
        kind = _kind(str(field.type))
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": _METAVARS.get(kind, "TEXT")}
        if kind == "list":
            options["nargs"] = "+"
        elif kind in _READERS:
            options["type"] = _READERS[kind]
        text = argparse.SUPPRESS if field.name in REFUSED else texts.get(field.name, "")
        if text != argparse.SUPPRESS and field.default not in (None, dataclasses.MISSING, False):
            text = f"{text} ({field.default})"
        add_flag(group, field.name, text, **options)


def given_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """Fields of `TrainingArguments` that flags have set.

    Parameters
    ----------
    parsed : Namespace

    Returns
    -------
    dict
    """
    names = (field.name for field in dataclasses.fields(TrainingArguments) if field.name not in _LEFT_OUT)
    return {name: getattr(parsed, name) for name in names if hasattr(parsed, name)}


def _kind(annotation: str) -> str:
    """Return what words of a flag become, by the annotation of its field."""
    first = annotation.partition("|")[0].strip()
    if first.startswith("dict"):
        return "json"
    return "list" if first.startswith("list") or first == "Any" else first


def _read_json(word: str) -> Any:
    try:
        value = json.loads(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {word!r}: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {word!r}")
    return value


_READERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": bool, "json": _read_json}


def _texts() -> dict[str, str]:
    """Descriptions of the fields in the class's docstring; none if docstrings were stripped."""
    section = (inspect.getdoc(TrainingArguments) or "").partition("Parameters\n----------\n")[2]
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line[0].isspace():
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
        elif not line.strip():
            break
        else:
            for name in names:
                texts[name] = f"{texts.get(name, '')} {line.strip()}".strip()
    return {name: re.sub(r"`+", "", text).rstrip(".") for name, text in texts.items()}

# SPDX-License-Identifier: Apache-2.0
"""Reading COPA: a premise, two alternatives, and which of them is its cause or its effect.

The XML is read with the expat parser alone, so that errors have lines; declarations of entities are refused,
which is what hostile XML is made of, and nothing outside the file is ever opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.rows import Row, find_column, iterate_rows, text_cell

if TYPE_CHECKING:
    import os

__all__ = ["CopaExample", "read_copa"]

_QUESTIONS = ("cause", "effect")
_PARTS = ("p", "a1", "a2")


@dataclass(frozen=True, slots=True)
class CopaExample:
    """One question.

    Attributes
    ----------
    premise : str
    alternatives : pair of str
    question : {"cause", "effect"}
        What the right alternative is of the premise.
    label : int
        0 or 1.
    line : int
        Where it starts in its file, from 1.
    """

    premise: str
    alternatives: tuple[str, str]
    question: str
    label: int
    line: int = 0


def read_copa(path: str | os.PathLike[str]) -> list[CopaExample]:
    """Read questions.

    Parameters
    ----------
    path : path
        ``.xml`` as COPA has it, or ``.jsonl`` as SuperGLUE has it (`premise`, `choice1`, `choice2`,
        `question`, `label` 0 or 1).

    Returns
    -------
    list of CopaExample
        At least one.

    Raises
    ------
    DataError
        If the file is missing, malformed, or lacks a part or a label; with ``file:line``.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix == ".xml":
        examples = _Reader(file).read()
    elif suffix == ".jsonl":
        examples = [_example(file, line, row) for line, row in iterate_rows(file)]
    else:
        raise DataError(f"{file}: expected a file named .xml or .jsonl")
    if not examples:
        raise DataError(f"{file}: expected at least one question, found none")
    return examples


class _Reader:
    """Collects the items of a COPA file while expat walks through it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._examples: list[CopaExample] = []
        self._path: list[str] = []
        self._attributes: dict[str, str] = {}
        self._parts: dict[str, str] = {}
        self._line = 0

    def read(self) -> list[CopaExample]:
        from xml.parsers import expat

        try:
            data = self._file.read_bytes()
        except OSError as error:
            raise DataError(f"{self._file}: cannot be read: {error.strerror or error}") from error
        # Text is UTF-8 whatever the file declares: other encodings would be looked up by name.
        parser = self._parser = expat.ParserCreate("UTF-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._entity
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            # A copa-corpus cut off is reported where it ends.
            raise DataError(f"{self._file}:{error.lineno}: not XML: {error}") from error
        return self._examples

    def _fail(self, line: int, message: str) -> DataError:
        return DataError(f"{self._file}:{line}: {message}")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if len(self._path) == 1 and name != "copa-corpus":
            raise self._fail(self._parser.CurrentLineNumber, f"expected copa-corpus, found {name:.40}")
        if len(self._path) == 2:
            if name != "item":
                raise self._fail(self._parser.CurrentLineNumber, f"expected item, found {name:.40}")
            self._attributes, self._parts = attributes, {}
            self._line = self._parser.CurrentLineNumber
        elif len(self._path) == 3:
            if name not in _PARTS or name in self._parts:
                raise self._fail(
                    self._parser.CurrentLineNumber, f"expected p, a1 and a2, each once, found {name:.40}"
                )
            self._parts[name] = ""
        elif len(self._path) > 3:
            raise self._fail(self._parser.CurrentLineNumber, f"expected text, found {name:.40}")

    def _text(self, text: str) -> None:
        if len(self._path) == 3:
            self._parts[self._path[-1]] += text

    def _end(self, name: str) -> None:
        self._path.pop()
        if len(self._path) != 1:
            return
        for part in _PARTS:
            if not self._parts.get(part, "").strip():
                raise self._fail(self._line, f"item: expected a text in {part}, found none")
        question = self._attributes.get("asks-for", "")
        label = self._attributes.get("most-plausible-alternative", "")
        if question not in _QUESTIONS:
            raise self._fail(self._line, f"asks-for: expected cause or effect, found {question!r:.40}")
        if label not in ("1", "2"):
            raise self._fail(self._line, f"most-plausible-alternative: expected 1 or 2, found {label!r:.40}")
        premise, first, second = (" ".join(self._parts[part].split()) for part in _PARTS)
        self._examples.append(CopaExample(premise, (first, second), question, int(label) - 1, self._line))

    def _entity(self, *declaration: Any) -> None:
        raise self._fail(self._parser.CurrentLineNumber, "expected no declaration of an entity, found one")


def _example(file: Path, line: int, row: Row) -> CopaExample:
    def text(name: str, *, numbers: bool = False) -> str:
        column = find_column(file, line, row, (name,), name)
        value = text_cell(file, line, row, column, numbers=numbers).strip()
        if not value:
            raise DataError(f"{file}:{line}: {name}: expected a text, found none")
        return value

    premise, first, second, question = (text(name) for name in ("premise", "choice1", "choice2", "question"))
    label = text("label", numbers=True)
    if question not in _QUESTIONS:
        raise DataError(f"{file}:{line}: question: expected cause or effect, found {question!r:.40}")
    if label not in ("0", "1"):
        raise DataError(f"{file}:{line}: label: expected 0 or 1, found {label!r:.40}")
    return CopaExample(premise, (first, second), question, int(label), line)

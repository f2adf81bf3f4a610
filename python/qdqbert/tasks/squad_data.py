# SPDX-License-Identifier: Apache-2.0
"""Reading SQuAD files (v1.1 and v2.0), with errors that name the file and the place in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdqbert.tasks.data_error import DataError, has_lone_surrogate

if TYPE_CHECKING:
    import os

__all__ = ["SquadDataset", "SquadExample", "join_squad", "read_predictions", "read_squad"]


@dataclass(frozen=True, slots=True)
class SquadExample:
    """One question about one paragraph.

    Attributes
    ----------
    id : str
        Unique in its file.
    question, context : str
    answers : tuple of (str, int)
        Gold answers and their character offsets in `context`; empty where there is no answer or it is not
        known.
    title : str
        Article.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class SquadDataset:
    """The questions of one file.

    Attributes
    ----------
    examples : tuple of SquadExample
        In the order of the file; questions about one paragraph follow each other and share its text.
    version_2 : bool
        Whether some question has no answer, so that v2.0 rules apply.
    source : str
        File name, for messages.
    """

    examples: tuple[SquadExample, ...]
    version_2: bool
    source: str

    def answers(self) -> dict[str, list[str]]:
        """Gold answers by question id, as the scorers take them."""
        return {example.id: [text for text, _ in example.answers] for example in self.examples}


def read_squad(path: str | os.PathLike[str]) -> SquadDataset:
    """Read a SQuAD v1.1 or v2.0 file.

    Parameters
    ----------
    path : path
        JSON: ``{"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ..., "answers":
        [...]}]}]}]}``. `answers` and `is_impossible` may be absent (a test set).

    Returns
    -------
    SquadDataset

    Raises
    ------
    DataError
        If the file is missing, not UTF-8, not JSON (with line and column), or a member is absent, of a wrong
        type, or an id appears twice (with its place, e.g. ``data[0].paragraphs[3].qas[1].id``).
    """
    file = Path(path)
    root = _load_json(file)
    examples: list[SquadExample] = []
    seen: dict[str, str] = {}
    impossible = False
    for article_place, article in _members(file, "$", root, "data"):
        title = _text(file, article_place, article, "title", default="")
        for paragraph_place, paragraph in _members(file, article_place, article, "paragraphs"):
            context = _text(file, paragraph_place, paragraph, "context")
            for place, question in _members(file, paragraph_place, paragraph, "qas"):
                example, has_no_answer = _question(file, place, question, context, title)
                if example.id in seen:
                    raise DataError(
                        f"{file}: {place}.id: {example.id!r} stands already at {seen[example.id]}"
                    )
                seen[example.id] = place
                impossible = impossible or has_no_answer
                examples.append(example)
    if not examples:
        raise DataError(f"{file}: expected at least one question, found none")
    version = root.get("version")
    version_2 = impossible or (isinstance(version, str) and version.lower().lstrip("v").startswith("2"))
    return SquadDataset(tuple(examples), version_2, str(file))


def join_squad(parts: Sequence[SquadDataset]) -> SquadDataset:
    """Make one data set of those of several files.

    Parameters
    ----------
    parts : sequence of SquadDataset
        At least one.

    Returns
    -------
    SquadDataset
        The rules of v2.0 apply if they do for one of them.

    Raises
    ------
    DataError
        If a question's id appears in two of them.
    """
    seen: set[str] = set()
    for part in parts:
        for example in part.examples:
            if example.id in seen:
                raise DataError(f"{part.source}: id: {example.id!r} stands already in another file")
        seen.update(example.id for example in part.examples)
    return SquadDataset(
        tuple(example for part in parts for example in part.examples),
        any(part.version_2 for part in parts),
        ", ".join(part.source for part in parts),
    )


def read_predictions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a predictions file as the official scorers take it: an object from question id to text.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict of str to str

    Raises
    ------
    DataError
        If the file is missing, not JSON, or a prediction is not a text.
    """
    file = Path(path)
    root = _load_json(file)
    for key, value in root.items():
        if not isinstance(value, str):
            raise DataError(f"{file}: $[{key!r}]: expected a text, found {_kind(value)}")
    return root


def _question(
    file: Path, place: str, question: dict[str, Any], context: str, title: str
) -> tuple[SquadExample, bool]:
    identifier = _text(file, place, question, "id")
    text = _text(file, place, question, "question")
    if not identifier:
        raise DataError(f"{file}: {place}.id: expected a text that is not empty")
    impossible = question.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise DataError(f"{file}: {place}.is_impossible: expected true or false, found {_kind(impossible)}")
    answers: list[tuple[str, int]] = []
    if "answers" in question:
        for answer_place, answer in _members(file, place, question, "answers"):
            start = answer.get("answer_start")
            if not isinstance(start, int) or isinstance(start, bool):
                raise DataError(
                    f"{file}: {answer_place}.answer_start: expected an integer, found {_kind(start)}"
                )
            if not 0 <= start <= len(context):
                raise DataError(
                    f"{file}: {answer_place}.answer_start: expected 0 .. {len(context)} "
                    f"(the length of the context), found {start}"
                )
            answers.append((_text(file, answer_place, answer, "text"), start))
    has_no_answer = impossible or ("answers" in question and not answers)
    return SquadExample(identifier, text, context, () if impossible else tuple(answers), title), has_no_answer


def _load_json(file: Path) -> dict[str, Any]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    try:
        root = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: expected UTF-8, found byte 0x{data[error.start]:02x}"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        ) from error
    except RecursionError as error:
        raise DataError(f"{file}: not a SQuAD file: nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{file}: not JSON that can be read: {error}") from error
    if not isinstance(root, dict):
        raise DataError(f"{file}: $: expected an object, found {_kind(root)}")
    return root


def _members(file: Path, place: str, parent: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of the array `key` of `parent`, each with its place."""
    prefix = key if place == "$" else f"{place}.{key}"
    if key not in parent:
        raise DataError(f"{file}: {prefix}: expected an array, found nothing")
    array = parent[key]
    if not isinstance(array, list):
        raise DataError(f"{file}: {prefix}: expected an array, found {_kind(array)}")
    for index, item in enumerate(array):
        if not isinstance(item, dict):
            raise DataError(f"{file}: {prefix}[{index}]: expected an object, found {_kind(item)}")
    return [(f"{prefix}[{index}]", item) for index, item in enumerate(array)]


def _text(file: Path, place: str, parent: dict[str, Any], key: str, default: str | None = None) -> str:
    value = parent.get(key, default)
    if not isinstance(value, str):
        found = _kind(value) if key in parent else "nothing"
        raise DataError(f"{file}: {place}.{key}: expected a text, found {found}")
    if has_lone_surrogate(value):
        raise DataError(f"{file}: {place}.{key}: expected a text, found half of a surrogate pair in it")
    return value


def _kind(value: object) -> str:
    """JSON's name for the type of a value."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "an array" if isinstance(value, list) else "an object")

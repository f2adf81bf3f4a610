# SPDX-License-Identifier: Apache-2.0
"""Any table of texts for training: CSV, TSV or JSON lines with columns `text`, `label` and perhaps `text_b`.

What the labels mean is said by an option, by the configuration (`problem_type`, or a single label, or names
of classes), or else by the file:

- lists (of JSON lines, or cells that are cut at `label_delimiter`) are any number of classes at once;
- numbers of which one is not whole (``4.5``, ``1.0``) are a regression;
- anything else is one class, by its name.

Texts are encoded as they are read, and forgotten.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.data.feature_table import FeatureTable
from qdqbert.data.text_pairs import encoded_items
from qdqbert.data.training_data import Limits, TrainingData, label_names, padding_collator
from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.encoding import TextExample, bare_tokenizer
from qdqbert.tasks.rows import Row, find_column, iterate_rows, text_cell
from qdqbert.tasks.task import longest_input
from qdqbert.tasks.text_classification import (
    LABEL_COLUMNS,
    PAIR_COLUMNS,
    TEXT_COLUMNS,
    TextClassification,
    find_class,
    numbers_of_classes,
)

__all__ = ["PROBLEM_TYPES", "read_labelled_texts"]

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


# A label as it stands in a row: one text, or several.
_Label = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A label and where it stands."""

    file: Path
    line: int
    label: _Label

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.label,) if isinstance(self.label, str) else self.label


def read_labelled_texts(
    files: list[Path],
    tokenizer: Any,
    config: Any,
    limits: Limits,
    *,
    problem_type: str | None = None,
    label_delimiter: str | None = None,
) -> TrainingData:
    """Read tables of texts with labels.

    Parameters
    ----------
    files : list of Path
        ``.csv``, ``.tsv`` or ``.jsonl``; columns as in `qdqbert.tasks.text_classification.read_texts`.
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    config : QDQBertConfig
        If its head has named classes, labels are these names or their numbers; if it has placeholders, the
        names are collected from all rows and sorted, numbers by value.
    limits : Limits
    problem_type : {None, "regression", "single_label_classification", "multi_label_classification"}
        See the module's text.
    label_delimiter : str, optional
        Cuts the cells of labels into lists.

    Returns
    -------
    TrainingData
        Items with ``labels``: a class, int64; or float32, one number, a row of them, or a row with 1 for each
        class that applies.

    Raises
    ------
    DataError
        If a file is missing, empty or malformed, or a label does not fit; with file and line.
    ValueError
        If an option is out of its range.
    """
    if problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"problem_type: expected one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}")
    if label_delimiter == "":
        raise ValueError("label_delimiter: expected a text, got an empty one")
    longest = longest_input(limits.max_seq_length, config)
    found: list[_Found] = []
    examples = _examples(files, label_delimiter, found)
    taken = islice(examples, limits.max_train_samples)
    table = FeatureTable.of(encoded_items(taken, bare_tokenizer(tokenizer), longest))
    for _ in examples:  # only for their labels: what the classes are does not depend on how many are taken
        pass
    kind = problem_type or config.problem_type or _problem_type(found, config)
    names, labels = _numbered(found, kind, label_names(config))
    return TrainingData(
        TextClassification.name,
        TextClassification.model_class,
        table.with_rows(labels=labels[: len(table)]),
        padding_collator(tokenizer, limits, longest),
        len(table),
        names,
        kind,
    )


def _examples(files: list[Path], delimiter: str | None, found: list[_Found]) -> Iterator[TextExample]:
    """Texts of the rows; each label is added to `found` before its text is given."""
    known: dict[_Label, _Label] = {}
    for file in files:
        before = len(found)
        for line, row in iterate_rows(file, tsv_escapes=True):
            text = find_column(file, line, row, TEXT_COLUMNS, "text")
            pair = next((name for name in PAIR_COLUMNS if name in row), None)
            label = _label(file, line, row, delimiter)
            found.append(_Found(file, line, known.setdefault(label, label)))
            yield TextExample(
                text_cell(file, line, row, text),
                "",
                None if pair is None else text_cell(file, line, row, pair),
                line,
            )
        if len(found) == before:
            raise DataError(f"{file}: expected at least one text, found none")


def _label(file: Path, line: int, row: Row, delimiter: str | None) -> _Label:
    name = find_column(file, line, row, LABEL_COLUMNS, "label")
    value = row[name]
    if isinstance(value, list):
        return tuple(_label_text(file, line, name, each) for each in value)
    text = _label_text(file, line, name, value) if value != "" else ""
    if delimiter is not None and isinstance(value, str):
        return tuple(part for part in (each.strip() for each in text.split(delimiter)) if part)
    if not text:
        raise DataError(f"{file}:{line}: {name}: expected one, found none")
    return text


def _label_text(file: Path, line: int, name: str, value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{file}:{line}: {name}: expected a finite number, found {value}")
    return text_cell(file, line, {name: value}, name, numbers=True).strip()


def _problem_type(found: Sequence[_Found], config: Any) -> str:
    if any(isinstance(each.label, tuple) for each in found):
        return PROBLEM_TYPES[2]
    if config.num_labels == 1:
        return PROBLEM_TYPES[0]
    if label_names(config) is not None or all(_is_whole(each.texts[0]) for each in found):
        return PROBLEM_TYPES[1]
    strangers = [each for each in found if _number(each.texts[0]) is None]
    if not strangers:
        return PROBLEM_TYPES[0]
    numbers = [each for each in found if _number(each.texts[0]) is not None and not _is_whole(each.texts[0])]
    if numbers:
        raise DataError(
            f"{strangers[0].place}: label: expected a number, as {numbers[0].place} has one "
            f"({numbers[0].label}), found {strangers[0].label!r:.40}; with "
            "problem_type='single_label_classification' both are names"
        )
    return PROBLEM_TYPES[1]


def _numbered(
    found: Sequence[_Found], kind: str, names: Mapping[int, str] | None
) -> tuple[Mapping[int, str], npt.NDArray[Any]]:
    """Names of the classes, and the labels of all rows as a loss takes them."""
    if kind == "regression":
        return _numbers(found, names)
    names = names or dict(enumerate(sorted({text for each in found for text in each.texts}, key=_order)))
    classes = numbers_of_classes(names)
    if kind == "single_label_classification":
        single = np.empty(len(found), dtype=np.int64)
        for row, each in enumerate(found):
            if isinstance(each.label, tuple):
                raise DataError(f"{each.place}: label: expected one class, found a list")
            single[row] = find_class(each.place, each.label, classes)
        return names, single
    several = np.zeros((len(found), len(names)), dtype=np.float32)
    for row, each in enumerate(found):
        if isinstance(each.label, str):
            raise DataError(f"{each.place}: label: expected a list of classes, found {each.label!r:.40}")
        for text in each.texts:
            several[row, find_class(each.place, text, classes)] = 1.0
    return names, several


def _numbers(
    found: Sequence[_Found], names: Mapping[int, str] | None
) -> tuple[Mapping[int, str], npt.NDArray[np.float32]]:
    size = len(found[0].texts) if names is None else len(names)
    values = np.empty((len(found), size), dtype=np.float32)
    for row, each in enumerate(found):
        if len(each.texts) != size:
            raise DataError(f"{each.place}: label: expected {size} numbers, found {len(each.texts)}")
        for column, text in enumerate(each.texts):
            number = _number(text)
            if number is None or not math.isfinite(number):
                raise DataError(f"{each.place}: label: expected a finite number, found {text!r:.40}")
            values[row, column] = number
    names = names or {index: f"LABEL_{index}" for index in range(size)}
    return names, values[:, 0] if size == 1 else values


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", text) is not None


def _order(text: str) -> tuple[bool, int, str]:
    """Numbers by value, then names."""
    is_whole = _is_whole(text) and len(text) <= 18
    return (not is_whole, int(text) if is_whole else 0, text)

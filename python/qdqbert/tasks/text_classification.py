# SPDX-License-Identifier: Apache-2.0
"""Text classification: read labelled texts from TSV, CSV or JSON lines, and measure accuracy.

A model is anything that is called as ``model(input_ids=..., attention_mask=..., token_type_ids=...)`` with
(B, T) int64 arrays and returns an object with `logits` (B, C).  Its `config.id2label` names the classes.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.batching import MAX_BATCH_TOKENS, batch_inputs, by_length, chunks, progress_bar
from qdqbert.tasks.data_error import DataError, has_lone_surrogate
from qdqbert.tokenization import special_token_id

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = [
    "ClassificationResult",
    "TextExample",
    "calibration_batches",
    "evaluate",
    "iterate_logits",
    "label_ids",
    "read_texts",
]

# Column names under which public data sets keep texts and labels, the usual one first.
_TEXT = ("text", "sentence", "sentence1", "premise", "question")
_TEXT_PAIR = ("text_pair", "sentence2", "hypothesis")
_LABEL = ("label", "class")

# Texts in memory at a time.
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class TextExample:
    """One text, or a pair, with its label.

    Attributes
    ----------
    text : str
    label : str
        As in the file.
    text_pair : str or None
    line : int
        Where it starts in its file, from 1.
    """

    text: str
    label: str
    text_pair: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class ClassificationResult:
    """Accuracy of a model.

    Attributes
    ----------
    accuracy : float
        Percent.
    correct : ndarray (texts,) bool
        In the order of the texts: what a paired comparison needs.
    predicted : ndarray (texts,) int64
        Class ids.
    """

    accuracy: float
    correct: npt.NDArray[np.bool_]
    predicted: npt.NDArray[np.int64]


def read_texts(path: str | os.PathLike[str]) -> list[TextExample]:
    r"""Read labelled texts.

    Parameters
    ----------
    path : path
        By suffix: ``.tsv`` (tabs; no quotes; a backslash takes the next character literally), ``.csv``
        (commas, double quotes) or ``.jsonl`` / ``.json`` (one object a line).  The first row of a table names
        its columns: `text` (or `sentence`, `sentence1`, `premise`, `question`), `label` (or `class`), and for
        pairs `text_pair` (or `sentence2`, `hypothesis`).  Other columns are ignored.

    Returns
    -------
    list of TextExample
        At least one.

    Raises
    ------
    DataError
        If the file is missing, of an unknown suffix, not UTF-8, or a row does not fit; with ``file:line``.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in (".tsv", ".csv", ".jsonl", ".json"):
        raise DataError(f"{file}: expected a file named .tsv, .csv, .jsonl or .json")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{line}: expected UTF-8, found byte 0x{data[error.start]:02x}") from error
    rows = _json_rows(file, text) if suffix.startswith(".json") else _table_rows(file, text, suffix == ".tsv")
    examples = [_example(file, line, row) for line, row in rows]
    if not examples:
        raise DataError(f"{file}: expected at least one text, found none")
    return examples


def label_ids(
    examples: Sequence[TextExample], id2label: Mapping[int, str], source: str = "data"
) -> npt.NDArray[np.int64]:
    """Class ids of labels.

    Parameters
    ----------
    examples : sequence of TextExample
    id2label : mapping of int to str
        Names of the model's classes.
    source : str
        File name, for messages.

    Returns
    -------
    ndarray (texts,) int64

    Raises
    ------
    DataError
        If a label is neither the name of a class nor the number of one, with ``file:line`` and near misses.
    """
    ids = {name: index for index, name in id2label.items()}
    for index in id2label:
        ids.setdefault(str(index), index)
    result = np.empty(len(examples), dtype=np.int64)
    for position, example in enumerate(examples):
        if example.label not in ids:
            near = difflib.get_close_matches(example.label, ids, n=3)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise DataError(
                f"{source}:{example.line}: label: expected one of the model's {len(id2label)} classes "
                f"or its number, found {example.label!r}{hint}"
            )
        result[position] = ids[example.label]
    return result


def iterate_logits(
    model: Any,
    examples: Sequence[TextExample],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    progress: bool | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Logits of one text after the other.

    Parameters
    ----------
    model : callable
        See the module's text.
    examples : sequence of TextExample
    tokenizer : tokenizers.Tokenizer
    max_length : int
        Wordpieces kept of a text, special tokens included; at least 4.  Of a pair the longer one is cut
        first.
    max_batch_tokens : int
        Most tokens, padding included, of one call of the model; >= 1.
    progress : bool, optional
        Whether to show a bar on stderr; by default on a terminal only.

    Yields
    ------
    ndarray (C,) float32
        In the order of `examples`.

    Raises
    ------
    ValueError
        If `max_length` is too small or the model's logits do not have one row for each text.
    """
    advance = progress_bar(len(examples), "text", "classification", show=progress)
    try:
        for chunk in chunks(examples, _CHUNK):
            encoded = [_encode(example, tokenizer, max_length) for example in chunk]
            rows: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(chunk)
            for batch in by_length([len(ids) for ids, _ in encoded], max_batch_tokens):
                out = model(**_inputs([encoded[index] for index in batch], tokenizer))
                logits = np.asarray(out.logits)
                if logits.ndim != 2 or len(logits) != len(batch):
                    raise ValueError(
                        f"logits: expected one row for each of {len(batch)} texts, found {logits.shape}"
                    )
                for row, index in enumerate(batch):
                    rows[index] = logits[row].copy()
            yield from rows
            advance(len(chunk))
    finally:
        advance(0)


def evaluate(
    model: Any,
    examples: Sequence[TextExample],
    labels: npt.NDArray[np.int64],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    progress: bool | None = None,
) -> ClassificationResult:
    """Share of texts whose largest logit is that of their label.

    Parameters
    ----------
    model, examples, tokenizer, max_length, max_batch_tokens, progress
        As in `iterate_logits`; at least one text.
    labels : ndarray (texts,) int64
        Class ids, as `label_ids` gives them.

    Returns
    -------
    ClassificationResult

    Raises
    ------
    ValueError
        If there are no texts, or `labels` has another length.
    """
    if not examples or len(examples) != len(labels):
        raise ValueError(
            f"labels: expected one for each of at least one texts, found {len(labels)} for {len(examples)}"
        )
    rows = iterate_logits(
        model,
        examples,
        tokenizer,
        max_length=max_length,
        max_batch_tokens=max_batch_tokens,
        progress=progress,
    )
    predicted = np.fromiter((int(row.argmax()) for row in rows), dtype=np.int64, count=len(examples))
    correct = predicted == labels
    return ClassificationResult(100.0 * float(correct.mean()), correct, predicted)


def calibration_batches(
    examples: Sequence[TextExample],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    samples: int = 128,
    seed: int = 13,
    batch_size: int = 1,
) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
    """Model inputs for calibration, of ``random.Random(seed).sample(examples, samples)``, in that order.

    Parameters
    ----------
    examples : sequence of TextExample
        Labels are not looked at.
    tokenizer : tokenizers.Tokenizer
    max_length : int
        As in `iterate_logits`.
    samples : int
        Texts, >= 1; all of them, shuffled, if there are fewer.
    seed : int
    batch_size : int
        Texts of a batch, >= 1; 1 leaves nothing to pad.

    Yields
    ------
    dict of ndarray (B, T) int64
        `input_ids`, `attention_mask`, `token_type_ids`.

    Raises
    ------
    ValueError
        If `samples` or `batch_size` is not positive, or `examples` is empty.
    """
    if samples < 1 or batch_size < 1 or not examples:
        raise ValueError(
            f"samples, batch_size, examples: expected at least 1 of each, "
            f"found {samples}, {batch_size}, {len(examples)}"
        )
    chosen = random.Random(seed).sample(examples, min(samples, len(examples)))
    for batch in chunks(chosen, batch_size):
        yield _inputs([_encode(example, tokenizer, max_length) for example in batch], tokenizer)


def _table_rows(file: Path, text: str, is_tsv: bool) -> Iterator[tuple[int, dict[str, str]]]:
    lines = io.StringIO(text, newline="")
    if is_tsv:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\", strict=True)
    else:
        reader = csv.reader(lines, strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not header:
                header = cells
            elif cells:
                if len(cells) != len(header):
                    raise DataError(
                        f"{file}:{line}: expected {len(header)} columns ({', '.join(header)}), "
                        f"found {len(cells)}"
                    )
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}:{line}: {error}") from error


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}:{line}: not JSON: {error.msg} at column {error.colno}") from error
        except RecursionError as error:
            raise DataError(f"{file}:{line}: JSON nested too deeply") from error
        except ValueError as error:  # a number of thousands of digits
            raise DataError(f"{file}:{line}: not JSON that can be read: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{file}:{line}: expected an object with text and label, found {type(row).__name__}"
            )
        yield line, {key: _cell(file, line, key, value) for key, value in row.items()}


def _cell(file: Path, line: int, key: str, value: Any) -> str:
    if key not in (*_TEXT, *_TEXT_PAIR, *_LABEL):
        return ""
    if isinstance(value, str) and not has_lone_surrogate(value):
        return value
    if key in _LABEL and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{file}:{line}: {key}: expected a text, found {value!r:.40}")


def _example(file: Path, line: int, row: dict[str, str]) -> TextExample:
    text, label, pair = (
        next((name for name in names if name in row), None) for names in (_TEXT, _LABEL, _TEXT_PAIR)
    )
    if text is None or label is None:
        wanted = "text" if text is None else "label"
        raise DataError(f"{file}:{line}: expected a column {wanted!r}, found {', '.join(row) or 'none'}")
    return TextExample(row[text], row[label].strip(), None if pair is None else row[pair], line)


def _encode(
    example: TextExample, tokenizer: Tokenizer, max_length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids and token types of ``[CLS] text [SEP]`` or ``[CLS] text [SEP] pair [SEP]``, cut to `max_length`."""
    if max_length < 4:
        raise ValueError(f"max_length: expected at least 4, found {max_length}")
    cls, sep = special_token_id(tokenizer, "[CLS]"), special_token_id(tokenizer, "[SEP]")
    first = tokenizer.encode(example.text, add_special_tokens=False).ids
    if example.text_pair is None:
        ids = [cls, *first[: max_length - 2], sep]
        return np.array(ids, dtype=np.int64), np.zeros(len(ids), dtype=np.int64)
    second = tokenizer.encode(example.text_pair, add_special_tokens=False).ids
    room = max_length - 3
    # Longest first, one wordpiece at a time; of equally long ones the second loses.
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        longer.pop()
    ids = [cls, *first, sep, *second, sep]
    types = np.zeros(len(ids), dtype=np.int64)
    types[len(first) + 2 :] = 1
    return np.array(ids, dtype=np.int64), types


def _inputs(
    encoded: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]], tokenizer: Tokenizer
) -> dict[str, npt.NDArray[np.int64]]:
    pad = tokenizer.token_to_id("[PAD]")
    return batch_inputs([ids for ids, _ in encoded], [types for _, types in encoded], pad or 0)

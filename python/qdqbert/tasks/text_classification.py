# SPDX-License-Identifier: Apache-2.0
"""Text classification: read labelled texts from TSV, CSV or JSON lines, and measure accuracy.

A model is anything that is called as ``model(input_ids=..., attention_mask=..., token_type_ids=...)`` with
(B, T) int64 arrays and returns an object with `logits` (B, C).  Its `config.id2label` names the classes.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.seeds import require_seed
from qdqbert.tasks.batching import MAX_BATCH_TOKENS, chunks, iterate_outputs
from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.encoding import EncodedText, TextExample, bare_tokenizer, encode_text, padded
from qdqbert.tasks.metrics import F1, correct_mean
from qdqbert.tasks.rows import Row, find_column, iterate_rows, text_cell
from qdqbert.tasks.sequence_task import SequenceTask, sequence_logits
from qdqbert.tasks.task import Figure, Scored, as_paths, longest_input

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = [
    "LABEL_COLUMNS",
    "PAIR_COLUMNS",
    "TEXT_COLUMNS",
    "ClassificationResult",
    "TextClassification",
    "TextExample",
    "calibration_batches",
    "evaluate",
    "find_class",
    "iterate_logits",
    "label_ids",
    "numbers_of_classes",
    "read_texts",
]

# Column names under which public data sets keep texts and labels, the usual one first.
TEXT_COLUMNS = ("text", "sentence", "sentence1", "premise", "question")
PAIR_COLUMNS = ("text_pair", "text_b", "sentence2", "hypothesis")
LABEL_COLUMNS = ("label", "class")


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
        pairs `text_pair` (or `text_b`, `sentence2`, `hypothesis`).  Other columns are ignored.

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
    examples = [_example(file, line, row) for line, row in iterate_rows(file, tsv_escapes=True)]
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
    numbers = numbers_of_classes(id2label)
    found = [find_class(f"{source}:{example.line}", example.label, numbers) for example in examples]
    return np.array(found, dtype=np.int64)


def numbers_of_classes(id2label: Mapping[int, str]) -> dict[str, int]:
    """Class ids by what names them in files: their names, and their numbers where no name is like one.

    Parameters
    ----------
    id2label : mapping of int to str

    Returns
    -------
    dict of str to int
    """
    numbers = {name: index for index, name in id2label.items()}
    for index in id2label:
        numbers.setdefault(str(index), index)
    return numbers


def find_class(place: str, label: str, numbers: Mapping[str, int]) -> int:
    """Class id of a label.

    Parameters
    ----------
    place : str
        ``file:line``, for messages.
    label : str
    numbers : mapping of str to int
        See `numbers_of_classes`.

    Returns
    -------
    int

    Raises
    ------
    DataError
        If it names no class, with near misses.
    """
    if label in numbers:
        return numbers[label]
    near = difflib.get_close_matches(label, numbers, n=3)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise DataError(
        f"{place}: label: expected one of the model's {len(set(numbers.values()))} classes or its number, "
        f"found {label!r:.40}{hint}"
    )


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
    outputs = iterate_outputs(
        model,
        ([encode_text(example.text, example.text_pair, tokenizer, max_length)] for example in examples),
        size=len,
        inputs=lambda batch: padded(batch, tokenizer),
        outputs=sequence_logits,
        max_batch_tokens=max_batch_tokens,
        total=len(examples),
        unit="text",
        description="classification",
        progress=progress,
    )
    for (logits,) in outputs:
        yield logits


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
    require_seed("seed", seed)
    chosen = random.Random(seed).sample(examples, min(samples, len(examples)))
    for batch in chunks(chosen, batch_size):
        encoded: list[EncodedText] = [
            encode_text(example.text, example.text_pair, tokenizer, max_length) for example in batch
        ]
        yield padded(encoded, tokenizer)


class TextClassification(SequenceTask):
    """Texts or pairs with a class each, whatever the classes are.

    Labels are the names or the numbers of the model's classes.

    Parameters
    ----------
    examples, labels, tokenizer, max_length
        As in `SequenceTask`.
    """

    name = "classification"
    metric = "accuracy"
    item = "text"

    _classes: Mapping[int, str]

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
    ) -> Self:
        """Read files of labelled texts.

        Parameters
        ----------
        paths : path or sequence of paths
            See `read_texts`.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
            Its `id2label` names the classes.
        max_length : int, optional
            Wordpieces kept of a text, special tokens included; 4 .. the model's positions, which is the
            default.

        Raises
        ------
        DataError
            If a file is missing or malformed, or a label is of no class; with file and line.
        ValueError
            If `max_length` does not fit.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config)
        examples: list[TextExample] = []
        labels: list[npt.NDArray[np.int64]] = []
        for file in as_paths(paths):
            found = read_texts(file)
            labels.append(label_ids(found, config.id2label, str(file)))
            examples += found
        task = cls(examples, np.concatenate(labels), tokenizer, longest)
        task._classes = config.id2label
        return task

    def _figures(self, outputs: Sequence[Sequence[npt.NDArray[np.float32]]]) -> Scored:
        logits = np.stack([rows[0] for rows in outputs])
        if logits.shape[1] != len(self._classes):
            raise ValueError(f"logits: expected {len(self._classes)} for each text, found {logits.shape[1]}")
        predicted = logits.argmax(axis=1)
        figures = (
            Figure("accuracy", correct_mean(self.labels, predicted)),
            Figure("macro F1", F1(self.labels, predicted, average="macro"), is_detail=True),
        )
        counts: dict[str, float] = {
            "correct": int((predicted == self.labels).sum()),
            "total": len(self),
        }
        return figures, counts, predicted

    def _expected(self, index: int) -> str:
        return str(self._classes[int(self.labels[index])])

    def _answer(self, predictions: Any, index: int) -> str:
        return str(self._classes[int(predictions[index])])


def _example(file: Path, line: int, row: Row) -> TextExample:
    text = find_column(file, line, row, TEXT_COLUMNS, "text")
    label = find_column(file, line, row, LABEL_COLUMNS, "label")
    pair = next((name for name in PAIR_COLUMNS if name in row), None)
    return TextExample(
        text_cell(file, line, row, text),
        text_cell(file, line, row, label, numbers=isinstance(row[label], int)).strip(),
        None if pair is None else text_cell(file, line, row, pair),
        line,
    )

# SPDX-License-Identifier: Apache-2.0
"""What the tasks on single texts and pairs share: encoding, running, classes, and GLUE's files.

GLUE's TSV files have no quotes and no escapes: a quotation mark or a backslash is part of the text.  CSV and
JSON lines with the same columns, as other tools export them, are read too.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.encoding import EncodedText, TextExample, bare_tokenizer, encode_text, padded
from qdqbert.tasks.rows import find_column, iterate_rows, text_cell
from qdqbert.tasks.task import FeatureTask, Figure, Inputs, Scored, as_paths, longest_input

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["Columns", "PairOfClasses", "SequenceTask", "TwoClassTask", "labelled_examples", "sequence_logits"]

_Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names under which a table has its parts, the official one first.

    Attributes
    ----------
    text, label : tuple of str
    pair : tuple of str
        Empty for single texts.
    """

    text: tuple[str, ...]
    label: tuple[str, ...]
    pair: tuple[str, ...] = ()


class SequenceTask(FeatureTask[EncodedText, _Logits]):
    """Texts or pairs with a label each, for a sequence classification head.

    Parameters
    ----------
    examples : sequence of TextExample
    labels : ndarray (texts,) int64 or float64
        In the task's own order of classes, or numbers.
    tokenizer : tokenizers.Tokenizer
    max_length : int
        Wordpieces kept of a text, special tokens included; >= 4.
    """

    model_class = "QDQBertForSequenceClassification"
    item = "sentence"

    def __init__(
        self,
        examples: Sequence[TextExample],
        labels: npt.NDArray[Any],
        tokenizer: Tokenizer,
        max_length: int,
    ) -> None:
        self.examples: Sequence[TextExample] = examples
        self.labels: npt.NDArray[Any] = labels
        self._tokenizer, self._max_length = tokenizer, max_length

    def __len__(self) -> int:
        return len(self.examples)

    def _select(self, indices: Sequence[int]) -> Self:
        chosen = self._like(self)
        chosen.examples = [self.examples[index] for index in indices]
        chosen.labels = self.labels[list(indices)]
        return chosen

    @classmethod
    def _like(cls, other: Self) -> Self:
        """Return a shallow copy."""
        copy = cls.__new__(cls)
        vars(copy).update(vars(other))
        return copy

    def _features(self, index: int) -> list[EncodedText]:
        example = self.examples[index]
        return [encode_text(example.text, example.text_pair, self._tokenizer, self._max_length)]

    def _size(self, feature: EncodedText) -> int:
        return len(feature)

    def _inputs(self, features: Sequence[EncodedText]) -> Inputs:
        return padded(features, self._tokenizer)

    def _outputs(self, out: Any, features: Sequence[EncodedText]) -> Sequence[_Logits]:
        return sequence_logits(out, features)

    def _text(self, index: int) -> str:
        example = self.examples[index]
        return example.text if example.text_pair is None else f"{example.text} | {example.text_pair}"


class PairOfClasses:
    """The two classes of a task, and which of a model's logits is which.

    Parameters
    ----------
    names : pair of tuples of str
        What each class is called, the official name first; compared without case, spaces, hyphens and
        underscores.  The number of a class is a name of it too.

    Examples
    --------
    >>> PairOfClasses((("negative",), ("positive",))).of_model({0: "POSITIVE", 1: "NEGATIVE"})
    (1, 0)
    """

    def __init__(self, names: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
        self.names: tuple[str, str] = (names[0][0], names[1][0])
        self._numbers = {_plain(name): number for number in (0, 1) for name in (*names[number], str(number))}

    def number(self, label: str) -> int | None:
        """Class that a label of a file names.

        Parameters
        ----------
        label : str
            A name of a class or its number.

        Returns
        -------
        int or None
            0 or 1; None if it names neither.
        """
        return self._numbers.get(_plain(label))

    def of_model(self, id2label: Mapping[int, str]) -> tuple[int, int]:
        """Return the index of the logit of each class.

        Parameters
        ----------
        id2label : mapping of int to str
            Of the model's configuration.

        Returns
        -------
        (int, int)

        Raises
        ------
        ValueError
            If there are not two classes, or they have names that are neither those of the task nor the
            placeholders ``LABEL_0`` and ``LABEL_1``, of which nobody knows which is which.
        """
        if sorted(id2label) != [0, 1]:
            raise ValueError(
                f"config.num_labels: expected 2 ({', '.join(self.names)}), found {len(id2label)}"
            )
        found = [str(id2label[0]), str(id2label[1])]
        if all(re.fullmatch(r"LABEL_[01]", name) for name in found):
            found = [name[-1] for name in found]
        numbers = [self.number(name) for name in found]
        if sorted(str(number) for number in numbers) != ["0", "1"]:
            raise ValueError(
                f"config.id2label: expected {', '.join(self.names)} in some order, or LABEL_0 and LABEL_1, "
                f"found {', '.join(found)}"
            )
        return numbers.index(0), numbers.index(1)


class TwoClassTask(SequenceTask):
    """Texts or pairs of one of two classes, from a table with a header.

    A subclass gives `classes`, `columns` and `_scores`.

    Parameters
    ----------
    examples, labels, tokenizer, max_length
        As in `SequenceTask`.

    Attributes
    ----------
    logit_of_class : pair of int
        Which of the model's logits is that of each class.
    """

    classes: ClassVar[PairOfClasses]
    columns: ClassVar[Columns]

    logit_of_class: tuple[int, int]

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
    ) -> Self:
        """Read files of the task.

        Parameters
        ----------
        paths : path or sequence of paths
            ``.tsv`` as GLUE has them, or ``.csv`` or ``.jsonl`` with the same columns.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
            With two labels, see `PairOfClasses.of_model`.
        max_length : int, optional
            Wordpieces kept of a text, special tokens included; 4 .. the model's positions, which is the
            default.

        Raises
        ------
        DataError
            If a file is missing, empty or malformed, or a label is of neither class; with file and line.
        ValueError
            If the configuration or `max_length` does not fit.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config)
        logit_of_class = cls.classes.of_model(config.id2label)
        examples: list[TextExample] = []
        labels: list[int] = []
        for file in as_paths(paths):
            before = len(examples)
            for example in cls._examples(file):
                number = cls.classes.number(example.label)
                if number is None:
                    raise DataError(
                        f"{file}:{example.line}: label: expected {' or '.join(cls.classes.names)}, "
                        f"or 0 or 1, found {example.label!r:.40}"
                    )
                examples.append(example)
                labels.append(number)
            if len(examples) == before:
                raise DataError(f"{file}: expected at least one {cls.item}, found none")
        task = cls(examples, np.array(labels, dtype=np.int64), tokenizer, longest)
        task.logit_of_class = logit_of_class
        return task

    @classmethod
    def _examples(cls, file: Path) -> Iterator[TextExample]:
        """Labelled texts of a file."""
        yield from labelled_examples(file, cls.columns)

    @abstractmethod
    def _scores(self, predicted: npt.NDArray[np.int64]) -> tuple[Figure, ...]:
        """Figures of predicted classes; the labels are in `labels`."""

    def _figures(self, outputs: Sequence[Sequence[_Logits]]) -> Scored:
        logits = np.stack([rows[0] for rows in outputs])
        if logits.shape[1] != 2:
            raise ValueError(f"logits: expected 2 for each {self.item}, found {logits.shape[1]}")
        # Of equal logits argmax takes the first.
        predicted = (logits.argmax(axis=1) == self.logit_of_class[1]).astype(np.int64)
        counts: dict[str, float] = {
            "correct": int((predicted == self.labels).sum()),
            "total": len(self),
        }
        return self._scores(predicted), counts, predicted

    def _expected(self, index: int) -> str:
        return self.classes.names[int(self.labels[index])]

    def _answer(self, predictions: Any, index: int) -> str:
        return self.classes.names[int(predictions[index])]


def sequence_logits(out: Any, batch: Sequence[Any]) -> list[npt.NDArray[np.float32]]:
    """Logits of each sequence of a batch.

    Parameters
    ----------
    out : object
        What the model returned.
    batch : sequence
        Its sequences.

    Returns
    -------
    list of ndarray (C,) float32

    Raises
    ------
    ValueError
        If ``out.logits`` does not have one row for each sequence, or holds NaN, from which no class follows.
    """
    logits = np.asarray(out.logits)
    if logits.ndim != 2 or len(logits) != len(batch):
        raise ValueError(f"logits: expected one row for each of {len(batch)} texts, found {logits.shape}")
    if np.isnan(logits).any():
        raise ValueError("logits: expected numbers, found NaN")
    return [row.copy() for row in logits]


def labelled_examples(file: Path, columns: Columns) -> Iterator[TextExample]:
    """Read labelled texts or pairs from a table with a header.

    Parameters
    ----------
    file : Path
        See `iterate_rows`.
    columns : Columns

    Yields
    ------
    TextExample
        Texts without the spaces at their ends.

    Raises
    ------
    DataError
        If the file is missing or malformed, or lacks a column; with file and line.
    """
    for line, row in iterate_rows(file):
        text = find_column(file, line, row, columns.text, columns.text[0])
        label = find_column(file, line, row, columns.label, columns.label[0])
        pair = find_column(file, line, row, columns.pair, columns.pair[0]) if columns.pair else None
        yield TextExample(
            text_cell(file, line, row, text).strip(),
            text_cell(file, line, row, label, numbers=True).strip(),
            None if pair is None else text_cell(file, line, row, pair).strip(),
            line,
        )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()

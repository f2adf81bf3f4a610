# SPDX-License-Identifier: Apache-2.0
"""`read`: the training data of any task, by its name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qdqbert.data.training_data import Limits, TrainingData
from qdqbert.tasks.table import TaskEntry, find_task
from qdqbert.tasks.task import as_paths

if TYPE_CHECKING:
    import os

__all__ = ["read", "reading_options"]

_LIMITS = ("max_seq_length", "max_train_samples", "pad_to_max_length")

# Task -> module of its reader, the reader, and whether it is given the task's class.
_READERS = {
    "squad": ("question_answering", "read_question_answering", False),
    "classification": ("labelled_texts", "read_labelled_texts", False),
    "sst2": ("text_pairs", "read_two_classes", True),
    "cola": ("text_pairs", "read_two_classes", True),
    "rte": ("text_pairs", "read_two_classes", True),
    "mrpc": ("text_pairs", "read_two_classes", True),
    "stsb": ("text_pairs", "read_scored_pairs", False),
    "ner": ("tagged_words", "read_tagged_words", False),
    "copa": ("multiple_choice", "read_multiple_choice", False),
    "next-sentence": ("sentence_pairs", "read_sentence_pairs", False),
    "masked-lm": ("language_modeling", "read_masked_lm", False),
    "causal-lm": ("language_modeling", "read_causal_lm", False),
}


def read(
    task: str,
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tokenizer: Any,
    config: Any,
    **options: Any,
) -> TrainingData:
    """Read files of a task for training a model.

    Files, columns and errors are those of the evaluation (`qdqbert.tasks`), and so are the encoded inputs.

    Parameters
    ----------
    task : str
        ``"squad"``, ``"sst2"``, ``"cola"``, ``"stsb"``, ``"rte"``, ``"mrpc"``, ``"ner"``, ``"copa"``,
        ``"mlm"``, ``"clm"``, ``"nsp"``, or ``"csv"`` for any table of texts with labels; or another name in
        `qdqbert.tasks.table`.
    files : path or sequence of paths
        One or more; their items follow each other.
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    config : QDQBertConfig
        Of the model, or of the one that the model is made from.  If the classes of its head have names,
        labels are numbered as they are there; if they are placeholders (``LABEL_0``, ...), the head is still
        to be made, and ``TrainingData.id2label`` says for which classes.
    **options
        max_seq_length : int, optional
            Wordpieces kept of an input, special tokens included; up to the model's positions, which is the
            default but for SQuAD (384).
        max_train_samples : int, optional
            Only so many items, from the first on.
        pad_to_max_length : bool
            Pad every batch to `max_seq_length`.  The models of this package compute no padding, so it
            changes no result.  Default True for SQuAD, as in the original example, and False elsewhere.
        and those of the task, see `reading_options`.

    Returns
    -------
    TrainingData

    Raises
    ------
    DataError
        If a file is missing, is a folder, or is malformed; with file and line.
    ValueError
        If the task is unknown, or an option or the configuration does not fit.
    TypeError
        For an option that the task does not have.

    Examples
    --------
    >>> data = qdqbert.data.read("squad", "train-v1.1.json", tokenizer, config)             # doctest: +SKIP
    >>> loader = qdqbert.data.BatchLoader(data.dataset, 12, data.collate_fn, shuffle=True)  # doctest: +SKIP
    """
    entry = find_task(task)
    reader = _reader(entry)
    known = {**dict.fromkeys(_LIMITS), **_own_options(reader)}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{unknown[0]}: not an option of {entry.name}; those are {', '.join(known)}")
    chosen = {name: options.pop(name) for name in _LIMITS if name in options}
    if entry.name == "squad":
        chosen.setdefault("pad_to_max_length", True)
    return reader(as_paths(files), tokenizer, config, Limits(**chosen), **options)


def reading_options(task: str) -> dict[str, Any]:
    """Options of a task beside those of every task, with their defaults.

    Parameters
    ----------
    task : str
        As in `read`.

    Returns
    -------
    dict of str to object

    Raises
    ------
    ValueError
        If the task is unknown.

    Examples
    --------
    >>> reading_options("squad")
    {'doc_stride': 128, 'max_query_length': 64, 'version_2_with_negative': None}
    """
    return _own_options(_reader(find_task(task)))


def _reader(entry: TaskEntry) -> Callable[..., TrainingData]:
    module, name, takes_task = _READERS[entry.name]
    reader: Callable[..., TrainingData] = getattr(importlib.import_module(f"qdqbert.data.{module}"), name)
    return partial(reader, entry.load()) if takes_task else reader


def _own_options(reader: Callable[..., TrainingData]) -> dict[str, Any]:
    parameters = inspect.signature(reader).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}

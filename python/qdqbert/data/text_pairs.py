# SPDX-License-Identifier: Apache-2.0
"""GLUE's tasks for training: single texts and pairs, of two classes or with a number each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.data.feature_table import FeatureTable
from qdqbert.data.training_data import HeadConfig, Limits, TrainingData, label_names, padding_collator
from qdqbert.tasks.encoding import TextExample, bare_tokenizer, encode_texts
from qdqbert.tasks.sequence_task import SequenceTask, TwoClassTask
from qdqbert.tasks.stsb import STSB
from qdqbert.tasks.task import longest_input

__all__ = ["encoded_items", "read_scored_pairs", "read_two_classes"]


def read_two_classes(
    task: type[TwoClassTask], files: list[Path], tokenizer: Any, config: Any, limits: Limits
) -> TrainingData:
    """Read files of a task of two classes.

    Parameters
    ----------
    task : type
        E.g. `SST2`.
    files : list of Path
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    config : QDQBertConfig
        If it names its classes, labels are numbered as it has them; a head with placeholders is still to be
        made, and gets the official names and order.
    limits : Limits

    Returns
    -------
    TrainingData
        Items with ``labels``, a class.

    Raises
    ------
    DataError
        If a file is missing, empty or malformed, or a label is of neither class; with file and line.
    ValueError
        If the configuration names other classes, or an option is out of its range.
    """
    names = label_names(config) or dict(enumerate(task.classes.names))
    head = HeadConfig(config.max_position_embeddings, names)
    found = task.read(files, tokenizer, head, max_length=limits.max_seq_length)
    labels = np.array(found.logit_of_class, dtype=np.int64)[found.labels]
    return _data(found, labels, tokenizer, head, limits, "single_label_classification")


def read_scored_pairs(files: list[Path], tokenizer: Any, config: Any, limits: Limits) -> TrainingData:
    """Read files of STS-B.

    Parameters
    ----------
    files, tokenizer, limits
        As in `read_two_classes`, errors too.
    config : QDQBertConfig
        Its head may have one label; one with placeholders is still to be made.

    Returns
    -------
    TrainingData
        Items with ``labels``, a float32.
    """
    head = HeadConfig(config.max_position_embeddings, label_names(config) or {0: "LABEL_0"})
    found = STSB.read(files, tokenizer, head, max_length=limits.max_seq_length)
    return _data(found, found.labels.astype(np.float32), tokenizer, head, limits, "regression")


def encoded_items(
    examples: Iterable[TextExample], tokenizer: Any, max_length: int
) -> Iterator[dict[str, Any]]:
    """Encode texts and pairs.

    Parameters
    ----------
    examples : iterable of TextExample
    tokenizer : tokenizers.Tokenizer
    max_length : int
        As in `encode_text`.

    Yields
    ------
    dict of str to ndarray
        Without labels.
    """
    texts = ((example.text, example.text_pair) for example in examples)
    for encoded in encode_texts(texts, tokenizer, max_length):
        yield {"input_ids": encoded.input_ids, "token_type_ids": encoded.token_type_ids}


def _data(
    task: SequenceTask,
    labels: npt.NDArray[Any],
    tokenizer: Any,
    head: HeadConfig,
    limits: Limits,
    problem_type: str,
) -> TrainingData:
    longest = longest_input(limits.max_seq_length, head)
    count = limits.max_train_samples
    items = encoded_items(islice(task.examples, count), bare_tokenizer(tokenizer), longest)
    table = FeatureTable.of(items).with_rows(labels=labels[:count])
    return TrainingData(
        task.name,
        task.model_class,
        table,
        padding_collator(tokenizer, limits, longest),
        len(table),
        head.id2label,
        problem_type,
    )

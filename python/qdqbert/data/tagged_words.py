# SPDX-License-Identifier: Apache-2.0
"""CoNLL files for training: the windows of the evaluation, each word's tag at its first wordpiece."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qdqbert.data.collators import DataCollatorForTokenClassification
from qdqbert.data.feature_table import FeatureTable
from qdqbert.data.training_data import Limits, TrainingData, full_tokenizer, label_names, padding_options
from qdqbert.tasks.conll_data import TaggedSentence, read_conll
from qdqbert.tasks.encoding import bare_tokenizer
from qdqbert.tasks.ner import NER, check_tags, window_step
from qdqbert.tasks.task import longest_input

__all__ = ["read_tagged_words"]


def read_tagged_words(
    files: list[Path], tokenizer: Any, config: Any, limits: Limits, *, stride: int | None = None
) -> TrainingData:
    """Read files of tagged sentences.

    Parameters
    ----------
    files : list of Path
        CoNLL columns, see `read_conll`.
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    config : QDQBertConfig
        If it names its classes, these are the tags; if it has placeholders, the tags of all sentences are
        collected and sorted.
    limits : Limits
        Of `max_train_samples` = n the windows of the first n sentences are taken, and of those the first n.
    stride : int, optional
        Wordpieces from one window of a long sentence to the next; by default half of what a window holds.

    Returns
    -------
    TrainingData
        Items with ``labels``, one for each token: -100 but at the first wordpiece of a word, and there in one
        window only.

    Raises
    ------
    DataError
        If a file is missing or malformed, or holds a tag that the model does not know; with file and line.
    ValueError
        If an option is out of its range.
    """
    longest = longest_input(limits.max_seq_length, config)
    step = window_step(stride, longest)
    known = label_names(config)
    sentences: list[TaggedSentence] = []
    for file in files:
        found = read_conll(file)
        if known is not None:
            tags = set(known.values())
            for sentence in found:
                check_tags(str(file), sentence, tags)
        sentences += found
    names = known or dict(enumerate(sorted({tag for sentence in sentences for tag in sentence.tags})))
    task = NER(
        sentences[: limits.max_train_samples],
        bare_tokenizer(tokenizer),
        names,
        max_length=longest,
        stride=step,
    )
    items = islice(_items(task, {tag: index for index, tag in names.items()}), limits.max_train_samples)
    table = FeatureTable.of(items, per_token=("input_ids", "token_type_ids", "labels"))
    collate = DataCollatorForTokenClassification(
        full_tokenizer(tokenizer), **padding_options(limits, longest)
    )
    return TrainingData(NER.name, NER.model_class, table, collate, len(table), names)


def _items(task: NER, numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    for index, sentence in enumerate(task.sentences):
        for window in task.windows(index):
            labels = np.full(len(window.text), -100, dtype=np.int64)
            labels[window.positions] = [numbers[sentence.tags[word]] for word in window.words]
            yield {
                "input_ids": window.text.input_ids,
                "token_type_ids": window.text.token_type_ids,
                "labels": labels,
            }

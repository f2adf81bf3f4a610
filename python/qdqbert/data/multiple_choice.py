# SPDX-License-Identifier: Apache-2.0
"""COPA for training: the pairs of the evaluation, two for each question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qdqbert.data.collators import DataCollatorForMultipleChoice
from qdqbert.data.training_data import HeadConfig, Limits, TrainingData, full_tokenizer, padding_options
from qdqbert.tasks.copa import COPA
from qdqbert.tasks.task import longest_input

__all__ = ["read_multiple_choice"]


def read_multiple_choice(files: list[Path], tokenizer: Any, config: Any, limits: Limits) -> TrainingData:
    """Read files of COPA.

    Parameters
    ----------
    files : list of Path
        ``.xml`` or ``.jsonl``, see `qdqbert.tasks.copa_data.read_copa`.
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    config : QDQBertConfig
    limits : Limits

    Returns
    -------
    TrainingData
        Items whose values are lists with one row for each alternative, and ``labels``, the right one.

    Raises
    ------
    DataError
        If a file is missing or malformed; with file and line.
    ValueError
        If an option is out of its range.
    """
    longest = longest_input(limits.max_seq_length, config)
    head = HeadConfig(config.max_position_embeddings, {0: "LABEL_0"})
    task = COPA.read(files, tokenizer, head, max_length=longest)
    items: list[dict[str, Any]] = []
    for index, example in enumerate(task.examples[: limits.max_train_samples]):
        choices = task.choices(index)
        items.append(
            {
                "input_ids": [choice.input_ids for choice in choices],
                "token_type_ids": [choice.token_type_ids for choice in choices],
                "labels": example.label,
            }
        )
    collate = DataCollatorForMultipleChoice(full_tokenizer(tokenizer), **padding_options(limits, longest))
    return TrainingData(COPA.name, COPA.model_class, items, collate, len(items))

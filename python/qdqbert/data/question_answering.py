# SPDX-License-Identifier: Apache-2.0
"""SQuAD for training: the windows of the evaluation, with the place of the answer in each.

A window's labels are the wordpieces in which the first gold answer begins and ends, or [CLS] twice if the
answer is not wholly in the window or there is none.  Where an answer begins or ends inside a wordpiece, the
whole wordpiece counts, as in the original example.  There, an answer that begins or ends with characters that
no wordpiece holds (spaces, combining accents) takes its neighbour too; here it does not.

An answer that does not stand where the file says it does is an error, which names it: the original trains on
whatever stands there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qdqbert.data.feature_table import FeatureTable
from qdqbert.data.training_data import Limits, TrainingData, padding_collator
from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.encoding import bare_tokenizer
from qdqbert.tasks.squad import LONGEST_WINDOW, SQuAD
from qdqbert.tasks.squad_data import SquadDataset, SquadExample, join_squad, read_squad
from qdqbert.tasks.squad_features import SquadFeature, SquadOptions, features_of
from qdqbert.tasks.task import longest_input

__all__ = ["answer_positions", "read_question_answering"]


def read_question_answering(
    files: list[Path],
    tokenizer: Any,
    config: Any,
    limits: Limits,
    *,
    doc_stride: int = 128,
    max_query_length: int = 64,
    version_2_with_negative: bool | None = None,
) -> TrainingData:
    """Read SQuAD files, v1.1 or v2.0.

    Parameters
    ----------
    files : list of Path
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    config : QDQBertConfig
    limits : Limits
        Of `max_train_samples` = n the windows of the first n questions are taken, and of those the first n.
    doc_stride : int
        Wordpieces between the starts of neighbouring windows of a paragraph; >= 1.
    max_query_length : int
        Wordpieces kept of a question; >= 1.
    version_2_with_negative : bool, optional
        Whether questions may have no answer.  None: if a file says that it is of version 2, or marks one as
        impossible.

    Returns
    -------
    TrainingData
        Items with ``start_positions`` and ``end_positions``.

    Raises
    ------
    DataError
        If a file is missing or malformed, a question has no answer where it must have one, or an answer does
        not stand in its paragraph where it should; the file and the question are named.
    ValueError
        If an option is out of its range.
    """
    longest = longest_input(limits.max_seq_length, config, default=LONGEST_WINDOW)
    options = SquadOptions(max_seq_length=longest, doc_stride=doc_stride, max_query_length=max_query_length)
    parts = [read_squad(file) for file in files]
    for part in parts:
        _check_answers(part, version_2_with_negative)
    examples = join_squad(parts).examples[: limits.max_train_samples]
    features = (
        feature
        for windows in features_of(examples, bare_tokenizer(tokenizer), options)
        for feature in windows
    )
    table = FeatureTable.of(_items(islice(features, limits.max_train_samples)))
    return TrainingData(
        SQuAD.name, SQuAD.model_class, table, padding_collator(tokenizer, limits, longest), len(table)
    )


def answer_positions(feature: SquadFeature) -> tuple[int, int]:
    """Labels of a window.

    Parameters
    ----------
    feature : SquadFeature

    Returns
    -------
    (int, int)
        Positions in its `input_ids` of the first and the last wordpiece of the first answer; (0, 0), which
        is [CLS], if the answer is not wholly in the window or there is none.
    """
    if not feature.example.answers:
        return 0, 0
    answer, begin = feature.example.answers[0]
    begin, end = begin + len(answer) - len(answer.lstrip()), begin + len(answer.rstrip())
    starts, ends = feature.document.spans.T
    first = int(np.searchsorted(ends, begin, side="right")) - feature.window_start
    last = int(np.searchsorted(starts, end, side="left")) - 1 - feature.window_start
    if not 0 <= first <= last < len(feature.is_max_context):
        return 0, 0
    return feature.offset + first, feature.offset + last


def _items(features: Iterable[SquadFeature]) -> Iterator[dict[str, Any]]:
    for feature in features:
        start, end = answer_positions(feature)
        yield {
            "input_ids": feature.input_ids,
            "token_type_ids": feature.token_type_ids,
            "start_positions": start,
            "end_positions": end,
        }


def _check_answers(dataset: SquadDataset, version_2_with_negative: bool | None) -> None:
    has_negatives = dataset.version_2 if version_2_with_negative is None else version_2_with_negative
    for example in dataset.examples:
        place = f"{dataset.source}: question {example.id!r}"
        if not example.answers:
            if not has_negatives:
                raise DataError(
                    f"{place}: answers: expected one, found none; version_2_with_negative=True takes "
                    "questions without an answer"
                )
            continue
        _check_answer(place, example)


def _check_answer(place: str, example: SquadExample) -> None:
    answer, begin = example.answers[0]
    if not answer.strip():
        raise DataError(f"{place}: answers[0].text: expected a text, found {answer!r}")
    found = example.context[begin : begin + len(answer)]
    if found != answer:
        raise DataError(
            f"{place}: answers[0]: expected {answer!r:.60} at character {begin} of the context, as its "
            f"answer_start says, found {found!r:.60}"
        )

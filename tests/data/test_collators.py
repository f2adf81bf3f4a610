# SPDX-License-Identifier: Apache-2.0
"""Batches of arrays: names, shapes, types, and sentences for items that do not fit each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from qdqbert.data import (
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
    default_data_collator,
)
from qdqbert.errors import UnsupportedError

SHORT = {"input_ids": [2, 7, 3], "token_type_ids": [0, 0, 1]}
LONG = {"input_ids": np.array([2, 8, 9, 4, 3]), "token_type_ids": np.array([0, 0, 0, 1, 1])}


@pytest.mark.parametrize("collate", [default_data_collator, DefaultDataCollator()])
@pytest.mark.parametrize("key", ["label", "label_ids", "labels"])
@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 0], np.int64),
        ([np.int64(1), np.int32(0)], np.int64),
        ([np.array(1), np.array(0)], np.int64),
        ([True, False], np.int64),
        ([0.5, 1.0], np.float32),
        ([[1, 2], [3, 4]], np.int64),
        ([[0.0, 1.0], [1.0, 0.0]], np.float32),
        ([np.zeros(2, np.float32)] * 2, np.float32),
    ],
)
def test_labels_become_integers_or_float32(collate, key, values, dtype):
    batch = collate([{"x": 1, key: value} for value in values])

    assert batch["labels"].dtype == dtype
    assert batch["labels"].tolist() == np.array(values).tolist()
    assert set(batch) == {"x", "labels"}


def test_label_wins_over_label_ids_unless_it_is_none():
    assert default_data_collator([{"label": 1, "label_ids": [5]}])["labels"].tolist() == [1]
    assert default_data_collator([{"label": None, "label_ids": [5]}])["labels"].tolist() == [[5]]


def test_none_and_texts_are_left_out_and_objects_are_taken():
    @dataclass
    class Item:
        input_ids: list
        guid: str = "train-1"
        label: int = 1
        position_ids: list | None = None

    batch = default_data_collator([Item([1, 2]), Item([3, 4])])

    assert {key: values.tolist() for key, values in batch.items()} == {
        "input_ids": [[1, 2], [3, 4]],
        "labels": [1, 1],
    }


def test_items_are_padded_to_the_longest(tokenizer):
    batch = DataCollatorWithPadding(tokenizer)([{**SHORT, "label": 1}, {**LONG, "label": 0}])

    assert batch["input_ids"].tolist() == [[2, 7, 3, 0, 0], [2, 8, 9, 4, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [1, 0]
    assert {values.dtype for values in batch.values()} == {np.dtype(np.int64)}


def test_items_are_not_changed(tokenizer):
    items = [{**SHORT, "label": 1}, {**LONG, "label": 0}]

    DataCollatorWithPadding(tokenizer)(items)

    assert items[0] == {"input_ids": [2, 7, 3], "token_type_ids": [0, 0, 1], "label": 1}


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"padding": "max_length", "max_length": 9}, 9),
        ({"pad_to_multiple_of": 4}, 8),
        ({"padding": "longest"}, 5),
    ],
)
@pytest.mark.parametrize(
    "collator",
    [DataCollatorWithPadding, DataCollatorForTokenClassification, DataCollatorForMultipleChoice],
)
def test_options_of_padding_are_those_of_the_tokenizer(tokenizer, collator, options, length):
    items = [SHORT, LONG]
    if collator is DataCollatorForMultipleChoice:
        items = [{key: [SHORT[key], LONG[key]] for key in SHORT}] * 2

    assert collator(tokenizer, **options)(items)["input_ids"].shape[-1] == length


def test_floats_of_rows_stay_rows(tokenizer):
    batch = DataCollatorWithPadding(tokenizer)([{**SHORT, "labels": np.float32([1, 0, 1])}] * 2)

    assert batch["labels"].dtype == np.float32
    assert batch["labels"].tolist() == [[1, 0, 1]] * 2


@pytest.mark.parametrize("key", ["label", "labels"])
def test_labels_of_tokens_are_padded_with_what_does_not_count(tokenizer, key):
    items = [{**SHORT, key: [-100, 1, -100]}, {**LONG, key: np.array([-100, 2, -100, 3, -100])}]

    batch = DataCollatorForTokenClassification(tokenizer)(items)

    assert batch["labels"].tolist() == [[-100, 1, -100, -100, -100], [-100, 2, -100, 3, -100]]
    assert "label" not in batch
    assert {values.dtype for values in batch.values()} == {np.dtype(np.int64)}


def test_labels_of_tokens_are_padded_where_the_tokenizer_pads(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "padding_side", "left")

    batch = DataCollatorForTokenClassification(tokenizer, label_pad_token_id=-7)(
        [{**SHORT, "labels": [4, 5, 6]}, {**LONG, "labels": [1] * 5}]
    )

    assert batch["input_ids"][0].tolist() == [0, 0, 2, 7, 3]
    assert batch["labels"][0].tolist() == [-7, -7, 4, 5, 6]


def test_tokens_without_labels_are_padded_alone(tokenizer):
    assert "labels" not in DataCollatorForTokenClassification(tokenizer)([SHORT, LONG])


def test_choices_have_an_axis_of_their_own(tokenizer):
    item = {key: [SHORT[key], LONG[key]] for key in SHORT}

    batch = DataCollatorForMultipleChoice(tokenizer)([{**item, "label": 1}] * 3)

    assert {key: values.shape for key, values in batch.items()} == {
        "input_ids": (3, 2, 5),
        "token_type_ids": (3, 2, 5),
        "attention_mask": (3, 2, 5),
        "labels": (3,),
    }
    assert batch["input_ids"][2, 0].tolist() == [2, 7, 3, 0, 0]


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ([], "features: expected at least one item"),
        ([{"x": 1}, {}], "x: expected in every item, missing in one"),
        ([{"x": [1]}, {"x": [1, 2]}], "x: expected values of one size.*DataCollatorWithPadding pads"),
        ([{"x": object()}], "x: expected numbers"),
    ],
)
def test_items_that_do_not_fit_each_other_are_named(items, sentence):
    with pytest.raises(ValueError, match=sentence):
        default_data_collator(items)


@pytest.mark.parametrize(
    ("collator", "items", "sentence"),
    [
        (DataCollatorWithPadding, [], "features: expected at least one item"),
        (DataCollatorWithPadding, [SHORT, {"input_ids": [1]}], "token_type_ids: expected in every item"),
        (DataCollatorWithPadding, [{"label": 1}], "expected 'input_ids'"),
        (DataCollatorForTokenClassification, [], "features: expected at least one item"),
        (
            DataCollatorForTokenClassification,
            [{"input_ids": [1, 2], "labels": [1, 2, 3]}],
            "labels: expected at most 2",
        ),
        (DataCollatorForMultipleChoice, [], "features: expected at least one item"),
        (
            DataCollatorForMultipleChoice,
            [{"input_ids": [[1], [2]]}, {"input_ids": [[1]]}],
            r"input_ids: expected one number of choices, got \[1, 2\]",
        ),
    ],
)
def test_items_that_cannot_be_padded_are_named(tokenizer, collator, items, sentence):
    with pytest.raises(ValueError, match=sentence):
        collator(tokenizer)(items)


@pytest.mark.parametrize("tensors", ["pt", "tf"])
def test_tensors_of_other_packages_are_refused(tokenizer, tensors):
    with pytest.raises(UnsupportedError, match="return_tensors"):
        default_data_collator([{"x": 1}], return_tensors=tensors)
    with pytest.raises(UnsupportedError, match="return_tensors"):
        DataCollatorWithPadding(tokenizer, return_tensors=tensors)([SHORT])

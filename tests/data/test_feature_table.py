# SPDX-License-Identifier: Apache-2.0
"""A table gives back what was put in, and holds little beside it."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.data import FeatureTable

ITEMS = [
    {"input_ids": [2, 30_521, 3], "token_type_ids": [0, 0, 1], "labels": 1},
    {"input_ids": [], "token_type_ids": [], "labels": 0},
    {"input_ids": [2, 3], "token_type_ids": [1, 0], "labels": -5},
]


def test_items_are_what_was_put_in():
    table = FeatureTable.of(iter(ITEMS))

    assert len(table) == 3
    for item, found in zip(ITEMS, table, strict=True):
        assert {key: np.asarray(value).tolist() for key, value in found.items()} == item
        assert found["input_ids"].dtype == found["token_type_ids"].dtype == np.int64
    assert table.lengths.tolist() == [3, 0, 2]
    assert table[-1]["labels"] == table[np.int64(2)]["labels"] == -5
    assert [int(item["labels"]) for item in table[1:]] == [0, -5]


def test_labels_of_tokens_are_stored_by_token():
    table = FeatureTable.of(
        [{"input_ids": [2, 9, 3], "labels": [-100, 70_000, -100]}, {"input_ids": [2], "labels": [1]}],
        per_token=("input_ids", "labels"),
    )

    assert table[0]["labels"].tolist() == [-100, 70_000, -100]


def test_rows_of_a_fixed_size_are_kept_as_they_are():
    table = FeatureTable.of([{"input_ids": [2, 3], "labels": np.float32([0, 1])}] * 2)

    assert table[1]["labels"].dtype == np.float32
    assert table[1]["labels"].tolist() == [0, 1]


def test_changing_an_item_changes_nothing_else():
    table = FeatureTable.of(ITEMS)
    table[0]["input_ids"][:] = 0

    assert table[0]["input_ids"].tolist() == [2, 30_521, 3]


def test_five_bytes_a_token_and_a_few_a_row():
    items = [{"input_ids": [1] * 100, "token_type_ids": [0] * 100, "labels": 1}] * 50

    assert FeatureTable.of(items).nbytes == 50 * 100 * 5 + 50 * 8 + 51 * 8


def test_more_values_for_the_same_items():
    table = FeatureTable.of(ITEMS).with_rows(weights=np.arange(3.0))

    assert table[2]["weights"] == 2.0
    with pytest.raises(ValueError, match="weights: expected 3, one for each item, found 2"):
        table.with_rows(weights=np.arange(2))


@pytest.mark.parametrize("index", [3, -4])
def test_items_that_are_not_there(index):
    with pytest.raises(IndexError, match="out of range for 3 items"):
        FeatureTable.of(ITEMS)[index]


def test_items_of_other_keys_or_lengths_are_named():
    with pytest.raises(
        ValueError, match="items: expected input_ids, labels, as in the first, found input_ids"
    ):
        FeatureTable.of([{"input_ids": [1], "labels": 1}, {"input_ids": [1]}])
    with pytest.raises(ValueError, match="token_type_ids: expected 2, one for each token, found 1"):
        FeatureTable.of([{"input_ids": [1, 2], "token_type_ids": [1]}])


def test_no_items_make_an_empty_table():
    assert len(FeatureTable.of([])) == 0

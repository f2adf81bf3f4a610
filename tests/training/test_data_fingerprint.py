# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a dataset follows its content, not its containers, and does not use a stream up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqbert.training.data_fingerprint import data_fingerprint

ITEM = {"input_ids": [3, 1, 2], "labels": 1, "text": "word", "spans": [[0, 1], [2, 3]], "score": 0.5}


def data(**changes: Any) -> list[dict[str, Any]]:
    return [ITEM, {**ITEM, **changes}]


@pytest.mark.parametrize(
    "changes",
    [
        {"input_ids": [3, 2, 1]},
        {"input_ids": [3, 1, 2, 0]},
        {"labels": 2},
        {"text": "wort"},
        {"spans": [[0, 1], [2, 4]]},
        {"score": np.float32(0.50000006)},
        {"more": 1},
    ],
)
def test_a_change_of_one_item_shows(changes: dict[str, Any]) -> None:
    assert data_fingerprint(data(**changes)) != data_fingerprint(data())


@pytest.mark.parametrize(
    "value", [np.array([3, 1, 2]), np.array([3, 1, 2], np.int32), (3, 1, 2), [np.int64(3), np.int64(1), 2]]
)
def test_the_same_numbers_in_another_container_are_the_same(value: Any) -> None:
    assert data_fingerprint(data(input_ids=value)) == data_fingerprint(data())


def test_first_and_last_of_many_items_are_looked_at() -> None:
    many = [{"labels": number} for number in range(1009)]
    for place in (0, -1):
        other = list(many)
        other[place] = {"labels": -1}
        assert data_fingerprint(other) != data_fingerprint(many)
    assert data_fingerprint(many[:-1]) != data_fingerprint(many)


def test_objects_count_by_their_type() -> None:
    assert data_fingerprint(data(more=object())) == data_fingerprint(data(more=object()))


def test_nothing_and_streams_are_not_read() -> None:
    assert data_fingerprint([]) == {"items": 0, "crc32": 0}
    stream = iter([ITEM])
    assert data_fingerprint(stream) is None
    assert next(stream) is ITEM

# SPDX-License-Identifier: Apache-2.0
"""Grouping by length saves padding, and keeps what training needs: mixed batches in mixed order."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.data.order import GROUP_BATCHES, epoch_batches, item_length

# As SQuAD's windows: many short, some at the limit.
LENGTHS = np.minimum(np.random.default_rng(1).gamma(4.0, 40.0, 5003).astype(np.int64) + 8, 384)


def batches(batch_size=16, epoch=0, lengths=LENGTHS, shuffle=True):
    return epoch_batches(len(lengths), batch_size, seed=7, epoch=epoch, shuffle=shuffle, lengths=lengths)


def padding(groups) -> float:
    padded = sum(len(group) * LENGTHS[group].max() for group in groups)
    return 1.0 - LENGTHS.sum() / padded


def test_grouping_removes_most_of_the_padding():
    at_random = epoch_batches(len(LENGTHS), 16, seed=7, epoch=0, shuffle=True)

    # A group of 800 spreads its lengths over 50 batches, so a batch spans a fiftieth of the range; the one
    # batch that is drawn at random has 11 of 5,003 items.
    assert padding(at_random) > 0.3
    assert padding(batches()) < 0.05


def test_batch_of_the_longest_item_comes_first():
    lengths = LENGTHS.copy()
    lengths[4321] = 1000

    for epoch in range(5):
        assert 4321 in batches(epoch=epoch, lengths=lengths)[0]


def test_lengths_do_not_fall_through_an_epoch():
    # Correlation of a batch's place and its length, in each sixth of the epoch. Of independent ones the
    # standard deviation is 1 / sqrt(n); of batches that come longest first it is near -1.
    groups = batches()[1:-1]
    means = np.array([LENGTHS[group].mean() for group in groups])
    for part in np.array_split(means, 6):
        assert abs(np.corrcoef(np.arange(len(part)), part)[0, 1]) < 5 / np.sqrt(len(part))


def test_companions_of_an_item_change_with_the_epoch():
    def companions(epoch):
        (batch,) = [group for group in batches(epoch=epoch) if 17 in group]
        return frozenset(batch.tolist())

    assert len({companions(epoch) for epoch in range(10)}) == 10


@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 64, 65, 4 * 16 * GROUP_BATCHES - 1])
def test_every_item_is_in_one_batch(count):
    found = np.concatenate(batches(lengths=LENGTHS[:count]))

    assert sorted(found.tolist()) == list(range(count))


def test_without_shuffle_groups_stay_in_order_and_equal_lengths_too():
    found = epoch_batches(
        12, 2, seed=0, epoch=0, shuffle=False, lengths=np.array([1, 2, 9, 9, 5, 6, 1, 2, 3, 4, 8, 8])
    )

    # One batch a group: twelve items give no four groups of more.
    assert np.concatenate(found).tolist() == [1, 0, 2, 3, 5, 4, 7, 6, 9, 8, 10, 11]


def test_length_of_an_item_is_that_of_its_longest_choice():
    assert item_length({"input_ids": [1, 2, 3]}) == 3
    assert item_length({"input_ids": np.arange(4)}) == 4
    assert item_length({"input_ids": [[1], [1, 2], []]}) == 2
    assert item_length({"input_ids": []}) == 0

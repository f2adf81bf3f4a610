# SPDX-License-Identifier: Apache-2.0
"""Batches by length and token budget."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.tasks.batching import batch_inputs, by_length, chunks, progress_bar


@pytest.mark.parametrize("budget", [1, 7, 64, 65, 1000])
def test_every_text_comes_once_and_no_batch_exceeds_the_budget(budget):
    lengths = np.random.default_rng(0).integers(1, 64, size=101).tolist()

    batches = list(by_length(lengths, budget))

    assert sorted(index for batch in batches for index in batch) == list(range(101))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    longest = [lengths[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_no_texts_no_batches_and_no_budget_is_refused():
    assert list(by_length([], 5)) == []
    with pytest.raises(ValueError, match="max_batch_tokens"):
        list(by_length([1], 0))


def test_padding_is_on_the_right_and_masked():
    inputs = batch_inputs([np.array([5, 6]), np.array([7])], [np.array([0, 1]), np.array([1])], pad_id=9)

    assert inputs["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert inputs["token_type_ids"].tolist() == [[0, 1], [1, 0]]


def test_chunks_end_with_a_shorter_one():
    assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_progress_is_silent_without_a_terminal(capfd):
    advance = progress_bar(3, "text", "work")
    advance(3)
    advance(0)

    assert capfd.readouterr() == ("", "")


def test_progress_can_be_asked_for(capfd):
    advance = progress_bar(3, "text", "work", show=True)
    advance(3)

    assert "3/3" in capfd.readouterr().err

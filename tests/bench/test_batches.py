# SPDX-License-Identifier: Apache-2.0
"""Batches that are timed, and the work that is reckoned for them."""

from __future__ import annotations

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.bench.batches import bert_operations, even, varied

pytestmark = pytest.mark.uninstrumented


def test_a_varied_batch_has_the_lengths_of_questions_and_padding_on_the_right() -> None:
    batch = varied(32)
    assert (batch.name, len(batch.lengths)) == ("32 varied", 32)
    assert min(batch.lengths) >= 8
    assert max(batch.lengths) <= 76
    assert len(set(batch.lengths)) > 10
    inputs = batch.inputs(53)
    mask = inputs["attention_mask"]
    assert mask.sum(axis=1).tolist() == list(batch.lengths)
    assert (np.diff(mask, axis=1) <= 0).all()
    assert ((inputs["input_ids"] > 0) == (mask == 1)).all()
    assert inputs["input_ids"].max() < 53
    assert batch == varied(32)


def test_an_even_batch_has_no_padding() -> None:
    batch = even(3, 11)
    assert (batch.name, batch.tokens) == ("3x11", 33)
    assert batch.inputs(53)["attention_mask"].all()


def test_operations_are_twice_the_multiply_adds_of_explain() -> None:
    model = qdqbert.QDQBertModel(tiny_model.config())
    found = qdqbert.explain(model, batch_size=3, seq_len=11)
    assert bert_operations(33, [11] * 3, 2, 24, 37, pooled=3) == 2 * sum(found.multiply_adds.values())

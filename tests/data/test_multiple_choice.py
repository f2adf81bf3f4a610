# SPDX-License-Identifier: Apache-2.0
"""COPA's questions for training: the inputs of the evaluation and the right alternative."""

from __future__ import annotations

import pytest

from qdqbert.data import BatchLoader, read
from qdqbert.tasks import COPA, DataError

XML = """<?xml version="1.0" encoding="UTF-8"?>
<copa-corpus version="1.0">
<item id="1" asks-for="cause" most-plausible-alternative="2">
<p>My body cast a shadow over the grass.</p><a1>The sun was rising.</a1><a2>It was cut.</a2></item>
<item id="2" asks-for="effect" most-plausible-alternative="1">
<p>It fell.</p><a1>It broke into a great many pieces on the floor.</a1><a2>It flew.</a2></item>
</copa-corpus>
"""


def test_items_are_the_inputs_of_the_evaluation(tokenizer, config, write):
    file = write("a.xml", XML)

    data = read("copa", file, tokenizer, config(), max_seq_length=20)

    task = COPA.read(file, tokenizer, config(), max_length=20)
    assert data.num_items == len(data.dataset) == 2
    assert [item["labels"] for item in data.dataset] == [1, 0]
    for index, item in enumerate(data.dataset):
        for ids, types, choice in zip(
            item["input_ids"], item["token_type_ids"], task.choices(index), strict=True
        ):
            assert ids.tolist() == choice.input_ids.tolist()
            assert types.tolist() == choice.token_type_ids.tolist()


def test_batches_are_what_the_head_takes(tokenizer, config, write):
    data = read("copa", write("a.xml", XML), tokenizer, config())
    loader = BatchLoader(data.dataset, 2, data.collate_fn, group_by_length=True)

    (batch,) = loader

    longest = max(len(ids) for item in data.dataset for ids in item["input_ids"])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 2, longest)
    assert sorted(batch["labels"].tolist()) == [0, 1]
    assert data.model_class == "QDQBertForMultipleChoice"


def test_options_of_length_and_number(tokenizer, config, write):
    data = read(
        "copa",
        write("a.xml", XML),
        tokenizer,
        config(),
        max_seq_length=64,
        max_train_samples=1,
        pad_to_max_length=True,
    )

    assert data.collate_fn(data.dataset)["input_ids"].shape == (1, 2, 64)


def test_malformed_files_are_named_by_line(tokenizer, config, write):
    with pytest.raises(DataError, match=r"a\.xml:5: most-plausible-alternative: expected 1 or 2, found '3'"):
        read("copa", write("a.xml", XML.replace('alternative="1"', 'alternative="3"')), tokenizer, config())


@pytest.mark.shared
def test_questions_of_the_development_set(shared, tokenizer, config):
    data = read("copa", shared("data", "multiple_choice", "copa", "copa-dev.xml"), tokenizer, config())

    assert data.num_items == 500

# SPDX-License-Identifier: Apache-2.0
"""Half of the pairs are torn apart, others in every epoch, none into what it was."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.data import BatchLoader, read
from qdqbert.tasks import DataError
from qdqbert.tasks.encoding import encode_text
from qdqbert.tasks.next_sentence import exchange_half

pytestmark = pytest.mark.uninstrumented

COUNT = 101
WORDS = ("the", "of", "it", "is", "a", "was", "one", "two", "and", "to")


def sentence(number: int) -> str:
    return " ".join(WORDS[int(digit)] for digit in f"{number:04d}") + " more" * (number % 4)


PAIRS = "".join(f"{sentence(number)}\t{sentence(5000 + number)}\n" for number in range(COUNT))


@pytest.fixture
def data(tokenizer, config, write):
    return read("nsp", write("a.txt", PAIRS), tokenizer, config(), max_seq_length=32, task_seed=3)


def seconds(dataset):
    """Number of the second sentence of each pair."""
    return dataset._other


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_half_of_the_pairs_have_the_second_sentence_of_another(data, tokenizer, epoch):
    dataset = data.dataset.at_epoch(epoch)
    labels = [item["labels"] for item in dataset]

    assert sum(labels) == COUNT // 2
    assert sorted(seconds(dataset)) == list(range(COUNT))
    for number, item in enumerate(dataset):
        other = int(seconds(dataset)[number])
        encoded = encode_text(sentence(number), sentence(5000 + other), tokenizer.backend_tokenizer, 32)
        assert item["input_ids"].tolist() == encoded.input_ids.tolist()
        assert item["token_type_ids"].tolist() == encoded.token_type_ids.tolist()
        assert item["labels"] == int(other != number)
    assert dataset.lengths.tolist() == [len(item["input_ids"]) for item in dataset]


def test_pairs_are_torn_apart_anew_in_every_epoch_and_by_every_seed(tokenizer, config, write, data):
    other = read("nsp", write("b.txt", PAIRS), tokenizer, config(), task_seed=4).dataset
    drawn = [seconds(each.at_epoch(epoch)).tolist() for each in (data.dataset, other) for epoch in range(5)]

    assert len({str(each) for each in drawn}) == 10
    assert (
        seconds(data.dataset).tolist() == drawn[0] == seconds(data.dataset.at_epoch(4).at_epoch(0)).tolist()
    )


def test_every_pair_is_torn_apart_about_every_other_epoch(data):
    torn = sum(
        (seconds(data.dataset.at_epoch(epoch)) != np.arange(COUNT)).astype(int) for epoch in range(400)
    )

    # Binomial, 400 epochs at 50 / 101: mean 198, deviation 10; the furthest of 101 within six.
    assert np.abs(torn - 400 * 50 / 101).max() < 60


def test_loader_takes_the_pairs_of_its_epoch(data):
    loader = BatchLoader(data.dataset, 8, data.collate_fn, shuffle=True, group_by_length=True)

    for epoch in (0, 3):
        dataset = data.dataset.at_epoch(epoch)
        found = [label for batch in loader.batches(epoch) for label in batch["labels"].tolist()]
        order = np.concatenate(loader.batch_indices(epoch))
        assert found == [dataset[int(index)]["labels"] for index in order]


def test_long_pairs_are_cut_as_in_the_evaluation(tokenizer, config, write):
    data = read("nsp", write("a.txt", PAIRS), tokenizer, config(), max_seq_length=9)

    assert set(data.dataset.lengths.tolist()) == {9}
    for number in (0, 17):
        encoded = encode_text(
            sentence(number),
            sentence(5000 + int(seconds(data.dataset)[number])),
            tokenizer.backend_tokenizer,
            9,
        )
        assert data.dataset[number]["input_ids"].tolist() == encoded.input_ids.tolist()


def test_pairs_with_equal_second_sentences_do_not_get_their_own_again():
    identities = [0] * 20 + list(range(1, 60))

    for seed in range(50):
        other = exchange_half(identities, seed)
        moved = np.flatnonzero(other != np.arange(79))
        assert len(moved) == 39
        assert all(identities[place] != identities[other[place]] for place in moved)


def test_only_so_many_pairs_are_taken_and_batches_are_what_the_head_takes(tokenizer, config, write):
    data = read("nsp", write("a.txt", PAIRS), tokenizer, config(), max_train_samples=6)

    batch = data.collate_fn(list(data.dataset))

    assert data.num_items == len(data.dataset) == 6
    assert batch["labels"].shape == (6,)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert data.model_class == "QDQBertForNextSentencePrediction"


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ("a\tb\nc\td\n", {}, "expected at least four pairs"),
        ("a\tb\n" * 20, {}, "too many second sentences are alike"),
        ("a\tb\nc\n", {}, r"a\.txt:2: expected two sentences"),
        (PAIRS, {"max_train_samples": 3}, "expected at least four pairs"),
    ],
)
def test_pairs_that_cannot_be_used_are_named(tokenizer, config, write, content, options, sentence):
    with pytest.raises(DataError, match=sentence):
        read("nsp", write("a.txt", content), tokenizer, config(), **options)


def test_seed_is_checked(tokenizer, config, write):
    with pytest.raises(ValueError, match="task_seed: expected at least 0"):
        read("nsp", write("a.txt", PAIRS), tokenizer, config(), task_seed=-1)


@pytest.mark.shared
def test_training_pairs_of_discoeval(shared, tokenizer, config):
    data = read(
        "nsp", shared("data", "nsp", "discoeval-wiki", "train.txt"), tokenizer, config(), max_seq_length=64
    )

    assert sum(item["labels"] for item in data.dataset) == len(data.dataset) // 2

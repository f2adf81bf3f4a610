# SPDX-License-Identifier: Apache-2.0
"""Batches are a function of data set, seed and epoch; every item comes once."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.data import BatchLoader

# Around multiples of the batch sizes, a prime, and more than four groups of batches of length grouping.
SIZES = (0, 1, 6, 7, 8, 97, 1501)


class Texts:
    """Items of different lengths, numbered; a sequence."""

    def __init__(self, count: int) -> None:
        self.ids = [list(range(1 + index * 7919 % 61)) for index in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        return {"input_ids": self.ids[index], "number": index}


class Stream:
    """The same items, one after the other, as often as asked."""

    def __init__(self, count: int) -> None:
        self.texts = Texts(count)
        self.waiting = self.most = 0

    def __iter__(self):
        for index in range(len(self.texts)):
            yield self.texts[index]


def numbers(items) -> list[int]:
    return [item["number"] for item in items]


def seen(loader: BatchLoader, epoch: int = 0, first: int = 0) -> list[list[int]]:
    return list(loader.batches(epoch, first))


MODES = [
    {"shuffle": shuffle, "group_by_length": grouped, "drop_last": dropped}
    for shuffle in (False, True)
    for grouped in (False, True)
    for dropped in (False, True)
]
NAMES = ["-".join(key for key, value in mode.items() if value) or "plain" for mode in MODES]


@pytest.mark.parametrize("mode", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", [Texts, Stream])
@pytest.mark.parametrize("count", SIZES)
def test_every_item_comes_once_an_epoch(kind, count, mode):
    loader = BatchLoader(kind(count), 7, numbers, buffer_size=50, **mode)

    batches = seen(loader, epoch=2)

    flat = [number for batch in batches for number in batch]
    assert len(flat) == len(set(flat)) == (count - count % 7 if mode["drop_last"] else count)
    assert set(flat) <= set(range(count))
    assert all(len(batch) == 7 for batch in batches[:-1])
    if kind is Texts:
        assert len(loader) == len(batches)


@pytest.mark.parametrize("mode", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", [Texts, Stream])
def test_first_gives_the_rest_of_the_epoch(kind, mode):
    whole = seen(BatchLoader(kind(97), 7, numbers, seed=5, buffer_size=20, **mode), epoch=3)

    for first in range(len(whole) + 2):
        again = BatchLoader(kind(97), 7, numbers, seed=5, buffer_size=20, **mode)
        assert seen(again, 3, first) == whole[first:]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", [Texts, Stream])
def test_order_depends_on_seed_and_epoch_alone(kind, grouped):
    def order(seed: int, epoch: int) -> list[list[int]]:
        loader = BatchLoader(kind(97), 7, numbers, shuffle=True, seed=seed, group_by_length=grouped)
        return seen(loader, epoch)

    loader = BatchLoader(kind(97), 7, numbers, shuffle=True, seed=1, group_by_length=grouped)
    before = seen(loader, 4)
    seen(loader, 9, 3)
    np.random.seed(0)  # noqa: NPY002  the global state must not matter

    assert seen(loader, 4) == before == order(1, 4)
    keys = [(seed, epoch) for seed in (0, 1, 2, 2**32, 2**32 + 1) for epoch in (0, 1, 2)]
    assert len({str(order(*key)) for key in keys}) == len(keys)


def test_order_of_a_seed_stays_what_it_was():
    # Recorded: random bits of PCG64 behind a SeedSequence, which NumPy promises to keep.
    loader = BatchLoader(range(10), 4, list, shuffle=True, seed=13)

    assert seen(loader, 1) == [[1, 7, 5, 0], [2, 6, 8, 3], [4, 9]]


def test_without_shuffle_items_come_in_their_order():
    assert seen(BatchLoader(Texts(9), 4, numbers), epoch=1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert list(BatchLoader(Stream(5), 4, numbers)) == [[0, 1, 2, 3], [4]]


def test_skipped_items_of_a_sequence_are_not_read():
    class Watched(Texts):
        read = 0

        def __getitem__(self, index):
            Watched.read += 1
            return super().__getitem__(index)

    loader = BatchLoader(Watched(97), 7, numbers, shuffle=True)

    seen(loader, first=12)

    assert Watched.read == 97 - 12 * 7


def test_stream_is_shuffled_with_a_bounded_number_of_items_waiting():
    buffer, batch = 40, 7
    read = []

    class Counted(Stream):
        def __iter__(self):
            for item in super().__iter__():
                read.append(item["number"])
                yield item

    given = 0
    for numbers_of_batch in BatchLoader(
        Counted(500), batch, numbers, shuffle=True, buffer_size=buffer
    ).batches():
        # One more is read before one leaves the full buffer.
        assert len(read) - given <= buffer + batch + 1
        given += len(numbers_of_batch)
    assert read == sorted(read)


def test_whole_stream_is_mixed_by_a_buffer_of_its_size():
    order = [n for batch in seen(BatchLoader(Stream(500), 7, numbers, shuffle=True)) for n in batch]

    # Of a uniform permutation of n the mean displacement is (n - 1/n) / 3, its standard deviation below 5.
    assert abs(np.abs(np.array(order) - np.arange(500)).mean() - 500 / 3) < 25


def test_incomplete_batch_is_random_items_and_comes_last_when_lengths_are_grouped():
    texts = Texts(103)
    lasts = [
        seen(BatchLoader(texts, 4, numbers, shuffle=True, group_by_length=True), epoch)[-1]
        for epoch in range(60)
    ]

    assert all(len(last) == 3 for last in lasts)
    lengths = [len(texts.ids[number]) for last in lasts for number in last]
    # 180 lengths, nearly uniform on 1 .. 61: their mean is 31, its standard deviation 17.6 / sqrt(180) = 1.3.
    assert abs(np.mean(lengths) - 31) < 6


def test_lengths_of_the_data_set_or_of_the_argument_are_taken():
    class Measured(Texts):
        lengths = np.arange(8)[::-1]

    assert seen(BatchLoader(Measured(8), 2, numbers, group_by_length=True)) == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
    ]
    loader = BatchLoader(Texts(8), 8, numbers, group_by_length=True, lengths=range(8))
    assert seen(loader) == [[7, 6, 5, 4, 3, 2, 1, 0]]


def test_collate_fn_with_rng_draws_the_same_for_the_same_batch():
    def collate(items, rng):
        return rng.integers(2**62)

    def draws(seed, epoch, first=0):
        return list(BatchLoader(range(12), 4, collate, shuffle=True, seed=seed).batches(epoch, first))

    assert draws(3, 1) == draws(3, 1)
    assert draws(3, 1, first=2) == draws(3, 1)[2:]
    every = [draw for seed in (3, 4) for epoch in (0, 1) for draw in draws(seed, epoch)]
    assert len(set(every)) == len(every) == 12


def test_collate_fn_with_another_second_parameter_is_given_items_alone():
    # transformers' collators: (features, return_tensors=None)
    def collate(features, return_tensors=None):
        return return_tensors

    assert list(BatchLoader(range(2), 2, collate)) == [None]


def test_data_set_of_an_epoch_takes_the_place_of_the_data_set():
    class Redrawn(list):
        def at_epoch(self, epoch):
            return [item + 100 * epoch for item in self]

    loader = BatchLoader(Redrawn([1, 2, 3]), 2, list)

    assert seen(loader, 2) == [[201, 202], [203]]


def test_batch_indices_are_the_places_of_the_items():
    loader = BatchLoader(Texts(30), 4, numbers, shuffle=True, group_by_length=True)

    assert [batch.tolist() for batch in loader.batch_indices(2)] == seen(loader, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size: expected an integer, got float"),
        ({"batch_size": True}, TypeError, "batch_size: expected an integer, got bool"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"buffer_size": 0}, ValueError, "buffer_size: expected at least 1, got 0"),
        ({"lengths": [1]}, ValueError, "lengths: expected one for each item of a sequence, found 1"),
        ({"dataset": (n for n in range(3))}, TypeError, "can be read once an epoch, got generator"),
        ({"dataset": {"input_ids": [[1]]}}, TypeError, "expected a sequence, .* got dict"),
        ({"dataset": 3}, TypeError, "expected a sequence, .* got int"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        BatchLoader(**{"dataset": range(3), "batch_size": 2, **arguments})


@pytest.mark.parametrize(("epoch", "first"), [(-1, 0), (0, -1)])
def test_negative_positions_are_refused_before_anything_is_read(epoch, first):
    with pytest.raises(ValueError, match="expected at least 0, got -1"):
        BatchLoader(range(3), 2).batches(epoch, first)


def test_shuffled_loader_asks_for_the_epoch():
    with pytest.raises(TypeError, match=r"iterate over loader\.batches\(epoch\)"):
        list(BatchLoader(range(3), 2, list, shuffle=True))


def test_stream_has_no_length_and_no_indices():
    loader = BatchLoader(Stream(3), 2, numbers)

    with pytest.raises(TypeError, match="number of batches is not known"):
        len(loader)
    with pytest.raises(TypeError, match="no indices"):
        loader.batch_indices()


@pytest.mark.parametrize("kind", [Texts, Stream])
def test_items_without_ids_cannot_be_grouped_by_length(kind):
    class Bare(kind):
        def __iter__(self):
            yield from ({"x": 1},) * 3

        def __getitem__(self, index):
            return {"x": 1}

    with pytest.raises(ValueError, match="expected items with input_ids, or lengths"):
        seen(BatchLoader(Bare(3), 2, list, group_by_length=True))

# SPDX-License-Identifier: Apache-2.0
"""In which order items are seen: functions of a seed and an epoch, and of nothing else.

Random bits are taken raw from NumPy's PCG64 and seeded through `SeedSequence`.  Both are promised to stay as
they are, while the methods of a `Generator` may change with NumPy's version; so a run that is resumed, or
repeated in a year, sees the same order.

Length grouping follows transformers' `LengthGroupedSampler`: items are shuffled, cut into groups of
`GROUP_BATCHES` batches, sorted by length within each group, and cut into batches.  Three things are done
differently:

- Batches are shuffled afterwards.  There they come longest first in every group, so lengths saw through an
  epoch and the gradients with them.
- The batch of the longest item still comes first, so that memory runs out at once or never; there one item
  is exchanged instead, which puts a stranger into two batches.
- The items of an incomplete batch are drawn at random and come last; there they are the shortest of the last
  group, so dropping that batch drops short texts only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.batching import chunks

__all__ = [
    "GROUP_BATCHES",
    "batch_generator",
    "epoch_batches",
    "item_length",
    "lengths_of",
    "shuffled_stream",
    "stream_batches",
]

T = TypeVar("T")
Indices = npt.NDArray[np.int64]

# Batches that are sorted together, if that leaves at least four groups: transformers' figure.
GROUP_BATCHES = 50

# What the random bits of an epoch are for; part of the key, so that no two uses share a stream.
_ORDER, _BATCH_ORDER, _BATCH = range(3)


def epoch_batches(
    num_items: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    lengths: npt.NDArray[np.int64] | None = None,
) -> list[Indices]:
    """Items of every batch of an epoch.

    Parameters
    ----------
    num_items : int
        >= 0.
    batch_size : int
        >= 1.
    seed, epoch : int
        >= 0.
    shuffle : bool
        False leaves items in their order, within groups of similar length if there are `lengths`.
    lengths : ndarray (num_items,) int64, optional
        Group items of similar length.

    Returns
    -------
    list of ndarray int64
        Every item once; all batches of `batch_size` but perhaps the last.
    """
    order = _permutation(num_items, seed, epoch, _ORDER) if shuffle else np.arange(num_items)
    whole = num_items - num_items % batch_size
    if lengths is None:
        batches = _cut(order[:whole], batch_size)
    else:
        size = batch_size * max(1, min(num_items // (4 * batch_size), GROUP_BATCHES))
        groups = [_by_length(group, lengths) for group in _cut(order[:whole], size)]
        batches = [batch for group in groups for batch in _cut(group, batch_size)]
        if shuffle and batches:
            places = _permutation(len(batches), seed, epoch, _BATCH_ORDER)
            batches = [batches[place] for place in places]
            longest = max(range(len(batches)), key=lambda place: int(lengths[batches[place]].max()))
            batches.insert(0, batches.pop(longest))
    return batches + _cut(order[whole:], batch_size)


def shuffled_stream(items: Iterable[T], buffer_size: int, *, seed: int, epoch: int) -> Iterator[T]:
    """Shuffle a stream with a bounded number of items in memory.

    Parameters
    ----------
    items : iterable
    buffer_size : int
        Items that wait; each leaves at a random moment.  >= 1; 1 changes nothing.
    seed, epoch : int
        >= 0.

    Yields
    ------
    object
        Every item once.
    """
    bits = _bits(seed, epoch, _ORDER)
    waiting: list[T] = []
    for item in items:
        if len(waiting) < buffer_size:
            waiting.append(item)
            continue
        place = bits.random_raw() % buffer_size
        yield waiting[place]
        waiting[place] = item
    while waiting:
        place = bits.random_raw() % len(waiting)
        waiting[place], waiting[-1] = waiting[-1], waiting[place]
        yield waiting.pop()


def stream_batches(
    items: Iterable[T],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    length: Callable[[T], int] | None = None,
) -> Iterator[list[T]]:
    """Batches of a stream.

    Parameters
    ----------
    items : iterable
        In the order in which they are to come.
    batch_size : int
        >= 1.
    seed, epoch : int
        >= 0.
    shuffle : bool
        Whether the batches of a group of similar lengths are shuffled.
    length : callable, optional
        Length of an item; items of similar length then share a batch, out of `GROUP_BATCHES` batches at a
        time.

    Yields
    ------
    list
        All of `batch_size` but perhaps the last.
    """
    if length is None:
        yield from chunks(items, batch_size)
        return
    bits = _bits(seed, epoch, _BATCH_ORDER)
    for group in chunks(items, GROUP_BATCHES * batch_size):
        whole = len(group) - len(group) % batch_size
        of_group = np.array([length(item) for item in group[:whole]], dtype=np.int64)
        batches = _cut(_by_length(np.arange(whole), of_group), batch_size)
        if shuffle:
            batches = [batches[place] for place in _argsort(bits, len(batches))]
        for batch in batches:
            yield [group[index] for index in batch]
        if whole < len(group):
            yield group[whole:]


def batch_generator(seed: int, epoch: int, batch: int) -> np.random.Generator:
    """Random numbers of a batch, for what its collation draws.

    Parameters
    ----------
    seed, epoch, batch : int
        >= 0.

    Returns
    -------
    numpy.random.Generator
        The same for the same three numbers.
    """
    return np.random.Generator(_bits(seed, epoch, _BATCH, batch))


def _bits(seed: int, epoch: int, use: int, batch: int = 0) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(int(seed), spawn_key=(int(epoch), use, int(batch))))


def _permutation(count: int, seed: int, epoch: int, use: int) -> Indices:
    return _argsort(_bits(seed, epoch, use), count)


def _argsort(bits: np.random.PCG64, count: int) -> Indices:
    """Order of `count` random numbers of 64 bits: uniform but for equal ones, of which there are none."""
    return np.argsort(np.asarray(bits.random_raw(count)), kind="stable")


def _by_length(indices: Indices, lengths: npt.NDArray[np.int64]) -> Indices:
    """Longest first; of equally long ones the first given."""
    return indices[np.argsort(-lengths[indices], kind="stable")]


def _cut(indices: Indices, size: int) -> list[Indices]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def lengths_of(items: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Tokens of each item.

    Parameters
    ----------
    items : sequence of mappings
        See `item_length`.

    Returns
    -------
    ndarray (items,) int64
    """
    return np.fromiter((item_length(items[i]) for i in range(len(items))), np.int64, len(items))


def item_length(item: Any) -> int:
    """Tokens of an item.

    Parameters
    ----------
    item : mapping
        With `input_ids`: a sequence of ids, or of such sequences (choices), of which the longest counts.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it has no `input_ids`.
    """
    try:
        ids = item["input_ids"]
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            "group_by_length: expected items with input_ids, or lengths, found an item without"
        ) from None
    return max((len(row) for row in ids), default=0) if len(ids) and np.ndim(ids[0]) else len(ids)

# SPDX-License-Identifier: Apache-2.0
"""`BatchLoader`: batches of a data set, a pure function of the data set, a seed and an epoch.

A loader keeps no position and draws from no global random state.  A run is resumed by asking for the batches
of its epoch from a number on; they are the batches it would have seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.data.collators import default_data_collator
from qdqbert.data.order import (
    batch_generator,
    epoch_batches,
    item_length,
    lengths_of,
    shuffled_stream,
    stream_batches,
)
from qdqbert.seeds import require_seed

__all__ = ["BatchLoader"]


class BatchLoader:
    """Batches of a data set.

    Parameters
    ----------
    dataset : sequence or iterable of items
        With ``len()`` and ``[index]``, or, for what does not fit into memory, something that can be iterated
        over again and again.  If it has a method ``at_epoch(epoch)``, what that returns is used in its place
        for that epoch.  Items are usually mappings.
    batch_size : int
        Items of a batch, >= 1.
    collate_fn : callable, optional
        Makes a batch of a list of items; default `default_data_collator`.  If it has a parameter `rng`, it
        is given a `numpy.random.Generator` that depends on seed, epoch and the number of the batch alone.
    shuffle : bool
        Whether each epoch has an order of its own.
    seed : int
        >= 0.
    group_by_length : bool
        Whether items of similar length share batches (`qdqbert.data.order`).
    drop_last : bool
        Whether an incomplete last batch is left out.
    lengths : sequence of int, optional
        Length of each item, for `group_by_length`; by default the data set's `lengths`, if it has them, or
        those of the items' `input_ids`, which reads every item once.
    buffer_size : int
        Items of an iterable that wait in memory while they are shuffled, >= 1.

    Raises
    ------
    TypeError
        If the data set is neither sequence nor iterable, or can be iterated over once only; if `seed` is no
        integer.
    ValueError
        If a number is out of its range, or `lengths` are not one for each item.

    Examples
    --------
    >>> loader = BatchLoader([{"x": i} for i in range(5)], 2, shuffle=True)
    >>> [batch["x"].tolist() for batch in loader.batches(epoch=3, first=1)]
    [[4, 3], [2]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        collate_fn: Callable[..., Any] | None = None,
        *,
        shuffle: bool = False,
        seed: int = 0,
        group_by_length: bool = False,
        drop_last: bool = False,
        lengths: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        buffer_size: int = 4096,
    ) -> None:
        self.is_streaming: bool = not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"))
        is_once = isinstance(dataset, Iterator)
        if (
            isinstance(dataset, Mapping)
            or is_once
            or (self.is_streaming and not isinstance(dataset, Iterable))
        ):
            raise TypeError(
                "dataset: expected a sequence, or an iterable that can be read once an epoch, "
                f"got {type(dataset).__name__}"
            )
        for name, value in (("batch_size", batch_size), ("buffer_size", buffer_size)):
            _require_count(name, value, 1)
        require_seed("seed", seed)
        self.dataset: Any = dataset
        if lengths is not None and (self.is_streaming or len(lengths) != len(self.dataset)):
            found = (
                "an iterable, whose items are measured as they come" if self.is_streaming else len(lengths)
            )
            raise ValueError(f"lengths: expected one for each item of a sequence, found {found}")
        self.batch_size: int = batch_size
        self.collate_fn: Callable[..., Any] = default_data_collator if collate_fn is None else collate_fn
        self.shuffle: bool = shuffle
        self.seed: int = seed
        self.group_by_length: bool = group_by_length
        self.drop_last: bool = drop_last
        self.buffer_size: int = buffer_size
        self._lengths = None if lengths is None else np.asarray(lengths, dtype=np.int64)
        self._draws = _takes_generator(self.collate_fn)

    def __len__(self) -> int:
        """Batches of an epoch.

        Raises
        ------
        TypeError
            If the data set has no length.
        """
        if self.is_streaming:
            raise TypeError("the number of batches is not known: the data set is an iterable without length")
        items = len(self.dataset)
        return items // self.batch_size if self.drop_last else -(-items // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Batches of the only epoch there is without shuffling.

        Raises
        ------
        TypeError
            If batches are shuffled: then an epoch must be named.
        """
        if self.shuffle:
            raise TypeError("the loader shuffles, so epochs differ: iterate over loader.batches(epoch)")
        return self.batches()

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Any]:
        """Batches of an epoch, from one on.

        Parameters
        ----------
        epoch : int
            >= 0.
        first : int
            Number of the first batch, >= 0; from the number of batches on there are none.  Items of a
            sequence before it are not read; those of an iterable are read and dropped.

        Yields
        ------
        object
            What `collate_fn` makes of a batch's items.

        Raises
        ------
        ValueError, TypeError
            If a number is negative or no integer.
        """
        _require_count("epoch", epoch, 0)
        _require_count("first", first, 0)
        return self._batches(epoch, first)

    def batch_indices(self, epoch: int = 0) -> list[npt.NDArray[np.int64]]:
        """Places in the data set of the items of each batch.

        Parameters
        ----------
        epoch : int
            >= 0.

        Returns
        -------
        list of ndarray int64

        Raises
        ------
        TypeError
            If the data set is an iterable: its items have no places.
        """
        _require_count("epoch", epoch, 0)
        if self.is_streaming:
            raise TypeError("the data set is an iterable: its items have no indices")
        return self._indices(self._dataset_of(epoch), epoch)

    def _dataset_of(self, epoch: int) -> Any:
        at_epoch = getattr(self.dataset, "at_epoch", None)
        return self.dataset if at_epoch is None else at_epoch(epoch)

    def _indices(self, dataset: Any, epoch: int) -> list[npt.NDArray[np.int64]]:
        batches = epoch_batches(
            len(dataset),
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            lengths=self._lengths_of(dataset) if self.group_by_length else None,
        )
        return batches[: len(self)]

    def _lengths_of(self, dataset: Any) -> npt.NDArray[np.int64]:
        if self._lengths is not None:
            return self._lengths
        known = getattr(dataset, "lengths", None)
        if known is not None:
            return np.asarray(known, dtype=np.int64)
        measured = lengths_of(dataset)
        if dataset is self.dataset:
            self._lengths = measured
        return measured

    def _batches(self, epoch: int, first: int) -> Iterator[Any]:
        dataset = self._dataset_of(epoch)
        batches: Iterable[Sequence[Any]]
        if self.is_streaming:
            batches = islice(self._stream(dataset, epoch), first, None)
        else:
            indices = self._indices(dataset, epoch)[first:]
            batches = ([dataset[int(index)] for index in batch] for batch in indices)
        for number, items in enumerate(batches, start=first):
            if self._draws:
                yield self.collate_fn(items, rng=batch_generator(self.seed, epoch, number))
            else:
                yield self.collate_fn(items)

    def _stream(self, dataset: Iterable[Any], epoch: int) -> Iterator[list[Any]]:
        items = dataset
        if self.shuffle:
            items = shuffled_stream(dataset, self.buffer_size, seed=self.seed, epoch=epoch)
        batches = stream_batches(
            items,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            length=item_length if self.group_by_length else None,
        )
        for batch in batches:
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


def _require_count(argument: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{argument}: expected an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{argument}: expected at least {least}, got {value}")


def _takes_generator(collate_fn: Callable[..., Any]) -> bool:
    try:
        return "rng" in inspect.signature(collate_fn).parameters
    except (TypeError, ValueError):  # a builtin without signature
        return False

# SPDX-License-Identifier: Apache-2.0
"""Batches of texts of similar length, and the loop that feeds them to a model.

A model of this package computes no padding, but its input arrays hold it, and other models that are called
the same way compute it.  So texts are sorted by length within a bounded chunk and grouped until a budget of
tokens, padding included, is used up.  What a text gives does not depend on its batch mates (see the numerics
contract), so this changes time, not results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_BATCH_TOKENS", "batch_inputs", "by_length", "chunks", "iterate_outputs", "progress_bar"]

T = TypeVar("T")
F = TypeVar("F")
R = TypeVar("R")

# Items in memory at a time: enough that sorting by length leaves almost no padding.
_CHUNK = 1024

# Large enough that every product of a BERT-base layer is worth its threads, small enough that the activations
# of one call (about 40 KB a token) stay at 80 MB.
MAX_BATCH_TOKENS = 2048


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of `size` items, the last one shorter.

    Parameters
    ----------
    items : iterable
    size : int
        >= 1.

    Yields
    ------
    list
    """
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def by_length(lengths: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Group texts of similar length, longest first.

    Longest first, so that whatever a first batch reserves suffices for all.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each text.
    max_batch_tokens : int
        Most tokens of a batch, texts padded to its longest; a longer text makes a batch of its own.  >= 1.

    Yields
    ------
    list of int
        Indices in `lengths`; every index comes once.

    Raises
    ------
    ValueError
        If `max_batch_tokens` is not positive.

    Examples
    --------
    >>> list(by_length([3, 9, 4], 10))
    [[1], [2, 0]]
    """
    if max_batch_tokens < 1:
        raise ValueError(f"max_batch_tokens: expected at least 1, found {max_batch_tokens}")
    batch: list[int] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * longest > max_batch_tokens:
            yield batch
            batch = []
        if not batch:
            longest = lengths[index]
        batch.append(index)
    if batch:
        yield batch


def batch_inputs(
    input_ids: Sequence[npt.NDArray[np.int64]],
    token_type_ids: Sequence[npt.NDArray[np.int64]],
    pad_id: int = 0,
) -> dict[str, npt.NDArray[np.int64]]:
    """Pad texts on the right to their longest.

    Parameters
    ----------
    input_ids, token_type_ids : sequences of ndarray (T_i,) int64
        B texts.
    pad_id : int
        Id of the padding.

    Returns
    -------
    dict of ndarray (B, T) int64
        `input_ids`, `attention_mask` (1 at tokens, 0 at padding) and `token_type_ids`, as a model takes them.
    """
    shape = (len(input_ids), max(len(ids) for ids in input_ids))
    inputs = {
        "input_ids": np.full(shape, pad_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    for row, (ids, types) in enumerate(zip(input_ids, token_type_ids, strict=True)):
        inputs["input_ids"][row, : len(ids)] = ids
        inputs["attention_mask"][row, : len(ids)] = 1
        inputs["token_type_ids"][row, : len(ids)] = types
    return inputs


def iterate_outputs(
    model: Any,
    items: Iterable[Sequence[F]],
    *,
    size: Callable[[F], int],
    inputs: Callable[[Sequence[F]], dict[str, npt.NDArray[np.int64]]],
    outputs: Callable[[Any, Sequence[F]], Sequence[R]],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    total: int | None = None,
    unit: str = "item",
    description: str = "",
    progress: bool | None = None,
) -> Iterator[list[R]]:
    """Run a model on the sequences of items, in batches of similar length, and give the results in order.

    Everything streams: a bounded number of items is in memory.

    Parameters
    ----------
    model : callable
        Called with the keyword arguments that `inputs` makes.
    items : iterable of sequences
        The features of each item, at least one.
    size : callable
        Tokens of a feature, padding of its own included.
    inputs : callable
        Model inputs of some features.
    outputs : callable
        What is kept of the model's output, one result for each of the features.
    max_batch_tokens : int
        Most tokens, padding included, of one call of the model; >= 1.
    total : int, optional
        Items, if known.
    unit, description : str
        Of the progress bar.
    progress : bool, optional
        Whether to show a bar on stderr; by default on a terminal only.

    Yields
    ------
    list
        The results of an item's features.

    Raises
    ------
    ValueError
        If `max_batch_tokens` is not positive.
    """
    advance = progress_bar(total, unit, description, show=progress)
    try:
        for chunk in chunks(items, _CHUNK):
            features = [feature for item in chunk for feature in item]
            results: dict[int, R] = {}
            for batch in by_length([size(feature) for feature in features], max_batch_tokens):
                chosen = [features[index] for index in batch]
                results.update(zip(batch, outputs(model(**inputs(chosen)), chosen), strict=True))
            first = 0
            for item in chunk:
                yield [results[first + offset] for offset in range(len(item))]
                first += len(item)
            advance(len(chunk))
    finally:
        advance(0)


def progress_bar(
    total: int | None, unit: str, description: str, *, show: bool | None = None
) -> Callable[[int], Any]:
    """Progress on stderr, on a terminal only unless asked.

    Parameters
    ----------
    total : int or None
        Items to come, if known.
    unit : str
        Name of an item.
    description : str
    show : bool, optional
        True or False overrules the terminal.

    Returns
    -------
    callable (int) -> None
        Reports that so many more items are done; the bar is closed with the last of `total`, or with a call
        of 0.
    """
    if show is False or (show is None and not sys.stderr.isatty()):
        return lambda count: None
    from tqdm.auto import tqdm

    bar = tqdm(total=total, unit=unit, desc=description, dynamic_ncols=True)

    def advance(count: int) -> None:
        bar.update(count)
        if count == 0 or (total is not None and bar.n >= total):
            bar.close()

    return advance

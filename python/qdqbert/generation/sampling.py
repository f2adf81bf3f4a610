# SPDX-License-Identifier: Apache-2.0
"""Draws of tokens from scores, each row from a stream of its own.

Streams come from one seed by `numpy.random.SeedSequence`, so what a row draws depends on the seed and on its
place in the batch, not on how many rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.generation.logits_process import softmax
from qdqbert.seeds import require_seed

__all__ = ["draw", "draw_distinct", "require_choice", "streams_of"]

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[Any]


def streams_of(
    seed: int | np.random.Generator | Sequence[np.random.Generator] | None, count: int
) -> list[np.random.Generator]:
    """Return one generator for each row.

    Parameters
    ----------
    seed : int, Generator, sequence of Generator or None
        At least 0; a generator is spawned from, so that a second call gives other streams; a sequence holds
        the streams themselves; None: fresh entropy.
    count : int
        Rows.

    Raises
    ------
    TypeError, ValueError
        If `seed` is none of these.
    """
    if isinstance(seed, np.random.Generator):
        return seed.spawn(count)
    if isinstance(seed, list | tuple) and all(isinstance(each, np.random.Generator) for each in seed):
        if len(seed) != count:
            raise ValueError(f"seed: expected one generator for each of {count} rows, got {len(seed)}")
        return list(seed)
    if seed is not None:
        require_seed("seed", seed)
    entropy: Any = seed
    return [np.random.default_rng(child) for child in np.random.SeedSequence(entropy).spawn(count)]


def draw(scores: Scores, streams: Sequence[np.random.Generator]) -> Ids:
    """Draw one token of each row, with the probabilities of `softmax`.

    Parameters
    ----------
    scores : ndarray, shape (rows, tokens)
    streams : sequence of Generator
        One for each row.

    Raises
    ------
    ValueError
        If every token of a row is ruled out.
    """
    require_choice(scores, 1)
    totals = softmax(scores).cumsum(axis=1)
    tokens = np.zeros(len(scores), np.int64)
    for row, stream in enumerate(streams):
        # Below the total, so that the token found has a probability above 0.
        tokens[row] = np.searchsorted(totals[row], stream.random() * totals[row, -1], side="right")
    return tokens


def draw_distinct(scores: Scores, count: int, streams: Sequence[np.random.Generator]) -> Ids:
    """Draw `count` different tokens of each row, one after the other, without putting them back.

    Parameters
    ----------
    scores : ndarray, shape (rows, tokens)
    count : int
    streams : sequence of Generator
        One for each row.

    Raises
    ------
    ValueError
        If a row has fewer tokens that are not ruled out.

    References
    ----------
    Kool et al., 2019, "Stochastic Beams and Where to Find Them", section 2.3: the largest of scores with
    Gumbel noise are such a sample.
    """
    require_choice(scores, count)
    noise = np.stack([stream.gumbel(size=scores.shape[1]) for stream in streams])
    return np.argsort(-(scores + noise), axis=1, kind="stable")[:, :count]


def require_choice(scores: Scores, count: int) -> None:
    """Refuse rows in which fewer than `count` tokens are possible.

    Parameters
    ----------
    scores : ndarray, shape (rows, vocabulary)
        Minus infinity where a token is impossible.
    count : int

    Raises
    ------
    ValueError
        With the first such row.
    """
    for row, left in enumerate(np.isfinite(scores).sum(axis=1)):
        if left < count:
            raise ValueError(
                f"row {row}: {left} tokens may follow and {count} are needed; the others are ruled out by "
                "no_repeat_ngram_size, min_length, top_k or top_p"
            )

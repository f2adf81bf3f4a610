# SPDX-License-Identifier: Apache-2.0
"""Perplexity from the losses of texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.metrics.statistic import Floats, Statistic, as_vectors

__all__ = ["Perplexity", "perplexity"]


def perplexity(losses: npt.ArrayLike, tokens: npt.ArrayLike) -> float:
    """Exponential of the mean loss of a token: over how many equally likely tokens a model hesitates.

    Parameters
    ----------
    losses : array (N,)
        Sum of the negative log-likelihoods of each text's predicted tokens, natural logarithm; >= 0.
    tokens : array (N,)
        How many tokens of each text were predicted; integers >= 0, at least one above 0.

    Returns
    -------
    float
        >= 1; infinity beyond the range of floats.

    Raises
    ------
    ValueError
        If they are not two vectors of one length >= 1, hold NaN or infinities, or no token was predicted.

    Examples
    --------
    >>> import math
    >>> round(perplexity([2 * math.log(5), 2 * math.log(5)], [1, 3]), 9)
    5.0
    """
    return Perplexity(losses, tokens).value()


class Perplexity(Statistic):
    """Perplexity as a `Statistic`.

    Parameters
    ----------
    losses, tokens
        As in `perplexity`, errors too.
    """

    def __init__(self, losses: npt.ArrayLike, tokens: npt.ArrayLike) -> None:
        first, second = as_vectors("losses", losses, "tokens", tokens)
        if (first < 0).any():
            raise ValueError(f"losses: expected none below 0, found {first.min()}")
        if (second < 0).any() or (second != np.rint(second)).any() or not second.any():
            raise ValueError("tokens: expected integers of at least 0, and one above 0")
        self.size: int = first.size
        self._terms = np.stack([first, second], axis=1)

    def __call__(self, counts: Floats) -> Floats:
        """Perplexity over the counted texts; NaN if they have no predicted token."""
        sums = counts @ self._terms
        nothing = np.full(len(sums), np.nan)
        mean = np.divide(sums[:, 0], sums[:, 1], out=nothing, where=sums[:, 1] > 0)
        with np.errstate(over="ignore"):
            value: Floats = np.exp(mean)
        return value

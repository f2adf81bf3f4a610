# SPDX-License-Identifier: Apache-2.0
"""Pearson's and Spearman's correlation of two vectors.

Values are scipy's (`pearsonr`, `spearmanr`): ties share the mean of their ranks, and the correlation with a
constant is not defined: NaN.  NaN and infinities in the data are refused, where scipy hands them on.

References
----------
Spearman, 1904, "The Proof and Measurement of Association between Two Things".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.metrics.statistic import Floats, Statistic, as_vectors

__all__ = ["Pearson", "Spearman", "pearson", "spearman"]


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Linear correlation.

    Parameters
    ----------
    x, y : array (N,)
        Finite numbers, N >= 2.

    Returns
    -------
    float
        In [-1, 1]; NaN if `x` or `y` is constant.

    Raises
    ------
    ValueError
        If they are not two vectors of one length >= 2, or hold NaN or infinities.

    Examples
    --------
    >>> pearson([1, 2, 3], [3, 2, 1])
    -1.0
    """
    return Pearson(x, y).value()


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Correlation of ranks; ties share the mean of their ranks.

    Parameters, result and errors as in `pearson`.

    Parameters
    ----------
    x, y
        As in `pearson`; so are result and errors.

    Examples
    --------
    >>> spearman([1, 2, 3], [1, 4, 90])
    1.0
    """
    return Spearman(x, y).value()


class Pearson(Statistic):
    """Linear correlation as a `Statistic`.

    Parameters
    ----------
    x, y
        As in `pearson`, errors too.
    """

    def __init__(self, x: npt.ArrayLike, y: npt.ArrayLike) -> None:
        self._x, self._y = (_scaled(values) for values in _as_pairs(x, y))
        self.size: int = self._x.size

    def __call__(self, counts: Floats) -> Floats:
        """Correlation of the counted pairs."""
        return _correlation(counts, self._x[None], self._y[None])


class Spearman(Statistic):
    """Rank correlation as a `Statistic`.

    Parameters
    ----------
    x, y
        As in `pearson`, errors too.
    """

    def __init__(self, x: npt.ArrayLike, y: npt.ArrayLike) -> None:
        first, second = _as_pairs(x, y)
        self.size: int = first.size
        self._x, self._y = _Ranks(first), _Ranks(second)

    def __call__(self, counts: Floats) -> Floats:
        """Correlation of the ranks that the counted pairs have among themselves."""
        return _correlation(counts, self._x(counts), self._y(counts))


class _Ranks:
    """Mean ranks of values that count several times."""

    def __init__(self, values: Floats) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self._starts = np.flatnonzero(is_first)
        self._group = np.empty(values.size, dtype=np.int64)
        self._group[self._order] = np.cumsum(is_first) - 1

    def __call__(self, counts: Floats) -> Floats:
        tied = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        below = np.cumsum(tied, axis=1) - tied
        ranks: Floats = (below + (tied + 1.0) / 2.0)[:, self._group]
        return ranks


def _correlation(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Correlation of the columns of x and y (R or 1, N) by their counts (R, N)."""
    total = counts.sum(axis=1, keepdims=True)
    dx = x - (counts * x).sum(axis=1, keepdims=True) / total
    dy = y - (counts * y).sum(axis=1, keepdims=True) / total
    product = (counts * dx * dy).sum(axis=1)
    scale = np.sqrt((counts * dx * dx).sum(axis=1) * (counts * dy * dy).sum(axis=1))
    # The mean of equal numbers may be off by a rounding, so that what is constant is looked at itself.
    is_undefined = _is_constant(counts, x) | _is_constant(counts, y) | (scale == 0.0)
    value = np.divide(product, scale, out=np.full_like(product, np.nan), where=~is_undefined)
    clipped: Floats = np.clip(value, -1.0, 1.0)
    return clipped


def _is_constant(counts: Floats, values: Floats) -> npt.NDArray[np.bool_]:
    is_counted = counts > 0
    largest = np.where(is_counted, values, -np.inf).max(axis=1)
    smallest = np.where(is_counted, values, np.inf).min(axis=1)
    constant: npt.NDArray[np.bool_] = largest == smallest
    return constant


def _as_pairs(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = as_vectors("x", x, "y", y)
    if first.size < 2:
        raise ValueError("x, y: expected at least two pairs, found 1")
    return first, second


def _scaled(values: Floats) -> Floats:
    """Values shifted and scaled to at most 1, which keeps the correlation and keeps squares in range.

    Halves are subtracted, since the range of floats of both signs may exceed the largest float.
    """
    middle = values.max() / 2 + values.min() / 2
    halves = values / 2 - middle / 2
    largest = np.abs(halves).max()
    return values - values if largest == 0.0 else halves / largest

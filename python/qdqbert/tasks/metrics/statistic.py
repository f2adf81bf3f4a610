# SPDX-License-Identifier: Apache-2.0
"""A metric as a function of how often each item counts.

Scoring a data set, and scoring a bootstrap resample of it, differ only in how often each item was drawn: once
in the first case, 0, 1, 2, ... times in the second.  So a metric is written once, over counts, from what each
item contributes (right or wrong, entities found, a pair of numbers), and the model is not asked again.  This
holds for metrics that are means and for those that are not: an F1, a correlation, a perplexity are recomputed
from the counted items, as a scorer would do on the resampled file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Mean", "Ratio", "Statistic", "as_values", "as_vectors", "divide"]

Floats = npt.NDArray[np.float64]


class Statistic(ABC):
    """A metric over a fixed list of items.

    Attributes
    ----------
    size : int
        Items, >= 1.
    """

    size: int

    @abstractmethod
    def __call__(self, counts: Floats) -> Floats:
        """Value when item i counts ``counts[r, i]`` times.

        Parameters
        ----------
        counts : ndarray (R, size) float64
            Integers >= 0, at least one above 0 in each row.

        Returns
        -------
        ndarray (R,) float64
            NaN where the metric is not defined.
        """

    def value(self) -> float:
        """Value on the items themselves, each once."""
        return float(self(np.ones((1, self.size)))[0])


class Ratio(Statistic):
    """Sum of one quantity over the sum of another; 0 where the second sum is 0.

    Parameters
    ----------
    numerators, denominators : array (N,)
        Finite numbers.

    Raises
    ------
    ValueError
        If they are not two vectors of one length >= 1, or hold NaN or infinities.

    Examples
    --------
    >>> Ratio([1, 2], [4, 2]).value()
    0.5
    """

    def __init__(self, numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> None:
        first, second = as_vectors("numerators", numerators, "denominators", denominators)
        self.size: int = first.size
        self._terms = np.stack([first, second], axis=1)

    def __call__(self, counts: Floats) -> Floats:
        """Ratio of the counted sums."""
        sums = counts @ self._terms
        return divide(sums[:, 0], sums[:, 1])


class Mean(Ratio):
    """Mean of a quantity.

    Parameters
    ----------
    values : array (N,)
        Finite numbers.

    Raises
    ------
    ValueError
        If it is not a vector of length >= 1, or holds NaN or infinities.
    """

    def __init__(self, values: npt.ArrayLike) -> None:
        numbers = as_values("values", values)
        super().__init__(numbers, np.ones_like(numbers))


def divide(numerators: Floats, denominators: Floats) -> Floats:
    """Quotient with 0 / 0 = 0: precision, recall and F1 where nothing was predicted or is there.

    Parameters
    ----------
    numerators, denominators : ndarray, shapes that broadcast to each other
    """
    return np.divide(
        numerators, denominators, out=np.zeros_like(numerators, dtype=np.float64), where=denominators != 0
    )


def as_values(name: str, values: npt.ArrayLike) -> Floats:
    """Take a vector of finite numbers.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    values : array (N,)

    Returns
    -------
    ndarray (N,) float64

    Raises
    ------
    ValueError
        If it is not a vector of length >= 1, or holds NaN or infinities.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(f"{name}: expected a vector of at least one number, found shape {numbers.shape}")
    _refuse_non_finite(name, numbers)
    return numbers


def as_vectors(
    first_name: str, first: npt.ArrayLike, second_name: str, second: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """Take two vectors of finite numbers of one length >= 1; errors as in `as_values`.

    Parameters
    ----------
    first_name, second_name : str
        Of the arguments, for messages.
    first, second : array (N,)
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(
            f"{first_name}, {second_name}: expected two vectors of one length, "
            f"found shapes {a.shape} and {b.shape}"
        )
    _refuse_non_finite(first_name, a)
    _refuse_non_finite(second_name, b)
    return a, b


def _refuse_non_finite(name: str, numbers: npt.NDArray[Any]) -> None:
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise ValueError(f"{name}: expected finite numbers, found {numbers[bad[0]]} at index {bad[0]}")

# SPDX-License-Identifier: Apache-2.0
"""How sure an accuracy drop is: the paired bootstrap.

Two models that are scored on the same questions agree on most of them, so the noise of a difference is far
smaller than that of either score.  Resampling questions, and taking both models' scores of each, measures
just that noise.

Reference: Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", section 13.3 (percentile
intervals); Koehn, 2004, "Statistical Significance Tests for Machine Translation Evaluation" (paired
resampling).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PairedDifference", "paired_difference"]

# Elements of one block of resampled indices: 8 MB.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of candidate minus baseline with an interval.

    Attributes
    ----------
    mean, low, high : float
        In the unit of the scores.
    """

    mean: float
    low: float
    high: float


def paired_difference(
    candidate: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Mean difference of scores on the same questions, with a percentile bootstrap interval.

    Parameters
    ----------
    candidate, baseline : array (questions,)
        Score of each question, in the same order and unit.
    confidence : float
        In (0, 1).
    resamples : int
        >= 1.
    seed : int
        The interval is the same for the same seed.

    Returns
    -------
    PairedDifference

    Raises
    ------
    ValueError
        If the scores are not two vectors of one length >= 1, or a number is out of its range.

    Examples
    --------
    >>> paired_difference([1, 1, 0, 1], [1, 1, 0, 1])
    PairedDifference(mean=0.0, low=0.0, high=0.0)
    """
    first, second = np.asarray(candidate, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"candidate, baseline: expected two vectors of one length, "
            f"found shapes {first.shape} and {second.shape}"
        )
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise ValueError(
            f"confidence, resamples: expected (0, 1) and at least 1, found {confidence}, {resamples}"
        )
    difference = first - second
    generator = np.random.default_rng(seed)
    means: list[npt.NDArray[np.float64]] = []
    rows = max(1, _BLOCK // difference.size)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), difference.size)
        means.append(difference[generator.integers(difference.size, size=shape)].mean(axis=1))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    return PairedDifference(float(difference.mean()), float(low), float(high))

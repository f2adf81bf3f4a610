# SPDX-License-Identifier: Apache-2.0
"""How sure a score is, and how sure an accuracy drop is: the bootstrap, alone and paired.

A resample draws as many items as there are, with replacement, and the metric is recomputed from how often
each item was drawn (see `qdqbert.tasks.metrics.statistic`), whether it is a mean or not.

Two models that are scored on the same items agree on most of them, so the noise of a difference is far
smaller than that of either score.  Resampling items, and taking both models' scores of each resample,
measures just that noise.

Reference: Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", section 13.3 (percentile
intervals); Koehn, 2004, "Statistical Significance Tests for Machine Translation Evaluation" (paired
resampling).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qdqbert.seeds import require_seed
from qdqbert.tasks.metrics.statistic import Floats, Mean, Statistic, as_vectors

__all__ = [
    "Interval",
    "PairedDifference",
    "bootstrap_difference",
    "bootstrap_interval",
    "paired_difference",
    "resampled_counts",
]

# Elements of one block of resampled indices: 8 MB.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Interval:
    """Percentile interval of a metric.

    Attributes
    ----------
    low, high : float
        In the unit of the metric; NaN if it is defined on no resample.
    undefined : int
        Resamples on which the metric is not defined (a correlation with a constant, say); they are left out.
    """

    low: float
    high: float
    undefined: int = 0


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Candidate minus baseline with an interval.

    Attributes
    ----------
    mean, low, high : float
        In the unit of the scores.  `mean` is the difference on the items themselves.
    """

    mean: float
    low: float
    high: float


def bootstrap_interval(
    statistic: Statistic, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Interval in which a metric lies on resampled items.

    Parameters
    ----------
    statistic : Statistic
    confidence : float
        In (0, 1).
    resamples : int
        >= 1.
    seed : int
        The interval is the same for the same seed.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> from qdqbert.tasks.metrics import Mean
    >>> bootstrap_interval(Mean([1, 1, 1]))
    Interval(low=1.0, high=1.0, undefined=0)
    """
    _check(confidence, resamples)
    values = np.concatenate(
        [statistic(counts) for counts in resampled_counts(statistic.size, resamples, seed)]
    )
    low, high, undefined = _quantiles(values, confidence)
    return Interval(low, high, undefined)


def bootstrap_difference(
    candidate: Statistic,
    baseline: Statistic,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Difference of a metric of two models on the same items, with a paired percentile interval.

    Parameters
    ----------
    candidate, baseline : Statistic
        The same metric over the same items in the same order.
    confidence, resamples, seed
        As in `bootstrap_interval`.

    Returns
    -------
    PairedDifference
        Resamples on which either is not defined are left out of the interval.

    Raises
    ------
    ValueError
        If the two differ in size, or a number is out of its range.
    """
    _check(confidence, resamples)
    if candidate.size != baseline.size:
        raise ValueError(
            f"candidate, baseline: expected scores of the same items, "
            f"found {candidate.size} and {baseline.size}"
        )
    drawn = resampled_counts(candidate.size, resamples, seed)
    values = np.concatenate([_difference(candidate(counts), baseline(counts)) for counts in drawn])
    once = np.ones((1, candidate.size))
    low, high, _ = _quantiles(values, confidence)
    return PairedDifference(float(_difference(candidate(once), baseline(once))[0]), low, high)


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
    first, second = as_vectors("candidate", candidate, "baseline", baseline)
    differences = Mean(first - second)
    interval = bootstrap_interval(differences, confidence=confidence, resamples=resamples, seed=seed)
    return PairedDifference(differences.value(), interval.low, interval.high)


def resampled_counts(size: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each item is drawn, resample by resample, in blocks of bounded memory.

    Parameters
    ----------
    size : int
        Items, >= 1; as many are drawn.
    resamples : int
        >= 1.
    seed : int

    Yields
    ------
    ndarray (R, size) float64
        Each row sums to `size`; the rows of all blocks are `resamples`.
    """
    require_seed("seed", seed)
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // size)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = generator.integers(size, size=(block, size))
        drawn += np.arange(block)[:, None] * size
        yield np.bincount(drawn.ravel(), minlength=block * size).reshape(block, size).astype(np.float64)


def _difference(candidate: Floats, baseline: Floats) -> Floats:
    # Two infinite perplexities have no difference; that is NaN, not a warning.
    with np.errstate(invalid="ignore"):
        return candidate - baseline


def _quantiles(values: Floats, confidence: float) -> tuple[float, float, int]:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan"), values.size
    tail = (1.0 - confidence) / 2.0
    ends = [tail, 1.0 - tail]
    if np.isfinite(defined).all():
        low, high = np.quantile(defined, ends)
    else:  # an infinite perplexity: between it and its neighbour there is nothing to interpolate
        low, high = np.quantile(defined, ends, method="nearest")
    return float(low), float(high), values.size - defined.size


def _check(confidence: float, resamples: int) -> None:
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise ValueError(
            f"confidence, resamples: expected (0, 1) and at least 1, found {confidence}, {resamples}"
        )

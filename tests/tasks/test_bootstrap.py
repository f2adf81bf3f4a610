# SPDX-License-Identifier: Apache-2.0
"""The bootstrap of one score and of the difference of two."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.tasks.bootstrap import (
    bootstrap_difference,
    bootstrap_interval,
    paired_difference,
    resampled_counts,
)
from qdqbert.tasks.metrics import F1, Matthews, Mean, Pearson, Perplexity, Spearman


def test_interval_of_a_constant_difference_is_that_constant():
    result = paired_difference(np.arange(7) + 2.0, np.arange(7))

    assert (result.mean, result.low, result.high) == (2.0, 2.0, 2.0)


def test_interval_is_that_of_the_normal_approximation():
    # Differences of standard deviation s give a mean of standard deviation s / sqrt(n). With 2,000 resamples
    # the end of a 95 % interval has a standard error of about 2.7 s / sqrt(2000 n); four of those are
    # allowed.
    difference = np.random.default_rng(1).standard_normal(1000)
    error = difference.std() / np.sqrt(1000)

    result = paired_difference(difference, np.zeros(1000))

    slack = 4 * 2.7 * error / np.sqrt(2000)
    assert result.low == pytest.approx(result.mean - 1.96 * error, abs=slack)
    assert result.high == pytest.approx(result.mean + 1.96 * error, abs=slack)


def test_same_seed_same_interval():
    scores = np.random.default_rng(2).random(50)

    assert paired_difference(scores, 1 - scores, seed=4) == paired_difference(scores, 1 - scores, seed=4)


def test_blocks_do_not_show():
    # More questions than one block holds rows of: the means come from several draws.
    scores = np.random.default_rng(3).random(600_000)

    result = paired_difference(scores, scores * 0, resamples=5)

    assert result.low <= result.mean <= result.high or result.high - result.low < 1e-2


@pytest.mark.parametrize(
    ("candidate", "baseline", "options"),
    [
        ([], [], {}),
        ([1, 2], [1], {}),
        ([[1]], [[1]], {}),
        ([1], [1], {"confidence": 1.0}),
        ([1], [1], {"resamples": 0}),
    ],
)
def test_what_cannot_be_compared_is_refused(candidate, baseline, options):
    with pytest.raises(ValueError, match="expected"):
        paired_difference(candidate, baseline, **options)


def test_counts_are_draws_with_replacement():
    blocks = list(resampled_counts(5, 2000, seed=1))

    counts = np.concatenate(blocks)
    assert counts.shape == (2000, 5)
    assert (counts.sum(axis=1) == 5).all()
    # Each count is binomial(5, 1/5): mean 1, variance 0.8; the mean of 10,000 is within 4 standard errors.
    assert counts.mean() == pytest.approx(1.0)
    assert counts.var() == pytest.approx(0.8, abs=4 * 2 * 0.8 / np.sqrt(10_000))


def test_blocks_together_hold_every_resample():
    # 1,048,576 / 300,000: three rows a block.
    blocks = [block.shape for block in resampled_counts(300_000, 7, seed=1)]

    assert blocks == [(3, 300_000), (3, 300_000), (1, 300_000)]


def test_interval_of_a_correlation_is_fishers():
    # For normal pairs atanh(r) has a standard error of 1 / sqrt(n - 3). With 2,000 resamples each end has a
    # standard error of about 2.7 of these / sqrt(2000), and the resampled spread itself is off by
    # 1 / sqrt(2 n); four of both together are allowed.
    generator = np.random.default_rng(5)
    x = generator.standard_normal(2000)
    y = 0.6 * x + 0.8 * generator.standard_normal(2000)
    error = 1 / np.sqrt(1997)
    slack = 4 * error * (2.7 / np.sqrt(2000) + 1.96 / np.sqrt(4000))

    result = bootstrap_interval(Pearson(x, y))

    middle = np.arctanh(Pearson(x, y).value())
    assert np.arctanh(result.low) == pytest.approx(middle - 1.96 * error, abs=slack)
    assert np.arctanh(result.high) == pytest.approx(middle + 1.96 * error, abs=slack)
    assert result.undefined == 0


def test_nine_of_ten_intervals_of_ninety_percent_hold_the_truth():
    # F1 of a classifier that is right with 0.8 of two equally frequent classes tends to 0.8. Of 200 intervals
    # 90 % should hold it; the binomial standard error is 2.1 %, four of them are allowed.
    generator = np.random.default_rng(6)
    held = 0
    for seed in range(200):
        labels = generator.integers(0, 2, 400)
        predicted = np.where(generator.random(400) < 0.8, labels, 1 - labels)
        interval = bootstrap_interval(F1(labels, predicted), confidence=0.9, resamples=400, seed=seed)
        held += interval.low <= 0.8 <= interval.high

    assert held / 200 == pytest.approx(0.9, abs=4 * 0.021)


def test_paired_interval_is_narrower_than_that_of_either_score():
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 2, 500)
    first = np.where(generator.random(500) < 0.8, labels, 1 - labels)
    second = np.where(generator.random(500) < 0.98, first, 1 - first)

    alone = bootstrap_interval(Matthews(labels, second))
    paired = bootstrap_difference(Matthews(labels, second), Matthews(labels, first))

    assert paired.mean == Matthews(labels, second).value() - Matthews(labels, first).value()
    assert paired.low <= paired.mean <= paired.high
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_a_model_does_not_differ_from_itself():
    scores = Spearman([1, 2, 3, 4], [1, 1, 2, 5])

    assert bootstrap_difference(scores, scores) == paired_difference([0.0], [0.0])


def test_undefined_resamples_are_counted_and_left_out():
    # One of three pairs has another x: a resample without it, or of it alone, has no correlation, which
    # happens with probability (2/3)^3 + (1/3)^3 = 1/3; four binomial standard errors are allowed.
    result = bootstrap_interval(Pearson([0, 0, 1], [0, 1, 2]), resamples=3000)

    assert result.undefined / 3000 == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / 3000))
    assert np.isfinite([result.low, result.high]).all()
    nothing = bootstrap_interval(Pearson([1, 1], [1, 2]), resamples=10)
    assert np.isnan([nothing.low, nothing.high]).all()
    assert nothing.undefined == 10


def test_infinite_perplexities_stay_infinite():
    result = bootstrap_interval(Perplexity([1000.0, 1.0], [1, 1]))

    assert (result.low, result.high) == (pytest.approx(np.e), np.inf)


def test_scores_of_other_items_are_not_compared():
    with pytest.raises(ValueError, match="scores of the same items, found 2 and 3"):
        bootstrap_difference(Mean([1, 2]), Mean([1, 2, 3]))
    with pytest.raises(ValueError, match="expected"):
        bootstrap_interval(Mean([1, 2]), confidence=0.0)


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("1", TypeError)]
)
def test_what_is_no_seed_is_named(seed, error):
    scores = Mean([1.0, 0.0, 1.0])
    with pytest.raises(error, match="seed: expected"):
        bootstrap_interval(scores, seed=seed)
    with pytest.raises(error, match="seed: expected"):
        bootstrap_difference(scores, scores, seed=seed)

# SPDX-License-Identifier: Apache-2.0
"""The paired bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.tasks.bootstrap import paired_difference


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

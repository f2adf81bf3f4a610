# SPDX-License-Identifier: Apache-2.0
"""From logits to scores, and the best of them."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.pipelines.scores import best, sigmoid, softmax


def test_softmax_adds_up_to_one_and_does_not_overflow():
    logits = np.array([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0]], np.float32)

    shares = softmax(logits)

    np.testing.assert_allclose(shares, [[0.7310586, 0.2689414, 0.0], [1 / 3] * 3], rtol=1e-6)
    assert shares.dtype == np.float32


def test_sigmoid_does_not_overflow():
    scores = sigmoid(np.array([-1000.0, -1.0, 0.0, 1.0, 1000.0], np.float32))

    np.testing.assert_allclose(scores, [0.0, 0.26894143, 0.5, 0.7310586, 1.0], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9])
def test_best_is_a_stable_sort_of_all(count):
    scores = np.array([3, 1, 3, 2, 3, 0, 1, 2], np.float32)

    expected = sorted(range(8), key=lambda i: (-scores[i], i))[:count]

    assert best(scores, count).tolist() == expected

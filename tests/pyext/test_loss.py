# SPDX-License-Identifier: Apache-2.0
"""The losses and their gradients as C gives them, against float64 and by differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqbert import _core
from qdqbert.errors import ShapeError

ROWS, CLASSES = 7, 13


def logits(rows: int = ROWS, classes: int = CLASSES, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, classes)) * 3).astype(np.float32)


def labels(rows: int = ROWS, classes: int = CLASSES) -> np.ndarray:
    found = np.random.default_rng(1).integers(0, classes, rows)
    found[::3] = -100
    return found


def expected_cross_entropy(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean over rows that count, and its gradient."""
    x = x.astype(np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    counts = np.flatnonzero(y != -100)
    d = np.zeros_like(x)
    d[counts] = p[counts]
    d[counts, y[counts]] -= 1.0
    return float(-np.log(p[counts, y[counts]]).mean()), d / len(counts)


@pytest.mark.parametrize(("rows", "classes"), [(7, 13), (1, 1), (3, 16), (5, 4099), (260, 33)])
def test_cross_entropy_and_its_gradient_are_those_of_float64(rows: int, classes: int) -> None:
    x, y = logits(rows, classes), np.random.default_rng(1).integers(0, classes, rows)
    y[1::3] = -100
    value, d = expected_cross_entropy(x, y)
    assert _core.cross_entropy(x, y, -100) == pytest.approx(value, rel=1e-6, abs=1e-7)
    found = _core.cross_entropy_grad(x, y, -100, 0.5)
    # A probability has a relative error of a few roundings of float32; the label's is subtracted from 1.
    np.testing.assert_allclose(found, d * 0.5, rtol=1e-6, atol=2e-7 * 0.5 / (y != -100).sum())
    assert not found[y == -100].any()


def test_far_logits_do_not_overflow() -> None:
    x = np.array([[1e4, 0.0, -1e4], [-3e38, 3e38, 0.0]], np.float32)
    y = np.array([0, 1])
    assert _core.cross_entropy(x, y, -100) == 0.0
    assert not _core.cross_entropy_grad(x, y, -100, 1.0).any()
    assert _core.cross_entropy(x, np.array([1, 1]), -100) == 5e3


def test_without_a_label_that_counts_loss_and_gradient_are_nan() -> None:
    x, y = logits(), np.full(ROWS, -100)
    assert np.isnan(_core.cross_entropy(x, y, -100))
    assert np.isnan(_core.cross_entropy_grad(x, y, -100, 1.0)).all()


def test_a_nan_among_the_logits_of_a_row_that_counts_is_seen_and_of_another_is_not() -> None:
    x, y = logits(), labels()
    x[0, 3] = np.nan  # row 0 does not count
    assert np.isfinite(_core.cross_entropy(x, y, -100))
    x[1, 3] = np.nan
    assert np.isnan(_core.cross_entropy(x, y, -100))
    assert np.isnan(_core.cross_entropy_grad(x, y, -100, 1.0)[1]).all()


def test_elementwise_losses_have_the_gradients_of_their_formulas() -> None:
    x, y = logits(), np.random.default_rng(2).random((ROWS, CLASSES)).astype(np.float32)
    wide = x.astype(np.float64)
    n = x.size
    np.testing.assert_allclose(_core.mean_squared_error_grad(x, y, 2.0), 4 * (wide - y) / n, rtol=1e-6)
    p = 1 / (1 + np.exp(-wide))
    np.testing.assert_allclose(
        _core.binary_cross_entropy_grad(x, y, 2.0), 2 * (p - y) / n, rtol=1e-6, atol=1e-9
    )
    assert _core.mean_squared_error_grad(x, y, 1.0).shape == x.shape


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _core.cross_entropy_grad(logits(), labels(6), -100, 1.0), ShapeError, "labels: expected"),
        (lambda: _core.cross_entropy_grad(logits(), labels() * 99, -100, 1.0), IndexError, r"labels\[\d\]"),
        (lambda: _core.cross_entropy_grad(logits(), labels(), -100), TypeError, "takes 4 arguments, 3 given"),  # type: ignore[call-arg]
        (lambda: _core.cross_entropy_grad(logits(), labels(), -100, "1"), TypeError, "real number"),  # type: ignore[arg-type]
        (lambda: _core.mean_squared_error_grad(logits(), logits(6), 1.0), ShapeError, "y: expected"),
        (lambda: _core.binary_cross_entropy_grad(logits(), logits(6), 1.0), ShapeError, "labels: expected"),
        (lambda: _core.mean_squared_error_grad(logits(), logits()), TypeError, "takes 3 arguments"),  # type: ignore[call-arg]
        (lambda: _core.mean_squared_error_grad(logits(), None, 1.0), TypeError, "y"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()

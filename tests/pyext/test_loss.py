# SPDX-License-Identifier: Apache-2.0
"""The losses and their gradients as C gives them, against float64 and by differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqbert import _core
from qdqbert.errors import ShapeError

ROWS, CLASSES = 7, 13
DEVICE = _core.Device()


def cross_entropy(x: np.ndarray, y: np.ndarray, smoothing: float = 0.0) -> float:
    return _core.cross_entropy(DEVICE, x, y, -100, smoothing)


def cross_entropy_grad(x: np.ndarray, y: np.ndarray, factor: Any, smoothing: float = 0.0) -> np.ndarray:
    return _core.cross_entropy_grad(DEVICE, x, y, -100, smoothing, factor)


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
    assert cross_entropy(x, y) == pytest.approx(value, rel=1e-6, abs=1e-7)
    found = cross_entropy_grad(x, y, 0.5)
    # The sum of a softmax is one of classes / 16 terms in each lane; the label's probability is near 1.
    rounding = (classes / 16 + 8) * 2.0**-24
    np.testing.assert_allclose(found, d * 0.5, rtol=rounding, atol=rounding * 0.5 / (y != -100).sum())
    assert not found[y == -100].any()


def test_far_logits_do_not_overflow() -> None:
    x = np.array([[1e4, 0.0, -1e4], [-3e38, 3e38, 0.0]], np.float32)
    y = np.array([0, 1])
    assert cross_entropy(x, y) == 0.0
    assert not cross_entropy_grad(x, y, 1.0).any()
    assert cross_entropy(x, np.array([1, 1])) == 5e3


def test_without_a_label_that_counts_loss_and_gradient_are_nan() -> None:
    x, y = logits(), np.full(ROWS, -100)
    assert np.isnan(cross_entropy(x, y))
    assert np.isnan(cross_entropy_grad(x, y, 1.0)).all()


def test_a_nan_among_the_logits_of_a_row_that_counts_is_seen_and_of_another_is_not() -> None:
    x, y = logits(), labels()
    x[0, 3] = np.nan  # row 0 does not count
    assert np.isfinite(cross_entropy(x, y))
    x[1, 3] = np.nan
    assert np.isnan(cross_entropy(x, y))
    assert np.isnan(cross_entropy_grad(x, y, 1.0)[1]).all()


def test_smoothing_spreads_a_share_of_the_target_over_all_classes() -> None:
    x, y = logits(), labels()
    counts = y != -100
    even = np.mean([cross_entropy(x, np.where(counts, c, -100)) for c in range(CLASSES)])
    assert cross_entropy(x, y, 0.25) == pytest.approx(0.75 * cross_entropy(x, y) + 0.25 * even, rel=1e-6)
    found = cross_entropy_grad(x, y, 1.0, 0.25)
    parts = [cross_entropy_grad(x, np.where(counts, c, -100), 1.0) for c in range(CLASSES)]
    expected = 0.75 * cross_entropy_grad(x, y, 1.0) + 0.25 * np.mean(parts, axis=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match=r"label_smoothing is 2, expected 0 \.\. 1"):
        cross_entropy(x, y, 2.0)


def test_divergence_from_a_teacher_is_cross_entropy_less_entropy() -> None:
    x, teacher, y = logits(), logits(seed=3), labels()
    counts = np.flatnonzero(y != -100)

    def log_softmax(z: np.ndarray) -> np.ndarray:
        z = z.astype(np.float64) / 2.0
        return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))

    p, q = log_softmax(x), log_softmax(teacher)
    value = (np.exp(q) * (q - p)).sum(-1)[counts].mean()
    assert _core.kl_divergence(DEVICE, x, teacher, y, -100, 2.0) == pytest.approx(value, rel=1e-6)
    found = _core.kl_divergence_grad(DEVICE, x, teacher, y, -100, 2.0, 4.0)
    expected = np.zeros_like(p)
    expected[counts] = 4.0 * (np.exp(p) - np.exp(q))[counts] / 2.0 / len(counts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    everywhere = (np.exp(q) * (q - p)).sum(-1).mean()
    assert _core.kl_divergence(DEVICE, x, teacher, None, -100, 2.0) == pytest.approx(everywhere, rel=1e-6)
    with pytest.raises(ShapeError, match="teacher: expected the shape of logits"):
        _core.kl_divergence(DEVICE, x, teacher[:, 1:].copy(), None, -100, 2.0)
    with pytest.raises(ValueError, match="temperature is 0"):
        _core.kl_divergence(DEVICE, x, teacher, None, -100, 0.0)


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
        (lambda: cross_entropy_grad(logits(), labels(6), 1.0), ShapeError, "labels: expected"),
        (lambda: cross_entropy_grad(logits(), labels() * 99, 1.0), IndexError, r"labels\[\d\]"),
        (lambda: _core.cross_entropy_grad(DEVICE, logits(), labels(), -100, 0.0), TypeError, "takes 6"),  # type: ignore[call-arg]
        (lambda: _core.cross_entropy_grad(None, logits(), labels(), -100, 0.0, 1.0), TypeError, "device"),  # type: ignore[arg-type]
        (lambda: cross_entropy_grad(logits(), labels(), "1"), TypeError, "real number"),  # type: ignore[arg-type]
        (lambda: _core.mean_squared_error_grad(logits(), logits(6), 1.0), ShapeError, "y: expected"),
        (lambda: _core.binary_cross_entropy_grad(logits(), logits(6), 1.0), ShapeError, "labels: expected"),
        (lambda: _core.mean_squared_error_grad(logits(), logits()), TypeError, "takes 3 arguments"),  # type: ignore[call-arg]
        (lambda: _core.mean_squared_error_grad(logits(), None, 1.0), TypeError, "y"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()

# SPDX-License-Identifier: Apache-2.0
"""The functions that the original has in its compiled GPU extension, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqbert import cuda_ext, tensor_quant
from qdqbert.errors import ShapeError

BITS = (3, 4, 5, 7, 8, 11)


def data(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("narrow_range", [False, True])
def test_one_range_equals_the_function(num_bits: int, unsigned: bool, narrow_range: bool) -> None:
    x = np.abs(data(31, 17)) if unsigned else data(31, 17)
    mine = cuda_ext.fake_tensor_quant(x, 1.3, num_bits, unsigned, narrow_range)
    np.testing.assert_array_equal(
        mine, tensor_quant.fake_tensor_quant(x, 1.3, num_bits, unsigned, narrow_range)
    )


@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_a_range_for_each_index_of_an_axis_equals_the_function(num_bits: int, axis: int) -> None:
    x = data(3, 4, 17)
    amax = np.linspace(0.6, 0.9, x.shape[axis]).astype(np.float32)
    shape = [1, 1, 1]
    shape[axis] = -1
    np.testing.assert_array_equal(
        cuda_ext.fake_tensor_quant_with_axis(x, amax, axis, num_bits),
        tensor_quant.fake_tensor_quant(x, amax.reshape(shape), num_bits),
    )


def test_narrow_range_is_honoured() -> None:
    # The original's kernels never get the argument: -1.01 * 127 would stop at -127 there as well.
    x = np.float32([-1.01])
    assert cuda_ext.fake_tensor_quant(x, 1.0, 8, False, True) == np.float32(-1)
    lowest = np.float32(-128) / np.float32(127)
    assert cuda_ext.fake_tensor_quant(x, 1.0, 8, False, False) == lowest
    assert cuda_ext.fake_tensor_quant_with_axis(x, [1.0], 0, 8, False, False) == lowest


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype: Any) -> None:
    x = data(1009, dtype=dtype)
    expected = tensor_quant.fake_tensor_quant(x.astype(np.float32), np.float32(1.7)).astype(dtype)
    mine = cuda_ext.fake_tensor_quant(x, np.float32(1.7))
    assert mine.dtype == dtype
    np.testing.assert_array_equal(mine, expected)


def test_a_channel_with_a_tiny_range_is_zero() -> None:
    y = cuda_ext.fake_tensor_quant_with_axis(data(2, 5), np.float32([1e-26, 1.0]), 0)
    assert (y[0] == 0).all()
    assert (y[1] != 0).any()


# ---- in place ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (16,), (3, 5, 7)])
def test_in_place_writes_what_the_function_returns(dtype: Any, shape: tuple[int, ...]) -> None:
    x = np.array(data(*shape, dtype=dtype) if shape else dtype(0.3))
    expected = cuda_ext.fake_tensor_quant(x, 0.5, 4)
    assert cuda_ext.fake_tensor_quant_(x, 0.5, 4) is None  # type: ignore[func-returns-value]
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: data(4, 6)[:, ::2], ValueError, "contiguous"),
        (lambda: data(4, 6).T, ValueError, "contiguous"),
        (lambda: np.broadcast_to(np.float32(1), (1,)), ValueError, "read-only"),
        (lambda: [1.0, 2.0], TypeError, "an array of float16"),
        (lambda: np.arange(3), TypeError, "an array of float16"),
    ],
)
def test_what_cannot_be_written_in_place_is_refused(make: Any, error: type[Exception], text: str) -> None:
    x = make()
    before = np.array(x)
    with pytest.raises(error, match=text):
        cuda_ext.fake_tensor_quant_(x, 1.0)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("amax", "unsigned", "error"),
    [([1.0, 2.0], False, ShapeError), (-1.0, False, ValueError), (1.0, True, TypeError)],
)
def test_an_error_leaves_the_array_as_it_was(amax: Any, unsigned: bool, error: type[Exception]) -> None:
    x = data(9)
    before = x.copy()
    with pytest.raises(error):
        cuda_ext.fake_tensor_quant_(x, amax, unsigned=unsigned)
    np.testing.assert_array_equal(x, before)


# ---- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amax", "axis", "error", "text"),
    [
        ([1.0, 2.0], 1, ShapeError, r"amax: expected \(3,\) for axis 1 of \(2, 3\), got \(2,\)"),
        ([[1.0, 2.0]], 0, ShapeError, r"got \(1, 2\)"),
        (1.0, 0, ShapeError, r"got \(\)"),
        ([1.0, 2.0], 2, IndexError, r"axis: expected \[-2, 2\)"),
        ([1.0, 2.0], -3, IndexError, "got -3"),
        ([1.0, 2.0], 0.0, TypeError, "axis: expected int, got float"),
        ([1.0, 2.0], False, TypeError, "axis: expected int, got bool"),
    ],
)
def test_an_axis_or_range_that_does_not_fit_is_named(
    amax: Any, axis: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        cuda_ext.fake_tensor_quant_with_axis(data(2, 3), amax, axis)


def test_e4m3_without_scale_equals_the_function() -> None:
    x = np.concatenate([data(1000) * 300, np.float32([np.inf, -np.inf, np.nan, 0, 2**-10, 2**-24, 2**-30])])
    np.testing.assert_array_equal(cuda_ext.fake_e4m3fy(x), tensor_quant.scaled_e4m3(x))

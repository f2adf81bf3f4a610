# SPDX-License-Identifier: Apache-2.0
"""Quantization functions: the original's own tests, properties, types, shapes and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqbert import nn, tensor_quant
from qdqbert.errors import ShapeError

# Around one vector of 16 lanes and one cache line, a prime, and more than one piece of parallel work.
SIZES = (1, 2, 15, 16, 17, 35, 97, 100_003)


def oracle(
    x: np.ndarray, amax: Any, num_bits: int = 8, unsigned: bool = False, narrow_range: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Integer values and scale, in float32 as NUMERICS section 4 says."""
    bound = np.float32(2 ** (num_bits - 1 + unsigned) - 1)
    lower = np.float32(0) if unsigned else -bound if narrow_range else -bound - 1
    amax = np.asarray(amax, np.float32)
    scale = np.where(amax <= 2**-24, np.float32(0), bound / np.maximum(amax, np.float32(2**-24)))
    codes = np.clip(np.rint(x * scale), lower, bound)
    return codes, np.where(amax <= 2**-24, np.float32(1), scale).astype(np.float32)


def test_the_vector_of_the_users_guide() -> None:
    x = np.array([0.9817, 0.8796, 0.9921, 0.4611, 0.0832, 0.1784, 0.3674, 0.5676, 0.3376, 0.2119], np.float32)
    codes, scale = tensor_quant.tensor_quant(x, x.max())

    assert codes.tolist() == [126, 113, 127, 59, 11, 23, 47, 73, 43, 27]
    # The guide prints inputs with four digits: the largest is known to 5e-5 / 0.9921.
    np.testing.assert_allclose(scale, 128.0057, rtol=5.1e-5)
    fake = tensor_quant.fake_tensor_quant(x, x.max())
    expected = [0.9843, 0.8828, 0.9921, 0.4609, 0.0859, 0.1797, 0.3672, 0.5703, 0.3359, 0.2109]
    np.testing.assert_allclose(
        fake, expected, atol=1e-4 + 1e-6
    )  # half a digit of the range, half of the print


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("unsigned", "narrow_range"), [(False, True), (False, False), (True, False)])
def test_codes_equal_the_definition(size: int, unsigned: bool, narrow_range: bool) -> None:
    x = np.random.default_rng(size).normal(size=size).astype(np.float32)
    x = np.abs(x) if unsigned else x
    for num_bits in (2, 3, 4, 8, 11, 16):
        codes, scale = oracle(x, 1.25, num_bits, unsigned, narrow_range)
        mine = tensor_quant.tensor_quant(x, 1.25, num_bits, unsigned, narrow_range)
        fake = tensor_quant.fake_tensor_quant(x, 1.25, num_bits, unsigned, narrow_range)

        np.testing.assert_array_equal(mine[0], codes)
        np.testing.assert_array_equal(mine[1], scale)
        np.testing.assert_array_equal(fake, codes / scale)


@pytest.mark.parametrize("shape", [(1,), (5, 7), (3, 1, 16), (2, 3, 17, 5)])
def test_ranges_broadcast_over_every_axis(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(7)
    x = generator.normal(size=shape).astype(np.float32)
    for kept in range(2 ** len(shape)):
        small = tuple(n if kept >> axis & 1 else 1 for axis, n in enumerate(shape))
        amax = generator.uniform(0.1, 2.0, small).astype(np.float32)
        codes, scale = oracle(x, amax)
        mine = tensor_quant.tensor_quant(x, amax)

        np.testing.assert_array_equal(mine[0], codes)
        np.testing.assert_array_equal(mine[1], scale)
        np.testing.assert_array_equal(tensor_quant.fake_tensor_quant(x, amax), codes / scale)
        mask = np.abs(x) <= amax
        np.testing.assert_array_equal(tensor_quant.tensor_quant_grad(x, amax, x), np.where(mask, x, 0))


def test_fake_quantization_is_idempotent_and_monotonic() -> None:
    x = np.sort(np.random.default_rng(1).normal(size=4099).astype(np.float32))
    y = tensor_quant.fake_tensor_quant(x, 1.7)

    np.testing.assert_array_equal(tensor_quant.fake_tensor_quant(y, 1.7), y)
    assert np.all(np.diff(y) >= 0)


def test_special_values() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-38], np.float32)
    y = tensor_quant.fake_tensor_quant(x, 1.0, narrow_range=False)

    assert np.isnan(y[0])
    assert y[1] == 1.0
    assert y[2] == np.float32(-128) / np.float32(127)
    np.testing.assert_array_equal(y[3:], np.zeros(4, np.float32))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_results_have_the_type_of_the_input(dtype: str) -> None:
    x = np.linspace(-1, 1, 33).astype(dtype)
    native = np.dtype(dtype).newbyteorder("=")
    for result in (
        *tensor_quant.tensor_quant(x, 1.0),
        tensor_quant.fake_tensor_quant(x, 1.0),
        tensor_quant.tensor_quant_grad(x, 1.0, x),
        tensor_quant.scaled_e4m3(x, 1.0),
        tensor_quant.scaled_e4m3_grad(x, None, x),
        tensor_quant.fake_affine_tensor_quant(x, -1.0, 2.0),
        tensor_quant.fake_affine_tensor_quant_grad(x, -1.0, 0.5, x),
        tensor_quant.reduce_amax(x),
    ):
        assert result.dtype == native


def test_double_precision_keeps_its_digits_where_nothing_is_rounded_on_purpose() -> None:
    x = np.array([0.1, -0.3, 1.0 + 2.0**-40, -2.0 - 2.0**-45])
    dy = np.array([0.7, 0.1, -0.2, 0.3])
    assert tensor_quant.reduce_amax(x) == 2.0 + 2.0**-45
    np.testing.assert_array_equal(tensor_quant.reduce_amax(x[None], 1), [[2.0 + 2.0**-45]])
    np.testing.assert_array_equal(nn.functional.clip(x, -1.0, 1.0), [0.1, -0.3, 1.0, -1.0])
    np.testing.assert_array_equal(nn.functional.clip(x, np.array(-0.2), 5.0), [0.1, -0.2, x[2], -0.2])
    np.testing.assert_array_equal(nn.functional.clip_grad(x, -0.5, 0.5, dy)[0], [0.7, 0.1, 0, 0])
    np.testing.assert_array_equal(tensor_quant.tensor_quant_grad(x, 0.5, dy), [0.7, 0.1, 0, 0])
    np.testing.assert_array_equal(
        tensor_quant.fake_affine_tensor_quant_grad(x, -0.5, 0.5, dy), [0.7, 0.1, 0, 0]
    )
    for quantizer in (nn.TensorQuantizer(disabled=True), nn.TensorQuantizer(if_quant=False, if_calib=True)):
        np.testing.assert_array_equal(quantizer(x), x)
        assert quantizer(x) is not x


@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 1, 3)])
def test_a_maximum_in_double_precision_is_numpys(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape)
    x.reshape(-1)[2] = np.nan
    for axis in range(len(shape)):
        np.testing.assert_array_equal(tensor_quant.reduce_amax(x, axis, keepdims=False), np.abs(x).max(axis))


def test_noncontiguous_and_read_only_inputs_are_accepted() -> None:
    whole = np.random.default_rng(3).normal(size=(6, 10)).astype(np.float32)
    part = whole[::2, 1::3]
    whole.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + part.tobytes(), np.float32, offset=1).reshape(part.shape)

    expected = tensor_quant.fake_tensor_quant(part.copy(), 1.0)
    np.testing.assert_array_equal(tensor_quant.fake_tensor_quant(part, 1.0), expected)
    np.testing.assert_array_equal(tensor_quant.fake_tensor_quant(unaligned, 1.0), expected)
    np.testing.assert_array_equal(tensor_quant.fake_tensor_quant(part.T, 1.0), expected.T)


def test_foreign_tensors_are_accepted() -> None:
    x = np.array([0.5, -2.0], np.float32)

    class OnlyDlpack:
        def __dlpack__(self, **kwargs: Any) -> Any:
            return x.__dlpack__(**kwargs)

        def __dlpack_device__(self) -> Any:
            return x.__dlpack_device__()

    class OnlyArray:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return x

    expected = tensor_quant.fake_tensor_quant(x, 1.0)
    for tensor in (OnlyDlpack(), OnlyArray(), memoryview(x), [0.5, -2.0]):
        np.testing.assert_array_equal(tensor_quant.fake_tensor_quant(tensor, 1.0), expected)


@pytest.mark.parametrize(
    "value", [np.arange(3), ["a"], object(), None, np.ones(2, complex), np.ones(2, bool)]
)
def test_what_is_no_floating_point_tensor_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="inputs"):
        tensor_quant.fake_tensor_quant(value, 1.0)


def test_errors_name_argument_expectation_and_finding() -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ShapeError, match="amax"):
        tensor_quant.fake_tensor_quant(x, np.ones(2, np.float32))
    with pytest.raises(ShapeError, match=r"dy: expected the shape of x, \(2, 3\), got \(3, 2\)"):
        tensor_quant.tensor_quant_grad(x, 1.0, x.T)
    with pytest.raises(ValueError, match="17"):
        tensor_quant.tensor_quant(x, 1.0, num_bits=17)
    with pytest.raises(TypeError, match="num_bits"):
        tensor_quant.tensor_quant(x, 1.0, num_bits=True)
    with pytest.raises(ValueError, match="min_range"):
        tensor_quant.fake_affine_tensor_quant(x, [1.0, 2.0], 3.0)
    with pytest.raises(ValueError, match=r"increase, got 3\.0 and 3\.0"):
        tensor_quant.fake_affine_tensor_quant(x, 3.0, 3.0)
    with pytest.raises(ShapeError):
        tensor_quant.fake_tensor_quant(np.ones([1] * 9, np.float32), 1.0)


def test_empty_tensors_stay_empty() -> None:
    x = np.empty((0, 3), np.float32)
    assert tensor_quant.fake_tensor_quant(x, 1.0).shape == (0, 3)
    assert tensor_quant.tensor_quant_grad(x, 1.0, x).shape == (0, 3)


@pytest.mark.parametrize("num_bits", [3, 7, 8])
def test_unsigned_codes_are_those_of_one_more_signed_bit(num_bits: int) -> None:
    x = np.random.default_rng(2).uniform(size=1009).astype(np.float32)
    unsigned = tensor_quant.tensor_quant(x, 0.9, num_bits, unsigned=True)
    signed = tensor_quant.tensor_quant(x, 0.9, num_bits + 1)
    for mine, expected in zip(unsigned, signed, strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert unsigned[0].max() == 2**num_bits - 1


@pytest.mark.parametrize("function", ["tensor_quant", "fake_tensor_quant", "legacy_fake_tensor_quant"])
def test_a_negative_element_is_refused_by_unsigned_quantization(function: str) -> None:
    with pytest.raises(TypeError, match="Negative values encountered"):
        getattr(tensor_quant, function)(np.float32([1.0, -1e-9]), 1.0, unsigned=True)


def test_a_scale_beyond_float16_is_refused_where_it_is_returned() -> None:
    x = np.float16([0.25, -0.0001, 0.0])
    with pytest.raises(ValueError, match="scale is too large for FP16"):
        tensor_quant.tensor_quant(x, np.float16(1e-4))
    # The scale is not handed out here: no element may become NaN or infinite.
    assert np.isfinite(tensor_quant.fake_tensor_quant(x.astype(np.float32), 1e-4)).all()


@pytest.mark.parametrize("num_bits", [3, 4, 5, 7, 8, 11])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_legacy_function_is_the_same(num_bits: int, unsigned: bool, dtype: Any) -> None:
    x = np.random.default_rng(num_bits).normal(size=(5, 4, 7)).astype(dtype)
    x = np.abs(x) if unsigned else x
    amax = np.float32([0.8, 0.9, 0.7, 0.6]).reshape(1, 4, 1)
    for tensor, ranges in ((x, amax), (x.transpose(2, 1, 0), amax), (x[:, ::2], 0.7)):
        np.testing.assert_array_equal(
            tensor_quant.legacy_fake_tensor_quant(tensor, ranges, num_bits, unsigned),
            tensor_quant.fake_tensor_quant(tensor, ranges, num_bits, unsigned),
        )


# ---- E4M3 and affine: vectors of the original's tests ------------------------------------------------------


def test_e4m3_vectors() -> None:
    x = np.arange(-10, 10, dtype=np.float32) / 5
    unscaled = [-2, -1.75, -1.625, -1.375, -1.25, -1, -0.8125, -0.625, -0.4062, -0.2031, 0, 0.2031, 0.4062]
    unscaled += [0.625, 0.8125, 1, 1.25, 1.375, 1.625, 1.75]
    scaled = [
        -2,
        -1.8571,
        -1.5714,
        -1.4286,
        -1.1429,
        -1,
        -0.7857,
        -0.5714,
        -0.3929,
        -0.1964,
        0,
        0.1964,
        0.3929,
    ]
    scaled += [0.5714, 0.7857, 1, 1.1429, 1.4286, 1.5714, 1.8571]

    np.testing.assert_allclose(tensor_quant.scaled_e4m3(x), unscaled, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(tensor_quant.scaled_e4m3(x, 2.0), scaled, atol=1e-4, rtol=1e-4)


def test_affine_quantization_reproduces_integers() -> None:
    x = np.array([-128, -127, -100, -1, 0, 1, 5, 64, 100, 126, 127], np.float32)
    y = tensor_quant.fake_affine_tensor_quant(x, -128.0, 127.0)
    np.testing.assert_allclose(y, x, atol=1e-6)


def test_affine_gradient_passes_between_the_bounds_inclusive() -> None:
    x = np.float32([-1.5, -1.0, -0.25, 0.5, 0.75, np.nextafter(np.float32(0.75), np.float32(1)), 2.0])
    dx = tensor_quant.fake_affine_tensor_quant_grad(x, -1.0, 0.75, np.arange(1, 8, dtype=np.float32))
    assert dx.tolist() == [0, 2, 3, 4, 5, 0, 0]


@pytest.mark.parametrize("amax", [None, 0.5])
def test_e4m3_gradient_is_that_of_the_clipped_straight_through_estimator(amax: float | None) -> None:
    x = np.float32([-500.0, -448.0, -0.5, 0.1, 0.5, 0.6, 449.0])
    dy = np.arange(1, 8, dtype=np.float32)
    limit = 448.0 if amax is None else amax
    np.testing.assert_array_equal(
        tensor_quant.scaled_e4m3_grad(x, amax, dy), np.where(np.abs(x) <= limit, dy, 0)
    )


def test_e4m3_of_a_tensor_that_is_not_contiguous() -> None:
    x = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    np.testing.assert_array_equal(tensor_quant.scaled_e4m3(x.T, 2.0), tensor_quant.scaled_e4m3(x, 2.0).T)
    np.testing.assert_array_equal(
        tensor_quant.scaled_e4m3(x[::2, 1::3]), tensor_quant.scaled_e4m3(x)[::2, 1::3]
    )


@pytest.mark.parametrize(("E", "M"), [(5, 2), (7, 3), (3, 4)])
def test_other_floating_point_formats_are_refused(E: int, M: int) -> None:
    with pytest.raises(NotImplementedError, match="Only support E=4 & M=3"):
        tensor_quant.scaled_e4m3([1.0], None, E, M)


# ---- reduce_amax -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (17,), (5, 7), (3, 16, 33), (2, 3, 4, 5)])
def test_reduce_amax_equals_numpy(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    for chosen in range(1, 2 ** len(shape)):
        axes = tuple(axis for axis in range(len(shape)) if chosen >> axis & 1)
        expected = np.abs(x).max(axes)
        mine = tensor_quant.reduce_amax(x, axes, keepdims=False)
        np.testing.assert_array_equal(mine, expected)
        negative = tuple(axis - len(shape) for axis in axes)
        np.testing.assert_array_equal(tensor_quant.reduce_amax(x, negative).reshape(-1), expected.reshape(-1))


def test_reduce_amax_does_not_depend_on_order() -> None:
    x = np.random.default_rng(6).normal(size=1009).astype(np.float32)
    assert tensor_quant.reduce_amax(x) == tensor_quant.reduce_amax(np.random.default_rng(0).permutation(x))


def test_reduce_amax_keeps_nan() -> None:
    x = np.ones((3, 17), np.float32)
    x[1, 16] = np.nan
    result = tensor_quant.reduce_amax(x, 1)
    assert np.isnan(result[1, 0])
    assert result[0, 0] == result[2, 0] == 1.0

# SPDX-License-Identifier: Apache-2.0
"""TensorQuantizer: stages, ranges, calibration, state dicts and errors beyond the recorded cases."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from qdqbert.errors import CheckpointError, Error, ShapeError, StateError
from qdqbert.nn import TensorQuantizer
from qdqbert.tensor_quant import (
    QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW,
    QuantDescriptor,
    fake_tensor_quant,
    reduce_amax,
    scaled_e4m3,
)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(11).normal(size=(5, 7, 17)).astype(np.float32)


# ---- forward -----------------------------------------------------------------------------------------------


def test_the_default_quantizer_uses_the_tensors_own_range(x: np.ndarray) -> None:
    y = TensorQuantizer()(x)
    np.testing.assert_array_equal(y, fake_tensor_quant(x, np.abs(x).max(), narrow_range=False))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 2), (-2, 0), [1], (), (5,)])
def test_dynamic_ranges_keep_their_axes(x: np.ndarray, axis: Any) -> None:
    axes = (axis,) if isinstance(axis, int) else axis
    kept = {each % x.ndim for each in axes if -x.ndim <= each < x.ndim}
    amax = reduce_amax(x, [each for each in range(x.ndim) if each not in kept])
    y = TensorQuantizer(QuantDescriptor(axis=axis))(x)
    np.testing.assert_array_equal(y, fake_tensor_quant(x, amax, narrow_range=False))


def test_a_range_is_used_as_it_was_set(x: np.ndarray) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(axis=(0,), narrow_range=True))
    amax = np.abs(x).max((1, 2), keepdims=True) * np.float32(0.7)
    quantizer.amax = amax
    np.testing.assert_array_equal(quantizer(x), fake_tensor_quant(x, amax))


def test_scale_amax_leaves_the_range_alone(x: np.ndarray) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=0.5, scale_amax=0.9))
    expected = fake_tensor_quant(x, np.float32(0.5) * np.float32(0.9), narrow_range=False)
    for _ in range(2):
        np.testing.assert_array_equal(quantizer(x), expected)
    assert quantizer.amax == np.float32(0.5)


def test_all_stages_in_every_combination(x: np.ndarray) -> None:
    for disabled, quant, clip, calib in itertools.product((False, True), repeat=4):
        quantizer = TensorQuantizer(
            QuantDescriptor(learn_amax=True, amax=0.5), disabled=disabled, if_quant=quant, if_calib=calib
        )
        if not clip:
            quantizer.disable_clip()
        y = quantizer(x)

        clipped = np.clip(x, -0.5, 0.5)
        if disabled:
            expected = x
        elif quant:
            expected = fake_tensor_quant(clipped, 0.5, narrow_range=False)
        else:
            expected = clipped if clip and not calib else x
        np.testing.assert_array_equal(y, expected)
        seen = quantizer._calibrator.compute_amax()
        assert (seen is not None) == (calib and not disabled)


def test_pre_quant_scale_multiplies_before_everything() -> None:
    x = np.arange(-4, 4, dtype=np.float32).reshape(2, 4)
    factor = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    quantizer = TensorQuantizer(QuantDescriptor(amax=127.0))
    quantizer.pre_quant_scale = factor
    np.testing.assert_array_equal(quantizer(x), x * factor)

    quantizer.enable_calib()
    quantizer(x)
    quantizer.load_calib_amax()
    assert quantizer.amax == np.abs(x * factor).max()


def test_a_disabled_quantizer_is_the_identity_even_with_a_pre_quant_scale(x: np.ndarray) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0))
    quantizer.pre_quant_scale = 2.0
    quantizer.disable()
    np.testing.assert_array_equal(quantizer(x), x)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"axis": (1,)},
        {"amax": 1.5, "scale_amax": 0.5},
        {"learn_amax": True, "amax": 0.75},
        {"num_bits": 4},
    ],
)
@pytest.mark.parametrize("factor", [None, 3.0])
def test_real_quantization_keeps_the_scale_of_its_codes(x: np.ndarray, fields: Any, factor: Any) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(fake_quant=False, narrow_range=True, **fields))
    if factor is not None:
        quantizer.pre_quant_scale = factor
    codes = quantizer(x)

    scaled = x if factor is None else x * np.float32(factor)
    bound = np.float32(quantizer.maxbound)
    np.testing.assert_array_equal(codes, np.clip(np.rint(scaled * quantizer.scale), -bound, bound))


@pytest.mark.parametrize("axis", [None, 1])
def test_e4m3(x: np.ndarray, axis: int | None) -> None:
    amax = np.abs(x).max((0, 2), keepdims=True) if axis else np.abs(x).max()
    y = TensorQuantizer(QuantDescriptor(num_bits=(4, 3), axis=axis))(x)
    np.testing.assert_array_equal(y, scaled_e4m3(x, amax))


def test_settable_number_format(x: np.ndarray) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0))
    quantizer.num_bits, quantizer.narrow_range = 4, True
    np.testing.assert_array_equal(quantizer(x), fake_tensor_quant(x, 1.0, 4))
    quantizer.unsigned = True
    np.testing.assert_array_equal(quantizer(np.abs(x)), fake_tensor_quant(np.abs(x), 1.0, 4, True))
    assert (quantizer.num_bits, quantizer.unsigned, quantizer.narrow_range) == (4, True, True)


@pytest.mark.parametrize("bits", [-1, 17, 64])
def test_impossible_bits_are_refused_and_change_nothing(bits: int) -> None:
    quantizer = TensorQuantizer()
    with pytest.raises(ValueError, match="num_bits"):
        quantizer.num_bits = bits
    assert quantizer.num_bits == 8


@pytest.mark.parametrize("axis", ["x", 1.5, (0, "a"), True])
def test_an_axis_that_is_no_axis_is_refused(axis: Any) -> None:
    with pytest.raises(TypeError, match="axis"):
        TensorQuantizer(QuantDescriptor(axis=axis))


# ---- calibration -------------------------------------------------------------------------------------------


def test_calibration_finds_what_the_original_recipe_finds() -> None:
    x = np.arange(127 * 63, dtype=np.float32).reshape(127, 63)
    quantizer = TensorQuantizer(QuantDescriptor(num_bits=8), if_quant=False)
    quantizer.enable_calib()
    np.testing.assert_array_equal(quantizer(x), x)
    quantizer.load_calib_amax()
    quantizer.enable_quant()
    quantizer.disable_calib()
    assert quantizer.amax == x.max()
    quantizer(x * 2)
    assert quantizer._calibrator.compute_amax() == x.max()


def test_the_loaded_range_does_not_follow_the_calibrator() -> None:
    quantizer = TensorQuantizer()
    quantizer.enable_calib()
    quantizer(np.float32([1.0]))
    quantizer.load_calib_amax()
    quantizer(np.float32([5.0]))
    assert quantizer.amax == 1.0


def test_load_calib_amax_without_data_names_the_quantizer() -> None:
    from qdqbert import _core
    from qdqbert.device import default_device

    handle = _core.Quantizer(default_device())
    quantizer = TensorQuantizer.from_handle(
        lambda: handle, QuantDescriptor(), "bert.layer._q", default_device()
    )
    with pytest.raises(StateError, match=r"Calibrator returned None.*bert\.layer\._q"):
        quantizer.load_calib_amax()
    assert quantizer.amax is None


def test_load_calib_amax_not_strict_gives_nan(caplog: pytest.LogCaptureFixture) -> None:
    quantizer = TensorQuantizer()
    quantizer.load_calib_amax(strict=False)
    assert np.isnan(quantizer.amax)
    assert "Calibrator returned None" in caplog.text
    assert np.isnan(quantizer(np.ones(3, np.float32))).all()


def test_learned_bounds_start_from_the_calibrated_range() -> None:
    x = np.random.default_rng(2).normal(size=1000).astype(np.float32) * 3
    quantizer = TensorQuantizer(QuantDescriptor(learn_amax=True))
    quantizer.enable_calib()
    quantizer.disable_quant()
    quantizer(x)
    quantizer.load_calib_amax()
    quantizer.init_learn_amax()
    assert quantizer.clip.clip_value_max == np.abs(x).max() == -quantizer.clip.clip_value_min


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_failed_collection_leaves_every_statistic_alone(bad: float) -> None:
    for method in ("max", "histogram"):
        quantizer = TensorQuantizer(QuantDescriptor(calib_method=method), if_calib=True, if_quant=False)
        quantizer(np.float32([1.0, 2.0]))
        before = quantizer._calibrator.state_dict()
        tensor = np.ones(40, np.float32)
        tensor[37] = bad
        with pytest.raises(ValueError, match="37"):
            quantizer(tensor)
        after = quantizer._calibrator.state_dict()
        for key, value in before.items():
            np.testing.assert_array_equal(after[key], value)


def test_calibration_keeps_as_many_ranges_as_its_axes_have() -> None:
    x = np.random.default_rng(4).uniform(size=(127, 63, 7, 7)).astype(np.float32)
    quantizer = TensorQuantizer(QuantDescriptor(axis=(0, 1)), if_calib=True, if_quant=False)
    quantizer(x)
    quantizer.load_calib_amax()
    assert quantizer.amax is not None
    assert quantizer.amax.size == 127 * 63
    np.testing.assert_array_equal(quantizer.amax, reduce_amax(x, (2, 3)))


def test_max_calibration_over_two_tensors_is_their_larger_range() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(axis=0))
    quantizer.enable_calib()
    with pytest.raises(RuntimeError, match="Calibrator returned None"):
        quantizer.load_calib_amax()
    first, second = np.random.default_rng(5).uniform(size=(2, 13, 5, 3)).astype(np.float32)
    quantizer(first)
    quantizer(second)
    quantizer.disable_calib()
    quantizer.load_calib_amax()
    np.testing.assert_array_equal(
        quantizer.amax, np.maximum(reduce_amax(first, (1, 2)), reduce_amax(second, (1, 2)))
    )


@pytest.mark.parametrize(
    ("method", "options"), [("entropy", {}), ("percentile", {"percentile": 99.99}), ("mse", {"stride": 3})]
)
def test_histogram_calibration_loads_what_its_calibrator_finds(method: str, options: dict[str, Any]) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(calib_method="histogram"), if_calib=True, if_quant=False)
    first, second = np.random.default_rng(6).uniform(size=(2, 3, 63, 7)).astype(np.float32)
    for _ in range(2):
        quantizer(first)
        quantizer(second * 2)
        quantizer.load_calib_amax(method, **options)
        assert quantizer._calibrator is not None
        assert quantizer.amax == quantizer._calibrator.compute_amax(method, **options)
        quantizer._calibrator.reset()


# ---- ranges and state dicts --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, [1.0, -1e-9], np.float32(-np.inf)])
def test_an_impossible_range_is_refused_and_changes_nothing(value: Any) -> None:
    quantizer = TensorQuantizer()
    with pytest.raises(ValueError, match="amax"):
        quantizer.amax = value
    assert quantizer.amax is None


@pytest.mark.parametrize("value", ["1", object(), 1j, True])
def test_a_range_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="amax"):
        TensorQuantizer().amax = value


def test_a_range_that_does_not_fit_the_tensor_is_refused_at_use() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=[1.0, 2.0]))
    with pytest.raises(ShapeError, match="amax"):
        quantizer(np.ones((2, 3), np.float32))


def test_errors_are_both_ours_and_pythons() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0))
    with pytest.raises(RuntimeError) as caught:
        quantizer.amax = [1.0, 2.0]
    assert isinstance(caught.value, Error)


def test_step_and_bound_follow_range_and_format() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=3.14))
    quantizer.amax = 0.577
    assert quantizer.amax == np.float32(0.577)
    assert quantizer.step_size == np.float32(0.577) / np.float32(127)
    quantizer.num_bits, quantizer.unsigned = 7, True
    assert quantizer.maxbound == 127
    quantizer.unsigned = False
    assert quantizer.maxbound == 63
    assert quantizer.step_size == np.float32(0.577) / np.float32(63)
    assert TensorQuantizer(QuantDescriptor(num_bits=(4, 3))).maxbound == 448.0


def test_a_dynamic_range_has_no_step(caplog: pytest.LogCaptureFixture) -> None:
    assert TensorQuantizer().step_size is None
    assert "step_size is undefined under dynamic amax mode!" in caplog.text


def test_setting_none_is_refused_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
    quantizer.amax = None
    quantizer.pre_quant_scale = None
    assert quantizer.amax == 2.0
    assert quantizer.pre_quant_scale is None
    assert [text.split()[1] for text in caplog.messages] == ["amax", "pre_quant_scale"]


def test_the_scale_of_fake_quantization_is_one_with_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert TensorQuantizer().scale == 1.0
    assert TensorQuantizer(QuantDescriptor(fake_quant=False)).scale is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "CRITICAL"]


def test_state_dict_round_trip_creates_ranges() -> None:
    source = TensorQuantizer(QuantDescriptor(learn_amax=True, amax=2.0))
    source.pre_quant_scale = [1.0, 2.0]
    source.clip.clip_value_max = 1.5
    target = TensorQuantizer(QuantDescriptor(learn_amax=True))
    result = target.load_state_dict(source.state_dict())

    assert str(result) == "<All keys matched successfully>"
    assert list(target.state_dict()) == [
        "_amax",
        "_pre_quant_scale",
        "clip.clip_value_min",
        "clip.clip_value_max",
    ]
    for key, value in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[key], value)


def test_a_state_dict_without_a_range_keeps_it() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
    quantizer.load_state_dict({})
    assert quantizer.amax == 2.0


def test_a_state_dict_of_another_shape_is_refused_and_changes_nothing() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
    with pytest.raises(CheckpointError, match="_amax"):
        quantizer.load_state_dict({"_amax": np.ones((3, 1), np.float32)})
    assert quantizer.amax == 2.0


def test_learned_bounds_are_required_keys() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(learn_amax=True))
    with pytest.raises(CheckpointError, match="clip_value_min"):
        quantizer.load_state_dict({})


def test_what_is_read_cannot_be_written_through() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
    quantizer.amax[...] = 9.0
    assert quantizer.amax == 2.0


def test_two_views_look_at_one_quantizer() -> None:
    quantizer = TensorQuantizer()
    view = TensorQuantizer.from_handle(lambda: quantizer._handle, QuantDescriptor(), "q", quantizer._device)
    view.disable_quant()
    view.amax = 3.0
    assert quantizer.amax == 3.0
    np.testing.assert_array_equal(quantizer([7.0, 0.1]), np.float32([7.0, 0.1]))


def test_predefined_descriptors_make_quantizers() -> None:
    x = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    y = TensorQuantizer(QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW)(x)
    np.testing.assert_array_equal(
        y, fake_tensor_quant(x, np.abs(x).max(1, keepdims=True), narrow_range=False)
    )

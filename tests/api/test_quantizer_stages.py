# SPDX-License-Identifier: Apache-2.0
"""The attributes with an underscore that scripts of the original read and set: each works or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.calib import HistogramCalibrator, MaxCalibrator
from qdqbert.errors import ShapeError, StateError
from qdqbert.nn import QuantLinear, TensorQuantizer
from qdqbert.tensor_quant import QuantDescriptor, fake_tensor_quant

X = np.random.default_rng(5).normal(size=(7, 13)).astype(np.float32)


def test_a_quantizer_that_is_disabled_by_attribute_is_disabled() -> None:
    quantizer = TensorQuantizer()
    quantizer._disabled = True
    np.testing.assert_array_equal(quantizer(X), X)
    assert repr(quantizer) == "TensorQuantizer(disabled)"
    quantizer._disabled = False
    np.testing.assert_array_equal(quantizer(X), TensorQuantizer()(X))


def test_a_model_whose_quantizers_are_disabled_by_attribute_is_a_float_model() -> None:
    model, batch = tiny_model.question_answering(), tiny_model.batch()
    quantized = model(**batch).start_logits
    with qdqbert.quantizers(model, {"*": "off"}):
        expected = model(**batch).start_logits
    for name, module in model.named_modules():
        if name.endswith("_quantizer"):
            module._disabled = True
    np.testing.assert_array_equal(model(**batch).start_logits, expected)
    assert not np.array_equal(quantized, expected)


def test_stages_by_attribute_are_the_stages() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(learn_amax=True, amax=0.5))
    assert (quantizer._if_quant, quantizer._if_clip, quantizer._if_calib) == (True, True, False)
    quantizer._if_quant = False
    np.testing.assert_array_equal(quantizer(X), np.clip(X, -0.5, 0.5))
    quantizer._if_clip = False
    np.testing.assert_array_equal(quantizer(X), X)
    quantizer._if_calib = True
    quantizer(X)
    assert quantizer._calibrator is not None
    assert quantizer._calibrator.compute_amax() == np.abs(X).max()


def test_a_stage_that_cannot_be_is_refused() -> None:
    quantizer = TensorQuantizer()
    with pytest.raises(ValueError, match="learn_amax is False"):
        quantizer._if_clip = True
    quantizer._if_clip = False
    assert not quantizer._if_clip


def test_number_format_by_attribute() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0))
    quantizer._num_bits, quantizer._narrow_range = 4, True
    np.testing.assert_array_equal(quantizer(X), fake_tensor_quant(X, 1.0, 4))
    quantizer._unsigned = True
    np.testing.assert_array_equal(quantizer(np.abs(X)), fake_tensor_quant(np.abs(X), 1.0, 4, True))
    assert quantizer._axis is None
    assert quantizer._fake_quant is True
    assert quantizer._learn_amax is False


@pytest.mark.parametrize("name", ["_axis", "_fake_quant", "_learn_amax"])
def test_what_cannot_change_after_construction_is_refused(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(TensorQuantizer(), name, None)


@pytest.mark.parametrize(
    ("value", "text"), [(0.9, " *0.9 "), (2, " *2 "), (None, " amax=1.0000 cal"), (0.1, " *0.1 ")]
)
def test_scale_amax_by_attribute_is_used_and_shown(value: float | None, text: str) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0, scale_amax=value))
    assert quantizer._scale_amax == value
    assert text in quantizer.extra_repr()
    quantizer._scale_amax = 0.3
    assert quantizer._scale_amax == 0.3
    assert " *0.3 " in quantizer.extra_repr()
    np.testing.assert_array_equal(quantizer(X), fake_tensor_quant(X, np.float32(0.3), narrow_range=False))


# ---- range -------------------------------------------------------------------------------------------------


def test_the_buffer_is_missing_while_the_range_is_dynamic() -> None:
    quantizer = TensorQuantizer()
    assert not hasattr(quantizer, "_amax")
    quantizer.amax = 2.0
    assert quantizer._amax == 2.0


def test_the_buffer_can_be_replaced_by_one_of_another_shape() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(axis=(0,), amax=2.0))
    quantizer._amax = np.full((7, 1), 0.5)
    np.testing.assert_array_equal(quantizer(X), fake_tensor_quant(X, 0.5, narrow_range=False))
    assert quantizer.amax is not None
    assert quantizer.amax.shape == (7, 1)


def test_the_buffer_can_be_deleted() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
    del quantizer._amax
    assert quantizer.amax is None
    np.testing.assert_array_equal(quantizer(X), TensorQuantizer()(X))


def test_a_buffer_that_does_not_fit_the_weight_is_refused() -> None:
    linear = QuantLinear(5, 3)
    with pytest.raises(ShapeError, match=r"broadcasts to \(3, 5\)"):
        linear.weight_quantizer._amax = np.ones((5, 1))
    assert not hasattr(linear.weight_quantizer, "_amax")


# ---- calibrator --------------------------------------------------------------------------------------------


def test_a_calibrator_that_is_assigned_is_the_one_that_collects() -> None:
    quantizer = TensorQuantizer(if_quant=False)
    first = quantizer._calibrator
    quantizer._calibrator = HistogramCalibrator(8, None, False, num_bins=77)
    quantizer.enable_calib()
    quantizer(X)
    quantizer.load_calib_amax("percentile", percentile=50.0)

    own = HistogramCalibrator(8, None, False, num_bins=77)
    own.collect(X)
    assert quantizer.amax == own.compute_amax("percentile", percentile=50.0)
    assert first is not None
    assert first.compute_amax() is None


def test_a_calibrator_that_is_assigned_inside_a_model_collects_there() -> None:
    model = tiny_model.question_answering()
    quantizer = model.get_submodule("bert.encoder.layer.1.output.dense._input_quantizer")
    quantizer._calibrator = HistogramCalibrator(8, None, False, num_bins=33)
    quantizer.enable_calib()
    model(**tiny_model.batch())
    counts, edges = quantizer._calibrator.histogram()
    assert len(counts) == 33
    assert counts.sum() == tiny_model.batch()["attention_mask"].sum() * model.config.intermediate_size
    assert edges[0] == 0.0


def test_without_a_calibrator_calibration_is_refused() -> None:
    quantizer = TensorQuantizer()
    quantizer._calibrator = None
    with pytest.raises(ValueError, match="Calibrator was not created, cannot enable calibration"):
        quantizer.enable_calib()
    with pytest.raises(ValueError, match="Calibrator was not created"):
        quantizer._if_calib = True
    with pytest.raises(StateError, match="Calibrator not created"):
        quantizer.load_calib_amax()
    assert "calibrator" not in quantizer.extra_repr()
    np.testing.assert_array_equal(quantizer(X), TensorQuantizer()(X))


def test_rules_refuse_to_calibrate_without_a_calibrator_and_change_nothing() -> None:
    model = tiny_model.question_answering()
    name = "bert.encoder.layer.1.output.dense._input_quantizer"
    model.get_submodule(name)._calibrator = None
    before = [module.extra_repr() for _, module in model.named_modules()]
    with pytest.raises(ValueError, match=f"{name}: Calibrator was not created"):
        qdqbert.quantizers(model, {"*": "calib"})
    assert [module.extra_repr() for _, module in model.named_modules()] == before


def test_the_calibrator_cannot_go_while_it_collects() -> None:
    quantizer = TensorQuantizer(if_calib=True)
    with pytest.raises(StateError, match="disable_calib"):
        quantizer._calibrator = None
    assert isinstance(quantizer._calibrator, MaxCalibrator)


@pytest.mark.parametrize("value", [object(), "max", MaxCalibrator])
def test_what_is_no_calibrator_is_refused(value: Any) -> None:
    quantizer = TensorQuantizer()
    with pytest.raises(TypeError, match="_calibrator: expected a calibrator"):
        quantizer._calibrator = value
    assert isinstance(quantizer._calibrator, MaxCalibrator)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_the_range_is_for_the_format_at_the_time_of_loading(method: str) -> None:
    x = np.random.default_rng(0).laplace(size=20_000).astype(np.float32)
    quantizer = TensorQuantizer(QuantDescriptor(calib_method="histogram"), if_quant=False, if_calib=True)
    quantizer(x)
    quantizer.num_bits = 4
    quantizer.load_calib_amax(method)

    narrow, wide = HistogramCalibrator(4, None, False), HistogramCalibrator(8, None, False)
    narrow.collect(x)
    wide.collect(x)
    assert quantizer.amax == narrow.compute_amax(method)
    assert quantizer.amax != wide.compute_amax(method)

# SPDX-License-Identifier: Apache-2.0
"""Which quantizers are on from which step, and where their ranges go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import QuantizationAware, StateError, TrainerControl, TrainerState, TrainingArguments
from qdqbert._core import STAGE_DISABLED, STAGE_QUANT
from qdqbert.calib import MaxCalibrator
from qdqbert.nn import QuantLinear
from qdqbert.rules import QuantizerState, named_quantizers
from qdqbert.tensor_quant import QuantDescriptor

ARGUMENTS = TrainingArguments("out")
CONTROL = TrainerControl()
INPUT = "bert.encoder.layer.0.intermediate.dense._input_quantizer"
WEIGHT = "bert.encoder.layer.0.intermediate.dense._weight_quantizer"


def calibrated(**changes: Any) -> Any:
    model = tiny_model.question_answering(**changes)
    qdqbert.calibrate(model, [tiny_model.batch(seed=seed) for seed in range(3)], method="max")
    return model


def quantizer(model: Any, name: str) -> Any:
    return dict(named_quantizers(model))[name]


class Steps:
    """Drives a callback as a trainer does; a step's batches are given."""

    def __init__(self, model: Any, callback: QuantizationAware, step: int = 0) -> None:
        self.model, self.callback = model, callback
        self.state = TrainerState(global_step=step, max_steps=100)
        self.call("on_train_begin")

    def call(self, event: str) -> None:
        getattr(self.callback, event)(ARGUMENTS, self.state, CONTROL, model=self.model)

    def step(self, *batches: dict[str, Any]) -> None:
        self.call("on_step_begin")
        for batch in batches:
            self.model(**batch)
        self.state.global_step += 1
        self.call("on_step_end")


def states(model: Any) -> list[QuantizerState]:
    return [QuantizerState.of(each) for _, each in named_quantizers(model)]


def test_frozen_ranges_and_a_quantized_model_stay_as_they_are() -> None:
    model = calibrated()
    before = states(model)
    steps = Steps(model, QuantizationAware())
    for seed in range(3):
        steps.step(tiny_model.batch(seed=seed + 10))
        assert states(model) == before
    steps.call("on_train_end")
    assert states(model) == before


def test_quantizing_begins_after_the_steps_in_float() -> None:
    model, floating = calibrated(), tiny_model.question_answering()
    with qdqbert.quantizers(floating, {"*": "off"}):
        in_float = floating(**tiny_model.batch()).start_logits
    quantized = model(**tiny_model.batch()).start_logits
    steps = Steps(model, QuantizationAware(start_step=2))
    for expected in (in_float, in_float, quantized, quantized):
        np.testing.assert_array_equal(model(**tiny_model.batch()).start_logits, expected)
        steps.step()
    assert not np.array_equal(in_float, quantized)


def test_a_start_that_the_run_does_not_reach_is_refused() -> None:
    model = calibrated()
    before = states(model)
    with pytest.raises(ValueError, match="start_step: expected less than the 100 steps of the run, got 100"):
        Steps(model, QuantizationAware(start_step=100))
    assert states(model) == before


def test_quantizers_that_are_off_stay_off() -> None:
    model = calibrated()
    qdqbert.quantizers(model, {"*.layer.1.*": "off"})
    before = states(model)
    steps = Steps(model, QuantizationAware(start_step=1, amax="moving"))
    steps.step(tiny_model.batch())
    steps.call("on_train_end")
    for (name, each), state in zip(named_quantizers(model), before, strict=True):
        assert each._handle.stages == state.stages, name


def largest_input(model: Any, *batches: dict[str, Any]) -> Any:
    """What `INPUT` sees in batches, with the quantizers as they are."""
    each = quantizer(model, INPUT)
    each._calibrator = MaxCalibrator(8, None, False)
    each.enable_calib()
    for batch in batches:
        model(**batch)
    each.disable_calib()
    return each._calibrator.compute_amax()


def test_a_moving_range_goes_towards_what_each_step_saw() -> None:
    model, twin = calibrated(), calibrated()
    steps = Steps(model, QuantizationAware(amax="moving", momentum=0.75))
    for seed in range(20, 24):
        batches = [tiny_model.batch(seed=seed), tiny_model.batch(rows=2, seed=seed + 50)]
        old = quantizer(model, INPUT).amax
        twin.load_state_dict(model.state_dict())
        seen = largest_input(twin, *batches)
        steps.step(*batches)
        expected = np.float32(old + np.float32(0.25) * (seen - old))
        assert quantizer(model, INPUT).amax.tobytes() == expected.tobytes()
        assert expected != old


def test_a_step_quantizes_with_the_ranges_that_the_step_before_it_left() -> None:
    model, twin = calibrated(), calibrated()
    steps = Steps(model, QuantizationAware(amax="moving", momentum=0.0))
    steps.call("on_step_begin")
    logits = model(**tiny_model.batch(seed=5)).start_logits
    np.testing.assert_array_equal(logits, twin(**tiny_model.batch(seed=5)).start_logits)


def test_a_moving_range_that_is_missing_is_taken_over_at_once() -> None:
    model = tiny_model.question_answering()
    steps = Steps(model, QuantizationAware(start_step=1, amax="moving", weights="max"))
    assert quantizer(model, INPUT).amax is None
    steps.step(tiny_model.batch(seed=1), tiny_model.batch(seed=2))
    reference = tiny_model.question_answering()
    qdqbert.calibrate(reference, [tiny_model.batch(seed=1), tiny_model.batch(seed=2)], method="max")
    for (name, mine), (_, theirs) in zip(named_quantizers(model), named_quantizers(reference), strict=True):
        assert mine.amax.tobytes() == theirs.amax.tobytes(), name
        assert mine._handle.stages & STAGE_QUANT


def test_evaluations_between_steps_are_not_seen() -> None:
    model = calibrated()
    steps = Steps(model, QuantizationAware(amax="moving", momentum=0.5))
    steps.step(tiny_model.batch(seed=1))
    ranges = [state.amax for state in states(model)]
    loud = tiny_model.batch(seed=2)
    for _ in range(3):
        model(**loud)
    assert all(np.array_equal(a, b) for a, b in zip(ranges, [s.amax for s in states(model)], strict=True))
    steps.step(tiny_model.batch(seed=1))
    other = calibrated()
    again = Steps(other, QuantizationAware(amax="moving", momentum=0.5))
    again.step(tiny_model.batch(seed=1))
    again.step(tiny_model.batch(seed=1))
    assert states(model) == states(other)


@pytest.mark.parametrize("event", ["on_train_end", "on_train_abort"])
def test_calibrators_are_given_back(event: str) -> None:
    model = calibrated()
    before = [each._calibrator for _, each in named_quantizers(model)]
    stages = [each._handle.stages for _, each in named_quantizers(model)]
    steps = Steps(model, QuantizationAware(amax="moving"))
    steps.call("on_step_begin")
    assert quantizer(model, INPUT)._calibrator is not before[0]
    steps.call(event)
    assert [each._calibrator for _, each in named_quantizers(model)] == before
    assert [each._handle.stages for _, each in named_quantizers(model)] == stages


def test_ranges_of_weights_follow_the_weights_if_asked() -> None:
    for weights, follows in (("frozen", False), ("max", True)):
        model = calibrated()
        steps = Steps(model, QuantizationAware(weights=weights))
        dense = model.get_submodule(WEIGHT.rpartition(".")[0])
        before = quantizer(model, WEIGHT).amax
        state = model.state_dict()
        grown = {name: 2 * np.array(value) for name, value in state.items() if name.endswith("dense.weight")}
        model.load_state_dict(grown, strict=False)
        steps.step(tiny_model.batch())
        expected = np.abs(dense.weight).max(axis=1, keepdims=True) if follows else before
        np.testing.assert_array_equal(quantizer(model, WEIGHT).amax, expected)
        assert follows == (not np.array_equal(expected, before))


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = calibrated()
    steps = Steps(model, QuantizationAware(weights="max"))
    name = WEIGHT.rpartition(".")[0] + ".weight"
    damaged = np.array(model.state_dict()[name])
    damaged[3, 5] = np.nan
    model.load_state_dict({name: damaged}, strict=False)
    with pytest.raises(ValueError, match=rf"^{name}: "):
        steps.call("on_step_end")


@pytest.fixture
def learning() -> Any:
    """A model whose input ranges are learned."""
    before = QuantLinear.default_quant_desc_input
    QuantLinear.set_default_quant_desc_input(QuantDescriptor(8, learn_amax=True))
    try:
        return tiny_model.question_answering()
    finally:
        QuantLinear.set_default_quant_desc_input(before)


def test_learned_bounds_begin_at_the_calibrated_ranges(learning: Any) -> None:
    qdqbert.calibrate(learning, [tiny_model.batch()], method="max")
    Steps(learning, QuantizationAware(amax="learned"))
    for name, each in named_quantizers(learning):
        if not name.endswith("_weight_quantizer"):
            bound = float(each.amax)
            assert each._handle.clip() == (-bound, bound), name


def test_learned_bounds_of_a_resumed_run_stay(learning: Any) -> None:
    qdqbert.calibrate(learning, [tiny_model.batch()], method="max")
    first = Steps(learning, QuantizationAware(amax="learned"))
    quantizer(learning, INPUT)._handle.set_clip(-0.25, 0.5)
    resumed = QuantizationAware(amax="learned")
    resumed.load_state_dict(first.callback.state_dict())
    Steps(learning, resumed, step=4)
    assert quantizer(learning, INPUT)._handle.clip() == (-0.25, 0.5)


def test_a_resumed_run_trains_with_the_quantizers_of_the_first() -> None:
    model = calibrated()
    qdqbert.quantizers(model, {"*.layer.1.*": "off"})
    first = QuantizationAware(start_step=3)
    steps = Steps(model, first)
    steps.step()
    # As the checkpoint of a step in float would be read: nothing quantizes.
    qdqbert.quantizers(model, {"*": "off"})
    resumed = QuantizationAware(start_step=3)
    resumed.load_state_dict(first.state_dict())
    steps = Steps(model, resumed, step=1)
    for on in (False, False, True):
        for name, each in named_quantizers(model):
            is_on = each._handle.stages & (STAGE_QUANT | STAGE_DISABLED) == STAGE_QUANT
            assert is_on == (on and ".layer.1." not in name), name
        steps.step()


def test_what_is_not_ready_is_named_and_left_as_it_was(learning: Any) -> None:
    plain = tiny_model.question_answering()
    off = calibrated()
    qdqbert.quantizers(off, {"*": "off"})
    for model, callback, message in (
        (plain, QuantizationAware(), "_input_quantizer has no range yet; call qdqbert.calibrate first"),
        (plain, QuantizationAware(amax="moving"), "_weight_quantizer has no range yet"),
        (plain, QuantizationAware(amax="learned"), "has no learned range; build the model with"),
        (learning, QuantizationAware(), "learns its range; say amax='learned'"),
        (off, QuantizationAware(), "every quantizer of the model is off"),
    ):
        before = states(model)
        with pytest.raises(StateError, match=message):
            Steps(model, callback)
        assert states(model) == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"start_step": -1}, ValueError),
        ({"start_step": 1.5}, TypeError),
        ({"amax": "max"}, ValueError),
        ({"weights": "moving"}, ValueError),
        ({"momentum": 1.0}, ValueError),
        ({"momentum": float("nan")}, ValueError),
    ],
)
def test_arguments_have_ranges(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{next(iter(arguments))}: expected"):
        QuantizationAware(**arguments)

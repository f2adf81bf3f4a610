# SPDX-License-Identifier: Apache-2.0
"""Copies of layers, quantizers, calibrators, calibrations and plain objects."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from copied_models import make, snapshot, states_of, through_pickle
from qdqbert import copies
from qdqbert.calib import Calibrator, HistogramCalibrator, MaxCalibrator
from qdqbert.calibration import Calibration
from qdqbert.errors import CheckpointError, StateError
from qdqbert.nn import Clip, QuantLinear, TensorQuantizer
from qdqbert.tensor_quant import QuantDescriptor


def through_an_old_protocol(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, protocol=2))


@pytest.fixture(params=[copy.deepcopy, through_pickle], ids=["deepcopy", "pickle"])
def duplicate(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return request.param  # type: ignore[no-any-return]


# ---- layers, quantizers, clips -----------------------------------------------------------------------------


def quantizers_of_every_kind() -> Iterator[TensorQuantizer]:
    data = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    yield TensorQuantizer()
    yield TensorQuantizer(QuantDescriptor(num_bits=(4, 3), amax=2.0), disabled=True)
    yield TensorQuantizer(
        QuantDescriptor(unsigned=True, num_bits=5, scale_amax=0.3, name="a"), if_quant=False
    )
    per_row = TensorQuantizer(QuantDescriptor(axis=0), if_quant=False, if_calib=True)
    per_row(data)
    per_row.load_calib_amax()
    yield per_row
    histogram = TensorQuantizer(QuantDescriptor(calib_method="histogram"), if_quant=False, if_calib=True)
    histogram(data)
    yield histogram
    learned = TensorQuantizer(QuantDescriptor(learn_amax=True, amax=1.5))
    learned.clip.clip_value_min = -0.25
    learned.disable_clip()
    yield learned
    real = TensorQuantizer(QuantDescriptor(fake_quant=False))
    real(data)
    yield real
    scaled = TensorQuantizer(QuantDescriptor(amax=1.0))
    scaled.pre_quant_scale = np.linspace(0.5, 2.0, 6)
    scaled.narrow_range = True
    scaled._calibrator = None
    yield scaled


@pytest.mark.parametrize("index", range(8))
def test_a_copy_of_a_quantizer_does_the_same_and_shares_nothing(index: int, duplicate: Any) -> None:
    quantizer = list(quantizers_of_every_kind())[index]
    quantizer.note = "mine"
    copied = duplicate(quantizer)
    data = np.abs(np.random.default_rng(2).standard_normal((4, 6))).astype(np.float32)
    assert states_of(copied) == states_of(quantizer)
    assert copied.note == "mine"
    assert copied._gradient_flags() == quantizer._gradient_flags()
    np.testing.assert_array_equal(copied(data), quantizer(data))
    before = states_of(quantizer)
    copied._amax = 9.0
    copied.disable()
    copied.num_bits = 3
    if copied._calibrator is not None:
        copied._calibrator.reset()
    assert states_of(quantizer) == before


@pytest.mark.parametrize("bias", [True, False])
def test_a_copy_of_a_layer_computes_the_same_and_shares_nothing(bias: bool, duplicate: Any) -> None:
    linear = QuantLinear(5, 3, bias, seed=1, quant_desc_input=QuantDescriptor(num_bits=6, amax=2.0))
    linear.weight.requires_grad = False
    linear.weight_quantizer.amax = np.array([[0.5], [0.25], [1.0]])
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    copied = duplicate(linear)
    assert repr(copied) == repr(linear)
    assert not copied.weight.requires_grad
    assert (copied.bias is None) is not bias
    np.testing.assert_array_equal(copied(x), linear(x))
    before = linear(x)
    copied.weight = np.zeros((3, 5))
    copied.weight_quantizer._amax = np.ones((3, 1))
    np.testing.assert_array_equal(linear(x), before)
    with pytest.raises(qdqbert.ShapeError, match=r"broadcasts to \(3, 5\)"):
        copied.weight_quantizer._amax = np.ones((4, 1))


class Scaled(QuantLinear):
    """A derived layer."""

    def __init__(self, factor: float) -> None:
        super().__init__(4, 4, seed=0)
        self.factor = factor


def test_a_derived_layer_keeps_what_it_has(duplicate: Any) -> None:
    layer = Scaled(3.0)
    layer._input_quantizer = TensorQuantizer(QuantDescriptor(num_bits=3, amax=1.0))
    copied = duplicate(layer)
    assert type(copied) is Scaled
    assert copied.factor == 3.0
    assert repr(copied) == repr(layer)
    np.testing.assert_array_equal(copied(np.eye(4, dtype=np.float32)), layer(np.eye(4, dtype=np.float32)))


def test_layers_and_quantizers_of_a_model_become_stand_alone_ones(duplicate: Any) -> None:
    model = make("QDQBertModel")
    query = model.encoder.layer[0].attention.self.query
    copied = duplicate(query)
    x = np.random.default_rng(0).standard_normal((4, 24)).astype(np.float32)
    np.testing.assert_array_equal(copied(x), query(x))
    quantizer = duplicate(query.input_quantizer)
    np.testing.assert_array_equal(quantizer(x), query.input_quantizer(x))
    before = snapshot(model)
    copied.weight = np.zeros((24, 24))
    copied.input_quantizer._amax = 9.0
    quantizer.disable()
    assert snapshot(model) == before


def test_bounds_are_copied_with_their_kind_and_flag(duplicate: Any) -> None:
    clip = Clip(-1.0, 2.0, learn_max=True)
    clip.clip_value_max.requires_grad_(False)  # type: ignore[attr-defined]
    copied = duplicate(clip)
    assert [name for name, _ in copied.named_parameters()] == ["clip_value_max"]
    assert not copied.clip_value_max.requires_grad
    assert copied([-3.0, 3.0]).tolist() == [-1.0, 2.0]
    copied.clip_value_max = 0.5
    assert clip.clip_value_max == 2.0
    wide = duplicate(Clip([-1.0, -2.0], 2.0))
    assert wide([-3.0, -3.0]).tolist() == [-1.0, -2.0]


def test_shallow_copies_of_layers_share_and_those_of_quantizers_are_refused() -> None:
    linear, clip = QuantLinear(3, 2, seed=0), Clip(-1.0, 1.0, learn_max=True)
    shared = copy.copy(linear)
    linear.weight = np.ones((2, 3))
    assert (shared.weight == 1).all()
    assert shared.input_quantizer is linear.input_quantizer
    bounds = copy.copy(clip)
    clip.clip_value_max = 5.0
    assert bounds.clip_value_max == 5.0
    calibration = Calibration(qdqbert.QDQBertModel(tiny_model.config()))
    for each in (TensorQuantizer(), MaxCalibrator(8, None, False), calibration):
        with pytest.raises(TypeError, match=f"{type(each).__name__}: a shallow copy .* use copy.deepcopy"):
            copy.copy(each)


# ---- calibrators -------------------------------------------------------------------------------------------

CALIBRATORS: dict[str, Callable[[], Any]] = {
    "max": lambda: MaxCalibrator(8, None, False),
    "max along an axis": lambda: MaxCalibrator(4, (0,), True),
    "max along two axes": lambda: MaxCalibrator(8, (0, -1), False, track_amax=True),
    "tracked": lambda: MaxCalibrator(8, None, False, track_amax=True),
    "histogram": lambda: HistogramCalibrator((4, 3), None, False, num_bins=64),
    "without zeros": lambda: HistogramCalibrator(8, None, True, num_bins=100, skip_zeros=True),
    "as NumPy's": lambda: HistogramCalibrator(8, None, False, num_bins=64, torch_hist=False),
    "fixed": lambda: HistogramCalibrator(8, None, False, num_bins=64, fixed_range=50.0),
}


@pytest.mark.parametrize("kind", sorted(CALIBRATORS))
@pytest.mark.parametrize("batches", [0, 1, 2, 3])
def test_a_calibrator_goes_on_in_a_copy_to_the_last_bit(kind: str, batches: int, duplicate: Any) -> None:
    # Every batch is larger than the one before, so that histograms grow.
    rng = np.random.default_rng(4)
    data = [rng.standard_normal((3, 40)).astype(np.float32) * np.float32(1.7) ** i for i in range(6)]
    calibrator = CALIBRATORS[kind]()
    for batch in data[:batches]:
        calibrator.collect(batch)
    copied = duplicate(calibrator)
    assert repr(copied) == repr(calibrator)
    for batch in data[batches:]:
        for each in (calibrator, copied):
            each.collect(batch)
        assert repr(copied) == repr(calibrator)
        mine, theirs = calibrator.state_dict(), copied.state_dict()
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            np.testing.assert_array_equal(value, theirs[key], strict=True)
    if "tracked" in kind or "two axes" in kind:
        for one, other in zip(calibrator.amaxs, copied.amaxs, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
        assert len(copied.amaxs) == 6
    np.testing.assert_array_equal(calibrator._observer.amax(), copied._observer.amax())
    copied.reset()
    assert calibrator._observer.has_data


@pytest.mark.parametrize("largest", [1e-45, 1e-40])
def test_a_histogram_of_subnormals_is_copied(largest: float, duplicate: Any) -> None:
    calibrator = HistogramCalibrator(8, None, False)
    calibrator.collect(np.array([largest, 0.0], np.float32))
    copied = duplicate(calibrator)
    assert repr(copied) == repr(calibrator)
    np.testing.assert_array_equal(copied.compute_amax("percentile"), calibrator.compute_amax("percentile"))


class Counting(HistogramCalibrator):
    """A derived calibrator."""

    calls = 0

    def collect(self, x: Any) -> None:
        """Count, and collect."""
        self.calls += 1
        super().collect(x)


def test_a_derived_calibrator_keeps_what_it_has(duplicate: Any) -> None:
    calibrator = Counting(8, None, False, num_bins=16)
    calibrator.collect(np.ones(3, np.float32))
    copied = duplicate(calibrator)
    assert (type(copied), copied.calls, copied.num_bins) == (Counting, 1, 16)
    assert repr(copied) == repr(calibrator)


class Own(Calibrator):
    """A calibrator whose observer only it knows."""

    def compute_amax(self) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: Any) -> None:
        """Nothing."""


def test_a_calibrator_of_another_kind_says_what_it_needs(duplicate: Any) -> None:
    observer = MaxCalibrator(8, None, False)._observer
    with pytest.raises(TypeError, match="Own: cannot be copied; derive it from MaxCalibrator or"):
        duplicate(Own(8, None, False, observer))


# ---- calibrations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"statistics": "max"}, {"passes": 2, "num_bins": 64}])
def test_a_calibration_goes_on_in_a_copy(options: dict[str, Any], duplicate: Any) -> None:
    model = tiny_model.question_answering(seed=1)
    batches = [tiny_model.batch(seed=seed) for seed in range(4)]
    qdqbert.quantizers(model, {"*.layer.1.output.*": "off"})
    calibration = Calibration(model, **options)
    if options.get("passes") == 2:
        calibration.collect(batches)
        calibration.next_pass()
    calibration.collect(batches[:2])
    # What is enabled has changed since; the calibration is of the quantizers that it began with.
    qdqbert.quantizers(model, {"*.layer.1.output.*": "on", "*.layer.0.output.*": "off"})
    copied = duplicate(calibration)
    assert copied.model is not model
    assert states_of(copied.model) == states_of(model)
    assert repr(copied) == repr(calibration)
    for each in (calibration, copied):
        qdqbert.quantizers(each.model, {"*": "on"})
        each.collect(batches)
        assert each.batches_done == 4
    method = "max" if options.get("statistics") == "max" else "entropy"
    mine, theirs = calibration.ranges(method, **({} if method == "max" else {"start_bin": 8})), None
    theirs = copied.ranges(method, **({} if method == "max" else {"start_bin": 8}))
    assert mine.keys() == theirs.keys()
    for name, amax in mine.items():
        np.testing.assert_array_equal(amax, theirs[name], strict=True)
    copied.apply(method, **({} if method == "max" else {"start_bin": 8}))
    assert model.bert.encoder.layer[0].attention.self.query._input_quantizer.amax is None


def test_a_model_and_its_calibration_stay_together_in_a_copy(duplicate: Any) -> None:
    model = tiny_model.question_answering()
    both = duplicate({"calibration": Calibration(model), "model": model})
    assert both["calibration"].model is both["model"]


def test_a_calibration_that_is_collecting_cannot_be_copied(duplicate: Any) -> None:
    model = tiny_model.question_answering()
    calibration = Calibration(model)

    def batches() -> Iterator[Any]:
        yield tiny_model.batch()
        with pytest.raises(StateError, match="Calibration: is collecting and cannot be copied"):
            duplicate(calibration)
        yield tiny_model.batch()

    calibration.collect(batches())
    assert calibration.batches_done == 2
    assert duplicate(calibration).batches_done == 2


# ---- plain objects -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_an_old_protocol, copy.copy])
def test_configurations_and_descriptors_keep_every_field(duplicate: Any) -> None:
    config = tiny_model.config(
        id2label={0: "a", 1: "b", 2: "c"}, pruned_heads={1: [0]}, name_or_path="x", mine={"k": [1]}
    )
    config.later = 3
    assert vars(duplicate(config)) == vars(config)
    assert duplicate(config) == config
    descriptor = QuantDescriptor(
        5, "n", axis=[0], amax=[[1.0], [2.0]], unsigned=True, narrow_range=True, scale_amax=0.3
    )
    copied = duplicate(descriptor)
    assert copied == descriptor
    assert copied.axis == [0]
    assert copied.amax.shape == (2, 1)


def test_a_copy_of_a_configuration_is_deep_if_it_is_to_be(duplicate: Any) -> None:
    config = tiny_model.config(mine={"k": [1]})
    copied = duplicate(config)
    copied.mine["k"].append(2)
    copied.id2label[0] = "other"
    assert config.mine == {"k": [1]}
    assert config.id2label[0] == "LABEL_0"
    assert copy.copy(config).mine is config.mine


def test_outputs_can_be_copied(duplicate: Any) -> None:
    output = tiny_model.question_answering()(**tiny_model.batch(), output_hidden_states=True)
    copied = duplicate(output)
    assert type(copied) is type(output)
    assert list(copied) == list(output)
    np.testing.assert_array_equal(copied.start_logits, output.start_logits)
    np.testing.assert_array_equal(copied[2][0], output[2][0])


# ---- what cannot be copied ---------------------------------------------------------------------------------


def test_changes_of_rules_belong_to_their_model(duplicate: Any) -> None:
    model = tiny_model.question_answering()
    with qdqbert.quantizers(model, {"*": "off"}) as changes:
        with pytest.raises(StateError, match="Changes: belongs to the model that was changed"):
            duplicate(changes)
        copied = duplicate(model)
    assert states_of(copied) != states_of(model)  # the copy is of the state within the block


@pytest.mark.parametrize("kind", ["Model", "Session", "Quantizer", "Observer"])
def test_handles_of_the_core_are_not_copied(kind: str, duplicate: Any) -> None:
    model = tiny_model.question_answering()
    core, device = model._engine.core, model.device
    handle = {
        "Model": core,
        "Session": qdqbert._core.Session(core, max_sequences=1, max_length=4),
        "Quantizer": qdqbert._core.Quantizer(device),
        "Observer": qdqbert._core.Observer(device, "max"),
    }[kind]
    with pytest.raises(TypeError, match=f"cannot pickle '.*{kind}' object"):
        duplicate(handle)


# ---- the format --------------------------------------------------------------------------------------------


def test_a_pickle_is_the_class_the_format_and_a_state_of_plain_values() -> None:
    _, (kind, version, state), carried, *_ = QuantLinear(3, 2, seed=0).__reduce__()  # type: ignore[misc]
    assert (kind, version) == (QuantLinear, copies.VERSION)
    assert sorted(state) == ["parameters", "requires_grad"]
    assert state["requires_grad"] == {"weight": True, "bias": True}
    assert state["parameters"]["weight"].dtype == np.float32
    assert sorted(carried["children"]) == ["_input_quantizer", "_weight_quantizer"]


def test_a_pickle_of_another_format_or_with_less_is_refused() -> None:
    _, (kind, version, state), *_ = QuantLinear(3, 2, seed=0).__reduce__()  # type: ignore[misc]
    with pytest.raises(CheckpointError, match=r"pickle of QuantLinear: format 2, and this .* reads 1"):
        copies.restore(kind, version + 1, state)
    for key in state:
        with pytest.raises(CheckpointError, match=f"pickle of QuantLinear: the state has no '{key}'"):
            copies.restore(kind, version, {name: value for name, value in state.items() if name != key})

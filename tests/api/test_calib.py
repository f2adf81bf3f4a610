# SPDX-License-Identifier: Apache-2.0
"""Calibrators beyond the recorded cases: the original's own tests, splits and merges, resuming, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqbert.calib import Calibrator, HistogramCalibrator, MaxCalibrator, calibrate_weights
from qdqbert.errors import StateError
from qdqbert.nn import QuantLinear, TensorQuantizer
from qdqbert.tensor_quant import QuantDescriptor, reduce_amax


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(3).laplace(size=(64, 33)).astype(np.float32)


def collected(calibrator: Any, *batches: Any) -> Any:
    for batch in batches:
        calibrator.collect(np.asarray(batch, np.float32))
    return calibrator


# ---- max ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1)])
def test_maxima_do_not_depend_on_split_or_order(data: np.ndarray, axis: Any) -> None:
    # along the kept axis a batch must be whole, so batches are copies with other elements zeroed
    batches = [np.where(np.arange(data.size).reshape(data.shape) % 5 == part, data, 0) for part in range(5)]
    whole = collected(MaxCalibrator(8, axis, False), data)
    parts = collected(MaxCalibrator(8, axis, False), *reversed(batches))
    left = collected(MaxCalibrator(8, axis, False), *batches[:2])
    left.merge(collected(MaxCalibrator(8, axis, False), *batches[2:]))

    np.testing.assert_array_equal(parts.compute_amax(), whole.compute_amax())
    np.testing.assert_array_equal(left.compute_amax(), whole.compute_amax())


def test_reverse_axis_keeps_the_channels_of_a_convolution() -> None:
    x = np.random.default_rng(0).normal(size=(31, 63, 7, 7)).astype(np.float32)
    calibrator = collected(MaxCalibrator(8, -4, False), x)
    np.testing.assert_array_equal(calibrator.compute_amax(), reduce_amax(x, (1, 2, 3)))
    calibrator.reset()
    assert calibrator.compute_amax() is None


def test_a_changed_shape_is_refused_and_changes_nothing(data: np.ndarray) -> None:
    calibrator = collected(MaxCalibrator(8, 0, False), data)
    before = calibrator.compute_amax()
    with pytest.raises(ValueError, match="shape changed"):
        calibrator.collect(data[:5])
    np.testing.assert_array_equal(calibrator.compute_amax(), before)


# ---- histogram ---------------------------------------------------------------------------------------------


def test_growth_appends_bins() -> None:
    first, second = np.full(1_000, 255.0), np.full(8, 256.0)
    calibrator = collected(HistogramCalibrator(8, None, False), first, second)
    entropy = calibrator.compute_amax("entropy")
    assert abs(entropy - 255) < abs(entropy - 256)
    assert abs(calibrator.compute_amax("mse") - 255) < 0.5


def test_zeros_can_be_left_out() -> None:
    x = np.concatenate([np.zeros(100), np.arange(1, 11)])
    calibrator = collected(HistogramCalibrator(8, None, False, skip_zeros=True), x)
    assert abs(calibrator.compute_amax("percentile", percentile=50) - 5) < 10 / 2048


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("torch_hist", [False, True])
def test_entropy_cuts_one_outlier(unsigned: bool, torch_hist: bool) -> None:
    x = np.random.default_rng(12345).uniform(size=(20, 300)).astype(np.float32)
    x[3, 7] = 10.0
    calibrator = collected(HistogramCalibrator(8, None, unsigned, torch_hist=torch_hist), x)
    assert calibrator.compute_amax("entropy") < 1.1


def test_percentiles_of_a_ramp() -> None:
    calibrator = collected(HistogramCalibrator(8, None, False, num_bins=1024), np.arange(100))
    assert abs(calibrator.compute_amax("percentile", percentile=90) - 89) <= 100 / 1024


@pytest.mark.parametrize("unsigned", [False, True])
def test_percentiles_of_two_tensors_and_of_unsigned_values(unsigned: bool) -> None:
    calibrator = HistogramCalibrator(8, None, unsigned, num_bins=2048)
    collected(calibrator, np.arange(100))
    assert abs(calibrator.compute_amax("percentile", percentile=80) - 79) <= 100 / 2048
    collected(calibrator, np.arange(0, 50), np.arange(50, 100))
    # Each value twice now: 99 % of 200 is the 198th, which is the first 98.
    assert abs(calibrator.compute_amax("percentile", percentile=99) - 98) <= 1 + 100 / 2048


@pytest.mark.parametrize(("unsigned", "top"), [(False, 255), (True, 512)])
@pytest.mark.parametrize("torch_hist", [False, True])
def test_mse_prefers_what_nearly_all_elements_are(unsigned: bool, top: int, torch_hist: bool) -> None:
    one = collected(HistogramCalibrator(8, None, unsigned, torch_hist=torch_hist), [*([top] * 1000), top + 1])
    two = collected(
        HistogramCalibrator(8, None, unsigned, torch_hist=torch_hist), [top] * 500, [*([top] * 500), top + 1]
    )
    for calibrator in (one, two):
        amax = calibrator.compute_amax("mse")
        assert abs(amax - top) < abs(amax - (top + 1))


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("torch_hist", [False, True])
def test_entropy_cuts_an_outlier_that_comes_with_the_second_tensor(unsigned: bool, torch_hist: bool) -> None:
    x = np.random.default_rng(12345).uniform(size=(2, 20, 300)).astype(np.float32)
    x[1, 3, 7] = 10.0
    calibrator = collected(HistogramCalibrator(8, None, unsigned, torch_hist=torch_hist), x[0], x[1])
    assert calibrator.compute_amax("entropy") < 1.1


def test_both_kinds_of_histogram_count_alike_through_growth() -> None:
    # The first batch has a zero, so that both begin there.  No largest magnitude is near a multiple of the
    # width of the bins: there the two ways to count new bins may round apart, as they do in the original.
    generator = np.random.default_rng(8)
    batches = [generator.uniform(size=97) * scale for scale in (1.0, 0.5, 3.0, 2.0, 10.0)]
    batches[0][0] = 0.0
    first, second = (HistogramCalibrator(8, None, False, 19, torch_hist=each) for each in (True, False))
    for batch in batches:
        collected(first, batch)
        collected(second, batch)
        counts, edges = first.histogram()
        other_counts, other_edges = second.histogram()
        np.testing.assert_array_equal(counts, other_counts)
        np.testing.assert_allclose(edges, other_edges, rtol=1e-6)
        assert len(counts) == len(edges) - 1


def test_the_ranges_of_every_batch_are_kept_if_asked() -> None:
    calibrator = MaxCalibrator(8, None, False, track_amax=True)
    for batch in ([1.0, -2.0], [0.5], [3.0, 1.0]):
        calibrator.collect(batch)
    assert [float(amax) for amax in calibrator.amaxs] == [2.0, 0.5, 3.0]
    assert calibrator.compute_amax() == 3.0
    with pytest.raises(AttributeError, match="track_amax"):
        MaxCalibrator(8, None, False).amaxs  # noqa: B018


@pytest.mark.parametrize("method", ["max", "", "MSE", None])
def test_an_unknown_method_is_refused(data: np.ndarray, method: Any) -> None:
    with pytest.raises(TypeError, match=f"Unknown calibration method {method}"):
        collected(HistogramCalibrator(8, None, False), data).compute_amax(method)


def test_nothing_collected_is_no_range() -> None:
    for method in ("entropy", "mse", "percentile"):
        assert HistogramCalibrator(8, None, False).compute_amax(method) is None
    assert MaxCalibrator(8, None, False).compute_amax() is None


def test_reset_gives_back_the_number_of_bins(data: np.ndarray) -> None:
    calibrator = collected(HistogramCalibrator(8, None, False, 50), data, data * 7)
    assert calibrator.num_bins > 300
    calibrator.reset()
    assert calibrator.num_bins == 50
    assert len(collected(calibrator, data).histogram()[0]) == 50


@pytest.mark.parametrize("torch_hist", [False, True])
def test_data_may_follow_a_batch_of_zeros(data: np.ndarray, torch_hist: bool) -> None:
    calibrator = HistogramCalibrator(8, None, False, torch_hist=torch_hist)
    collected(calibrator, np.zeros((3, 5)), data)
    counts, edges = calibrator.histogram()
    assert counts.sum() == 15 + data.size
    # NumPy's rule, which torch_hist=False follows, lays the edges of equal values half a unit to both sides.
    assert edges[0] == (0.0 if torch_hist else -0.5)
    assert counts[np.searchsorted(edges, 0.0, side="right") - 1] >= 15
    assert edges[-1] >= np.abs(data).max()
    amax = calibrator.compute_amax("percentile", percentile=100.0)
    assert abs(amax - np.abs(data).max()) <= edges[1] - edges[0]


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
@pytest.mark.parametrize("torch_hist", [True, False])
def test_a_batch_of_subnormals_has_a_range(data: np.ndarray, torch_hist: bool, method: str) -> None:
    tiny = (np.abs(data) / np.abs(data).max() * np.float32(1e-40)).astype(np.float32)
    calibrator = HistogramCalibrator(8, None, False, torch_hist=torch_hist)
    calibrator.collect(tiny)
    counts, edges = calibrator.histogram() or pytest.fail("nothing collected")
    assert counts.sum() == tiny.size
    assert (np.diff(edges) >= 0).all()
    amax = calibrator.compute_amax(method)
    assert amax is not None
    assert 0 < amax <= tiny.max()


@pytest.mark.parametrize("torch_hist", [True, False])
def test_data_that_dwarf_the_first_batch_are_refused_and_not_counted(
    data: np.ndarray, torch_hist: bool
) -> None:
    # Bins as wide as the first batch's would need more memory than there is, in the original too.
    calibrator = HistogramCalibrator(8, None, False, torch_hist=torch_hist)
    calibrator.collect(np.array([1e-40, 5e-41], np.float32))
    with pytest.raises(ValueError, match="the first tensor was too small; collect with a fixed range"):
        calibrator.collect(data)
    counts, edges = calibrator.histogram() or pytest.fail("nothing collected")
    assert counts.sum() == 2
    assert edges[-1] == np.float32(1e-40)


@pytest.mark.parametrize("pieces", [1, 2, 7, 64])
def test_a_fixed_range_makes_counts_independent_of_split_and_order(data: np.ndarray, pieces: int) -> None:
    top = float(np.abs(data).max())
    whole = collected(HistogramCalibrator(8, None, False, fixed_range=top), data)
    batches = np.array_split(data, pieces)
    parts = collected(HistogramCalibrator(8, None, False, fixed_range=top), *reversed(batches))
    merged = HistogramCalibrator(8, None, False, fixed_range=top)
    for batch in batches:
        merged.merge(collected(HistogramCalibrator(8, None, False, fixed_range=top), batch))

    for other in (parts, merged):
        for mine, expected in zip(other.histogram(), whole.histogram(), strict=True):
            np.testing.assert_array_equal(mine, expected)
    assert whole.histogram()[0].sum() == data.size


def test_a_magnitude_above_a_fixed_range_is_refused(data: np.ndarray) -> None:
    calibrator = HistogramCalibrator(8, None, False, fixed_range=1.0)
    with pytest.raises(ValueError, match="1"):
        calibrator.collect(data)
    assert calibrator.histogram() is None


def test_histograms_with_other_edges_do_not_merge(data: np.ndarray) -> None:
    calibrator = collected(HistogramCalibrator(8, None, False), data)
    before = calibrator.state_dict()
    with pytest.raises(StateError):
        calibrator.merge(collected(HistogramCalibrator(8, None, False), data * 2))
    np.testing.assert_array_equal(calibrator.state_dict()["counts"], before["counts"])


def test_range_finders_leave_the_histogram_alone(data: np.ndarray) -> None:
    calibrator = collected(HistogramCalibrator(8, None, False, torch_hist=False), data)
    before = calibrator.compute_amax("percentile"), *calibrator.histogram()
    calibrator.compute_amax("entropy")
    calibrator.compute_amax("mse")
    after = calibrator.compute_amax("percentile"), *calibrator.histogram()
    for mine, expected in zip(after, before, strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_counts_pass_the_float32_limit() -> None:
    calibrator = HistogramCalibrator(8, None, False)
    start = {"counts": np.array([2**24, 2**40]), "edges": np.float32([0, 1, 2])}
    calibrator.load_state_dict(start)
    calibrator.collect(np.float32([0.5, 1.5, 1.5]))
    assert calibrator.histogram()[0].tolist() == [2**24 + 1, 2**40 + 2]


@pytest.mark.parametrize("percentile", [-1e-9, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(data: np.ndarray, percentile: float) -> None:
    calibrator = collected(HistogramCalibrator(8, None, False), data)
    with pytest.raises(ValueError, match="range"):
        calibrator.compute_amax("percentile", percentile=percentile)


@pytest.mark.parametrize(
    "options", [{"num_bins": 0}, {"num_bins": -5}, {"fixed_range": -1.0}, {"fixed_range": 0.0}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"num_bins|fixed_max"):
        HistogramCalibrator(8, None, False, **options)


# ---- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: MaxCalibrator(8, 1, False), lambda: HistogramCalibrator(8, None, False)]
)
def test_a_calibration_resumes_from_its_state(make: Any, data: np.ndarray) -> None:
    through = collected(make(), data[:32], data[32:])
    first = collected(make(), data[:32])
    second = make()
    second.load_state_dict(first.state_dict())
    second.collect(data[32:])

    for key, value in through.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[key], value)
    empty = make()
    assert empty.state_dict() == {}
    second.load_state_dict(empty.state_dict())
    assert second.state_dict() == {}


def test_a_state_that_is_none_is_refused() -> None:
    histogram = HistogramCalibrator(8, None, False)
    good = {"counts": np.array([1, 2]), "edges": np.float32([0, 1, 2])}
    bad: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"counts": good["counts"]}, ValueError),
        ({**good, "counts": np.array([1, -2])}, ValueError),
        ({**good, "counts": np.array([1.0, 2.0])}, TypeError),
        ({**good, "edges": np.float32([0, 1])}, ValueError),
        ({**good, "edges": np.float32([0, 2, 1])}, ValueError),
        ({**good, "edges": np.float32([0, np.nan, 1])}, ValueError),
    ]
    for state, error in bad:
        with pytest.raises(error):
            histogram.load_state_dict(state)
        assert histogram.histogram() is None
    with pytest.raises(ValueError, match="amax"):
        MaxCalibrator(8, None, False).load_state_dict({"max": np.float32(1)})


def test_calibrators_of_other_kinds_do_not_merge() -> None:
    with pytest.raises(TypeError, match="expected MaxCalibrator, got HistogramCalibrator"):
        MaxCalibrator(8, None, False).merge(HistogramCalibrator(8, None, False))  # type: ignore[arg-type]
    assert issubclass(MaxCalibrator, Calibrator)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_with_its_place(bad: float) -> None:
    for calibrator in (MaxCalibrator(8, None, False), HistogramCalibrator(8, None, False)):
        tensor = np.ones((3, 7), np.float32)
        tensor[2, 3] = bad
        with pytest.raises(ValueError, match="17"):
            calibrator.collect(tensor)
        assert calibrator.state_dict() == {}


# ---- the original's attributes -----------------------------------------------------------------------------


def test_statistics_are_read_under_the_originals_names(data: np.ndarray) -> None:
    maximum, histogram = MaxCalibrator(8, 1, False, track_amax=True), HistogramCalibrator(8, None, False, 99)
    assert maximum._calib_amax is None
    assert (histogram._calib_hist, histogram._calib_bin_edges, histogram._num_bins) == (None, None, 99)
    collected(maximum, data)
    collected(histogram, data)

    np.testing.assert_array_equal(maximum._calib_amax, np.abs(data).max(0, keepdims=True))
    np.testing.assert_array_equal(maximum._amaxs[0], maximum._calib_amax)
    counts, edges = histogram.histogram()
    np.testing.assert_array_equal(histogram._calib_hist, counts)
    np.testing.assert_array_equal(histogram._calib_bin_edges, edges)
    assert len(edges) == histogram._num_bins + 1 == 100
    assert (histogram._num_bits, histogram._axis, histogram._unsigned) == (8, None, False)


def test_the_kind_of_histogram_is_fixed_and_says_so() -> None:
    histogram = HistogramCalibrator(8, None, False, skip_zeros=True)
    histogram._torch_hist = True  # as many scripts do
    assert histogram._torch_hist
    assert histogram._skip_zeros
    with pytest.raises(StateError, match=r"torch_hist=False"):
        histogram._torch_hist = False
    with pytest.raises(AttributeError):
        histogram._num_bins = 5  # type: ignore[misc]


def test_grow_method_is_ignored_with_a_warning_as_in_the_original(
    data: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    old = collected(HistogramCalibrator(8, None, False, 64, "stretch"), data, data * 3)
    new = collected(HistogramCalibrator(8, None, False, 64), data, data * 3)
    assert caplog.messages == ["grow_method is deprecated. Got stretch, ingored!"]
    for mine, expected in zip(old.histogram(), new.histogram(), strict=True):
        np.testing.assert_array_equal(mine, expected)


# ---- weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("perchannel", [False, True])
def test_max_equals_a_quantizer_driven_calibration(perchannel: bool) -> None:
    axis = (0,) if perchannel else None
    linear = QuantLinear(37, 11, quant_desc_weight=QuantDescriptor(axis=axis), seed=0)
    calibrate_weights(linear, "max", perchannel)
    quantizer = TensorQuantizer(QuantDescriptor(axis=axis), if_calib=True, if_quant=False)
    quantizer(linear.weight)
    quantizer.load_calib_amax()

    assert linear.weight_quantizer.amax.shape == quantizer.amax.shape
    np.testing.assert_array_equal(linear.weight_quantizer.amax, quantizer.amax)


@pytest.mark.parametrize("method", ["mse", "percentile"])
def test_histogram_methods_equal_a_calibrator_on_the_weight(method: str) -> None:
    linear = QuantLinear(300, 4, seed=0)
    calibrate_weights(linear, method, num_bins=700, percentile=99.0)
    for row, amax in zip(linear.weight, linear.weight_quantizer.amax[:, 0], strict=True):
        calibrator = collected(HistogramCalibrator(8, None, False, num_bins=700), row)
        assert (
            calibrator.compute_amax(method, **({"percentile": 99.0} if method == "percentile" else {}))
            == amax
        )


@pytest.mark.parametrize("method", ["mse", "percentile"])
def test_bins_are_counted_as_asked_per_tensor_too(method: str) -> None:
    linear = QuantLinear(300, 4, seed=0)
    calibrate_weights(linear, method, perchannel=False, num_bins=333, percentile=95.0)
    calibrator = collected(HistogramCalibrator(8, None, False, num_bins=333), linear.weight)
    options = {"percentile": 95.0} if method == "percentile" else {}
    assert linear.weight_quantizer.amax == calibrator.compute_amax(method, **options)


def test_a_bad_weight_is_named_and_no_range_is_set() -> None:
    from qdqbert.module import Module

    model = Module()
    for name in ("first", "second"):
        model.add_module(name, QuantLinear(3, 2, seed=0))
    model.second.weight = np.full((2, 3), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"second\.weight"):
        calibrate_weights(model, "max")
    assert model.first.weight_quantizer.amax is None

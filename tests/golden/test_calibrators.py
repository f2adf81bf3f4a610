# SPDX-License-Identifier: Apache-2.0
"""Calibrators against the recorded original: statistics after every batch, and the ranges found in them.

Maxima and counts are equal; edges agree to rtol 1e-6; percentile ranges are one of the edges (rtol 1e-6); mse
and entropy choose the same bin, which allows one bin's width where the objective is flat.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from golden_codec import decode, load

from qdqbert.calib import HistogramCalibrator, MaxCalibrator, calibrate_weights
from qdqbert.module import Module
from qdqbert.nn import QuantLinear, TensorQuantizer
from qdqbert.tensor_quant import QuantDescriptor
from shared_data import shared_folder

FOLDER = shared_folder() / "golden" / "calibrators"
GOLDEN = (
    load(FOLDER, "manifest.json")
    if (FOLDER / "manifest.json").exists()
    else {"cases": [], "constructor_errors": [], "calibrate_weights": {"cases": []}}
)

# Decisions of REFERENCE 8 and 10.
#
# 8 #14, 10.4: data may follow a batch of zeros.
ZERO_FIRST_HANDLED = {"histogram/all_zero_first_torch"}
#
# ShapeError instead of RuntimeError.
SHAPE_ERROR = {"max/shape_changed"}
#
# 8 #14: reset restores the number of bins, in every histogram case.
#
# 8 #15: entropy leaves the histogram as it is.  The original's numpy branch copies the count of bin 1 into
# bin 0 of the stored histogram, of which the recorded last `hist_after` is a view: there bin 0 is counted
# anew.
#
# 8 #20: calibrate_weights per tensor: "max" works, num_bins is honoured.
#
# 10.3: `amaxs` is the true list.  The original's first entry shares memory with the running maximum, in the
# recorded list too; it is the first batch's range here.


def ids(cases: list[dict[str, Any]]) -> list[str]:
    return [case["id"] for case in cases]


MAX_CASES = [case for case in GOLDEN["cases"] if case["calibrator"] == "MaxCalibrator"]
HISTOGRAM_CASES = [case for case in GOLDEN["cases"] if case["calibrator"] == "HistogramCalibrator"]


@pytest.fixture(scope="module")
def arrays() -> Any:
    with np.load(FOLDER / "calibrators.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.skipif(not GOLDEN["cases"], reason=f"missing data: {FOLDER}")
def test_the_manifest_is_complete() -> None:
    assert len(MAX_CASES) == 21
    assert len(HISTOGRAM_CASES) == 32


# ---- max --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MAX_CASES, ids=ids(MAX_CASES))
def test_max(case: dict[str, Any], arrays: Any) -> None:
    calibrator = MaxCalibrator(**decode(case["params"]))
    for step in case["steps"]:
        batch = arrays[step["batch"]]
        if "error" in step:
            assert case["id"] in SHAPE_ERROR
            before = calibrator.compute_amax()
            with pytest.raises(ValueError, match="amax shape changed"):
                calibrator.collect(batch)
            np.testing.assert_array_equal(calibrator.compute_amax(), before)
            continue
        calibrator.collect(batch)
        amax = calibrator.compute_amax()
        recorded = arrays[step["amax_after"]]
        assert amax.shape == recorded.shape
        np.testing.assert_array_equal(amax, recorded)

    if "amaxs" in case:
        assert len(calibrator.amaxs) == len(case["amaxs"])
        keys = [case["steps"][0]["amax_after"], *case["amaxs"][1:]]
        for mine, key in zip(calibrator.amaxs, keys, strict=True):
            np.testing.assert_array_equal(mine, arrays[key])
    else:
        with pytest.raises(AttributeError, match="amaxs"):
            calibrator.amaxs  # noqa: B018
    calibrator.reset()
    assert calibrator.compute_amax() is None
    assert case["amax_after_reset"] is None


# ---- histogram --------------------------------------------------------------------------------------------


def edges_of(calibrator: HistogramCalibrator) -> np.ndarray:
    histogram = calibrator.histogram()
    assert histogram is not None
    return histogram[1]


def check_range(mine: Any, request: dict[str, Any], arrays: Any, edges: np.ndarray, width: float) -> None:
    recorded = arrays[request["amax"]]
    assert mine.dtype == np.float32
    assert mine.shape == ()
    if request["method"] == "percentile":
        np.testing.assert_allclose(mine, recorded, rtol=1e-6)
        assert mine in edges
        return
    candidates = edges if request["method"] == "entropy" else (edges[1:] + edges[:-1]) / np.float32(2)
    assert mine in candidates
    assert abs(float(mine) - float(recorded)) <= width * 1e-3, "another bin"


@pytest.mark.parametrize("case", HISTOGRAM_CASES, ids=ids(HISTOGRAM_CASES))
def test_histogram(case: dict[str, Any], arrays: Any) -> None:
    params = decode(case["params"])
    calibrator = HistogramCalibrator(**params)
    seen = []
    for step in case["steps"]:
        batch = arrays[step["batch"]]
        seen.append(np.abs(batch[batch != 0] if params["skip_zeros"] else batch).ravel())
        calibrator.collect(batch)
        counts, edges = calibrator.histogram()
        if "error" in step:
            assert case["id"] in ZERO_FIRST_HANDLED
            assert counts.sum() == sum(map(len, seen))
            return
        recorded = arrays[step["hist_after"]].astype(np.int64)
        if step is case["steps"][-1] and any(
            request.get("stored_histogram_was_modified") for request in case["compute_amax"]
        ):
            assert recorded[0] == recorded[1]
            recorded[0] = np.histogram(np.concatenate(seen), arrays[step["edges_after"]][:3])[0][0]
        np.testing.assert_array_equal(counts, recorded)
        np.testing.assert_allclose(edges, arrays[step["edges_after"]], rtol=1e-6)
        assert calibrator.num_bins == len(arrays[step["hist_after"]])

    before = calibrator.state_dict()
    for request in case["compute_amax"]:
        method, kwargs = request["method"], request["kwargs"]
        if "error" in request:
            expected = {"ValueError": ValueError, "TypeError": TypeError}[request["error"]["exception"]]
            with pytest.raises(expected) as caught:
                calibrator.compute_amax(method, **kwargs)
            if request["error"]["raised_by"] == "toolkit":
                assert str(caught.value) == request["error"]["message"]
        elif request["amax"] is None:
            assert calibrator.compute_amax(method, **kwargs) is None
        else:
            mine = calibrator.compute_amax(method, **kwargs)
            check_range(mine, request, arrays, edges_of(calibrator), case["bin_width"])
    after = calibrator.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)

    calibrator.reset()
    assert calibrator.histogram() is None
    assert calibrator.num_bins == params["num_bins"]


@pytest.mark.parametrize("case", GOLDEN["constructor_errors"], ids=lambda case: case["call"])
def test_constructor_error(case: dict[str, Any]) -> None:
    expected = {"NotImplementedError": NotImplementedError, "TypeError": TypeError}
    with pytest.raises(expected[case["error"]["exception"]]) as caught:
        HistogramCalibrator(*decode(case["args"]), **case["kwargs"])
    assert str(caught.value) == case["error"]["message"]


# ---- weights ----------------------------------------------------------------------------------------------


class Weighted(Module):
    """A convolution as far as `calibrate_weights` is concerned."""

    def __init__(self, weight: np.ndarray, channel_axis: int) -> None:
        super().__init__()
        self.weight = weight
        self.channel_axis = channel_axis
        self.weight_quantizer = TensorQuantizer(QuantDescriptor(axis=channel_axis))


def network(arrays: Any) -> tuple[Module, SimpleNamespace]:
    prefix = GOLDEN["calibrate_weights"]["weights_prefix"]
    weights = {
        name.removeprefix(prefix).removesuffix(".weight"): value
        for name, value in arrays.items()
        if name.startswith(prefix) and name.endswith(".weight")
    }

    def linear(name: str, **kwargs: Any) -> QuantLinear:
        rows, columns = weights[name].shape
        module = QuantLinear(columns, rows, **kwargs)
        module.weight = weights[name]
        return module

    parts = SimpleNamespace(
        fc1=linear("fc1"),
        fc2=linear("fc2", quant_desc_weight=QuantDescriptor(num_bits=4, axis=(0,))),
        conv=Weighted(weights["conv"], 0),
        deconv=Weighted(weights["deconv"], 1),
    )
    model = Module()
    for name, module in vars(parts).items():
        model.add_module(name, module)
    plain = Module()
    plain.weight = weights["fc1"]  # no weight_quantizer: left alone
    model.add_module("plain", plain)
    return model, parts


@pytest.mark.parametrize("number", range(len(GOLDEN["calibrate_weights"]["cases"])))
def test_calibrate_weights(number: int, arrays: Any) -> None:
    case = GOLDEN["calibrate_weights"]["cases"][number]
    method, perchannel, kwargs = case["method"], case["perchannel"], case["kwargs"]
    model, parts = network(arrays)

    if method not in ("max", "mse", "percentile"):
        with pytest.raises(TypeError) as caught:
            calibrate_weights(model, method, perchannel, **kwargs)
        assert str(caught.value) == case["error"]["message"]
        assert all(module.weight_quantizer.amax is None for module in vars(parts).values())
        return
    calibrate_weights(model, method, perchannel, **kwargs)

    for name, module in vars(parts).items():
        amax = module.weight_quantizer.amax
        if not perchannel and (method == "max" or "num_bins" in kwargs):  # 8 #20
            if method == "max":
                expected: Any = np.abs(module.weight).max()
            else:
                quantizer = module.weight_quantizer
                calibrator = HistogramCalibrator(
                    quantizer.num_bits, None, quantizer.unsigned, num_bins=kwargs["num_bins"]
                )
                calibrator.collect(module.weight)
                options = {key: value for key, value in kwargs.items() if key != "num_bins"}
                expected = calibrator.compute_amax(method, **options)
            np.testing.assert_array_equal(amax, expected)
            continue
        recorded = arrays[case["amax"][name]]
        assert amax.shape == recorded.shape
        if method == "max":
            np.testing.assert_array_equal(amax, recorded)
        else:
            np.testing.assert_allclose(amax, recorded, rtol=1e-6)


def test_every_call_of_calibrate_weights_was_recorded() -> None:
    if not GOLDEN["calibrate_weights"]["cases"]:
        pytest.skip(f"missing data: {FOLDER}")
    assert len(GOLDEN["calibrate_weights"]["cases"]) == 18

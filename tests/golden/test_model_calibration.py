# SPDX-License-Identifier: Apache-2.0
"""Calibration of whole models against the ranges that the original found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from golden_models import FAMILIES, arrays_of, batch_of, build_family, manifest, original_defaults

from golden_models import FOLDER, quantizers, read_weights  # isort: skip

import qdqbert

pytestmark = pytest.mark.shared
# The pruned model was calibrated before it was pruned.
CALIBRATED = [name for name in FAMILIES if name != "base_pruned"]


@pytest.fixture(autouse=True)
def recorded_defaults() -> Iterator[None]:
    with original_defaults():
        yield


def recorded_amax(names: list[str]) -> dict[str, np.ndarray]:
    state = {key: value for name in names for key, value in read_weights(FOLDER / name).items()}
    return {key.removesuffix("._amax"): value for key, value in state.items() if key.endswith("._amax")}


@pytest.mark.parametrize("family", CALIBRATED)
def test_max_calibration_by_the_recipe_finds_the_recorded_ranges(family: str, shared: object) -> None:
    if not manifest()["models"]:
        pytest.skip(f"missing data: {FOLDER}")
    facts = manifest()["models"][family]
    model, arrays = build_family(family), arrays_of(facts["arrays"])

    for _, quantizer in quantizers(model):
        quantizer.enable_calib()
        quantizer.disable_quant()
    for batch in facts["calibration_batches"]:
        model(**batch_of(arrays, batch))
    for _, quantizer in quantizers(model):
        quantizer.load_calib_amax()
        quantizer.disable_calib()
        quantizer.enable_quant()

    expected = recorded_amax(facts["weights_calibrated"])
    assert expected.keys() == {name for name, _ in quantizers(model)}
    for name, quantizer in quantizers(model):
        # Activations carry the float rounding of everything before them (4.9e-7 between versions of the
        # original).
        rtol = 0 if name.endswith("_weight_quantizer") else 1e-5
        np.testing.assert_allclose(quantizer.amax, expected[name], rtol=rtol, err_msg=name)
        assert quantizer.amax.shape == expected[name].shape, name


@pytest.mark.parametrize("family", CALIBRATED)
def test_the_short_form_is_the_recipe(family: str) -> None:
    if not manifest()["models"]:
        pytest.skip(f"missing data: {FOLDER}")
    facts = manifest()["models"][family]
    model, arrays = build_family(family), arrays_of(facts["arrays"])
    qdqbert.calibrate(model, [batch_of(arrays, keys) for keys in facts["calibration_batches"]], method="max")
    expected = recorded_amax(facts["weights_calibrated"])
    for name, quantizer in quantizers(model):
        rtol = 0 if name.endswith("_weight_quantizer") else 1e-5
        np.testing.assert_allclose(quantizer.amax, expected[name], rtol=rtol, err_msg=name)


def histogram_facts() -> dict[str, object]:
    facts = manifest()["extras"].get("histogram_calibration")
    if facts is None:
        pytest.skip(f"missing data: {FOLDER}")
    return facts


def test_one_pass_of_histograms_gives_every_recorded_choice() -> None:
    facts = histogram_facts()
    model, arrays = build_family("qa"), arrays_of(facts["arrays"])
    calibration = qdqbert.Calibration(model)
    calibration.collect([batch_of(arrays, keys) for keys in facts["batches"]])

    for result in facts["results"]:
        calibration.apply(result["method"], **result["kwargs"])
        expected = recorded_amax([result["file"]])
        for name, quantizer in quantizers(model):
            # The same edge or center: edges agree to the rounding of the largest magnitudes they are laid
            # from.
            np.testing.assert_allclose(
                quantizer.amax, expected[name], rtol=1e-5, err_msg=f"{result['name']}: {name}"
            )


def test_histograms_have_the_recorded_counts_up_to_ties() -> None:
    facts = histogram_facts()
    model, arrays = build_family("qa"), arrays_of(facts["arrays"])
    calibration = qdqbert.Calibration(model)
    calibration.collect([batch_of(arrays, keys) for keys in facts["batches"]])
    stored = sorted({key.split("/")[1] for key in arrays.files if key.startswith("hist/")})
    assert stored
    for name in stored:
        counts, edges = calibration._calibrators[name].histogram()
        np.testing.assert_allclose(edges, arrays[f"hist/{name}/edges"], rtol=1e-5, err_msg=name)
        expected = arrays[f"hist/{name}/counts"]
        assert counts.shape == expected.shape
        assert counts.sum() == expected.sum()
        # An activation that differs in its last bits may cross into the neighbouring bin, so compare the
        # cumulative counts: with 2,048 bins and relative differences below 1e-5 less than one element in
        # fifty can cross.
        moved = np.abs(np.cumsum(counts) - np.cumsum(expected)).max()
        assert moved <= counts.sum() / 50, name


def test_dynamic_ranges_are_the_recorded_ones() -> None:
    if not manifest()["models"]:
        pytest.skip(f"missing data: {FOLDER}")
    facts = manifest()["models"]["qa"]
    arrays = arrays_of(facts["arrays"])
    case = next(case for case in manifest()["cases"] if case["id"] == "qa/dynamic")
    model = build_family("qa")
    for _, quantizer in quantizers(model):  # collecting while quantizing: the ranges that the forward uses
        quantizer.enable_calib()
    model(**batch_of(arrays, case["inputs"]))
    assert facts["dynamic_amax"].keys() <= {name for name, _ in quantizers(model)}
    for name, quantizer in quantizers(model):
        if name not in facts["dynamic_amax"]:
            continue
        quantizer.load_calib_amax()
        expected = arrays[facts["dynamic_amax"][name]]
        np.testing.assert_allclose(quantizer.amax.reshape(expected.shape), expected, rtol=1e-5, err_msg=name)

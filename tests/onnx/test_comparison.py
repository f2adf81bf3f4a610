# SPDX-License-Identifier: Apache-2.0
"""`compare_with_onnxruntime`: what is compared, and from where on a difference is one.

The runtime is ONNX's reference evaluator behind onnxruntime's interface.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import CLASSES, calibrated

import qdqbert
import reference_onnxruntime
from qdqbert import nn
from qdqbert.onnx.comparison import OutputDifference, compare_with_onnxruntime


@pytest.fixture(autouse=True)
def _session(monkeypatch: pytest.MonkeyPatch) -> None:
    reference_onnxruntime.put_in_place(monkeypatch)


def all_off(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.TensorQuantizer):
            module.disable()
    return model


@pytest.mark.parametrize("kind", CLASSES)
def test_a_float_file_is_the_model(tmp_path: Path, kind: str) -> None:
    model = all_off(calibrated(kind))
    [path] = qdqbert.onnx.export(model, tmp_path / "model.onnx")

    found = compare_with_onnxruntime(model, path, batches=1)

    assert found
    for each in found:
        assert each.effect == 0.0
        assert 0.0 < each.mean <= each.largest < 2e-5
        assert each.spread <= each.magnitude
        assert not each.is_far(1e-4)
        assert each.is_far(0.0)


def test_what_quantizing_changes_is_told(tmp_path: Path) -> None:
    model = calibrated("question")
    [path] = qdqbert.onnx.export(model, tmp_path / "model.onnx")

    found = compare_with_onnxruntime(model, path, batches=2)

    assert [each.name for each in found] == ["output_start_logits", "output_end_logits"]
    for each in found:
        assert each.elements == 2 * 4 * 23
        assert 0.005 < each.effect < 0.5 * each.spread
        assert not each.is_far()


def test_the_file_of_another_model_is_far(tmp_path: Path) -> None:
    [path] = qdqbert.onnx.export(calibrated("question", 3), tmp_path / "model.onnx")

    assert all(each.is_far() for each in compare_with_onnxruntime(calibrated("question"), path, batches=1))


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = calibrated("question")
    [path] = qdqbert.onnx.export(model, tmp_path / "model.onnx")
    model.padding = "skip"
    model.train()
    stages = [quantizer.stages for _, quantizer in model._core_quantizers()]

    compare_with_onnxruntime(model, path, batches=1)

    assert (model.padding, model.training) == ("skip", True)
    assert [quantizer.stages for _, quantizer in model._core_quantizers()] == stages


@pytest.mark.parametrize(
    ("mean", "effect", "tolerance", "is_far"),
    [
        (0.05, 0.0, None, False),
        (0.051, 0.0, None, True),
        (0.25, 1.0, None, False),
        (0.251, 1.0, None, True),
        (0.25, 1.0, 0.1, True),
        (0.09, 0.0, 0.1, False),
        (np.nan, 1.0, None, True),
        (np.nan, 1.0, 0.1, True),
    ],
)
def test_a_difference_is_far_beyond_rounding_and_the_noise_of_codes(
    mean: float, effect: float, tolerance: float | None, is_far: bool
) -> None:
    assert OutputDifference("logits", 9, 1.0, 1.0, mean, 1.0, effect).is_far(tolerance) == is_far

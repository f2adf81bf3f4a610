# SPDX-License-Identifier: Apache-2.0
"""What a file says of its model is what its document says, computed here anew."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import batch, build, calibrated

import qdqbert
from graph_runs import exported, tensors_of
from qdqbert import nn
from qdqbert.onnx import from_onnx


def properties(proto: onnx.ModelProto) -> dict[str, str]:
    return {each.key.removeprefix("qdqbert."): each.value for each in proto.metadata_props}


def test_facts_are_those_of_the_model_and_the_call() -> None:
    found = properties(exported(calibrated("token"), weights="int8", precision="bf16"))

    assert found["version"] == qdqbert.__version__
    assert found["class"] == "QDQBertForTokenClassification"
    assert (found["weights"], found["precision"]) == ("int8", "bf16")
    assert json.loads(found["config"])["hidden_size"] == 20


def test_the_digest_is_over_names_and_elements_in_order() -> None:
    model = calibrated("question")
    whole = b"".join(
        name.encode() + b"\0" + np.asarray(value, "<f4").tobytes()
        for name, value in sorted(model.state_dict().items())
        if not name.endswith("_amax")
    )

    assert properties(exported(model))["checkpoint_sha256"] == hashlib.sha256(whole).hexdigest()


def test_scales_are_float32_in_every_precision() -> None:
    model = calibrated("question")
    whole, half = (tensors_of(exported(model, precision=each)) for each in ("fp32", "fp16"))

    scales = [name for name in whole if name.endswith(".scale")]
    assert len(scales) == 60
    assert all(whole[name].tobytes() == half[name].tobytes() for name in scales)


# ---- how it was calibrated ---------------------------------------------------------------------------------


def all_quantizers(model: Any) -> dict[str, nn.TensorQuantizer]:
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.TensorQuantizer)}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "percentile 99.99; weights max"),
        ({"percentile": 99.9, "weights": "mse"}, "percentile 99.9; weights mse"),
        ({"method": "max", "weights": "percentile"}, "max; weights percentile 99.99"),
        ({"method": "entropy"}, "entropy; weights max"),
    ],
)
def test_the_method_is_the_one_that_chose_the_ranges(options: dict[str, Any], text: str) -> None:
    model = build("question", 3)
    qdqbert.calibrate(model, [batch("question", seed=1)], **options)

    assert properties(exported(model))["calibration"] == text


def test_a_search_is_called_one() -> None:
    model = build("question", 3)
    calibration = qdqbert.calibrate(model, [batch("question", seed=1)])

    calibration.search([batch("question", seed=1)], methods=["max", "mse"], sites=0)

    assert properties(exported(model))["calibration"] == "search; weights max"


@pytest.mark.parametrize("again", ["saved", "exported", "copied"])
def test_the_method_goes_with_the_model(tmp_path: Path, again: str) -> None:
    import copy

    model = calibrated("question", method="mse")
    if again == "saved":
        model.save_pretrained(tmp_path)
        read: Any = qdqbert.QDQBertForQuestionAnswering.from_pretrained(tmp_path)
        base = qdqbert.QDQBertModel.from_pretrained(tmp_path, add_pooling_layer=False)
        assert properties(exported(base))["calibration"] == "mse; weights max"
    elif again == "exported":
        [path] = qdqbert.onnx.export(model, tmp_path / "model.onnx")
        read = from_onnx(path)
    else:
        read = copy.deepcopy(model)

    assert properties(exported(read))["calibration"] == "mse; weights max"


def change_range(model: Any) -> None:
    quantizer = all_quantizers(model)["bert.encoder.layer.1.intermediate.dense._input_quantizer"]
    quantizer.amax = quantizer.amax * np.float32(1.001)


@pytest.mark.parametrize("change", [change_range, lambda model: model.prune_heads({1: [2]})])
def test_a_range_that_is_another_since_is_of_no_method(tmp_path: Path, change: Any) -> None:
    model = calibrated("question")
    change(model)

    assert "calibration" not in properties(exported(model))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "calibration" not in config["qdqbert_quantization"]


def test_ranges_that_are_loaded_one_by_one_are_of_no_method() -> None:
    model = build("question", 3)
    for quantizer in all_quantizers(model).values():
        quantizer.amax = np.full(() if quantizer.axis is None else (1, 1), 2.0, np.float32)

    assert "calibration" not in properties(exported(model))


def test_a_quantizer_that_is_off_and_has_an_older_range_leaves_the_method_open() -> None:
    model = calibrated("question")
    all_quantizers(model)["bert.encoder.layer.1.intermediate.dense._input_quantizer"].disable()

    qdqbert.calibrate(model, [batch("question", seed=1)], method="mse")

    assert "calibration" not in properties(exported(model))


@pytest.mark.parametrize("value", [7, {}, {"activations": "max"}, {"activations": 1, "weights": "max"}])
def test_a_note_of_another_form_is_refused(tmp_path: Path, value: Any) -> None:
    calibrated("question").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["qdqbert_quantization"]["calibration"] = value
    path.write_text(json.dumps(config))

    with pytest.raises(
        qdqbert.CheckpointError, match=r"qdqbert_quantization\.calibration: expected activations"
    ):
        qdqbert.QDQBertForQuestionAnswering.from_pretrained(tmp_path)

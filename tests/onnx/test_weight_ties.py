# SPDX-License-Identifier: Apache-2.0
"""Weights that were stored in float16 lie on ties; their codes are the model's all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import batch, calibrated
from ties import ROUNDING, differences_of

import qdqbert
from graph_runs import check, evaluate, exported, quantize_nodes, tensors_of
from qdqbert import nn
from qdqbert.onnx import from_onnx

LAYER = "bert.encoder.layer.1.intermediate.dense"


def on_ties(model: Any, bound: int = 127) -> Any:
    """The same with rows whose elements are (k + 1/2) / 1024 times small integers: float16, and all ties."""
    rng = np.random.default_rng(5)
    for name, module in model.named_modules():
        if isinstance(module, nn.QuantLinear):
            rows, columns = module.weight.shape
            factors = rng.choice([3, 5, 7, 9, 11, 13], (rows, 1))
            codes = rng.integers(-bound, bound, (rows, columns)) + 0.5
            codes[:, 0] = bound
            weight = (codes * factors / 1024).astype(np.float32)
            assert np.array_equal(weight, weight.astype(np.float16)) or bound > 100, name
            module.weight = weight
            module.weight_quantizer.amax = np.abs(weight).max(axis=1, keepdims=True)
    return model


def plain_codes(weight: np.ndarray, amax: np.ndarray, bound: int) -> np.ndarray:
    """What ONNX gives of a weight as it is."""
    return np.clip(np.rint(weight / (amax / np.float32(bound))), -bound - 1, bound)


def written(proto: onnx.ModelProto, name: str) -> np.ndarray:
    """A weight as the file has it, in the order of the model."""
    return np.asarray(tensors_of(proto)[f"{name}.weight_transposed"].T)


@pytest.mark.parametrize(("bits", "bound"), [(8, 127), (4, 7)])
@pytest.mark.parametrize("narrow", [False, True])
def test_codes_of_the_graph_are_those_of_the_model(bits: int, bound: int, narrow: bool) -> None:
    model = calibrated("question")
    for module in model.modules():
        if isinstance(module, nn.QuantLinear):
            module.weight_quantizer.num_bits = bits
            module.weight_quantizer.narrow_range = narrow
    on_ties(model, bound)

    proto = exported(model, opset=21)

    check(proto)
    coded = tensors_of(exported(model, opset=21, weights="int8"))
    nodes = quantize_nodes(proto)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.QuantLinear)]
    outputs = {name: nodes[f"{name}._weight_quantizer"].output[0] for name in names}
    values = evaluate(proto, batch("question"), list(outputs.values()))
    differing = 0
    for name, output in outputs.items():
        codes = coded[f"{name}.weight_codes"].astype(np.int8)
        assert np.array_equal(values[output].astype(np.int8), codes), name
        linear = model.get_submodule(name)
        theirs = plain_codes(np.asarray(linear.weight), np.asarray(linear.weight_quantizer.amax), bound)
        differing += int((theirs != codes.T).sum())
    assert differing > 100  # without the moves


def test_only_what_differs_is_moved_and_by_an_ulp_or_two() -> None:
    model = on_ties(calibrated("question"))

    found = written(exported(model), LAYER)

    linear = model.get_submodule(LAYER)
    weight, amax = np.asarray(linear.weight), np.asarray(linear.weight_quantizer.amax)
    codes = tensors_of(exported(model, weights="int8"))[f"{LAYER}.weight_codes"].T
    assert np.array_equal(found != weight, plain_codes(weight, amax, 127) != codes)
    assert np.abs(found.view(np.int32) - weight.view(np.int32)).max() in (1, 2)


def test_outputs_are_those_of_the_model() -> None:
    model = on_ties(calibrated("question"))

    assert differences_of("question", model, exported(model)) < 4 * ROUNDING  # weights are of order 1


def test_the_model_comes_back_to_the_bit(tmp_path: Path) -> None:
    model = on_ties(calibrated("question"))
    [path] = qdqbert.onnx.export(model, tmp_path / "model.onnx")
    [ties] = [each.value for each in onnx.load(path).metadata_props if each.key == "qdqbert.ties"]

    read = from_onnx(path)

    assert json.loads(ties).keys() <= {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict().items():
        assert read.state_dict()[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("options", [{"weights": "int8"}, {"precision": "fp16"}, {"precision": "bf16"}])
def test_codes_and_halves_are_not_moved(options: dict[str, Any]) -> None:
    proto = exported(on_ties(calibrated("question")), **options)

    assert "qdqbert.ties" not in {each.key for each in proto.metadata_props}


def test_a_model_without_ties_says_nothing_of_them() -> None:
    model = calibrated("question")

    proto = exported(model)

    assert "qdqbert.ties" not in {each.key for each in proto.metadata_props}
    linear = model.get_submodule(LAYER)
    assert np.array_equal(written(proto, LAYER), linear.weight)

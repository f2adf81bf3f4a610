# SPDX-License-Identifier: Apache-2.0
"""Every class as a graph, in every opset and with both forms of weights, against the model itself.

Models and batches are chosen so that no quotient at any quantizer is nearer than `ties.MARGIN` steps to a
tie, which each test checks of the numbers that it meets; so every code is the model's, and outputs differ by
rounding alone (`rounding`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import CLASSES, batch, calibrated, outputs_of
from rounding import bounds_of
from ties import MARGIN, quantized_inputs, tie_margin

from graph_runs import check, evaluate, exported
from qdqbert.onnx.opsets import newest_opset

OPSETS = sorted({13, 17, 20, 23, newest_opset()})


def last_operands(proto: onnx.ModelProto) -> list[str]:
    """The two operands of the last residual add of the encoder, each behind its quantizer."""
    adds = [node for node in proto.graph.node if node.name.endswith("/output/Add")]
    last = adds[-1]
    assert all(each.endswith("DequantizeLinear_output_0") for each in last.input)
    return list(last.input)


def assert_agrees(kind: str, model: Any, proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> None:
    """Outputs are the model's within the bound of float rounding."""
    last = last_operands(proto)
    values = evaluate(proto, inputs, [*quantized_inputs(proto), *last])
    assert tie_margin(proto, values) > MARGIN, "a quotient is at a tie: choose another seed"
    expected = outputs_of(kind, model, inputs)
    bounds = bounds_of(kind, model, (values[last[0]], values[last[1]]))
    assert expected.keys() == bounds.keys()
    for name, value in expected.items():
        assert values[name].shape == value.shape
        assert (np.abs(values[name] - value) <= bounds[name]).all(), name
        assert bounds[name].max() < 5e-3  # the step of a code is 0.02 to 0.06 there


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Calibrated models, made once."""
    return {}


def model_of(models: dict[str, Any], kind: str) -> Any:
    if kind not in models:
        models[kind] = calibrated(kind)
    return models[kind]


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", CLASSES)
def test_the_graph_computes_the_model(models: dict[str, Any], kind: str, opset: int, weights: str) -> None:
    model = model_of(models, kind)

    proto = exported(model, opset=opset, weights=weights)

    check(proto)
    assert_agrees(kind, model, proto, batch(kind))


@pytest.mark.parametrize("kind", CLASSES)
def test_sizes_of_batch_and_text_are_free(models: dict[str, Any], kind: str) -> None:
    model = model_of(models, kind)
    proto = exported(model)

    for rows, length in ((1, 1), (2, 23)):
        inputs = batch(kind, rows, length, seed=rows)
        expected = outputs_of(kind, model, inputs)
        for name, value in evaluate(proto, inputs).items():
            assert value.shape == expected[name].shape

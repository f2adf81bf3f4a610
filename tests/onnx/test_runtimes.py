# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime and OpenVINO, where they are installed, compute what the model computes.

Both have int8 kernels that saturate on x86 CPUs without VNNI (16-bit sums of products of 8 bits), with which
logits are off by 1 or so; their exact paths are asked for by name.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import CLASSES, batch, calibrated, outputs_of
from ties import MARGIN, ROUNDING, quantized_inputs, tie_margin

import qdqbert
from graph_runs import exported, quantize_nodes, tensors_of, with_taps
from qdqbert import nn

pytestmark = pytest.mark.witness
OPSETS = (13, 17, 21, 23)


def run_onnxruntime(
    file: bytes | str, inputs: dict[str, np.ndarray], *, optimizes: bool = False
) -> dict[str, np.ndarray]:
    """All outputs; optimized with the exact int8 kernels, or node by node."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimizes else levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def run_openvino(file: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs, in float32 with the int8 values, without the fusions that saturate."""
    import openvino

    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    results = core.compile_model(core.read_model(file), "CPU", exact)(inputs)
    return {name: value for key, value in results.items() for name in key.get_names()}


RUNTIMES = {
    "onnxruntime": run_onnxruntime,
    "onnxruntime optimized": lambda file, inputs: run_onnxruntime(file, inputs, optimizes=True),
    "openvino": run_openvino,
}


def needs(package: str) -> pytest.MarkDecorator:
    """Skip before a model is made."""
    is_missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(is_missing, reason=f"missing package: {package}")


NEEDS = {name: needs(name.split()[0]) for name in RUNTIMES}
EACH_RUNTIME = [pytest.param(name, marks=mark) for name, mark in NEEDS.items()]


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_outputs_are_those_of_the_model(runtime: str, kind: str, opset: int, weights: str) -> None:
    model, inputs = calibrated(kind), batch(kind)

    proto = exported(model, opset=opset, weights=weights)

    values = RUNTIMES[runtime](proto.SerializeToString(), inputs)
    for name, value in outputs_of(kind, model, inputs).items():
        np.testing.assert_allclose(values[name], value, rtol=0, atol=ROUNDING, err_msg=name)


@needs("onnxruntime")
@pytest.mark.parametrize("optimizes", [False, True])
def test_every_tensor_has_the_codes_that_the_quantizer_gives(optimizes: bool) -> None:
    model = calibrated("question")
    proto, inputs = exported(model), batch("question")
    nodes = quantize_nodes(proto)
    names = [name for node in nodes.values() for name in (node.input[0], node.output[0])]
    constants = tensors_of(proto)
    tapped = with_taps(proto, [name for name in names if name not in constants])

    values = run_onnxruntime(tapped.SerializeToString(), inputs, optimizes=optimizes) | constants

    assert tie_margin(proto, values) > MARGIN
    quantizers = {n: m for n, m in model.named_modules() if isinstance(m, nn.TensorQuantizer)}
    for name, node in nodes.items():
        x, codes = values[node.input[0]], values[node.output[0]]
        if name.endswith("_weight_quantizer"):
            x, codes = x.T, codes.T
        quantizer = quantizers[name]
        expected = np.rint(quantizer(x) * (np.float32(127.0) / quantizer.amax))
        assert np.array_equal(codes, expected), name
    assert len(quantized_inputs(proto)) == 42


@needs("onnxruntime")
def test_a_file_in_two_parts_is_read(tmp_path: Path) -> None:
    model, inputs = calibrated("question"), batch("question")

    path, _ = qdqbert.onnx.export(model, tmp_path / "model.onnx", external_data=True, weights="int8")

    values = run_onnxruntime(str(path), inputs)
    for name, value in outputs_of("question", model, inputs).items():
        np.testing.assert_allclose(values[name], value, rtol=0, atol=ROUNDING)


@needs("onnxruntime")
@pytest.mark.parametrize("kind", ["causal", "decoder", "cross"])
def test_a_cache_may_be_empty_or_not(kind: str) -> None:
    model, inputs = calibrated(kind), batch(kind)
    proto = exported(model, use_cache=True)
    rows, file = len(inputs["input_ids"]), proto.SerializeToString()
    cache = {
        each.name: np.zeros((rows, 5, 0, 4), np.float32)
        for each in proto.graph.input
        if each.name.startswith("past")
    }

    first = run_onnxruntime(file, in_part(inputs, 0, 4) | cache)
    cache = {name: first[name.replace("past_key_values", "present")] for name in cache}
    second = run_onnxruntime(file, in_part(inputs, 4, 7) | cache)

    name = "last_hidden_state" if kind == "decoder" else "logits"
    found = np.concatenate([first[name], second[name]], axis=1)
    np.testing.assert_allclose(found, model(**inputs)[name], rtol=0, atol=ROUNDING)


def in_part(inputs: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    """Tokens from `start` to `end`, with the mask of all before."""
    part = {name: inputs[name][:, start:end] for name in ("input_ids", "token_type_ids")}
    return {**inputs, **part, "attention_mask": inputs["attention_mask"][:, :end]}


@needs("onnxruntime")
@pytest.mark.parametrize("positions", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_relative_positions(runtime: str, positions: str) -> None:
    model = calibrated("cross", position_embedding_type=positions, num_hidden_layers=1)
    proto = exported(model)
    for seed in range(60):
        inputs = batch("cross", 2, 5, seed=seed)
        tapped = with_taps(proto, quantized_inputs(proto))
        seen = run_onnxruntime(tapped.SerializeToString(), inputs) | inputs
        if tie_margin(proto, seen) > MARGIN:
            break

    values = RUNTIMES[runtime](proto.SerializeToString(), inputs)

    np.testing.assert_allclose(values["logits"], model(**inputs).logits, rtol=0, atol=ROUNDING)


def test_the_graph_names_the_oldest_format_that_a_runtime_needs() -> None:
    proto = exported(calibrated("question"))

    assert proto.ir_version == 8
    assert onnx.helper.find_min_ir_version_for(proto.opset_import) == 8


# bfloat16 is in OpenVINO's CPU device; onnxruntime has no products of it on CPUs.
HALVES = [
    ("fp16", "onnxruntime"),
    ("fp16", "onnxruntime optimized"),
    ("fp16", "openvino"),
    ("bf16", "openvino"),
]


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("precision", "runtime"), [pytest.param(*each, marks=NEEDS[each[1]]) for each in HALVES]
)
def test_half_precisions_run(precision: str, runtime: str, quantized: bool) -> None:
    """See test_precision.py for the bound; a code that moves by a step moves outputs by 0.02 or so."""
    model, inputs = calibrated("question"), batch("question")
    if not quantized:
        qdqbert.quantizers(model, {"*": "off"})
    proto = exported(model, precision=precision)

    values = RUNTIMES[runtime](proto.SerializeToString(), inputs)

    unit = {"fp16": 2.0**-11, "bf16": 2.0**-8}[precision]
    for name, value in outputs_of("question", model, inputs).items():
        bound = 18 * unit * max(1.0, np.abs(value).max()) + (0.1 if quantized else 0.0)
        assert values[name].dtype == np.float32
        np.testing.assert_allclose(values[name], value, rtol=0, atol=bound, err_msg=name)

# SPDX-License-Identifier: Apache-2.0
"""Half a precision: what is in it, what is not, and how far outputs are off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import CLASSES, batch, build, calibrated, outputs_of

import qdqbert
from graph_runs import check, evaluate, exported, quantize_nodes, tensors_of
from qdqbert import NonFiniteError, nn
from qdqbert.onnx.precision import bfloat16_bits

HALVES = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}
UNIT = {"fp16": 2.0**-11, "bf16": 2.0**-8}


def kinds_of(proto: onnx.ModelProto) -> dict[str, str]:
    """Element type of every tensor, inferred by the ``onnx`` package."""
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    found = {each.name: each.data_type for each in graph.initializer}
    for info in [*graph.value_info, *graph.input, *graph.output]:
        found[info.name] = info.type.tensor_type.elem_type
    return {name: onnx.TensorProto.DataType.Name(kind) for name, kind in found.items()}


def without_quantizers(kind: str) -> Any:
    model = build(kind, 5)
    for module in model.modules():
        if isinstance(module, nn.TensorQuantizer):
            module.disable()
    return model


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("opset", [13, 17, 21, 23])
@pytest.mark.parametrize("precision", HALVES)
def test_products_are_in_half_and_the_rest_is_not(precision: str, opset: int, weights: str) -> None:
    proto = exported(calibrated("question"), opset=opset, precision=precision, weights=weights)

    check(proto)
    kinds, half = kinds_of(proto), HALVES[precision]
    by_op: dict[str, set[str]] = {}
    for node in proto.graph.node:
        by_op.setdefault(node.op_type, set()).add(kinds[node.input[0]])
    assert by_op["MatMul"] == {half}
    for op in ("Softmax", "Erf" if opset < 20 else "Gelu", "QuantizeLinear"):
        assert by_op[op] == {"FLOAT"}
    assert by_op["LayerNormalization" if opset >= 17 else "Sqrt"] == {"FLOAT"}
    assert {kinds[each.name] for each in proto.graph.output} == {"FLOAT"}


@pytest.mark.parametrize("precision", HALVES)
def test_parameters_are_in_half_and_scales_are_not(precision: str) -> None:
    model = calibrated("question")
    proto = exported(model, precision=precision)

    kinds = {each.name: onnx.TensorProto.DataType.Name(each.data_type) for each in proto.graph.initializer}
    for name, _ in model.named_parameters():
        stored = next(each for each in (name, f"{name}_transposed") if each in kinds)
        assert kinds[stored] == ("FLOAT" if "LayerNorm" in name else HALVES[precision]), name
    assert {kind for name, kind in kinds.items() if name.endswith(".scale")} == {"FLOAT"}
    whole, small = (
        sum(each.ByteSize() for each in exported(model, precision=p).graph.initializer)
        for p in ("fp32", precision)
    )
    assert small < 0.72 * whole  # the rest are names and scales, which tiny layers have many of


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("kind", CLASSES)
def test_outputs_are_within_the_rounding_of_half(kind: str, precision: str) -> None:
    """Without codes, whose steps hide small errors and enlarge others.

    A product of operands that are rounded to half has an error of about UNIT of its magnitude; the three
    layers have six in a row each, whose errors LayerNorm keeps from growing but by its gain.
    """
    model = without_quantizers(kind)

    proto = exported(model, precision=precision)

    check(proto)
    inputs = batch(kind)
    values = evaluate(proto, inputs)
    for name, value in outputs_of(kind, model, inputs).items():
        error = np.abs(values[name] - value).max()
        assert UNIT[precision] / 32 < error < 18 * UNIT[precision] * max(1.0, np.abs(value).max())


@pytest.mark.parametrize("precision", HALVES)
def test_codes_of_weights_are_those_of_float32(precision: str) -> None:
    model = calibrated("question")

    half = tensors_of(exported(model, precision=precision, weights="int8"))
    whole = tensors_of(exported(model, weights="int8"))

    names = [name for name in whole if name.endswith(".weight_codes")]
    assert len(names) == 18
    assert all(np.array_equal(half[name], whole[name]) for name in names)


@pytest.mark.parametrize("precision", HALVES)
def test_the_codes_of_most_elements_are_those_of_float32(precision: str) -> None:
    model, inputs = calibrated("question"), batch("question")
    half, whole = exported(model, precision=precision), exported(model)
    outputs = {name: node.output[0] for name, node in quantize_nodes(whole).items()}

    mine, others = (evaluate(proto, inputs, list(outputs.values())) for proto in (half, whole))

    first = outputs["bert.encoder.layer.0.attention.self.query._input_quantizer"]
    off = np.abs(mine[first].astype(np.int64) - others[first])
    # Embeddings of order 1 are rounded to half, 127 UNIT of a step and its amplification by LayerNorm.
    assert off.max() <= {"fp16": 1, "bf16": 3}[precision]
    assert (off != 0).mean() < {"fp16": 0.1, "bf16": 0.5}[precision]


def test_what_is_not_seen_is_finite_in_every_precision() -> None:
    for precision, lowest in (("fp16", -65504.0), ("bf16", -3.3895313892515355e38)):
        proto = exported(calibrated("causal"), precision=precision)
        constants = [each for name, each in tensors_of(proto).items() if name.startswith("constant.")]
        floats = [float(each.min()) for each in constants if each.dtype == np.float32]
        assert min(floats) == lowest
        inputs = batch("causal")
        inputs["attention_mask"][1] = 0
        assert np.isfinite(evaluate(proto, inputs)["logits"]).all()


def test_a_parameter_beyond_float16_is_refused_by_name(tmp_path: Path) -> None:
    model = calibrated("question")
    linear = model.get_submodule("bert.encoder.layer.1.output.dense")
    bias = np.array(linear.bias)
    bias[3] = 65600.0
    linear.bias = bias
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    with pytest.raises(NonFiniteError, match=r"^bert\.encoder\.layer\.1\.output\.dense\.bias: 65600 "):
        qdqbert.onnx.export(model, path, precision="fp16")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    qdqbert.onnx.export(model, path, precision="bf16")


def test_bfloat16_rounds_to_the_nearest() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    ties = (np.arange(4096, dtype=np.uint32) * 0x10000 + 0x3F808000).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 3.4e38, 1e-45], np.float32)
    found = np.concatenate([values[~np.isnan(values)], ties, special])

    with np.errstate(all="ignore"):
        expected = found.astype(ml_dtypes.bfloat16).view(np.uint16)

    assert np.array_equal(bfloat16_bits(found), expected)
    assert np.isnan((bfloat16_bits(np.float32([np.nan])).astype(np.uint32) << 16).view(np.float32)).all()

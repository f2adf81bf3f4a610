# SPDX-License-Identifier: Apache-2.0
"""Quantizers with 4 exponent and 3 mantissa bits, in the standard's form and in TensorRT's."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx_models import SEEDS, batch, build, outputs_of

import qdqbert
from graph_runs import check, dequantize_nodes, evaluate, exported, quantize_nodes, tensors_of
from qdqbert import UnsupportedError, nn
from qdqbert.onnx.codes import float8_bytes, pack_nibbles

WEIGHT = "bert.encoder.layer.1.intermediate.dense._weight_quantizer"


@pytest.fixture
def model() -> Any:
    """Every quantizer in E4M3, one range per tensor."""
    made = build("question", SEEDS["question"])
    for module in made.modules():
        if isinstance(module, nn.TensorQuantizer):
            module.num_bits = (4, 3)
    qdqbert.calibrate(made, [batch("question", seed=1)], method="max")
    for name, module in made.named_modules():
        if name.endswith("_weight_quantizer"):
            largest = module.amax.max()
            del module._amax
            module._amax = largest
    return made


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("opset", [19, 21, 23])
def test_the_standard_form_computes_the_model(model: Any, opset: int, weights: str) -> None:
    proto = exported(model, opset=opset, weights=weights)

    check(proto)
    kinds = {each.name: each.data_type for each in proto.graph.initializer}
    for node in dequantize_nodes(proto).values():
        assert kinds[node.input[2]] == onnx.TensorProto.FLOAT8E4M3FN
    inputs = batch("question")
    values = evaluate(proto, inputs)
    # A mantissa of 3 bits makes steps of an 8th; the few ties that move a value move it by one of them.
    for name, value in outputs_of("question", model, inputs).items():
        assert np.abs(values[name] - value).max() < 0.05 * np.abs(value).max()
        assert np.median(np.abs(values[name] - value)) < 2e-5


def test_scales_are_amax_over_448(model: Any) -> None:
    proto = exported(model, opset=19)

    constants = tensors_of(proto)
    quantizers = {n: m for n, m in model.named_modules() if isinstance(m, nn.TensorQuantizer)}
    for name, node in quantize_nodes(proto).items():
        assert constants[node.input[1]] == np.asarray(quantizers[name].amax, np.float32) / np.float32(448.0)


def test_stored_codes_are_the_values_of_the_quantizer(model: Any) -> None:
    proto = exported(model, opset=19, weights="int8")

    constants = tensors_of(proto)
    for name, module in model.named_modules():
        if isinstance(module, nn.QuantLinear):
            codes = constants[f"{name}.weight_codes"]
            assert codes.dtype == ml_dtypes.float8_e4m3fn
            scale = module.weight_quantizer.amax / np.float32(448.0)
            expected = module.weight_quantizer(module.weight)
            np.testing.assert_allclose(
                codes.T.astype(np.float32) * scale, expected, rtol=4 * 2.0**-23, atol=0
            )


def test_float8_is_refused_before_opset_19_by_name(model: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"_quantizer: float8 needs opset 19, or TensorRT's own .* 18"):
        exported(model, opset=18)


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("opset", [13, 17, 19])
def test_tensorrt_has_operators_of_its_own(model: Any, opset: int, weights: str) -> None:
    proto = exported(model, opset=opset, weights=weights, float8="tensorrt")

    check(proto)
    assert {(each.domain, each.version) for each in proto.opset_import} == {("", opset), ("trt", 1)}
    ops = [(node.domain, node.op_type) for node in proto.graph.node if "FP8" in node.op_type]
    assert set(ops) == {("trt", "TRT_FP8QuantizeLinear"), ("trt", "TRT_FP8DequantizeLinear")}
    assert ops.count(("trt", "TRT_FP8DequantizeLinear")) == 60
    assert ops.count(("trt", "TRT_FP8QuantizeLinear")) == {"float": 60, "int8": 42}[weights]
    constants = tensors_of(proto)
    for node in proto.graph.node:
        if "FP8" in node.op_type:
            assert len(node.input) == 2
            assert constants[node.input[1]].shape == ()
    kinds = {each.name: each.type.tensor_type.elem_type for each in proto.graph.value_info}
    for node in proto.graph.node:
        if node.op_type == "TRT_FP8QuantizeLinear":
            assert kinds[node.output[0]] == onnx.TensorProto.UINT8
    if weights == "int8":
        standard = tensors_of(exported(model, opset=19, weights="int8"))
        for name, codes in constants.items():
            if name.endswith(".weight_codes"):
                assert np.array_equal(codes, standard[name].view(np.uint8))


def test_tensorrt_takes_one_scale_for_a_tensor(model: Any) -> None:
    quantizer = model.get_submodule(WEIGHT)
    del quantizer._amax
    quantizer._amax = np.full((37, 1), 0.5, np.float32)

    with pytest.raises(UnsupportedError, match=f"^{WEIGHT}: TensorRT's float8 .* one scale .* 37"):
        exported(model, float8="tensorrt")
    check(exported(model, opset=19))


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_a_range_of_zero_gives_zeros(model: Any, weights: str) -> None:
    quantizer = model.get_submodule(WEIGHT)
    quantizer.amax = np.float32(0.0)

    proto = exported(model, opset=19, weights=weights)

    node = dequantize_nodes(proto)[WEIGHT]
    values = evaluate(proto, batch("question"), [node.output[0]])[node.output[0]]
    assert not values.any()
    if weights == "int8":
        assert tensors_of(proto)[node.input[1]] == 1.0
        assert not tensors_of(proto)[node.input[0]].astype(np.float32).any()


def test_bits_are_those_of_the_format() -> None:
    bits = np.array([each for each in range(256) if each & 127 != 127], np.uint8)
    values = bits.view(ml_dtypes.float8_e4m3fn).astype(np.float32)

    assert np.array_equal(float8_bytes(values), bits)
    assert np.array_equal(float8_bytes(values * np.float32(1 + 2.0**-22)), bits)


def test_nibbles_are_packed_as_the_onnx_package_reads_them() -> None:
    codes = np.array([[-8, 7, 0], [1, -1, 5], [3, -3, 2]], np.int8)
    tensor = onnx.TensorProto(dims=codes.shape, data_type=onnx.TensorProto.INT4)

    tensor.raw_data = pack_nibbles(codes).tobytes()

    assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), codes)

# SPDX-License-Identifier: Apache-2.0
"""One quantizer as nodes: scales, axes, what is added and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import batch, calibrated
from ties import MARGIN, ROUNDING, differences_of

from graph_runs import check, dequantize_nodes, evaluate, exported, quantize_nodes, tensors_of
from qdqbert import StateError, UnsupportedError, nn
from qdqbert.onnx.layer_nodes import least_of_activation

LAYER = "bert.encoder.layer.1"
INPUT = f"{LAYER}.intermediate.dense._input_quantizer"
WEIGHT = f"{LAYER}.intermediate.dense._weight_quantizer"


def all_quantizers(model: Any) -> dict[str, nn.TensorQuantizer]:
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.TensorQuantizer)}


def ops_of(proto: onnx.ModelProto, path: str) -> list[str]:
    """Operators in the scope of a quantizer, in order."""
    scope = "/" + path.replace(".", "/").replace("layer/", "layer.")
    return [node.op_type for node in proto.graph.node if node.name.startswith(f"{scope}/")]


def differences(model: Any, proto: onnx.ModelProto, margin: float = MARGIN) -> float:
    """Largest difference of the outputs of graph and model, on the first batch that meets no tie."""
    return differences_of("question", model, proto, margin)


@pytest.fixture
def model() -> Any:
    return calibrated("question")


def test_scales_are_amax_over_the_bound_in_float32(model: Any) -> None:
    proto = exported(model)
    constants, nodes = tensors_of(proto), quantize_nodes(proto)

    quantizers = all_quantizers(model)
    assert nodes.keys() == quantizers.keys()
    assert len(nodes) == 60
    for name, node in nodes.items():
        expected = (np.asarray(quantizers[name].amax, np.float32) / np.float32(127.0)).ravel()
        assert np.array_equal(constants[node.input[1]].ravel(), expected)
        assert constants[node.input[1]].dtype == np.float32
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()


def test_one_scale_has_no_axis_and_rows_of_a_weight_have_axis_1(model: Any) -> None:
    proto = exported(model)

    for nodes in (quantize_nodes(proto), dequantize_nodes(proto)):
        assert len(nodes) == 60
        for name, node in nodes.items():
            attributes = {each.name: each.i for each in node.attribute}
            assert attributes == ({"axis": 1} if name.endswith("_weight_quantizer") else {})


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_nothing_stands_between_dequantized_weights_and_their_product(model: Any, weights: str) -> None:
    proto = exported(model, weights=weights)

    readers = {name: node for node in proto.graph.node for name in node.input}
    found = [node for name, node in dequantize_nodes(proto).items() if name.endswith("_weight_quantizer")]
    assert len(found) == 18
    for node in found:
        reader = readers[node.output[0]]
        assert (reader.op_type, list(reader.input).index(node.output[0])) == ("MatMul", 1)


def test_weights_as_codes_are_those_of_the_model(model: Any) -> None:
    proto = exported(model, weights="int8")
    constants = tensors_of(proto)

    for name, module in model.named_modules():
        if isinstance(module, nn.QuantLinear):
            codes = constants[f"{name}.weight_codes"]
            scale = np.float32(127.0) / module.weight_quantizer.amax
            assert codes.dtype == np.int8
            assert np.array_equal(codes.T.astype(np.float32) / scale, module.weight_quantizer(module.weight))
            assert f"{name}.weight_transposed" not in constants


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_quantizers_that_are_off_leave_no_trace(model: Any, weights: str) -> None:
    for quantizer in all_quantizers(model).values():
        quantizer.disable()

    proto = exported(model, weights=weights)

    assert not {node.op_type for node in proto.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert not [name for name in tensors_of(proto) if "quantizer" in name]
    assert differences(model, proto) < ROUNDING


@pytest.mark.parametrize("seed", range(6))
def test_any_subset_may_be_off(seed: int) -> None:
    model = calibrated("question")
    rng = np.random.default_rng(seed)
    quantizers = all_quantizers(model)
    off = {name for name in quantizers if rng.random() < 0.4}
    for name in off:
        quantizers[name].disable()

    proto = exported(model)

    check(proto)
    assert quantize_nodes(proto).keys() == quantizers.keys() - off
    assert differences(model, proto) < ROUNDING


@pytest.mark.parametrize("name", [INPUT, WEIGHT, f"{LAYER}.attention.self.matmul_v_input_quantizer"])
def test_a_range_that_depends_on_the_batch_is_refused_by_name(model: Any, name: str) -> None:
    del all_quantizers(model)[name]._amax

    with pytest.raises(StateError, match=f"^{name}: has no range yet"):
        exported(model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_range_that_is_not_finite_is_refused_by_name(model: Any, value: float) -> None:
    all_quantizers(model)[INPUT].amax = np.float32(value)

    with pytest.raises(StateError, match=f"^{INPUT}: amax is {value}"):
        exported(model)


def test_a_refused_model_touches_no_file(model: Any, tmp_path: Any) -> None:
    import qdqbert

    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    del all_quantizers(model)[INPUT]._amax

    with pytest.raises(StateError):
        qdqbert.onnx.export(model, path)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# ---- narrow range ------------------------------------------------------------------------------------------


def make_narrow(model: Any) -> None:
    for quantizer in all_quantizers(model).values():
        quantizer.narrow_range = True


def test_a_narrow_range_has_a_floor_only_where_a_code_of_minus_128_could_be(model: Any) -> None:
    make_narrow(model)

    proto = exported(model)

    with_floor = {name for name in quantize_nodes(proto) if ops_of(proto, name)[0] == "Clip"}
    without = {name for name in quantize_nodes(proto) if ops_of(proto, name)[0] == "QuantizeLinear"}
    assert with_floor | without == quantize_nodes(proto).keys()
    places = {name.split(".layer.")[1].partition(".")[2] for name in without}
    # Weights, whose largest element is their range; probabilities; and GELU, which ends at -0.17.
    assert {place for place in places if not place.endswith("_weight_quantizer")} == {
        "attention.self.matmul_a_input_quantizer",
        "output.dense._input_quantizer",
    }
    assert sum(name.endswith("_weight_quantizer") for name in without) == 18


@pytest.mark.parametrize(("quotient", "needs"), [(127.4, False), (127.6, True), (128.2, True), (300.0, True)])
def test_a_floor_stands_where_the_least_value_could_round_below(
    model: Any, quotient: float, needs: bool
) -> None:
    make_narrow(model)
    gelu = f"{LAYER}.output.dense._input_quantizer"
    all_quantizers(model)[gelu].amax = np.float32(-least_of_activation("gelu") * 127.0 / quotient)
    linear = model.get_submodule(f"{LAYER}.intermediate.dense")
    least = np.asarray(linear.weight)[3].min()
    amax = np.array(all_quantizers(model)[WEIGHT].amax)
    amax[3] = -least * np.float32(127.0 / quotient)
    all_quantizers(model)[WEIGHT].amax = amax

    proto = exported(model)

    assert (ops_of(proto, gelu)[0] == "Clip") == needs
    assert (ops_of(proto, WEIGHT)[0] == "Max") == needs


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_narrow_codes_end_at_minus_127(model: Any, weights: str) -> None:
    make_narrow(model)
    quantizers = all_quantizers(model)
    # Ranges of half the size, so that everything saturates.
    for quantizer in quantizers.values():
        quantizer.amax = quantizer.amax * np.float32(0.5)

    proto = exported(model, weights=weights)

    names = {name: node.output[0] for name, node in quantize_nodes(proto).items()}
    values = evaluate(proto, batch("question"), list(names.values()))
    least = {name: int(values[output].min()) for name, output in names.items()}
    assert min(least.values()) == -127
    assert sum(each == -127 for each in least.values()) > 20
    if weights == "int8":
        codes = [each for name, each in tensors_of(proto).items() if name.endswith("weight_codes")]
        assert {int(each.min()) for each in codes} == {-127}
    else:
        assert ops_of(proto, WEIGHT) == ["Max", "QuantizeLinear", "DequantizeLinear"]


def test_full_ranges_reach_minus_128_as_the_model_does(model: Any) -> None:
    for quantizer in all_quantizers(model).values():
        quantizer.amax = quantizer.amax * np.float32(0.5)

    proto = exported(model)

    node = quantize_nodes(proto)[WEIGHT]
    codes = evaluate(proto, batch("question"), [node.output[0]])[node.output[0]]
    assert codes.min() == -128
    assert np.array_equal(
        codes, tensors_of(exported(model, weights="int8"))[f"{LAYER}.intermediate.dense.weight_codes"]
    )


# ---- dead ranges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_a_dead_row_of_a_weight_gives_zeros(model: Any, weights: str, size: float) -> None:
    linear = model.get_submodule(f"{LAYER}.intermediate.dense")
    weight = np.array(linear.weight)
    weight[3] *= size  # also beyond what a scale of 1 would send to code 0
    linear.weight = weight
    amax = np.array(linear.weight_quantizer.amax)
    amax[3] = 2.0**-24
    linear.weight_quantizer.amax = amax

    proto = exported(model, weights=weights)

    check(proto)
    node = dequantize_nodes(proto)[WEIGHT]
    values = evaluate(proto, batch("question"), [node.output[0]])[node.output[0]]
    assert not values[:, 3].any()
    assert values[:, 2].any()
    scale = tensors_of(proto)[node.input[1]][3]
    assert np.log2(scale) == int(np.log2(scale))
    if weights == "int8" or size == 1.0:
        assert scale == 1.0
    assert differences(model, proto) < ROUNDING


def test_a_dead_activation_gives_zeros(model: Any) -> None:
    all_quantizers(model)[INPUT].amax = np.float32(0.0)

    proto = exported(model)

    node = dequantize_nodes(proto)[INPUT]
    values = evaluate(proto, batch("question"), [node.output[0]])[node.output[0]]
    assert not values.any()
    assert tensors_of(proto)[node.input[1]] == 1.0
    assert differences(model, proto) < ROUNDING


# ---- number formats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 5, 7])
def test_bits_without_a_type_are_refused_by_name(model: Any, bits: int) -> None:
    all_quantizers(model)[INPUT].num_bits = bits

    with pytest.raises(
        UnsupportedError, match=f"^{INPUT}: ONNX has integers of 4, 8 and 16 bits, got num_bits={bits}"
    ):
        exported(model, opset=21)


@pytest.mark.parametrize("bits", [4, 16])
def test_bits_of_opset_21_are_refused_before_by_name(model: Any, bits: int) -> None:
    all_quantizers(model)[WEIGHT].num_bits = bits

    with pytest.raises(UnsupportedError, match=f"^{WEIGHT}: num_bits={bits} needs opset 21"):
        exported(model, opset=20)


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize(("bits", "kind"), [(4, "INT4"), (16, "INT16")])
def test_bits_of_opset_21_are_written(model: Any, bits: int, kind: str, weights: str) -> None:
    for quantizer in all_quantizers(model).values():
        quantizer.num_bits = bits

    proto = exported(model, opset=21, weights=weights)

    check(proto)
    zeros = {each.name: each.data_type for each in proto.graph.initializer}
    for node in quantize_nodes(proto).values():
        assert zeros[node.input[2]] == onnx.TensorProto.DataType.Value(kind)
    # Steps of 16 bits are as small as the rounding of what is quantized: codes move, by 256ths of a step.
    margin, limit = {4: (MARGIN, ROUNDING), 16: (0.0, 20 * ROUNDING)}[bits]
    assert differences(model, proto, margin=margin) < limit


def test_unsigned_codes_are_written_where_they_are_asked_for(model: Any) -> None:
    name = f"{LAYER}.attention.self.matmul_a_input_quantizer"
    all_quantizers(model)[name].unsigned = True

    proto = exported(model)

    check(proto)
    constants, node = tensors_of(proto), quantize_nodes(proto)[name]
    assert constants[node.input[2]].dtype == np.uint8
    assert constants[node.input[1]] == all_quantizers(model)[name].amax / np.float32(255.0)
    others = [each for key, each in quantize_nodes(proto).items() if key != name]
    assert {constants[each.input[2]].dtype for each in others} == {np.dtype(np.int8)}
    assert differences(model, proto) < ROUNDING


def test_an_unsigned_weight_with_negative_elements_is_refused_by_name(model: Any) -> None:
    all_quantizers(model)[WEIGHT].unsigned = True

    with pytest.raises(StateError, match=f"^{WEIGHT}: is unsigned, and the weight has negative elements"):
        exported(model)


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_quantized_weight_that_is_not_finite_is_refused_by_name(
    model: Any, value: float, weights: str
) -> None:
    linear = model.get_submodule(f"{LAYER}.intermediate.dense")
    weight = np.array(linear.weight)
    weight[5, 7] = value
    linear.weight = weight

    with pytest.raises(StateError, match=rf"^{LAYER}\.intermediate\.dense\.weight: has a NaN or an infinity"):
        exported(model, weights=weights)


# ---- ranges of other shapes --------------------------------------------------------------------------------


def test_ranges_along_the_last_axis_of_an_activation(model: Any) -> None:
    quantizer = all_quantizers(model)[INPUT]
    del quantizer._amax
    quantizer._amax = np.linspace(1.0, 4.0, 20, dtype=np.float32).reshape(1, 1, 20)

    proto = exported(model)

    check(proto)
    node = quantize_nodes(proto)[INPUT]
    assert [(each.name, each.i) for each in node.attribute] == [("axis", 2)]
    assert differences(model, proto) < ROUNDING


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize(("shape", "axis"), [((), None), ((1, 1), None), ((1, 20), 0), ((20,), 0)])
def test_ranges_of_a_weight_of_other_shapes(
    model: Any, shape: tuple[int, ...], axis: int | None, weights: str
) -> None:
    quantizer = all_quantizers(model)[WEIGHT]
    del quantizer._amax
    quantizer._amax = np.linspace(0.4, 0.6, int(np.prod(shape)), dtype=np.float32).reshape(shape)

    proto = exported(model, weights=weights)

    check(proto)
    node = dequantize_nodes(proto)[WEIGHT]
    assert [each.i for each in node.attribute] == ([] if axis is None else [axis])
    values = evaluate(proto, batch("question"), [node.output[0]])[node.output[0]]
    linear = model.get_submodule(f"{LAYER}.intermediate.dense")
    np.testing.assert_allclose(values.T, quantizer(linear.weight), rtol=3 * 2.0**-23, atol=0)


def test_a_range_along_two_axes_of_a_weight_is_refused_by_name(model: Any) -> None:
    quantizer = all_quantizers(model)[WEIGHT]
    del quantizer._amax
    quantizer._amax = np.ones((37, 20), np.float32)

    with pytest.raises(UnsupportedError, match=rf"^{WEIGHT}: .*one axis, got a range of shape \(37, 20\)"):
        exported(model)


def test_a_factor_on_the_range_counts(model: Any) -> None:
    quantizer = all_quantizers(model)[INPUT]
    quantizer._scale_amax = 0.75

    proto = exported(model)

    scale = tensors_of(proto)[quantize_nodes(proto)[INPUT].input[1]]
    assert scale == quantizer.amax * np.float32(0.75) / np.float32(127.0)
    assert differences(model, proto) < ROUNDING


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("name", [INPUT, WEIGHT])
def test_a_scale_before_quantization_multiplies(model: Any, name: str, weights: str) -> None:
    quantizer = all_quantizers(model)[name]
    quantizer.pre_quant_scale = np.linspace(0.5, 0.9, 20, dtype=np.float32)

    proto = exported(model, weights=weights)

    check(proto)
    assert differences(model, proto) < ROUNDING
    plain = calibrated("question")
    assert differences(plain, proto) > 100 * ROUNDING


def test_learned_ranges_clip_to_both_bounds() -> None:
    from onnx_models import SEEDS, build

    from qdqbert.tensor_quant import QuantDescriptor

    saved = nn.QuantLinear.default_quant_desc_input
    nn.QuantLinear.set_default_quant_desc_input(QuantDescriptor(num_bits=8, learn_amax=True, amax=2.0))
    try:
        model = build("question", SEEDS["question"])
    finally:
        nn.QuantLinear.set_default_quant_desc_input(saved)
    for name, quantizer in all_quantizers(model).items():
        if name.endswith("_weight_quantizer"):
            linear = model.get_submodule(name.removesuffix("._weight_quantizer"))
            quantizer.amax = np.abs(linear.weight).max(axis=1, keepdims=True)
    all_quantizers(model)[INPUT]._handle.set_clip(-1.5, 1.0)

    proto = exported(model)

    check(proto)
    assert ops_of(proto, INPUT) == ["Clip", "QuantizeLinear", "DequantizeLinear"]
    assert tensors_of(proto)[quantize_nodes(proto)[INPUT].input[1]] == np.float32(1.5) / np.float32(127.0)
    output = quantize_nodes(proto)[INPUT].output[0]
    codes = evaluate(proto, batch("question"), [output])[output]
    assert (codes.min(), codes.max()) == (-127, 85)  # 127 / 1.5 = 84.7
    assert differences(model, proto) < ROUNDING


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_learned_ranges_of_weights_clip_to_both_bounds(weights: str) -> None:
    from onnx_models import build

    from qdqbert.tensor_quant import QuantDescriptor

    saved = nn.QuantLinear.default_quant_desc_weight
    nn.QuantLinear.set_default_quant_desc_weight(QuantDescriptor(num_bits=8, learn_amax=True, amax=0.4))
    try:
        model = build("question", 14)
    finally:
        nn.QuantLinear.set_default_quant_desc_weight(saved)
    for name, quantizer in all_quantizers(model).items():
        if name.endswith("_weight_quantizer"):
            quantizer._handle.set_clip(-0.3, 0.1)
        else:
            quantizer.amax = np.float32(4.0)

    proto = exported(model, weights=weights)

    check(proto)
    node = dequantize_nodes(proto)[WEIGHT]
    values = evaluate(proto, batch("question"), [node.output[0]])[node.output[0]]
    assert (values.min(), values.max()) == (np.float32(-0.3), 42 * (np.float32(0.3) / np.float32(127.0)))
    linear = model.get_submodule(f"{LAYER}.intermediate.dense")
    np.testing.assert_allclose(
        values.T, all_quantizers(model)[WEIGHT](linear.weight), rtol=3 * 2.0**-23, atol=0
    )


def test_the_floor_of_a_weight_counts_the_scale_before_it(model: Any) -> None:
    make_narrow(model)
    all_quantizers(model)[WEIGHT].pre_quant_scale = np.full(20, 2.0, np.float32)

    proto = exported(model)

    output = quantize_nodes(proto)[WEIGHT].output[0]
    assert evaluate(proto, batch("question"), [output])[output].min() == -127


def test_a_quantizer_that_still_calibrates_is_named_in_the_log(
    model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    all_quantizers(model)[INPUT].enable_calib()

    exported(model)

    assert [record.message for record in caplog.records] == [
        f"{INPUT}: is still calibrating; the range that it has now is exported"
    ]


# ---- sharing -----------------------------------------------------------------------------------------------


def test_equal_quantizers_of_one_tensor_are_shared_on_request(model: Any) -> None:
    shared, apart = exported(model, share_input_quantizers=True), exported(model)

    gone = quantize_nodes(apart).keys() - quantize_nodes(shared).keys()
    layers = [f"bert.encoder.layer.{i}.attention.self" for i in range(3)]
    assert gone == {f"{layer}.{name}._input_quantizer" for layer in layers for name in ("key", "value")}
    mine, others = evaluate(shared, batch("question")), evaluate(apart, batch("question"))
    assert all(np.array_equal(mine[name], others[name]) for name in others)


@pytest.mark.parametrize(
    "change",
    [
        lambda quantizer: setattr(quantizer, "amax", quantizer.amax * np.float32(1.01)),
        lambda quantizer: setattr(quantizer, "narrow_range", True),
        lambda quantizer: quantizer.disable(),
        lambda quantizer: setattr(quantizer, "pre_quant_scale", np.full(20, 0.5, np.float32)),
        lambda quantizer: quantizer._handle.set_clip(-1.5, 1.0),
    ],
    ids=["range", "format", "stage", "factor", "bounds"],
)
def test_quantizers_that_differ_are_not_shared(model: Any, change: Callable[[Any], None]) -> None:
    name = f"{LAYER}.attention.self.key._input_quantizer"
    change(all_quantizers(model)[name])

    proto = exported(model, share_input_quantizers=True)

    assert (name in quantize_nodes(proto)) == (not all_quantizers(model)[name]._disabled)
    assert f"{LAYER}.attention.self.value._input_quantizer" not in quantize_nodes(proto)
    assert differences(model, proto) < ROUNDING

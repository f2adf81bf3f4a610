# SPDX-License-Identifier: Apache-2.0
"""Every rule of the ONNX checker: a graph that keeps all, and ones that break it at a node that is named."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import quantized_graph as graphs
from qdqbert.onnx import Violation, check
from qdqbert.onnx.rules import ONNX_CHECKER, RULES
from quantized_graph import Damage, bypass, computed, insert, make, node, pair, place_of, put, set_axis


def zero_point(name: str, kind: type, value: int = 0) -> Damage:
    """Give a pair, whose scales have any shape, codes of another type."""
    return lambda model: put(
        model, f"{name}.zero", np.full(graphs.initializer(model, f"{name}.scale").dims, value, kind)
    )


def without_zero_point(model: onnx.ModelProto) -> None:
    for name in ("x/QuantizeLinear", "x/DequantizeLinear"):
        del node(model, name).input[2]


def unset_output_dtype(model: onnx.ModelProto) -> None:
    without_zero_point(model)
    node(model, "x/QuantizeLinear").attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))


def float8(name: str, kind: int = TensorProto.FLOAT8E4M3FN) -> Damage:
    def damage(model: onnx.ModelProto) -> None:
        shape = list(graphs.initializer(model, f"{name}.scale").dims)
        zero = graphs.initializer(model, f"{name}.zero")
        zero.CopyFrom(
            TensorProto(name=f"{name}.zero", data_type=kind, dims=shape, raw_data=bytes(int(np.prod(shape))))
        )

    return damage


def opset(version: int) -> Damage:
    def damage(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return damage


def tensorrt_float8(*, imported: bool = True) -> Damage:
    """E4M3 of one activation and its weight as TensorRT's own operators."""

    def damage(model: onnx.ModelProto) -> None:
        put(model, "w.scale", np.float32(0.03))
        for name in ("x", "w"):
            for op in ("QuantizeLinear", "DequantizeLinear"):
                each = node(model, f"{name}/{op}")
                each.op_type, each.domain = f"TRT_FP8{op}", "trt"
                del each.input[2]
                del each.attribute[:]
        model.graph.value_info.append(
            helper.make_tensor_value_info("product", TensorProto.FLOAT, ["batch", 3, 7])
        )
        if imported:
            model.opset_import.append(helper.make_opsetid("trt", 1))

    return damage


def int4(name: str, columns: int) -> Damage:
    """Store a weight with an even or odd number of columns in 4 bits."""

    def damage(model: onnx.ModelProto) -> None:
        weight = graphs.initializer(model, name)
        rows = weight.dims[0]
        data = bytes((rows * columns + 1) // 2)
        sizes = [rows, columns]
        weight.CopyFrom(TensorProto(name=name, data_type=TensorProto.INT4, dims=sizes, raw_data=data))
        put(model, f"{name}.scale", np.full(columns, 0.01, np.float32))
        zero = graphs.initializer(model, f"{name}.zero")
        data = bytes((columns + 1) // 2)
        zero.CopyFrom(
            TensorProto(name=f"{name}.zero", data_type=TensorProto.INT4, dims=[columns], raw_data=data)
        )
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = columns

    return damage


def per_channel_activation(model: onnx.ModelProto) -> None:
    put(model, "x.scale", np.full(5, 0.03, np.float32))
    put(model, "x.zero", np.zeros(5, np.int8))
    for op in ("QuantizeLinear", "DequantizeLinear"):
        set_axis(model, f"x/{op}", 2)


def blocks(model: onnx.ModelProto) -> None:
    put(model, "codes.scale", np.full((1, 11), 0.01, np.float32))
    put(model, "codes.zero", np.zeros((1, 11), np.int8))
    node(model, "codes/DequantizeLinear").attribute.append(helper.make_attribute("block_size", 7))
    set_axis(model, "codes/DequantizeLinear", 0)


def int32_bias(model: onnx.ModelProto) -> None:
    put(model, "bias", np.arange(7, dtype=np.int32))
    put(model, "bias.scale", np.full(7, 0.01, np.float32))
    insert(
        model,
        0,
        make("DequantizeLinear", "bias/DequantizeLinear", ["bias", "bias.scale"], "bias.dq", axis=0),
    )
    node(model, "dense/Add").input[1] = "bias.dq"


def codes_from_outside(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("given", TensorProto.INT8, ["batch", 3, 5]))
    node(model, "x/DequantizeLinear").input[0] = "given"
    model.graph.node.remove(node(model, "x/QuantizeLinear"))


def codes_elsewhere(model: onnx.ModelProto) -> None:
    insert(model, 1, make("Cast", "x/Cast", ["x.q"], "x.cast", to=TensorProto.FLOAT))


def codes_as_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("x.q", TensorProto.INT8, ["batch", 3, 5]))


def codes_for_nobody(model: onnx.ModelProto) -> None:
    put(model, "lost.scale", np.float32(1.0))
    put(model, "lost.zero", np.int8(0))
    insert(model, 0, pair("x", "lost")[0])


def other_scale(model: onnx.ModelProto) -> None:
    put(model, "x.other", np.float32(0.0301))
    node(model, "x/DequantizeLinear").input[1] = "x.other"


def other_axis(model: onnx.ModelProto) -> None:
    put(model, "square", np.eye(5, dtype=np.float32))
    put(model, "square.scale", np.full(5, 0.01, np.float32))
    put(model, "square.zero", np.zeros(5, np.int8))
    insert(
        model,
        place_of(model, "dense/MatMul"),
        *pair("square", "square", axis=1),
        make("MatMul", "turn", ["x.dq", "square.dq"], "turned"),
        *pair("turned", "turned"),
    )
    put(model, "turned.scale", np.float32(0.03))
    put(model, "turned.zero", np.int8(0))
    node(model, "dense/MatMul").input[0] = "turned.dq"
    set_axis(model, "square/DequantizeLinear", 0)


def before_bias(model: onnx.ModelProto) -> None:
    put(model, "early.scale", np.float32(0.03))
    put(model, "early.zero", np.int8(0))
    insert(model, place_of(model, "dense/Add"), *pair("product", "early"))
    node(model, "dense/Add").input[0] = "early.dq"


def before_activation(model: onnx.ModelProto) -> None:
    put(model, "early.scale", np.float32(0.03))
    put(model, "early.zero", np.int8(0))
    insert(model, place_of(model, "out/Relu"), *pair("scores", "early"))
    node(model, "out/Relu").input[0] = "early.dq"


def integer_product(model: onnx.ModelProto) -> None:
    insert(model, 1, make("MatMulInteger", "x/MatMulInteger", ["x.q", "square"], "x.integer"))
    put(model, "square", np.eye(5, dtype=np.int8))
    insert(model, 2, make("Cast", "x/Cast", ["x.integer"], "x.float", to=TensorProto.FLOAT))


def fused_by_a_runtime(model: onnx.ModelProto) -> None:
    node(model, "out/Relu").op_type = "FastGelu"
    node(model, "out/Relu").domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def input_without_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def input_without_elements(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0


def cut_off(model: onnx.ModelProto) -> None:
    graphs.initializer(model, "bias").raw_data = graphs.initializer(model, "bias").raw_data[:-1]


def huge(model: onnx.ModelProto) -> None:
    graphs.initializer(model, "bias").dims[0] = 1 << 60


def circle(model: onnx.ModelProto) -> None:
    node(model, "x/QuantizeLinear").input[0] = "answer"


def shuffled(model: onnx.ModelProto) -> None:
    insert(model, 0, model.graph.node[-1])
    del model.graph.node[-1]


# rule, name of the case: what is done, the node that is named, what is said of it
CASES: dict[tuple[str, str], tuple[Damage, str, str]] = {
    ("opset", "too old"): (opset(9), "opset_import", "the opset is 9"),
    ("opset", "missing"): (lambda model: model.ClearField("opset_import"), "opset_import", "does not list"),
    ("input-shape", "no shape"): (input_without_shape, "x", "has no shape"),
    ("input-shape", "no elements"): (input_without_elements, "x", r"\['batch', 0, 5\]"),
    ("constant-axes", "computed"): (lambda model: computed(model, "axes"), "mean", "ReduceMean takes 'axes'"),
    ("tensor-data", "cut off"): (cut_off, "bias", r"needs 28 bytes, and has 27"),
    ("tensor-data", "huge"): (huge, "bias", "needs 4611686018427387904 bytes, and has 28"),
    ("zero-point-zero", "activation"): (zero_point("x", np.int8, 3), "x/QuantizeLinear", "'x.zero' has 3"),
    ("zero-point-zero", "weight"): (zero_point("codes", np.int8, -1), "codes/DequantizeLinear", "has -1"),
    ("zero-point-constant", "computed"): (
        lambda model: computed(model, "x.zero"),
        "x/QuantizeLinear",
        "'x.zero' is computed",
    ),
    ("code-type", "unsigned"): (zero_point("x", np.uint8), "x/QuantizeLinear", "codes are UINT8"),
    ("code-type", "16 bits"): (zero_point("x", np.int16), "x/DequantizeLinear", "codes are INT16"),
    ("code-type", "not said"): (without_zero_point, "x/QuantizeLinear", "without one codes are UINT8"),
    ("code-type", "E5M2"): (float8("x", TensorProto.FLOAT8E5M2), "x/QuantizeLinear", "FLOAT8E5M2"),
    ("code-type-opset", "float8"): (
        lambda model: (float8("x")(model), opset(18)(model)),
        "x/QuantizeLinear",
        "FLOAT8E4M3FN, in ONNX from opset 19 on; it is 18",
    ),
    ("custom-domain", "not imported"): (tensorrt_float8(imported=False), "x/QuantizeLinear", "'trt'"),
    ("scale-constant", "computed"): (
        lambda model: computed(model, "x.scale"),
        "x/QuantizeLinear",
        "'x.scale' is computed",
    ),
    ("scale-constant", "an input"): (
        lambda model: (
            model.graph.initializer.remove(graphs.initializer(model, "w.scale")),
            model.graph.input.append(helper.make_tensor_value_info("w.scale", TensorProto.FLOAT, [7])),
        ),
        "w/DequantizeLinear",
        "or an input",
    ),
    ("scale-positive", "zero"): (
        lambda model: put(model, "w.scale", np.array([1, 1, 1, 1, 1, 0, 1], np.float32)),
        "w/QuantizeLinear",
        r"has 0.0 \(1 of 7 such\)",
    ),
    ("scale-positive", "infinite"): (
        lambda model: put(model, "x.scale", np.float32(np.inf)),
        "x/QuantizeLinear",
        "has inf",
    ),
    ("scale-positive", "not a number"): (
        lambda model: put(model, "x.scale", np.float32(np.nan)),
        "x/DequantizeLinear",
        "has nan",
    ),
    ("zero-point-shape", "one for seven"): (
        lambda model: put(model, "w.zero", np.int8(0)),
        "w/QuantizeLinear",
        r"shape \[7\], the zero point \[\]",
    ),
    ("scale-shape", "other axis"): (
        lambda model: [set_axis(model, f"w/{op}", 0) for op in ("QuantizeLinear", "DequantizeLinear")],
        "w/QuantizeLinear",
        r"7 scales along axis 0 of a tensor of the shape \[5, 7\]",
    ),
    ("scale-shape", "no such axis"): (
        lambda model: set_axis(model, "w/QuantizeLinear", 2),
        "w/QuantizeLinear",
        "the axis is 2, the tensor has 2 axes",
    ),
    ("scale-shape", "blocks"): (blocks, "codes/DequantizeLinear", r"\[1, 11\], its codes are INT8"),
    ("per-channel-activation", "5 of them"): (
        per_channel_activation,
        "x/QuantizeLinear",
        "5 scales and its input 'x' is no constant",
    ),
    ("per-channel-opset", "12"): (opset(12), "w/QuantizeLinear", "7 scales, and the opset is 12"),
    ("axis-per-tensor", "written out"): (
        lambda model: set_axis(model, "x/QuantizeLinear", 1),
        "x/QuantizeLinear",
        "one scale, and the axis 1",
    ),
    ("dequantize-codes", "int32 bias"): (int32_bias, "bias/DequantizeLinear", "a constant of INT32"),
    ("dequantize-codes", "an input"): (codes_from_outside, "x/DequantizeLinear", "'given' is no constant"),
    ("quantize-dequantize", "elsewhere"): (codes_elsewhere, "x/QuantizeLinear", r"go to x/Cast \(Cast\)"),
    ("quantize-dequantize", "an output"): (codes_as_output, "x/QuantizeLinear", "are the output 'x.q'"),
    ("quantize-dequantize", "nowhere"): (codes_for_nobody, "lost/QuantizeLinear", "nothing takes"),
    ("pair-scale", "another"): (
        other_scale,
        "x/DequantizeLinear",
        "scale is 0.0300999992, that of x/QuantizeLinear 0.0299999993",
    ),
    ("pair-scale", "another axis"): (other_axis, "square/DequantizeLinear", "its axis is 0, that of"),
    ("float8-saturates", "no"): (
        lambda model: (
            float8("x")(model),
            node(model, "x/QuantizeLinear").attribute.append(helper.make_attribute("saturate", 0)),
        ),
        "x/QuantizeLinear",
        "saturate is 0",
    ),
    ("int4-weight", "activation"): (float8("x", TensorProto.INT4), "x/QuantizeLinear", "no constant"),
    ("int4-weight", "odd"): (int4("codes", 11), "codes/DequantizeLinear", "odd size 11"),
    ("product-operands", "weight alone"): (
        lambda model: bypass(model, "x", "x"),
        "dense/MatMul",
        "takes w/DequantizeLinear and 'x', which is not quantized",
    ),
    ("product-operands", "activation alone"): (
        lambda model: bypass(model, "w", "w"),
        "dense/MatMul",
        "takes x/DequantizeLinear and 'w'",
    ),
    ("product-types", "float8 and int8"): (float8("x"), "dense/MatMul", "codes of FLOAT8E4M3FN and of INT8"),
    ("sum-operands", "no residual"): (
        lambda model: bypass(model, "residual", "r"),
        "sum/Add",
        "takes local/DequantizeLinear and 'r'",
    ),
    ("product-fusion", "bias"): (
        before_bias,
        "early/QuantizeLinear",
        r"between dense/MatMul and dense/Add \(Add\)",
    ),
    ("product-fusion", "activation"): (
        before_activation,
        "early/QuantizeLinear",
        r"between out/MatMul and out/Relu \(Relu\)",
    ),
    ("operators", "integer"): (integer_product, "x/MatMulInteger", "operator on codes"),
    ("operators", "another runtime's"): (fused_by_a_runtime, "out/Relu", "operator set 'com.microsoft'"),
    ("onnx-checker", "a circle"): (circle, "sound", "topologically sorted|not output of any previous"),
    ("onnx-checker", "another order"): (shuffled, "sound", "topologically sorted|not output of any previous"),
    ("onnx-checker", "a missing tensor"): (
        lambda model: model.graph.initializer.remove(graphs.initializer(model, "bias")),
        "sound",
        "bias",
    ),
}


def violations(model: onnx.ModelProto, rule: str) -> list[Violation]:
    return [each for each in check(model) if each.rule == rule]


def test_sound_graph_has_no_violation() -> None:
    assert check(graphs.sound_model()) == []


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, _ in CASES} == {rule.id for rule in (*RULES, ONNX_CHECKER)}


def test_rules_have_names_of_their_own_and_say_everything() -> None:
    rules = (*RULES, ONNX_CHECKER)
    assert len({rule.id for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.says.endswith(".")
        assert rule.cure
        assert rule.source
        assert rule.effect in ("refused", "wrong", "slow")


@pytest.mark.parametrize(("rule", "case"), CASES)
def test_violation_is_told_with_its_node(rule: str, case: str) -> None:
    damage, place, text = CASES[rule, case]

    found = violations(graphs.damaged(damage), rule)

    places = [each.node for each in found]
    assert place in places
    first = found[places.index(place)]
    assert re.search(text, first.found), first.found
    table = {each.id: each for each in (*RULES, ONNX_CHECKER)}
    assert (first.cure, first.source) == (table[rule].cure, table[rule].source)


# ---- what is allowed ---------------------------------------------------------------------------------------


def through_layout(model: onnx.ModelProto) -> None:
    """A weight that is stored the other way round, as PyTorch's exporter writes it."""
    put(model, "w", np.ascontiguousarray(np.ones((7, 5), np.float32)))
    for op in ("QuantizeLinear", "DequantizeLinear"):
        set_axis(model, f"w/{op}", 0)
    turn = make("Transpose", "turn", ["w.dq"], "w.turned", perm=[1, 0])
    insert(model, place_of(model, "dense/MatMul"), turn)
    node(model, "dense/MatMul").input[1] = "w.turned"


def through_cast(model: onnx.ModelProto) -> None:
    """Zero points as the toolkit writes them: a float constant that is cast."""
    put(model, "x.zero", np.float32(0.0))
    insert(model, 0, make("Cast", "x/Cast", ["x.zero"], "x.zero8", to=TensorProto.INT8))
    for op in ("QuantizeLinear", "DequantizeLinear"):
        node(model, f"x/{op}").input[2] = "x.zero8"


def as_nodes(model: onnx.ModelProto) -> None:
    """Scales that nodes Constant hold."""
    value = graphs.initializer(model, "w.scale")
    insert(model, 0, helper.make_node("Constant", [], ["w.scale"], name="w/Constant", value=value))
    model.graph.initializer.remove(value)
    model.graph.initializer.remove(graphs.initializer(model, "x.scale"))
    insert(model, 0, helper.make_node("Constant", [], ["x.scale"], name="x/Constant", value_float=0.03))


def weight_alone_in_4_bits(model: onnx.ModelProto) -> None:
    int4("codes", 12)(model)
    bypass(model, "y", "y")


def unquantized_sum(model: onnx.ModelProto) -> None:
    bypass(model, "residual", "r")
    bypass(model, "local", "dense")


def lowest_code(model: onnx.ModelProto) -> None:
    """Explicit quantization has the full range."""
    put(model, "codes", np.full((7, 11), -128, np.int8))


@pytest.mark.parametrize(
    "damage",
    [
        through_layout,
        through_cast,
        as_nodes,
        unset_output_dtype,
        tensorrt_float8(),
        weight_alone_in_4_bits,
        unquantized_sum,
        lowest_code,
        lambda model: (float8("x")(model), float8("w")(model)),
        lambda model: (bypass(model, "x", "x"), bypass(model, "w", "w")),
    ],
)
def test_what_tensorrt_takes_is_no_violation(damage: Damage) -> None:
    assert [str(each) for each in check(graphs.damaged(damage))] == []


def test_nodes_without_names_are_told_by_what_they_make() -> None:
    model = graphs.damaged(zero_point("x", np.uint8))
    for each in model.graph.node:
        each.name = ""

    told = [each.node for each in violations(model, "code-type")]

    assert told == ["QuantizeLinear that makes x.q", "DequantizeLinear that makes x.dq"]


def test_graphs_in_nodes_are_looked_at() -> None:
    model = graphs.damaged(zero_point("x", np.int8, 5))
    inner = [each for each in model.graph.node if each.name.startswith("x/")]
    for each in inner:
        model.graph.node.remove(each)
    shape = ["batch", 3, 5]
    inner[1].output[0] = "branch"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("branch", "other")]
    branches = {
        "then_branch": helper.make_graph(inner, "then", [], ends[:1]),
        "else_branch": helper.make_graph([make("Identity", "same", ["x"], "other")], "else", [], ends[1:]),
    }
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    insert(model, 0, helper.make_node("If", ["flag"], ["x.dq"], name="if", **branches))

    assert [each.node for each in violations(model, "zero-point-zero")] == [
        "x/QuantizeLinear",
        "x/DequantizeLinear",
    ]


def test_local_functions_are_looked_into() -> None:
    model = graphs.damaged(zero_point("x", np.int8, 5))
    inner = [each for each in model.graph.node if each.name.startswith("x/")]
    place = 0
    for each in inner:
        model.graph.node.remove(each)
    function = helper.make_function(
        "local", "Fake", ["x", "x.scale", "x.zero"], ["x.dq"], inner, [helper.make_opsetid("", graphs.OPSET)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    call = helper.make_node("Fake", ["x", "x.scale", "x.zero"], ["x.dq"], name="fake", domain="local")
    insert(model, place, call)

    assert len(violations(model, "zero-point-zero")) == 2
    assert violations(model, "operators") == []

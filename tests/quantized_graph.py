# SPDX-License-Identifier: Apache-2.0
"""A small quantized graph that keeps every rule, and what breaks one of them at a time.

Sizes are odd, so that no axis can stand for another: a batch of any size, 3 tokens, 5 -> 7 -> 11 features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto, helper

OPSET = 21


def sound_model() -> onnx.ModelProto:
    """A linear layer with float weights, a residual sum, LayerNormalization, and one with int8 weights."""
    generator = np.random.default_rng(11)
    weight = generator.normal(size=(5, 7)).astype(np.float32)
    codes = generator.integers(-127, 128, size=(7, 11)).astype(np.int8)
    initializers = {
        "w": weight,
        "codes": codes,
        "bias": generator.normal(size=7).astype(np.float32),
        "gain": np.ones(7, np.float32),
        "axes": np.array([1], np.int64),
        "w.scale": (np.abs(weight).max(axis=0) / 127).astype(np.float32),
        "w.zero": np.zeros(7, np.int8),
        "codes.scale": np.linspace(0.01, 0.03, 11, dtype=np.float32),
        "codes.zero": np.zeros(11, np.int8),
    }
    for name in ("x", "local", "residual", "y"):
        initializers |= {f"{name}.scale": np.float32(0.03), f"{name}.zero": np.int8(0)}
    stored = ["codes.scale", "codes.zero"]
    nodes = [
        *pair("x", "x"),
        *pair("w", "w", axis=1),
        make("MatMul", "dense/MatMul", ["x.dq", "w.dq"], "product"),
        make("Add", "dense/Add", ["product", "bias"], "dense"),
        *pair("dense", "local"),
        *pair("r", "residual"),
        make("Add", "sum/Add", ["local.dq", "residual.dq"], "sum"),
        make("LayerNormalization", "norm", ["sum", "gain"], "y", axis=-1),
        *pair("y", "y"),
        make("DequantizeLinear", "codes/DequantizeLinear", ["codes", *stored], "codes.dq", axis=1),
        make("MatMul", "out/MatMul", ["y.dq", "codes.dq"], "scores"),
        make("Relu", "out/Relu", ["scores"], "positive"),
        make("ReduceMean", "mean", ["positive", "axes"], "answer"),
    ]
    graph = helper.make_graph(
        nodes,
        "sound",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 5]),
            helper.make_tensor_value_info("r", TensorProto.FLOAT, ["batch", 3, 7]),
        ],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 1, 11])],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def make(op: str, name: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=name, **attributes)


def pair(tensor: str, name: str, **attributes: Any) -> list[onnx.NodeProto]:
    """Quantize a tensor and dequantize it: nodes ``name/QuantizeLinear`` and so on, result ``name.dq``."""
    scale = [f"{name}.scale", f"{name}.zero"]
    return [
        make("QuantizeLinear", f"{name}/QuantizeLinear", [tensor, *scale], f"{name}.q", **attributes),
        make(
            "DequantizeLinear", f"{name}/DequantizeLinear", [f"{name}.q", *scale], f"{name}.dq", **attributes
        ),
    ]


# ---- damage ------------------------------------------------------------------------------------------------


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.name == name)


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(each for each in model.graph.initializer if each.name == name)


def put(model: onnx.ModelProto, name: str, array: Any) -> None:
    """Set an initializer, or add it."""
    made = onnx.numpy_helper.from_array(np.asarray(array), name)
    for each in model.graph.initializer:
        if each.name == name:
            each.CopyFrom(made)
            return
    model.graph.initializer.append(made)


def insert(model: onnx.ModelProto, place: int, *nodes: onnx.NodeProto) -> None:
    """Put nodes at a place of the list."""
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*kept[:place], *nodes, *kept[place:]])


def place_of(model: onnx.ModelProto, name: str) -> int:
    return [each.name for each in model.graph.node].index(name)


def set_axis(model: onnx.ModelProto, name: str, axis: int) -> None:
    target = node(model, name)
    kept = [each for each in target.attribute if each.name != "axis"]
    del target.attribute[:]
    target.attribute.extend([*kept, helper.make_attribute("axis", axis)])


def bypass(model: onnx.ModelProto, name: str, tensor: str) -> None:
    """Take a pair of nodes out: what took its result takes the tensor."""
    kept = [each for each in model.graph.node if not each.name.startswith(f"{name}/")]
    for each in kept:
        for index, taken in enumerate(each.input):
            if taken == f"{name}.dq":
                each.input[index] = tensor
    del model.graph.node[:]
    model.graph.node.extend(kept)


def computed(model: onnx.ModelProto, name: str) -> None:
    """Let an initializer be computed from the input instead."""
    tensor = initializer(model, name)
    kind, shape = tensor.data_type, list(tensor.dims)
    model.graph.initializer.remove(tensor)
    put(model, f"{name}.shape", np.array(shape, np.int64))
    insert(
        model,
        0,
        make("ReduceMax", f"{name}/ReduceMax", ["x"], f"{name}.max", keepdims=0),
        make("Cast", f"{name}/Cast", [f"{name}.max"], f"{name}.cast", to=kind),
        make("Expand", f"{name}/Expand", [f"{name}.cast", f"{name}.shape"], name),
    )


Damage = Callable[[onnx.ModelProto], None]


def damaged(*damages: Damage) -> onnx.ModelProto:
    model = sound_model()
    for damage in damages:
        damage(model)
    return model

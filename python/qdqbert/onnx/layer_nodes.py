# SPDX-License-Identifier: Apache-2.0
"""The layers that BERT is made of, as nodes: linear, LayerNorm, activation functions."""

from __future__ import annotations

import math

import numpy as np

from qdqbert.modeling_tree import LayerNorm, Linear
from qdqbert.nn import QuantLinear
from qdqbert.onnx.graph_builder import GraphBuilder, Value, scope_of
from qdqbert.onnx.opsets import Opset
from qdqbert.onnx.quantize_nodes import QuantizeNodes

__all__ = ["activation", "layer_norm", "least_of_activation", "linear", "linear_of_quantized"]

# A value that the function does not go below, rounded down.  The minimum of x Phi(x) is -0.16997, of its tanh
# form -0.17004, of x sigmoid(x) -0.27847, that of x sigmoid(1.702 x) a 1.702nd of it, and of mish -0.30885.
_LEAST = {
    "gelu": -0.171,
    "gelu_10": -0.171,
    "gelu_accurate": -0.171,
    "gelu_fast": -0.171,
    "gelu_new": -0.171,
    "gelu_python": -0.171,
    "gelu_pytorch_tanh": -0.171,
    "laplace": 0.0,
    "mish": -0.31,
    "quick_gelu": -0.165,
    "relu": 0.0,
    "relu2": 0.0,
    "relu6": 0.0,
    "sigmoid": 0.0,
    "silu": -0.28,
    "swish": -0.28,
    "tanh": -1.0001,
}
_LAPLACE_MEAN, _LAPLACE_DEVIATION = 0.707107, 0.282095
_LEAKY_SLOPE = 0.01
_QUICK_RATE = 1.702


def least_of_activation(name: str) -> float:
    """Return a value that an activation function does not go below; minus infinity if there is none.

    Parameters
    ----------
    name : str
        As in ``config.hidden_act``.
    """
    return _LEAST.get(name, -math.inf)


def linear(
    nodes: QuantizeNodes,
    value: Value,
    module: QuantLinear | Linear,
    path: str,
    *,
    least: float = -math.inf,
) -> Value:
    """Return ``x W^T + b``, both operands behind their quantizers if the layer has some.

    Parameters
    ----------
    nodes : QuantizeNodes
    value : Value
        (..., in_features).
    module : QuantLinear or Linear
    path : str
        Its dotted name.
    least : float
        A value that no element of x is below.

    Returns
    -------
    Value
        (..., out_features), of the precision's type.
    """
    if isinstance(module, QuantLinear):
        value = nodes.activation(
            value, module.input_quantizer, f"{path}._input_quantizer", least=least, last_axis_is_free=True
        )
    return linear_of_quantized(nodes, value, module, path)


def linear_of_quantized(nodes: QuantizeNodes, value: Value, module: QuantLinear | Linear, path: str) -> Value:
    """Return ``x W^T + b`` for an x that has passed its quantizer.

    Parameters
    ----------
    nodes, value, module, path
        As for `linear`.
    """
    graph, kind, scope = nodes.graph, nodes.precision.kind, scope_of(path)
    if isinstance(module, QuantLinear):
        weight = nodes.weight(np.asarray(module.weight), module.weight_quantizer, path)
    else:
        weight = nodes.plain_weight(np.asarray(module.weight), path)
    value = graph.node(
        "MatMul", scope, graph.cast(value, kind, scope), graph.cast(weight, kind, scope), rank=value.rank
    )
    bias = np.asarray(module.bias)
    return graph.node(
        "Add", scope, value, nodes.precision.parameter(graph, f"{path}.bias", bias.shape, lambda: bias)
    )


def layer_norm(nodes: QuantizeNodes, value: Value, module: LayerNorm, path: str) -> Value:
    """Return the normalization over the last axis, in float32.

    One LayerNormalization from opset 17 on; before, the eight nodes that PyTorch's exporter writes.

    Parameters
    ----------
    nodes : QuantizeNodes
    value : Value
    module : LayerNorm
    path : str
        Its dotted name.
    """
    graph, scope = nodes.graph, scope_of(path)
    value = graph.cast(value, "FLOAT", scope)
    weight, bias = np.asarray(module.weight), np.asarray(module.bias)
    # Few numbers, and beside float32: they are kept as they are in every precision.
    gain = graph.initializer(f"{path}.weight", "FLOAT", weight.shape, lambda: weight)
    shift = graph.initializer(f"{path}.bias", "FLOAT", bias.shape, lambda: bias)
    if nodes.opset.has_layer_normalization:
        return graph.node("LayerNormalization", scope, value, gain, shift, axis=-1, epsilon=float(module.eps))
    mean = graph.node("ReduceMean", scope, value, axes=[-1], keepdims=1)
    centred = graph.node("Sub", scope, value, mean)
    variance = graph.node(
        "ReduceMean", scope, graph.node("Mul", scope, centred, centred), axes=[-1], keepdims=1
    )
    shifted = graph.node("Add", scope, variance, graph.constant(np.float32(module.eps)))
    normalized = graph.node("Div", scope, centred, graph.node("Sqrt", scope, shifted))
    return graph.node("Add", scope, graph.node("Mul", scope, normalized, gain), shift)


def activation(nodes: QuantizeNodes, value: Value, name: str, path: str) -> Value:
    """Return an activation function of a tensor, in float32.

    Parameters
    ----------
    nodes : QuantizeNodes
    value : Value
    name : str
        As in ``config.hidden_act``.
    path : str
        Dotted name of the module that stands for it.
    """
    graph, scope = nodes.graph, scope_of(path)
    if name == "linear":
        return value
    value = graph.cast(value, "FLOAT", scope)
    return _Functions(graph, nodes.opset, scope).of(name, value)


class _Functions:
    """Activation functions in one scope."""

    def __init__(self, graph: GraphBuilder, opset: Opset, scope: str) -> None:
        self.graph, self.opset, self.scope = graph, opset, scope

    def of(self, name: str, x: Value) -> Value:
        match name:
            case "gelu" | "gelu_python":
                return self.gelu(x)
            case "gelu_10":
                return self.node("Clip", self.gelu(x), -10.0, 10.0)
            case "gelu_accurate" | "gelu_fast" | "gelu_new" | "gelu_pytorch_tanh":
                return self.gelu_tanh(x)
            case "laplace":
                argument = self.node("Sub", x, _LAPLACE_MEAN)
                argument = self.node("Div", argument, _LAPLACE_DEVIATION * math.sqrt(2.0))
                return self.node("Mul", self.node("Add", self.node("Erf", argument), 1.0), 0.5)
            case "leaky_relu":
                return self.graph.node("LeakyRelu", self.scope, x, alpha=_LEAKY_SLOPE)
            case "mish":
                if self.opset.has_mish:
                    return self.node("Mish", x)
                return self.node("Mul", x, self.node("Tanh", self.node("Softplus", x)))
            case "quick_gelu":
                return self.node("Mul", x, self.node("Sigmoid", self.node("Mul", x, _QUICK_RATE)))
            case "relu":
                return self.node("Relu", x)
            case "relu2":
                positive = self.node("Relu", x)
                return self.node("Mul", positive, positive)
            case "relu6":
                return self.node("Clip", x, 0.0, 6.0)
            case "sigmoid":
                return self.node("Sigmoid", x)
            case "silu" | "swish":
                return self.node("Mul", x, self.node("Sigmoid", x))
            case "tanh":
                return self.node("Tanh", x)
        raise AssertionError(f"hidden_act {name!r} has no nodes")

    def gelu(self, x: Value) -> Value:
        if self.opset.has_gelu:
            return self.node("Gelu", x)
        twice = self.node("Add", self.node("Erf", self.node("Div", x, math.sqrt(2.0))), 1.0)
        return self.node("Mul", self.node("Mul", x, twice), 0.5)

    def gelu_tanh(self, x: Value) -> Value:
        if self.opset.has_gelu:
            return self.graph.node("Gelu", self.scope, x, approximate="tanh")
        cube = self.node("Mul", self.node("Mul", x, x), x)
        inner = self.node("Add", x, self.node("Mul", cube, 0.044715))
        twice = self.node("Add", self.node("Tanh", self.node("Mul", inner, math.sqrt(2.0 / math.pi))), 1.0)
        return self.node("Mul", self.node("Mul", x, twice), 0.5)

    def node(self, op: str, *inputs: Value | float) -> Value:
        operands = [
            each if isinstance(each, Value) else self.graph.constant(np.float32(each)) for each in inputs
        ]
        return self.graph.node(op, self.scope, *operands)

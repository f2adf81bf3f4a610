# SPDX-License-Identifier: Apache-2.0
"""Rules about where QuantizeLinear and DequantizeLinear stand: what TensorRT fuses into 8-bit kernels."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from qdqbert.onnx.graph_view import LAYOUT, GraphView, name_of, op_of
from qdqbert.onnx.pair_rules import DEQUANTIZE, QUANTIZE, code_kind
from qdqbert.onnx.rule import Finding, Rule

__all__ = ["RULES"]

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ACTIVATIONS = frozenset({"Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "LeakyRelu", "Mish", "Relu", "Selu"})
_ACTIVATIONS |= {"Sigmoid", "Softplus", "Tanh"}
# Codes without a float beside: integer operators of other runtimes.
_INTEGER_OPERATORS = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)

_GUIDE = "TensorRT documentation, Explicit Quantization, Q/DQ layer-placement recommendations"


def _dequantizer(view: GraphView, name: str) -> onnx.NodeProto | None:
    """Return the DequantizeLinear that a tensor is from, through what only moves elements."""
    node = view.producer(view.source(name))
    return node if node is not None and op_of(node) in DEQUANTIZE else None


def _operands(view: GraphView) -> Iterator[tuple[onnx.NodeProto, list[onnx.NodeProto | None]]]:
    for node in view.nodes:
        if op_of(node) in _PRODUCTS and len(node.input) >= 2:
            yield node, [_dequantizer(view, name) for name in node.input[:2]]


def _products_have_both_sides(view: GraphView) -> Iterator[Finding]:
    for node, (left, right) in _operands(view):
        if (left is None) == (right is None):
            continue
        quantized = left if left is not None else right
        assert quantized is not None
        if code_kind(view, quantized) == "INT4":  # 4 bits are for weights alone
            continue
        plain = node.input[1 if right is None else 0]
        yield Finding(
            name_of(node), f"{op_of(node)} takes {name_of(quantized)} and {plain!r}, which is not quantized"
        )


def _products_have_one_type(view: GraphView) -> Iterator[Finding]:
    for node, (left, right) in _operands(view):
        if left is None or right is None:
            continue
        kinds = [code_kind(view, each) for each in (left, right)]
        if kinds[0] != kinds[1] and None not in kinds and "INT4" not in kinds:
            yield Finding(name_of(node), f"{op_of(node)} takes codes of {kinds[0]} and of {kinds[1]}")


def _sums_have_both_sides(view: GraphView) -> Iterator[Finding]:
    for node in view.nodes:
        if op_of(node) != "Add" or len(node.input) != 2:
            continue
        sides = [_dequantizer(view, name) for name in node.input]
        if sum(side is not None for side in sides) != 1:
            continue
        plain = node.input[0 if sides[0] is None else 1]
        if view.constant(view.source(plain)) is None:
            quantized = next(side for side in sides if side is not None)
            yield Finding(
                name_of(node), f"Add takes {name_of(quantized)} and {plain!r}, which is not quantized"
            )


def _products_are_fused(view: GraphView) -> Iterator[Finding]:
    """Find Q/DQ between a product and its bias, or between either and an activation function."""
    for node in view.nodes:
        if op_of(node) not in QUANTIZE or not node.input:
            continue
        maker, is_biased = _product_behind(view, node.input[0])
        if maker is None:
            continue
        for taker in _takers_of_dequantized(view, node):
            op = op_of(taker)
            is_bias = op == "Add" and not is_biased and any(view.is_constant(name) for name in taker.input)
            if is_bias or op in _ACTIVATIONS:
                yield Finding(
                    name_of(node), f"it stands between {name_of(maker)} and {name_of(taker)} ({op})"
                )


def _product_behind(view: GraphView, name: str) -> tuple[onnx.NodeProto | None, bool]:
    """Return the product that a tensor is the result of, and whether its bias has been added."""
    node = view.producer(view.source(name))
    if node is None:
        return None, False
    if op_of(node) in _PRODUCTS:
        return node, op_of(node) != "MatMul" and len(node.input) > 2
    if op_of(node) == "Add" and any(view.is_constant(each) for each in node.input):
        for each in node.input:
            maker = view.producer(view.source(each))
            if maker is not None and op_of(maker) in _PRODUCTS:
                return maker, True
    return None, False


def _takers_of_dequantized(view: GraphView, quantize: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that take what a QuantizeLinear and its DequantizeLinear make."""
    names = [name for name in quantize.output if name]
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        for taker, _ in view.consumers(name):
            op = op_of(taker)
            if op in DEQUANTIZE or op in LAYOUT:
                names += taker.output
            elif op not in QUANTIZE:
                yield taker


def _operators_are_known(view: GraphView) -> Iterator[Finding]:
    known = QUANTIZE | DEQUANTIZE
    for node in view.nodes:
        op = op_of(node)
        if op in _INTEGER_OPERATORS:
            yield Finding(name_of(node), f"{op} is an operator on codes")
        elif ":" in op and op not in known:
            yield Finding(name_of(node), f"{op} is of the operator set {node.domain!r}")


RULES = (
    Rule(
        "product-operands",
        "A quantized product has DequantizeLinear on both operands.",
        "slow",
        "enable the quantizers of both operands, or disable both",
        f"{_GUIDE}: quantize all inputs of weighted operations; NVIDIA/TensorRT#1604",
        _products_have_both_sides,
    ),
    Rule(
        "product-types",
        "Both operands of a product have codes of one type.",
        "slow",
        "quantize both to int8, or both to E4M3",
        _GUIDE,
        _products_have_one_type,
    ),
    Rule(
        "sum-operands",
        "An Add of two activations has DequantizeLinear on both, or on neither.",
        "slow",
        "quantize the residual branch too (add_residual_input_quantizer, add_local_input_quantizer)",
        f"{_GUIDE}: quantize the residual input; NVIDIA/TensorRT#1604",
        _sums_have_both_sides,
    ),
    Rule(
        "product-fusion",
        "Nothing is quantized between a product, its bias and its activation function.",
        "slow",
        "quantize behind the bias and the activation function, where the next product takes its input",
        f"{_GUIDE}: do not quantize the outputs of weighted operations; NVIDIA/TensorRT#3038",
        _products_are_fused,
    ),
    Rule(
        "operators",
        "Operators are ONNX's own on floats, or TensorRT's for Q/DQ.",
        "refused",
        "write quantization as QuantizeLinear and DequantizeLinear, before a runtime has optimized the graph",
        "onnx/onnx-tensorrt, docs/operators.md; onnx/onnx-tensorrt#560",
        _operators_are_known,
    ),
)
"""Rules of this module."""

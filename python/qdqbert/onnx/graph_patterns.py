# SPDX-License-Identifier: Apache-2.0
"""What groups of nodes compute, read backwards from a tensor: a linear layer, LayerNorm, a quantizer.

Exporters write the same layer in different nodes.  Every function here takes the name of a tensor, follows
the nodes that make it, and returns what goes in and what is constant; a node that has no place in the pattern
is refused by its name.  The steps of a pattern are finite, so circles end where they do not fit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from qdqbert.errors import CheckpointError
from qdqbert.onnx.graph_view import GraphView, attribute, name_of, op_of
from qdqbert.onnx.pair_rules import DEQUANTIZE, QUANTIZE, code_kind

__all__ = ["LinearLayer", "Normalization", "Patterns", "Quantized", "Scales"]

Floats = npt.NDArray[np.float32]

_COPIES = frozenset({"Cast", "Identity"})
# Codes that quantizers of this package make of a symmetric range.
_BOUNDS = {"INT8": 127.0, "UINT8": 255.0, "FLOAT8E4M3FN": 448.0}


class Scales(NamedTuple):
    """One quantizer of the graph.

    Attributes
    ----------
    node : str
        Name of its DequantizeLinear.
    kind : str
        Element type of its codes.
    bound : float
        Code of amax.
    scale : ndarray, shape () or (n,), float32
    axis : int
        That the scales follow; without a meaning where there is one.
    """

    node: str
    kind: str
    bound: float
    scale: Floats
    axis: int


class Quantized(NamedTuple):
    """A tensor behind a quantizer, or behind none.

    Attributes
    ----------
    source : str
        What goes in.
    scales : Scales or None
    is_coded : bool
        Whether `source` is codes, of which there is DequantizeLinear alone.
    """

    source: str
    scales: Scales | None
    is_coded: bool = False


class LinearLayer(NamedTuple):
    """``x W^T + b``.

    Attributes
    ----------
    node : str
        Name of the node of the product.
    source : str
        x, before its quantizer.
    input_scales : Scales or None
    weight : ndarray, shape (out_features, in_features), float32
    weight_scales : Scales or None
        With the axis of `weight`.
    bias : ndarray, shape (out_features,), float32
    """

    node: str
    source: str
    input_scales: Scales | None
    weight: Floats
    weight_scales: Scales | None
    bias: Floats


class Normalization(NamedTuple):
    """LayerNormalization over the last axis.

    Attributes
    ----------
    node : str
        Name of its last node.
    source : str
    weight, bias : ndarray, float32
    epsilon : float
    """

    node: str
    source: str
    weight: Floats
    bias: Floats
    epsilon: float


class Patterns:
    """Reads the patterns of one graph.

    Parameters
    ----------
    view : GraphView
    """

    def __init__(self, view: GraphView) -> None:
        self.view = view

    # ---- single nodes --------------------------------------------------------------------------------------

    def op(self, name: str) -> str:
        """Return the operator that makes a tensor, casts left out; empty for inputs and constants.

        Parameters
        ----------
        name : str
        """
        return op_of(self.view.producer(self.view.source(name, _COPIES)))

    def node(self, name: str, *ops: str) -> onnx.NodeProto:
        """Return the node that makes a tensor, casts left out.

        Parameters
        ----------
        name : str
        *ops : str
            What it may be.

        Raises
        ------
        CheckpointError
            If it is none of them, or has fewer inputs than any of them can do with.
        """
        found = self.view.producer(self.view.source(name, _COPIES))
        if found is None or op_of(found) not in ops or not found.input:
            raise self.unexpected(name, " or ".join(ops))
        return found

    def unexpected(self, name: str, expected: str) -> CheckpointError:
        """Return the error for a tensor that is not made as a BERT makes it.

        Parameters
        ----------
        name : str
        expected : str
            Operators, or what should be there in words.
        """
        found = self.view.producer(self.view.source(name, _COPIES))
        if found is None:
            return CheckpointError(f"tensor {name!r:.200}: expected the result of {expected}")
        return CheckpointError(f"{name_of(found)}: expected {expected}, got {op_of(found)}")

    def operands(self, node: onnx.NodeProto) -> tuple[str, str]:
        """Return the two inputs of a node.

        Parameters
        ----------
        node : onnx.NodeProto

        Raises
        ------
        CheckpointError
            If it has another number of them.
        """
        if len(node.input) != 2:
            raise CheckpointError(
                f"{name_of(node)}: expected 2 inputs of {op_of(node)}, got {len(node.input)}"
            )
        return node.input[0], node.input[1]

    def with_constant(self, node: onnx.NodeProto) -> tuple[str, Floats]:
        """Return the computed and the constant operand of a node with two, in this order.

        Parameters
        ----------
        node : onnx.NodeProto

        Raises
        ------
        CheckpointError
            If not exactly one is constant.
        """
        left, right = self.operands(node)
        values = [self.view.values(left), self.view.values(right)]
        if (values[0] is None) == (values[1] is None):
            raise CheckpointError(f"{name_of(node)}: expected {op_of(node)} with one constant")
        if values[1] is not None:
            return left, values[1].astype(np.float32)
        assert values[0] is not None
        return right, values[0].astype(np.float32)

    def number(self, name: str, where: onnx.NodeProto) -> float:
        """Return a constant of one element.

        Parameters
        ----------
        name : str
        where : onnx.NodeProto
            That takes it, for the message.
        """
        values = self.view.values(name)
        if values is None or values.size != 1:
            raise CheckpointError(f"{name_of(where)}: expected one number as {name!r:.120}")
        return float(values.reshape(-1)[0])

    # ---- quantizers ----------------------------------------------------------------------------------------

    def quantized(self, name: str) -> Quantized:
        """Return what goes into the quantizer that makes a tensor; the tensor itself if none does.

        Parameters
        ----------
        name : str

        Raises
        ------
        CheckpointError
            If the pair of nodes is none of a symmetric quantizer of 8 bits.
        """
        made = self.view.source(name, _COPIES)
        node = self.view.producer(made)
        if op_of(node) not in DEQUANTIZE:
            return Quantized(made, None)
        assert node is not None
        scales = self._scales(node)
        maker = self.view.producer(node.input[0])
        if maker is None or op_of(maker) not in QUANTIZE or not maker.input:
            return Quantized(node.input[0], scales, True)
        others = self._scales(maker)
        if not np.array_equal(scales.scale, others.scale) or scales[1:3] != others[1:3]:
            raise CheckpointError(f"{scales.node}: dequantizes otherwise than {others.node} quantizes")
        return Quantized(self.view.source(maker.input[0], _COPIES), scales)

    def _scales(self, node: onnx.NodeProto) -> Scales:
        where, kind = name_of(node), code_kind(self.view, node) or "an unknown type"
        if kind not in _BOUNDS:
            raise CheckpointError(f"{where}: expected codes of {', '.join(_BOUNDS)}, got {kind}")
        inputs = [*node.input[:3], "", ""]
        scale, zero_point = self.view.values(inputs[1]), self.view.values(inputs[2])
        if scale is None or not scale.size or scale.ndim > 1 or not (scale > 0).all():
            raise CheckpointError(
                f"{where}: expected one positive scale, or a list of them, as {inputs[1]!r:.120}"
            )
        if inputs[2] and (zero_point is None or zero_point.any()):
            raise CheckpointError(f"{where}: expected the zero point 0, quantizers here are symmetric")
        axis = attribute(node, "axis", 1)
        scale = scale.reshape(()) if scale.size == 1 else scale
        return Scales(
            where, kind, _BOUNDS[kind], scale.astype(np.float32), axis if isinstance(axis, int) else 1
        )

    # ---- layers --------------------------------------------------------------------------------------------

    def linear(self, name: str) -> LinearLayer:
        """Return the linear layer that makes a tensor.

        Parameters
        ----------
        name : str

        Raises
        ------
        CheckpointError
            If it is neither MatMul with an Add of a constant, nor Gemm of x with constants.
        """
        node = self.node(name, "Add", "Gemm")
        if op_of(node) == "Gemm":
            return self._gemm(node)
        made, bias = self.with_constant(node)
        product = self.node(made, "MatMul")
        left, right = self.operands(product)
        return self._layer(product, left, right, bias, False)

    def _gemm(self, node: onnx.NodeProto) -> LinearLayer:
        bias = self.view.values(node.input[2]) if len(node.input) == 3 else None
        factors = [attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)]
        if bias is None or factors != [1.0, 1.0] or attribute(node, "transA", 0) != 0:
            raise CheckpointError(f"{name_of(node)}: expected x W + b with a constant b, and no factors")
        is_turned = attribute(node, "transB", 0) == 1
        return self._layer(node, node.input[0], node.input[1], bias.astype(np.float32), is_turned)

    def _layer(
        self, node: onnx.NodeProto, left: str, right: str, bias: Floats, is_turned: bool
    ) -> LinearLayer:
        """Return the layer of a product; `is_turned`: whether the node transposes its second operand."""
        source, input_scales, _ = self.quantized(left)
        right = self.view.source(right, _COPIES)
        if self.op(right) == "Transpose":
            turn = self.node(right, "Transpose")
            if attribute(turn, "perm", [1, 0]) != [1, 0]:
                raise CheckpointError(f"{name_of(turn)}: expected the transpose of a matrix")
            is_turned, right = not is_turned, turn.input[0]
        stored, scales, is_coded = self.quantized(right)
        values = self.view.values(stored)
        if values is None or values.ndim != 2:
            raise CheckpointError(f"{name_of(node)}: expected a constant matrix as its second operand")
        if input_scales is not None and input_scales.scale.size > 1:
            raise CheckpointError(f"{input_scales.node}: expected one scale for an activation")
        if scales is not None:
            axis = scales.axis % 2 if is_turned else 1 - scales.axis % 2
            scales = scales._replace(axis=axis)
        weight = values.astype(np.float32) if is_turned else np.ascontiguousarray(values.T, np.float32)
        if scales is not None and scales.scale.size not in (1, weight.shape[scales.axis]):
            raise CheckpointError(f"{scales.node}: {scales.scale.size} scales for a weight of {weight.shape}")
        if scales is not None and is_coded:
            weight = weight * (scales.scale if scales.axis == 1 else scales.scale.reshape(-1, 1))
        if bias.shape != weight.shape[:1]:
            raise CheckpointError(
                f"{name_of(node)}: a bias of {bias.shape} beside a weight of {weight.shape}"
            )
        return LinearLayer(name_of(node), source, input_scales, weight, scales, bias)

    def is_normalization(self, name: str) -> bool:
        """Whether a tensor is made by LayerNormalization, in one node or in many.

        Parameters
        ----------
        name : str
        """
        if self.op(name) == "LayerNormalization":
            return True
        if self.op(name) != "Add":
            return False
        makers = [self.op(each) for each in self.node(name, "Add").input]
        return "Mul" in makers and "" in makers

    def normalization(self, name: str) -> Normalization:
        """Return the LayerNormalization that makes a tensor.

        Parameters
        ----------
        name : str

        Raises
        ------
        CheckpointError
            If it is none over the last axis.
        """
        node = self.node(name, "LayerNormalization", "Add")
        if op_of(node) == "LayerNormalization":
            axis = attribute(node, "axis", -1)
            weight, bias = (self.view.values(each) for each in [*node.input[1:3], "", ""][:2])
            if axis != -1 or weight is None or bias is None or weight.shape != bias.shape:
                raise CheckpointError(
                    f"{name_of(node)}: expected the last axis, and constants to scale and shift"
                )
            epsilon = float(attribute(node, "epsilon", 1e-5))
            where = name_of(node)
            return self._normalization(where, node.input[0], weight, bias, epsilon)
        scaled, bias = self.with_constant(node)
        divided, weight = self.with_constant(self.node(scaled, "Mul"))
        centred, deviation = self.operands(self.node(divided, "Div"))
        variance, epsilon_values = self.with_constant(self.node(self.node(deviation, "Sqrt").input[0], "Add"))
        squares = self.node(self.node(variance, "ReduceMean").input[0], "Pow", "Mul")
        left, right = self.operands(squares)
        is_square = left == right if op_of(squares) == "Mul" else self.number(right, squares) == 2.0
        source, mean = self.operands(self.node(centred, "Sub"))
        if not is_square or left != centred or self.node(mean, "ReduceMean").input[0] != source:
            raise CheckpointError(f"{name_of(node)}: expected the end of a LayerNormalization")
        return self._normalization(name_of(node), source, weight, bias, float(epsilon_values.reshape(-1)[0]))

    def _normalization(
        self, where: str, source: str, weight: npt.NDArray[Any], bias: npt.NDArray[Any], epsilon: float
    ) -> Normalization:
        if weight.ndim != 1 or weight.shape != bias.shape or not 0.0 < epsilon < math.inf:
            raise CheckpointError(f"{where}: expected two lists of numbers and an epsilon above 0")
        # The shortest decimal number with this float32: configurations have 1e-12, not 9.999999960041972e-13.
        shortest = float(str(np.float32(epsilon)))
        copies = weight.astype(np.float32), bias.astype(np.float32)
        return Normalization(where, self.view.source(source, _COPIES), *copies, shortest)

    def activation(self, name: str) -> tuple[str, str]:
        """Return the activation function that makes a tensor, as in ``config.hidden_act``, and its argument.

        Parameters
        ----------
        name : str

        Raises
        ------
        CheckpointError
            If the nodes are those of none that is read.
        """
        op = self.op(name)
        node = self.node(name, "Gelu", "Mul", "Relu", "Sigmoid", "Tanh")
        if op == "Gelu":
            is_tanh = attribute(node, "approximate", "none") == "tanh"
            return ("gelu_new" if is_tanh else "gelu"), node.input[0]
        if op != "Mul":
            return op.lower(), node.input[0]
        # x (1 + erf(x / sqrt 2)) / 2, the half as a factor of either side or of the product.
        half = 1.0
        factors: list[str] = []
        open_ends = [name]
        while open_ends and len(factors) < 3:
            each = open_ends.pop()
            if self.view.values(each) is not None:
                half *= self.number(each, node)
            elif self.op(each) == "Mul":
                open_ends += self.operands(self.node(each, "Mul"))
            else:
                factors.append(self.view.source(each, _COPIES))
        sums = [each for each in factors if self.op(each) == "Add" and self.op(self._erf_of(each)) == "Erf"]
        if len(factors) != 2 or len(sums) != 1 or abs(half - 0.5) > 1e-6:
            raise self.unexpected(name, "the end of an activation function (gelu, relu, sigmoid or tanh)")
        argument = next(each for each in factors if each != sums[0])
        divided = self.node(self.node(self._erf_of(sums[0]), "Erf").input[0], "Div", "Mul")
        source, root = self.with_constant(divided)
        factor = float(root.reshape(-1)[0])
        expected = math.sqrt(2.0) if op_of(divided) == "Div" else math.sqrt(0.5)
        if self.view.source(source, _COPIES) != argument or abs(factor / expected - 1.0) > 1e-5:
            raise self.unexpected(name, "gelu")
        return "gelu", argument

    def _erf_of(self, name: str) -> str:
        """Return what 1 is added to; the name itself if nothing is."""
        node = self.node(name, "Add")
        ends = [each for each in node.input if self.view.values(each) is None]
        return ends[0] if len(ends) == 1 else name

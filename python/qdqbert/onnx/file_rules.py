# SPDX-License-Identifier: Apache-2.0
"""Rules about a file as a whole: inputs, tensors and where they lie, and what has to be constant."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from qdqbert.errors import CheckpointError
from qdqbert.onnx.graph_view import GraphView, name_of, op_of
from qdqbert.onnx.rule import Finding, Rule

__all__ = ["RULES"]

# Operator -> (input that has to be a constant, first opset in which it is an input).
_CONSTANT_INPUTS = {
    "OneHot": (1, 9),
    "Pad": (3, 18),
    "ReduceL1": (1, 18),
    "ReduceL2": (1, 18),
    "ReduceLogSum": (1, 18),
    "ReduceLogSumExp": (1, 18),
    "ReduceMax": (1, 18),
    "ReduceMean": (1, 18),
    "ReduceMin": (1, 18),
    "ReduceProd": (1, 18),
    "ReduceSumSquare": (1, 18),
    "ReduceSum": (1, 13),
    "Squeeze": (1, 13),
    "Unsqueeze": (1, 13),
}
_FIRST_OPSET = 10


def _opset_has_quantization(view: GraphView) -> Iterator[Finding]:
    if view.opset < _FIRST_OPSET:
        version = f"the opset is {view.opset}" if view.opset else "opset_import does not list ONNX's own"
        yield Finding("opset_import", version)


def _inputs_have_ranks(view: GraphView) -> Iterator[Finding]:
    for name, info in view.inputs.items():
        if name in view.initializers:
            continue
        shape = view.shape(name)
        if shape is None:
            yield Finding(name, "the input has no shape, not even a number of axes")
        elif any(isinstance(size, int) and size <= 0 for size in shape):
            yield Finding(name, f"the input has the shape {list(shape)}")
        elif not info.type.tensor_type.elem_type:
            yield Finding(name, "the input has no element type")


def _axes_are_constant(view: GraphView) -> Iterator[Finding]:
    for node in view.nodes:
        index, first = _CONSTANT_INPUTS.get(op_of(node), (0, 1 << 30))
        if view.opset < first or len(node.input) <= index or not node.input[index]:
            continue
        if view.constant(node.input[index]) is None:
            taken = f"{op_of(node)} takes {node.input[index]!r}"
            yield Finding(name_of(node), f"{taken}, which is computed or an input")


def _tensors_are_whole(view: GraphView) -> Iterator[Finding]:
    constants = [tensor for node in view.nodes for each in node.attribute for tensor in _tensors_of(each)]
    for tensor in (*view.graph.initializer, *constants):
        try:
            view.reader.verify(tensor)
        except CheckpointError as error:
            yield Finding(tensor.name or "a tensor without a name", str(error))


def _tensors_of(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors


RULES = (
    Rule(
        "opset",
        "The operator set is one with QuantizeLinear, 10 or newer.",
        "refused",
        "export with opset 13 or newer",
        "ONNX operator reference, QuantizeLinear",
        _opset_has_quantization,
    ),
    Rule(
        "input-shape",
        "Every input has a type and a number of axes, whose sizes are positive or free.",
        "refused",
        "give free sizes names (batch_size, seq_len) and the others numbers",
        "TensorRT documentation, Working with Dynamic Shapes",
        _inputs_have_ranks,
    ),
    Rule(
        "constant-axes",
        "Axes and sizes that decide the number of axes of a result are constants.",
        "refused",
        "fold constants when exporting",
        "onnx/onnx-tensorrt, docs/operators.md",
        _axes_are_constant,
    ),
    Rule(
        "tensor-data",
        "Every tensor has the elements of its sizes, in the file or in one of its folder.",
        "refused",
        "export again, and keep the files of the model together in one folder, without links out of it",
        "ONNX documentation, External Data Security; CVE-2022-25882, CVE-2024-27318",
        _tensors_are_whole,
    ),
)
"""Rules of this module."""

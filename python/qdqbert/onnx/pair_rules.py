# SPDX-License-Identifier: Apache-2.0
"""Rules about single nodes QuantizeLinear and DequantizeLinear: scale, zero point, axis, types, partner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from qdqbert.onnx.graph_view import GraphView, attribute, name_of, op_of
from qdqbert.onnx.rule import Finding, Rule
from qdqbert.onnx.tensor_values import kind_of

__all__ = ["DEQUANTIZE", "QUANTIZE", "RULES", "code_kind"]

Array = npt.NDArray[Any]

# TensorRT's own operators say the type of the codes by their names.
_CUSTOM = {
    "trt:TRT_FP8QuantizeLinear": "FLOAT8E4M3FN",
    "trt:TRT_FP8DequantizeLinear": "FLOAT8E4M3FN",
    "trt:TRT_INT4QuantizeLinear": "INT4",
    "trt:TRT_INT4DequantizeLinear": "INT4",
}
QUANTIZE = frozenset({"QuantizeLinear", *(op for op in _CUSTOM if "Dequantize" not in op)})
"""Operators that make codes."""
DEQUANTIZE = frozenset({"DequantizeLinear", *(op for op in _CUSTOM if "Dequantize" in op)})
"""Operators that take them."""

_ALLOWED = ("INT8", "FLOAT8E4M3FN", "INT4")
_FIRST_OPSET = {"INT8": 10, "FLOAT8E4M3FN": 19, "INT4": 21}
_PER_CHANNEL_OPSET = 13
_DEFAULT_AXIS = 1

_PARSER = "onnx/onnx-tensorrt, onnxOpImporters.cpp, QuantDequantLinearHelper"
_OPERATORS = "TensorRT operator reference, Quantize and Dequantize"
_GUIDE = "TensorRT documentation, Explicit Quantization"


class _Linear(NamedTuple):
    """A node of either kind, taken apart."""

    node: onnx.NodeProto
    op: str
    data: str
    scale: str
    zero_point: str

    @property
    def quantizes(self) -> bool:
        return self.op in QUANTIZE


def _linears(view: GraphView) -> Iterator[_Linear]:
    for node in view.nodes:
        op = op_of(node)
        if op in QUANTIZE or op in DEQUANTIZE:
            inputs = [*node.input[:3], "", "", ""]
            yield _Linear(node, op, *inputs[:3])


def code_kind(view: GraphView, node: onnx.NodeProto) -> str | None:
    """Return the element type of the codes that a node makes or takes; None if the file does not say.

    Parameters
    ----------
    view : GraphView
    node : onnx.NodeProto
        One of `QUANTIZE` or `DEQUANTIZE`.
    """
    op = op_of(node)
    if op in _CUSTOM:
        return _CUSTOM[op]
    if len(node.input) > 2 and node.input[2]:
        return view.kind(node.input[2])
    if op in DEQUANTIZE and node.input:
        maker = view.producer(node.input[0])
        if maker is not None and op_of(maker) in QUANTIZE:
            return code_kind(view, maker)
        return view.kind(node.input[0])
    number = attribute(node, "output_dtype", 0)
    return kind_of(number) if isinstance(number, int) and number else "UINT8"


def _zero_point_is_zero(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        values = view.values(each.zero_point)
        if values is not None and np.any(values != 0):
            first = values[values != 0].flat[0]
            yield Finding(name_of(each.node), f"the zero point {each.zero_point!r} has {first}")


def _zero_point_is_constant(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        if each.zero_point and view.constant(each.zero_point) is None:
            yield Finding(name_of(each.node), f"the zero point {each.zero_point!r} is computed or an input")


def _codes_have_an_allowed_type(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        kind = code_kind(view, each.node)
        if kind is None or kind in _ALLOWED:
            continue
        if each.quantizes and not each.zero_point and not attribute(each.node, "output_dtype", 0):
            yield Finding(name_of(each.node), "there is no zero point, and without one codes are UINT8")
        else:
            yield Finding(name_of(each.node), f"its codes are {kind}")


def _types_are_in_the_opset(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        kind = code_kind(view, each.node)
        first = _FIRST_OPSET.get(kind or "", 0)
        if each.op not in _CUSTOM and view.opset < first:
            yield Finding(
                name_of(each.node), f"its codes are {kind}, in ONNX from opset {first} on; it is {view.opset}"
            )


def _custom_domain_is_imported(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        if each.op in _CUSTOM and "trt" not in view.opsets:
            yield Finding(name_of(each.node), "opset_import does not list the domain 'trt'")


def _scale_is_constant(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        if not each.scale:
            yield Finding(name_of(each.node), "it has no scale")
        elif view.constant(each.scale) is None:
            yield Finding(name_of(each.node), f"the scale {each.scale!r} is computed or an input")


def _scale_is_positive_and_finite(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        values = view.values(each.scale)
        if values is None:
            continue
        if not values.size:
            yield Finding(name_of(each.node), f"the scale {each.scale!r} has no elements")
        elif not np.issubdtype(values.dtype, np.floating):
            yield Finding(name_of(each.node), f"the scale {each.scale!r} is {values.dtype}")
        else:
            wrong = values[~((values > 0) & np.isfinite(values))]
            if wrong.size:
                yield Finding(
                    name_of(each.node),
                    f"the scale {each.scale!r} has {wrong.flat[0]} ({wrong.size} of {values.size} such)",
                )


def _zero_point_matches_scale(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        scale, zero_point = view.shape(each.scale), view.shape(each.zero_point)
        if not each.zero_point or scale is None or zero_point is None:
            continue
        if _count(scale) != _count(zero_point):
            shapes = f"the scale has the shape {list(scale)}, the zero point {list(zero_point)}"
            yield Finding(name_of(each.node), shapes)


def _scale_fits_the_axis(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        shape, data = view.shape(each.scale), view.shape(each.data)
        if shape is None or _count(shape) in (None, 0, 1):
            continue
        scale = list(shape)
        if len(scale) > 1:
            kind = code_kind(view, each.node)
            if kind != "INT4":
                yield Finding(name_of(each.node), f"the scale has the shape {scale}, its codes are {kind}")
            continue
        if data is None:
            continue
        axis = attribute(each.node, "axis", _DEFAULT_AXIS)
        sizes = list(data)
        if not isinstance(axis, int) or not -len(sizes) <= axis < len(sizes):
            yield Finding(name_of(each.node), f"the axis is {axis}, the tensor has {len(sizes)} axes")
        elif isinstance(sizes[axis], int) and sizes[axis] != scale[0]:
            yield Finding(
                name_of(each.node),
                f"there are {scale[0]} scales along axis {axis} of a tensor of the shape {sizes}",
            )


def _per_channel_only_on_weights(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        scale = view.shape(each.scale)
        if scale is not None and _count(scale) not in (None, 0, 1) and not view.is_constant(each.data):
            scales = f"it has {_count(scale)} scales"
            yield Finding(name_of(each.node), f"{scales} and its input {each.data!r} is no constant")


def _per_channel_needs_opset_13(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        scale = view.shape(each.scale)
        if view.opset < _PER_CHANNEL_OPSET and scale is not None and _count(scale) not in (None, 0, 1):
            yield Finding(name_of(each.node), f"it has {_count(scale)} scales, and the opset is {view.opset}")


def _per_tensor_has_no_axis(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        scale = view.shape(each.scale)
        has_axis = any(entry.name == "axis" for entry in each.node.attribute)
        if has_axis and scale is not None and _count(scale) == 1:
            axis = attribute(each.node, "axis")
            yield Finding(name_of(each.node), f"it has one scale, and the axis {axis}")


def _dequantize_takes_codes(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        if each.quantizes:
            continue
        maker = view.producer(each.data)
        if maker is not None and op_of(maker) in QUANTIZE:
            continue
        tensor = view.constant(each.data)
        if tensor is None:
            made = f"made by {op_of(maker)}" if maker is not None else "no constant"
            yield Finding(name_of(each.node), f"its input {each.data!r} is {made}")
        elif kind_of(tensor.data_type) not in (*_ALLOWED, "UINT8"):
            yield Finding(
                name_of(each.node), f"its input {each.data!r} is a constant of {kind_of(tensor.data_type)}"
            )


def _codes_are_only_dequantized(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        if not each.quantizes:
            continue
        made = each.node.output[0] if each.node.output else ""
        takers = [taker.node for taker in view.consumers(made) if op_of(taker.node) not in DEQUANTIZE]
        if made in view.outputs:
            yield Finding(name_of(each.node), f"its codes are the output {made!r} of the graph")
        elif takers:
            yield Finding(name_of(each.node), f"its codes go to {name_of(takers[0])} ({op_of(takers[0])})")
        elif not view.consumers(made):
            yield Finding(name_of(each.node), "nothing takes its codes")


def _pair_has_one_scale(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        maker = view.producer(each.data)
        if each.quantizes or maker is None or op_of(maker) not in QUANTIZE or len(maker.input) < 2:
            continue
        mine, theirs = view.values(each.scale), view.values(maker.input[1])
        if mine is not None and theirs is not None and not _is_same(mine, theirs):
            other = f"that of {name_of(maker)} {_short(theirs)}"
            yield Finding(name_of(each.node), f"its scale is {_short(mine)}, {other}")
        elif mine is not None and mine.size > 1 and _axis_of(each.node) != _axis_of(maker):
            yield Finding(
                name_of(each.node),
                f"its axis is {_axis_of(each.node)}, that of {name_of(maker)} {_axis_of(maker)}",
            )


def _float8_saturates(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        if each.op == "QuantizeLinear" and attribute(each.node, "saturate", 1) == 0:
            yield Finding(name_of(each.node), "saturate is 0")


def _int4_is_for_weights(view: GraphView) -> Iterator[Finding]:
    for each in _linears(view):
        if code_kind(view, each.node) != "INT4":
            continue
        data = view.shape(each.data)
        if not view.is_constant(each.data):
            yield Finding(name_of(each.node), f"its input {each.data!r} is no constant")
        elif data and isinstance(data[-1], int) and data[-1] % 2:
            yield Finding(name_of(each.node), f"the last axis of {each.data!r} has the odd size {data[-1]}")


def _count(shape: tuple[int | str, ...]) -> int | None:
    """Return the number of elements; None if a size is free."""
    count = 1
    for size in shape:
        if not isinstance(size, int):
            return None
        count *= size
    return count


def _axis_of(node: onnx.NodeProto) -> object:
    return attribute(node, "axis", _DEFAULT_AXIS)


def _is_same(mine: Array, theirs: Array) -> bool:
    return np.array_equal(mine.reshape(-1), theirs.reshape(-1))


def _short(values: Array) -> str:
    first = f"{values.flat[0]:.9g}" if values.size else "nothing"
    return first if values.size == 1 else f"{values.size} numbers from {first} on"


_SYMMETRIC = "export with symmetric quantizers (this package has no others): zero point 0"

RULES = (
    Rule(
        "zero-point-zero",
        "Every zero point is 0: quantization is symmetric.",
        "refused",
        _SYMMETRIC,
        f"{_PARSER}; NVIDIA/TensorRT#2774, #4698",
        _zero_point_is_zero,
    ),
    Rule(
        "zero-point-constant",
        "A zero point is a constant.",
        "refused",
        "make it an initializer of zeros",
        _OPERATORS,
        _zero_point_is_constant,
    ),
    Rule(
        "code-type",
        "Codes are INT8, FLOAT8E4M3FN or INT4, which the type of the zero point says.",
        "refused",
        "quantize to signed 8 bits, with an int8 zero point of 0 that is written out",
        f"{_PARSER}; NVIDIA/TensorRT#1510, #1580",
        _codes_have_an_allowed_type,
    ),
    Rule(
        "code-type-opset",
        "The type of the codes is in the operator set of the file.",
        "refused",
        "export with a newer opset",
        "ONNX operator reference, QuantizeLinear",
        _types_are_in_the_opset,
    ),
    Rule(
        "custom-domain",
        "TensorRT's own operators are of an operator set that the file imports.",
        "refused",
        "add the domain 'trt', version 1, to opset_import",
        "ONNX IR specification, operator sets",
        _custom_domain_is_imported,
    ),
    Rule(
        "scale-constant",
        "A scale is a constant: dynamic quantization is not supported.",
        "refused",
        "calibrate, so that every quantizer has a range, and export with it",
        f"{_OPERATORS}; NVIDIA/TensorRT#4698",
        _scale_is_constant,
    ),
    Rule(
        "scale-positive",
        "Every scale is a floating-point number above 0, and finite.",
        "refused",
        "give a channel whose range is 0 the scale 1, and look for the NaN that made another one",
        _PARSER,
        _scale_is_positive_and_finite,
    ),
    Rule(
        "zero-point-shape",
        "Scale and zero point have as many elements as each other.",
        "refused",
        "write one zero for each scale",
        _PARSER,
        _zero_point_matches_scale,
    ),
    Rule(
        "scale-shape",
        "There is one scale, or one for each index of the axis; blocks are for INT4 alone.",
        "refused",
        "set axis to the axis that the scales follow",
        f"{_PARSER}; NVIDIA/TensorRT#994, microsoft/onnxruntime#10045",
        _scale_fits_the_axis,
    ),
    Rule(
        "per-channel-activation",
        "Scales along an axis are for weights; an activation has one.",
        "refused",
        "calibrate the input quantizer with axis=None",
        f"{_GUIDE}; {_PARSER}",
        _per_channel_only_on_weights,
    ),
    Rule(
        "per-channel-opset",
        "Scales along an axis need opset 13, the first with the attribute axis.",
        "refused",
        "export with opset 13 or newer",
        "ONNX operator reference, QuantizeLinear; NVIDIA/TensorRT#994",
        _per_channel_needs_opset_13,
    ),
    Rule(
        "axis-per-tensor",
        "A node with one scale has no attribute axis.",
        "refused",
        "leave axis out where the scale is a scalar",
        "OpenPPL/ppq#346",
        _per_tensor_has_no_axis,
    ),
    Rule(
        "dequantize-codes",
        "DequantizeLinear takes codes of QuantizeLinear, or constant codes of 8 or 4 bits.",
        "refused",
        "leave biases in float, and quantize inside the graph",
        "onnx/onnx-tensorrt#850",
        _dequantize_takes_codes,
    ),
    Rule(
        "quantize-dequantize",
        "Codes of QuantizeLinear go to DequantizeLinear and nowhere else.",
        "refused",
        "put DequantizeLinear right behind it",
        _GUIDE,
        _codes_are_only_dequantized,
    ),
    Rule(
        "pair-scale",
        "QuantizeLinear and its DequantizeLinear have the same scales along the same axis.",
        "wrong",
        "use one scale for both",
        "Wu et al., 2020, section 3.1: a quantizer has one scale",
        _pair_has_one_scale,
    ),
    Rule(
        "float8-saturates",
        "Codes saturate.",
        "wrong",
        "leave the attribute saturate at 1; TensorRT saturates whatever it says",
        "TensorRT API, IQuantizeLayer: clamping range of FP8",
        _float8_saturates,
    ),
    Rule(
        "int4-weight",
        "4 bits are for weights, with an even size of the last axis.",
        "refused",
        "quantize activations to 8 bits",
        f"{_PARSER}; TensorRT documentation, Working with Quantized Types",
        _int4_is_for_weights,
    ),
)
"""Rules of this module."""

# SPDX-License-Identifier: Apache-2.0
"""Run graphs: with ONNX's own reference evaluator, and with what runtimes are installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qdqbert.onnx.export import build
from qdqbert.onnx.files import message_bytes


def exported(model: Any, **options: Any) -> onnx.ModelProto:
    """What `qdqbert.onnx.export` writes, read by the ``onnx`` package."""
    proto, graph = build(model, **options)
    return onnx.load_model_from_string(message_bytes(proto, graph.initializers))


def check(proto: onnx.ModelProto) -> None:
    """The package's own checks, with strict type and shape inference."""
    onnx.checker.check_model(proto, full_check=True)


def with_taps(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The same graph with inner tensors as outputs too."""
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    kinds = {info.name: info for info in inferred.graph.value_info}
    present = {each.name for each in [*proto.graph.output, *proto.graph.input]}
    for name in dict.fromkeys(names):
        if name not in present:
            copied.graph.output.add().CopyFrom(
                onnx.helper.make_tensor_value_info(name, kinds[name].type.tensor_type.elem_type, None)
            )
    return copied


def runner(
    proto: onnx.ModelProto, taps: Sequence[str] = ()
) -> Callable[[dict[str, Any]], dict[str, np.ndarray]]:
    """Function from inputs to outputs and inner tensors; inputs among `taps` come back too."""
    tapped = with_taps(proto, taps)
    opset = next(each.version for each in proto.opset_import if each.domain == "")
    evaluator = ReferenceEvaluator(tapped, new_ops=_OPS if opset < 19 else None)
    names = [output.name for output in tapped.graph.output]

    def run(inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        asked = {name: value for name, value in inputs.items() if name in taps}
        return asked | dict(zip(names, evaluator.run(None, inputs), strict=True))

    return run


def evaluate(
    proto: onnx.ModelProto, inputs: dict[str, Any], taps: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Run a graph once; see `runner`."""
    return runner(proto, taps)(inputs)


def tensors_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The constant tensors by name."""
    return {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}


def quantize_nodes(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """QuantizeLinear nodes by the dotted name of their quantizer."""
    return {
        node.name.strip("/").removesuffix("/QuantizeLinear").replace("/", "."): node
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
    }


def dequantize_nodes(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """DequantizeLinear nodes by the dotted name of their quantizer."""
    return {
        node.name.strip("/").removesuffix("/DequantizeLinear").replace("/", "."): node
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear"
    }


# The evaluator has these two from opset 19 on; the definition of 13 is the formula of its document.


class QuantizeLinear(OpRun):
    """saturate(round(x / scale) + zero point), half to even."""

    op_domain = ""

    def _run(self, x: Any, scale: Any, zero: Any, axis: int = 1, **_: Any) -> tuple[Any]:
        limits = np.iinfo(zero.dtype)
        codes = np.rint(x / _along(scale, x, axis)) + _along(zero, x, axis)
        return (np.clip(codes, limits.min, limits.max).astype(zero.dtype),)


class DequantizeLinear(OpRun):
    """(x - zero point) * scale."""

    op_domain = ""

    def _run(self, x: Any, scale: Any, zero: Any, axis: int = 1, **_: Any) -> tuple[Any]:
        centred = x.astype(np.float32) - _along(zero, x, axis).astype(np.float32)
        return (centred * _along(scale, x, axis),)


def _along(vector: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    if vector.ndim == 0:
        return vector
    shape = [1] * x.ndim
    shape[axis] = -1
    return vector.reshape(shape)


_OPS = [QuantizeLinear, DequantizeLinear]

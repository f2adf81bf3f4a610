# SPDX-License-Identifier: Apache-2.0
"""ONNX files that lie, from a seed: fields of a sound one become what they should not be, bytes change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 2**31 - 1, -(2**31), 2**62, -(2**63), 2**63 - 1)
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e-45, 3e38)
_TEXTS = ("", "x", "\0", "../x", "/etc/passwd", "a" * 5000, "QuantizeLinear", "DequantizeLinear", "If")
_INTEGERS = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


class HostileOnnx:
    """A source of damaged files.

    Parameters
    ----------
    sound : onnx.ModelProto
    seed : int
    """

    def __init__(self, sound: onnx.ModelProto, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._sound = sound
        self._kinds: tuple[Callable[[onnx.ModelProto], str], ...] = (
            self._field,
            self._field,
            self._field,
            self._name,
            self._drop,
            self._repeat,
            self._operator,
            self._sizes,
        )

    def write(self, path: Path) -> str:
        """Write a damaged file; return what was done."""
        model = onnx.ModelProto()
        model.CopyFrom(self._sound)
        done = [self._pick(self._kinds)(model) for _ in range(int(self._random.integers(1, 4)))]
        content = bytearray(model.SerializeToString())
        if not self._random.integers(8):
            for _ in range(int(self._random.integers(1, 4))):
                content[int(self._random.integers(len(content)))] = int(self._random.integers(256))
            done.append("bytes")
        path.write_bytes(content)
        return "; ".join(done)

    def _pick(self, choices: Any) -> Any:
        return choices[int(self._random.integers(len(choices)))]

    def _messages(self, message: Message) -> list[Message]:
        """All messages below one, and it."""
        found = [message]
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                for each in value if field.is_repeated else (value,):
                    found += self._messages(each)
        return found

    def _value(self, field: FieldDescriptor, names: list[str]) -> Any:
        if field.type == FieldDescriptor.TYPE_ENUM:
            return int(self._pick([each.number for each in field.enum_type.values]))
        if field.cpp_type in _INTEGERS:
            number = int(self._pick(_NUMBERS))
            if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
                return abs(number)
            return number if field.cpp_type == FieldDescriptor.CPPTYPE_INT64 else number % 2**31
        if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return self._pick(_FLOATS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._random.bytes(int(self._random.integers(40)))
        return self._pick((*_TEXTS, *names))

    def _field(self, model: onnx.ModelProto) -> str:
        """Any plain field of any message becomes anything."""
        message = self._pick(self._messages(model))
        fields = [each for each in message.DESCRIPTOR.fields if each.type != FieldDescriptor.TYPE_MESSAGE]
        if not fields:
            return "nothing"
        field = self._pick(fields)
        value = self._value(field, self._names(model))
        if field.is_repeated:
            target = getattr(message, field.name)
            if len(target) and self._random.integers(2):
                target[int(self._random.integers(len(target)))] = value
            else:
                target.append(value)
        else:
            setattr(message, field.name, value)
        return f"{message.DESCRIPTOR.name}.{field.name} = {value!r:.40}"

    def _names(self, model: onnx.ModelProto) -> list[str]:
        return [name for node in model.graph.node for name in (*node.input, *node.output)] or ["x"]

    def _name(self, model: onnx.ModelProto) -> str:
        """An input or output of a node becomes another tensor: circles, doubles, gaps."""
        node = self._pick(model.graph.node) if model.graph.node else onnx.NodeProto()
        places = node.input if self._random.integers(2) else node.output
        if not places:
            return "nothing"
        index, name = int(self._random.integers(len(places))), self._pick(self._names(model))
        places[index] = name
        return f"{node.name}[{index}] = {name!r:.40}"

    def _drop(self, model: onnx.ModelProto) -> str:
        part = self._pick((model.graph.node, model.graph.initializer, model.graph.input, model.opset_import))
        if part:
            del part[int(self._random.integers(len(part)))]
        return "dropped"

    def _repeat(self, model: onnx.ModelProto) -> str:
        part = self._pick((model.graph.node, model.graph.initializer, model.graph.output, model.opset_import))
        if part:
            part.add().CopyFrom(self._pick(part))
        return "repeated"

    def _operator(self, model: onnx.ModelProto) -> str:
        """A node becomes one of another operator, with its inputs, perhaps in another domain."""
        if not model.graph.node:
            return "nothing"
        node = self._pick(model.graph.node)
        ops = ("Conv", "Gemm", "Reshape", "Squeeze", "Pad", "Split", "Resize", "Cast", "Constant")
        node.op_type = self._pick((*ops, "TRT_FP8QuantizeLinear", "TRT_INT4DequantizeLinear", "Transpose"))
        node.domain = self._pick(("", "", "trt", "ai.onnx", "com.microsoft"))
        return f"{node.name} is {node.domain}:{node.op_type}"

    def _sizes(self, model: onnx.ModelProto) -> str:
        if not model.graph.initializer:
            return "nothing"
        tensor = self._pick(model.graph.initializer)
        sizes = [int(self._pick(_NUMBERS)) for _ in range(int(self._random.integers(0, 5)))]
        del tensor.dims[:]
        tensor.dims.extend(sizes)
        if not self._random.integers(3):
            tensor.data_location = onnx.TensorProto.EXTERNAL
            key = self._pick(("location", "offset", "length"))
            tensor.external_data.add(key=key, value=self._pick(_TEXTS))
        return f"{tensor.name}: {sizes}"

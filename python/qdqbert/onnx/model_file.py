# SPDX-License-Identifier: Apache-2.0
"""Reading the message of an ONNX file, of which nothing is known yet.

``onnx.load`` follows the paths of external data that a file names, takes an empty file for a model, and fails
with the exceptions of protobuf.  Here the message is parsed and nothing else is opened; tensors are read by
`qdqbert.onnx.tensor_values`, one at a time, when somebody asks for them.
"""

from __future__ import annotations

import os
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from qdqbert.errors import CheckpointError
from qdqbert.serialization.data_file import DataFile

__all__ = ["bad_text", "read_message"]

# Protobuf's messages end here.
_LARGEST_MESSAGE = (1 << 31) - 1


def read_message(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an ONNX file without the data that lie outside it.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    CheckpointError
        If the file is missing, cut off, too large for one message, or holds no model, or a name in it is no
        text.
    """
    with DataFile(path) as file:
        if file.size > _LARGEST_MESSAGE:
            raise file.fail(f"{file.size} bytes, and protobuf's messages end at 2 GB")
        if not file.size:
            raise file.refuse_foreign("an ONNX file")
        model = onnx.ModelProto()
        try:
            model.ParseFromString(file.read(0, file.size, "the model"))
        except DecodeError as error:
            foreign = file.refuse_foreign("an ONNX file")
            raise CheckpointError(f"{foreign}; or it is damaged or cut off") from error
        # Protobuf takes any run of fields that it does not know for a message with nothing in it.
        if model.ir_version <= 0 or not model.HasField("graph"):
            raise file.refuse_foreign("an ONNX file")
        place = bad_text(model)
        if place is not None:
            raise file.fail(f"a text in {place} is not UTF-8")
    return model


def bad_text(model: onnx.ModelProto) -> str | None:
    """Return where a message has a text that is not UTF-8; protobuf gives it as bytes.

    Parameters
    ----------
    model : onnx.ModelProto

    Returns
    -------
    str or None
        Message and field, such as ``"NodeProto.op_type"``.
    """
    kinds: dict[str, list[tuple[str, bool]]] = {}
    open_messages: list[Message] = [model]
    while open_messages:
        message = open_messages.pop()
        kind = message.DESCRIPTOR
        if kind.full_name not in kinds:
            kinds[kind.full_name] = [
                (field.name, field.type == FieldDescriptor.TYPE_STRING)
                for field in kind.fields
                if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
            ]
        for name, is_text in kinds[kind.full_name]:
            value = getattr(message, name)
            is_list = not isinstance(value, str | bytes | Message)
            values: list[Any] = list(value) if is_list else [value]
            if is_text:
                if any(isinstance(each, bytes) for each in values):
                    return f"{kind.name}.{name}"
            elif is_list or message.HasField(name):
                open_messages += values
    return None

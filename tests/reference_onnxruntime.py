# SPDX-License-Identifier: Apache-2.0
"""The part of onnxruntime's interface that this package uses, on ONNX's own reference evaluator.

So what surrounds the runtime is tested where onnxruntime is not installed, and what was asked of it is seen.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from graph_runs import runner

KINDS = {1: "tensor(float)", 6: "tensor(int32)", 7: "tensor(int64)", 10: "tensor(float16)"}


class SessionOptions:
    """What a session is asked for."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class InferenceSession:
    """A file that the reference evaluator computes."""

    last: Any = None

    def __init__(self, path: str, options: SessionOptions, providers: list[str]) -> None:
        self.proto = onnx.load(path)
        self.options, self.providers = options, providers
        self.fed: list[dict[str, np.ndarray]] = []
        self._run = runner(self.proto)
        type(self).last = self

    def get_inputs(self) -> list[Any]:
        return [described(each) for each in self.proto.graph.input]

    def get_outputs(self) -> list[Any]:
        return [described(each) for each in self.proto.graph.output]

    def get_modelmeta(self) -> Any:
        properties = {each.key: each.value for each in self.proto.metadata_props}
        return SimpleNamespace(custom_metadata_map=properties)

    def run(self, names: list[str], fed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.fed.append(fed)
        values = self._run(fed)
        return [values[name] for name in names]


def described(info: onnx.ValueInfoProto) -> Any:
    """Name, type and shape, free axes by name."""
    kind = info.type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in kind.shape.dim]
    return SimpleNamespace(name=info.name, type=KINDS.get(kind.elem_type, "tensor(other)"), shape=shape)


def put_in_place(monkeypatch: pytest.MonkeyPatch) -> type[InferenceSession]:
    """Let ``import onnxruntime`` give this until the test ends; returns the class of its sessions."""
    levels = SimpleNamespace(ORT_ENABLE_ALL=99, ORT_DISABLE_ALL=0)
    session = type("InferenceSession", (InferenceSession,), {})
    module = SimpleNamespace(
        SessionOptions=SessionOptions, GraphOptimizationLevel=levels, InferenceSession=session
    )
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", module)
    return session

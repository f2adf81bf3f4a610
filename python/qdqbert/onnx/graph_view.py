# SPDX-License-Identifier: Apache-2.0
"""A graph as rules and readers look at it: who makes a tensor, who takes it, and what is constant.

Nothing is trusted: names may be missing, made twice, or lead in a circle.  Every walk keeps to tensors that
it has not seen, and questions about what is not there are answered with None.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper

from qdqbert.errors import CheckpointError
from qdqbert.onnx.tensor_values import TensorReader, kind_of

__all__ = ["LAYOUT", "Consumer", "GraphView", "attribute", "is_default_domain", "name_of", "op_of"]

Array = npt.NDArray[Any]

LAYOUT = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that move or cast elements; quantizers may be moved over them."""

# What a constant is still one behind: the parser of TensorRT looks through the same.
_TRANSPARENT = frozenset({"Cast", "Identity"})
_DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})


class Consumer(NamedTuple):
    """A node that takes a tensor.

    Attributes
    ----------
    node : onnx.NodeProto
    place : int
        Which of its inputs the tensor is.
    """

    node: onnx.NodeProto
    place: int


def name_of(node: onnx.NodeProto) -> str:
    """Return what a node is called, or what tells it from others if it has no name.

    Parameters
    ----------
    node : onnx.NodeProto
    """
    if node.name:
        return str(node.name)
    made = next((name for name in node.output if name), "nothing")
    return f"{node.op_type} that makes {made}"


def op_of(node: onnx.NodeProto | None) -> str:
    """Return the operator; with its domain and a colon if it is none of ONNX's own; empty for None.

    Parameters
    ----------
    node : onnx.NodeProto or None
    """
    if node is None:
        return ""
    return str(node.op_type if is_default_domain(node.domain) else f"{node.domain}:{node.op_type}")


def is_default_domain(domain: str) -> bool:
    """Whether an operator set is ONNX's own.

    Parameters
    ----------
    domain : str
    """
    return domain in _DEFAULT_DOMAINS


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of an attribute.

    Parameters
    ----------
    node : onnx.NodeProto
    name : str
    default : object
        If the node has none of this name, or of a kind that is not read here.
    """
    for each in node.attribute:
        if each.name == name:
            match each.type:
                case onnx.AttributeProto.INT:
                    return int(each.i)
                case onnx.AttributeProto.FLOAT:
                    return float(each.f)
                case onnx.AttributeProto.INTS:
                    return [int(value) for value in each.ints]
                case onnx.AttributeProto.STRING:
                    return each.s.decode("utf-8", "replace")
                case onnx.AttributeProto.TENSOR:
                    return each.t
    return default


class GraphView:
    """One graph of a model.

    Parameters
    ----------
    graph : onnx.GraphProto
    reader : TensorReader
    opsets : mapping of str to int
        Version by domain; that of ONNX's own under the empty name.
    parent : GraphView, optional
        Of a graph in a node (of If or Loop): where its other names come from.

    Attributes
    ----------
    graph, reader, opsets
        As given.
    nodes : list of onnx.NodeProto
    initializers : dict of str to onnx.TensorProto
    inputs, outputs : dict of str to onnx.ValueInfoProto
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        reader: TensorReader,
        opsets: dict[str, int],
        parent: GraphView | None = None,
    ) -> None:
        self.graph: onnx.GraphProto = graph
        self.reader: TensorReader = reader
        self.opsets: dict[str, int] = opsets
        self._parent = parent
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.initializers: dict[str, onnx.TensorProto] = {each.name: each for each in graph.initializer}
        self.inputs: dict[str, onnx.ValueInfoProto] = {each.name: each for each in graph.input}
        self.outputs: dict[str, onnx.ValueInfoProto] = {each.name: each for each in graph.output}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._consumers: dict[str, list[Consumer]] = {}
        for node in self.nodes:
            for name in node.output:
                self._producers.setdefault(name, node)
            for place, name in enumerate(node.input):
                self._consumers.setdefault(name, []).append(Consumer(node, place))
        self._described = {each.name: each for each in (*graph.value_info, *graph.output, *graph.input)}
        self._values: dict[str, Array | None] = {}
        self._sources: dict[frozenset[str], dict[str, str]] = {}

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators; 0 if the file has none."""
        return self.opsets.get("", 0)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor.

        Parameters
        ----------
        name : str
        """
        found = self._producers.get(name) if name else None
        if found is None and name and self._parent is not None and name not in self.inputs:
            return self._parent.producer(name)
        return found

    def consumers(self, name: str) -> list[Consumer]:
        """Return the nodes of this graph that take a tensor.

        Parameters
        ----------
        name : str
        """
        return self._consumers.get(name, []) if name else []

    def source(self, name: str, through: frozenset[str] = LAYOUT) -> str:
        """Return the tensor that one is a copy of, going up the first inputs of some operators.

        Parameters
        ----------
        name : str
        through : frozenset of str
            Operators to go through.
        """
        # Ends are kept for every tensor on the way, or a long chain with many takers is walked for each.
        known = self._sources.setdefault(through, {})
        walked: dict[str, None] = {}
        while name not in walked and name not in known:
            walked[name] = None
            node = self.producer(name)
            if node is None or op_of(node) not in through or not node.input:
                break
            name = node.input[0]
        end = known.get(name, name)
        known.update(dict.fromkeys(walked, end))
        return end

    def constant(self, name: str) -> onnx.TensorProto | None:
        """Return the tensor of an initializer or of a node Constant; through Cast and Identity.

        Parameters
        ----------
        name : str
        """
        name = self.source(name, _TRANSPARENT)
        if name in self.initializers:
            return self.initializers[name]
        node = self.producer(name)
        if node is not None:
            return _constant_of(node) if op_of(node) == "Constant" else None
        return self._parent.constant(name) if self._parent is not None else None

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is a weight: an initializer or Constant, perhaps transposed or quantized.

        Parameters
        ----------
        name : str
        """
        return self.constant(self.source(name, LAYOUT | {"QuantizeLinear", "DequantizeLinear"})) is not None

    def values(self, name: str) -> Array | None:
        """Return the elements of a constant; None if it is none, or cannot be read.

        Parameters
        ----------
        name : str
        """
        if name not in self._values:
            tensor = self.constant(name)
            try:
                self._values[name] = None if tensor is None else self.reader.values(tensor)
            except CheckpointError:  # the rule about tensors tells
                self._values[name] = None
        return self._values[name]

    def kind(self, name: str) -> str | None:
        """Return the element type of a tensor where the file says it without inference.

        Parameters
        ----------
        name : str
        """
        node = self.producer(name)
        if node is not None and op_of(node) == "Cast":
            return kind_of(int(attribute(node, "to", 0)))
        tensor = self.constant(name)
        if tensor is not None:
            return kind_of(tensor.data_type)
        info = self._described.get(name)
        return kind_of(info.type.tensor_type.elem_type) if info is not None else None

    def shape(self, name: str) -> tuple[int | str, ...] | None:
        """Return the sizes of a constant, an input or a described tensor; a name or "?" for a free one.

        Parameters
        ----------
        name : str
        """
        tensor = self.constant(name)
        if tensor is not None:
            return tuple(tensor.dims)
        info = self._described.get(name)
        if info is None or not info.type.tensor_type.HasField("shape"):
            return None
        return tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in info.type.tensor_type.shape.dim
        )

    def subgraphs(self) -> Iterator[GraphView]:
        """Yield the graphs in the nodes of this one, and in theirs."""
        for node in self.nodes:
            for each in node.attribute:
                for graph in (*((each.g,) if each.HasField("g") else ()), *each.graphs):
                    view = GraphView(graph, self.reader, self.opsets, self)
                    yield view
                    yield from view.subgraphs()


def _constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return what a node Constant holds, if it is a tensor of numbers."""
    for each in node.attribute:
        array: Array
        match each.name:
            case "value" if each.type == onnx.AttributeProto.TENSOR:
                tensor: onnx.TensorProto = each.t
                return tensor
            case "value_float":
                array = np.array(each.f, np.float32)
            case "value_floats":
                array = np.array(each.floats, np.float32)
            case "value_int":
                array = np.array(each.i, np.int64)
            case "value_ints":
                array = np.array(each.ints, np.int64)
            case _:
                continue
        return onnx.numpy_helper.from_array(array)
    return None

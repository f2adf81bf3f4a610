# SPDX-License-Identifier: Apache-2.0
"""Nodes, tensors and inputs of an ONNX graph, with names that say where each comes from.

A graph is written once, front to back, by whoever knows what it computes; this module knows ONNX alone.
Names are those that PyTorch's exporter gives: node ``/bert/encoder/layer.0/output/dense/MatMul`` with the
output ``.../MatMul_output_0``, and ``MatMul_1`` for the second of a scope.

Large tensors are not held: an initializer is a name, a shape and a function that makes its bytes when the
file is written, so that exporting a model needs memory for one tensor, not for a second model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx.helper

__all__ = ["GraphBuilder", "Initializer", "Value", "bits_of", "scope_of"]

_BITS = {"FLOAT": 32, "FLOAT16": 16, "BFLOAT16": 16, "FLOAT8E4M3FN": 8, "INT4": 4, "UINT4": 4}
_BITS |= {"INT8": 8, "UINT8": 8, "INT16": 16, "UINT16": 16, "INT64": 64}


class Value(NamedTuple):
    """A tensor of the graph.

    Attributes
    ----------
    name : str
    kind : str
        Element type, as ``onnx.TensorProto`` spells it: ``"FLOAT"``, ``"INT64"``.
    rank : int
        Number of dimensions.
    """

    name: str
    kind: str
    rank: int


class Initializer(NamedTuple):
    """A constant tensor, made when it is written.

    Attributes
    ----------
    name : str
    kind : str
        Element type, as in `Value`.
    shape : tuple of int
    make : callable () -> bytes-like
        Its elements, row by row, little-endian; of 4 bits two in a byte, the first in the low half.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    make: Callable[[], npt.NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes that `make` gives."""
        return (math.prod(self.shape) * bits_of(self.kind) + 7) // 8


def bits_of(kind: str) -> int:
    """Return the size of an element.

    Parameters
    ----------
    kind : str
        Element type.
    """
    return _BITS[kind]


def scope_of(path: str) -> str:
    """Return the scope of a module, as PyTorch's exporter writes it.

    Parameters
    ----------
    path : str
        Dotted name of the module; empty for the model itself.

    Examples
    --------
    >>> scope_of("bert.encoder.layer.0.output.dense")
    '/bert/encoder/layer.0/output/dense'
    """
    return "".join(f"/{part}" for part in re.split(r"\.(?!\d)", path)) if path else ""


class GraphBuilder:
    """A graph in the making.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
        In an order in which they can run.
    initializers : list of Initializer
    inputs, outputs, value_infos : list of onnx.ValueInfoProto
        `value_infos`: of inner tensors whose type no operator set tells.
    domains : set of str
        Operator sets that are used beside ONNX's own.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[Initializer] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.value_infos: list[onnx.ValueInfoProto] = []
        self.domains: set[str] = set()
        self._names: set[str] = set()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._casts: dict[tuple[str, str], Value] = {}

    # ---- ends of the graph ---------------------------------------------------------------------------------

    def add_input(self, name: str, kind: str, shape: Sequence[int | str]) -> Value:
        """Add an input.

        Parameters
        ----------
        name : str
        kind : str
            Element type.
        shape : sequence of int or str
            Sizes; a name stands for one that is not fixed.
        """
        self._take(name)
        self.inputs.append(_value_info(name, kind, shape))
        return Value(name, kind, len(shape))

    def add_output(self, name: str, value: Value, shape: Sequence[int | str]) -> None:
        """Make a tensor an output under a name of its own.

        Parameters
        ----------
        name : str
        value : Value
            Made by a node.
        shape : sequence of int or str
            As in `add_input`.
        """
        self._take(name)
        for node in self.nodes:
            for places in (node.output, node.input):
                for index, each in enumerate(places):
                    if each == value.name:
                        places[index] = name
        self._casts.clear()  # they know it by its old name
        self.outputs.append(_value_info(name, value.kind, shape))

    # ---- nodes ---------------------------------------------------------------------------------------------

    def node(
        self,
        op: str,
        scope: str,
        *inputs: Value,
        kind: str | None = None,
        rank: int | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """Add a node with one output.

        Parameters
        ----------
        op : str
            Operator.
        scope : str
            As `scope_of` gives it.
        *inputs : Value
        kind : str, optional
            Element type of the output; that of the first input if left out.
        rank : int, optional
            Of the output; the largest of the inputs if left out.
        domain : str
            Operator set; empty: ONNX's own.
        **attributes
            Of the operator.
        """
        return self.split(op, scope, *inputs, kinds=[kind], rank=rank, domain=domain, **attributes)[0]

    def split(
        self,
        op: str,
        scope: str,
        *inputs: Value,
        kinds: Sequence[str | None],
        rank: int | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> list[Value]:
        """Add a node with several outputs; see `node`.

        Parameters
        ----------
        op, scope, *inputs, rank, domain, **attributes
        kinds : sequence of (str or None)
            Element type of each output.
        """
        name = self._unique(f"{scope}/{op}")
        outputs = [f"{name}_output_{index}" for index in range(len(kinds))]
        for each in outputs:
            self._take(each)
        made = onnx.helper.make_node(
            op, [each.name for each in inputs], outputs, name=name, domain=domain, **attributes
        )
        self.nodes.append(made)
        if domain:
            self.domains.add(domain)
        rank = max(each.rank for each in inputs) if rank is None else rank
        return [Value(out, kind or inputs[0].kind, rank) for out, kind in zip(outputs, kinds, strict=True)]

    def cast(self, value: Value, kind: str, scope: str) -> Value:
        """Return a tensor as another element type; the same node for the same request.

        Parameters
        ----------
        value : Value
        kind : str
            Element type.
        scope : str
        """
        if value.kind == kind:
            return value
        key = value.name, kind
        if key not in self._casts:
            self._casts[key] = self.node(
                "Cast", scope, value, kind=kind, to=onnx.TensorProto.DataType.Value(kind)
            )
        return self._casts[key]

    def describe(self, value: Value) -> None:
        """Note type and rank of an inner tensor that comes from another operator set.

        Parameters
        ----------
        value : Value
        """
        self.value_infos.append(_value_info(value.name, value.kind, [None] * value.rank))

    # ---- constants -----------------------------------------------------------------------------------------

    def initializer(
        self, name: str, kind: str, shape: Sequence[int], make: Callable[[], npt.NDArray[Any]]
    ) -> Value:
        """Add a constant tensor that is made when it is written.

        Parameters
        ----------
        name : str
            Not in use.
        kind : str
            Element type.
        shape : sequence of int
        make : callable () -> ndarray
            See `Initializer.make`.
        """
        self._take(name)
        self.initializers.append(Initializer(name, kind, tuple(shape), make))
        return Value(name, kind, len(shape))

    def array(self, name: str, array: npt.NDArray[Any]) -> Value:
        """Add a small constant tensor of float32, int8, uint8, int16, uint16 or int64.

        Parameters
        ----------
        name : str
            Not in use.
        array : ndarray
        """
        kept = np.ascontiguousarray(array).reshape(array.shape)
        return self.initializer(name, _kind_of(kept), kept.shape, lambda: kept)

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Value:
        """Return a small constant tensor; the same one for equal elements.

        Parameters
        ----------
        array : array_like
        dtype : dtype
            float32, int8, uint8, int16, uint16 or int64.
        """
        kept = np.asarray(array, dtype)
        key = _kind_of(kept), kept.shape, kept.tobytes()
        if key not in self._constants:
            self._constants[key] = self.array(f"constant.{len(self._constants)}", kept)
        return self._constants[key]

    def integers(self, *values: int) -> Value:
        """Return a list of integers as a constant tensor: a shape, axes, or where a slice begins.

        Parameters
        ----------
        *values : int
        """
        return self.constant(values, np.int64)

    # ---- names ---------------------------------------------------------------------------------------------

    def _take(self, name: str) -> None:
        if not name or name in self._names:
            raise ValueError(f"name: {name!r} is in use in this graph")
        self._names.add(name)

    def _unique(self, stem: str) -> str:
        """Return the stem, or with the first number that makes it a new name."""
        name, number = stem, 0
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name


def _kind_of(array: npt.NDArray[Any]) -> str:
    return "FLOAT" if array.dtype == np.float32 else array.dtype.name.upper()


def _value_info(name: str, kind: str, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    element = onnx.TensorProto.DataType.Value(kind)
    return onnx.helper.make_tensor_value_info(name, element, list(shape))

# SPDX-License-Identifier: Apache-2.0
"""Attention as nodes: query, key and value, their two products, and what stands between."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from qdqbert.nn.quantizer_state import handle_state
from qdqbert.onnx.graph_builder import Value, scope_of
from qdqbert.onnx.layer_nodes import linear_of_quantized
from qdqbert.onnx.quantize_nodes import QuantizeNodes

__all__ = ["Attended", "Cache", "attention", "relative_positions"]


class Cache(NamedTuple):
    """Keys and values of earlier tokens, or of these too.

    Attributes
    ----------
    key, value : Value
        (batch, heads, length, head size), before their quantizers.
    """

    key: Value
    value: Value


class Attended(NamedTuple):
    """What attention looks at.

    Attributes
    ----------
    states : Value
        (batch, length, hidden): tokens, or an encoder's states.
    mask : Value
        Added to scores; (batch, 1, 1 or query length, key length), float32.
    past : Cache or None
        Of the tokens before `states`.
    distances : Value or None
        (query length, key length), int64: row of the table of relative positions for each pair.
    adds_keys : bool
        Whether keys are multiplied with the vectors of distances too.
    """

    states: Value
    mask: Value
    past: Cache | None = None
    distances: Value | None = None
    adds_keys: bool = False


def attention(
    nodes: QuantizeNodes, queries: Value, attended: Attended, module: Any, path: str, *, shares_inputs: bool
) -> tuple[Value, Cache]:
    """Return what each query takes from what it looks at, heads side by side, and keys and values.

    Parameters
    ----------
    nodes : QuantizeNodes
    queries : Value
        (batch, query length, hidden).
    attended : Attended
    module : QDQBertSelfAttention
    path : str
        Its dotted name.
    shares_inputs : bool
        Write one pair of nodes where input quantizers of query, key and value are equal.

    Returns
    -------
    context : Value
        (batch, query length, heads * head size), of the precision's type or float32.
    cache : Cache
        With the past before it.
    """
    graph, scope = nodes.graph, scope_of(path)
    heads, size = module.num_attention_heads, module.attention_head_size
    inputs = _quantized_inputs(nodes, queries, attended.states, module, path, shares_inputs)
    split = graph.integers(0, 0, heads, size)  # 0: as it is

    def projected(name: str) -> Value:
        layer = getattr(module, name)
        value = linear_of_quantized(nodes, inputs[name], layer, f"{path}.{name}")
        value = graph.node("Reshape", scope, value, split, rank=4)
        return graph.node("Transpose", scope, value, perm=[0, 2, 1, 3])

    query, key, value = (projected(name) for name in ("query", "key", "value"))
    if attended.past is not None:
        key = graph.node("Concat", scope, attended.past.key, key, axis=2)
        value = graph.node("Concat", scope, attended.past.value, value, axis=2)
    probabilities = _probabilities(nodes, query, key, attended, module, path)
    weights = _operand(nodes, probabilities, module, path, "a", least=0.0)
    context = graph.node("MatMul", scope, weights, _operand(nodes, value, module, path, "v"))
    context = graph.node("Transpose", scope, context, perm=[0, 2, 1, 3])
    context = graph.node("Reshape", scope, context, graph.integers(0, 0, heads * size), rank=3)
    return context, Cache(key, value)


def _quantized_inputs(
    nodes: QuantizeNodes, queries: Value, states: Value, module: Any, path: str, shares: bool
) -> dict[str, Value]:
    found: list[tuple[Value, Any, Value]] = []
    inputs = {}
    for name in ("query", "key", "value"):
        source = queries if name == "query" else states
        quantizer = getattr(module, name).input_quantizer
        equal = (made for value, other, made in found if value == source and _is_equal(quantizer, other))
        made = next(equal, None) if shares else None
        if made is None:
            made = nodes.activation(
                source, quantizer, f"{path}.{name}._input_quantizer", last_axis_is_free=True
            )
            found.append((source, quantizer, made))
        inputs[name] = made
    return inputs


def _is_equal(one: Any, other: Any) -> bool:
    mine, theirs = handle_state(one._handle), handle_state(other._handle)
    return all(np.array_equal(mine[key], theirs[key]) for key in ("amax", "pre_quant_scale")) and all(
        mine[key] == theirs[key] for key in ("options", "clip", "stages")
    )


def _operand(
    nodes: QuantizeNodes, value: Value, module: Any, path: str, letter: str, least: float = -math.inf
) -> Value:
    name = f"matmul_{letter}_input_quantizer"
    value = nodes.activation(value, getattr(module, name), f"{path}.{name}", least=least)
    return nodes.graph.cast(value, nodes.precision.kind, scope_of(path))


def _probabilities(
    nodes: QuantizeNodes, query: Value, key: Value, attended: Attended, module: Any, path: str
) -> Value:
    graph, scope = nodes.graph, scope_of(path)
    columns = graph.node("Transpose", scope, key, perm=[0, 1, 3, 2])
    q, k = _operand(nodes, query, module, path, "q"), _operand(nodes, columns, module, path, "k")
    scores = graph.cast(graph.node("MatMul", scope, q, k), "FLOAT", scope)
    if attended.distances is not None:
        for term in _relative_terms(nodes, query, key, attended, module, path):
            scores = graph.node("Add", scope, scores, term)
    size = graph.constant(np.float32(math.sqrt(module.attention_head_size)))
    scores = graph.node("Add", scope, graph.node("Div", scope, scores, size), attended.mask)
    return graph.node("Softmax", scope, scores, axis=-1)


def _relative_terms(
    nodes: QuantizeNodes, query: Value, key: Value, attended: Attended, module: Any, path: str
) -> list[Value]:
    """Products of queries, and perhaps keys, with the vector of their distance; neither is quantized."""
    assert attended.distances is not None
    graph, scope = nodes.graph, scope_of(path)
    table = np.asarray(module.distance_embedding.weight)
    name = f"{path}.distance_embedding"
    rows = nodes.precision.parameter(graph, f"{name}.weight", table.shape, lambda: table)
    vectors = graph.node("Gather", scope_of(name), rows, attended.distances, rank=3)
    operands = [(query, "bhld,lrd->bhlr")]
    if attended.adds_keys:
        operands.append((key, "bhrd,lrd->bhlr"))
    kind = nodes.precision.kind
    return [
        graph.cast(
            graph.node("Einsum", scope, graph.cast(each, kind, scope), vectors, rank=4, equation=equation),
            "FLOAT",
            scope,
        )
        for each, equation in operands
    ]


def relative_positions(nodes: QuantizeNodes, rows: Value, columns: Value, limit: int, scope: str) -> Value:
    """Return for each query and key the row of the table of distances.

    Parameters
    ----------
    nodes : QuantizeNodes
    rows, columns : Value
        (query length, 1) and (1, key length), int64: positions.
    limit : int
        Positions of the model.
    scope : str
    """
    graph = nodes.graph
    difference = graph.node("Sub", scope, rows, columns)
    return graph.node("Add", scope, difference, graph.constant(limit - 1, np.int64))

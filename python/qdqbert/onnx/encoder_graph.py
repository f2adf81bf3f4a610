# SPDX-License-Identifier: Apache-2.0
"""BERT's embeddings, layers and pooler as nodes, from the inputs of the graph to hidden states."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qdqbert.onnx.attention_graph import Attended, Cache, attention, relative_positions
from qdqbert.onnx.graph_builder import Value, scope_of
from qdqbert.onnx.layer_nodes import activation, layer_norm, least_of_activation, linear
from qdqbert.onnx.quantize_nodes import QuantizeNodes

__all__ = ["Encoded", "EncoderGraph", "Inputs"]


class Inputs(NamedTuple):
    """What goes into the base model; ids have rank 2.

    Attributes
    ----------
    input_ids : Value
    attention_mask : Value
        (batch, past + length).
    token_type_ids : Value
    encoder_hidden_states, encoder_attention_mask : Value, optional
        Of a model with cross-attention.
    past : list of Cache, optional
        One for each layer.
    """

    input_ids: Value
    attention_mask: Value
    token_type_ids: Value
    encoder_hidden_states: Value | None = None
    encoder_attention_mask: Value | None = None
    past: list[Cache] | None = None


class Encoded(NamedTuple):
    """What comes out of the base model.

    Attributes
    ----------
    last_hidden_state : Value
        (batch, length, hidden), float32.
    present : list of Cache
        Keys and values of each layer's self-attention, with those of the past.
    """

    last_hidden_state: Value
    present: list[Cache]


class EncoderGraph:
    """The base model as nodes.

    Parameters
    ----------
    nodes : QuantizeNodes
    model : QDQBertModel
        The base model.
    shares_inputs : bool
        See `qdqbert.onnx.attention_graph.attention`.
    """

    def __init__(self, nodes: QuantizeNodes, model: Any, *, shares_inputs: bool) -> None:
        self._nodes, self._graph = nodes, nodes.graph
        self._model = model
        # Sizes are those of the C model; whether it is a decoder is asked at every call.
        self._config = model._engine.handles.bound.config
        self._is_decoder = bool(model.config.is_decoder)
        self._positions: str = self._config.position_embedding_type
        self._prefix: str = model._prefix
        self._scope = scope_of(self._prefix.removesuffix("."))
        self._shares_inputs = shares_inputs

    def write(self, inputs: Inputs) -> Encoded:
        """Write everything up to the last hidden state.

        Parameters
        ----------
        inputs : Inputs
        """
        rows, columns, mask = self._places_and_mask(inputs)
        cross_mask = None
        if inputs.encoder_attention_mask is not None:
            cross_mask = self._additive(self._spread(inputs.encoder_attention_mask))
        distances = cross_distances = None
        if self._positions != "absolute":
            distances = self._distances(rows, columns)
            if inputs.encoder_hidden_states is not None:
                length = self._length(inputs.encoder_hidden_states)
                cross_distances = self._distances(rows, self._range(self._graph.integers(0), length, axis=0))
        states = self._embeddings(inputs)
        present = []
        for index, layer in enumerate(self._model.encoder.layer):
            path = f"{self._prefix}encoder.layer.{index}"
            past = None if inputs.past is None else inputs.past[index]
            states, cache = self._attention(
                states, self._attended(states, mask, past, distances), layer.attention, f"{path}.attention"
            )
            present.append(cache)
            if inputs.encoder_hidden_states is not None:
                assert cross_mask is not None
                attended = self._attended(inputs.encoder_hidden_states, cross_mask, None, cross_distances)
                states, _ = self._attention(states, attended, layer.crossattention, f"{path}.crossattention")
            states = self._feed_forward(states, layer, path)
        return Encoded(states, present)

    def pooler(self, states: Value) -> Value:
        """Return tanh of a linear layer over the first token, (batch, hidden).

        Parameters
        ----------
        states : Value
            (batch, length, hidden).
        """
        path = f"{self._prefix}pooler"
        first = self._graph.node(
            "Gather", scope_of(path), states, self._graph.constant(0, np.int64), rank=2, axis=1
        )
        pooled = linear(self._nodes, first, self._model.pooler.dense, f"{path}.dense")
        return activation(self._nodes, pooled, "tanh", f"{path}.activation")

    # ---- positions and masks -------------------------------------------------------------------------------

    def _places_and_mask(self, inputs: Inputs) -> tuple[Value, Value, Value]:
        """Positions of queries (length, 1) and of keys (1, past + length), and the mask of self-attention."""
        graph, scope = self._graph, self._scope
        mask = self._spread(inputs.attention_mask)
        length = self._length(inputs.input_ids)
        keys = self._length(inputs.attention_mask)
        self._first = graph.node("Sub", scope, keys, length) if inputs.past else graph.integers(0)
        self._end = keys if inputs.past else length
        rows = columns = mask
        if self._is_decoder or self._positions != "absolute":
            rows = self._range(self._first, self._end, axis=1)
            columns = self._range(graph.integers(0), self._end, axis=0)
        if self._is_decoder:
            # ONNX compares integers with LessOrEqual from opset 12 on.
            seen = graph.node("LessOrEqual", scope, columns, rows, kind="BOOL")
            mask = graph.node("Mul", scope, graph.cast(seen, "FLOAT", scope), mask)
        return rows, columns, self._additive(mask)

    def _spread(self, mask: Value) -> Value:
        """Return a mask (batch, keys) as floats (batch, 1, 1, keys)."""
        graph, scope = self._graph, self._scope
        mask = graph.node("Unsqueeze", scope, mask, graph.integers(1, 2), rank=4)
        return graph.cast(mask, "FLOAT", scope)

    def _additive(self, mask: Value) -> Value:
        """Return ``(1 - mask) * lowest``, as the original does."""
        graph, scope = self._graph, self._scope
        hidden = graph.node("Sub", scope, graph.constant(np.float32(1.0)), mask)
        lowest = graph.constant(np.float32(self._nodes.precision.masked))
        return graph.node("Mul", scope, hidden, lowest)

    def _length(self, value: Value) -> Value:
        """Return the size of axis 1 as a list of one integer."""
        graph, scope = self._graph, self._scope
        shape = graph.node("Shape", scope, value, kind="INT64", rank=1)
        return graph.node("Slice", scope, shape, graph.integers(1), graph.integers(2), rank=1)

    def _range(self, first: Value, end: Value, axis: int) -> Value:
        """Return first .. end - 1, with an axis of size 1 added."""
        graph, scope = self._graph, self._scope
        ends = [graph.node("Squeeze", scope, each, graph.integers(0), rank=0) for each in (first, end)]
        places = graph.node("Range", scope, *ends, graph.constant(1, np.int64), rank=1)
        return graph.node("Unsqueeze", scope, places, graph.integers(axis), rank=2)

    def _distances(self, rows: Value, columns: Value) -> Value:
        limit = self._config.max_position_embeddings
        return relative_positions(self._nodes, rows, columns, limit, self._scope)

    # ---- layers --------------------------------------------------------------------------------------------

    def _table(self, name: str) -> tuple[Value, str]:
        path = f"{self._prefix}embeddings.{name}"
        table = np.asarray(self._model.embeddings.get_submodule(name).weight)
        precision = self._nodes.precision
        return precision.parameter(self._graph, f"{path}.weight", table.shape, lambda: table), scope_of(path)

    def _embeddings(self, inputs: Inputs) -> Value:
        graph, scope = self._graph, f"{self._scope}/embeddings"
        words, place = self._table("word_embeddings")
        self.words = words
        total = graph.node("Gather", place, words, inputs.input_ids, rank=3)
        types, place = self._table("token_type_embeddings")
        total = graph.node(
            "Add", scope, total, graph.node("Gather", place, types, inputs.token_type_ids, rank=3)
        )
        if self._positions == "absolute":
            positions, place = self._table("position_embeddings")
            rows = graph.node("Slice", place, positions, self._first, self._end, graph.integers(0), rank=2)
            total = graph.node("Add", scope, total, rows)
        norm = self._model.embeddings.LayerNorm
        return layer_norm(self._nodes, total, norm, f"{self._prefix}embeddings.LayerNorm")

    def _attended(self, states: Value, mask: Value, past: Cache | None, distances: Value | None) -> Attended:
        return Attended(states, mask, past, distances, self._positions == "relative_key_query")

    def _attention(self, states: Value, attended: Attended, module: Any, path: str) -> tuple[Value, Cache]:
        context, cache = attention(
            self._nodes,
            states,
            attended,
            module.get_submodule("self"),
            f"{path}.self",
            shares_inputs=self._shares_inputs,
        )
        local = linear(self._nodes, context, module.output.dense, f"{path}.output.dense")
        return self._residual(local, states, module.output, f"{path}.output"), cache

    def _feed_forward(self, states: Value, layer: Any, path: str) -> Value:
        name = self._config.hidden_act
        inner = linear(self._nodes, states, layer.intermediate.dense, f"{path}.intermediate.dense")
        inner = activation(self._nodes, inner, name, f"{path}.intermediate.intermediate_act_fn")
        dense = layer.output.dense
        local = linear(self._nodes, inner, dense, f"{path}.output.dense", least=least_of_activation(name))
        return self._residual(local, states, layer.output, f"{path}.output")

    def _residual(self, local: Value, residual: Value, module: Any, path: str) -> Value:
        graph, scope = self._graph, scope_of(path)
        sides = []
        for name, value in (("add_local", local), ("add_residual", residual)):
            quantizer = getattr(module, f"{name}_input_quantizer")
            value = self._nodes.activation(
                value, quantizer, f"{path}.{name}_input_quantizer", last_axis_is_free=True
            )
            sides.append(graph.cast(value, "FLOAT", scope))
        total = graph.node("Add", scope, *sides)
        return layer_norm(self._nodes, total, module.LayerNorm, f"{path}.LayerNorm")

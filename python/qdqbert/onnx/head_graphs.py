# SPDX-License-Identifier: Apache-2.0
"""Whole models as graphs: inputs, the base model, the head of each class, outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qdqbert.errors import UnsupportedError
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.modeling_qdqbert import (
    QDQBertForMaskedLM,
    QDQBertForMultipleChoice,
    QDQBertForNextSentencePrediction,
    QDQBertForQuestionAnswering,
    QDQBertForSequenceClassification,
    QDQBertForTokenClassification,
    QDQBertLMHeadModel,
    QDQBertModel,
)
from qdqbert.onnx.attention_graph import Cache
from qdqbert.onnx.encoder_graph import Encoded, EncoderGraph, Inputs
from qdqbert.onnx.graph_builder import Value, scope_of
from qdqbert.onnx.layer_nodes import activation, layer_norm, linear
from qdqbert.onnx.quantize_nodes import QuantizeNodes

__all__ = ["write_model"]

_BATCH, _CHOICES, _LENGTH = "batch_size", "num_choices", "seq_len"
_PAST, _KEYS, _ENCODER = "past_seq_len", "past_seq_len + seq_len", "encoder_seq_len"


class _Output(NamedTuple):
    name: str
    value: Value
    shape: list[int | str]


def write_model(
    nodes: QuantizeNodes, model: QDQBertPreTrainedModel, *, shares_inputs: bool, uses_cache: bool
) -> None:
    """Write a model into a graph.

    Parameters
    ----------
    nodes : QuantizeNodes
        Around the graph.
    model : QDQBertPreTrainedModel
    shares_inputs : bool
        See `qdqbert.onnx.attention_graph.attention`.
    uses_cache : bool
        Take and return keys and values of earlier tokens.

    Raises
    ------
    UnsupportedError
        If the class is none of this package's, or a quantizer cannot be written; it is named.
    StateError
        If a quantizer has no range.
    """
    head = _Head(nodes, model, shares_inputs)
    kind = next((kind for kind in type(model).__mro__ if kind in _WRITERS), None)
    if kind is None:
        raise UnsupportedError(f"{type(model).__name__}: has no graph; expected one of this package's models")
    if uses_cache and _WRITERS[kind] not in (_base_model, _language_model):
        raise UnsupportedError(f"use_cache: {kind.__name__} returns no keys and values")
    outputs = _WRITERS[kind](head, uses_cache)
    for name, value, shape in outputs:
        nodes.graph.add_output(name, nodes.graph.cast(value, "FLOAT", ""), shape)


class _Head:
    """A model on its way into a graph."""

    def __init__(self, nodes: QuantizeNodes, model: Any, shares_inputs: bool) -> None:
        self.nodes, self.graph, self.model = nodes, nodes.graph, model
        self.config = model._engine.handles.bound.config
        self.base = EncoderGraph(nodes, model.base_model, shares_inputs=shares_inputs)

    def encoded(self, uses_cache: bool = False) -> Encoded:
        """Add the inputs of a batch of texts, and the base model."""
        graph, shape = self.graph, [_BATCH, _LENGTH]
        ids = graph.add_input("input_ids", "INT64", shape)
        mask = graph.add_input("attention_mask", "INT64", [_BATCH, _KEYS if uses_cache else _LENGTH])
        types = graph.add_input("token_type_ids", "INT64", shape)
        states = encoder_mask = None
        if self.config.add_cross_attention:
            shape = [_BATCH, _ENCODER]
            states = graph.add_input("encoder_hidden_states", "FLOAT", [*shape, self.config.hidden_size])
            encoder_mask = graph.add_input("encoder_attention_mask", "INT64", shape)
        past = None
        if uses_cache:
            past = [
                Cache(*(graph.add_input(*each) for each in self._cache_of(i, "past_key_values", _PAST)))
                for i in range(self.config.num_hidden_layers)
            ]
        return self.base.write(Inputs(ids, mask, types, states, encoder_mask, past))

    def _cache_of(self, layer: int, stem: str, length: str) -> list[tuple[str, str, list[int | str]]]:
        """Name, type and shape of keys and values of a layer."""
        attention = self.model.base_model.encoder.layer[layer].attention.get_submodule("self")
        shape = [_BATCH, attention.num_attention_heads, length, attention.attention_head_size]
        return [(f"{stem}.{layer}.{part}", "FLOAT", shape) for part in ("key", "value")]

    def present(self, encoded: Encoded, uses_cache: bool) -> list[_Output]:
        """Keys and values of every layer as outputs."""
        return [
            _Output(name, value, shape)
            for layer, cache in enumerate(encoded.present if uses_cache else [])
            for (name, _, shape), value in zip(self._cache_of(layer, "present", _KEYS), cache, strict=True)
        ]

    def predictions(self, states: Value) -> Value:
        """Return the scores of every word at every token."""
        path = "cls.predictions"
        head = self.model.get_submodule(path)
        transform, graph = head.transform, self.graph
        value = linear(self.nodes, states, transform.dense, f"{path}.transform.dense")
        value = activation(self.nodes, value, self.config.hidden_act, f"{path}.transform.transform_act_fn")
        value = layer_norm(self.nodes, value, transform.LayerNorm, f"{path}.transform.LayerNorm")
        if head.decoder._owner("weight") is None:
            weight = self.nodes.plain_weight(np.asarray(head.decoder.weight), f"{path}.decoder")
        else:  # the table of words stands in the file once
            weight = graph.node("Transpose", scope_of(f"{path}.decoder"), self.base.words, perm=[1, 0])
        scope, precision = scope_of(f"{path}.decoder"), self.nodes.precision
        value = graph.node("MatMul", scope, graph.cast(value, precision.kind, scope), weight)
        bias = np.asarray(head.decoder.bias)
        name = f"{path}.decoder.bias" if head.decoder._owner("bias") is None else f"{path}.bias"
        return graph.node("Add", scope, value, precision.parameter(graph, name, bias.shape, lambda: bias))

    def linear(self, value: Value, path: str) -> Value:
        """Return a linear layer of the head."""
        return linear(self.nodes, value, self.model.get_submodule(path), path)


def _base_model(head: _Head, uses_cache: bool) -> list[_Output]:
    encoded = head.encoded(uses_cache)
    hidden = head.config.hidden_size
    outputs = [_Output("last_hidden_state", encoded.last_hidden_state, [_BATCH, _LENGTH, hidden])]
    if head.model._has_pooler:
        outputs.append(
            _Output("pooler_output", head.base.pooler(encoded.last_hidden_state), [_BATCH, hidden])
        )
    return outputs + head.present(encoded, uses_cache)


def _language_model(head: _Head, uses_cache: bool) -> list[_Output]:
    encoded = head.encoded(uses_cache)
    logits = head.predictions(encoded.last_hidden_state)
    vocabulary = head.model.get_output_embeddings().out_features
    return [_Output("logits", logits, [_BATCH, _LENGTH, vocabulary]), *head.present(encoded, uses_cache)]


def _masked_language_model(head: _Head, uses_cache: bool) -> list[_Output]:
    return _language_model(head, False)


def _pooled(head: _Head, path: str) -> list[_Output]:
    pooled = head.base.pooler(head.encoded().last_hidden_state)
    classes = head.model.get_submodule(path).out_features
    return [_Output("logits", head.linear(pooled, path), [_BATCH, classes])]


def _next_sentence(head: _Head, uses_cache: bool) -> list[_Output]:
    return _pooled(head, "cls.seq_relationship")


def _sequence_classification(head: _Head, uses_cache: bool) -> list[_Output]:
    return _pooled(head, "classifier")


def _multiple_choice(head: _Head, uses_cache: bool) -> list[_Output]:
    """Choices of all examples as one batch of texts, and their scores as rows again."""
    graph = head.graph
    names = ("input_ids", "attention_mask", "token_type_ids")
    given = [graph.add_input(name, "INT64", [_BATCH, _CHOICES, _LENGTH]) for name in names]
    ids, mask, types = (graph.node("Flatten", "", each, axis=2, rank=2) for each in given)
    pooled = head.base.pooler(head.base.write(Inputs(ids, mask, types)).last_hidden_state)
    logits = head.linear(pooled, "classifier")
    shape = graph.node("Shape", "", given[0], kind="INT64", rank=1)
    rows = graph.node("Slice", "", shape, graph.integers(0), graph.integers(2), rank=1)
    return [_Output("logits", graph.node("Reshape", "", logits, rows, rank=2), [_BATCH, _CHOICES])]


def _token_classification(head: _Head, uses_cache: bool) -> list[_Output]:
    logits = head.linear(head.encoded().last_hidden_state, "classifier")
    return [_Output("logits", logits, [_BATCH, _LENGTH, head.model.classifier.out_features])]


def _question_answering(head: _Head, uses_cache: bool) -> list[_Output]:
    """Return the two logits of each token, under the names of the original's SQuAD example."""
    graph = head.graph
    logits = head.linear(head.encoded().last_hidden_state, "qa_outputs")
    sides = graph.split("Split", "", logits, graph.integers(1, 1), kinds=[None, None], rank=3, axis=-1)
    return [
        _Output(name, graph.node("Squeeze", "", side, graph.integers(-1), rank=2), [_BATCH, _LENGTH])
        for name, side in zip(("output_start_logits", "output_end_logits"), sides, strict=True)
    ]


_WRITERS: dict[type, Callable[[_Head, bool], list[_Output]]] = {
    QDQBertModel: _base_model,
    QDQBertLMHeadModel: _language_model,
    QDQBertForMaskedLM: _masked_language_model,
    QDQBertForNextSentencePrediction: _next_sentence,
    QDQBertForSequenceClassification: _sequence_classification,
    QDQBertForMultipleChoice: _multiple_choice,
    QDQBertForTokenClassification: _token_classification,
    QDQBertForQuestionAnswering: _question_answering,
}

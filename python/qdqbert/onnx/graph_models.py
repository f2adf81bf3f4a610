# SPDX-License-Identifier: Apache-2.0
"""A BERT from what a graph computes: for files that do not say which model they are of.

PyTorch's exporter keeps few names: it transposes and renames weights, merges equal ones, and old versions
number all nodes.  So names are not looked at.  The graph is read backwards from its outputs: which head made
them, then layer by layer the two residual sums, the linear layers and the two products of attention, down to
the tables of embeddings.  What the graph does not say (dropout, the padding token) has the usual values.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

import qdqbert
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.onnx.graph_patterns import LinearLayer, Normalization, Patterns, Scales
from qdqbert.onnx.graph_view import LAYOUT, GraphView, attribute, name_of, op_of
from qdqbert.onnx.scale_ranges import amax_of_scale
from qdqbert.quant_descriptor import QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW, QUANT_DESC_8BIT_PER_TENSOR
from qdqbert.quantization_settings import describe_descriptors, store_section

__all__ = ["model_of_graph"]

Floats = npt.NDArray[np.float32]

# BERT's own; nothing that is computed depends on it.
_PADDING_TOKEN = 0
# A mask is (1 - given) * lowest and nothing else; a decoder's compares positions too.
_MASK_OPERATORS = frozenset({"Constant", "Mul", "Sub"}) | LAYOUT
_HIDES = -1e4
_DEAD_SCALE = np.float32(1.0)


class _Found(NamedTuple):
    """A head and what it stands on."""

    class_name: str
    states: str
    layers: dict[str, LinearLayer]
    norms: dict[str, Normalization]
    labels: int | None


def model_of_graph(view: GraphView, device: Device | None) -> QDQBertPreTrainedModel:
    """Build the model that a graph computes.

    Parameters
    ----------
    view : GraphView
    device : Device or None

    Returns
    -------
    model

    Raises
    ------
    CheckpointError
        If the graph is not that of a BERT encoder; the message has the node that does not fit.
    UnsupportedError
        If it is one, of a kind that is not read from a graph alone.
    """
    reader = _GraphReader(view)
    class_name = reader.read()
    kind: type[QDQBertPreTrainedModel] = getattr(qdqbert, class_name)
    arguments: dict[str, Any] = {}
    if class_name == "QDQBertModel":
        arguments["add_pooling_layer"] = "pooler.dense.weight" in reader.state
    config = reader.config()
    try:
        config.validate()
    except ValueError as error:
        raise CheckpointError(f"the graph is that of no model of this package: {error}") from error
    model, report = kind.from_pretrained(
        None, config=config, state_dict=reader.state, device=device, output_loading_info=True, **arguments
    )
    left = [*report["missing_keys"], *report["unexpected_keys"]]
    if left:
        raise CheckpointError(f"{class_name}: the graph does not have {', '.join(left[:5])}")
    return model


class _GraphReader:
    """Reads one graph into a state dict and a configuration."""

    def __init__(self, view: GraphView) -> None:
        self.view, self.patterns = view, Patterns(view)
        self.state: dict[str, npt.NDArray[Any]] = {}
        self._fields: dict[str, Any] = {}
        self._deviations: dict[str, dict[str, Any]] = {}

    def read(self) -> str:
        """Read everything; return the name of the class."""
        found = self._head()
        prefix = "" if found.class_name == "QDQBertModel" else f"{QDQBertPreTrainedModel.base_model_prefix}."
        states, layers = found.states, []
        seen: set[str] = set()
        while self.patterns.op(norm_input := self.patterns.normalization(states).source) == "Add":
            if self._is_embedding_sum(norm_input):
                break
            if states in seen:
                raise self.patterns.unexpected(states, "a layer, not a circle")
            seen.add(states)
            parts = _LayerParts(self.patterns, states)
            layers.append(parts)
            states = parts.source
        self._embeddings(states, prefix)
        for index, parts in enumerate(reversed(layers)):
            self._layer(parts, f"{prefix}encoder.layer.{index}.")
        if not layers:
            raise self.patterns.unexpected(found.states, "the end of an encoder layer")
        self._take_head(found, prefix, layers[0])
        self._fields["num_hidden_layers"] = len(layers)
        return found.class_name

    def config(self) -> QDQBertConfig:
        """Return the configuration of what was read."""
        config = QDQBertConfig(pad_token_id=_PADDING_TOKEN, **self._fields)
        section = describe_descriptors(QUANT_DESC_8BIT_PER_TENSOR, QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW)
        store_section(config, {**section, "quantizers": self._deviations})
        return config

    # ---- head ----------------------------------------------------------------------------------------------

    def _head(self) -> _Found:
        names = [each.name for each in self.view.graph.output]
        if not names:
            raise CheckpointError("the graph has no outputs")
        patterns = self.patterns
        if patterns.is_normalization(names[0]):
            layers = {}
            if len(names) > 1:
                layers["pooler.dense"] = self._pooler(names[1])[0]
            return _Found("QDQBertModel", names[0], layers, {}, None)
        if patterns.op(names[0]) == "Squeeze":
            split = patterns.node(patterns.node(names[0], "Squeeze").input[0], "Split")
            layer = patterns.linear(split.input[0])
            return self._of_states("QDQBertForQuestionAnswering", "qa_outputs", layer)
        if patterns.op(names[0]) == "Reshape":
            made = patterns.node(names[0], "Reshape").input[0]
            return self._of_pooled("QDQBertForMultipleChoice", "classifier", patterns.linear(made))
        layer = patterns.linear(names[0])
        if patterns.op(layer.source) == "Tanh":
            known = (*names, layer.node, *self.view.initializers)
            if any("seq_relationship" in each for each in known):
                return self._of_pooled("QDQBertForNextSentencePrediction", "cls.seq_relationship", layer)
            return self._of_pooled("QDQBertForSequenceClassification", "classifier", layer)
        norm = patterns.normalization(layer.source)
        if patterns.op(norm.source) == "Add":
            return self._of_states("QDQBertForTokenClassification", "classifier", layer)
        _, argument = patterns.activation(norm.source)
        transform = patterns.linear(argument)
        path = "cls.predictions"
        layers = {f"{path}.decoder": layer, f"{path}.transform.dense": transform}
        norms = {f"{path}.transform.LayerNorm": norm}
        return _Found("QDQBertForMaskedLM", transform.source, layers, norms, None)

    def _of_states(self, class_name: str, path: str, layer: LinearLayer) -> _Found:
        return _Found(class_name, layer.source, {path: layer}, {}, len(layer.bias))

    def _of_pooled(self, class_name: str, path: str, layer: LinearLayer) -> _Found:
        pooler, states = self._pooler(layer.source)
        labels = None if class_name == "QDQBertForMultipleChoice" else len(layer.bias)
        return _Found(class_name, states, {path: layer, "pooler.dense": pooler}, {}, labels)

    def _pooler(self, name: str) -> tuple[LinearLayer, str]:
        """Return the layer of the pooler, and the states of which it takes the first."""
        layer = self.patterns.linear(self.patterns.node(name, "Tanh").input[0])
        taken = self.patterns.node(layer.source, "Gather")
        states, index = self.patterns.operands(taken)
        if self.patterns.number(index, taken) != 0.0 or attribute(taken, "axis", 0) != 1:
            raise CheckpointError(f"{name_of(taken)}: expected the first token")
        return layer, self.view.source(states, frozenset({"Cast", "Identity"}))

    def _take_head(self, found: _Found, prefix: str, last: _LayerParts) -> None:
        for path, layer in found.layers.items():
            path = f"{prefix}{path}" if path == "pooler.dense" else path
            self._plain_linear(layer, path)
        for path, norm in found.norms.items():
            self._norm(norm, path)
        if found.labels is not None:
            self._fields["num_labels"] = found.labels
        if found.class_name == "QDQBertForMaskedLM":
            words = self.state[f"{prefix}embeddings.word_embeddings.weight"]
            decoder = "cls.predictions.decoder"
            is_tied = np.array_equal(self.state[f"{decoder}.weight"], words)
            self._fields["tie_word_embeddings"] = is_tied
            self.state["cls.predictions.bias"] = self.state[f"{decoder}.bias"]
        if self._fields["hidden_size"] != len(last.norm.bias):
            raise CheckpointError(f"{last.norm.node}: other states than those of the embeddings")

    def _plain_linear(self, layer: LinearLayer, path: str) -> None:
        scales = layer.input_scales or layer.weight_scales
        if scales is not None:
            raise UnsupportedError(f"{scales.node}: a quantizer, and {path} has none here")
        self.state[f"{path}.weight"], self.state[f"{path}.bias"] = layer.weight, layer.bias

    # ---- embeddings ----------------------------------------------------------------------------------------

    def _summands(self, name: str) -> list[str]:
        """Return what a sum of sums adds up, four tensors at most."""
        leaves: list[str] = []
        open_ends = [name]
        while open_ends and len(leaves) < 4:
            each = open_ends.pop()
            if self.patterns.op(each) == "Add":
                open_ends += self.patterns.operands(self.patterns.node(each, "Add"))
            else:
                leaves.append(each)
        return leaves

    def _is_embedding_sum(self, name: str) -> bool:
        """Whether a sum is that of rows of tables, not the residual sum of a layer."""
        return any(self.patterns.op(each) in ("Gather", "Slice") for each in self._summands(name))

    def _embeddings(self, name: str, prefix: str) -> None:
        norm = self.patterns.normalization(name)
        leaves = self._summands(norm.source)
        if len(leaves) != 3:
            raise CheckpointError(f"{norm.node}: expected the sum of words, token types and positions")
        tables = [self._table(each) for each in leaves]
        # Rows are taken by inputs, or by positions that the graph counts.
        given = sorted((table for table, is_given in tables if is_given), key=len)
        counted = sorted((table for table, is_given in tables if not is_given), key=len)
        if not given or not counted:
            raise CheckpointError(f"{norm.node}: expected rows for input ids and rows for positions")
        rows = {"word_embeddings": given[-1], "position_embeddings": counted[-1]}
        rows["token_type_embeddings"] = given[0] if len(given) > 1 else counted[0]
        for key, table in rows.items():
            self.state[f"{prefix}embeddings.{key}.weight"] = table
        self._fields |= {
            "vocab_size": len(rows["word_embeddings"]),
            "max_position_embeddings": len(rows["position_embeddings"]),
            "type_vocab_size": len(rows["token_type_embeddings"]),
            "hidden_size": rows["word_embeddings"].shape[1],
            "layer_norm_eps": norm.epsilon,
        }
        self._norm(norm, f"{prefix}embeddings.LayerNorm")

    def _table(self, name: str) -> tuple[Floats, bool]:
        """Return the table that rows are taken from, and whether an input says which."""
        node = self.patterns.node(name, "Gather", "Slice")
        table = self.view.values(node.input[0])
        if table is None or table.ndim != 2:
            raise CheckpointError(f"{name_of(node)}: expected rows of a constant table")
        index = self.view.source(node.input[1]) if len(node.input) > 1 else ""
        return table.astype(np.float32), op_of(node) == "Gather" and index in self.view.inputs

    # ---- layers --------------------------------------------------------------------------------------------

    def _layer(self, parts: _LayerParts, path: str) -> None:
        for name, layer in parts.linears.items():
            self.state[f"{path}{name}.weight"], self.state[f"{path}{name}.bias"] = layer.weight, layer.bias
            self._range(layer.input_scales, f"{path}{name}._input_quantizer")
            self._weight_range(layer, f"{path}{name}._weight_quantizer")
        for name, norm in parts.norms.items():
            self._norm(norm, f"{path}{name}")
        for name, scales in parts.quantizers.items():
            self._range(scales, path + name)
        self._same("hidden_act", parts.hidden_act, parts.linears["intermediate.dense"].node)
        self._same("num_attention_heads", parts.heads, parts.linears["attention.self.query"].node)
        inner = len(parts.linears["intermediate.dense"].bias)
        self._same("intermediate_size", inner, parts.linears["intermediate.dense"].node)

    def _same(self, field: str, value: Any, node: str) -> None:
        """Note a field of the configuration, which all layers have to agree on."""
        if self._fields.setdefault(field, value) != value:
            raise UnsupportedError(
                f"{node}: {field} is {value} here and {self._fields[field]} elsewhere, and a model has one"
            )

    def _norm(self, norm: Normalization, path: str) -> None:
        self._same("layer_norm_eps", norm.epsilon, norm.node)
        self.state[f"{path}.weight"], self.state[f"{path}.bias"] = norm.weight, norm.bias

    def _range(self, scales: Scales | None, path: str) -> None:
        if scales is None:
            self._deviations[path] = {"disabled": True}
            return
        if scales.scale.size > 1:
            raise CheckpointError(f"{scales.node}: expected one scale for an activation")
        self.state[f"{path}._amax"] = amax_of_scale(scales.scale, scales.bound)
        self._format(scales, path)

    def _weight_range(self, layer: LinearLayer, path: str) -> None:
        scales = layer.weight_scales
        if scales is None:
            self._deviations[path] = {"disabled": True}
            return
        magnitudes = np.abs(layer.weight)
        if scales.scale.size == 1:
            likely = np.asarray(magnitudes.max(), np.float32)
            self._deviations[path] = {"axis": None}
        elif scales.axis == 0:
            likely = magnitudes.max(axis=1)
        else:
            raise UnsupportedError(f"{scales.node}: scales along the inputs of a linear layer")
        amax = amax_of_scale(scales.scale, scales.bound, likely)
        # Exporters write 1 for a channel without a range, whose elements are all 0 then.
        is_dead = (scales.scale == _DEAD_SCALE) & (likely < 0.5)
        amax = np.where(is_dead, np.float32(0.0), amax)
        self.state[f"{path}._amax"] = amax if scales.scale.size == 1 else amax.reshape(-1, 1)
        self._format(scales, path)

    def _format(self, scales: Scales, path: str) -> None:
        if scales.kind == "UINT8":
            self._deviations.setdefault(path, {})["unsigned"] = True
        elif scales.kind == "FLOAT8E4M3FN":
            self._deviations.setdefault(path, {})["num_bits"] = [4, 3]


class _LayerParts:
    """One encoder layer, read backwards from its result."""

    def __init__(self, patterns: Patterns, name: str) -> None:
        self._patterns, self._view = patterns, patterns.view
        self.linears: dict[str, LinearLayer] = {}
        self.norms: dict[str, Normalization] = {}
        self.quantizers: dict[str, Scales | None] = {}
        self.norm = patterns.normalization(name)
        output, attended = self._residual(self.norm, "output")
        self.hidden_act, argument = patterns.activation(output.source)
        inner = self._linear(argument, "intermediate.dense")
        self._require(inner.source == attended, inner.node, "the states that the residual sum has")
        norm = patterns.normalization(attended)
        dense, self.source = self._residual(norm, "attention.output")
        self._attention(dense.source)

    def _require(self, holds: bool, node: str, expected: str) -> None:
        if not holds:
            raise CheckpointError(f"{node}: expected {expected}")

    def _linear(self, name: str, path: str) -> LinearLayer:
        self.linears[path] = self._patterns.linear(name)
        return self.linears[path]

    def _residual(self, norm: Normalization, path: str) -> tuple[LinearLayer, str]:
        """Return the linear layer and the tensor that are added before a LayerNormalization."""
        self.norms[f"{path}.LayerNorm"] = norm
        total = self._patterns.node(norm.source, "Add")
        sides = [self._patterns.quantized(each) for each in self._patterns.operands(total)]
        if self._patterns.is_normalization(sides[0].source):
            sides.reverse()
        local, residual = sides
        self.quantizers[f"{path}.add_local_input_quantizer"] = local.scales
        self.quantizers[f"{path}.add_residual_input_quantizer"] = residual.scales
        return self._linear(local.source, f"{path}.dense"), residual.source

    def _attention(self, name: str) -> None:
        """Read attention from its context, heads side by side."""
        patterns, path = self._patterns, "attention.self"
        merged = patterns.node(patterns.node(name, "Reshape").input[0], "Transpose")
        self._require_order(merged, [0, 2, 1, 3])
        product = patterns.node(merged.input[0], "MatMul")
        probabilities, value = (patterns.quantized(each) for each in patterns.operands(product))
        self.quantizers[f"{path}.matmul_a_input_quantizer"] = probabilities.scales
        self.quantizers[f"{path}.matmul_v_input_quantizer"] = value.scales
        softmax = patterns.node(probabilities.source, "Softmax")
        self._require(attribute(softmax, "axis", -1) in (-1, 3), name_of(softmax), "softmax over keys")
        scores, mask = patterns.operands(patterns.node(softmax.input[0], "Add"))
        if not self._is_scaled_product(scores):
            scores, mask = mask, scores
        self._require_padding_mask(mask)
        scaled = patterns.node(scores, "Div", "Mul")
        made, factor = patterns.with_constant(scaled)
        root = float(factor.reshape(-1)[0])
        size = root**2 if op_of(scaled) == "Div" else (1 / root**2 if root else 0.0)
        query, key = (patterns.quantized(each) for each in patterns.operands(patterns.node(made, "MatMul")))
        self.quantizers[f"{path}.matmul_q_input_quantizer"] = query.scales
        self.quantizers[f"{path}.matmul_k_input_quantizer"] = key.scales
        sources = {"query": query.source, "key": key.source, "value": value.source}
        for part, source in sources.items():
            layer = self._linear(self._heads(source, part == "key"), f"{path}.{part}")
            self._require(layer.source == self.source, layer.node, "the states that the residual sum has")
        width = len(self.linears[f"{path}.query"].bias)
        hidden = len(self.norm.bias)
        self._require(math.isfinite(size) and size >= 1.0, name_of(scaled), "the root of the size of a head")
        self.heads = round(width / size)
        is_whole = abs(size - round(size)) < 1e-3 and self.heads * round(size) == hidden == width
        self._require(is_whole, name_of(scaled), f"heads that together have {hidden} features, none pruned")

    def _heads(self, name: str, is_turned: bool) -> str:
        """Return the states of which heads were made: Reshape and Transpose, with keys turned."""
        turn = self._patterns.node(name, "Transpose")
        if is_turned and attribute(turn, "perm") == [0, 1, 3, 2]:
            turn, is_turned = self._patterns.node(turn.input[0], "Transpose"), False
        self._require_order(turn, [0, 2, 3, 1] if is_turned else [0, 2, 1, 3])
        return str(self._patterns.node(turn.input[0], "Reshape").input[0])

    def _require_order(self, turn: onnx.NodeProto, order: list[int]) -> None:
        self._require(attribute(turn, "perm") == order, name_of(turn), f"axes in the order {order}")

    # ---- mask ----------------------------------------------------------------------------------------------

    def _is_scaled_product(self, name: str) -> bool:
        """Whether a tensor is a product of two others, scaled."""
        if self._patterns.op(name) not in ("Div", "Mul"):
            return False
        operands = self._patterns.node(name, "Div", "Mul").input
        return any(self._patterns.op(each) == "MatMul" for each in operands)

    def _require_padding_mask(self, name: str) -> None:
        """Refuse what is added to scores and is no mask of padding, such as a decoder's."""
        lowest, open_ends, seen = 0.0, [name], set()
        while open_ends:
            each = open_ends.pop()
            values = self._view.values(each)
            if values is not None and values.size:
                lowest = min(lowest, float(values.min()))
            node = self._view.producer(each)
            if each in seen or node is None:
                continue
            seen.add(each)
            if op_of(node) not in _MASK_OPERATORS:
                raise UnsupportedError(
                    f"{name_of(node)}: {op_of(node)} in what is added to scores; a mask of padding is read, "
                    "decoders and relative positions are not"
                )
            open_ends += node.input[:1] if op_of(node) in LAYOUT else node.input
        self._require(lowest <= _HIDES, f"tensor {name!r:.120}", "a mask that hides padding")

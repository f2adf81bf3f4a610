# SPDX-License-Identifier: Apache-2.0
"""What configurations change: activations, positions, heads, layers; each as a graph against the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import CLASSES, batch, build, calibrated, outputs_of
from ties import ROUNDING, differences_of

import qdqbert
from graph_runs import check, evaluate, exported, quantize_nodes
from qdqbert import nn
from qdqbert.modeling_tree import _ACTIVATION_CLASSES
from qdqbert.onnx.layer_nodes import least_of_activation


def without_quantizers(kind: str) -> Any:
    model = build(kind, 5)
    for module in model.modules():
        if isinstance(module, nn.TensorQuantizer):
            module.disable()
    return model


@pytest.mark.parametrize("opset", [13, 18, 20])
@pytest.mark.parametrize("name", sorted(_ACTIVATION_CLASSES))
def test_every_activation(name: str, opset: int) -> None:
    model = calibrated("masked", hidden_act=name, num_hidden_layers=2)

    proto = exported(model, opset=opset)

    check(proto)
    assert differences_of("masked", model, proto) < ROUNDING
    ops = {node.op_type for node in proto.graph.node if "/intermediate_act_fn/" in node.name}
    assert ("Gelu" in ops) == (opset == 20 and "gelu" in name and name != "quick_gelu")
    assert ("Mish" in ops) == (opset >= 18 and name == "mish")


@pytest.mark.parametrize("name", sorted(_ACTIVATION_CLASSES))
def test_no_activation_goes_below_its_least_value(name: str) -> None:
    config = {"hidden_act": name, "num_hidden_layers": 1}
    model = calibrated("base", **config)
    proto = exported(model)
    node = quantize_nodes(proto)["encoder.layer.0.output.dense._input_quantizer"]
    [constant] = [each for each in proto.graph.initializer if each.name.endswith("intermediate.dense.bias")]
    # Every element of the layer sees the same inputs, from far below to far above.
    grid = np.linspace(-12.0, 12.0, 37, dtype=np.float32)
    least = np.inf
    for shift in np.linspace(0.0, 24.0 / 37.0, 12, dtype=np.float32):
        constant.raw_data = (grid + shift).tobytes()
        least = min(least, evaluate(proto, batch("base"), [node.input[0]])[node.input[0]].min())

    known = least_of_activation(name)
    assert known <= least
    if np.isfinite(known):
        assert known > least - 0.02
    else:
        assert least < -0.1


@pytest.mark.parametrize("positions", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize("kind", CLASSES)
def test_relative_positions(kind: str, positions: str) -> None:
    model = calibrated(kind, position_embedding_type=positions, num_hidden_layers=2)

    proto = exported(model)

    check(proto)
    assert differences_of(kind, model, proto) < ROUNDING
    inputs = batch(kind, 2, 23)  # as many as there are positions
    assert evaluate(proto, inputs).keys() == outputs_of(kind, model, inputs).keys()


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_pruned_heads(weights: str) -> None:
    model = build("question", 3)
    model.prune_heads({0: [1], 2: [0, 1, 3, 4]})
    qdqbert.calibrate(model, [batch("question", seed=1)], method="max")

    proto = exported(model, weights=weights)

    check(proto)
    assert len(quantize_nodes(proto)) == {"float": 60, "int8": 42}[weights]
    assert differences_of("question", model, proto) < ROUNDING


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 1, "hidden_size": 3, "intermediate_size": 1},
        {"num_attention_heads": 7, "hidden_size": 7, "intermediate_size": 129},
        {"num_hidden_layers": 1, "vocab_size": 103, "type_vocab_size": 3},
        {"layer_norm_eps": 0.25},
    ],
)
@pytest.mark.parametrize("opset", [13, 17])
def test_other_sizes(changes: dict[str, Any], opset: int) -> None:
    model = calibrated("sequence", **changes)

    proto = exported(model, opset=opset)

    check(proto)
    assert differences_of("sequence", model, proto) < ROUNDING


def test_sizes_of_a_changed_model_are_the_present_ones() -> None:
    model = calibrated("masked")
    model.resize_token_embeddings(107)
    model.config.hidden_size = 99  # a note that changes no size

    proto = exported(model)

    check(proto)
    assert proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value == 107
    assert differences_of("masked", model, proto) < ROUNDING


def test_the_table_of_words_stands_in_the_file_once() -> None:
    tied, untied = (exported(calibrated(kind)) for kind in ("masked", "masked untied"))

    def tables(proto: Any) -> list[str]:
        return [each.name for each in proto.graph.initializer if 101 in each.dims and 20 in each.dims]

    assert tables(tied) == ["bert.embeddings.word_embeddings.weight"]
    assert tables(untied) == [
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight_transposed",
    ]


@pytest.mark.parametrize("kind", ["question", "causal"])
def test_a_text_that_is_masked_whole_attends_to_all_alike(kind: str) -> None:
    """The lowest number absorbs every score; with a higher one they would still tell positions apart."""
    model = without_quantizers(kind)
    proto, inputs = exported(model), batch(kind)
    inputs["attention_mask"][1] = 0

    values = evaluate(proto, inputs)

    for name, value in outputs_of(kind, model, inputs).items():
        np.testing.assert_allclose(values[name], value, rtol=0, atol=ROUNDING)


def test_texts_longer_than_the_positions_are_refused() -> None:
    proto = exported(calibrated("question"))

    with pytest.raises(Exception, match="binary operator 'Add'"):
        evaluate(proto, batch("question", 2, 24))

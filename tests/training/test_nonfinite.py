# SPDX-License-Identifier: Apache-2.0
"""The first place that is not finite is found, and named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.training.nonfinite import find_nonfinite, find_nonfinite_gradient


def floating(**changes: Any) -> Any:
    model = tiny_model.question_answering(**changes)
    qdqbert.quantizers(model, {"*": "off"})
    return model


def inputs(**more: Any) -> dict[str, Any]:
    return {**tiny_model.batch(), "start_positions": [0, 1, 2], "end_positions": [1, 2, 3], **more}


def set_weight(model: Any, name: str, index: Any, value: float) -> None:
    tensor = np.array(model.state_dict()[name])
    tensor[index] = value
    model.load_state_dict({name: tensor}, strict=False)


def test_a_weight_is_named_first() -> None:
    model = floating()
    name = "bert.encoder.layer.1.output.dense.weight"
    set_weight(model, name, (3, slice(0, 2)), np.nan)
    assert find_nonfinite(model, inputs()) == f"{name} has 2 values that are not finite"
    set_weight(model, name, (3, 0), 0.0)
    assert find_nonfinite(model, inputs()) == f"{name} has a value that is not finite"


def test_an_input_of_the_batch_is_named() -> None:
    embeddings = np.zeros((2, 4, 24), np.float32)
    embeddings[1, 2, 3] = np.inf
    assert find_nonfinite(floating(), {"inputs_embeds": embeddings}) == (
        "the batch's inputs_embeds has values that are not finite"
    )


@pytest.mark.parametrize("layer", [0, 1])
def test_the_layer_with_the_first_overflow_is_named(layer: int) -> None:
    model = floating()
    # A product of 24 such terms is beyond float32, each weight is not.
    set_weight(model, f"bert.encoder.layer.{layer}.intermediate.dense.weight", slice(None), 3e38)
    found = find_nonfinite(model, inputs())
    assert found.startswith(f"the output of bert.encoder.layer.{layer} is not finite, first at sequence 0, ")


def test_an_overflow_in_the_head_is_named() -> None:
    model = floating()
    set_weight(model, "qa_outputs.weight", slice(None), 3e38)
    assert find_nonfinite(model, inputs()) == "the hidden states are finite, start_logits of the head is not"


def test_a_quantized_product_names_its_site() -> None:
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()], method="max")
    set_weight(model, "bert.encoder.layer.0.attention.output.LayerNorm.weight", slice(None), 3e38)
    set_weight(model, "bert.encoder.layer.0.attention.output.LayerNorm.bias", slice(None), 3e38)
    assert "bert.encoder.layer.0." in find_nonfinite(model, inputs())


def test_labels_of_which_none_counts_are_named() -> None:
    model = qdqbert.QDQBertForTokenClassification(tiny_model.config(), seed=0)
    labels = np.full((3, 11), -100)
    assert find_nonfinite(model, {**tiny_model.batch(), "labels": labels}) == (
        "every one of the batch's labels is -100, so none counts"
    )


def test_finite_logits_leave_the_labels_and_dropout() -> None:
    assert "what is not is the loss of these labels, or a forward with dropout" in find_nonfinite(
        floating(), inputs()
    )


def test_gradients_are_counted_and_the_last_is_named() -> None:
    def parameters(*gradients: Any) -> Any:
        named = [(f"p{i}", SimpleNamespace(grad=gradient)) for i, gradient in enumerate(gradients)]
        return SimpleNamespace(named_parameters=lambda: iter(named))

    good, bad = np.ones(3, np.float32), np.float32([1, np.nan])
    assert find_nonfinite_gradient(parameters(good, bad, None, bad, good)) == (
        "2 gradients are not finite, nearest to the loss that of p3"
    )
    assert find_nonfinite_gradient(parameters(good, bad)) == "the gradient of p1 is not finite"
    assert "each gradient is finite" in find_nonfinite_gradient(parameters(good, None))

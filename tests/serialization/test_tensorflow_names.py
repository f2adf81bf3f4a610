# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from qdqbert import CheckpointError
from qdqbert.serialization.tensorflow_names import head_of, torch_names

NAMES = {
    "bert/embeddings/word_embeddings": ("bert.embeddings.word_embeddings.weight", False),
    "bert/embeddings/token_type_embeddings": ("bert.embeddings.token_type_embeddings.weight", False),
    "bert/embeddings/LayerNorm/gamma": ("bert.embeddings.LayerNorm.weight", False),
    "bert/embeddings/LayerNorm/beta": ("bert.embeddings.LayerNorm.bias", False),
    "bert/encoder/layer_11/attention/self/query/kernel": (
        "bert.encoder.layer.11.attention.self.query.weight", True,
    ),
    "bert/encoder/layer_0/output/dense/bias": ("bert.encoder.layer.0.output.dense.bias", False),
    "bert/pooler/dense/kernel": ("bert.pooler.dense.weight", True),
    "cls/predictions/output_bias": ("cls.predictions.bias", False),
    "cls/predictions/transform/dense/kernel": ("cls.predictions.transform.dense.weight", True),
    "cls/seq_relationship/output_weights": ("cls.seq_relationship.weight", False),
    "cls/seq_relationship/output_bias": ("cls.seq_relationship.bias", False),
}  # fmt: skip


@pytest.mark.parametrize("variable", sorted(NAMES))
def test_a_variable_has_the_originals_name(variable: str) -> None:
    name, is_turned = NAMES[variable]
    assert torch_names([variable], "classifier") == {name: (variable, is_turned)}


@pytest.mark.parametrize(
    "variable",
    [
        "global_step",
        "bert/pooler/dense/kernel/adam_m",
        "bert/pooler/dense/kernel/adam_v",
        "bert/x/AdamWeightDecayOptimizer",
        "bert/x/AdamWeightDecayOptimizer_1",
    ],
)
def test_what_the_optimizer_keeps_is_left_out(variable: str) -> None:
    assert torch_names([variable], "classifier") == {}


@pytest.mark.parametrize("head", ["qa_outputs", "classifier"])
def test_fine_tuned_heads_go_to_the_models_head(head: str) -> None:
    variables = ["cls/squad/output_weights", "cls/squad/output_bias"]
    assert set(torch_names(variables, head)) == {f"{head}.weight", f"{head}.bias"}
    assert set(torch_names(["output_weights", "output_bias"], head)) == {f"{head}.weight", f"{head}.bias"}


def test_the_head_is_the_models() -> None:
    assert head_of(["bert.x", "qa_outputs.weight"]) == "qa_outputs"
    assert head_of(["bert.x", "classifier.weight"]) == "classifier"


def test_two_variables_for_one_tensor_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"both mean bert\.x\.LayerNorm\.weight"):
        torch_names(["bert/x/LayerNorm/gamma", "bert/x/LayerNorm/output_weights"], "classifier")

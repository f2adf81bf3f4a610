# SPDX-License-Identifier: Apache-2.0
"""`model.summary()`: the rows are the model's facts, the totals add up, and the text fits."""

from __future__ import annotations

import json
from typing import Any

import pytest

import qdqbert
import tiny_model
from qdqbert import nn
from qdqbert.summary import ModelSummary, SummaryRow, summarize
from qdqbert.tensor_quant import QuantDescriptor

CLASSES: list[tuple[str, dict[str, Any]]] = [
    ("QDQBertModel", {}),
    ("QDQBertForQuestionAnswering", {}),
    ("QDQBertForSequenceClassification", {"num_labels": 5}),
    ("QDQBertForTokenClassification", {}),
    ("QDQBertForMultipleChoice", {}),
    ("QDQBertForNextSentencePrediction", {}),
    ("QDQBertForMaskedLM", {"tie_word_embeddings": False}),
    ("QDQBertForMaskedLM", {}),
    ("QDQBertLMHeadModel", {"is_decoder": True, "add_cross_attention": True}),
    ("QDQBertLMHeadModel", {"is_decoder": True, "position_embedding_type": "relative_key_query"}),
]


def model_of(name: str, changes: dict[str, Any]) -> Any:
    return getattr(qdqbert, name)(tiny_model.config(**changes))


def row_of(summary: ModelSummary, name: str) -> SummaryRow:
    [row] = [row for row in summary.rows if row.name == name]
    return row


@pytest.mark.parametrize(("name", "changes"), CLASSES)
def test_every_parameter_quantizer_and_product_is_in_one_row(name: str, changes: dict[str, Any]) -> None:
    model = model_of(name, changes)
    summary = model.summary()
    assert summary.parameters == model.num_parameters() == sum(p.size for p in model.parameters())
    assert summary.bytes == sum(p.nbytes for p in model.parameters())
    quantizers = [path for path, module in model.named_modules() if isinstance(module, nn.TensorQuantizer)]
    shown = [each.name for row in summary.rows for each in row.quantizers]
    assert sorted(shown) == sorted(path.rpartition(".")[2] for path in quantizers)
    assert [(row.name, row.path, row.reason) for row in summary.rows if row.path] == model.execution_sites()


@pytest.mark.parametrize(("name", "changes"), CLASSES)
def test_weights_have_the_shapes_of_the_parameters(name: str, changes: dict[str, Any]) -> None:
    model = model_of(name, changes)
    shapes = {row.name: row.shape for row in model.summary().rows if row.shape and row.tied_to is None}
    for path, value in model.named_parameters():
        module, _, last = path.rpartition(".")
        if last == "weight":
            assert shapes.pop(module) == value.shape
    assert not shapes


def test_rows_stand_in_the_order_of_computation() -> None:
    summary = tiny_model.question_answering().summary()
    layer = "bert.encoder.layer.1."
    assert [row.name.removeprefix(layer) for row in summary.rows if row.name.startswith(layer)] == [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.self.scores",
        "attention.self.context",
        "attention.output.dense",
        "attention.output.add",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.add",
        "output.LayerNorm",
    ]


def test_products_have_the_quantizers_of_their_operands() -> None:
    summary = tiny_model.question_answering().summary()
    for product, operands in (
        ("attention.self.scores", ["matmul_q_input_quantizer", "matmul_k_input_quantizer"]),
        ("attention.self.context", ["matmul_v_input_quantizer", "matmul_a_input_quantizer"]),
        ("output.add", ["add_local_input_quantizer", "add_residual_input_quantizer"]),
        ("output.dense", ["_input_quantizer", "_weight_quantizer"]),
    ):
        row = row_of(summary, f"bert.encoder.layer.0.{product}")
        assert [each.name for each in row.quantizers] == operands


def test_states_are_those_of_the_quantizers() -> None:
    model = tiny_model.question_answering()
    assert model.summary().quantizers == {"dynamic": 40}
    qdqbert.calibrate(model, [tiny_model.batch()])
    before = model.summary()
    assert before.quantizers == {"calibrated": 40}
    qdqbert.quantizers(model, {"*.layer.0.*": "off", "*.layer.1.output.*": "calib"})
    model.get_submodule("bert.encoder.layer.1.intermediate.dense._input_quantizer").disable_quant()
    assert model.summary().quantizers == {"calibrated": 15, "collecting": 4, "idle": 1, "off": 20}
    assert before.quantizers == {"calibrated": 40}  # a summary is of its moment


def test_a_product_that_is_dequantized_says_why() -> None:
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()])
    name = "bert.encoder.layer.0.output.dense"
    model.get_submodule(f"{name}._weight_quantizer").disable()
    summary = model.summary()
    assert row_of(summary, name).path == "dequantized"
    [reason] = summary.reasons
    assert row_of(summary, name).reason == reason
    lines = str(summary).splitlines()
    assert lines[-1] == f"(1) {reason}"
    end = "1 calibrated, 1 off  dequantized (1)"
    assert [line.split()[0] for line in lines if line.endswith(end)] == ["output.dense"]
    assert summary.paths == {"integer": 19, "float": 1, "dequantized": 1}


def test_equal_layers_share_their_rows_and_others_do_not() -> None:
    model = tiny_model.question_answering(num_hidden_layers=5)

    def layers() -> list[tuple[str, int]]:
        return [(b.title, b.count) for b in model.summary().blocks() if "layer" in b.title]

    assert layers() == [("bert.encoder.layer.0-4", 5)]
    qdqbert.quantizers(model, {"*.layer.2.*.query.*": {"num_bits": 4}})
    assert layers() == [
        ("bert.encoder.layer.0-1", 2),
        ("bert.encoder.layer.2", 1),
        ("bert.encoder.layer.3-4", 2),
    ]
    assert sum(block.parameters for block in model.summary().blocks()) == model.num_parameters()
    assert "2 dynamic, 4 bit" in str(model.summary())


def test_pruned_layers_are_not_those_of_whole_ones() -> None:
    model = tiny_model.question_answering(num_hidden_layers=3)
    model.prune_heads({1: [0]})
    titles = [block.title for block in model.summary().blocks() if "layer" in block.title]
    assert titles == [f"bert.encoder.layer.{i}" for i in range(3)]
    assert row_of(model.summary(), "bert.encoder.layer.1.attention.self.query").shape == (16, 24)


@pytest.mark.parametrize(("name", "changes"), CLASSES)
def test_the_text_fits_a_hundred_columns(name: str, changes: dict[str, Any]) -> None:
    model = model_of(name, {**changes, "num_hidden_layers": 11, "vocab_size": 123_456})
    model.name_or_path = "/a/very/long/path" * 20
    rules = {"*_weight_quantizer": "off", "*_input_quantizer": {"state": "calib", "num_bits": 4}}
    qdqbert.quantizers(model, rules)
    lines = str(model.summary()).splitlines()
    assert max(len(line) for line in lines) <= 100
    assert not any(line != line.rstrip() for line in lines)


def test_the_text_is_what_a_prompt_shows() -> None:
    summary = tiny_model.question_answering().summary()
    assert repr(summary) == str(summary)
    lines = str(summary).splitlines()
    assert lines[:5] == [
        "QDQBertForQuestionAnswering",
        "",
        "module                         weight   parameters  quantizers  computed",
        "-----------------------------  -------  ----------  ----------  --------",
        "bert.embeddings",
    ]
    # 53, 32 and 2 vectors of 24; LayerNorm 2 x 24; a layer: 4 of 24 x 24, 24 x 37 and back; the head: 2 x 24.
    embeddings = (53 + 32 + 2) * 24 + 48
    layer = 4 * (24 * 24 + 24) + (24 * 37 + 37) + (37 * 24 + 24) + 2 * 48
    assert lines[-3:] == [
        f"{embeddings + 2 * layer + 50:,} parameters (43.4 kB as float32)",
        "40 quantizers: 40 dynamic",
        "21 products: 20 integer, 1 float",
    ]


def test_machines_get_plain_types() -> None:
    model = tiny_model.question_answering()
    facts = json.loads(json.dumps(model.summary().as_dict()))
    assert facts["model"] == "QDQBertForQuestionAnswering"
    assert facts["parameters"] == model.num_parameters()
    assert facts["bytes"] == 4 * facts["parameters"]
    assert facts["quantizers"] == {"dynamic": 40}
    assert facts["paths"] == {"integer": 20, "float": 1}
    [row] = [row for row in facts["rows"] if row["name"] == "bert.encoder.layer.0.output.dense"]
    assert row == {
        "name": "bert.encoder.layer.0.output.dense",
        "kind": "QuantLinear",
        "shape": [24, 37],
        "parameters": 24 * 37 + 24,
        "tied_to": None,
        "quantizers": {"_input_quantizer": "dynamic", "_weight_quantizer": "dynamic"},
        "path": "integer",
        "reason": "",
    }


def test_tied_weights_count_once() -> None:
    tied, untied = (
        qdqbert.QDQBertForMaskedLM(tiny_model.config(tie_word_embeddings=is_tied)).summary()
        for is_tied in (True, False)
    )
    decoder = row_of(tied, "cls.predictions.decoder")
    assert decoder.tied_to == "bert.embeddings.word_embeddings.weight"
    assert decoder.parameters == 0
    assert decoder.shape == (53, 24)
    assert any(line.split()[-2:] == ["tied", "float"] for line in str(tied).splitlines())
    assert untied.parameters - tied.parameters == 53 * 24


class Doubled(nn.Module):
    """A module of a user's own."""

    def __init__(self, learn: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.QuantLinear(3, 3, bias=False) for _ in range(2)])
        bits: Any = 8 if learn else (4, 3)
        self.extra = nn.TensorQuantizer(QuantDescriptor(learn_amax=learn, num_bits=bits))


def test_modules_of_ones_own_can_be_summarized() -> None:
    summary = summarize(Doubled())
    assert [row.name for row in summary.rows] == ["", "layers.0", "layers.1"]
    assert summary.parameters == 18
    assert summary.quantizers == {"dynamic": 5}
    assert summary.paths == {}
    assert "1 dynamic, E4M3" in str(summary)
    assert str(summarize(nn.ModuleList())).splitlines()[0] == "ModuleList"


def test_learned_bounds_are_parameters_of_the_row_of_their_quantizer() -> None:
    module = Doubled(learn=True)
    summary = summarize(module)
    assert summary.parameters == sum(p.size for p in module.parameters()) == 20
    assert row_of(summary, "").parameters == 2

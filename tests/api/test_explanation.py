# SPDX-License-Identifier: Apache-2.0
"""`qdqbert.explain`: every part has a kernel, what is not integer has a reason, and the advice is true.

That the kernels named are those that run, and that codes travel where they are said to, is proved in C
(tests/c/test_site_kernels.c), by counting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import nn
from qdqbert.explanation import ExplainedSite, Explanation, explain
from qdqbert.tensor_quant import QuantDescriptor

CSRC = Path(__file__).resolve().parents[2] / "csrc"
KINDS_OF_SITES = ("linear", "product", "add", "positions")
LAYER = "bert.encoder.layer.1"

CLASSES: list[tuple[str, dict[str, Any]]] = [
    ("QDQBertModel", {}),
    ("QDQBertForQuestionAnswering", {}),
    ("QDQBertForSequenceClassification", {"num_labels": 5}),
    ("QDQBertForMaskedLM", {"tie_word_embeddings": False}),
    ("QDQBertForMaskedLM", {}),
    ("QDQBertLMHeadModel", {"is_decoder": True, "add_cross_attention": True}),
    ("QDQBertLMHeadModel", {"is_decoder": True, "position_embedding_type": "relative_key_query"}),
]


def calibrated(**changes: Any) -> Any:
    model = tiny_model.question_answering(**changes)
    qdqbert.calibrate(model, [tiny_model.batch()])
    return model


@pytest.mark.parametrize(("name", "changes"), CLASSES)
def test_every_part_has_a_kernel_of_the_device(name: str, changes: dict[str, Any]) -> None:
    model = getattr(qdqbert, name)(tiny_model.config(**changes))
    found = explain(model, seq_len=7)
    kernels = dict(model.device.kernels())
    assert all(kernels[row.kernel] == row.isa for row in found.rows)
    sites = [(row.name, row.path) for row in found.rows if row.kind in KINDS_OF_SITES]
    assert sites == [(name, path) for name, path, _ in model.execution_sites()]
    parts = {
        path
        for path, module in model.named_modules()
        if type(module).__name__ in ("Embedding", "LayerNorm", "Linear", "QuantLinear")
    }
    products = {row.name for row in found.rows if row.name.endswith((".scores", ".context", ".add"))}
    assert {row.name for row in found.rows} == parts | products


@pytest.mark.parametrize("isa", ["ref", None])
def test_the_variant_is_that_of_the_models_device(isa: str | None) -> None:
    device = qdqbert.Device(isa, 3)
    model = qdqbert.QDQBertModel(tiny_model.config(), device=device)
    found = explain(model)
    assert (found.isa, found.num_threads) == (device.isa, 3)
    variants = dict(device.kernels())
    assert found["encoder.layer.0.output.dense"].isa == variants["product_qs8"]
    assert found["pooler.dense"].isa == variants["product_f32"]


def test_a_normalization_is_done_by_the_kernel_of_its_add() -> None:
    model = calibrated()
    qdqbert.quantizers(model, {f"{LAYER}.output.add_*": "off"})
    found = explain(model)
    assert found[f"{LAYER}.attention.output.LayerNorm"].kernel == "add_layer_norm_qs8"
    assert found[f"{LAYER}.output.LayerNorm"].kernel == "add_layer_norm_f32"
    assert found["bert.embeddings.LayerNorm"].kernel == "layer_norm_f32"


# ---- mixed models: what is not integer, why, and what makes it so ------------------------------------------


def quantizer_of(model: Any, name: str) -> Any:
    return model.get_submodule(f"{LAYER}.{name}")


def set_amax(value: Any) -> Callable[[Any], None]:
    def change(quantizer: Any) -> None:
        quantizer._handle.set_amax(np.array(value, np.float32))

    return change


def set_option(**options: Any) -> Callable[[Any], None]:
    def change(quantizer: Any) -> None:
        quantizer._handle.set_options(options)

    return change


ROWS = np.arange(1, 25, dtype=np.float32)
ONLY_ONE = "only one of the two operands is quantized"
FIXABLE: list[tuple[str, Callable[[Any], None], str]] = [
    ("output.dense._input_quantizer", lambda q: q.disable(), ONLY_ONE),
    ("output.dense._weight_quantizer", lambda q: q.disable_quant(), ONLY_ONE),
    ("attention.self.matmul_k_input_quantizer", lambda q: q.disable(), ONLY_ONE),
    ("output.add_local_input_quantizer", lambda q: q.disable(), ONLY_ONE),
    ("output.dense._input_quantizer", set_option(num_bits=9), "more codes than int8"),
    ("output.dense._weight_quantizer", set_option(num_bits=16), "more codes than int8"),
    ("output.dense._input_quantizer", set_option(num_bits=8, unsigned=True), "more codes than int8"),
    ("output.dense._input_quantizer", set_option(num_bits=(4, 3)), "E4M3"),
    ("attention.self.query._weight_quantizer", set_option(num_bits=1), "no code but zero"),
    ("output.dense._input_quantizer", set_amax(np.nan), "amax is not finite"),
    ("output.add_residual_input_quantizer", set_amax(ROWS), "range for every slice of an axis"),
    ("attention.self.query._weight_quantizer", set_amax(ROWS[None]), "not one number for each row"),
]


@pytest.mark.parametrize(("name", "change", "reason"), FIXABLE)
def test_a_site_that_is_not_integer_says_why_and_the_rules_make_it_so(
    name: str, change: Callable[[Any], None], reason: str
) -> None:
    model = calibrated()
    whole = explain(model)
    change(quantizer_of(model, name))
    found = explain(model)
    [row] = [row for row in found.rows if row.path == "dequantized"]
    assert (row.obstacle, row.kernel[-4:]) == (f"{LAYER}.{name}", "_f32")
    assert reason in row.reason
    assert row.advice
    assert row.rules == found.rules
    assert found.multiply_adds.get("dequantized", 0) == row.multiply_adds
    qdqbert.quantizers(model, found.rules)
    assert explain(model).multiply_adds == whole.multiply_adds
    assert explain(model)[row.name].path == "integer"


def model_with(**descriptors: QuantDescriptor) -> Any:
    """A model whose inputs or weights of linear layers have this descriptor."""
    before = {
        "input": nn.QuantLinear.default_quant_desc_input,
        "weight": nn.QuantLinear.default_quant_desc_weight,
    }
    given = {**before, **descriptors}
    try:
        nn.QuantLinear.set_default_quant_desc_input(given["input"])
        nn.QuantLinear.set_default_quant_desc_weight(given["weight"])
        return tiny_model.question_answering()
    finally:
        nn.QuantLinear.set_default_quant_desc_input(before["input"])
        nn.QuantLinear.set_default_quant_desc_weight(before["weight"])


UNFIXABLE: list[tuple[dict[str, Any], str, str]] = [
    ({"learn_amax": True, "amax": 1.0}, "clips", "learn_amax=False"),
    ({"axis": (1,)}, "range for every column", "axis=(0,) or None"),
]
OTHERS = ["range is learned", "pre_quant_scale"]


@pytest.mark.parametrize(("descriptor", "reason", "advice"), UNFIXABLE)
def test_what_only_a_descriptor_can_change_has_advice_and_no_rules(
    descriptor: dict[str, Any], reason: str, advice: str
) -> None:
    model = model_with(weight=QuantDescriptor(**descriptor))
    row = explain(model)[f"{LAYER}.output.dense"]
    assert (row.path, row.rules) == ("dequantized", None)
    assert reason in row.reason
    assert advice in row.advice


def test_a_learned_range_that_does_not_clip_is_still_learned() -> None:
    model = model_with(weight=QuantDescriptor(learn_amax=True, amax=1.0))
    quantizer_of(model, "output.dense._weight_quantizer").disable_clip()
    row = explain(model)[f"{LAYER}.output.dense"]
    assert "range is learned" in row.reason


def test_a_pre_quant_scale_is_named() -> None:
    model = calibrated()
    quantizer_of(model, "output.dense._input_quantizer").pre_quant_scale = 2.0
    row = explain(model)[f"{LAYER}.output.dense"]
    assert "pre_quant_scale" in row.reason
    assert "pre_quant_scale" in row.advice
    assert row.rules is None


def test_an_activation_with_ranges_along_an_axis_needs_another_descriptor() -> None:
    model = model_with(input=QuantDescriptor(axis=(2,)))
    row = explain(model)[f"{LAYER}.output.dense"]
    assert "every slice of an axis" in row.reason
    assert "axis=None" in row.advice


def test_the_kinds_above_are_all_that_c_knows() -> None:
    """A reason more in C needs a test here, and a remedy."""
    text = "\n".join((CSRC / name).read_text() for name in ("quant/quantizer.c", "layers/site.c"))
    reasons = set(re.findall(r'(?:return|reason =|why =|\},) "((?:an?|only) [^"]+)"[;,]', text))
    assert len(reasons) > 10
    tested = [*(reason for *_, reason in FIXABLE), *(reason for _, reason, _ in UNFIXABLE), *OTHERS]
    unseen = {reason for reason in reasons if not any(part in reason for part in tested)}
    # One that is off beside one that is not has a reason of its own, and no model has real quantization.
    assert unseen == {
        "a quantizer is off",
        "a quantizer gives integers instead of quantized values (fake_quant is off)",
    }


def test_several_obstacles_are_removed_at_once() -> None:
    model = calibrated()
    quantizer = quantizer_of(model, "output.dense._input_quantizer")
    quantizer._handle.set_options({"num_bits": 12})
    quantizer._handle.set_amax(np.ones(37, np.float32))
    found = explain(model)
    assert found[f"{LAYER}.output.dense"].advice == "give it 8 bits, give it one range, that of all slices"
    qdqbert.quantizers(model, found.rules)
    assert explain(model)[f"{LAYER}.output.dense"].path == "integer"


def test_quantizers_that_are_off_together_leave_a_float_product() -> None:
    model = calibrated()
    qdqbert.quantizers(model, {f"{LAYER}.attention.self.value.*": "off"})
    found = explain(model)
    row = found[f"{LAYER}.attention.self.value"]
    assert (row.path, row.reason, row.obstacle) == ("float", "both quantizers are off", "")
    assert [operand.codes for operand in row.operands] == ["float", "float"]
    qdqbert.quantizers(model, found.rules)
    assert explain(model)[row.name].path == "integer"


def test_heads_and_pooler_are_float_by_definition() -> None:
    model = qdqbert.QDQBertForSequenceClassification(tiny_model.config())
    for name in ("bert.pooler.dense", "classifier"):
        row = explain(model)[name]
        assert (row.path, row.reason, row.advice) == ("float", "QDQBERT does not quantize it", "")


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_fewer_bits_are_codes_too(bits: int) -> None:
    model = calibrated()
    qdqbert.quantizers(model, {"*": {"num_bits": bits}})
    found = explain(model)
    row = found[f"{LAYER}.output.dense"]
    assert row.path == "integer"
    assert {(o.codes, o.lowest, o.highest) for o in row.operands} == {
        (f"int{bits}", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    }


def test_a_dynamic_range_is_integer_and_has_a_hint() -> None:
    model = tiny_model.question_answering()
    row = explain(model)[f"{LAYER}.output.dense"]
    assert row.path == "integer"
    assert "qdqbert.calibrate" in row.advice
    assert [operand.ranges for operand in row.operands] == [0, 0]
    qdqbert.calibrate(model, [tiny_model.batch()])
    row = explain(model)[f"{LAYER}.output.dense"]
    assert row.advice == ""
    assert [operand.ranges for operand in row.operands] == [1, 24]


def test_ranges_are_those_of_the_quantizers() -> None:
    model = calibrated()
    for row in explain(model).rows:
        for operand in row.operands:
            amax = model.get_submodule(operand.name).amax
            assert (operand.least_range, operand.largest_range) == (amax.min(), amax.max())


def test_a_quantizer_that_collects_has_a_hint() -> None:
    model = calibrated()
    quantizer_of(model, "output.dense._input_quantizer").enable_calib()
    row = explain(model)[f"{LAYER}.output.dense"]
    assert (row.path, row.operands[0].state) == ("integer", "collecting")
    assert "disable_calib()" in row.advice


# ---- what travels ------------------------------------------------------------------------------------------

DYNAMIC = "the range is dynamic: it is known when the whole tensor is"
HANDED_OUT = "keys and values are handed out"


def test_between_calibrated_sites_codes_travel_from_kernels_that_make_them() -> None:
    found = explain(calibrated())
    layer = [row for row in found.rows if row.name.startswith(LAYER)]
    gives = {row.name.removeprefix(f"{LAYER}."): (row.gives, row.floats_because) for row in layer}
    floats = {
        "attention.self.scores": "softmax, which comes between, reads floats",
        "output.add": "the last layer's result leaves the encoder",
        "output.LayerNorm": "the last layer's result leaves the encoder",
    }
    assert gives == {name: ("floats", floats[name]) if name in floats else ("codes", "") for name in gives}
    for row in layer:
        if row.kind in ("linear", "product"):
            assert row.kernel == ("product_qs8_codes" if row.gives == "codes" else "product_qs8")
    vectors = found["bert.embeddings.LayerNorm"]
    assert (vectors.gives, vectors.floats_because) == ("codes", "")


def test_a_tensor_arrives_as_it_is_given() -> None:
    model = calibrated()
    quantizer_of(model, "output.dense._input_quantizer").enable_calib()
    found = explain(model)
    assert (found[f"{LAYER}.intermediate.dense"].gives, found[f"{LAYER}.intermediate.dense"].kernel) == (
        "floats",
        "product_qs8",
    )
    activation, weight = found[f"{LAYER}.output.dense"].operands
    assert (activation.arrives, activation.floats_because) == ("floats", "the quantizer collects")
    assert (weight.arrives, weight.floats_because) == ("", "")
    arriving = [operand for row in found.rows for operand in row.operands if operand.arrives]
    assert sum(operand.arrives == "floats" for operand in arriving) == 1 + 2  # and two layers' probabilities


def test_a_reader_that_wants_floats_gets_them_beside_the_codes_of_others() -> None:
    model = calibrated()
    quantizer_of(model, "attention.self.query._input_quantizer")._handle.set_amax(None)
    found = explain(model)
    before = found["bert.encoder.layer.0.output.LayerNorm"]
    assert (before.gives, before.floats_because) == ("both", DYNAMIC)
    layer = f"{LAYER}.attention.self"
    arrives = [found[f"{layer}.{name}"].operands[0].arrives for name in ("query", "key", "value")]
    assert arrives == ["floats", "codes", "codes"]


def test_a_product_that_is_not_integer_gives_floats_and_has_one_note() -> None:
    model = calibrated()
    quantizer_of(model, "intermediate.dense._weight_quantizer").disable()
    found = explain(model)
    row = found[f"{LAYER}.intermediate.dense"]
    assert (row.gives, row.floats_because) == ("floats", "the product that makes it is not integer")
    assert found.note(row)
    assert not found.note_of_floats(row)
    assert found[f"{LAYER}.output.dense"].operands[0].floats_because == row.floats_because


DECODER = {"is_decoder": True, "add_cross_attention": True}
ASKING: list[tuple[str, dict[str, Any]]] = [
    ("QDQBertModel", {}),
    ("QDQBertModel", {"output_hidden_states": True}),
    ("QDQBertModel", {**DECODER}),
    ("QDQBertLMHeadModel", {**DECODER, "use_cache": False}),
    ("QDQBertLMHeadModel", {**DECODER, "output_hidden_states": True}),
    ("QDQBertForQuestionAnswering", {"is_decoder": True}),
]


@pytest.mark.parametrize(("name", "changes"), ASKING)
def test_what_the_configuration_asks_for_is_reckoned_with(name: str, changes: dict[str, Any]) -> None:
    """Keys and hidden states that a forward hands out are floats."""
    model = getattr(qdqbert, name)(tiny_model.config(**changes))
    has_encoder = model.config.add_cross_attention
    batch = {"input_ids": np.arange(2, 8)[None]}
    if has_encoder:
        batch["encoder_hidden_states"] = np.ones((1, 4, 24), np.float32)
    qdqbert.calibrate(model, [batch])
    outputs = model(**batch)
    found = explain(model)
    base = "" if model.base_model is model else "bert."
    key = found[f"{base}encoder.layer.0.attention.self.key"]
    hands_out = getattr(outputs, "past_key_values", None) is not None
    assert (key.gives, key.floats_because) == (("floats", HANDED_OUT) if hands_out else ("codes", ""))
    first = found[f"{base}encoder.layer.0.output.LayerNorm"]
    is_shown = outputs.hidden_states is not None
    assert (first.gives, first.floats_because) == (
        ("both", "hidden states are handed out") if is_shown else ("codes", "")
    )
    if has_encoder:
        operand = found[f"{base}encoder.layer.0.crossattention.self.key"].operands[0]
        assert operand.floats_because == "the states of an encoder are given as floats"


def test_the_last_layer_shares_its_rows_though_its_result_is_floats() -> None:
    found = explain(calibrated())
    assert [(block.title, block.count) for block in found.blocks() if "layer" in block.title] == [
        ("bert.encoder.layer.0-1", 2)
    ]
    assert "gives floats: the last layer's result leaves the encoder" in found.notes
    lines = found.lines(every_layer=True)
    gives = [line.split()[3] for line in lines if line.startswith("  output.LayerNorm")]
    assert gives == ["codes", "floats"]


# ---- multiply-adds -----------------------------------------------------------------------------------------


def test_multiply_adds_are_those_of_the_batch() -> None:
    found = explain(tiny_model.question_answering(), batch_size=3, seq_len=11)
    tokens, h, i = 33, 24, 37
    layer = tokens * (4 * h * h + 2 * h * i) + 2 * 3 * 11 * 11 * h
    assert found.multiply_adds == {"integer": 2 * layer, "float": tokens * 2 * h}
    assert found.integer_share == 2 * layer / (2 * layer + tokens * 2 * h)


def test_pooled_heads_see_one_token_of_a_sequence() -> None:
    model = qdqbert.QDQBertForSequenceClassification(tiny_model.config(num_labels=5))
    found = explain(model, batch_size=3, seq_len=11)
    assert found["bert.pooler.dense"].multiply_adds == 3 * 24 * 24
    assert found["classifier"].multiply_adds == 3 * 5 * 24


def test_a_decoder_counts_pairs_up_to_its_own_place() -> None:
    config = tiny_model.config(is_decoder=True, position_embedding_type="relative_key_query")
    found = explain(qdqbert.QDQBertLMHeadModel(config), batch_size=2, seq_len=5)
    pairs = 2 * 15
    assert found["bert.encoder.layer.0.attention.self.scores"].multiply_adds == pairs * 24
    distance = found["bert.encoder.layer.0.attention.self.distance_embedding"]
    assert (distance.kind, distance.multiply_adds) == ("positions", 2 * pairs * 24)
    assert found["cls.predictions.decoder"].multiply_adds == 10 * 24 * 53


def test_pruned_heads_are_not_counted() -> None:
    model = tiny_model.question_answering()
    model.prune_heads({1: [0]})
    found = explain(model, seq_len=11)
    assert found[f"{LAYER}.attention.self.scores"].multiply_adds == 11 * 11 * 16
    assert found[f"{LAYER}.attention.self.query"].multiply_adds == 11 * 24 * 16


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"seq_len": 0}, {"seq_len": 33}])
def test_a_batch_that_cannot_be_is_named(wrong: dict[str, int]) -> None:
    [name] = wrong
    with pytest.raises(ValueError, match=f"^{name}: expected .* got {wrong[name]}$"):
        explain(tiny_model.question_answering(), **wrong)


@pytest.mark.parametrize("wrong", [{"batch_size": 1.5}, {"batch_size": True}, {"seq_len": "7"}])
def test_a_size_that_is_no_integer_is_named(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(TypeError, match=f"^{name}: expected an integer, got"):
        explain(tiny_model.question_answering(), **wrong)


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(TypeError, match="model: expected a QDQBERT model, got QuantLinear"):
        explain(nn.QuantLinear(2, 2))  # type: ignore[arg-type]


# ---- shown -------------------------------------------------------------------------------------------------


def mixed() -> Explanation:
    model = calibrated(num_hidden_layers=4)
    qdqbert.quantizers(model, {"*.layer.[01].*.query._input*": {"num_bits": 12}})
    return explain(model, seq_len=32)


def test_equal_layers_share_their_rows_and_notes() -> None:
    found = mixed()
    titles = [(block.title, block.count) for block in found.blocks() if "layer" in block.title]
    assert titles == [
        ("bert.encoder.layer.0", 1),  # its result goes to a product that reads floats
        ("bert.encoder.layer.1", 1),
        ("bert.encoder.layer.2-3", 2),
    ]
    assert found.notes == [
        "gives floats: the site that reads is not integer",  # the embeddings, to the query of the first layer
        "a quantizer has more codes than int8: over 8 bits, or over 7 unsigned "
        "(attention.self.query._input_quantizer): give it 8 bits",
        "gives floats: softmax, which comes between, reads floats",
        "gives floats: the last layer's result leaves the encoder",
        "QDQBERT does not quantize it",
    ]
    lines = str(found).splitlines()
    assert lines[0] == found.heading
    assert max(len(line) for line in lines) <= 120
    line = next(line for line in lines if "(2)" in line and "query" in line and "int12" in line)
    assert line.split()[:5] == [
        "attention.self.query",
        "dequantized",
        "(2)",
        f"product_f32__{found['bert.encoder.layer.0.attention.self.query'].isa}",
        "int12",
    ]
    assert found.totals() == [
        "720,384 multiply-adds of 1 x 32 tokens: 94.7 % integer, 5.1 % dequantized, 0.2 % float"
    ]


def test_every_layer_can_be_shown_with_its_ranges() -> None:
    found = mixed()
    lines = found.lines(every_layer=True)
    assert sum("attention.self.query " in line for line in lines) == 4
    dense = found["bert.encoder.layer.3.output.dense"]
    activation, weight = dense.operands
    text = f"{activation.largest_range:.4g} x {weight.least_range:.4g} .. {weight.largest_range:.4g}"
    assert any(line.endswith(text) for line in lines)


def test_machines_get_plain_types() -> None:
    found = mixed()
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(facts["rows"]) == len(found.rows)
    assert facts["integer_share"] == found.integer_share
    records = found.records()
    assert len({tuple(record) for record in records}) == 1
    assert all(isinstance(value, str | int) for record in records for value in record.values())
    [record] = [each for each in records if each["name"] == "bert.encoder.layer.0.output.add"]
    assert [record[name] for name in ("operands", "arrives", "gives")] == [
        "int8 + int8",
        "codes + codes",
        "both",
    ]


def test_an_explanation_is_of_its_moment() -> None:
    model = calibrated()
    found = explain(model)
    qdqbert.quantizers(model, {"*": "off"})
    assert found[f"{LAYER}.output.dense"].path == "integer"
    assert explain(model).integer_share == 0


def test_a_frozen_model_runs_as_it_did() -> None:
    model = calibrated()
    before = explain(model).rows
    model.freeze()
    assert explain(model).rows == before


def test_a_name_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nobody"):
        explain(tiny_model.question_answering())["nobody"]


def test_rows_are_values() -> None:
    row = explain(tiny_model.question_answering()).rows[0]
    assert row == ExplainedSite(row.name, "embedding", "float", "add_f32", row.isa, (53, 24))

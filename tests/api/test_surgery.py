# SPDX-License-Identifier: Apache-2.0
"""Tying, resizing, pruning: what stays, what changes, and that a failure changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import (
    QDQBertForMaskedLM,
    QDQBertForQuestionAnswering,
    QDQBertLMHeadModel,
    QDQBertModel,
    ShapeError,
    StateError,
    UnsupportedError,
)
from qdqbert.tensor_quant import QuantDescriptor

LAYERS, HEADS, SIZE = 2, 3, 8
CROSS = {"is_decoder": True, "add_cross_attention": True}


def make(kind: type[Any] = QDQBertForMaskedLM, *, calibrated: bool = True, **fields: Any) -> Any:
    model = kind(tiny_model.config(**fields), seed=4)
    if calibrated:
        inputs = tiny_model.batch(seed=1)
        if fields.get("add_cross_attention"):
            inputs["encoder_hidden_states"] = np.ones((3, 4, 24), np.float32)
        qdqbert.calibrate(model, [inputs])
    return model


def state_of(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in model.state_dict().items()}


def assert_same_state(mine: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def first(output: Any) -> np.ndarray:
    return np.asarray(output[0])


# ---- what somebody holds stays valid --------------------------------------------------------------------


def operations() -> dict[str, Any]:
    return {
        "resize up": lambda model: model.resize_token_embeddings(60),
        "resize down": lambda model: model.resize_token_embeddings(51),
        "prune": lambda model: model.prune_heads({0: [1], 1: [0, 2]}),
        "untie": lambda model: model.untie_weights(),
    }


@pytest.mark.parametrize("operation", sorted(operations()))
def test_modules_and_quantizers_that_are_held_stay_valid(operation: str) -> None:
    model = make()
    modules = dict(model.named_modules())
    quantizer = model.bert.encoder.layer[1].output.dense.input_quantizer
    linear = model.bert.encoder.layer[0].intermediate.dense
    operations()[operation](model)

    assert dict(model.named_modules()) == modules
    batch = tiny_model.batch()
    batch["input_ids"] %= model.config.vocab_size
    before = first(model(**batch))
    quantizer.amax = 0.01
    changed = first(model(**batch))
    assert not np.array_equal(changed, before)
    linear.weight = -np.array(linear.weight)
    assert not np.array_equal(first(model(**batch)), changed)
    quantizer.enable_calib()
    model(**batch)
    quantizer.load_calib_amax()
    assert quantizer.amax != np.float32(0.01)


@pytest.mark.parametrize("operation", sorted(operations()))
def test_names_and_their_order_stay(operation: str) -> None:
    model = make()
    names = list(model.state_dict())
    operations()[operation](model)
    assert list(model.state_dict()) == names


def test_a_view_of_before_keeps_its_numbers() -> None:
    model = make()
    view = model.bert.embeddings.word_embeddings.weight
    copy = np.array(view)
    model.resize_token_embeddings(60)
    model.load_state_dict({"bert.embeddings.word_embeddings.weight": np.zeros((60, 24))}, strict=False)
    np.testing.assert_array_equal(view, copy)


def test_frozen_parameters_stay_frozen() -> None:
    model = make()
    model.bert.embeddings.word_embeddings.weight.requires_grad = False
    model.resize_token_embeddings(60)
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad
    assert model.num_parameters() - model.num_parameters(only_trainable=True) == 60 * 24


def test_every_state_of_a_quantizer_goes_along() -> None:
    model = make()
    layer = model.bert.encoder.layer[0]
    chosen = {
        "disabled": layer.attention.self.query.input_quantizer,
        "bits": layer.attention.self.key.weight_quantizer,
        "scaled": layer.output.dense.input_quantizer,
        "collecting": layer.intermediate.dense.input_quantizer,
        "dynamic": layer.output.add_local_input_quantizer,
    }
    chosen["disabled"].disable()
    chosen["bits"].num_bits = 4
    chosen["scaled"].pre_quant_scale = np.full((1, 1, 37), 2.0, np.float32)
    chosen["collecting"].enable_calib()
    model(**tiny_model.batch(seed=5))
    qdqbert.quantizers(model, {"*.layer.0.output.add_local_input_quantizer": {"amax": None}})
    texts = {name: repr(quantizer) for name, quantizer in chosen.items()}
    handles = {name: (q._handle.stages, q._handle.options()) for name, q in chosen.items()}

    model.resize_token_embeddings(60)
    assert {name: repr(quantizer) for name, quantizer in chosen.items()} == texts
    assert {name: (q._handle.stages, q._handle.options()) for name, q in chosen.items()} == handles
    np.testing.assert_array_equal(chosen["scaled"].pre_quant_scale, np.full((1, 1, 37), 2.0))
    chosen["collecting"].load_calib_amax()  # what it had collected is still there


def test_learned_ranges_go_along() -> None:
    saved = qdqbert.nn.QuantLinear.default_quant_desc_input
    qdqbert.nn.QuantLinear.set_default_quant_desc_input(QuantDescriptor(num_bits=8, learn_amax=True))
    try:
        model = make(calibrated=False)
    finally:
        qdqbert.nn.QuantLinear.set_default_quant_desc_input(saved)
    quantizer = model.bert.encoder.layer[0].output.dense.input_quantizer
    quantizer.clip.clip_value_max = 0.75
    quantizer.disable_clip()
    model.prune_heads({0: [0]})
    assert float(quantizer.clip.clip_value_max) == 0.75
    assert not quantizer._if_clip
    assert "bert.encoder.layer.0.output.dense._input_quantizer.clip.clip_value_max" in model.state_dict()


def test_calibration_goes_on_after_an_operation() -> None:
    model = make(calibrated=False)
    calibration = qdqbert.Calibration(model)
    calibration.collect([tiny_model.batch(seed=1)])
    model.resize_token_embeddings(60)
    calibration.collect([tiny_model.batch(seed=1), tiny_model.batch(seed=2)])
    calibration.apply("max")
    expected = make(calibrated=False)
    qdqbert.calibrate(expected, [tiny_model.batch(seed=1), tiny_model.batch(seed=2)], method="max")
    for (name, mine), (_, other) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=name)


# ---- failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["making", "copying", "turning"])
@pytest.mark.parametrize("operation", sorted(operations()))
def test_a_failure_leaves_the_model_as_it_was(
    operation: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    state, config, batch = state_of(model), model.config.to_dict(), tiny_model.batch()
    output = first(model(**batch))
    engine = type(model._engine)

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise MemoryError("no room")

    if stage == "making":
        monkeypatch.setattr(engine, "make_core", fail)
    elif stage == "copying":
        monkeypatch.setattr("qdqbert.surgery.copy_quantizer", fail)
    else:
        plain = type(model.config).__setattr__
        seen: list[str] = []

        def once(self: Any, name: str, value: Any) -> None:
            if self is model.config and not seen:
                seen.append(name)
                raise MemoryError("no room")
            plain(self, name, value)

        monkeypatch.setattr(type(model.config), "__setattr__", once, raising=False)
    with pytest.raises(MemoryError, match="no room"):
        operations()[operation](model)
    monkeypatch.undo()
    assert model.config.to_dict() == config
    assert_same_state(state_of(model), state)
    np.testing.assert_array_equal(first(model(**batch)), output)


@pytest.mark.parametrize("first_operation", sorted(operations()))
@pytest.mark.parametrize("operation", sorted(operations()))
def test_of_two_operations_at_once_one_stands_and_the_other_is_refused(
    operation: str, first_operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, alone = make(), make()
    operations()[operation](alone)
    plain = type(model._engine).make_core
    others = [lambda: operations()[operation](model)]

    def make_core(self: Any, config: Any) -> Any:
        # What another thread does while this one makes a C model.
        if others:
            others.pop()()
        return plain(self, config)

    monkeypatch.setattr(type(model._engine), "make_core", make_core)
    with pytest.raises(StateError, match="another thread changed the sizes"):
        operations()[first_operation](model)
    assert_same_state(state_of(model), state_of(alone))
    assert model.config.to_dict() == alone.config.to_dict()
    # It is whole: the next operation goes through.
    operations()[first_operation](model)


EDITS = {
    "num_labels": 5,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "hidden_size": 48,
    "intermediate_size": 5,
    "max_position_embeddings": 90,
    "type_vocab_size": 3,
    "hidden_act": "relu",
    "layer_norm_eps": 0.5,
    "position_embedding_type": "relative_key",
    "pruned_heads": {0: [1]},
    "vocab_size": 60,
}


@pytest.mark.parametrize("operation", ["resize up", "prune"])
@pytest.mark.parametrize("field", EDITS)
def test_what_was_written_into_a_configuration_since_is_not_the_models(field: str, operation: str) -> None:
    model, other = make(QDQBertForQuestionAnswering), make(QDQBertForQuestionAnswering)
    setattr(model.config, field, EDITS[field])
    heads = np.linspace(0.5, 1.5, LAYERS * HEADS).reshape(LAYERS, HEADS)
    for each in (model, other):
        operations()[operation](each)
    assert_same_state(state_of(model), state_of(other))
    outputs = [
        each(**tiny_model.batch(), head_mask=heads, output_hidden_states=True) for each in (model, other)
    ]
    assert len(outputs[0].hidden_states) == LAYERS + 1
    np.testing.assert_array_equal(outputs[0].start_logits, outputs[1].start_logits)


def test_a_vocabulary_size_that_was_written_by_hand_is_put_right() -> None:
    model = make()
    words, model.config.vocab_size = model.config.vocab_size, 60
    model.resize_token_embeddings(60)
    assert model.get_input_embeddings().weight.shape == (60, 24)
    model.config.vocab_size = 70
    model.resize_token_embeddings(60)
    assert model.config.vocab_size == 60
    model.config.vocab_size = words
    assert len(model.resize_token_embeddings().weight) == 60


# ---- resizing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [QDQBertModel, QDQBertForQuestionAnswering, QDQBertForMaskedLM])
@pytest.mark.parametrize("size", [63, 52, 1])
def test_old_words_give_the_same_bits(kind: type[Any], size: int) -> None:
    model = make(kind)
    batch = tiny_model.batch()
    batch["input_ids"] = batch["input_ids"] % min(size, 53)
    before = first(model(**batch, output_hidden_states=True).hidden_states)
    model.resize_token_embeddings(size)
    np.testing.assert_array_equal(first(model(**batch, output_hidden_states=True).hidden_states), before)
    with pytest.raises(IndexError, match="input_ids"):
        model([[size]])


def test_a_multiple_rounds_up_from_the_number_or_from_what_there_is() -> None:
    model = make()
    assert model.resize_token_embeddings(54, pad_to_multiple_of=8).num_embeddings == 56
    assert model.resize_token_embeddings(pad_to_multiple_of=64).num_embeddings == 64
    assert model.resize_token_embeddings(64, pad_to_multiple_of=1).num_embeddings == 64
    assert model.resize_token_embeddings().num_embeddings == 64
    assert model.resize_token_embeddings(np.int64(9)).num_embeddings == 9


def test_fresh_rows_follow_the_rule_and_the_seed() -> None:
    models = [make(calibrated=False, initializer_range=0.5) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.resize_token_embeddings(2000, seed=seed)
    first_rows, again, other = (m.get_input_embeddings().weight[53:] for m in models)
    np.testing.assert_array_equal(first_rows, again)
    assert not np.array_equal(first_rows, other)
    # The standard error of a standard deviation of n values is 1 / sqrt(2 n) of it: 0.33 % here.
    assert abs(first_rows.std() / 0.5 - 1) < 0.02
    assert (models[0].cls.predictions.bias[53:] == 0).all()


def test_a_padding_row_that_was_cut_off_comes_back_as_zeros() -> None:
    model = make(calibrated=False, pad_token_id=50)
    words = model.get_input_embeddings()
    model.resize_token_embeddings(40)
    assert words.padding_idx is None
    model.resize_token_embeddings(53)
    assert words.padding_idx == 50
    assert (words.weight[50] == 0).all()
    assert (words.weight[49] != 0).any()


@pytest.mark.parametrize("number", [0, -3, 2.0, "9", True])
def test_sizes_that_cannot_be_are_refused(number: Any) -> None:
    model = make()
    with pytest.raises(ValueError, match="new_num_tokens: expected an integer of at least 1"):
        model.resize_token_embeddings(number)
    with pytest.raises(ValueError, match="pad_to_multiple_of: expected an integer of at least 1"):
        model.resize_token_embeddings(60, pad_to_multiple_of=number)
    assert model.config.vocab_size == 53


def test_positions_are_not_resized_as_in_the_original() -> None:
    with pytest.raises(UnsupportedError, match="resize_position_embeddings"):
        make().resize_position_embeddings(10)
    with pytest.raises(UnsupportedError, match="get_position_embeddings"):
        make().get_position_embeddings()


# ---- tables ---------------------------------------------------------------------------------------------


def test_a_table_of_words_may_be_replaced() -> None:
    model, other = make(), make(calibrated=False, vocab_size=60)
    model.set_input_embeddings(other.get_input_embeddings())
    assert model.config.vocab_size == 60
    np.testing.assert_array_equal(model.get_input_embeddings().weight, other.get_input_embeddings().weight)
    assert model.cls.predictions.bias.shape == (60,)
    other.resize_token_embeddings(9)
    assert model.get_input_embeddings().num_embeddings == 60
    model.set_input_embeddings(np.zeros((60, 24)))
    assert (model.get_output_embeddings().weight == 0).all()  # still one table


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.zeros((53, 23)), ShapeError), (np.zeros(24), ShapeError), ("words", TypeError), (None, ShapeError)],
)
def test_what_is_no_table_is_refused(value: Any, kind: type[Exception]) -> None:
    model = make()
    for setter in (model.set_input_embeddings, model.set_output_embeddings):
        with pytest.raises(kind, match="value"):
            setter(value)


def test_another_table_for_the_head_unties_it() -> None:
    model = make()
    words = np.array(model.get_input_embeddings().weight)
    table = np.random.default_rng(0).standard_normal((53, 24)).astype(np.float32)
    model.set_output_embeddings(table)
    np.testing.assert_array_equal(model.get_output_embeddings().weight, table)
    np.testing.assert_array_equal(model.get_input_embeddings().weight, words)
    assert not model.config.tie_word_embeddings
    linear = qdqbert.nn.QuantLinear(24, 53, seed=1)
    model.set_output_embeddings(linear)
    np.testing.assert_array_equal(model.cls.predictions.bias, linear.bias)
    with pytest.raises(ShapeError, match="value: expected 53 rows, got 52"):
        model.set_output_embeddings(table[:52])


def test_models_without_a_language_head_have_no_output_table() -> None:
    assert make(QDQBertForQuestionAnswering).get_output_embeddings() is None


# ---- tying ----------------------------------------------------------------------------------------------


def test_tied_names_are_one_tensor_and_one_parameter() -> None:
    model = make()
    decoder = model.cls.predictions.decoder
    assert np.shares_memory(decoder.weight, model.get_input_embeddings().weight)
    assert np.shares_memory(decoder.bias, model.cls.predictions.bias)
    names = [name for name, _ in model.named_parameters()]
    assert "cls.predictions.decoder.weight" not in names
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert "cls.predictions.decoder.weight" in every
    assert model.num_parameters() == sum(value.size for _, value in model.named_parameters())
    decoder.weight.requires_grad = False
    assert not model.get_input_embeddings().weight.requires_grad
    # As in the original, keys of the head alone.
    assert model._tied_weights_keys == ["predictions.decoder.weight", "predictions.decoder.bias"]


def test_untying_and_tying_again() -> None:
    model = make()
    batch = tiny_model.batch()
    before = first(model(**batch))
    model.untie_weights()
    np.testing.assert_array_equal(first(model(**batch)), before)
    decoder, words = model.get_output_embeddings(), model.get_input_embeddings()
    assert not np.shares_memory(decoder.weight, words.weight)
    assert [name for name, _ in model.named_parameters()][-1] == "cls.predictions.decoder.weight"
    model.load_state_dict({"cls.predictions.decoder.weight": np.zeros((53, 24))}, strict=False)
    assert (first(model(**batch))[0, 0] == model.cls.predictions.bias).all()
    assert (words.weight != 0).any()
    model.tie_weights()  # the configuration says untied
    assert not np.shares_memory(decoder.weight, words.weight)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert np.shares_memory(decoder.weight, words.weight)
    np.testing.assert_array_equal(first(model(**batch)), before)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_models_are_saved_and_loaded_whole(tied: bool, tmp_path: Any) -> None:
    model = make(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    from qdqbert.serialization import SafetensorsFile

    with SafetensorsFile(tmp_path / "model.safetensors") as file:
        assert ("cls.predictions.decoder.weight" in file.tensors) is not tied
        assert "cls.predictions.decoder.bias" not in file.tensors
    again, info = QDQBertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    batch = tiny_model.batch()
    np.testing.assert_array_equal(first(again(**batch)), first(model(**batch)))
    assert_same_state(state_of(again), state_of(model))


@pytest.mark.parametrize(
    "missing", ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"]
)
def test_a_checkpoint_may_have_a_tied_tensor_under_either_name(missing: str) -> None:
    model = make()
    state = state_of(model)
    expected = np.array(model.get_input_embeddings().weight)
    del state[missing]
    again, info = QDQBertForMaskedLM.from_pretrained(
        None, config=model.config, state_dict=state, output_loading_info=True
    )
    assert not any(info.values())
    np.testing.assert_array_equal(again.get_input_embeddings().weight, expected)


# ---- pruning --------------------------------------------------------------------------------------------


def masked(model: Any, batch: dict[str, np.ndarray], gone: dict[int, list[int]]) -> np.ndarray:
    """Output with heads switched off instead of pruned."""
    mask = np.ones((LAYERS, HEADS), np.float32)
    for layer, heads in gone.items():
        mask[layer, heads] = 0
    return first(model(**batch, head_mask=mask))


@pytest.mark.parametrize("gone", [{0: [0]}, {1: [2]}, {0: [0, 1], 1: [1]}, {-1: [0, 2]}])
@pytest.mark.parametrize("kind", [QDQBertModel, QDQBertForMaskedLM])
def test_a_pruned_head_is_a_head_that_is_masked(kind: type[Any], gone: dict[int, list[int]]) -> None:
    model, batch = make(kind, calibrated=False), tiny_model.batch()
    qdqbert.quantizers(model, {"*": "off"})
    expected = masked(model, batch, gone)
    model.prune_heads(gone)
    # A sum without the zeros of a masked head is taken in the same order of the others: equal but for
    # the sign of a zero that is added, so equal.
    np.testing.assert_array_equal(first(model(**batch)), expected)


def test_ranges_of_what_is_left_make_the_same_codes() -> None:
    model, batch = make(), tiny_model.batch()
    gone = {0: [1], 1: [0, 2]}
    expected = masked(model, batch, gone)
    model.prune_heads(gone)
    np.testing.assert_array_equal(first(model(**batch)), expected)


def test_layers_and_heads_keep_their_first_numbers() -> None:
    model, batch = make(), tiny_model.batch()
    model.prune_heads({0: [0]})
    assert model.config.pruned_heads == {0: [0]}
    model.prune_heads({0: [0, 2], -1: (1,)})
    assert model.config.pruned_heads == {0: [0, 2], 1: [1]}
    attention = model.bert.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.all_head_size) == (1, SIZE)
    once = make()
    once.prune_heads({0: [2, 0], 1: [1]})
    np.testing.assert_array_equal(first(once(**batch)), first(model(**batch)))
    out = model(**batch, output_attentions=True)
    assert [each.shape[1] for each in out.attentions] == [1, 2]
    # Factors of heads are by their first numbers too.
    with_mask = first(model(**batch, head_mask=[[9, 0.5, 9], [1, 9, 1]]))
    assert not np.array_equal(with_mask, first(out))
    np.testing.assert_array_equal(with_mask, first(model(**batch, head_mask=[[0, 0.5, 0], [1, 0, 1]])))


def test_heads_that_are_gone_are_passed_over() -> None:
    model = make()
    model.prune_heads({0: [1]})
    core = model._engine.core
    model.prune_heads({0: [1], 1: []})
    assert model._engine.core is core
    assert model.config.pruned_heads == {0: [1], 1: []}


def test_a_pruned_model_is_saved_and_loaded(tmp_path: Any) -> None:
    model, batch = make(), tiny_model.batch()
    model.prune_heads({0: [0, 1], -1: [2]})
    model.save_pretrained(tmp_path)
    again, info = QDQBertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.pruned_heads == {0: [0, 1], 1: [2]}
    np.testing.assert_array_equal(first(again(**batch)), first(model(**batch)))
    assert_same_state(state_of(again), state_of(model))
    again.prune_heads({1: [0]})
    assert again.bert.encoder.layer[1].attention.self.num_attention_heads == 1


def test_layers_of_a_configuration_may_count_from_the_last() -> None:
    model = QDQBertModel(tiny_model.config(pruned_heads={-1: [0, 1]}))
    assert [layer.attention.self.num_attention_heads for layer in model.encoder.layer] == [3, 1]
    model.prune_heads({0: [2]})
    assert model.config.pruned_heads == {0: [2], 1: [0, 1]}


def test_the_base_model_inside_prunes_and_resizes_the_whole() -> None:
    model = make()
    model.bert.prune_heads({0: [1]})
    model.bert.resize_token_embeddings(60)
    assert model.config.pruned_heads == {0: [1]}
    assert model(**tiny_model.batch()).logits.shape[-1] == 60


def test_pruned_decoders_keep_caches_and_cross_attention() -> None:
    model = make(QDQBertLMHeadModel, **CROSS)
    model.prune_heads({0: [0], 1: [1, 2]})
    ids = tiny_model.batch()["input_ids"]
    states = np.ones((3, 4, 24), np.float32)
    full = model(ids, encoder_hidden_states=states, output_attentions=True)
    assert [layer[0].shape[1] for layer in full.past_key_values] == [2, 1]
    assert [layer[2].shape[1] for layer in full.past_key_values] == [3, 3]
    assert full.cross_attentions[1].shape[1] == 3
    past = model(ids[:, :5], encoder_hidden_states=states).past_key_values
    rest = model(ids[:, 5:], encoder_hidden_states=states, past_key_values=past)
    np.testing.assert_array_equal(rest.logits, full.logits[:, 5:])


def test_ranges_along_columns_and_heads_are_cut_too() -> None:
    model = make(calibrated=False)
    attention = model.bert.encoder.layer[0].attention
    rng = np.random.default_rng(0)
    ranges = {
        "rows": (attention.self.key.weight_quantizer, (24, 1)),
        "columns": (attention.output.dense.weight_quantizer, (1, 24)),
        "features": (attention.output.dense.input_quantizer, (1, 1, 24)),
        "heads": (attention.self.matmul_k_input_quantizer, (1, 3, 1, 1)),
        "one": (attention.self.value.weight_quantizer, ()),
        "untouched": (attention.self.query.input_quantizer, (1, 1, 24)),
    }
    values = {name: rng.uniform(1, 2, shape).astype(np.float32) for name, (_, shape) in ranges.items()}
    for name, (quantizer, _) in ranges.items():
        quantizer.amax = values[name]
    model.prune_heads({0: [1]})
    kept = np.r_[0:8, 16:24]
    expected = {
        "rows": values["rows"][kept],
        "columns": values["columns"][:, kept],
        "features": values["features"][..., kept],
        "heads": values["heads"][:, [0, 2]],
        "one": values["one"],
        "untouched": values["untouched"],
    }
    for name, (quantizer, _) in ranges.items():
        np.testing.assert_array_equal(quantizer.amax, expected[name], err_msg=name)


def test_statistics_of_rows_are_cut_with_the_rows() -> None:
    model = make(calibrated=False)
    quantizer = model.bert.encoder.layer[0].attention.self.query.weight_quantizer
    quantizer.enable_calib()
    quantizer.disable_quant()
    model(**tiny_model.batch())
    model.prune_heads({0: [0]})
    quantizer.load_calib_amax()
    weight = model.bert.encoder.layer[0].attention.self.query.weight
    np.testing.assert_array_equal(quantizer.amax, np.abs(weight).max(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("heads", "kind", "message"),
    [
        ([0], TypeError, "heads_to_prune: expected a dict"),
        ({0: 1}, TypeError, r"heads_to_prune\[0\]: expected a list of heads, got int"),
        ({0: None}, TypeError, r"heads_to_prune\[0\]: expected a list of heads, got NoneType"),
        ({"0": [1]}, TypeError, "expected integers, got '0'"),
        ({0: [1.0]}, TypeError, "expected integers"),
        ({0: [True]}, TypeError, "expected integers"),
        ({2: [0]}, IndexError, "no layer 2, the model has 2"),
        ({-3: [0]}, IndexError, "no layer -3"),
        ({0: [3]}, IndexError, r"heads_to_prune\[0\]: there is no head 3, the layer has 3"),
        ({0: [-1]}, IndexError, "no head -1"),
        ({0: [0, 1, 2]}, ValueError, r"heads_to_prune\[0\]: all heads"),
        ({1: [0, 1], -1: [2]}, ValueError, r"heads_to_prune\[1\]: all heads"),
    ],
)
def test_heads_that_cannot_be_pruned_are_refused(heads: Any, kind: type[Exception], message: str) -> None:
    model = make()
    core = model._engine.core
    with pytest.raises(kind, match=message):
        model.prune_heads(heads)
    assert model._engine.core is core
    assert model.config.pruned_heads == {}


def test_rules_that_end_after_pruning_keep_the_cut_ranges() -> None:
    model, batch = make(), tiny_model.batch()
    quantizer = model.bert.encoder.layer[0].attention.self.key.weight_quantizer
    with qdqbert.quantizers(model, {"*": "off", "*.layer.1.*": {"num_bits": 4}}):
        model.prune_heads({0: [1]})
        cut = quantizer.amax
    assert cut.shape == (16, 1)
    np.testing.assert_array_equal(quantizer.amax, cut)
    again = make()
    again.prune_heads({0: [1]})
    np.testing.assert_array_equal(first(model(**batch)), first(again(**batch)))


# ---- memory ---------------------------------------------------------------------------------------------


def test_the_old_model_is_let_go() -> None:
    device = qdqbert.Device()
    model = QDQBertModel(tiny_model.config(), device=device)
    model.prune_heads({0: [0]})
    model(**tiny_model.batch())
    once = device.memory_statistics()
    model.resize_token_embeddings(54)
    model.resize_token_embeddings(53)
    model(**tiny_model.batch())
    again = device.memory_statistics()
    assert again["live_blocks"] == once["live_blocks"]
    assert again["live_bytes"] == once["live_bytes"]

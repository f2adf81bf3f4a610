# SPDX-License-Identifier: Apache-2.0
"""What all eight classes do: shapes, losses, signatures, saving, quantizing (the original's common tests)."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import ShapeError, UnsupportedError
from qdqbert import modeling_outputs as outputs_of

ROWS, LENGTH, CHOICES, LABELS = 3, 7, 4, 5
STEMS = (
    "Model",
    "LMHeadModel",
    "ForMaskedLM",
    "ForNextSentencePrediction",
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
WITH_LABELS = STEMS[1:]


def make(stem: str, *, seed: int = 2, **fields: Any) -> Any:
    fields = {"num_labels": 2 if stem == "ForQuestionAnswering" else LABELS, **fields}
    if stem == "LMHeadModel":
        fields = {"is_decoder": True, **fields}
    return getattr(qdqbert, f"QDQBert{stem}")(tiny_model.config(**fields), seed=seed)


def inputs_of(stem: str, *, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (ROWS, CHOICES, LENGTH) if stem == "ForMultipleChoice" else (ROWS, LENGTH)
    lengths = rng.integers(2, LENGTH + 1, shape[:-1])
    return {
        "input_ids": rng.integers(3, 53, shape),
        "attention_mask": (np.arange(LENGTH) < lengths[..., None]).astype(np.int64),
        "token_type_ids": rng.integers(0, 2, shape),
    }


def labels_of(stem: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    match stem:
        case "ForQuestionAnswering":
            return {"start_positions": np.array([0, 1, 1]), "end_positions": np.array([1, 1, 0])}
        case "LMHeadModel" | "ForMaskedLM":
            return {"labels": rng.integers(0, 53, (ROWS, LENGTH))}
        case "ForTokenClassification":
            return {"labels": rng.integers(0, LABELS, (ROWS, LENGTH))}
        case "ForNextSentencePrediction":
            return {"labels": np.array([0, 1, 1])}
        case "ForMultipleChoice":
            return {"labels": np.array([0, 3, 1])}
    return {"labels": np.array([0, 4, 1])}


def result_of(output: Any) -> np.ndarray:
    """First output that is no loss."""
    return np.asarray(next(value for value in output.to_tuple() if np.ndim(value)))


SHAPES = {
    "Model": (ROWS, LENGTH, 24),
    "LMHeadModel": (ROWS, LENGTH, 53),
    "ForMaskedLM": (ROWS, LENGTH, 53),
    "ForNextSentencePrediction": (ROWS, 2),
    "ForSequenceClassification": (ROWS, LABELS),
    "ForMultipleChoice": (ROWS, CHOICES),
    "ForTokenClassification": (ROWS, LENGTH, LABELS),
    "ForQuestionAnswering": (ROWS, LENGTH),
}
OUTPUTS = {
    "Model": outputs_of.BaseModelOutputWithPoolingAndCrossAttentions,
    "LMHeadModel": outputs_of.CausalLMOutputWithCrossAttentions,
    "ForMaskedLM": outputs_of.MaskedLMOutput,
    "ForNextSentencePrediction": outputs_of.NextSentencePredictorOutput,
    "ForSequenceClassification": outputs_of.SequenceClassifierOutput,
    "ForMultipleChoice": outputs_of.MultipleChoiceModelOutput,
    "ForTokenClassification": outputs_of.TokenClassifierOutput,
    "ForQuestionAnswering": outputs_of.QuestionAnsweringModelOutput,
}


# ---- outputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", STEMS)
def test_outputs_have_the_class_and_shape_of_the_head(stem: str) -> None:
    output = make(stem)(**inputs_of(stem))
    assert type(output) is OUTPUTS[stem]
    assert result_of(output).shape == SHAPES[stem]
    assert result_of(output).dtype == np.float32
    assert np.isfinite(result_of(output)).all()


@pytest.mark.parametrize("stem", STEMS)
def test_every_layer_is_given_out_on_request(stem: str) -> None:
    model, rows = make(stem), ROWS * (CHOICES if stem == "ForMultipleChoice" else 1)
    output = model(**inputs_of(stem), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in output.hidden_states] == [(rows, LENGTH, 24)] * 3
    assert [each.shape for each in output.attentions] == [(rows, 3, LENGTH, LENGTH)] * 2
    model.config.output_hidden_states = model.config.output_attentions = True
    again = model(**inputs_of(stem))
    for mine, other in zip(
        again.hidden_states + again.attentions, output.hidden_states + output.attentions, strict=True
    ):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("stem", STEMS)
def test_tuples_hold_what_outputs_hold(stem: str) -> None:
    model = make(stem)
    for labels in ({}, labels_of(stem) if stem != "Model" else {}):
        arguments = {**inputs_of(stem), **labels, "output_hidden_states": True, "output_attentions": True}
        output, plain = model(**arguments), model(**arguments, return_dict=False)
        assert isinstance(plain, tuple)
        assert ("loss" in output) == bool(labels)
        for mine, other in zip(plain, output.to_tuple(), strict=True):
            assert isinstance(mine, tuple) == isinstance(other, tuple)
            np.testing.assert_array_equal(mine, other)


BEFORE = "input_ids attention_mask token_type_ids position_ids head_mask inputs_embeds"
ENCODER = "encoder_hidden_states encoder_attention_mask"
CACHE = "past_key_values use_cache"
AFTER = "output_attentions output_hidden_states return_dict"
ARGUMENTS = {
    "Model": f"{BEFORE} {ENCODER} {CACHE} {AFTER}",
    "LMHeadModel": f"{BEFORE} {ENCODER} labels {CACHE} {AFTER}",
    "ForMaskedLM": f"{BEFORE} {ENCODER} labels {AFTER}",
    "ForQuestionAnswering": f"{BEFORE} start_positions end_positions {AFTER}",
}


@pytest.mark.parametrize("stem", STEMS)
def test_arguments_have_the_originals_names_order_and_defaults(stem: str) -> None:
    parameters = inspect.signature(getattr(qdqbert, f"QDQBert{stem}").forward).parameters.values()
    positional = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD][1:]
    assert [each.name for each in positional] == ARGUMENTS.get(stem, f"{BEFORE} labels {AFTER}").split()
    assert all(each.default is None for each in positional)


@pytest.mark.parametrize("stem", STEMS)
def test_the_first_argument_is_input_ids(stem: str) -> None:
    model = make(stem)
    names = list(inspect.signature(model.forward).parameters)
    assert names[:6] == [
        "input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask", "inputs_embeds",
    ]  # fmt: skip
    assert model.main_input_name == "input_ids"
    inputs = inputs_of(stem)
    np.testing.assert_array_equal(
        result_of(model(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"])),
        result_of(model(**inputs)),
    )
    with pytest.raises(TypeError, match="no_such"):
        model(**inputs, no_such=1)


@pytest.mark.parametrize("stem", STEMS)
def test_two_runs_give_the_same_bits(stem: str) -> None:
    model = make(stem)
    first, second = result_of(model(**inputs_of(stem))), result_of(model(**inputs_of(stem)))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("stem", STEMS)
def test_embeddings_may_be_given_instead_of_ids(stem: str) -> None:
    model, inputs = make(stem), inputs_of(stem)
    expected = result_of(model(**inputs))
    ids = inputs.pop("input_ids")
    embeds = np.asarray(model.get_input_embeddings().weight)[ids]
    np.testing.assert_array_equal(result_of(model(inputs_embeds=embeds, **inputs)), expected)


@pytest.mark.parametrize("stem", STEMS)
def test_batch_mates_and_padding_change_no_bit(stem: str) -> None:
    model, inputs = make(stem), inputs_of(stem)
    qdqbert.calibrate(model, [inputs_of(stem, seed=s) for s in (1, 2)])
    whole = result_of(model(**inputs))
    for row in range(ROWS):
        alone = result_of(model(**{name: value[row : row + 1] for name, value in inputs.items()}))
        np.testing.assert_array_equal(alone[0], whole[row])


@pytest.mark.parametrize("stem", STEMS)
def test_a_head_that_is_masked_in_every_layer_changes_the_result(stem: str) -> None:
    model, inputs = make(stem), inputs_of(stem)
    masked = model(**inputs, head_mask=[0, 1, 1], output_attentions=True)
    assert all((each[:, 0] == 0).all() for each in masked.attentions)
    assert all((each[:, 1] != 0).any() for each in masked.attentions)
    assert not np.array_equal(result_of(masked), result_of(model(**inputs)))


@pytest.mark.parametrize("position_embedding_type", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("stem", STEMS)
def test_every_kind_of_position(stem: str, position_embedding_type: str) -> None:
    model = make(stem, position_embedding_type=position_embedding_type)
    attention = model.base_model.encoder.layer[0].attention.self
    assert hasattr(attention, "distance_embedding") == (position_embedding_type != "absolute")
    inputs = inputs_of(stem)
    first = result_of(model(**inputs))
    inputs["input_ids"] = inputs["input_ids"][..., ::-1].copy()
    assert not np.array_equal(first, result_of(model(**inputs)))


# ---- losses ---------------------------------------------------------------------------------------------


def cross_entropy(logits: np.ndarray, labels: np.ndarray, ignored: int = -100) -> float:
    wide = logits.reshape(-1, logits.shape[-1]).astype(np.float64)
    labels = labels.reshape(-1)
    log_probability = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    kept = labels != ignored
    return float(-log_probability[np.arange(len(labels))[kept], labels[kept]].mean())


@pytest.mark.parametrize("stem", [s for s in WITH_LABELS if s != "ForQuestionAnswering"])
def test_losses_are_cross_entropies(stem: str) -> None:
    model, inputs = make(stem), inputs_of(stem)
    inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
    labels = labels_of(stem)["labels"]
    output = model(**inputs, labels=labels)
    logits = output.logits
    if stem == "LMHeadModel":
        assert "past_key_values" not in output
        logits, labels = logits[:, :-1], labels[:, 1:]
    assert output.loss.dtype == np.float32
    # float32 of a float64 sum of terms of order one.
    assert abs(float(output.loss) - cross_entropy(logits, labels)) < 1e-6


@pytest.mark.parametrize("stem", ["LMHeadModel", "ForMaskedLM", "ForTokenClassification"])
def test_labels_of_minus_100_and_of_skipped_positions_do_not_count(stem: str) -> None:
    model, inputs = make(stem), inputs_of(stem)
    labels, mask = labels_of(stem)["labels"].copy(), inputs["attention_mask"]
    labels[0, 3] = -100
    output = model(**inputs, labels=labels)
    if stem == "LMHeadModel":
        logits, counted = output.logits[:, :-1], np.where(mask[:, :-1] == 0, -100, labels[:, 1:])
    else:
        logits, counted = output.logits, np.where(mask == 0, -100, labels)
    assert abs(float(output.loss) - cross_entropy(logits, counted)) < 1e-6
    # The original's way counts what is computed, padding included.
    model.padding = "compute"
    computed = model(**inputs, labels=labels)
    logits = computed.logits[:, :-1] if stem == "LMHeadModel" else computed.logits
    counted = labels[:, 1:] if stem == "LMHeadModel" else labels
    assert abs(float(computed.loss) - cross_entropy(logits, counted)) < 1e-6


def test_a_language_loss_with_a_cache_is_of_the_new_tokens() -> None:
    model = make("LMHeadModel")
    ids = np.random.default_rng(0).integers(3, 53, (2, 9))
    past = model(ids[:, :4]).past_key_values
    mask = np.ones((2, 9), int)
    output = model(ids[:, 4:], attention_mask=mask, past_key_values=past, labels=ids[:, 4:])
    assert abs(float(output.loss) - cross_entropy(output.logits[:, :-1], ids[:, 5:])) < 1e-6


def test_the_old_name_of_the_label_warns() -> None:
    model, inputs = make("ForNextSentencePrediction"), inputs_of("ForNextSentencePrediction")
    labels = [0, 1, 1]
    with pytest.warns(FutureWarning, match="next_sentence_label is the old name of labels"):
        old = model(**inputs, next_sentence_label=labels)
    assert old.loss == model(**inputs, labels=labels).loss
    with pytest.raises(TypeError, match="next_sentence_label"):
        model(**inputs, labels=labels, next_sentence_label=labels)


@pytest.mark.parametrize(
    ("stem", "labels", "kind", "message"),
    [
        (
            "LMHeadModel",
            np.zeros((ROWS, LENGTH - 1), int),
            ShapeError,
            r"labels: expected \(3, 7\), got \(3, 6\)",
        ),
        ("ForMaskedLM", np.zeros(ROWS, int), ShapeError, "labels: expected"),
        ("ForMaskedLM", np.full((ROWS, LENGTH), 53), IndexError, "53"),
        ("ForTokenClassification", np.zeros((ROWS, LENGTH)), TypeError, "labels: expected integers"),
        ("ForTokenClassification", np.full((ROWS, LENGTH), LABELS), IndexError, "5"),
        ("ForNextSentencePrediction", [0, 1], ShapeError, r"labels: expected \(3,\), got \(2,\)"),
        ("ForNextSentencePrediction", [0, 1, 2], IndexError, "2"),
        ("ForMultipleChoice", [0, 1, 4], IndexError, "4"),
        ("ForMultipleChoice", ["a", "b", "c"], TypeError, "labels"),
    ],
)
def test_bad_labels_are_refused_by_name(stem: str, labels: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(stem)(**inputs_of(stem), labels=labels)


# ---- multiple choice ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(LENGTH,), (1, LENGTH), (1, 1, LENGTH)])
@pytest.mark.parametrize("name", ["attention_mask", "position_ids", "token_type_ids"])
def test_one_row_counts_for_all_choices(name: str, shape: tuple[int, ...]) -> None:
    model, inputs = make("ForMultipleChoice"), inputs_of("ForMultipleChoice")
    row = (np.arange(LENGTH) + 1) % 2
    every = np.broadcast_to(row, (ROWS, CHOICES, LENGTH))
    expected = model(**{**inputs, name: every}).logits
    np.testing.assert_array_equal(model(**{**inputs, name: row.reshape(shape)}).logits, expected)


def test_choices_are_scored_one_by_one() -> None:
    model, inputs = make("ForMultipleChoice"), inputs_of("ForMultipleChoice")
    qdqbert.calibrate(model, [inputs])
    whole = model(**inputs).logits
    for choice in range(CHOICES):
        one = model(**{name: value[:, choice : choice + 1] for name, value in inputs.items()}).logits
        np.testing.assert_array_equal(one[:, 0], whole[:, choice])
    assert model.classifier.weight.shape == (1, 24)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"input_ids": np.ones((ROWS, LENGTH), int)},
            ShapeError,
            r"input_ids: expected \(batch, choices, length\)",
        ),
        ({"input_ids": np.ones((ROWS, 0, LENGTH), int)}, ShapeError, "at least one token"),
        ({"attention_mask": np.ones((ROWS, 3, LENGTH), int)}, ShapeError, "attention_mask: .* 4 choices"),
        ({"token_type_ids": np.ones((ROWS, LENGTH), int)}, ShapeError, "token_type_ids"),
        ({"input_ids": None}, ValueError, "You have to specify either input_ids or inputs_embeds"),
        ({"inputs_embeds": np.ones((ROWS, CHOICES, LENGTH, 24))}, ValueError, "cannot specify both"),
        (
            {"input_ids": None, "inputs_embeds": np.ones((ROWS, LENGTH, 24))},
            ShapeError,
            r"inputs_embeds: expected \(batch, choices, length, hidden\)",
        ),
        ({"input_ids": np.full((ROWS, CHOICES, LENGTH), "a")}, TypeError, "input_ids: expected integers"),
    ],
)
def test_choices_of_another_shape_are_refused(
    changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make("ForMultipleChoice")(**{**inputs_of("ForMultipleChoice"), **changes})


# ---- quantizing, saving ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", STEMS)
def test_every_class_calibrates_switches_saves_and_loads(stem: str, tmp_path: Any) -> None:
    model, inputs = make(stem), inputs_of(stem)
    with qdqbert.quantizers(model, {"*": "off"}):
        exact = result_of(model(**inputs))
    qdqbert.calibrate(model, [inputs_of(stem, seed=s) for s in (1, 2)])
    quantized = result_of(model(**inputs))
    assert not np.array_equal(quantized, exact)
    # 8 bits: a step is under 1 % of a range.  Over two layers of width 24 that stays a small share.
    assert np.abs(quantized - exact).max() < 0.2 * np.abs(exact).max()
    paths = {path for name, path, _ in model.execution_sites() if ".layer." in name}
    assert paths == {"integer"}

    model.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    np.testing.assert_array_equal(result_of(again(**inputs)), quantized)
    assert again.config.architectures == [type(model).__name__]
    assert again.config.qdqbert_quantization["input"]["num_bits"] == 8
    again.load_state_dict(model.state_dict())
    for (name, mine), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=name)


@pytest.mark.parametrize("stem", STEMS[1:])
def test_a_base_model_goes_into_every_head_and_back(stem: str, tmp_path: Any) -> None:
    base = make("Model", seed=8)
    base.save_pretrained(tmp_path / "base")
    fields = {"num_labels": 2} if stem == "ForQuestionAnswering" else {"num_labels": LABELS}
    kind = getattr(qdqbert, f"QDQBert{stem}")
    head, info = kind.from_pretrained(
        tmp_path / "base", output_loading_info=True, **fields, is_decoder=stem == "LMHeadModel"
    )
    assert info["missing_keys"]
    assert all(not name.startswith("bert.") for name in info["missing_keys"])
    head.save_pretrained(tmp_path / "head")
    back = qdqbert.QDQBertModel.from_pretrained(tmp_path / "head", add_pooling_layer=False)
    expected = dict(base.named_parameters())
    for name, value in back.named_parameters():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("stem", STEMS)
def test_fresh_weights_follow_the_originals_rule(stem: str) -> None:
    model = make(stem, initializer_range=0.0)
    for name, value in model.named_parameters():
        assert (value == (1 if name.endswith("LayerNorm.weight") else 0)).all(), name


@pytest.mark.parametrize("stem", STEMS)
def test_modules_can_be_given_fresh_weights_one_by_one(stem: str) -> None:
    model, other = make(stem, seed=1), make(stem, seed=5)
    for module in model.modules():
        model._init_weights(module, seed=5)
    for (name, mine), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    model.init_weights(seed=1)
    np.testing.assert_array_equal(
        result_of(model(**inputs_of(stem))), result_of(make(stem, seed=1)(**inputs_of(stem)))
    )


def test_modules_of_another_model_get_none() -> None:
    model, other = make("Model"), make("Model", seed=5)
    with pytest.raises(ValueError, match="module: this Embedding is not in the model"):
        model._init_weights(other.embeddings.word_embeddings)


@pytest.mark.parametrize("stem", STEMS)
def test_parameters_are_counted(stem: str) -> None:
    model = make(stem, position_embedding_type="relative_key")
    total = sum(value.size for value in model.parameters())
    assert model.num_parameters() == total
    tables = (53 + 32 + 2) * 24 + 2 * 63 * 8
    assert model.num_parameters(exclude_embeddings=True) == total - tables
    model.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == 0


# ---- switches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", STEMS)
def test_gradient_checkpointing_is_a_switch(stem: str) -> None:
    model = make(stem)
    assert model.supports_gradient_checkpointing
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    assert model.base_model.encoder.gradient_checkpointing
    before = result_of(model(**inputs_of(stem)))
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    np.testing.assert_array_equal(result_of(model(**inputs_of(stem))), before)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(TypeError, match="unknown preserve"):
        model.gradient_checkpointing_enable({"preserve": 1})


def test_the_old_switch_of_a_configuration_is_taken_over_and_forgotten() -> None:
    config = tiny_model.config(gradient_checkpointing=True)
    model = qdqbert.QDQBertModel(config)
    assert model.is_gradient_checkpointing
    assert not hasattr(config, "gradient_checkpointing")
    assert not qdqbert.QDQBertModel(tiny_model.config(gradient_checkpointing=False)).is_gradient_checkpointing


def test_layers_are_made_by_their_model() -> None:
    model = make("Model")
    assert all(isinstance(layer, qdqbert.QDQBertLayer) for layer in model.encoder.layer)
    with pytest.raises(UnsupportedError, match="lives inside a model"):
        qdqbert.QDQBertLayer(tiny_model.config())  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="no forward of its own"):
        model.encoder.layer[0](np.zeros((1, 2, 24)))


# ---- parts ----------------------------------------------------------------------------------------------

PARTS = {
    "QDQBertEmbeddings": "bert.embeddings",
    "QDQBertEncoder": "bert.encoder",
    "QDQBertLayer": "bert.encoder.layer.1",
    "QDQBertAttention": "bert.encoder.layer.1.attention",
    "QDQBertSelfAttention": "bert.encoder.layer.1.attention.self",
    "QDQBertSelfOutput": "bert.encoder.layer.1.attention.output",
    "QDQBertIntermediate": "bert.encoder.layer.1.intermediate",
    "QDQBertOutput": "bert.encoder.layer.1.output",
    "QDQBertOnlyMLMHead": "cls",
    "QDQBertLMPredictionHead": "cls.predictions",
    "QDQBertPredictionHeadTransform": "cls.predictions.transform",
}


@pytest.mark.parametrize("name", [*PARTS, "QDQBertPooler", "QDQBertOnlyNSPHead"])
def test_parts_have_the_originals_classes_under_the_originals_module(name: str) -> None:
    kind = getattr(importlib.import_module("qdqbert.modeling_qdqbert"), name)
    stem, path = ("ForMaskedLM", PARTS[name]) if name in PARTS else ("ForNextSentencePrediction", "")
    found = [path for path, module in make(stem).named_modules() if type(module) is kind]
    assert found
    assert not path or path in found


def test_the_base_of_all_models_cannot_be_made() -> None:
    for arguments in ((), (tiny_model.config(),)):
        with pytest.raises(UnsupportedError, match=r"QDQBertPreTrainedModel: .*make one of its subclasses"):
            qdqbert.QDQBertPreTrainedModel(*arguments)

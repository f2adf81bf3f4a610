# SPDX-License-Identifier: Apache-2.0
"""Small programs of users: what a type checker is told about models is what they are at run time.

mypy --strict and pyright in its strict mode read this file in CI; pytest runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import pytest

import qdqbert
from qdqbert.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

Floats = npt.NDArray[np.float32]

IDS = [[5, 6, 7]]


@pytest.fixture
def config() -> qdqbert.QDQBertConfig:
    return qdqbert.QDQBertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )


def test_base_model(config: qdqbert.QDQBertConfig) -> None:
    output = qdqbert.QDQBertModel(config, add_pooling_layer=False)(IDS, output_hidden_states=True)
    assert_type(output, BaseModelOutputWithPoolingAndCrossAttentions)
    assert_type(output.last_hidden_state, Floats)
    assert_type(output.pooler_output, Floats | None)
    assert output.pooler_output is None
    assert output.hidden_states is not None
    assert_type(output.hidden_states, tuple[Floats, ...])
    assert output.last_hidden_state.shape == output.hidden_states[-1].shape == (1, 3, 8)


def test_batches_are_unpacked(config: qdqbert.QDQBertConfig) -> None:
    model = qdqbert.QDQBertForSequenceClassification(config, seed=1)
    batch = {"input_ids": np.array(IDS), "attention_mask": np.array([[1, 1, 0]])}
    output = model(**batch)
    assert_type(output, SequenceClassifierOutput)
    anything: dict[str, Any] = {**batch, "labels": [1]}
    labelled = model(**anything)
    assert_type(labelled, SequenceClassifierOutput)
    assert_type(labelled.loss, qdqbert.Loss | None)
    assert labelled.loss is not None
    assert float(labelled.loss) > 0
    np.testing.assert_array_equal(labelled.logits, output.logits)


def test_heads(config: qdqbert.QDQBertConfig) -> None:
    answer = qdqbert.QDQBertForQuestionAnswering(config)(IDS)
    assert_type(answer, QuestionAnsweringModelOutput)
    assert_type(answer.start_logits, Floats)
    tokens = qdqbert.QDQBertForTokenClassification(config)(IDS)
    assert_type(tokens, TokenClassifierOutput)
    choices = qdqbert.QDQBertForMultipleChoice(config)([[[5, 6], [7, 8]]])
    assert_type(choices, MultipleChoiceModelOutput)
    following = qdqbert.QDQBertForNextSentencePrediction(config)(IDS)
    assert_type(following, NextSentencePredictorOutput)
    masked = qdqbert.QDQBertForMaskedLM(config)(IDS)
    assert_type(masked, MaskedLMOutput)
    shapes = [answer.start_logits.shape, tokens.logits.shape, choices.logits.shape, following.logits.shape]
    assert shapes == [(1, 3), (1, 3, 2), (1, 2), (1, 2)]
    assert masked.logits.shape == (1, 3, 9)


def test_what_checkers_are_told_is_what_comes(config: qdqbert.QDQBertConfig) -> None:
    config.is_decoder = True
    decoder = qdqbert.QDQBertLMHeadModel(config)
    scored = decoder(IDS)
    assert_type(scored, CausalLMOutputWithCrossAttentions)
    assert isinstance(scored, CausalLMOutputWithCrossAttentions)
    config.is_decoder = False
    for kind, expected in (
        (qdqbert.QDQBertModel, BaseModelOutputWithPoolingAndCrossAttentions),
        (qdqbert.QDQBertForSequenceClassification, SequenceClassifierOutput),
        (qdqbert.QDQBertForQuestionAnswering, QuestionAnsweringModelOutput),
        (qdqbert.QDQBertForTokenClassification, TokenClassifierOutput),
        (qdqbert.QDQBertForNextSentencePrediction, NextSentencePredictorOutput),
        (qdqbert.QDQBertForMaskedLM, MaskedLMOutput),
    ):
        assert type(kind(config)(IDS)) is expected


def logits_of(model: qdqbert.QDQBertPreTrainedModel) -> Floats:
    """A model of any head is any model: what it returns is for the caller to know."""
    logits: Floats = model(IDS).logits
    return logits


def test_any_model(config: qdqbert.QDQBertConfig) -> None:
    assert logits_of(qdqbert.QDQBertForMaskedLM(config)).dtype == np.float32


def test_loading_gives_the_class_that_was_asked_for(config: qdqbert.QDQBertConfig, tmp_path: Path) -> None:
    model = qdqbert.QDQBertForMaskedLM(config)
    model.save_pretrained(tmp_path)
    loaded = qdqbert.QDQBertForMaskedLM.from_pretrained(tmp_path)
    assert_type(loaded, qdqbert.QDQBertForMaskedLM)
    again, info = qdqbert.QDQBertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert_type(again, qdqbert.QDQBertForMaskedLM)
    assert_type(info, dict[str, Any])
    assert info["missing_keys"] == []
    assert_type(qdqbert.QDQBertConfig.from_pretrained(tmp_path), qdqbert.QDQBertConfig)
    automatic = qdqbert.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert_type(automatic, qdqbert.QDQBertForMaskedLM)
    assert_type(automatic(IDS).logits, Floats)
    assert_type(qdqbert.AutoModelForMaskedLM.from_config(config), qdqbert.QDQBertForMaskedLM)
    np.testing.assert_array_equal(loaded(IDS).logits, automatic(IDS).logits)


def test_parameters_are_arrays(config: qdqbert.QDQBertConfig) -> None:
    model = qdqbert.QDQBertModel(config)
    sizes = {name: value.size for name, value in model.named_parameters()}
    assert sum(sizes.values()) == model.num_parameters()
    state = model.state_dict()
    weight: npt.NDArray[Any] = state["embeddings.word_embeddings.weight"]
    assert weight.shape == (9, 8)
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"


def batches() -> Iterator[dict[str, Floats | list[list[int]]]]:
    yield {"input_ids": IDS}


def test_calibration_and_rules(config: qdqbert.QDQBertConfig, tmp_path: Path) -> None:
    model = qdqbert.QDQBertModel(config)
    calibration = qdqbert.calibrate(model, batches(), method="entropy", checkpoint=tmp_path / "statistics")
    assert_type(calibration, qdqbert.Calibration)
    ranges = calibration.apply("mse", weights=None).ranges("max")
    assert all(amax.dtype == np.float32 for amax in ranges.values())
    with qdqbert.quantizers(model, {"*": "off", "*.query.*": {"state": "on", "num_bits": 4}}) as changes:
        before, after = changes["encoder.layer.0.attention.self.query._input_quantizer"]
        assert (before.options["num_bits"], after.options["num_bits"]) == (8, 4)
        assert_type(after.amax, npt.NDArray[Any] | None)


def test_names_that_do_not_exist_are_errors_for_checkers_too() -> None:
    with pytest.raises(AttributeError, match="QDQBertForPoetry"):
        qdqbert.QDQBertForPoetry  # type: ignore[attr-defined] # noqa: B018 # pyright: ignore
    with pytest.raises(AttributeError, match="QuantLSTN"):
        qdqbert.nn.QuantLSTN  # type: ignore[attr-defined] # noqa: B018 # pyright: ignore


def test_summary(config: qdqbert.QDQBertConfig) -> None:
    summary = qdqbert.QDQBertModel(config).summary()
    assert_type(summary.parameters, int)
    assert_type(summary.quantizers, dict[str, int])
    largest = max(summary.rows, key=lambda row: row.parameters)
    assert_type(largest.shape, tuple[int, ...] | None)
    assert largest.name == "embeddings.position_embeddings"

# SPDX-License-Identifier: Apache-2.0
"""Pruning, resizing and tying against the original's records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from golden_models import (
    FOLDER,
    arrays_of,
    build,
    build_family,
    disable_what_the_original_lost,
    entry,
    manifest,
    original_defaults,
    quantizers,
    read_weights,
)

from qdqbert import QDQBertConfig, QDQBertModel

pytestmark = pytest.mark.shared
ATOL = 2e-5  # see test_models.py


@pytest.fixture(autouse=True)
def recorded_defaults() -> Iterator[None]:
    if not FOLDER.exists():
        pytest.skip(f"missing data: {FOLDER}")
    with original_defaults():
        yield


def pruning() -> dict[str, Any]:
    record: dict[str, Any] = manifest()["extras"]["prune_heads"]
    return record


def heads_of(record: dict[str, list[int]]) -> dict[int, list[int]]:
    return {int(layer): heads for layer, heads in record.items()}


def attention_shapes(model: QDQBertModel) -> dict[str, list[int]]:
    return {name: list(v.shape) for name, v in model.named_parameters() if ".attention." in name}


@pytest.mark.parametrize("case", ["base_pruned/off", "base_pruned/calibrated_then_pruned"])
def test_pruning_gives_the_recorded_weights_ranges_and_outputs(case: str) -> None:
    facts = next(each for each in manifest()["cases"] if each["id"] == case)
    is_float = facts["quantizers"] == "disabled"
    weights = ["base/model.safetensors"] if is_float else ["base/calibrated.safetensors"]
    model = build("QDQBertModel", "base/config.json", weights)
    model.prune_heads(heads_of(pruning()["heads"]))

    assert model.config.pruned_heads == heads_of(pruning()["config_pruned_heads"])
    assert attention_shapes(model) == pruning()["shapes"]
    state = model.state_dict()
    for name, expected in read_weights(FOLDER / facts["weights"][0]).items():
        np.testing.assert_array_equal(state[name], expected, err_msg=name)
    if is_float:
        for _, quantizer in quantizers(model):
            quantizer.disable()
    else:
        disable_what_the_original_lost(model)
    arrays = arrays_of(facts["arrays"])
    output = model(**{name: arrays[key] for name, key in facts["inputs"].items()}, **facts["flags"])
    for path, key in facts["outputs"].items():
        np.testing.assert_allclose(entry(output, path), arrays[key], rtol=0, atol=ATOL, err_msg=path)


def test_pruning_again_counts_heads_by_their_first_numbers() -> None:
    model = build_family("base")
    model.prune_heads(heads_of(pruning()["heads"]))
    model.prune_heads({1: [0]})
    assert model.config.pruned_heads == heads_of(pruning()["then_prune_1_0"])
    assert model.encoder.layer[1].attention.self.num_attention_heads == 2
    at_once = build_family("base")
    at_once.prune_heads(heads_of(pruning()["then_prune_1_0"]))
    for name, value in at_once.named_parameters():
        np.testing.assert_array_equal(model.state_dict()[name], value)


def test_a_model_is_built_from_a_configuration_with_pruned_heads() -> None:
    fields = build_family("base").config.to_dict() | {"pruned_heads": pruning()["heads"]}
    model = QDQBertModel(QDQBertConfig.from_dict(fields))
    assert attention_shapes(model) == pruning()["shapes_when_built_from_config_with_pruned_heads"]
    # The original's pruned layers have lost theirs: 24 are left of 40.  Ours keep all.
    assert pruning()["quantizers_when_built_from_config"] == 24
    assert len(quantizers(model)) == 40


def test_pruned_layers_keep_their_quantizers_and_rows_their_ranges() -> None:
    model = build("QDQBertModel", "base/config.json", ["base/calibrated.safetensors"])
    before = {name: quantizer.amax for name, quantizer in quantizers(model)}
    model.prune_heads(heads_of(pruning()["heads"]))
    kept = np.r_[8:16, 24:32]  # heads 1 and 3 of layer 0, eight features each
    for name, quantizer in quantizers(model):
        if name.startswith("encoder.layer.0.attention.self.") and name.endswith("._weight_quantizer"):
            np.testing.assert_array_equal(quantizer.amax, before[name][kept])
        elif not (name.startswith("encoder.layer.1.attention.self.") and name.endswith("._weight_quantizer")):
            np.testing.assert_array_equal(quantizer.amax, before[name], err_msg=name)
    left = set(pruning()["quantizers_left"])
    assert left < {name for name, _ in quantizers(model)}


RESIZINGS = [each for each in manifest()["extras"].get("resize_token_embeddings", []) if "arguments" in each]


@pytest.mark.parametrize("record", RESIZINGS, ids=[record["name"] for record in RESIZINGS])
def test_resizing_gives_the_recorded_model(record: dict[str, Any]) -> None:
    case = next(each for each in manifest()["cases"] if each["id"] == f"mlm/resize_{record['name']}/off")
    model = build("QDQBertForMaskedLM", case["config"], ["mlm/model.safetensors"])
    words = model.bert.embeddings.word_embeddings
    old = np.array(words.weight)
    embedding = model.resize_token_embeddings(**record["arguments"])

    assert embedding is words is model.get_input_embeddings()
    assert model.config.vocab_size == model.vocab_size == record["vocab_size"] == embedding.num_embeddings
    kept = min(len(old), len(embedding.weight))
    assert record["old_rows_unchanged"]
    np.testing.assert_array_equal(embedding.weight[:kept], old[:kept])
    decoder = model.get_output_embeddings()
    assert record["decoder_weight_is_word_embedding"]
    assert np.shares_memory(decoder.weight, embedding.weight)
    assert record["decoder_bias_is_predictions_bias"]
    assert np.shares_memory(decoder.bias, model.cls.predictions.bias)
    assert decoder.out_features == record["decoder_out_features"]
    assert (decoder.bias[len(old) :] == 0).all() == record["new_bias_rows_zero"]
    # The original's new table forgets which row is padding; ours does not.
    assert record["padding_idx_after"] is None
    assert embedding.padding_idx == 0

    for _, quantizer in quantizers(model):
        quantizer.disable()
    model.load_state_dict(read_weights(FOLDER / case["weights"][1]), strict=False)
    arrays = arrays_of(case["arrays"])
    output = model(**{name: arrays[key] for name, key in case["inputs"].items()}, **case["flags"])
    for path, key in case["outputs"].items():
        np.testing.assert_allclose(entry(output, path), arrays[key], rtol=0, atol=ATOL, err_msg=path)


def test_resizing_an_untied_head_keeps_its_bias_linked() -> None:
    record = next(
        each for each in manifest()["extras"]["resize_token_embeddings"] if each["name"] == "untied_plus10"
    )
    model = build_family("mlm")
    model.untie_weights()
    model.resize_token_embeddings(109)
    decoder = model.cls.predictions.decoder
    assert list(decoder.weight.shape) == record["decoder_weight"]
    assert list(decoder.bias.shape) == record["decoder_bias"]
    # The original's head keeps the old bias beside the new one.
    assert record["predictions_bias"] == [99]
    assert not record["decoder_bias_is_predictions_bias"]
    assert model.cls.predictions.bias.shape == (109,)
    assert np.shares_memory(decoder.bias, model.cls.predictions.bias)


@pytest.mark.parametrize("multiple", [1.3, "x"])
def test_only_integers_are_multiples(multiple: object) -> None:
    name = f"pad_to_multiple_of={multiple!r}"
    record = next(each for each in manifest()["extras"]["resize_token_embeddings"] if each["name"] == name)
    assert record["exception"] == "ValueError"
    with pytest.raises(ValueError, match="pad_to_multiple_of: expected an integer of at least 1, got "):
        build_family("mlm").resize_token_embeddings(100, pad_to_multiple_of=multiple)

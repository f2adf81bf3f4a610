# SPDX-License-Identifier: Apache-2.0
"""Names, orders, side effects, loading reports and errors of the models against the original's records."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from golden_codec import load
from golden_models import (
    FOLDER,
    arrays_of,
    batch_of,
    build,
    build_family,
    manifest,
    original_defaults,
    quantizers,
    read_weights,
)

from qdqbert import QDQBertConfig, QDQBertForMaskedLM, QDQBertForQuestionAnswering, QDQBertModel

pytestmark = pytest.mark.shared
NAMED = sorted(load(FOLDER, "names.json")) if FOLDER.exists() else []
TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


@pytest.fixture(autouse=True)
def recorded_defaults() -> Iterator[None]:
    if not FOLDER.exists():
        pytest.skip(f"missing data: {FOLDER}")
    with original_defaults():
        yield


def calibrated(family: str) -> Any:
    facts = manifest()["models"][family]
    return build(facts["class"], f"{family}/config.json", facts["weights_calibrated"])


@pytest.mark.parametrize("family", NAMED)
def test_modules_parameters_buffers_and_keys_have_the_recorded_names_and_order(family: str) -> None:
    names = load(FOLDER, "names.json")[family]
    model = calibrated(family)
    modules = [[name, type(module).__name__] for name, module in model.named_modules()]
    assert modules == names["named_modules"]
    assert {n: list(v.shape) for n, v in model.named_parameters()} == names["parameters"]
    assert [n for n, _ in model.named_parameters()] == list(names["parameters"])
    assert list(model.state_dict()) == names["state_dict_keys_in_order"]
    buffers = {
        name: {"shape": list(value.shape), "dtype": str(value.dtype)} for name, value in model.named_buffers()
    }
    assert buffers == {
        name: {"shape": facts["shape"], "dtype": facts["dtype"]} for name, facts in names["buffers"].items()
    }


def inputs_of(family: str) -> dict[str, np.ndarray]:
    ids = np.array([[1, 5, 9, 2], [1, 7, 2, 3]])
    if family == "mc":
        return {"input_ids": np.stack([ids, ids[::-1]], axis=1)}
    if family == "decoder_cross":
        states = np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32)
        return {"input_ids": ids, "encoder_hidden_states": states}
    return {"input_ids": ids}


def labels_of(family: str, num_labels: int) -> dict[str, np.ndarray]:
    if family == "qa":
        return {"start_positions": np.ones(2, int), "end_positions": np.full(2, 2)}
    if family in ("lm", "mlm", "tok", "decoder_cross"):
        return {"labels": np.ones((2, 4), int)}
    if family in ("seqcls_regression", "seqcls_multi_label"):
        return {"labels": np.zeros((2, num_labels) if num_labels > 1 else 2, np.float32)}
    return {"labels": np.zeros(2, int)}


def model_of_rows(family: str) -> Any:
    if family == "base_without_pooler":
        return QDQBertModel(QDQBertConfig(**TINY), add_pooling_layer=False)
    if family == "base_as_decoder":
        return QDQBertModel(QDQBertConfig(**TINY, is_decoder=True))
    return build_family(family)


@pytest.mark.parametrize("family", sorted(load(FOLDER, "tuple_order.json")) if FOLDER.exists() else [])
def test_tuples_and_outputs_have_the_recorded_order(family: str) -> None:
    model, inputs = model_of_rows(family), inputs_of(family)
    for row in load(FOLDER, "tuple_order.json")[family]["rows"]:
        labels = labels_of(family, model.config.num_labels) if row["with_labels"] else {}
        arguments = {**inputs, **row["flags"], **labels}
        output, as_tuple = model(**arguments), model(**arguments, return_dict=False)
        assert list(output.keys()) == row["model_output"], row["variant"]
        assert len(as_tuple) == len(row["tuple"]), row["variant"]
        for value, name in zip(as_tuple, row["tuple"], strict=True):
            if name == "None":
                assert value is None
                continue
            for mine, theirs in zip(flat(value), flat(output[name]), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def flat(value: Any) -> list[Any]:
    return [leaf for each in value for leaf in flat(each)] if isinstance(value, tuple) else [value]


def test_problem_type_is_written_into_the_configuration() -> None:
    record = manifest()["extras"]["problem_type_is_written_to_config"]
    model = build_family("seqcls_regression")
    model.config.problem_type = record["before"]
    model([[1, 2]], labels=np.zeros(1, np.float32))
    assert model.config.problem_type == record["after"]


def test_a_calibrated_checkpoint_loads_whole_and_gives_equal_outputs(tmp_path: Any) -> None:
    record = manifest()["extras"]["from_pretrained_of_calibrated_checkpoint"]
    model = calibrated("qa")
    model.save_pretrained(tmp_path)
    loaded, info = QDQBertForQuestionAnswering.from_pretrained(
        tmp_path, output_loading_info=True, padding="compute"
    )
    assert info["missing_keys"] == record["missing_keys"]
    # The original lists every range as unexpected and loads it all the same; here they are known.
    assert info["unexpected_keys"] == info["mismatched_keys"] == info["error_msgs"] == []
    ranges = [quantizer.amax for _, quantizer in quantizers(loaded)]
    assert len([amax for amax in ranges if amax is not None]) == record["quantizers_with_amax"]
    assert quantizers(loaded)[1][1].amax.shape == tuple(record["weight_amax_shape"])
    batch = batch_of(arrays_of("qa/io.npz"), manifest()["models"]["qa"]["calibration_batches"][0])
    np.testing.assert_array_equal(model(**batch).start_logits, loaded(**batch).start_logits)


def test_a_base_model_loads_from_a_checkpoint_with_a_head() -> None:
    record = manifest()["extras"]["base_from_head_checkpoint"]
    state = read_weights(FOLDER / "qa" / "calibrated.safetensors")
    config = QDQBertConfig.from_pretrained(FOLDER / "qa")
    model, info = QDQBertModel.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True
    )
    # The original reports them under the checkpoint's prefix; ours are the model's own names.
    assert [f"bert.{key}" for key in sorted(info["missing_keys"])] == record["missing_keys"]
    assert sorted(info["unexpected_keys"]) == record["unexpected_not_amax"]
    assert sum(q.amax is not None for _, q in quantizers(model)) == record["quantizers_with_amax"]


def tiny(**changes: Any) -> QDQBertModel:
    return QDQBertModel(QDQBertConfig(**{**TINY, **changes}))


IDS = [[1, 2, 3, 4]]
STATES = np.zeros((1, 3, 32), np.float32)
CROSS = {"is_decoder": True, "add_cross_attention": True}
RELATIVE = {"is_decoder": True, "position_embedding_type": "relative_key"}
CALLS: dict[str, Callable[[], Any]] = {
    "QDQBertModel()(input_ids and inputs_embeds)": lambda: tiny()([[1]], inputs_embeds=STATES[:, :1]),
    "QDQBertModel()() without inputs": lambda: tiny()(),
    "QDQBertModel with hidden_size not divisible by heads": lambda: tiny(num_attention_heads=5),
    "add_cross_attention without is_decoder": lambda: tiny(add_cross_attention=True),
    "encoder_hidden_states given to a decoder without cross-attention": lambda: tiny(is_decoder=True)(
        IDS, encoder_hidden_states=STATES
    ),
    "attention_mask with 1 dimension": lambda: tiny()(IDS, attention_mask=np.ones(4, int)),
    "attention_mask with 4 dimensions": lambda: tiny()(IDS, attention_mask=np.ones((1, 1, 4, 4), int)),
    "sequence longer than max_position_embeddings": lambda: tiny()(np.ones((1, 65), int)),
    "token id out of range": lambda: tiny()([[1, 99]]),
    "ForQuestionAnswering with num_labels=3": lambda: QDQBertForQuestionAnswering(
        QDQBertConfig(**TINY, num_labels=3)
    ),
    "problem_type='foo'": lambda: QDQBertConfig(problem_type="foo"),
    "resize_position_embeddings(10)": lambda: tiny().resize_position_embeddings(10),
    "MaskedLM.prepare_inputs_for_generation without pad id": lambda: QDQBertForMaskedLM(
        QDQBertConfig(**{**TINY, "pad_token_id": None})
    ).prepare_inputs_for_generation(np.array(IDS), np.ones((1, 4), int)),
    "relative_key with a cache": lambda: tiny(**RELATIVE)(
        [[5]], past_key_values=tiny(**RELATIVE)(IDS).past_key_values
    ),
    "cross-attention decoder, output_attentions, no encoder_hidden_states": lambda: tiny(**CROSS)(
        IDS, output_attentions=True
    ),
    "same with use_cache=False": lambda: tiny(**CROSS)(IDS, output_attentions=True, use_cache=False),
}
RECORDS = manifest()["extras"].get("errors", [])


@pytest.mark.parametrize("record", RECORDS, ids=[record["call"] for record in RECORDS])
def test_errors_have_the_recorded_types(record: dict[str, Any]) -> None:
    call = CALLS[record["call"]]
    if record["exception"] is None:
        call()
        return
    with pytest.raises(getattr(builtins, record["exception"])) as caught:
        call()
    # Messages that print a module, or name PyTorch's types or the library's module paths, are ours instead.
    if record["raised_by"] == "library" and not re.search(r"torch|transformers|QDQBert", record["message"]):
        assert str(caught.value) == record["message"]


OUR_MESSAGES = {
    "add_cross_attention without is_decoder": "add_cross_attention=True: only a decoder",
    "encoder_hidden_states given to a decoder without cross-attention": "encoder_hidden_states: the model",
    "attention_mask with 1 dimension": r"attention_mask: expected .*\(1, 4\).* got \(4,\)",
    "attention_mask with 4 dimensions": r"attention_mask: expected .*\(1, 4\).* got \(1, 1, 4, 4\)",
    "sequence longer than max_position_embeddings": "65 tokens in a sequence, the model has 64 positions",
    "token id out of range": r"input_ids.*99",
    "ForQuestionAnswering with num_labels=3": "num_labels: question answering needs 2 .* got 3",
    "resize_position_embeddings(10)": "`resize_position_embeddings` is not implemented",
}


@pytest.mark.parametrize("call", sorted(OUR_MESSAGES))
def test_errors_of_other_words_name_argument_expectation_and_value(call: str) -> None:
    with pytest.raises(Exception, match=OUR_MESSAGES[call]):
        CALLS[call]()


def test_cross_attentions_without_an_encoder_are_none_not_the_cache() -> None:
    record = manifest()["extras"]["cross_attentions_without_encoder_states"]
    assert record["use_cache=True"]["type_of_cross_attentions_item"] == "tuple"  # the original's slip
    output = tiny(**CROSS)(IDS, output_attentions=True)
    assert output.cross_attentions is None
    assert len(output.attentions) == 2


def test_inputs_of_the_masked_model_for_generation_are_the_recorded_ones() -> None:
    record = manifest()["extras"]["mlm_prepare_inputs_for_generation"]
    result = build_family("mlm").prepare_inputs_for_generation(
        np.array(record["input_ids"]), attention_mask=np.array(record["attention_mask"])
    )
    assert {name: value.tolist() for name, value in result.items()} == record["result"]

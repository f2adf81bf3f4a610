# SPDX-License-Identifier: Apache-2.0
"""Names, orders, side effects, loading reports and errors of the models against the original's records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from golden_codec import load
from golden_models import (
    CLASSES,
    FAMILIES,
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

from qdqbert import QDQBertConfig, QDQBertForQuestionAnswering, QDQBertModel

pytestmark = pytest.mark.shared
NAMED = [name for name in FAMILIES if not name.startswith("act_")]
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


def labels_of(family: str, batch: int) -> dict[str, np.ndarray]:
    if family == "qa":
        return {"start_positions": np.ones(batch, int), "end_positions": np.full(batch, 2)}
    if family == "base":
        return {}
    if family == "seqcls_single_label":
        return {"labels": np.zeros(batch, int)}
    labels = CLASSES["QDQBertForSequenceClassification"]
    assert labels
    num_labels = build_family(family).config.num_labels
    return {"labels": np.zeros((batch, num_labels) if num_labels > 1 else batch, np.float32)}


@pytest.mark.parametrize("family", NAMED)
def test_tuples_and_outputs_have_the_recorded_order(family: str) -> None:
    rows = load(FOLDER, "tuple_order.json")[family]["rows"]
    model = build_family(family)
    ids = np.array([[1, 5, 9, 2], [1, 7, 2, 3]])
    for row in rows:
        arguments = {**row["flags"], **(labels_of(family, 2) if row["with_labels"] else {})}
        output = model(ids, **arguments)
        as_tuple = model(ids, return_dict=False, **arguments)
        assert list(output.keys()) == row["model_output"], row["variant"]
        assert len(as_tuple) == len(row["tuple"]), row["variant"]
        for value, name in zip(as_tuple, row["tuple"], strict=True):
            for mine, theirs in zip(flat(value), flat(output[name]), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


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


ERRORS = {
    "QDQBertModel()(input_ids and inputs_embeds)": lambda: QDQBertModel(QDQBertConfig(**TINY))(
        [[1]], inputs_embeds=np.zeros((1, 1, 32), np.float32)
    ),
    "QDQBertModel()() without inputs": lambda: QDQBertModel(QDQBertConfig(**TINY))(),
    "QDQBertModel with hidden_size not divisible by heads": lambda: QDQBertModel(
        QDQBertConfig(**{**TINY, "num_attention_heads": 5})
    ),
    "attention_mask with 1 dimension": lambda: QDQBertModel(QDQBertConfig(**TINY))(
        [[1, 2, 3, 4]], attention_mask=np.ones(4, int)
    ),
    "attention_mask with 4 dimensions": lambda: QDQBertModel(QDQBertConfig(**TINY))(
        [[1, 2, 3, 4]], attention_mask=np.ones((1, 1, 4, 4), int)
    ),
    "token id out of range": lambda: QDQBertModel(QDQBertConfig(**TINY))([[1, 99]]),
    "ForQuestionAnswering with num_labels=3": lambda: QDQBertForQuestionAnswering(
        QDQBertConfig(**TINY, num_labels=3)
    ),
    "problem_type='foo'": lambda: QDQBertConfig(problem_type="foo"),
    "resize_position_embeddings(10)": lambda: QDQBertModel(QDQBertConfig(**TINY)).resize_position_embeddings(
        10
    ),
}
KINDS = {"ValueError": ValueError, "IndexError": IndexError, "NotImplementedError": NotImplementedError}


@pytest.mark.parametrize("call", sorted(ERRORS))
def test_errors_have_the_recorded_types(call: str) -> None:
    record = next(record for record in manifest()["extras"]["errors"] if record["call"] == call)
    with pytest.raises(KINDS[record["exception"]]) as caught:
        ERRORS[call]()
    # Messages that name PyTorch's types or the library's module paths are ours instead.
    if record["raised_by"] == "library" and not re.search(r"torch|transformers", record["message"]):
        assert str(caught.value) == record["message"]

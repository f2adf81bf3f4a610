# SPDX-License-Identifier: Apache-2.0
"""`from_pretrained` of every format but safetensors: PyTorch's two containers, and TensorFlow's."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bundle_writer
import qdqbert
import tiny_model
from pickle_programs import (
    PROTO,
    STOP,
    Archive,
    number,
    old_file,
    ordered,
    storage,
    strides_of,
    tensor,
    zip_file,
    zip_members,
)
from qdqbert import (
    CheckpointError,
    QDQBertForMaskedLM,
    QDQBertForQuestionAnswering,
    QDQBertForSequenceClassification,
    QDQBertForTokenClassification,
    QDQBertModel,
    UnsupportedError,
    load_tf_weights_in_qdqbert,
)
from qdqbert.serialization import folder as hub_folder

QA = QDQBertForQuestionAnswering
NO_REPORT = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
Arrays = dict[str, np.ndarray]


def state_of(model: Any) -> Arrays:
    return {name: np.array(value) for name, value in model.state_dict().items()}


def assert_equal_states(model: Any, expected: Arrays) -> None:
    found = state_of(model)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def calibrated() -> Any:
    model = tiny_model.question_answering(seed=3)
    qdqbert.calibrate(model, [tiny_model.batch()], progress=False)
    return model


def folder_of(model: Any, folder: Path) -> Path:
    """Save a model and take its weights out of the folder."""
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    return folder


# ---- PyTorch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [zip_file, old_file])
def test_a_calibrated_model_comes_from_either_container(pack: Any, tmp_path: Path) -> None:
    model = calibrated()
    expected = state_of(model)
    (folder_of(model, tmp_path) / "pytorch_model.bin").write_bytes(pack(expected))
    loaded, info = QA.from_pretrained(tmp_path, output_loading_info=True)
    assert info == NO_REPORT
    assert_equal_states(loaded, expected)
    batch = tiny_model.batch(seed=5)
    np.testing.assert_array_equal(loaded(**batch).start_logits, model(**batch).start_logits)


def test_shards_of_either_container_are_read(tmp_path: Path) -> None:
    model = calibrated()
    expected = state_of(model)
    folder_of(model, tmp_path)
    names = list(expected)
    weight_map = {}
    for shard, pack in enumerate((zip_file, old_file, zip_file)):
        part = {name: expected[name] for name in names[shard::3]}
        file = f"pytorch_model-{shard + 1:05d}-of-00003.bin"
        (tmp_path / file).write_bytes(pack(part))
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loaded, info = QA.from_pretrained(tmp_path, output_loading_info=True)
    assert info == NO_REPORT
    assert_equal_states(loaded, expected)


def test_safetensors_come_before_pytorch(tmp_path: Path) -> None:
    tiny_model.question_answering(seed=1).save_pretrained(tmp_path)
    other = state_of(tiny_model.question_answering(seed=2))
    (tmp_path / "pytorch_model.bin").write_bytes(zip_file(other))
    assert_equal_states(QA.from_pretrained(tmp_path), state_of(tiny_model.question_answering(seed=1)))
    assert_equal_states(QA.from_pretrained(tmp_path, use_safetensors=False), other)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp32.safetensors")
    assert_equal_states(
        QA.from_pretrained(tmp_path, variant="fp32"), state_of(tiny_model.question_answering(seed=1))
    )


def test_transposed_and_shared_storages_are_read(tmp_path: Path) -> None:
    """Matrices lie transposed; query, key and value are slices of one storage, as fused code saves them."""
    model = tiny_model.question_answering(seed=3)
    expected = state_of(model)
    storages: Arrays = {}
    items = {}
    for name, value in expected.items():
        if ".attention.self." in name and name.endswith("weight"):
            layer, part = name.split(".attention.self.")
            slot = ("query", "key", "value").index(part.split(".")[0])
            fused = storages.setdefault(layer, np.zeros((3, *value.shape), np.float32))
            fused[slot] = value.T
            over, offset = storage(layer, fused.size), slot * value.size
        else:
            storages[name] = value.T
            over, offset = storage(name, value.size), 0
        strides = strides_of(value.shape[::-1])[::-1]
        items[name] = tensor(over, offset, value.shape, strides)
    members = zip_members(PROTO + ordered(items) + STOP, storages)
    (folder_of(model, tmp_path) / "pytorch_model.bin").write_bytes(Archive(members).write())
    assert_equal_states(QA.from_pretrained(tmp_path), expected)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    model = tiny_model.question_answering(seed=3)
    halves = {name: value.astype(np.float16) for name, value in state_of(model).items()}
    (folder_of(model, tmp_path) / "pytorch_model.bin").write_bytes(zip_file(halves))
    expected = {name: value.astype(np.float32) for name, value in halves.items()}
    assert_equal_states(QA.from_pretrained(tmp_path), expected)


def test_a_state_dict_inside_a_trainers_checkpoint_is_found_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model.question_answering(seed=3)
    expected = state_of(model)
    items = {
        name: tensor(storage(name, value.size), 0, value.shape, strides_of(value.shape))
        for name, value in expected.items()
    }
    program = PROTO + ordered({"epoch": number(3), "state_dict": ordered(items)}) + STOP
    content = Archive(zip_members(program, expected)).write()
    (folder_of(model, tmp_path) / "pytorch_model.bin").write_bytes(content)
    caplog.set_level(logging.INFO)
    assert_equal_states(QA.from_pretrained(tmp_path), expected)
    assert "found under 'state_dict'" in caplog.text


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_wrapped_model_loads_and_the_log_says_so(
    prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = state_of(tiny_model.question_answering(seed=3))
    wrapped = {prefix + name: value for name, value in expected.items()}
    caplog.set_level(logging.INFO)
    model, info = QA.from_pretrained(
        None, config=tiny_model.config(), state_dict=wrapped, output_loading_info=True
    )
    assert info == NO_REPORT
    assert_equal_states(model, expected)
    assert f"{prefix!r}, the mark of a wrapped model" in caplog.text


def test_a_shape_that_a_small_storage_pretends_is_refused_before_there_is_memory(tmp_path: Path) -> None:
    """Broadcast tensors are as large as they say; what the file holds is what counts."""
    model = tiny_model.question_answering()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 2**24, "hidden_size": 3072}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    table = tensor(storage("0", 1), 0, (2**24, 3072), (0, 0))
    program = PROTO + ordered({"bert.embeddings.word_embeddings.weight": table}) + STOP
    content = Archive(zip_members(program, {"0": np.ones(1, np.float32)})).write()
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="the checkpoint holds 4: vocab_size 16777216"):
        QA.from_pretrained(tmp_path)


def test_a_name_on_the_hub_falls_back_to_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import EntryNotFoundError

    model = tiny_model.question_answering(seed=3)
    (folder_of(model, tmp_path) / "pytorch_model.bin").write_bytes(zip_file(state_of(model)))
    asked = []

    def download(name: str, filename: str, **options: object) -> str:
        asked.append(filename)
        if not (tmp_path / filename).exists():
            raise EntryNotFoundError("404")
        return str(tmp_path / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub_folder, "unreachable_hub", lambda: "")
    assert_equal_states(QA.from_pretrained("owner/name"), state_of(model))
    assert asked == ["config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]


# ---- tied tensors -----------------------------------------------------------------------------------------

TABLE, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"


def masked_lm_state() -> tuple[Any, Arrays]:
    model = QDQBertForMaskedLM(tiny_model.config(), seed=2)
    state = state_of(model)
    state[BIAS] = state[DECODER_BIAS] = np.arange(53, dtype=np.float32)
    return model.config, state


def load_masked_lm(config: Any, state: Arrays, **options: Any) -> tuple[Any, dict[str, Any]]:
    model, info = QDQBertForMaskedLM.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, **options
    )
    return model, info


@pytest.mark.parametrize("left_out", [(DECODER, DECODER_BIAS), (TABLE, BIAS), ()])
def test_either_name_of_a_tied_tensor_is_enough(left_out: tuple[str, ...]) -> None:
    config, state = masked_lm_state()
    model, info = load_masked_lm(config, {n: v for n, v in state.items() if n not in left_out})
    assert info == NO_REPORT
    assert_equal_states(model, state)


def test_two_values_of_a_tied_table_are_refused_unless_untied() -> None:
    config, state = masked_lm_state()
    state[DECODER] = state[DECODER] + 1
    with pytest.raises(CheckpointError, match="tie_word_embeddings=False"):
        load_masked_lm(config, state)
    model, info = load_masked_lm(config, state, tie_word_embeddings=False)
    assert info == NO_REPORT
    assert_equal_states(model, state)


def test_of_two_biases_the_decoders_is_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    config, state = masked_lm_state()
    state[DECODER_BIAS] = state[BIAS] + 1
    model, _ = load_masked_lm(config, state)
    np.testing.assert_array_equal(model.cls.predictions.bias, state[DECODER_BIAS])
    assert f"{DECODER_BIAS} is used" in caplog.text


def test_a_tied_tensor_is_saved_once(tmp_path: Path) -> None:
    config, state = masked_lm_state()
    model, _ = load_masked_lm(config, state)
    model.save_pretrained(tmp_path)
    loaded, info = QDQBertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info == NO_REPORT
    assert_equal_states(loaded, state)
    assert (
        os.path.getsize(tmp_path / "model.safetensors")
        < 4 * sum(value.size for name, value in state.items() if name not in (DECODER, DECODER_BIAS)) + 16384
    )


# ---- another model's tensors ------------------------------------------------------------------------------


def test_another_models_tensors_are_refused_by_name_whatever_the_configuration_says() -> None:
    state = state_of(tiny_model.question_answering())
    other = {name.replace("bert.", "roberta."): value for name, value in state.items()}
    with pytest.raises(CheckpointError, match=r"those of a RoBERTa model \(roberta\.embeddings"):
        QA.from_pretrained(None, config=tiny_model.config(), state_dict=other)


@pytest.mark.shared
def test_an_albert_is_refused_by_its_type_and_by_its_tensors(shared: Any) -> None:
    folder = shared("data", "checkpoints", "albert-uspto-mlm")
    with pytest.raises(CheckpointError, match="'albert' is not supported"):
        QDQBertModel.from_pretrained(folder)
    config = qdqbert.QDQBertConfig(vocab_size=591, hidden_size=256, num_attention_heads=8)
    with pytest.raises(CheckpointError, match=r"those of an ALBERT model"):
        QDQBertModel.from_pretrained(folder, config=config)


# ---- TensorFlow -------------------------------------------------------------------------------------------


def variable_of(name: str) -> str:
    """TensorFlow's name of a tensor of a model."""
    name = name.replace("qa_outputs", "cls.squad").removeprefix("classifier.")
    parts = name.replace("encoder.layer.", "encoder.layer_").split(".")
    scope = parts[-2] if len(parts) > 1 else ""
    if scope == "LayerNorm":
        parts[-1] = {"weight": "gamma", "bias": "beta"}[parts[-1]]
    elif scope in ("squad", "", "seq_relationship") or parts == ["cls", "predictions", "bias"]:
        parts[-1] = {"weight": "output_weights", "bias": "output_bias"}[parts[-1]]
    elif scope.endswith("_embeddings"):
        parts.pop()
    elif parts[-1] == "weight":
        parts[-1] = "kernel"
    return "/".join(parts)


def variables_of(model: Any) -> Arrays:
    variables: Arrays = {"global_step": np.array(7, np.int64)}
    for name, value in state_of(model).items():
        if name in (DECODER, DECODER_BIAS):
            continue
        variable = variable_of(name)
        variables[variable] = value.T if variable.endswith("kernel") else value
        variables[f"{variable}/adam_m"] = np.zeros_like(variables[variable])
        variables[f"{variable}/adam_v"] = np.zeros_like(variables[variable])
    return variables


def original_folder(model: Any, folder: Path, prefix: str = "bert_model.ckpt") -> Path:
    bundle_writer.write_bundle(folder / prefix, variables_of(model))
    config = {key: value for key, value in tiny_model.FIELDS.items() if not key.endswith("_token_id")}
    (folder / "bert_config.json").write_text(json.dumps({**config, "directionality": "bidi"}))
    return folder


HEADS: dict[str, Callable[..., Any]] = {
    "question answering": QDQBertForQuestionAnswering,
    "classification": QDQBertForSequenceClassification,
    "tokens": QDQBertForTokenClassification,
    "masked": QDQBertForMaskedLM,
    "next sentence": qdqbert.QDQBertForNextSentencePrediction,
}


@pytest.mark.parametrize("head", sorted(HEADS))
def test_an_original_checkpoint_loads_with_its_head(head: str, tmp_path: Path) -> None:
    made = HEADS[head]
    model = made(tiny_model.config(), seed=8)
    original_folder(model, tmp_path)
    loaded, info = made.from_pretrained(tmp_path, from_tf=True, output_loading_info=True)  # type: ignore[attr-defined]
    assert info == NO_REPORT
    assert_equal_states(loaded, state_of(model))


def test_a_base_model_and_paths_of_an_index(tmp_path: Path) -> None:
    model = QDQBertForMaskedLM(tiny_model.config(), seed=8)
    original_folder(model, tmp_path, "model.ckpt-100")
    for path in (tmp_path, tmp_path / "model.ckpt-100", tmp_path / "model.ckpt-100.index"):
        base, info = QDQBertModel.from_pretrained(path, from_tf=True, output_loading_info=True)
        assert info["missing_keys"] == ["pooler.dense.bias", "pooler.dense.weight"]
        assert all(name.startswith("cls.") for name in info["unexpected_keys"])
        np.testing.assert_array_equal(
            base.encoder.layer[1].output.dense.weight, model.bert.encoder.layer[1].output.dense.weight
        )


def test_weights_are_loaded_into_a_model_that_is_there(tmp_path: Path) -> None:
    source = tiny_model.question_answering(seed=8)
    original_folder(source, tmp_path)
    model = tiny_model.question_answering(seed=1)
    assert load_tf_weights_in_qdqbert(model, model.config, tmp_path / "bert_model.ckpt") is model
    assert_equal_states(model, state_of(source))


@pytest.mark.parametrize("damage", ["shape", "checksum"])
def test_a_checkpoint_that_does_not_fit_leaves_the_model_as_it_was(damage: str, tmp_path: Path) -> None:
    original_folder(tiny_model.question_answering(seed=8), tmp_path)
    model = tiny_model.question_answering(seed=1, **({"vocab_size": 54} if damage == "shape" else {}))
    before = state_of(model)
    if damage == "checksum":
        data = tmp_path / "bert_model.ckpt.data-00000-of-00001"
        content = bytearray(data.read_bytes())
        content[10] ^= 1  # of embeddings/LayerNorm/beta, the first by name
        data.write_bytes(content)
    with pytest.raises(ValueError, match=r"size mismatch|its checksum is wrong"):
        load_tf_weights_in_qdqbert(model, None, tmp_path)
    assert_equal_states(model, before)


def test_without_from_tf_an_original_folder_says_what_to_do(tmp_path: Path) -> None:
    original_folder(tiny_model.question_answering(), tmp_path)
    with pytest.raises(CheckpointError, match=r"bert_config\.json.*from_tf=True"):
        QA.from_pretrained(tmp_path)
    (tmp_path / "bert_config.json").rename(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="load it with from_tf=True"):
        QA.from_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="Flax"):
        QA.from_pretrained(tmp_path, from_flax=True)


@pytest.mark.shared
def test_the_originals_own_checkpoint_loads(shared: Any) -> None:
    folder = shared("data", "checkpoints", "tf-tiny-complete")
    model, info = QDQBertForMaskedLM.from_pretrained(folder, from_tf=True, output_loading_info=True)
    assert info["missing_keys"] == []
    assert model(np.array([[1, 2, 3]])).logits.shape == (1, 3, 15)
    with pytest.raises(CheckpointError, match="data are missing"):
        QDQBertModel.from_pretrained(shared("data", "checkpoints", "tf-index-only-2"), from_tf=True)

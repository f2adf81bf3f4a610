# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import socket
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import (
    CheckpointError,
    QDQBertForQuestionAnswering,
    QDQBertForSequenceClassification,
    QDQBertModel,
    UnsupportedError,
)
from qdqbert.serialization import SafetensorsFile, write_safetensors
from qdqbert.serialization import folder as hub_folder

QA = QDQBertForQuestionAnswering
NO_REPORT = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}


def calibrated(**changes: Any) -> Any:
    model = tiny_model.question_answering(**changes)
    qdqbert.calibrate(model, [tiny_model.batch()])
    return model


def state_of(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in model.state_dict().items()}


def rewrite(folder: Path, change: Any) -> None:
    """Apply `change` to the tensors of a saved model."""
    with SafetensorsFile(folder / "model.safetensors") as file:
        tensors = {name: file.read(name) for name in file.tensors}
    write_safetensors(folder / "model.safetensors", change(tensors).items(), {"format": "pt"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model.question_answering(seed=3).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ---- round trips -----------------------------------------------------------------------------------------


def test_a_calibrated_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = calibrated()
    model.save_pretrained(tmp_path)
    loaded, info = QA.from_pretrained(tmp_path, output_loading_info=True)
    assert info == NO_REPORT
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], value, err_msg=name)
        assert loaded.state_dict()[name].shape == value.shape
    batch = tiny_model.batch(seed=5)
    np.testing.assert_array_equal(loaded(**batch).start_logits, model(**batch).start_logits)


def test_settings_and_switches_come_back(tmp_path: Path) -> None:
    model = calibrated()
    qdqbert.quantizers(model, {"*.layer.0.*add_*": "off", "*.matmul_a_*": {"num_bits": 7, "unsigned": True}})
    model.save_pretrained(tmp_path)
    loaded = QA.from_pretrained(tmp_path)
    # Which calibrators a session used is no setting: loading makes those of the descriptors.
    assert repr(loaded) == repr(model).replace("HistogramCalibrator", "MaxCalibrator")
    batch = tiny_model.batch(seed=5)
    np.testing.assert_array_equal(loaded(**batch).end_logits, model(**batch).end_logits)


def test_descriptors_come_back_whatever_the_class_defaults_are(tmp_path: Path) -> None:
    saved = qdqbert.nn.QuantLinear.default_quant_desc_input
    descriptor = qdqbert.tensor_quant.QuantDescriptor(num_bits=6, calib_method="histogram", narrow_range=True)
    try:
        qdqbert.nn.QuantLinear.set_default_quant_desc_input(descriptor)
        model = tiny_model.question_answering()
    finally:
        qdqbert.nn.QuantLinear.set_default_quant_desc_input(saved)
    model.save_pretrained(tmp_path)
    assert repr(QA.from_pretrained(tmp_path)) == repr(model)


def test_ranges_of_features_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        descriptor = qdqbert.tensor_quant.QuantDescriptor(axis=(-1,))
        patch.setattr(qdqbert.nn.QuantLinear, "default_quant_desc_input", descriptor)
        model = tiny_model.question_answering()
        qdqbert.quantizers(model, {"*.matmul_*": "off"})
        qdqbert.calibrate(model, [tiny_model.batch()], method="max")
    expected = model(**tiny_model.batch())
    model.save_pretrained(tmp_path)
    loaded = QA.from_pretrained(tmp_path)
    assert loaded(**tiny_model.batch())[0].tobytes() == expected[0].tobytes()
    name = "bert.encoder.layer.1.output.dense._input_quantizer._amax"
    assert loaded.state_dict()[name].shape == (1, 1, 37)
    with pytest.raises(CheckpointError, match=r"one number, or \(1, 1, 37\), got shape \(1, 1, 24\)"):
        loaded.load_state_dict({name: np.ones((1, 1, 24), np.float32)}, strict=False)


def test_a_float_model_is_saved_without_a_quantization_section(folder: Path) -> None:
    assert "qdqbert_quantization" not in json.loads((folder / "config.json").read_text())
    with SafetensorsFile(folder / "model.safetensors") as file:
        assert not [name for name in file.tensors if name.endswith("_amax")]


@pytest.mark.parametrize("pattern", ["*.layer.1.*", "*"])
def test_switches_come_back_without_any_range(pattern: str, tmp_path: Path) -> None:
    model = tiny_model.question_answering(seed=3)
    qdqbert.quantizers(model, {pattern: "off"})
    model.save_pretrained(tmp_path)
    loaded = QA.from_pretrained(tmp_path)
    assert repr(loaded) == repr(model)
    assert loaded(**tiny_model.batch())[0].tobytes() == model(**tiny_model.batch())[0].tobytes()
    # With every quantizer off it is the float model that others read; with some on it is not.
    kind = {"*": ("bert", "Bert"), "*.layer.1.*": ("qdqbert", "QDQBert")}[pattern]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["model_type"], saved["architectures"]) == (kind[0], [f"{kind[1]}ForQuestionAnswering"])


def test_that_learned_bounds_do_not_clip_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = qdqbert.tensor_quant.QuantDescriptor(learn_amax=True)
    with monkeypatch.context() as patch:
        patch.setattr(qdqbert.nn.QuantLinear, "default_quant_desc_input", descriptor)
        model = tiny_model.question_answering(seed=3)
    quantizer = model.bert.encoder.layer[1].output.dense.input_quantizer
    quantizer.disable_clip()
    quantizer.disable_quant()
    model.save_pretrained(tmp_path)
    loaded = QA.from_pretrained(tmp_path)
    assert repr(loaded) == repr(model)
    assert loaded(**tiny_model.batch())[0].tobytes() == model(**tiny_model.batch())[0].tobytes()


def test_shards_are_written_and_read(tmp_path: Path) -> None:
    model = calibrated()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 2
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in model.state_dict().values())
    assert set(index["weight_map"]) == set(model.state_dict())
    assert not (tmp_path / "model.safetensors").exists()
    loaded, info = QA.from_pretrained(tmp_path, output_loading_info=True)
    assert info == NO_REPORT
    np.testing.assert_array_equal(state_of(loaded)["qa_outputs.weight"], state_of(model)["qa_outputs.weight"])

    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("size", ["", "5XB", "-1", 0, True, "1.5GB"])
def test_a_shard_size_that_cannot_be_is_refused_before_anything_is_written(size: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_shard_size"):
        tiny_model.question_answering().save_pretrained(tmp_path, max_shard_size=size)
    assert not list(tmp_path.iterdir())


# ---- names -----------------------------------------------------------------------------------------------


def test_a_head_loads_from_a_base_checkpoint_and_says_what_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = QDQBertModel(tiny_model.config(), seed=4)
    base.save_pretrained(tmp_path)
    model, info = QDQBertForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert info == {**NO_REPORT, "missing_keys": ["classifier.bias", "classifier.weight"]}
    assert "newly initialized" in caplog.text
    assert "classifier.weight" in caplog.text
    np.testing.assert_array_equal(model.bert.pooler.dense.weight, base.pooler.dense.weight)
    assert np.abs(model.classifier.weight).max() > 0
    assert (model.classifier.bias == 0).all()


def test_a_class_may_say_what_a_checkpoint_may_lack(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_model.question_answering(0).save_pretrained(tmp_path)

    class Pooled(qdqbert.QDQBertModel):
        _keys_to_ignore_on_load_missing = (r"^pooler\.",)

    model, info = Pooled.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == []
    assert np.any(model.pooler.dense.weight)  # drawn all the same
    assert not caplog.records
    qdqbert.QDQBertModel.from_pretrained(tmp_path)
    assert "pooler.dense.weight" in caplog.text


def test_a_base_model_loads_from_a_head_checkpoint(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model, info = QDQBertModel.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert sorted(info["unexpected_keys"]) == ["qa_outputs.bias", "qa_outputs.weight"]
    assert "were not used" in caplog.text
    without, info = QDQBertModel.from_pretrained(folder, output_loading_info=True, add_pooling_layer=False)
    assert info["missing_keys"] == []
    np.testing.assert_array_equal(
        without.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight
    )


def test_settings_of_a_head_model_are_those_of_its_base_model_and_back(tmp_path: Path) -> None:
    model = calibrated()
    qdqbert.quantizers(model, {"*.layer.0.*add_*": "off", "*.matmul_a_*": {"num_bits": 7}})
    ids = tiny_model.batch()["input_ids"]
    expected = model.bert(ids).last_hidden_state
    model.save_pretrained(tmp_path / "head")
    base = QDQBertModel.from_pretrained(tmp_path / "head", add_pooling_layer=False)
    base.save_pretrained(tmp_path / "base")
    model.bert.save_pretrained(tmp_path / "inside")
    files = [(tmp_path / name / "config.json").read_text() for name in ("base", "inside")]
    assert files[0] == files[1]
    back = QA.from_pretrained(tmp_path / "base")
    inside = QDQBertModel.from_pretrained(tmp_path / "inside", add_pooling_layer=False)
    for found in (base, inside, back.bert):
        assert repr(found.encoder) == repr(model.bert.encoder).replace("HistogramCalibrator", "MaxCalibrator")
        np.testing.assert_array_equal(found(ids).last_hidden_state, expected)


def test_settings_that_name_a_quantizer_twice_are_refused(tmp_path: Path) -> None:
    model = calibrated()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    name = "encoder.layer.0.attention.self.matmul_q_input_quantizer"
    config["qdqbert_quantization"]["quantizers"] = {f"bert.{name}": {"quant": False}, name: {"num_bits": 7}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for head in (QA, QDQBertModel):
        with pytest.raises(CheckpointError, match=r"the model has no quantizer of this name"):
            head.from_pretrained(tmp_path)


def test_gamma_and_beta_are_renamed_as_last_part_only(folder: Path) -> None:
    expected = state_of(QA.from_pretrained(folder))

    def rename(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        renamed = {}
        for name, value in tensors.items():
            for new, former in old.items():
                name = name.removesuffix(new) + former if name.endswith(new) else name
            renamed[name] = value
        return {**renamed, "bert.beta_extra.gammaray": np.zeros(1, np.float32)}

    rewrite(folder, rename)
    model, info = QA.from_pretrained(folder, output_loading_info=True)
    assert info == {**NO_REPORT, "unexpected_keys": ["bert.beta_extra.gammaray"]}
    for name, value in expected.items():
        np.testing.assert_array_equal(state_of(model)[name], value)


def test_two_keys_for_one_tensor_are_refused(folder: Path) -> None:
    name = "bert.embeddings.LayerNorm"
    rewrite(folder, lambda t: {**t, f"{name}.gamma": t[f"{name}.weight"]})
    with pytest.raises(CheckpointError, match=rf"{name}\.(gamma|weight) and .* both mean {name}\.weight"):
        QA.from_pretrained(folder)


def test_buffers_that_follow_from_the_configuration_are_not_reported(folder: Path) -> None:
    rewrite(folder, lambda t: {**t, "bert.embeddings.position_ids": np.arange(32, dtype=np.float32)[None]})
    _, info = QA.from_pretrained(folder, output_loading_info=True)
    assert info == NO_REPORT


def test_a_base_checkpoint_with_a_stray_head_key_is_refused(tmp_path: Path) -> None:
    QDQBertModel(tiny_model.config()).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: {**t, "qa_outputs.bias": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="corrupted"):
        QA.from_pretrained(tmp_path)


def test_missing_keys_are_initialized_from_the_seed_alone(folder: Path) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    rewrite(folder, lambda t: {k: v for k, v in t.items() if k != name})
    first, info = QA.from_pretrained(folder, output_loading_info=True, seed=7)
    assert info["missing_keys"] == [name]
    again = QA.from_pretrained(folder, seed=7)
    np.testing.assert_array_equal(state_of(first)[name], state_of(again)[name])
    np.testing.assert_array_equal(
        state_of(first)[name], state_of(tiny_model.question_answering(seed=7))[name]
    )


def test_a_checkpoint_of_another_architecture_is_refused(folder: Path) -> None:
    rewrite(folder, lambda t: {f"transformer.{k}": v for k, v in t.items()})
    with pytest.raises(CheckpointError, match=r"holds none of the .* tensors of a QDQBertFor"):
        QA.from_pretrained(folder)


# ---- shapes and values -----------------------------------------------------------------------------------


def test_every_shape_that_differs_is_listed(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        QA.from_pretrained(folder, vocab_size=60, type_vocab_size=3)
    assert isinstance(caught.value, RuntimeError)
    text = str(caught.value)
    assert "size mismatch for bert.embeddings.word_embeddings.weight" in text
    assert "(53, 24)" in text
    assert "(60, 24)" in text
    assert "bert.embeddings.token_type_embeddings.weight" in text


def test_ignored_mismatches_are_reported_and_initialized(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, info = QA.from_pretrained(
        folder, vocab_size=60, ignore_mismatched_sizes=True, output_loading_info=True
    )
    name = "bert.embeddings.word_embeddings.weight"
    assert info["mismatched_keys"] == [(name, (53, 24), (60, 24))]
    assert np.abs(state_of(model)[name]).max() > 0
    assert "the shapes did not match" in caplog.text


@pytest.mark.parametrize(
    ("name", "amax", "message"),
    [
        ("query._weight_quantizer", np.ones((7, 1)), r"broadcasts to \(24, 24\)"),
        ("query._weight_quantizer", np.ones((1, 24, 1)), r"broadcasts to \(24, 24\)"),
        ("query._input_quantizer", np.ones(3), "one number"),
        ("matmul_q_input_quantizer", -np.ones(()), "magnitudes"),
    ],
)
def test_a_range_that_cannot_be_is_refused_by_name(
    name: str, amax: np.ndarray, message: str, folder: Path
) -> None:
    key = f"bert.encoder.layer.1.attention.self.{name}._amax"
    rewrite(folder, lambda t: {**t, key: amax.astype(np.float32)})
    with pytest.raises(CheckpointError, match=message) as caught:
        QA.from_pretrained(folder)
    assert key in str(caught.value)


def test_a_range_without_its_quantizer_is_unexpected(folder: Path) -> None:
    key = "bert.encoder.layer.9.output.dense._input_quantizer._amax"
    rewrite(folder, lambda t: {**t, key: np.ones((), np.float32)})
    _, info = QA.from_pretrained(folder, output_loading_info=True)
    assert info["unexpected_keys"] == [key]


# ---- folders ---------------------------------------------------------------------------------------------


def remove(*names: str) -> Any:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def write(name: str, content: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content)


def instead(name: str, content: bytes = b"x") -> Any:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)

    return change


def index(weight_map: Any) -> Any:
    return instead("model.safetensors.index.json", json.dumps({"weight_map": weight_map}).encode())


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 437955512\n"
BAD_FOLDERS = {
    "no configuration": (remove("config.json"), CheckpointError, r"no config\.json; the folder holds model"),
    "no weights": (remove("model.safetensors"), CheckpointError, r"no weights .*holds config\.json"),
    "weights are a pointer": (write("model.safetensors", LFS), CheckpointError, "Git-LFS pointer"),
    "configuration is a pointer": (write("config.json", LFS), CheckpointError, "Git-LFS pointer"),
    "PyTorch weights that are none": (
        instead("pytorch_model.bin"), CheckpointError, r"is not a file of torch\.save: begins with b'x'",
    ),
    "PyTorch weights that are a pointer": (instead("pytorch_model.bin", LFS), CheckpointError, "Git-LFS"),
    "PyTorch weights that are safetensors": (
        instead("pytorch_model.bin", bytes([9] + [0] * 7) + b"{}" + b" " * 7), CheckpointError, "safetensors",
    ),
    "an index that is a web page": (
        instead("pytorch_model.bin.index.json", b"<html>"), CheckpointError, "a web page",
    ),
    "TensorFlow weights": (instead("bert_model.ckpt.index"), CheckpointError, "from_tf=True"),
    "Keras weights": (instead("tf_model.h5"), UnsupportedError, "a Keras checkpoint"),
    "another model": (write("config.json", b'{"model_type": "distilbert"}'), CheckpointError, "distilbert"),
    "an index without a map": (index([]), CheckpointError, "weight_map"),
    "an index that leads out": (index({"a": "../x.safetensors"}), CheckpointError, "in the same folder"),
    "an index with an absolute path": (index({"a": "/etc/passwd"}), CheckpointError, "in the same folder"),
    "an index to a missing shard": (index({"a": "b.safetensors"}), CheckpointError, r"no b\.safetensors"),
    "a bad quantization section": (
        write("config.json", b'{"vocab_size": 53, "quantization_config": {"quant_method": "gptq"}}'),
        CheckpointError,
        "gptq",
    ),
    "an encoder and a decoder in one": (
        write("config.json", b'{"vocab_size": 53, "is_encoder_decoder": true}'), UnsupportedError, "make two",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD_FOLDERS))
def test_a_bad_folder_gets_an_error_that_says_what_it_is(case: str, folder: Path) -> None:
    change, kind, message = BAD_FOLDERS[case]
    change(folder)
    with pytest.raises(kind, match=message):
        QA.from_pretrained(folder)


def test_an_empty_folder_a_missing_one_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the folder is empty"):
        QA.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        QA.from_pretrained(tmp_path / "nothing")
    (tmp_path / "f").write_text("")
    with pytest.raises(CheckpointError, match="expected a folder"):
        QA.from_pretrained(tmp_path / "f")
    with pytest.raises(CheckpointError, match="subfolder"):
        QA.from_pretrained(tmp_path, subfolder="deep")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    tiny_model.question_answering().save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    with SafetensorsFile(shards[0]) as file:
        name = next(iter(file.tensors))
        value = file.read(name)
    write_safetensors(shards[1], [(name, value)], {})
    with pytest.raises(CheckpointError, match=f"{name} is in another file"):
        QA.from_pretrained(tmp_path)


def test_a_subfolder_is_read(folder: Path) -> None:
    model = QA.from_pretrained(folder.parent, subfolder=folder.name)
    np.testing.assert_array_equal(state_of(model)["qa_outputs.bias"], np.zeros(2))


def test_a_folder_never_touches_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    QA.from_pretrained(folder)


def test_a_name_goes_to_the_hub_with_every_option(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(name: str, filename: str, **options: object) -> str:
        asked.append((name, filename, options))
        if not (folder / filename).exists():
            raise EntryNotFoundError("404")
        return str(folder / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub_folder, "unreachable_hub", lambda: "")
    options = {
        "revision": "v1",
        "cache_dir": "/c",
        "local_files_only": True,
        "token": "t",
        "subfolder": "s",
    }
    model = QA.from_pretrained("owner/name", **options)
    assert model.name_or_path == "owner/name"
    assert {filename for _, filename, _ in asked} == {"config.json", "model.safetensors"}
    assert all(name == "owner/name" and given == options for name, _, given in asked)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        QA.from_pretrained("owner/name")


def test_a_hub_that_cannot_be_reached_is_asked_once_and_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    asked = []

    def refuse(address: object, timeout: float) -> None:
        asked.append((address, timeout))
        raise OSError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    source = hub_folder.Source("owner/name", cache_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"not in the cache; the hub .*: Connection refused"):
            source.require("config.json")
    assert len(asked) == 1
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "proxy"})
    assert hub_folder.unreachable_hub() == ""  # the proxy may know the way
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["no such name", "a--b", "..x", "-x", "a/b/c", "name."])
def test_what_is_no_name_of_a_repository_is_no_folder_either(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", None)
    with pytest.raises(CheckpointError, match="no such folder"):
        QA.from_pretrained(name)


def test_a_name_that_is_not_in_the_cache_is_told(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(CheckpointError, match="owner/name"):
        QA.from_pretrained("owner/name", cache_dir=tmp_path, local_files_only=True)


# ---- arguments -------------------------------------------------------------------------------------------


def test_a_configuration_and_a_state_dict_replace_files() -> None:
    source = calibrated()
    model, info = QA.from_pretrained(
        None, config=tiny_model.config(), state_dict=source.state_dict(), output_loading_info=True
    )
    assert info == NO_REPORT
    batch = tiny_model.batch()
    np.testing.assert_array_equal(model(**batch).start_logits, source(**batch).start_logits)
    with pytest.raises(ValueError, match="needs both"):
        QA.from_pretrained(None, config=tiny_model.config())
    with pytest.raises(CheckpointError, match="expected numbers"):
        QA.from_pretrained(None, config=tiny_model.config(), state_dict={"qa_outputs.bias": "x"})


@pytest.mark.parametrize("is_low", [True, False])
def test_ranges_are_kept_with_little_memory_too(is_low: bool, tmp_path: Path) -> None:
    model = calibrated()
    model.save_pretrained(tmp_path)
    loaded, info = QA.from_pretrained(tmp_path, low_cpu_mem_usage=is_low, output_loading_info=True)
    assert info == NO_REPORT
    assert {k: v.tobytes() for k, v in state_of(loaded).items()} == {
        k: v.tobytes() for k, v in state_of(model).items()
    }
    with pytest.raises(TypeError, match="low_cpu_mem_usage: expected bool, got str"):
        QA.from_pretrained(tmp_path, low_cpu_mem_usage="yes")


@pytest.mark.parametrize("dtype", ["float32", "auto", np.float32, np.dtype("float32")])
def test_weights_are_float32_whoever_asks(dtype: Any, folder: Path) -> None:
    model = QA.from_pretrained(folder, torch_dtype=dtype)
    assert {value.dtype for value in model.parameters()} == {np.dtype(np.float32)}
    assert model.config.torch_dtype == "float32"  # of the file, which is not what was asked for


@pytest.mark.parametrize("dtype", ["float16", np.float16, "bfloat16", "torch.float64"])
def test_another_number_format_is_refused_not_ignored(dtype: Any, folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="torch_dtype: expected float32, which all weights are, got"):
        QA.from_pretrained(folder, torch_dtype=dtype)


def test_the_callers_configuration_is_not_changed(folder: Path) -> None:
    config = tiny_model.config()
    model = QA.from_pretrained(folder, config=config, output_attentions=True)
    assert model.config.output_attentions
    assert not config.output_attentions


def test_unknown_keywords_are_refused(folder: Path) -> None:
    with pytest.raises(TypeError, match="device_map"):
        QA.from_pretrained(folder, device_map="auto")
    with pytest.raises(TypeError, match="add_pooling_layer"):
        QA.from_pretrained(folder, add_pooling_layer=True)
    with pytest.raises(ValueError, match="padding"):
        QA.from_pretrained(folder, padding="drop")


def test_loading_peaks_at_a_fifth_above_the_checkpoint(tmp_path: Path) -> None:
    """Measured by the operating system in a process of its own, on 75 MB of float16 that become 150 MB."""
    import subprocess
    import sys

    rows = 75_000_000 // 2 // 768
    model = QDQBertModel(
        tiny_model.config(
            vocab_size=rows, hidden_size=768, num_attention_heads=12, intermediate_size=8, num_hidden_layers=1
        ),
        add_pooling_layer=False,
    )
    state = {name: value.astype("<f2") for name, value in model.state_dict().items()}
    header, position = {}, 0
    for name, value in state.items():
        header[name] = {
            "dtype": "F16",
            "shape": value.shape,
            "data_offsets": [position, position + value.nbytes],
        }
        position += value.nbytes
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in state.values():
            file.write(value.tobytes())
    model.config.save_pretrained(tmp_path)
    block = sum(value.nbytes for value in model.state_dict().values())
    script = (
        "import resource, sys, qdqbert\n"
        "from qdqbert import QDQBertModel\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "QDQBertModel.from_pretrained(sys.argv[1], add_pooling_layer=False)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    grown = int(
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout
    )
    assert grown < 1.2 * block

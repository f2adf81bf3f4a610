# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qdqbert import CheckpointError, UnsupportedError
from qdqbert.serialization.folder import Source
from qdqbert.serialization.tensorflow_files import find_bundle
from qdqbert.serialization.weight_files import find_weights, with_variant

ORDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def fill(folder: Path, *names: str) -> Source:
    for name in names:
        shards = {"a": "shard-1", "b": "shard-2", "c": "shard-1"}
        text = json.dumps({"weight_map": shards}) if name.endswith("json") else "x"
        (folder / name).write_text(text)
    for name in ("shard-1", "shard-2"):
        (folder / name).write_text("x")
    return Source(folder)


def found(source: Source, **options: Any) -> list[str]:
    return [path.name for path in find_weights(source, **options).paths]


@pytest.mark.parametrize("first", range(4))
def test_the_order_is_that_of_transformers(first: int, tmp_path: Path) -> None:
    source = fill(tmp_path, *ORDER[first:])
    files = find_weights(source)
    assert files.kind == ("safetensors" if first < 2 else "torch")
    assert [path.name for path in files.paths] == (
        ["shard-1", "shard-2"] if ORDER[first].endswith("json") else [ORDER[first]]
    )


def test_either_kind_can_be_asked_for(tmp_path: Path) -> None:
    source = fill(tmp_path, "model.safetensors", "pytorch_model.bin")
    assert found(source, use_safetensors=False) == ["pytorch_model.bin"]
    assert found(source, use_safetensors=True) == ["model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"no weights \(model\.safetensors or model\.safetensors\.index"
    ):
        found(source, use_safetensors=True)


def test_a_variant_stands_in_the_name(tmp_path: Path) -> None:
    names = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.int8.bin")
    source = fill(tmp_path, *names, "model.safetensors.index.fp32.json")
    assert found(source, variant="fp16") == ["model.fp16.safetensors"]
    assert found(source, variant="int8") == ["pytorch_model.int8.bin"]
    assert found(source, variant="fp32") == ["shard-1", "shard-2"]
    assert found(source) == ["model.safetensors"]
    with pytest.raises(CheckpointError, match=r"model\.fp8\.safetensors"):
        found(source, variant="fp8")
    assert with_variant("pytorch_model.bin.index.json", "fp16") == "pytorch_model.bin.index.fp16.json"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tf_model.h5", UnsupportedError, "Keras"),
        ("flax_model.msgpack", UnsupportedError, "Flax"),
        ("rust_model.ot", UnsupportedError, "rust-bert"),
        ("adapter_model.safetensors", UnsupportedError, "PEFT adapter"),
        ("model.onnx", UnsupportedError, "exported graph"),
        ("model.pt", UnsupportedError, r"name it pytorch_model\.bin"),
        ("bert_model.ckpt.index", CheckpointError, "from_tf=True"),
        ("model.ckpt-100.index", CheckpointError, "from_tf=True"),
        ("anything", CheckpointError, "the folder holds anything"),
    ],
)
def test_other_weights_are_named(name: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(error, match=message):
        find_weights(Source(tmp_path))


@pytest.mark.parametrize("name", ORDER)
def test_a_folder_or_a_dead_link_of_that_name_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="is a folder, expected a file"):
        find_weights(Source(tmp_path))
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="a link to a file that is not there"):
        find_weights(Source(tmp_path))


# ---- TensorFlow -------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("x")


def test_the_usual_names_come_first(tmp_path: Path) -> None:
    touch(tmp_path, "a.index", "bert_model.ckpt.index")
    assert find_bundle(tmp_path) == tmp_path / "bert_model.ckpt"
    touch(tmp_path, "model.ckpt.index")
    assert find_bundle(tmp_path) == tmp_path / "model.ckpt"
    assert find_bundle(tmp_path / "a") == tmp_path / "a"
    assert find_bundle(tmp_path / "a.index") == tmp_path / "a"
    assert find_bundle(tmp_path.parent, tmp_path.name) == tmp_path / "model.ckpt"


def test_one_other_index_or_the_latest_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "model.ckpt-10.index")
    assert find_bundle(tmp_path) == tmp_path / "model.ckpt-10"
    touch(tmp_path, "model.ckpt-20.index")
    with pytest.raises(CheckpointError, match=r"several .*: model\.ckpt-10, model\.ckpt-20"):
        find_bundle(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-20"\n')
    assert find_bundle(tmp_path) == tmp_path / "model.ckpt-20"
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../../model.ckpt-20"\n')
    with pytest.raises(CheckpointError, match="several"):
        find_bundle(tmp_path)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("m.ckpt.data-00000-of-00001", CheckpointError, "its index is missing"),
        ("bert_model.ckpt.meta", CheckpointError, "its weights are missing"),
        ("tf_model.h5", UnsupportedError, "Keras"),
        ("saved_model.pb", UnsupportedError, "saved model of TensorFlow 2"),
        ("model.safetensors", CheckpointError, r"no TensorFlow checkpoint .*holds model\.safetensors"),
    ],
)
def test_what_is_there_instead_is_named(
    name: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    touch(tmp_path, name)
    with pytest.raises(error, match=message):
        find_bundle(tmp_path)


def test_paths_that_are_no_index_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "model.ckpt", "tf_model.h5")
    with pytest.raises(UnsupportedError, match="first format"):
        find_bundle(tmp_path / "model.ckpt")
    with pytest.raises(UnsupportedError, match="Keras"):
        find_bundle(tmp_path / "tf_model.h5")
    with pytest.raises(CheckpointError, match="not repositories"):
        find_bundle("owner/name")

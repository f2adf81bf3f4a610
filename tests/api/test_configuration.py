# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import qdqbert
from qdqbert import CheckpointError, QDQBertConfig, UnsupportedError

DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "use_cache": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "pruned_heads": {},
    "num_labels": 2,
    "problem_type": None,
    "architectures": None,
    "position_embedding_type": "absolute",
}


@pytest.mark.parametrize(("field", "value"), DEFAULTS.items())
def test_defaults_are_the_originals(field: str, value: object) -> None:
    assert getattr(QDQBertConfig(), field) == value


def test_fields_may_be_given_by_position_in_the_originals_order() -> None:
    config = QDQBertConfig(1, 2, 3, 4, 5, "relu", 0.0, 0.2, 6, 7, 0.5, 1e-5, False, 8, 9, 10)
    assert [getattr(config, name) for name in list(DEFAULTS)[:16]] == [
        1, 2, 3, 4, 5, "relu", 0.0, 0.2, 6, 7, 0.5, 1e-5, False, 8, 9, 10,
    ]  # fmt: skip


def test_unknown_keys_survive_the_round_trip(tmp_path: Path) -> None:
    fields = {
        "model_type": "bert",
        "vocab_size": 9,
        "my_key": {"a": [1, None]},
        "transformers_version": "4.2",
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    QDQBertConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["my_key"] == {"a": [1, None]}
    assert written["transformers_version"] == "4.2"
    assert written["model_type"] == "qdqbert"
    assert QDQBertConfig.from_pretrained(tmp_path / "again").my_key == {"a": [1, None]}


def test_the_file_holds_the_fields_of_the_class_and_what_differs() -> None:
    written = QDQBertConfig(problem_type="regression").to_diff_dict()
    assert set(written) == {*list(DEFAULTS)[:16], "problem_type", "model_type"}


def test_a_dictionary_and_its_configuration_are_the_same_thing() -> None:
    config = QDQBertConfig(hidden_size=48, id2label={0: "a", 1: "b", 2: "c"}, extra=1)
    assert QDQBertConfig.from_dict(config.to_dict()) == config
    assert QDQBertConfig.from_dict(json.loads(config.to_json_string(use_diff=False))) == config


@pytest.mark.parametrize("read", ["dict", "file"])
def test_pruned_heads_have_integer_keys(read: str, tmp_path: Path) -> None:
    fields = {"pruned_heads": {"0": [1, 2]}}
    (tmp_path / "c.json").write_text(json.dumps(fields))
    config = (
        QDQBertConfig.from_dict(fields)
        if read == "dict"
        else QDQBertConfig.from_json_file(tmp_path / "c.json")
    )
    assert config.pruned_heads == {0: [1, 2]}


def test_labels_follow_num_labels_and_maps() -> None:
    assert QDQBertConfig(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config = QDQBertConfig(id2label={"0": "no", "1": "yes"})
    assert (config.num_labels, config.id2label, config.label2id) == (
        2,
        {0: "no", 1: "yes"},
        {"no": 0, "yes": 1},
    )
    config.num_labels = 2
    assert config.id2label[1] == "yes"
    config.num_labels = 1
    assert config.label2id == {"LABEL_0": 0}


def test_maps_win_over_num_labels_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert QDQBertConfig(id2label={0: "a", 1: "b"}, num_labels=5).num_labels == 2
    assert "num_labels=5" in caplog.text


def test_keyword_num_labels_replaces_the_files_labels() -> None:
    config = QDQBertConfig.from_dict({"id2label": {"0": "a", "1": "b"}}, num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize(
    "fields",
    [
        {"problem_type": "guessing"},
        {"id2label": ["a"]},
        {"label2id": ["a"]},
        {"id2label": {"x": "a"}},
        {"num_labels": 0},
        {"num_labels": 2.0},
        {"num_labels": 2**31},
        {"pruned_heads": [1]},
        {"pruned_heads": {"a": [1]}},
        {"to_dict": 1},
    ],
)
def test_values_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        QDQBertConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"hidden_size": 2.5}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"intermediate_size": "many"}, "intermediate_size"),
        ({"max_position_embeddings": -3}, "max_position_embeddings"),
        ({"type_vocab_size": 2**40}, "type_vocab_size"),
        ({"hidden_size": 10}, "hidden size"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        ({"initializer_range": None}, "initializer_range"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob"),
        ({"hidden_act": 3}, "hidden_act"),
        ({"is_decoder": "yes"}, "is_decoder: expected True or False, got 'yes'"),
        ({"is_encoder_decoder": 0}, "is_encoder_decoder: expected True or False, got 0"),
        ({"add_cross_attention": None}, "add_cross_attention: expected True or False"),
        ({"use_cache": "x"}, "use_cache: expected True or False, got 'x'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: expected True or False"),
        ({"output_attentions": "no"}, "output_attentions: expected True or False"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type.*'rotary'"),
        ({"pruned_heads": {12: [0]}}, "no layer 12"),
        ({"pruned_heads": {-13: [0]}}, "no layer -13"),
        ({"pruned_heads": {0: [12]}}, r"pruned_heads\[0\]: there is no head 12"),
        ({"pruned_heads": {0: [-1]}}, "no head -1"),
        ({"pruned_heads": {11: list(range(6)), -1: list(range(6, 12))}}, r"pruned_heads\[11\]: all 12"),
    ],
)
def test_validate_names_the_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        QDQBertConfig(**fields).validate()


def test_what_is_not_built_says_so() -> None:
    with pytest.raises(UnsupportedError, match=r"is_encoder_decoder=True.*make two"):
        QDQBertConfig(is_encoder_decoder=True).validate()


@pytest.mark.parametrize(
    "fields",
    [
        {"is_decoder": True, "add_cross_attention": True},
        {"position_embedding_type": "relative_key_query"},
        {"pruned_heads": {0: [0, 11], -1: [5]}},
        {"pruned_heads": {0: []}},
    ],
)
def test_what_is_built_is_valid(fields: dict[str, Any]) -> None:
    QDQBertConfig(**fields).validate()


def test_addresses_of_the_originals_configurations() -> None:
    addresses = qdqbert.QDQBERT_PRETRAINED_CONFIG_ARCHIVE_MAP
    assert list(addresses) == qdqbert.QDQBERT_PRETRAINED_MODEL_ARCHIVE_LIST
    assert all(address.endswith(f"{name}/resolve/main/config.json") for name, address in addresses.items())


def test_another_kind_of_model_is_refused_with_the_supported_ones() -> None:
    with pytest.raises(CheckpointError, match=r"'roberta' is not supported.*'bert' and 'qdqbert'"):
        QDQBertConfig.from_dict({"model_type": "roberta"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git-LFS pointer"),
        (b'{"model_type": "albert"}', "albert"),
        (b'{"problem_type": "x"}', "problem_type"),
    ],
)
def test_a_damaged_file_is_a_checkpoint_error_that_names_it(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    for read in (QDQBertConfig.from_pretrained, lambda p: QDQBertConfig.from_json_file(p / "config.json")):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(tmp_path)
        assert str(caught.value).count("config.json") == 1


def test_keywords_override_and_unknown_ones_are_refused_or_returned(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 7, "mine": 1}')
    assert QDQBertConfig.from_pretrained(tmp_path, vocab_size=8, mine=2).mine == 2
    with pytest.raises(TypeError, match="hiden_size"):
        QDQBertConfig.from_pretrained(tmp_path, hiden_size=8)
    config, unused = QDQBertConfig.from_pretrained(tmp_path, return_unused_kwargs=True, hiden_size=8)
    assert (config.vocab_size, unused) == (7, {"hiden_size": 8})


def test_use_return_dict() -> None:
    assert QDQBertConfig().use_return_dict
    assert not QDQBertConfig(return_dict=False).use_return_dict
    assert not QDQBertConfig(torchscript=True).use_return_dict


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    QDQBertConfig(vocab_size=5).save_pretrained(tmp_path)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        QDQBertConfig(vocab_size=6).save_pretrained(tmp_path)
    assert QDQBertConfig.from_pretrained(tmp_path).vocab_size == 5
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(NotADirectoryError, match="save_directory"):
        QDQBertConfig().save_pretrained(tmp_path / "f")

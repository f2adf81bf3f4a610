# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqbert import CheckpointError, GenerationConfig, QDQBertConfig, UnsupportedError

DEFAULTS = {
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "do_sample": False,
    "num_beams": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "use_cache": True,
    "eos_token_id": None,
}


@pytest.mark.parametrize(("field", "value"), DEFAULTS.items())
def test_defaults_are_the_originals(field: str, value: object) -> None:
    assert getattr(GenerationConfig(), field) == value


def test_a_model_configuration_gives_token_ids_and_what_it_says_of_generation() -> None:
    config = QDQBertConfig(
        pad_token_id=0, eos_token_id=7, use_cache=False, num_beams=3, output_attentions=True
    )
    made = GenerationConfig.from_model_config(config)
    assert (made.pad_token_id, made.bos_token_id, made.eos_token_id) == (0, 0, 7)
    assert (made.use_cache, made.num_beams) == (False, 3)
    assert json.loads(made.to_json_string()) == {
        "_from_model_config": True,
        "bos_token_id": 0,
        "eos_token_id": 7,
        "num_beams": 3,
        "pad_token_id": 0,
        "use_cache": False,
    }


def test_the_file_survives_the_round_trip_with_keys_that_are_not_known(tmp_path: Path) -> None:
    config = GenerationConfig(eos_token_id=[3, 4], top_k=7, my_key={"a": 1}, typical_p=1.0)
    config.save_pretrained(tmp_path / "m")
    again = GenerationConfig.from_pretrained(tmp_path / "m")
    assert again == config
    assert again.my_key == {"a": 1}  # type: ignore[attr-defined]
    assert again.eos_token_ids == [3, 4]
    assert GenerationConfig.from_pretrained(tmp_path / "m", top_k=9).top_k == 9
    assert again != GenerationConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"[1]", "expected a JSON object"), (b'{"validate": 1}', "'validate' cannot")],
)
def test_a_damaged_file_is_a_checkpoint_error_that_names_it(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        GenerationConfig.from_pretrained(tmp_path)
    assert "generation_config.json" in str(caught.value)


def test_an_object_knows_whether_it_still_follows_a_model() -> None:
    config = GenerationConfig.from_model_config(QDQBertConfig(eos_token_id=[1]))  # type: ignore[arg-type]
    assert config.follows_model
    config.eos_token_id.append(2)  # type: ignore[union-attr]
    assert not config.follows_model
    assert not GenerationConfig(_from_model_config=True).follows_model


def test_update_returns_what_names_no_field() -> None:
    config = GenerationConfig()
    assert config.update(top_k=3, typical_p=0.5, wrong=1) == {"wrong": 1}
    assert config.top_k == 3


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"max_length": 0}, ValueError, "max_length: expected an integer of at least 1, got 0"),
        ({"max_new_tokens": 2.0}, ValueError, "max_new_tokens"),
        ({"num_beams": True}, ValueError, "num_beams"),
        ({"num_beams": 2**31}, ValueError, "num_beams: expected at most 10000"),
        ({"top_k": -1}, ValueError, "top_k"),
        ({"min_length": None}, ValueError, "min_length"),
        ({"do_sample": 1}, TypeError, "do_sample: expected True or False"),
        (
            {"temperature": 0.0, "do_sample": True},
            ValueError,
            "temperature: expected a number greater than 0",
        ),
        ({"top_p": 1.1, "do_sample": True}, ValueError, r"top_p: expected a number in \[0, 1\]"),
        ({"repetition_penalty": float("nan")}, ValueError, "repetition_penalty"),
        ({"length_penalty": float("inf"), "num_beams": 2}, ValueError, "length_penalty"),
        ({"early_stopping": "always"}, ValueError, "early_stopping"),
        ({"eos_token_id": "x"}, ValueError, "eos_token_id"),
        ({"eos_token_id": [1, -1]}, ValueError, "eos_token_id"),
        ({"pad_token_id": -1}, ValueError, "pad_token_id"),
        ({"num_return_sequences": 2}, ValueError, "greedy search finds one sequence, got 2"),
        ({"num_return_sequences": 3, "num_beams": 2}, ValueError, r"at most num_beams \(2\), got 3"),
        (
            {"num_return_sequences": 3, "num_beams": 2, "do_sample": True},
            ValueError,
            r"at most num_beams \(2\), got 3",
        ),
        ({"typical_p": 0.9}, UnsupportedError, "typical_p=0.9: this way to choose tokens is not built"),
        ({"num_beam_groups": 2}, UnsupportedError, "num_beam_groups"),
        ({"bad_words_ids": [[1]]}, UnsupportedError, "bad_words_ids"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(
    fields: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        GenerationConfig(**fields).validate()


def test_fields_over_those_of_a_file_are_checked_and_made_plain(tmp_path: Path) -> None:
    GenerationConfig(top_k=3, do_sample=True, mine=[1]).save_pretrained(tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path, top_p=np.float32(0.5), top_k=4)
    assert config == GenerationConfig(top_k=4, top_p=0.5, do_sample=True, mine=[1])
    assert type(config.top_p) is float
    with pytest.raises(ValueError, match="'validate' cannot be a key"):
        GenerationConfig.from_pretrained(tmp_path, validate=1)


def test_numbers_of_numpy_are_taken_as_pythons() -> None:
    config = GenerationConfig(max_new_tokens=np.int64(3), eos_token_id=np.array([2, 4]))
    config.update(temperature=np.float64(0.5), do_sample=np.True_)
    config.validate()
    assert (config.max_new_tokens, config.eos_token_ids, config.do_sample) == (3, [2, 4], True)
    assert json.loads(config.to_json_string())["eos_token_id"] == [2, 4]


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"temperature": 0.5}, "do_sample=True"),
        ({"top_k": 3}, "do_sample=True"),
        ({"top_p": 0.5}, "do_sample=True"),
        ({"early_stopping": True}, "num_beams above 1"),
        ({"length_penalty": 2.0}, "num_beams above 1"),
    ],
)
def test_what_has_no_effect_is_mentioned(fields: dict[str, Any], needed: str) -> None:
    with pytest.warns(UserWarning, match=f"has no effect without {needed}"):
        GenerationConfig(**fields).validate()


def test_values_that_switch_off_what_is_not_built_are_fine() -> None:
    GenerationConfig(num_beam_groups=1, diversity_penalty=0.0, typical_p=1.0, bad_words_ids=None).validate()

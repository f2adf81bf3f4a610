# SPDX-License-Identifier: Apache-2.0
"""Tokenizers read from folders and written into them."""

from __future__ import annotations

import json
import shutil

import pytest

from qdqbert import CheckpointError, UnsupportedError
from qdqbert.cli.demo import bundled_folder
from qdqbert.tokenization import BertTokenizer, BertTokenizerFast

pytestmark = pytest.mark.uninstrumented  # Python, and a library that is not ours

TEXTS = ["Who wrote the Études?", "½ stars…  東京\tok", "", "[SEP] it's naïve\u200b", "newword <ent>"]


@pytest.fixture
def vocabulary(tmp_path):
    """A folder with nothing but the bundled vocabulary."""
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    shutil.copy(bundled_folder() / "vocab.txt", folder)
    return folder


def with_config(folder, **fields):
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


def test_both_names_are_one_class():
    assert BertTokenizer is BertTokenizerFast


def test_vocabulary_alone_gives_the_same_tokens(tokenizer, vocabulary):
    for built in (BertTokenizer.from_pretrained(vocabulary), BertTokenizer(vocabulary / "vocab.txt")):
        for text in TEXTS:
            assert built(text) == tokenizer(text)
            assert built.decode(built.encode(text)) == tokenizer.decode(tokenizer.encode(text))
        assert built.get_vocab() == tokenizer.get_vocab()


def test_what_is_saved_is_read_back(tokenizer, tmp_path):
    tokenizer.add_tokens(["newword"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<ent>"], "eos_token": "[EOS]"})
    tokenizer.padding_side = "left"

    written = tokenizer.save_pretrained(tmp_path / "new" / "folder")
    again = BertTokenizerFast.from_pretrained(tmp_path / "new" / "folder")

    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(
        path.rsplit("/", 1)[1] for path in written
    )
    assert len(written) == 5
    assert (again.special_tokens_map, again.padding_side) == (tokenizer.special_tokens_map, "left")
    for text in TEXTS:
        assert again(text) == tokenizer(text)


@pytest.mark.parametrize(
    ("legacy", "names"),
    [
        (True, {"special_tokens_map.json", "tokenizer_config.json", "vocab.txt"}),
        (False, {"special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"}),
    ],
)
def test_either_form_alone_is_enough(tokenizer, tmp_path, legacy, names):
    tokenizer.save_pretrained(tmp_path, legacy_format=legacy)

    assert {path.name for path in tmp_path.iterdir()} == names
    assert BertTokenizerFast.from_pretrained(tmp_path)(TEXTS) == tokenizer(TEXTS)


def test_fields_that_are_not_ours_survive(vocabulary, tmp_path):
    with_config(vocabulary, never_split=None, do_basic_tokenize=True, my_field={"a": [1]})

    BertTokenizerFast.from_pretrained(vocabulary).save_pretrained(tmp_path / "out")

    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["my_field"] == {"a": [1]}
    assert config["do_basic_tokenize"] is True


def test_the_configuration_wins_over_the_description(tmp_path):
    shutil.copy(bundled_folder() / "tokenizer.json", tmp_path)
    with_config(tmp_path, do_lower_case=False, model_max_length=7, padding_side="left")

    tokenizer = BertTokenizerFast.from_pretrained(tmp_path)

    assert tokenizer.tokenize("WHAT") != ["what"]
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (7, "left")
    assert BertTokenizerFast.from_pretrained(tmp_path, do_lower_case=True).tokenize("WHAT") == ["what"]


def test_a_lost_configuration_does_not_make_a_cased_tokenizer_uncased(tmp_path):
    cased = BertTokenizerFast.from_pretrained(bundled_folder(), do_lower_case=False)
    cased.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()

    assert BertTokenizerFast.from_pretrained(tmp_path).do_lower_case is False


def test_sides_and_limits_of_the_description(tmp_path):
    description = json.loads((bundled_folder() / "tokenizer.json").read_text())
    description["truncation"] = {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Left",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))

    tokenizer = BertTokenizerFast.from_pretrained(tmp_path)

    assert tokenizer.truncation_side == "left"
    assert len(tokenizer("what is it of the").input_ids) == 7
    assert tokenizer.model_max_length == int(1e30)


def test_older_files_keep_added_tokens_and_roles_beside_the_configuration(vocabulary):
    (vocabulary / "added_tokens.json").write_text('{"<x>": 4001, "newword": 4000}')
    (vocabulary / "special_tokens_map.json").write_text(
        json.dumps(
            {
                "eos_token": {
                    "content": "[EOS]",
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                },
                "additional_special_tokens": ["<x>"],
            }
        )
    )

    tokenizer = BertTokenizerFast.from_pretrained(vocabulary)

    assert tokenizer.convert_tokens_to_ids(["newword", "<x>", "[EOS]"]) == [4000, 4001, 4002]
    assert tokenizer.eos_token_id == 4002
    assert tokenizer.decode(tokenizer.encode("what newword <x>"), skip_special_tokens=True) == "what newword"


def test_a_library_object_can_be_given(tokenizer):
    made = BertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    made.add_tokens("newword")

    assert made("What is it?") == tokenizer("What is it?")
    assert len(tokenizer) == 4000
    with pytest.raises(ValueError, match="expected one of them, got none"):
        BertTokenizerFast()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"tokenizer_class": "BertJapaneseTokenizer"},
            UnsupportedError,
            "BertJapaneseTokenizer splits texts",
        ),
        ({"do_lower_case": "yes"}, CheckpointError, "do_lower_case: expected True, False or None"),
        ({"model_max_length": "long"}, CheckpointError, "model_max_length: expected a positive integer"),
        ({"padding_side": "up"}, CheckpointError, "padding_side: expected 'right' or 'left'"),
        ({"cls_token": 5}, CheckpointError, "cls_token: expected a token, got 5"),
        ({"cls_token": "[NONE]"}, CheckpointError, r"without \[NONE\]"),
        ({"cls_token": {"content": 5}}, CheckpointError, "cls_token: expected 'content'"),
        ({"added_tokens_decoder": []}, CheckpointError, "added_tokens_decoder: expected an object"),
        ({"added_tokens_decoder": {"x": {}}}, CheckpointError, "added_tokens_decoder: x: expected an id"),
        ({"added_tokens_decoder": {"7": {}}}, CheckpointError, "added_tokens_decoder: 7: expected 'content'"),
        (
            {"additional_special_tokens": "<a>"},
            CheckpointError,
            "additional_special_tokens: expected a list",
        ),
    ],
)
def test_a_damaged_configuration_is_named(vocabulary, fields, error, message):
    with pytest.raises(error, match=message):
        BertTokenizerFast.from_pretrained(with_config(vocabulary, **fields))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "[]", "expected a JSON object"),
        ("special_tokens_map.json", "{", "is not valid JSON"),
        ("added_tokens.json", '{"a": "b"}', "'a': expected an id, got 'b'"),
        ("tokenizer.json", "{}", "not a tokenizer description"),
        ("vocab.txt", "version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"),
    ],
)
def test_a_damaged_file_is_named(vocabulary, name, content, message):
    (vocabulary / name).write_text(content)

    with pytest.raises(CheckpointError, match=rf"{name}.*{message}"):
        BertTokenizerFast.from_pretrained(vocabulary)


def test_a_folder_without_a_tokenizer_says_what_it_holds(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(CheckpointError, match=r"no tokenizer\.json or vocab\.txt; the folder holds config"):
        BertTokenizerFast.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        BertTokenizerFast.from_pretrained(tmp_path / "none")


def test_unknown_keywords_are_refused(vocabulary):
    with pytest.raises(TypeError, match="unexpected keyword argument 'lower_case'"):
        BertTokenizerFast.from_pretrained(vocabulary, lower_case=True)


def test_saving_into_a_file_is_refused(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(NotADirectoryError, match="save_directory"):
        tokenizer.save_pretrained(tmp_path / "file")

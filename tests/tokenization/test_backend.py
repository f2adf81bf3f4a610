# SPDX-License-Identifier: Apache-2.0
"""The bare tokenizer of a checkpoint folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from qdqbert import CheckpointError
from qdqbert.cli.demo import bundled_folder
from qdqbert.tokenization import load_tokenizer, special_token_id

pytestmark = pytest.mark.uninstrumented  # Python, and a library that is not ours

TEXTS = ["Who wrote the Études?", "½ stars…  東京\tok", "", "[SEP] it's naïve\u200b"]


def folder_with(tmp_path, **files):
    for name, content in files.items():
        path = tmp_path / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


def test_vocabulary_alone_gives_the_same_tokens_as_the_complete_description(tmp_path):
    shutil.copy(bundled_folder() / "vocab.txt", tmp_path)

    complete, built = load_tokenizer(bundled_folder()), load_tokenizer(tmp_path)

    for text in TEXTS:
        assert complete.encode(text).ids == built.encode(text).ids
        pair, other = complete.encode(text, "of it"), built.encode(text, "of it")
        assert (pair.ids, pair.type_ids) == (other.ids, other.type_ids)


def test_nothing_is_cut_or_padded():
    tokenizer = load_tokenizer(bundled_folder())

    assert [len(e.ids) for e in tokenizer.encode_batch(["what", "what " * 700])] == [3, 702]


def test_cased_vocabulary_keeps_case_and_accents(tmp_path):
    folder = folder_with(
        tmp_path,
        vocab__txt="[PAD]\n[UNK]\n[CLS]\n[SEP]\nÉtude\netude\n",
        tokenizer_config__json='{"do_lower_case": false}',
    )

    assert load_tokenizer(folder).encode("Étude etude Etude").tokens == [
        "[CLS]",
        "Étude",
        "etude",
        "[UNK]",
        "[SEP]",
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected tokenizer.json or vocab.txt"),
        ({"tokenizer__json": "{"}, r"tokenizer\.json: not a tokenizer description"),
        ({"tokenizer__json": '{"version": "1.0"}'}, r"tokenizer\.json: not a tokenizer description"),
        ({"tokenizer__json": b"version https://git-lfs.github.com/spec/v1\n"}, "Git-LFS pointer"),
        (
            {"vocab__txt": b"[UNK]\n[CLS]\n[SEP]\n\xff\n"},
            r"vocab\.txt, line 4: expected UTF-8, found byte 0xff",
        ),
        ({"vocab__txt": "the\nof\n"}, r"2 tokens found, without \[UNK\], \[CLS\], \[SEP\]"),
        (
            {"vocab__txt": "[UNK]\n[CLS]\n[SEP]\n", "tokenizer_config__json": '{"do_lower_case": "yes"}'},
            "do_lower_case must be true, false or null, not 'yes'",
        ),
        (
            {"vocab__txt": "[UNK]\n[CLS]\n[SEP]\n", "tokenizer_config__json": "[]"},
            r"tokenizer_config\.json: expected an object",
        ),
    ],
)
def test_broken_folder_is_a_checkpoint_error_that_says_what_is_wrong(tmp_path, files, message):
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(folder_with(tmp_path, **files))


def test_no_folder_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_tokenizer(tmp_path / "none")


def test_truncation_and_padding_of_the_description_are_dropped(tmp_path):
    description = json.loads((bundled_folder() / "tokenizer.json").read_text())
    description["truncation"] = {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    folder = folder_with(tmp_path, tokenizer__json=json.dumps(description))

    assert len(load_tokenizer(folder).encode("what is it of the").ids) == 7


def test_missing_special_token_is_named():
    with pytest.raises(CheckpointError, match=r"4000 tokens has no \[NONE\]"):
        special_token_id(load_tokenizer(bundled_folder()), "[NONE]")


def test_importing_the_tasks_loads_no_third_party_but_numpy():
    program = (
        "import sys; import numpy; "
        "from qdqbert.tasks import bootstrap, squad, text_classification; import qdqbert.tokenization; "
        "names = ('tokenizers', 'safetensors', 'tqdm', 'huggingface_hub', 'onnx'); "
        "print([name for name in names if name in sys.modules])"
    )

    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert process.stdout.strip() == "[]"

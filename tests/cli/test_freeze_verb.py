# SPDX-License-Identifier: Apache-2.0
"""``qdqbert freeze``: a checkpoint of int8 codes that answers as the one it was made from."""

from __future__ import annotations

import numpy as np

import qdqbert as package


def test_freeze_writes_codes_of_equal_answers(qdqbert, quantized, tmp_path):
    outcome = qdqbert("freeze", quantized, "--output", tmp_path / "int8", "--json")
    assert outcome.status == 0
    assert outcome.data["kept"] == {}
    assert outcome.data["bytes"]["after"] < outcome.data["bytes"]["before"]
    assert (tmp_path / "int8" / "tokenizer.json").is_file()
    kind = package.QDQBertForSequenceClassification
    model, floats = kind.from_pretrained(tmp_path / "int8"), kind.from_pretrained(quantized)
    assert model.is_frozen
    ids = np.arange(1, 9)[None]
    assert np.array_equal(model(ids).logits, floats(ids).logits)
    again = qdqbert("info", tmp_path / "int8", "--json")
    assert again.status == 0
    assert "I8" in again.data["formats"]


def test_freeze_says_what_it_did(qdqbert, quantized, tmp_path):
    outcome = qdqbert("freeze", quantized, "--output", tmp_path / "int8")
    assert "weights kept as int8 codes: " in outcome.out
    assert f"saved in {tmp_path / 'int8'}: " in outcome.out


def test_the_checkpoint_itself_is_not_replaced(qdqbert, quantized):
    outcome = qdqbert("freeze", quantized, "--output", quantized)
    assert outcome.status == 2
    assert "--output" in outcome.err


def test_a_checkpoint_that_multiplies_no_codes_is_bad_input(qdqbert, quantized, tmp_path):
    model = package.QDQBertForSequenceClassification.from_pretrained(quantized)
    package.quantizers(model, {"*": "off"})
    model.save_pretrained(tmp_path / "off")
    outcome = qdqbert("freeze", tmp_path / "off", "--output", tmp_path / "int8")
    assert outcome.status == 3
    assert "no linear layer multiplies int8 codes" in outcome.err
    assert not (tmp_path / "int8").exists()

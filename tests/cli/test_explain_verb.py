# SPDX-License-Identifier: Apache-2.0
"""``qdqbert explain``."""

from __future__ import annotations


def test_explain_says_how_every_layer_is_computed(qdqbert, quantized):
    outcome = qdqbert("explain", quantized, "--batch", 8, "--json")

    assert outcome.status == 0
    data = outcome.data
    assert (data["command"], data["batch_size"], data["seq_len"]) == ("explain", 8, 64)
    assert 0.99 < data["integer_share"] < 1
    row = {row["name"]: row for row in data["rows"]}["bert.encoder.layer.1.output.dense"]
    assert (row["path"], row["kernel"], row["advice"]) == ("integer", "product_qs8_codes", "")
    assert (row["gives"], row["operands"][0]["arrives"]) == ("codes", "codes")
    lines = qdqbert("explain", quantized).out.splitlines()
    assert lines[0].startswith("QDQBertForSequenceClassification from ")
    assert any(line.startswith("bert.encoder.layer.0-1  (2 x)") for line in lines)


def test_explain_shows_every_layer_if_asked(qdqbert, quantized):
    lines = qdqbert("explain", quantized, "--all").out.splitlines()

    assert "ranges" in lines[2]
    assert sum("intermediate.dense" in line for line in lines) == 2


def test_explain_reckons_with_rules(qdqbert, quantized):
    rule = "*.layer.1.output.dense._weight_quantizer=off"
    outcome = qdqbert("explain", quantized, "--rule", rule)

    assert "dequantized (3)" in outcome.out
    assert "(output.dense._weight_quantizer): switch it on" in outcome.out


def test_explain_refuses_a_batch_that_cannot_be(qdqbert, quantized):
    outcome = qdqbert("explain", quantized, "--seq-len", 100_000)

    assert outcome.status == 3
    assert "seq_len: expected 1 .. 64, got 100000" in outcome.err

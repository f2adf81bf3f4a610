# SPDX-License-Identifier: Apache-2.0
"""``qdqbert export`` on the bundled classifier."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest

import reference_onnxruntime
from qdqbert import QDQBertForSequenceClassification

pytestmark = pytest.mark.uninstrumented  # a verb is Python; what it runs, tests/onnx runs

HEADER = {"command", "version", "status"}


def metadata(path):
    """Properties of a file."""
    return {each.key: each.value for each in onnx.load(path).metadata_props}


def test_the_file_is_the_model(qdqbert, quantized, tmp_path):
    path = tmp_path / "model.onnx"

    outcome = qdqbert("export", quantized, path, "--opset", "20", "--weights", "int8", "--check", "--json")

    assert outcome.status == 0
    assert set(outcome.data) == HEADER | {
        *("folder", "class", "opset", "weights", "precision", "files", "violations", "compared_with"),
        "differences",
    }
    assert outcome.data["files"] == {str(path): path.stat().st_size}
    assert outcome.data["violations"] == []
    proto = onnx.load(path)
    assert proto.opset_import[0].version == 20
    codes = [each for each in proto.graph.initializer if each.name.endswith("weight_codes")]
    assert len(codes) == 12
    model = QDQBertForSequenceClassification.from_pretrained(quantized)
    assert metadata(path)["qdqbert.class"] == type(model).__name__
    ranges = json.loads(metadata(path)["qdqbert.ranges"])
    assert len(ranges) == 40


def test_the_text_names_file_and_rules(qdqbert, quantized, tmp_path):
    out = qdqbert("export", quantized, tmp_path / "model.onnx", "--check").out

    assert "model.onnx" in out
    assert "QDQBertForSequenceClassification, opset 17, weights float, fp32" in out
    assert "all of TensorRT's rules hold" in out


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1.0), ("fp16", 0.5), ("bf16", 0.5)])
def test_a_float_checkpoint_is_exported_as_one(qdqbert, topics, tmp_path, precision, share):
    path = tmp_path / "model.onnx"

    assert qdqbert("export", topics, path, "--float", "--precision", precision).status == 0

    proto = onnx.load(path)
    assert not {node.op_type for node in proto.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    stored = sum(len(each.raw_data) for each in proto.graph.initializer)
    assert stored == pytest.approx(share * 4 * 939_436, rel=0.01)


def test_a_float_checkpoint_needs_ranges_or_the_word(qdqbert, topics, tmp_path):
    outcome = qdqbert("export", topics, tmp_path / "model.onnx")

    assert outcome.status == 3
    assert "no quantizer has a range; `qdqbert quantize` gives them some" in outcome.err
    assert not list(tmp_path.iterdir())


def test_large_tensors_may_lie_beside(qdqbert, quantized, tmp_path):
    data = qdqbert("export", quantized, tmp_path / "model.onnx", "--external-data", "yes", "--json").data

    assert len(data["files"]) == 2
    assert {str(each) for each in tmp_path.iterdir()} == set(data["files"])


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--opset", "12"], 3, "opset: expected 13"),
        (["--cache"], 3, "use_cache: config.is_decoder is False"),
        (["--tolerance", "-1"], 2, "--tolerance: expected at least 0, found -1.0"),
        (["--tolerance", "0.1"], 2, "--tolerance: has no effect without --compare-with"),
        (["--weights", "int4"], 2, "invalid choice: 'int4'"),
    ],
)
def test_what_cannot_be_is_said_before_a_file_is_touched(
    qdqbert, quantized, tmp_path, words, status, sentence
):
    outcome = qdqbert("export", quantized, tmp_path / "model.onnx", *words)

    assert outcome.status == status
    assert sentence in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [[], ["BertForPreTraining"], ["Trainer"], ["QuantLinear"]])
def test_an_architecture_without_a_class_is_named(qdqbert, quantized, tmp_path, names):
    folder = tmp_path / "copy"
    shutil.copytree(quantized, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": names}))

    outcome = qdqbert("export", folder, tmp_path / "model.onnx")

    assert outcome.status == 3
    assert (names[0] if names else "names no architecture") in outcome.err


@pytest.mark.witness
@pytest.mark.parametrize("weights", ["float", "int8"])
def test_it_is_compared_with_the_model(qdqbert, quantized, tmp_path, weights):
    pytest.importorskip("onnxruntime", reason="missing package: onnxruntime")
    words = ["--weights", weights, "--compare-with", "onnxruntime"]

    outcome = qdqbert("export", quantized, tmp_path / "model.onnx", *words, "--json")

    assert outcome.status == 0
    [difference] = outcome.data["differences"]
    assert (difference["name"], difference["elements"]) == ("logits", 4 * 4 * 44)
    assert difference["mean"] < 0.05 * difference["spread"]
    strict = qdqbert("export", quantized, tmp_path / "model.onnx", *words, "--tolerance", "0")
    assert strict.status == (4 if difference["largest"] else 0)
    assert np.isfinite(difference["magnitude"])


@pytest.mark.parametrize(("words", "status"), [([], 0), (["--tolerance", "0"], 4)])
def test_the_comparison_says_what_quantizing_changes(
    qdqbert, quantized, tmp_path, monkeypatch, words, status
):
    reference_onnxruntime.put_in_place(monkeypatch)

    outcome = qdqbert("export", quantized, tmp_path / "m.onnx", "--compare-with", "onnxruntime", *words)

    assert outcome.status == status
    assert "quantizing changes" in outcome.out
    assert ("logits: more than 0 of the output" in outcome.out) == (status == 4)


def test_without_the_runtime_it_is_said(qdqbert, quantized, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    outcome = qdqbert("export", quantized, tmp_path / "model.onnx", "--compare-with", "onnxruntime")

    assert outcome.status == 3
    assert "onnxruntime is not installed" in outcome.err
    assert not (tmp_path / "model.onnx").exists()

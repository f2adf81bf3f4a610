# SPDX-License-Identifier: Apache-2.0
"""``qdqbert eval FILE --runtime onnxruntime`` scores an exported file as the checkpoint is scored."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest

import reference_onnxruntime
from qdqbert.cli.demo import bundled_folder

pytestmark = pytest.mark.uninstrumented  # the files are run by ONNX and NumPy


@pytest.fixture
def runtime(monkeypatch):
    """ONNX's reference evaluator in place of onnxruntime."""
    return reference_onnxruntime.put_in_place(monkeypatch)


@pytest.fixture(scope="module")
def exported(quantized, tmp_path_factory):
    """The calibrated classifier as a file of its own folder."""
    from qdqbert.cli import main

    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert main(["export", str(quantized), str(path), "--weights", "int8"]) == 0
    return path


DATA = ("--data", bundled_folder() / "test.tsv", "--limit", "12")
RUNTIME = ("--runtime", "onnxruntime")


def test_the_file_scores_as_the_checkpoint(qdqbert, runtime, quantized, exported):
    outcome = qdqbert("eval", exported, *RUNTIME, "--against", quantized, *DATA, "--json")

    assert outcome.status == 0
    rows = outcome.data["rows"]
    assert list(rows) == ["float", "quantized", "onnxruntime"]
    assert rows["onnxruntime"]["metrics"] == rows["quantized"]["metrics"]
    assert outcome.data["items"] == 12
    assert len(runtime.last.fed) > 0


def test_the_file_alone_needs_a_tokenizer(qdqbert, runtime, quantized, exported):
    alone = qdqbert("eval", exported, *RUNTIME, *DATA)
    assert alone.status == 3
    assert "found neither; --tokenizer names another folder" in alone.err

    outcome = qdqbert("eval", exported, *RUNTIME, "--tokenizer", quantized, *DATA, "--json")

    assert outcome.status == 0
    assert list(outcome.data["rows"]) == ["onnxruntime"]
    assert outcome.data["task"] == "classification"


def test_the_tokenizer_may_lie_beside_the_file(qdqbert, runtime, quantized, exported, tmp_path):
    shutil.copyfile(exported, tmp_path / "model.onnx")
    shutil.copyfile(quantized / "tokenizer.json", tmp_path / "tokenizer.json")

    outcome = qdqbert("eval", tmp_path / "model.onnx", *RUNTIME, *DATA, "--json")

    assert list(outcome.data["rows"]) == ["onnxruntime"]


def test_a_bound_is_for_the_last_row(qdqbert, runtime, quantized, exported):
    words = ("eval", exported, *RUNTIME, "--tokenizer", quantized, *DATA, "--min-score")

    assert qdqbert(*words, "1").status == 0
    assert qdqbert(*words, "100.5").status == 4


def test_whether_nodes_are_fused_may_be_said(qdqbert, runtime, quantized, exported):
    words = ("eval", exported, *RUNTIME, "--tokenizer", quantized, *DATA)
    for choice, level in [
        ([], 99),
        (["--graph-optimization", "all"], 99),
        (["--graph-optimization", "none"], 0),
    ]:
        assert qdqbert(*words, *choice).status == 0
        assert runtime.last.options.graph_optimization_level == level


def test_a_file_of_others_has_its_configuration_beside_the_tokenizer(
    qdqbert, runtime, quantized, exported, tmp_path
):
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "model.onnx")

    outcome = qdqbert("eval", tmp_path / "model.onnx", *RUNTIME, "--tokenizer", quantized, *DATA, "--json")

    assert (outcome.status, outcome.data["task"]) == (0, "classification")
    shutil.copyfile(quantized / "tokenizer.json", tmp_path / "tokenizer.json")
    lost = qdqbert("eval", tmp_path / "model.onnx", *RUNTIME, *DATA)
    assert lost.status == 3
    assert "does not say how its model is configured, and there is no" in lost.err


def test_another_head_is_refused(qdqbert, runtime, quantized, exported):
    words = ("eval", exported, *RUNTIME, "--tokenizer", quantized, *DATA, "--task", "squad")

    outcome = qdqbert(*words)

    assert outcome.status == 3
    assert (
        "squad needs a BertForQuestionAnswering, the file is a QDQBertForSequenceClassification"
        in outcome.err
    )


def test_a_file_without_a_class_needs_the_task(qdqbert, runtime, quantized, exported, tmp_path):
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "model.onnx")
    shutil.copyfile(quantized / "tokenizer.json", tmp_path / "tokenizer.json")
    config = json.loads((quantized / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": None}))

    outcome = qdqbert("eval", tmp_path / "model.onnx", *RUNTIME, *DATA)

    assert outcome.status == 3
    assert (
        "does not say which class it is of, which has no head that a task is for; say --task" in outcome.err
    )
    words = ("eval", tmp_path / "model.onnx", *RUNTIME, *DATA, "--task", "classification")
    assert qdqbert(*words).status == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tokenizer", "x"], "--tokenizer: is for an ONNX file; add --runtime"),
        (["--against", "x"], "--against: is for an ONNX file; add --runtime"),
        (["--graph-optimization", "all"], "--graph-optimization: is for an ONNX file; add --runtime"),
        ([], "model.onnx: is a file; add --runtime onnxruntime"),
        ([*RUNTIME, "--quantizers", "on"], "have no effect on an ONNX file"),
        ([*RUNTIME, "--rule", "*=off"], "have no effect on an ONNX file"),
        (["--runtime", "tensorrt"], "invalid choice: 'tensorrt'"),
    ],
)
def test_arguments_without_effect_are_refused(qdqbert, exported, words, sentence):
    outcome = qdqbert("eval", exported, *words, *DATA)

    assert outcome.status == 2
    assert sentence in outcome.err


@pytest.mark.witness
def test_onnxruntime_itself_scores_as_the_checkpoint(qdqbert, quantized, exported):
    pytest.importorskip("onnxruntime", reason="missing package: onnxruntime")

    outcome = qdqbert("eval", exported, *RUNTIME, "--against", quantized, *DATA, "--json")

    rows = outcome.data["rows"]
    assert rows["onnxruntime"]["metrics"] == rows["quantized"]["metrics"]

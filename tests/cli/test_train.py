# SPDX-License-Identifier: Apache-2.0
"""``qdqbert train``: the flags of the original example do what their help says; interrupts and resumes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qdqbert as package
from qdqbert.cli.demo import bundled_folder
from qdqbert.cli.quantization_flags import clip_gelu, fuse_qkv, recalibrate_weights
from qdqbert.device import default_device
from qdqbert.onnx import from_onnx
from qdqbert.rules import named_quantizers
from qdqbert.training import TrainingArguments
from qdqbert.training.refused_arguments import REFUSED

pytestmark = pytest.mark.uninstrumented  # a verb is Python; what it runs, tests/training runs

LAYER = "bert.encoder.layer.0."


@pytest.fixture
def train(qdqbert, topics, tmp_path) -> Any:
    """Call the verb on the bundled classifier, for two steps if nothing else is said."""

    def call(*words: object, output: str = "out", folder: object = topics, status: int = 0) -> Any:
        given = [str(word) for word in words]
        if not any(word.startswith(("--max_steps", "--num_train_epochs", "--do_")) for word in given):
            given += ["--max_steps", "2"]
        data = ["--train_file", topics / "calibration.tsv", "--max_train_samples", "40"]
        outcome = qdqbert("train", folder, "--output_dir", tmp_path / output, *data, *given)
        assert outcome.status == status, outcome.err
        return outcome

    return call


def opened(folder: Path) -> Any:
    return package.QDQBertForSequenceClassification.from_pretrained(folder)


def quantizer(model: Any, name: str) -> Any:
    return dict(named_quantizers(model))[name]


# ---- what is done ------------------------------------------------------------------------------------------


def test_without_a_word_a_float_model_is_trained_and_stays_one(train, tmp_path) -> None:
    text = train().out
    assert "trained 2 steps: loss " in text
    assert f"saved in {tmp_path / 'out'}" in text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert "qdqbert_quantization" not in config
    before, after = opened(bundled_folder()), opened(tmp_path / "out")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not np.array_equal(before.state_dict()[name], after.state_dict()[name])
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "train_results.json", "trainer_state.json", "log.jsonl"} <= files


def test_json_has_the_figures(train, topics, tmp_path) -> None:
    data = train(
        *("--validation_file", topics / "test.tsv", "--max_eval_samples", "20"),
        *("--disable_tqdm", "true", "--json"),
    ).data
    assert set(data) == {
        *("command", "version", "status", "folder", "output", "task", "resumed_from", "step", "metrics"),
    }
    assert data["step"] == 2
    assert data["metrics"]["train"]["train_samples"] == 40
    assert {"eval_accuracy", "eval_macro_f1", "eval_samples"} <= set(data["metrics"]["eval"])
    assert data["metrics"]["eval"]["eval_samples"] == 20
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text()) == data["metrics"]["eval"]


def test_calibration_alone_saves_a_calibrated_model(train, tmp_path) -> None:
    text = train("--do_calib", "--calibrator", "percentile", "--percentile", "99.9").out
    assert "calibrated on 40 samples (percentile, 99.9)" in text
    assert "trained" not in text
    model, other = opened(tmp_path / "out"), opened(bundled_folder())
    assert all(each.amax is not None for _, each in named_quantizers(model))
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], value)


def test_what_was_trained_is_exported_with_its_ranges(train, tmp_path) -> None:
    text = train("--qat", "--num_train_epochs", "1", "--save_onnx").out
    assert f"exported {tmp_path / 'out' / 'model.onnx'}" in text
    exported = from_onnx(tmp_path / "out" / "model.onnx")
    saved = opened(tmp_path / "out")
    assert exported.state_dict().keys() == saved.state_dict().keys()
    for name, value in saved.state_dict().items():
        np.testing.assert_array_equal(exported.state_dict()[name], value, err_msg=name)


def test_a_float_model_is_exported_without_quantizers(train, tmp_path) -> None:
    train("--do_eval", "--validation_file", bundled_folder() / "test.tsv", "--save_onnx")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert not {node.op_type for node in graph.node} & {"QuantizeLinear", "DequantizeLinear"}


def test_the_number_of_calibration_batches_is_obeyed(train) -> None:
    words = ("--num_calib_batch", "3", "--per_device_eval_batch_size", "5")
    assert "calibrated on 15 samples (max)" in train("--do_calib", *words).out


def test_the_recipe_calibrates_and_trains_quantized(train, tmp_path) -> None:
    text = train("--qat", "--num_train_epochs", "1").out
    assert "calibrated on 40 samples (percentile, 99.99)" in text
    arguments = json.loads((tmp_path / "out" / "training_args.json").read_text())
    assert arguments["learning_rate"] == 1e-6
    assert arguments["lr_scheduler_type"] == "cosine_with_min_lr"
    assert arguments["lr_scheduler_kwargs"] == {"min_lr_rate": 0.01}
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert history[-1]["step"] == 5
    model = opened(tmp_path / "out")
    assert all(each._if_quant and each.amax is not None for _, each in named_quantizers(model))


def test_a_model_trained_in_float_is_calibrated_afterwards(train, tmp_path) -> None:
    train(output="float")
    for words in (("--do_calib",), ("--qat", "--max_steps", "1")):
        outcome = train(*words, folder=tmp_path / "float", output=words[0])
        assert "calibrated on 40 samples" in outcome.out
        assert outcome.err == ""
    # A checkpoint within a run in float has its quantizers off.
    train("--save_steps", "1", "--max_steps", "1", output="off")
    outcome = train("--do_calib", folder=tmp_path / "off" / "checkpoint-1", output="on")
    assert "all quantizers were off, and are switched on" in outcome.err
    assert all(not each._disabled for _, each in named_quantizers(opened(tmp_path / "on")))


def test_flags_go_before_the_recipe(train, tmp_path) -> None:
    words = ("--learning-rate", "3e-5", "--lr_scheduler_type", "linear", "--max_steps", "1")
    train("--qat", *words, "--calibrator", "max")
    arguments = json.loads((tmp_path / "out" / "training_args.json").read_text())
    assert (arguments["learning_rate"], arguments["lr_scheduler_type"]) == (3e-5, "linear")
    assert arguments["lr_scheduler_kwargs"] == {}


def test_ranges_of_a_calibrated_folder_are_trained_with(train, quantized, tmp_path) -> None:
    for words in ((), ("--qat",)):
        name = "qat" if words else "plain"
        text = train(*words, "--max_steps", "1", output=name, folder=quantized).out
        assert "calibrated on" not in text
        before, after = opened(quantized), opened(tmp_path / name)
        for (key, mine), (_, theirs) in zip(named_quantizers(before), named_quantizers(after), strict=True):
            np.testing.assert_array_equal(mine.amax, theirs.amax, err_msg=key)


@pytest.mark.parametrize("amax", ["moving", "learned"])
def test_ranges_move_or_are_learned_if_asked(train, tmp_path, amax) -> None:
    train("--qat", "--qat_amax", amax, "--learning_rate", "1e-3", "--max_steps", "2")
    model = opened(tmp_path / "out")
    ranges = quantizer(model, LAYER + "output.dense._input_quantizer")
    assert ranges._learn_amax == (amax == "learned")
    assert ranges._if_quant


def test_a_teacher_is_trained_against(train, topics, tmp_path) -> None:
    plain = train("--disable-dropout", output="plain", status=0)
    words = ("--teacher", topics, "--teacher_alpha", "1", "--disable-dropout", "--learning_rate", "0")
    taught = train(*words, output="taught")
    # Without quantizers and dropout it is its own teacher, of which nothing can be learned.
    assert float(re.search("loss (.*)", taught.out)[1]) < 1e-6 < float(re.search("loss (.*)", plain.out)[1])
    quantized = train("--qat", *words, "--wprec", "4", output="quantized")
    assert float(re.search("steps: loss (.*)", quantized.out)[1]) > 1e-4


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("What is it? Who made it, and when was it that they built the first one of them?\n" * 12)
    return path


@pytest.mark.parametrize("task", ["mlm", "clm"])
def test_language_models_are_trained_on_text(qdqbert, topics, tmp_path, text, task) -> None:
    words = ["--task", task, "--train_file", text, "--validation_file", text, "--boundary", "line"]
    words += ["--max_steps", "2", "--streaming", "--output_dir", tmp_path / "out"]
    outcome = qdqbert("train", topics, *words)
    assert outcome.status == 0, outcome.err
    assert "trained 2 steps" in outcome.out
    assert ("the model becomes a decoder" in outcome.err) == (task == "clm")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM" if task == "mlm" else "BertLMHeadModel"]
    assert config.get("is_decoder", False) == (task == "clm")


def test_rows_with_several_labels_are_trained_on(qdqbert, topics, tmp_path) -> None:
    base = tmp_path / "base"
    package.QDQBertModel.from_pretrained(topics).save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    left = {
        key: value for key, value in config.items() if key not in ("id2label", "label2id", "problem_type")
    }
    (base / "config.json").write_text(json.dumps(left))
    package.BertTokenizerFast.from_pretrained(topics).save_pretrained(base)
    (tmp_path / "rows.csv").write_text("text,label\nWho?,a;b\nWhen?,b\nWhat?,c;a\n")
    words = ["--task", "csv", "--train_file", tmp_path / "rows.csv", "--label_delimiter", ";"]
    outcome = qdqbert("train", base, *words, "--max_steps", "1", "--output_dir", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert sorted(config["label2id"]) == ["a", "b", "c"]
    assert config["problem_type"] == "multi_label_classification"


def test_predictions_are_scored(train, topics, tmp_path) -> None:
    words = ("--test_file", topics / "test.tsv", "--max_predict_samples", "10")
    outcome = train("--do_predict", *words)
    assert "predicted: accuracy" in outcome.out
    assert json.loads((tmp_path / "out" / "predict_results.json").read_text())["predict_samples"] == 10


def test_the_best_checkpoint_is_chosen_by_the_figure_of_the_task(train, topics, tmp_path) -> None:
    train(
        *("--do_train", "--do_eval", "--validation_file", topics / "test.tsv", "--max_eval_samples", "20"),
        *("--max_steps", "2", "--save_steps", "1", "--eval_steps", "1", "--evaluation_strategy", "steps"),
        *("--load_best_model_at_end", "true"),
    )
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert 0 < state["best_metric"] <= 100
    assert state["best_model_checkpoint"].startswith(str(tmp_path / "out" / "checkpoint-"))


def test_the_same_command_goes_on_where_it_stopped(train, tmp_path) -> None:
    words = ("--save_steps", "2", "--per_device_train_batch_size", "8")
    train("--max_steps", "4", *words, output="whole")
    train("--max_steps", "4", *words, output="stopped")
    for name in ("model.safetensors", "trainer_state.json"):
        (tmp_path / "stopped" / name).unlink()
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-4")
    outcome = train("--max_steps", "4", *words, output="stopped")
    assert f"goes on from {tmp_path / 'stopped' / 'checkpoint-2'}" in outcome.err
    whole, stopped = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped
    outcome = train("--max_steps", "4", *words, "--overwrite_output_dir", output="stopped")
    assert "goes on" not in outcome.err


# ---- the flags of the original -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "off", "on"),
    [
        (["--quant-disable"], r".", None),
        (
            ["--quant-disable-keyword", "intermediate", r"matmul_[qk]"],
            r"intermediate|matmul_[qk]",
            r"matmul_v",
        ),
        (
            ["--quant-disable-layer-module", "output.dense"],
            r"layer\.\d+\.output\.dense",
            r"attention\.output",
        ),
        (
            ["--quant-disable", "--quant-enable-layer-module", "intermediate"],
            r"attention|layer\.\d+\.output",
            r"intermediate",
        ),
    ],
)
def test_quantizers_are_switched_by_name(train, tmp_path, words, off, on) -> None:
    train("--do_calib", *words)
    for name, each in named_quantizers(opened(tmp_path / "out")):
        if re.search(off, name):
            assert each._disabled, name
        elif on is None or re.search(on, name):
            assert not each._disabled, name


def test_bits_and_the_axis_of_weights_are_set(train, tmp_path) -> None:
    train("--do_calib", "--wprec", "4", "--aprec", "6", "--quant-per-tensor")
    model = opened(tmp_path / "out")
    weight = quantizer(model, LAYER + "output.dense._weight_quantizer")
    assert (weight.num_bits, weight.axis, weight.amax.shape) == (4, None, ())
    assert quantizer(model, LAYER + "output.dense._input_quantizer").num_bits == 6


def test_embeddings_have_nothing_to_switch_off(train) -> None:
    outcome = train("--do_calib", "--quant-disable-embeddings")
    assert "--quant-disable-embeddings: the embeddings of BERT have no quantizers" in outcome.err


def test_dropout_is_taken_out(train, tmp_path) -> None:
    train("--disable-dropout")
    config = opened(tmp_path / "out").config
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0


def test_mse_is_mse(train, tmp_path) -> None:
    ranges = []
    for calibrator in ("mse", "max"):
        assert f"({calibrator})" in train("--do_calib", "--calibrator", calibrator, output=calibrator).out
        model = opened(tmp_path / calibrator)
        ranges.append(float(quantizer(model, LAYER + "output.dense._input_quantizer").amax))
    assert ranges[0] < ranges[1]


def test_gelu_is_clipped_also_in_a_run_that_calibrates(train, tmp_path) -> None:
    train("--do_calib", "--clip-gelu", "0.5", "--fuse-qkv")
    model = opened(tmp_path / "out")
    assert float(quantizer(model, LAYER + "output.dense._input_quantizer").amax) == 0.5
    assert float(quantizer(model, LAYER + "attention.output.dense._input_quantizer").amax) != 0.5
    q, k, v = (quantizer(model, f"{LAYER}attention.self.matmul_{n}_input_quantizer").amax for n in "qkv")
    assert q == k == v


@pytest.fixture
def calibrated(quantized) -> Any:
    return opened(quantized)


def test_query_key_and_value_share_their_largest_range(calibrated) -> None:
    def ranges() -> list[Any]:
        names = [f"{LAYER}attention.self.matmul_{n}_input_quantizer" for n in "qkv"]
        names += [f"{LAYER}attention.self.{n}._weight_quantizer" for n in ("query", "key", "value")]
        return [quantizer(calibrated, name).amax for name in names]

    before = ranges()
    assert not fuse_qkv(calibrated, weights=False)
    after = ranges()
    assert all(amax == max(before[:3]) for amax in after[:3])
    assert len({float(amax) for amax in before[:3]}) > 1
    for mine, theirs in zip(after[3:], before[3:], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    fuse_qkv(calibrated, weights=True)
    largest = max(float(amax.max()) for amax in before[3:])
    assert all((amax == np.float32(largest)).all() for amax in ranges()[3:])


def test_ranges_that_are_missing_are_told(topics) -> None:
    model = opened(topics)
    layers = model.config.num_hidden_layers
    assert len(fuse_qkv(model, weights=False)) == len(clip_gelu(model, 2.0)) == layers


def test_weights_are_calibrated_anew_whatever_their_axis(calibrated) -> None:
    name = LAYER + "output.dense.weight"
    calibrated.load_state_dict({name: 3 * np.array(calibrated.state_dict()[name])}, strict=False)
    other = LAYER + "intermediate.dense._weight_quantizer"
    quantizer(calibrated, other).disable()
    kept = quantizer(calibrated, other).amax
    recalibrate_weights(calibrated)
    expected = np.abs(calibrated.state_dict()[name]).max(axis=1, keepdims=True)
    np.testing.assert_array_equal(
        quantizer(calibrated, LAYER + "output.dense._weight_quantizer").amax, expected
    )
    np.testing.assert_array_equal(quantizer(calibrated, other).amax, kept)


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset_name", "squad"], "--dataset_name: data sets are read from files; give --train_file"),
        (["--preprocessing_num_workers", "4"], "--preprocessing_num_workers: texts are encoded here"),
        (["--calibrator", "percentile"], "--calibrator percentile: needs --percentile P"),
        (["--calibrator", "max", "--percentile", "99"], "--percentile: is for --calibrator percentile"),
        (["--percentile", "101"], "--percentile: expected a number in (0, 100], found 101"),
        (["--clip-gelu", "-1"], "--clip-gelu: expected a positive number"),
        (["--quant-disable-keyword", "("], "--quant-disable-keyword: '('"),
        (["--quant-disable-keyword", "nothing"], "'nothing' matches no quantizer; names end in"),
        (["--num_calib_batch", "0"], "--num_calib_batch: expected at least 1"),
        (["--num_calib_batch", "2"], "--num_calib_batch: is for --do_calib and --qat"),
        (["--percentile", "99"], "--percentile: is for --do_calib and --qat"),
        (["--calibrator", "mse"], "--calibrator: is for --do_calib and --qat"),
        (["--qat", "--qat_momentum", "0.5"], "--qat_momentum: is for --qat_amax moving"),
        (["--qat_amax", "moving"], "--qat_amax: is for --qat"),
        (["--wprec", "99"], "--wprec: expected 2 .. 16 bits, found 99"),
        (["--teacher_alpha", "1"], "--teacher_alpha: is for --teacher"),
        (["--teacher", str(bundled_folder()), "--do_eval"], "--teacher: is for training"),
        (["--teacher", str(bundled_folder()), "--teacher_alpha", "2"], "--teacher_alpha: expected 0 .. 1"),
        (["--model_name_or_path", "elsewhere"], "DIR: expected a checkpoint folder, once"),
        (["--task", "poetry"], "--task: expected one of squad"),
        (["--doc_stride", "12"], "--doc_stride: is not for classification"),
        (["--boundary", "line"], "--boundary: is not for classification"),
        (["--learning_rate", "-1"], "--learning_rate: expected a number in"),
        (["--fp16"], "--fp16=True: weights, activations and gradients are float32; bf16 rounds what"),
        (["--dataloader_num_workers", "3"], "--dataloader_num_workers=3: batches are made"),
        (["--group_by_length", "perhaps"], "expected true or false, got 'perhaps'"),
        (["--lr_scheduler_kwargs", "[1]"], "expected a JSON object"),
        (["--do_eval"], "--validation_file: expected a file for classification"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(train, tmp_path, words, message) -> None:
    assert message in train(*words, status=2).err
    assert not (tmp_path / "out").exists()


def test_bf16_products_are_had_or_refused_before_anything_is_written(train, tmp_path) -> None:
    kernels = dict(default_device().kernels())
    if kernels["product_bf16"] != "ref" or kernels["product_f32"] == "ref":
        assert "trained 2 steps: loss " in train("--bf16").out
    else:
        said = train("--bf16", status=3).err
        assert re.search("--bf16: the device's kernels are '.*', which have no bf16 products", said)
        assert not (tmp_path / "out").exists()


def test_the_checkpoint_itself_is_not_overwritten(qdqbert, topics, tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(topics, folder)
    words = ["--output_dir", folder, "--train_file", topics / "calibration.tsv"]
    outcome = qdqbert("train", folder, *words)
    assert outcome.status == 2
    assert "is the checkpoint itself" in outcome.err


def test_a_file_to_train_on_is_needed(qdqbert, topics, tmp_path) -> None:
    outcome = qdqbert("train", topics, "--output_dir", tmp_path / "out")
    assert outcome.status == 2
    assert "--train_file: expected a file for classification" in outcome.err


def test_a_malformed_row_is_named(qdqbert, topics, tmp_path) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\nWhat?\tNowhere\n")
    outcome = qdqbert(
        "train", topics, "--output_dir", tmp_path / "out", "--train_file", tmp_path / "train.tsv"
    )
    assert outcome.status == 3
    assert "train.tsv:2: " in outcome.err


def test_every_argument_is_a_flag_in_both_spellings_with_a_text(qdqbert) -> None:
    text = qdqbert("train", "--help").out
    for field in dataclasses.fields(TrainingArguments):
        is_shown = re.search(rf"--{field.name}\b", text) is not None
        assert is_shown == (field.name not in REFUSED or field.name == "debug"), field.name
    assert "--per_device_train_batch_size N, --per-device-train-batch-size N" in text
    assert "Items of a batch, at least 1 (8)" in " ".join(text.split())


@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"debug"}))
def test_refused_arguments_are_flags_that_say_why(train, name) -> None:
    field = next(field for field in dataclasses.fields(TrainingArguments) if field.name == name)
    kind = str(field.type).partition(" ")[0].partition("[")[0]
    words = {"int": "7", "float": "0.5", "dict": '{"x": 1}', "bool": str(not field.default).lower()}
    if kind == "bool" and (not field.default) in REFUSED[name].allowed:
        train(f"--{name}", words[kind])
    else:
        outcome = train(f"--{name}", words.get(kind, "something"), status=2)
        assert f"--{name}=" in outcome.err
        assert REFUSED[name].reason in outcome.err


# ---- interrupts --------------------------------------------------------------------------------------------


def command(topics: Path, output: Path) -> list[str]:
    words = [
        "train",
        str(topics),
        "--output_dir",
        str(output),
        "--train_file",
        str(topics / "calibration.tsv"),
    ]
    words += [
        "--max_steps",
        "40",
        "--save_steps",
        "4",
        "--qat",
        "--qat_amax",
        "moving",
        "--save_total_limit",
        "2",
    ]
    return [sys.executable, "-m", "qdqbert", *words]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_whole_checkpoints_and_says_how_to_go_on(topics, tmp_path, number) -> None:
    whole = subprocess.run(command(topics, tmp_path / "whole"), capture_output=True, text=True, check=True)
    assert "trained 40 steps" in whole.stdout
    output = tmp_path / "out"
    # A shell lets what it runs in the background ignore SIGINT, and that is inherited.
    process = subprocess.Popen(
        command(topics, output),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not any(output.glob("checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    what = "interrupted" if number == signal.SIGINT else "terminated"
    found = re.fullmatch(
        rf"qdqbert train: {what} at step (\d+); the same command goes on from checkpoint-(\d+) "
        r"\(--resume_from_checkpoint (.*)\)\n",
        err,
    )
    assert found, err
    assert int(found[2]) <= int(found[1]) <= int(found[2]) + 4
    assert all(name.startswith(("checkpoint-", "log.jsonl")) for name in os.listdir(output))
    again = subprocess.run(command(topics, output), capture_output=True, text=True, check=True)
    assert f"goes on from {found[3]}" in again.stderr
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()

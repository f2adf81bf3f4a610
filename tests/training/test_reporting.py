# SPDX-License-Identifier: Apache-2.0
"""Bars, printed logs and ``log.jsonl``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from qdqbert import (
    JsonLinesCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from qdqbert.training.reporting import log_level, log_text, metrics_text

CONTROL = TrainerControl()


def log(callback: Any, arguments: TrainingArguments, state: TrainerState, entry: dict[str, Any]) -> None:
    state.log_history.append({**entry, "step": state.global_step})
    callback.on_log(arguments, state, CONTROL, logs=entry)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name != "elapsed_s"} for entry in entries]


def test_what_is_logged_stands_in_the_file_at_once(tmp_path: Path) -> None:
    arguments, state = TrainingArguments(str(tmp_path / "out")), TrainerState()
    callback = JsonLinesCallback()
    callback.on_train_begin(arguments, state, CONTROL)
    for state.global_step in (1, 2):
        log(callback, arguments, state, {"loss": 0.1 * state.global_step})
        written = lines(tmp_path / "out" / "log.jsonl")
        assert without_times(written) == state.log_history
    assert 0 <= written[0]["elapsed_s"] <= written[1]["elapsed_s"]


def test_the_log_lies_where_the_arguments_say(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path / "out"), logging_dir=str(tmp_path / "logs"))
    JsonLinesCallback().on_train_begin(arguments, TrainerState(), CONTROL)
    assert (tmp_path / "logs" / "log.jsonl").is_file()
    JsonLinesCallback(tmp_path / "mine" / "x.jsonl").on_train_begin(arguments, TrainerState(), CONTROL)
    assert (tmp_path / "mine" / "x.jsonl").is_file()


def test_a_new_run_begins_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    JsonLinesCallback().on_train_begin(TrainingArguments(str(tmp_path)), TrainerState(), CONTROL)
    assert (tmp_path / "log.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "found",
    [
        '{"step": 1, "elapsed_s": 5}\n{"step": 2, "elapsed_s": 6}\n{"step": 3}\n',
        '{"step": 1, "elapsed_s": 5}\n{"step": 2, "elapsed_s": 6}\n{"st',
    ],
)
def test_a_resumed_run_cuts_the_file_back_to_its_checkpoint(tmp_path: Path, found: str) -> None:
    (tmp_path / "log.jsonl").write_text(found)
    state = TrainerState(global_step=2, log_history=[{"step": 1}, {"step": 2}])
    JsonLinesCallback().on_train_begin(TrainingArguments(str(tmp_path)), state, CONTROL)
    assert lines(tmp_path / "log.jsonl") == [{"step": 1, "elapsed_s": 5}, {"step": 2, "elapsed_s": 6}]


@pytest.mark.parametrize("found", [None, "", '{"step": 1}\n{"st', "[3]\n", '{"step": 9}\n{"step": 2}\n'])
def test_a_log_that_was_lost_is_written_again_from_the_checkpoint(tmp_path: Path, found: str | None) -> None:
    if found is not None:
        (tmp_path / "log.jsonl").write_text(found)
    state = TrainerState(global_step=2, log_history=[{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    JsonLinesCallback().on_train_begin(TrainingArguments(str(tmp_path)), state, CONTROL)
    assert lines(tmp_path / "log.jsonl") == state.log_history


def test_seconds_go_on_where_a_run_was_stopped(tmp_path: Path) -> None:
    arguments, state = TrainingArguments(str(tmp_path)), TrainerState(global_step=2)
    callback = JsonLinesCallback()
    callback.load_state_dict({"elapsed_s": 1000.0})
    callback.on_train_begin(arguments, state, CONTROL)
    log(callback, arguments, state, {"loss": 0.5})
    assert lines(tmp_path / "log.jsonl")[0]["elapsed_s"] >= 1000
    assert callback.state_dict()["elapsed_s"] >= 1000


def test_the_bar_shows_loss_rate_and_samples(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = TrainingArguments("out", run_name="tuning")
    state = TrainerState(global_step=4, max_steps=8)
    callback = ProgressCallback()
    callback.on_train_begin(arguments, state, CONTROL)
    state.global_step = 5
    figures = {"loss": 0.51239, "learning_rate": 3e-5, "grad_norm": None, "samples": 16}
    callback.on_step_end(arguments, state, CONTROL, step_metrics=figures)
    log(callback, arguments, state, {"loss": 0.51239, "epoch": 1})
    for _ in range(3):
        callback.on_prediction_step(arguments, state, CONTROL, eval_dataloader=range(3))
    callback.on_evaluate(arguments, state, CONTROL)
    assert callback.prediction_bar is None
    callback.on_train_end(arguments, state, CONTROL)
    assert callback.training_bar is None
    out, err = capfd.readouterr()
    assert out == ""
    assert "tuning" in err
    assert "5/8" in err
    assert "loss 0.5124, lr 3e-05" in err
    assert "samples/s" in err
    assert "step 5: loss 0.5124, epoch 1" in err
    assert "evaluating" in err


def test_bars_are_closed_when_a_run_is_stopped() -> None:
    callback = ProgressCallback()
    callback.on_train_begin(TrainingArguments("out"), TrainerState(max_steps=3), CONTROL)
    callback.on_prediction_step(TrainingArguments("out"), TrainerState(), CONTROL, eval_dataloader=iter(()))
    callback.on_train_abort(TrainingArguments("out"), TrainerState(), CONTROL)
    assert callback.training_bar is callback.prediction_bar is None
    callback.on_train_abort(TrainingArguments("out"), TrainerState(), CONTROL)


def test_the_printer_prints_dicts(capsys: pytest.CaptureFixture[str]) -> None:
    log(PrinterCallback(), TrainingArguments("out"), TrainerState(), {"loss": 0.5})
    assert capsys.readouterr().out == "{'loss': 0.5}\n"


def test_figures_read_well() -> None:
    assert log_text({"loss": 0.123456, "learning_rate": 2.5e-5, "n": 3}) == (
        "loss 0.1235, learning_rate 2.5e-05, n 3"
    )
    metrics = {"train_runtime": 3725.5, "train_loss": 0.123456, "total_flos": 1.5e12, "train_samples": 7}
    assert metrics_text("train", metrics).splitlines() == [
        "***** train metrics *****",
        "  total_flos    =  1.500e+12",
        "  train_loss    =     0.1235",
        "  train_runtime = 1:02:05.50",
        "  train_samples =          7",
    ]


def test_the_level_of_the_log_is_put_back() -> None:
    logger = logging.getLogger("qdqbert")
    before = logger.level
    with log_level("debug"):
        assert logger.level == logging.DEBUG
    assert logger.level == before
    with log_level("passive"):
        assert logger.level == before

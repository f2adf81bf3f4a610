# SPDX-License-Identifier: Apache-2.0
"""A resumed run ends with the bits of one that never stopped; a full disk costs no older checkpoint."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

from qdqbert import CheckpointError, EarlyStoppingCallback, QuantizationAware, Trainer, TrainerCallback
from qdqbert.training import get_last_checkpoint
from qdqbert.training.checkpoint_folder import progress_of, write_progress


class Stop(TrainerCallback):
    """Ctrl-C at an event of a step."""

    def __init__(self, event: str, step: int) -> None:
        self.event, self.step = event, step

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "event"):
            return object.__getattribute__(self, "stop")
        return object.__getattribute__(self, name)

    def stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


OPTIONS: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 3}
BY_EPOCH: dict[str, Any] = {"save_strategy": "epoch", "evaluation_strategy": "epoch"}


def stop_and_resume(event: str, step: int, **options: Any) -> None:
    trainer = tiny_run.trainer("out", callbacks=[Stop(event, step)], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not trainer.model.training
    tiny_run.trainer("out", **options).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("options", [OPTIONS, BY_EPOCH], ids=["steps", "epochs"])
@pytest.mark.parametrize(
    "event", ["on_step_begin", "on_substep_end", "on_step_end", "on_save", "on_epoch_end"]
)
def test_it_does_not_matter_where_a_run_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, options: dict[str, Any]
) -> None:
    options = {**options, "num_train_epochs": 3, "logging_steps": 2}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    tiny_run.trainer("out", **options).train()
    expected = tiny_run.outcome(tmp_path / "whole")
    assert len(expected) > 10
    # The last step of the second of three epochs, and the one in the middle of the last.
    for step in (6, 7):
        if event == "on_epoch_end" and step == 7:
            continue
        if event == "on_save" and options["save_strategy"] == "epoch" and step == 7:
            continue
        monkeypatch.chdir(tmp_path / "stopped")
        stop_and_resume(event, step, **options)
        assert tiny_run.outcome(tmp_path / "stopped") == expected, step
        shutil.rmtree("out")


@pytest.mark.parametrize("amax", ["frozen", "moving", "learned"])
def test_ranges_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amax: str) -> None:
    def trainer(*more: TrainerCallback) -> Trainer:
        aware = QuantizationAware(start_step=1, amax=amax, weights="max")
        model = tiny_run.calibrated(learns=amax == "learned")
        return tiny_run.trainer("out", trained=model, callbacks=[aware, *more], **OPTIONS)

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = trainer()
    before = {name: value.copy() for name, value in whole.model.state_dict().items()}
    whole.train()
    monkeypatch.chdir(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        trainer(Stop("on_step_end", 4)).train()
    trainer().train(resume_from_checkpoint=True)
    assert tiny_run.outcome(tmp_path / "stopped") == tiny_run.outcome(tmp_path / "whole")
    after = whole.model.state_dict()
    kind = {"frozen": "nothing", "moving": "_input_quantizer._amax", "learned": "clip_value_max"}[amax]
    changed = [
        name for name in before if "quantizer" in name and not np.array_equal(before[name], after[name])
    ]
    moved = [name for name in changed if not name.endswith("_weight_quantizer._amax")]
    expected = [name for name in before if name.endswith(kind)]
    assert set(expected) <= set(moved)
    assert bool(expected) == bool(moved)


def test_any_checkpoint_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"save_strategy": "steps", "save_steps": 1}
    tiny_run.trainer("out", **options).train()
    expected = tiny_run.outcome(tmp_path / "out")
    for step in range(1, 7):
        tiny_run.trainer("out", **options).train(resume_from_checkpoint=f"out/checkpoint-{step}")
        assert tiny_run.outcome(tmp_path / "out") == expected, step


def test_the_arguments_can_say_what_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_run.trainer("out", **OPTIONS).train()
    trainer = tiny_run.trainer("out", resume_from_checkpoint=True, **OPTIONS)
    assert trainer.train().global_step == 6
    assert len(trainer.state.log_history) == 7


def test_a_checkpoint_that_was_cut_off_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_run.trainer("out", **OPTIONS).train()
    expected = tiny_run.outcome(tmp_path / "out")
    os.truncate("out/checkpoint-6/optimizer.safetensors", 100)
    tiny_run.trainer("out", **OPTIONS).train(resume_from_checkpoint=True)
    assert tiny_run.outcome(tmp_path / "out") == expected


def test_patience_and_the_end_that_it_brought_are_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {
        **BY_EPOCH,
        "load_best_model_at_end": True,
        "metric_for_best_model": "score",
        "num_train_epochs": 9,
    }

    def run(scores: list[float], resume: str | bool) -> int:
        trainer = tiny_run.trainer("out", callbacks=[EarlyStoppingCallback(2)], **options)
        left = iter(scores)
        trainer.compute_metrics = lambda prediction: {"score": next(left)}
        return trainer.train(resume_from_checkpoint=resume).global_step

    assert run([0.5, 0.4, 0.9, 0.8, 0.7], False) == 15
    # With one evaluation without improvement behind it, another one ends the run.
    assert run([0.7], "out/checkpoint-12") == 15
    # It had ended: nothing is evaluated any more.
    assert run([], "out/checkpoint-15") == 15


def test_a_run_that_is_over_can_be_made_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {**OPTIONS, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    tiny_run.trainer("out", max_steps=5, **options).train()
    trainer = tiny_run.trainer("out", max_steps=8, **options)
    assert trainer.train(resume_from_checkpoint=True).global_step == 8
    whole = tiny_run.trainer("whole", max_steps=8, **options)
    whole.train()
    for name, value in whole.model.state_dict().items():
        assert value.tobytes() == trainer.model.state_dict()[name].tobytes(), name


def test_other_arguments_than_the_run_had_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_run.trainer("out", **OPTIONS).train()
    tiny_run.trainer("out", **OPTIONS, seed=7).train(resume_from_checkpoint=True)
    assert "resumed with other arguments than the run had: seed=7 (was 5)" in caplog.text


def test_a_checkpoint_of_the_model_alone_cannot_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_run.trainer("out", save_only_model=True, **OPTIONS).train()
    assert not Path("out/checkpoint-6/optimizer.safetensors").exists()
    with pytest.raises(CheckpointError, match="was written with save_only_model"):
        tiny_run.trainer("out", **OPTIONS).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("progress.json", {"format": 2}, "format 2, expected 1"),
        ("progress.json", {"position": {"epoch": 0, "step": 3}}, "is damaged"),
        ("progress.json", {"dropout": {}}, "is damaged"),
        ("scheduler.json", None, "scheduler.json"),
    ],
)
def test_a_damaged_state_leaves_the_model_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_run.trainer("out", **OPTIONS).train()
    path = Path("out/checkpoint-6") / name
    if change is None:
        path.write_text("{" + " " * (path.stat().st_size - 1))
    else:
        write_progress(path.parent, {**progress_of(path.parent), **change})
    trainer = tiny_run.trainer("out", **OPTIONS)
    before = {key: value.tobytes() for key, value in trainer.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        trainer.train(resume_from_checkpoint="out/checkpoint-6")
    assert {key: value.tobytes() for key, value in trainer.model.state_dict().items()} == before


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_run.trainer("out", **OPTIONS).train()
    trainer = tiny_run.trainer("out", trained=tiny_run.model(intermediate_size=41), **OPTIONS)
    with pytest.raises(CheckpointError, match="intermediate"):
        trainer.train(resume_from_checkpoint=True)


# ---- full disks --------------------------------------------------------------------------------------------


class FullDisk:
    """Counts the calls of fsync, and fails one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.count, self.at, self.fsync = 0, at, os.fsync
        patch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        if self.count == self.at:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.fsync(descriptor)


def outcome_of(work: Callable[[], Any]) -> OSError | None:
    try:
        work()
    except OSError as error:
        return error
    return None


@pytest.mark.uninstrumented  # trains anew for each call that fails
def test_a_full_disk_leaves_the_checkpoints_before_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    with pytest.MonkeyPatch.context() as patch:
        counter = FullDisk(patch, 0)
        tiny_run.trainer("out", **options).train()
    expected, calls = tiny_run.outcome(tmp_path / "out"), counter.count
    assert calls > 20
    failed = 0
    for at in range(calls // 2, calls + 1, 2):
        shutil.rmtree("out")
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, at)
            error = outcome_of(lambda: tiny_run.trainer("out", **options).train())
        if error is not None:
            assert error.errno == errno.ENOSPC
            failed += 1
            assert [path.name for path in Path("out").iterdir() if path.is_dir()] == ["checkpoint-1"], at
            assert get_last_checkpoint("out") == "out/checkpoint-1"
            tiny_run.trainer("out", **options).train(resume_from_checkpoint=True)
        assert tiny_run.outcome(tmp_path / "out") == expected, at
    assert failed > 3


_LIMITED = """
import os, resource, sys
sys.path[:0] = sys.argv[1:3]
import tiny_run

os.chdir(sys.argv[4])
options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
trainer = tiny_run.trainer("out", **options)

class Limit(tiny_run.qdqbert.TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))

trainer.add_callback(Limit)
try:
    trainer.train()
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.uninstrumented  # starts a process for each
@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_a_file_that_may_not_grow_leaves_the_checkpoint_before_it_whole(tmp_path: Path, limit: int) -> None:
    tests = Path(__file__).parent
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", _LIMITED, str(tests), str(tests.parent), str(limit), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, _, name = done.stdout.strip().partition(" ")
    assert code == str(errno.EFBIG), done.stderr
    assert Path(name).name == "log.jsonl" or Path(name).parent.name.startswith(".checkpoint-2."), name
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["checkpoint-1"]
    assert progress_of(tmp_path / "out" / "checkpoint-1")["position"]["batch"] == 2


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("scheduler.json", lambda data: data.clear(), "does not fit this run"),
        ("progress.json", lambda data: data["position"].update(batch=-1), r"batch: expected an integer"),
        ("progress.json", lambda data: data["dropout"].update(step="2"), "dropout.step: expected"),
        ("progress.json", lambda data: data["position"].update(batch=7), r"has done 7 batches.*has 6"),
    ],
)
def test_a_checkpoint_that_does_not_fit_leaves_the_model_as_it_was(
    tmp_path: Path, file: str, change: Callable[[Any], None], message: str
) -> None:
    tiny_run.trainer(tmp_path, **OPTIONS).train()
    folder = tmp_path / "checkpoint-4"
    progress = progress_of(folder)
    data = progress if file == "progress.json" else json.loads((folder / file).read_text())
    change(data)
    if file != "progress.json":
        (folder / file).write_text(json.dumps(data))
    write_progress(folder, progress)
    trainer = tiny_run.trainer(tmp_path, **OPTIONS)
    before = {name: np.array(value) for name, value in trainer.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        trainer.train(resume_from_checkpoint=folder)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_a_bit_of_the_optimizer_that_flipped_is_named(tmp_path: Path) -> None:
    tiny_run.trainer(tmp_path, **OPTIONS).train()
    path = tmp_path / "checkpoint-4" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors: expected CRC-32"):
        tiny_run.trainer(tmp_path, **OPTIONS).train(resume_from_checkpoint=path.parent)


def test_a_place_in_the_data_that_changed_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_run.trainer(tmp_path, **OPTIONS).train()
    expected = tiny_run.outcome(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-6")
    path = tmp_path / "checkpoint-5" / "progress.json"
    assert '"batch": 4' in path.read_text()
    path.write_text(path.read_text().replace('"batch": 4', '"batch": 5'))
    tiny_run.trainer(tmp_path, **OPTIONS).train(resume_from_checkpoint=True)
    assert "passed over" in caplog.text
    assert tiny_run.outcome(tmp_path) == expected


def test_other_data_of_the_same_length_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_run.trainer(tmp_path, **OPTIONS).train()
    same = tiny_run.trainer(tmp_path, **OPTIONS)
    same.train(resume_from_checkpoint=tmp_path / "checkpoint-4")
    assert "other data" not in caplog.text
    other = tiny_run.trainer(tmp_path, **OPTIONS)
    items = list(other.train_dataset)
    other.train_dataset = [*items[:-1], {**items[-1], "input_ids": items[-1]["input_ids"][::-1]}]
    other.train(resume_from_checkpoint=tmp_path / "checkpoint-4")
    assert "resumed with other data than the run had" in caplog.text


def test_a_run_made_shorter_than_what_is_done_trains_no_further(tmp_path: Path) -> None:
    tiny_run.trainer(tmp_path, **OPTIONS).train()
    shorter = tiny_run.trainer(tmp_path, **{**OPTIONS, "max_steps": 2})
    assert shorter.train(resume_from_checkpoint=tmp_path / "checkpoint-4").global_step == 4

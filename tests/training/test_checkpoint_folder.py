# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder is whole or not there, whatever stops its writer, and wherever."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from qdqbert import CheckpointError
from qdqbert.training.checkpoint_folder import (
    PROGRESS_NAME,
    checkpoints,
    clear_leftovers,
    get_last_checkpoint,
    new_folder,
    progress_of,
    remove_folder,
    require_intact,
    write_progress,
)

pytestmark = pytest.mark.uninstrumented  # files, written and read by Python

CALLS = ("rename", "replace", "fsync", "fchmod", "open", "mkdir", "chmod", "rmdir", "unlink")


def write(path: Path, text: str = "text") -> None:
    """A checkpoint with two files."""
    with new_folder(path) as folder:
        (folder / "model.safetensors").write_text(text)
        (folder / "more").mkdir()
        (folder / "more" / "vocab.txt").write_text("words")
        write_progress(folder, {"text": text})


def write_signed(path: Path, content: Any) -> None:
    """A ``progress.json`` that says anything, with the right sum."""
    sum_of_all = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    (path / PROGRESS_NAME).write_text(json.dumps({**content, "crc32": sum_of_all}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_checkpoint_is_the_last_one(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        write(tmp_path / "run" / f"checkpoint-{step}")
    assert [path.name for path in checkpoints(tmp_path / "run")] == [f"checkpoint-{n}" for n in (9, 10, 100)]
    assert get_last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-100")


def test_there_is_no_last_checkpoint_of_a_run_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-5").write_text("a file")
    assert get_last_checkpoint(tmp_path) is None
    assert get_last_checkpoint(tmp_path / "missing") is None


def test_modes_are_those_that_open_and_mkdir_give(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-1")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "checkpoint-1").stat().st_mode == (tmp_path / "other").stat().st_mode


def write_half(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "model.safetensors").write_text("half")
        raise KeyboardInterrupt


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-1", "old")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "checkpoint-1")
    assert names(tmp_path) == ["checkpoint-1"]
    assert progress_of(tmp_path / "checkpoint-1")["text"] == "old"


def test_an_old_checkpoint_of_the_name_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-1", "old")
    (tmp_path / "checkpoint-1" / "stale").write_text("")
    write(tmp_path / "checkpoint-1", "new")
    assert progress_of(tmp_path / "checkpoint-1")["text"] == "new"
    assert names(tmp_path) == ["checkpoint-1"]
    assert names(tmp_path / "checkpoint-1") == ["model.safetensors", "more", PROGRESS_NAME]


def test_a_removed_checkpoint_is_gone(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-1")
    remove_folder(tmp_path / "checkpoint-1")
    assert not names(tmp_path)


def test_a_checkpoint_that_cannot_be_removed_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        remove_folder(tmp_path / "checkpoint-1")
    assert "checkpoint-1: cannot be deleted: No such file" in caplog.text
    assert not names(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path / "model.safetensors", 2),
        lambda path: os.unlink(path / "more" / "vocab.txt"),
        lambda path: os.unlink(path / PROGRESS_NAME),
        lambda path: os.truncate(path / PROGRESS_NAME, 9),
        lambda path: write_signed(path, {"files": [1]}),
        lambda path: write_signed(path, {"files": {"more/vocab.txt": "5"}}),
        lambda path: write_signed(path, {"files": {"more/vocab.txt": {"bytes": 5}}}),
        lambda path: (path / PROGRESS_NAME).write_text('{"files": {}, "text": "without a sum of its own"}'),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "checkpoint-1")
    write(tmp_path / "checkpoint-2")
    damage(tmp_path / "checkpoint-2")
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    assert "passed over" in caplog.text
    with pytest.raises(CheckpointError, match="checkpoint-2"):
        progress_of(tmp_path / "checkpoint-2")


def test_every_flipped_bit_of_what_is_said_of_the_run_is_found(tmp_path: Path) -> None:
    with new_folder(tmp_path / "checkpoint-1") as folder:
        write_progress(folder, {"position": {"batch": 2, "loss": 0.1, "stops": False}, "n": {7: [1, "x"]}})
    progress, path = progress_of(tmp_path / "checkpoint-1"), tmp_path / "checkpoint-1" / PROGRESS_NAME
    content, unseen = path.read_bytes(), 0
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            # Only blanks between words may change: what is read is the same.
            assert progress_of(tmp_path / "checkpoint-1") == progress, bit
            assert content[bit // 8] in b" \n", bit
            unseen += 1
        except CheckpointError:
            continue
    assert unseen < len(content)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-1")
    progress = progress_of(tmp_path / "checkpoint-1")
    require_intact(tmp_path / "checkpoint-1", progress)
    for name in progress["files"]:
        path = tmp_path / "checkpoint-1" / name
        content = path.read_bytes()
        for bit in range(8 * len(content)):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(CheckpointError, match=f"{name}: expected CRC-32 .* has changed since"):
                require_intact(tmp_path / "checkpoint-1", progress)
        path.write_bytes(content)
    require_intact(tmp_path / "checkpoint-1", progress)


def test_leftovers_of_a_living_writer_stay(tmp_path: Path) -> None:
    with new_folder(tmp_path / "checkpoint-1") as folder:
        clear_leftovers(tmp_path)
        assert folder.is_dir()
        (folder / "model.safetensors").write_text("")


def test_what_is_no_leftover_stays(tmp_path: Path) -> None:
    strange = [".checkpoint-1.new", "checkpoint-1.abcdefgh.new", ".hidden"]
    for name in strange:
        (tmp_path / name).mkdir()
    (tmp_path / "target").mkdir()
    os.symlink(tmp_path / "target", tmp_path / ".checkpoint-1.abcdefgh.new")
    clear_leftovers(tmp_path)
    assert names(tmp_path) == sorted([*strange, "target", ".checkpoint-1.abcdefgh.new"])


class Failing:
    """Counts calls of the system, and fails one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.count, self.at = 0, at
        for name in CALLS:
            patch.setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, call: Any) -> Any:
        def run(*arguments: Any, **keywords: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise OSError(28, "No space left on device")
            return call(*arguments, **keywords)

        return run


@pytest.mark.parametrize("is_there", [False, True])
def test_every_call_that_fails_leaves_the_checkpoints_that_were_there(tmp_path: Path, is_there: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        counter = Failing(patch, 0)
        write(tmp_path / "count" / "checkpoint-2")
    assert counter.count > 15
    failed = 0
    for at in range(1, counter.count + 20):
        run = tmp_path / str(at)
        write(run / "checkpoint-1", "first")
        if is_there:
            write(run / "checkpoint-2", "old")
        with pytest.MonkeyPatch.context() as patch:
            Failing(patch, at)
            try:
                write(run / "checkpoint-2", "new")
                expected = "new"
            except OSError:
                failed += 1
                expected = "old" if is_there else None
        clear_leftovers(run)
        found = {path.name: progress_of(path)["text"] for path in checkpoints(run)}
        assert found.pop("checkpoint-1") == "first"
        # A rename that was made is not undone when flushing the parent folder fails: nobody is told.
        assert found.get("checkpoint-2") in (expected, "new"), at
        assert all(name.startswith("checkpoint-") for name in names(run)), at
    assert failed > 10


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_checkpoint_folder as this

root, at = Path(sys.argv[2]), 0
while True:
    at += 1
    run = root / str(at)
    this.write(run / "checkpoint-1", "first")
    this.write(run / "checkpoint-2", "old")
    this.write(run / "checkpoint-3", "rotated")
    pid = os.fork()
    if pid == 0:
        count = 0
        def wrap(call):
            def made(*arguments, **keywords):
                global count
                count += 1
                if count == at:
                    os.kill(os.getpid(), 9)
                return call(*arguments, **keywords)
            return made
        for name in this.CALLS:
            setattr(os, name, wrap(getattr(os, name)))
        this.write(run / "checkpoint-2", "new")
        this.remove_folder(run / "checkpoint-3")
        this.write(run / "checkpoint-4", "new")
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        break
    assert status == -9, status
print(at)
"""


def test_a_process_that_is_killed_at_any_call_leaves_whole_checkpoints(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    kills = int(done.stdout)
    assert kills > 60
    second = set()
    for at in range(1, kills + 1):
        run = tmp_path / str(at)
        before = {path.name: progress_of(path)["text"] for path in checkpoints(run)}
        assert before["checkpoint-1"] == "first", at
        assert set(before.values()) <= {"first", "old", "new", "rotated"}, at
        clear_leftovers(run)
        after = {path.name: progress_of(path)["text"] for path in checkpoints(run)}
        assert after["checkpoint-2"] in ("old", "new"), at
        assert before.items() <= after.items(), at
        assert all(name.startswith("checkpoint-") for name in names(run)), at
        second.add((before.get("checkpoint-2"), after["checkpoint-2"], "checkpoint-4" in after))
        shutil.rmtree(run)
    # Each stage was met: before the change, between the two renames, after them, at the end.
    assert {
        ("old", "old", False),
        (None, "old", False),
        ("new", "new", False),
        ("new", "new", True),
    } <= second

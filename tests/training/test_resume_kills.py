# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, again and again, ends with the bits of one that never stopped.

``QDQBERT_RESUME_KILLS`` is how many kills there are; left out, a few.  Half of them come from outside at a
random time, half from inside at a random call of the system, most of which are those of a checkpoint being
written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What a kill leaves is files; what runs is the training of test_resume.py.
pytestmark = pytest.mark.uninstrumented

KILLS = int(os.environ.get("QDQBERT_RESUME_KILLS", "8"))
_PROGRAM = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import tiny_run

root, kills, seed = Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
CALLS = ("rename", "replace", "fsync", "fchmod", "open", "mkdir", "chmod", "rmdir", "unlink", "write")


def train(folder):
    os.chdir(folder)
    trainer = tiny_run.quantized("out")
    is_begun = Path("out").is_dir() and any(n.startswith("checkpoint-") for n in os.listdir("out"))
    trainer.train(resume_from_checkpoint=is_begun)
    trainer.save_model("final")
    trainer.save_state()


def count_calls(at):
    count = [0]

    def wrap(call):
        def made(*arguments, **keywords):
            count[0] += 1
            if count[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return made

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))
    return count


def attempt(folder, *, at=0, seconds=None):
    # Exit status of a child; negative if it was killed.
    folder.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        count = count_calls(at)
        try:
            train(folder)
            (root / "calls").write_text(str(count[0]))
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


begin = time.monotonic()
assert attempt(root / "whole") == 0
whole_s, calls = time.monotonic() - begin, int((root / "calls").read_text())
expected = tiny_run.outcome(root / "whole")
draw = random.Random(seed)
killed = runs = differing = 0
while killed < kills:
    folder, is_over = root / f"run-{runs}", False
    while not is_over:
        if killed >= kills:
            status = attempt(folder)
        elif draw.random() < 0.5:
            status = attempt(folder, seconds=draw.uniform(0, whole_s))
        else:
            status = attempt(folder, at=draw.randint(1, calls))
        assert status in (0, -9), (runs, killed, status)
        killed += status == -9
        is_over = status == 0
    runs += 1
    found = tiny_run.outcome(folder)
    wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    differing += len(wrong)
    if wrong:
        print(folder.name, wrong, file=sys.stderr)
print(killed, runs, differing, len(expected), calls)
"""


def test_a_run_that_was_killed_has_the_bits_of_one_that_never_stopped(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _PROGRAM]
    paths = [str(tests), str(tests.parent), str(tmp_path)]
    done = subprocess.run([*command, *paths, str(KILLS), "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed, runs, differing, files, _ = map(int, done.stdout.split())
    print(f"{killed} kills in {runs} runs of {files} files each: {differing} files differ")
    assert killed >= KILLS
    assert files > 10
    assert differing == 0, done.stderr

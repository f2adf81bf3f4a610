# SPDX-License-Identifier: Apache-2.0
"""`quantizers` and its block when signals arrive, and when other threads run forwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import StateError, rules
from qdqbert._core import Undoing
from qdqbert.rules import QuantizerState, named_quantizers

TRIALS = 200
# Each trial is interrupted once, after a time drawn from what a whole block takes.
_PROGRAM = """
import random, signal, sys, time
sys.path.insert(0, sys.argv[1])
import qdqbert, tiny_model
from qdqbert._core import STAGE_DISABLED
from qdqbert.rules import QuantizerState, named_quantizers

model = tiny_model.question_answering()
quantizers = named_quantizers(model)
state = lambda: [QuantizerState.of(quantizer) for _, quantizer in quantizers]
before = state()
rules = {"*": "off", "*.layer.0.*": {"num_bits": 4, "amax": 3.0}}

def block():
    with qdqbert.quantizers(model, rules):
        assert quantizers[-1][1]._handle.stages & STAGE_DISABLED

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
started = time.perf_counter()
for _ in range(20):
    block()
whole = (time.perf_counter() - started) / 20
draw = random.Random(int(sys.argv[2]))
kept = interrupted = 0
for _ in range(int(sys.argv[3])):
    try:
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, 1.1 * whole))
        block()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    kept += state() == before
print(kept, interrupted)
"""
# The call without a block: what was done is done, unless the caller never learns of it.
_CALL_PROGRAM = _PROGRAM.replace(
    """
        block()
""",
    """
        changes = None
        changes = qdqbert.quantizers(model, rules)
""",
).replace(
    """
    kept +=""",
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    if changes is not None:
        changes.restore()
    kept +=""",
)


def model_() -> Any:
    return tiny_model.question_answering()


def states(model: Any) -> dict[str, QuantizerState]:
    return {name: QuantizerState.of(quantizer) for name, quantizer in named_quantizers(model)}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signal.setitimer: this system has none")
@pytest.mark.parametrize("program", [_PROGRAM, _CALL_PROGRAM], ids=["a block", "a call"])
def test_an_interrupt_at_any_moment_leaves_nothing_switched(program: str) -> None:
    folder = os.path.dirname(tiny_model.__file__)
    command = [sys.executable, "-c", program, folder, "3", str(TRIALS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    kept, interrupted = map(int, done.stdout.split())
    assert kept == TRIALS
    assert interrupted >= TRIALS // 10


class Interrupted(Undoing):
    """Interrupted in the middle of its work, as often as asked for."""

    def __init__(self, exceptions: list[BaseException]) -> None:
        self.exceptions = exceptions
        self.undone = 0

    def undo(self) -> None:
        if self.exceptions:
            raise self.exceptions.pop(0)
        self.undone += 1


def test_what_was_interrupted_is_undone_and_the_first_interrupt_goes_on() -> None:
    first = KeyboardInterrupt("first")
    undoing = Interrupted([first, SystemExit(3), KeyboardInterrupt("last")])
    with pytest.raises(KeyboardInterrupt) as caught, undoing as entered:
        assert entered is undoing
    assert caught.value is first
    assert undoing.undone == 1


def test_what_undo_says_itself_goes_on_at_once() -> None:
    undoing = Interrupted([KeyboardInterrupt(), StateError("not now")])
    with pytest.raises(StateError, match="not now"), undoing:
        pass
    assert undoing.undone == 0


def test_an_exception_of_the_block_is_kept_when_all_was_undone() -> None:
    undoing = Interrupted([])
    with pytest.raises(ZeroDivisionError), undoing:
        raise ZeroDivisionError
    assert undoing.undone == 1


def test_the_end_of_a_block_waits_for_forwards_of_other_threads() -> None:
    model = model_()
    before, batch = states(model), tiny_model.batch(rows=4, length=32)
    stop, running = threading.Event(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                model(**batch)
            except StateError:  # just then the block ended
                continue
            running.set()

    thread = threading.Thread(target=work)
    try:
        for _ in range(10):
            with qdqbert.quantizers(model, {"*": "off"}):
                if not thread.is_alive() and not stop.is_set():
                    thread.start()
                running.clear()
                assert running.wait(30)
            assert states(model) == before
            stop.set()
            thread.join()
            stop.clear()
            thread = threading.Thread(target=work)
    finally:
        stop.set()


def test_a_block_that_is_never_left_alone_says_so_and_can_be_restored_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_()
    before = states(model)
    monkeypatch.setattr(rules, "_PATIENCE", 0.05)
    changes = qdqbert.quantizers(model, {"*": "off"})
    restore = changes.restore

    def busy() -> None:
        raise StateError("the model runs a forward")

    changes.restore = busy  # type: ignore[method-assign]
    started = time.monotonic()
    message = r"no moment in 0\.05 s to restore 40 quantizers; `restore` does"
    with pytest.raises(StateError, match=message), changes:
        pass
    assert time.monotonic() - started >= 0.05
    assert states(model) != before
    restore()
    assert states(model) == before
    np.testing.assert_array_equal(model([[1, 2]]).start_logits, model_()([[1, 2]]).start_logits)

# SPDX-License-Identifier: Apache-2.0
"""Children forked while other threads are inside; each program forks many times, for chance decides."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from qdqbert.forks import ForkLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork: this system has none")

FORKS = 40

# AddressSanitizer's allocator takes no care of forks: a child hangs in a lock of it that a thread held.
with_allocating_threads = pytest.mark.uninstrumented
_PROGRAM = """
import os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads is the point
{setup}

def work():
    while not stopped:
        {work}

stopped = []
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
statuses = []
for _ in range({forks}):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that hangs, with a status that is not 0
        {work}
        os._exit(0)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if statuses[-1]:
        break
stopped.append(True)
for thread in threads:
    thread.join()
print(statuses.count(0))
"""


def children_that_ended(setup: str, work: str) -> int:
    program = _PROGRAM.format(setup=setup, work=work, forks=FORKS)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    return int(done.stdout)


@with_allocating_threads
def test_a_child_tokenizes_whatever_the_parents_threads_did() -> None:
    setup = (
        "from qdqbert.cli.demo import bundled_folder\n"
        "from qdqbert.tokenization import BertTokenizerFast\n"
        "tokenizer = BertTokenizerFast.from_pretrained(bundled_folder())\n"
        "texts = ['What is the largest island of the world, and who lives there?'] * 64\n"
    )
    assert children_that_ended(setup, "tokenizer(texts, padding=True)") == FORKS


@with_allocating_threads
def test_a_child_trains_whatever_the_parents_threads_did() -> None:
    setup = (
        "import qdqbert\n"
        "own = threading.local()\n"
        "def step():\n"
        "    if not hasattr(own, 'model'):\n"
        "        config = qdqbert.QDQBertConfig(vocab_size=30, hidden_size=8, num_attention_heads=2,\n"
        "                                       intermediate_size=9, num_hidden_layers=1)\n"
        "        own.model = qdqbert.QDQBertForSequenceClassification(config).train()\n"
        "        own.optimizer = qdqbert.optim.AdamW(own.model.parameters())\n"
        "    own.model([[5, 6, 7]], labels=[1]).loss.backward()\n"
        "    own.optimizer.step()\n"
        "    own.optimizer.zero_grad()\n"
        "step()\n"
    )
    assert children_that_ended(setup, "step()") == FORKS


_TRAINED = """
import qdqbert
config = qdqbert.QDQBertConfig(vocab_size=30, hidden_size=96, num_attention_heads=2,
                               intermediate_size=200, num_hidden_layers=3)
model = qdqbert.QDQBertForSequenceClassification(config).train()
optimizer = qdqbert.optim.SGD(model.parameters(), lr=1e-6)
process = os.getpid()
taken = threading.Lock()

def step():
    if os.getpid() != process:
        use_the_model()
        return
    with taken:
        model([[5, 6, 7]], labels=[1]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

def use_the_model():
    try:
        model.eval()([[5, 6, 7]])
    except qdqbert.StateError as error:
        assert "forked while a thread changed the model" in str(error), error
    qdqbert.set_num_threads(1 + qdqbert.get_num_threads() % 2)
"""


@with_allocating_threads
def test_a_child_has_the_model_that_the_parents_threads_train() -> None:
    assert children_that_ended(_TRAINED, "step()") == FORKS


def test_a_child_takes_a_lock_that_the_parents_threads_take_all_the_time() -> None:
    setup = "import time\nfrom qdqbert.forks import ForkLock\nlock = ForkLock()\n"
    assert children_that_ended(setup, "with lock: time.sleep(0.001)") == FORKS


def test_a_fork_inside_a_lock_of_its_own_thread_does_not_wait_for_itself() -> None:
    lock = ForkLock()
    with lock:
        child = os.fork()
        if child == 0:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with lock:
        pass


def test_one_thread_at_a_time_is_inside() -> None:
    lock, inside, seen = ForkLock(), [], []

    def enter() -> None:
        for _ in range(200):
            with lock:
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}

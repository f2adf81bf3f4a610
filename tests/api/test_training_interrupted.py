# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C at any moment of a forward and backward: what was there goes on with the same bits."""

from __future__ import annotations

import signal
import threading
from typing import Any

import numpy as np
import pytest

import tiny_model

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="signal.setitimer: not on this system"
)

LABELS = {"start_positions": np.arange(8), "end_positions": np.arange(8) + 3}
DELAYS = [0.0005 * 1.35**power for power in range(24)]  # seconds, 0.5 ms to half a second


def step(model: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of one forward and backward."""
    model.zero_grad()
    model.dropout_step = 0
    loss = model(**tiny_model.batch(8, 30), **LABELS).loss
    loss.backward()
    return float(loss), {name: np.array(p.grad) for name, p in model.named_parameters()}


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread"
)
def test_an_interrupted_step_leaves_the_model_as_it_was() -> None:
    model = tiny_model.question_answering(
        hidden_size=96, num_attention_heads=3, intermediate_size=192, num_hidden_layers=6
    ).train()
    loss, expected = step(model)
    held = model.device.memory_statistics()["live_bytes"]
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupted = 0
    try:
        for delay in DELAYS:
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)  # which goes off once, in here
                step(model)
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)

    assert interrupted > 3
    again, found = step(model)
    assert again == loss
    for name, gradient in found.items():
        np.testing.assert_array_equal(gradient, expected[name], err_msg=name)
    assert model.device.memory_statistics()["live_bytes"] == held

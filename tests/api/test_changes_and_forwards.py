# SPDX-License-Identifier: Apache-2.0
"""A change of many tensors while another thread runs forwards: whole or refused, never in part."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import StateError
from qdqbert.calib import calibrate_weights
from qdqbert.optim.helper import quant_weight_inplace

TURNS = 20


def calibrated(seed: int, method: str = "max") -> tuple[Any, qdqbert.Calibration]:
    model = tiny_model.question_answering(seed)
    calibration = qdqbert.calibrate(model, [tiny_model.batch(seed=seed)], method=method)
    return model, calibration


def answer(model: Any) -> bytes:
    out = model(**tiny_model.batch())
    return bytes(out.start_logits.tobytes() + out.end_logits.tobytes())


@contextlib.contextmanager
def answering(model: Any) -> Iterator[list[bytes]]:
    """Forwards in another thread, and what they answered."""
    answers: list[bytes] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                answers.append(answer(model))
            except StateError:
                pass
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()
    assert not failures


def alternate(model: Any, changes: list[Callable[[], object]]) -> None:
    """Make the changes in turn while forwards run; every answer is that of one of them."""
    allowed = []
    for change in changes:
        change()
        allowed.append(answer(model))
    assert len(set(allowed)) == len(changes)
    now = allowed[-1]
    with answering(model) as answers:
        done = [0] * len(changes)
        for turn in range(500 * TURNS):
            which = turn % len(changes)
            try:
                changes[which]()
            except StateError:
                pass  # a forward ran: nothing may have changed, which the answers below show
            else:
                done[which] += 1
                now = allowed[which]
            if min(done) >= TURNS and len(answers) >= TURNS:
                break
            if turn % 3 == 0:  # forwards are refused as long as changes follow each other
                time.sleep(0.001)
    assert min(done) > 0
    assert set(answers) <= set(allowed)
    assert answer(model) == now


def test_a_state_dict_is_loaded_whole_or_not_at_all() -> None:
    model, _ = calibrated(0)
    states = [{k: np.array(v) for k, v in calibrated(seed)[0].state_dict().items()} for seed in (1, 2)]
    alternate(model, [lambda state=state: model.load_state_dict(state) for state in states])  # type: ignore[misc]


def test_a_calibration_is_applied_whole_or_not_at_all() -> None:
    model, calibration = calibrated(0, "percentile")
    alternate(
        model,
        [lambda: calibration.apply("percentile", percentile=60.0), lambda: calibration.apply("max")],
    )


def test_rules_switch_all_or_nothing() -> None:
    model, _ = calibrated(0)
    alternate(
        model,
        [lambda: qdqbert.quantizers(model, {"*": "off"}), lambda: qdqbert.quantizers(model, {"*": "on"})],
    )


def test_fresh_weights_come_all_at_once() -> None:
    model, _ = calibrated(0)
    alternate(model, [lambda: model.init_weights(1), lambda: model.init_weights(2)])


@pytest.mark.parametrize("part", ["bert.encoder.layer.1", "bert.encoder.layer.0.attention.self.query"])
def test_a_part_of_the_model_is_loaded_whole_or_not_at_all(part: str) -> None:
    model, _ = calibrated(0)
    module = dict(model.named_modules())[part]
    states = [
        {k: np.array(v) for k, v in dict(calibrated(seed)[0].named_modules())[part].state_dict().items()}
        for seed in (1, 2)
    ]
    alternate(model, [lambda state=state: module.load_state_dict(state) for state in states])  # type: ignore[misc]


def test_ranges_of_weights_are_set_all_at_once() -> None:
    model, _ = calibrated(0)
    alternate(
        model,
        [lambda: calibrate_weights(model, "max"), lambda: calibrate_weights(model, percentile=60.0)],
    )


def test_a_range_that_keeps_its_shape_keeps_those_of_the_other_weights() -> None:
    model = tiny_model.question_answering()
    calibrate_weights(model, "max")
    last = model.bert.encoder.layer[1].output.dense.weight_quantizer
    last._amax = np.float32(0.5)
    before = {name: np.array(value) for name, value in model.named_buffers()}
    with pytest.raises(StateError, match=r"layer\.1\.output\.dense.*expected \(\), got \(24, 1\)"):
        calibrate_weights(model, percentile=60.0)
    assert {name: value.tobytes() for name, value in model.named_buffers()} == {
        name: value.tobytes() for name, value in before.items()
    }


def test_no_forward_sees_some_weights_quantized_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    # Quantizing a quantized weight changes nothing, so that answers could not tell.
    model, _ = calibrated(0)
    refused = []
    write = qdqbert.nn.QuantLinear._assign

    def write_and_look(self: Any, name: str, value: Any) -> None:
        write(self, name, value)
        with pytest.raises(StateError):
            answer(model)
        refused.append(name)

    monkeypatch.setattr(qdqbert.nn.QuantLinear, "_assign", write_and_look)
    quant_weight_inplace(model)
    assert refused == ["weight"] * 12

# SPDX-License-Identifier: Apache-2.0
"""Device, Model and Session of the extension: ownership, references, threads, signals, wrong arguments."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qdqbert import _core
from qdqbert.errors import ShapeError, StateError

OPTIONS: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 12,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_size": 17,
    "max_positions": 16,
    "type_vocab_size": 2,
    "num_labels": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "add_pooling_layer": True,
    "head": "question_answering",
    "input_quantizer": {},
    "weight_quantizer": {"axis": (0,)},
}
LOGITS = _core.OUTPUT_LOGITS
ALL_INPUTS = 6


@pytest.fixture(scope="module")
def device() -> _core.Device:
    return _core.Device(num_threads=2)


def make_model(device: _core.Device, **changes: Any) -> _core.Model:
    model = _core.Model(device, **{**OPTIONS, **changes})
    rng = np.random.default_rng(0)
    for index, (_, view) in enumerate(model.parameters()):
        model.parameter_write(index)[...] = rng.standard_normal(view.shape) * 0.2
    return model


def make_session(model: _core.Model, sequences: int = 4, length: int = 16) -> _core.Session:
    return _core.Session(model, max_sequences=sequences, max_length=length, keep_probabilities=True)


def forward(session: _core.Session, ids: Any, outputs: int = LOGITS, **inputs: Any) -> Any:
    names = ("inputs_embeds", "attention_mask", "token_type_ids", "position_ids", "head_mask")
    later = (
        "past_keys",
        "past_values",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "cross_keys",
        "cross_values",
    )
    return session.forward(
        ids,
        *(inputs.get(name) for name in names),
        False,
        inputs.get("is_causal", False),
        *(inputs.get(name) for name in later),
        outputs,
    )


IDS = np.array([[1, 5, 7, 2], [1, 9, 2, 0]])


# ---- references -------------------------------------------------------------------------------------


def good_calls(device: _core.Device) -> dict[str, Callable[[], Any]]:
    model = make_model(device)
    session = make_session(model)
    logits, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)
    forward(session, IDS)

    def set_threads() -> None:
        device.num_threads = 2

    return {
        "Device": lambda: _core.Device("ref", 1),
        "Device.kernels": device.kernels,
        "Device.memory_statistics": device.memory_statistics,
        "Device.num_threads": set_threads,
        "variants": _core.variants,
        "Model": lambda: _core.Model(device, **OPTIONS),
        "Model.parameters": model.parameters,
        "Model.parameter_write": lambda: model.parameter_write(3),
        "Model.quantizers": model.quantizers,
        "Model.sites": model.sites,
        "Model.needs_probabilities": model.needs_probabilities,
        "Session": lambda: make_session(model),
        "Session.forward": lambda: forward(session, IDS, attention_mask=np.ones_like(IDS)),
        "cross_entropy": lambda: _core.cross_entropy(device, logits, labels, -100, 0.0),
        "mean_squared_error": lambda: _core.mean_squared_error(logits, logits),
        "binary_cross_entropy": lambda: _core.binary_cross_entropy(logits, logits),
    }


def bad_calls(device: _core.Device) -> dict[str, Callable[[], Any]]:
    model = make_model(device)
    session = make_session(model)
    logits, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)

    def set_threads() -> None:
        device.num_threads = -1

    def delete_threads() -> None:
        del device.num_threads

    return {
        "Device isa": lambda: _core.Device("abacus"),
        "Device threads": lambda: _core.Device(None, 5000),
        "Device argument": lambda: _core.Device(3),  # type: ignore[arg-type]
        "num_threads": set_threads,
        "delete num_threads": delete_threads,
        "Model device": lambda: _core.Model(model, **OPTIONS),  # type: ignore[arg-type]
        "Model head": lambda: make_model(device, head="two"),
        "Model size": lambda: make_model(device, hidden_size=13),
        "Model option": lambda: make_model(device, weight_quantizer={"bits": 8}),
        "Model bits": lambda: make_model(device, input_quantizer={"num_bits": 99}),
        "Model missing": lambda: _core.Model(device),  # type: ignore[call-arg]
        "parameter_write index": lambda: model.parameter_write(10_000),
        "parameter_write type": lambda: model.parameter_write("a"),  # type: ignore[arg-type]
        "Session model": lambda: make_session(device),  # type: ignore[arg-type]
        "Session length": lambda: make_session(model, length=17),
        "Session none": lambda: make_session(model, sequences=0),
        "forward dtype": lambda: forward(session, IDS.astype(np.int32)),
        "forward no buffer": lambda: forward(session, 3),
        "forward strided": lambda: forward(session, IDS[:, ::2]),
        "forward rank": lambda: forward(session, IDS[0]),
        "forward none": lambda: forward(session, None),
        "forward range": lambda: forward(session, IDS * 31),
        "forward limits": lambda: forward(session, np.ones((5, 2), np.int64)),
        "forward mask": lambda: forward(session, IDS, attention_mask=np.ones((2, 5), np.int64)),
        "forward output": lambda: forward(session, IDS, _core.OUTPUT_POOLER_OUTPUT),
        "forward count": lambda: session.forward(IDS),  # type: ignore[call-arg]
        "cross_entropy count": lambda: _core.cross_entropy(device, logits, labels),  # type: ignore[call-arg]
        "cross_entropy shape": lambda: _core.cross_entropy(device, logits, labels[:2], -100, 0.0),
        "cross_entropy label": lambda: _core.cross_entropy(device, logits, labels + 2, -100, 0.0),
        "mean_squared_error shape": lambda: _core.mean_squared_error(logits, logits[:2]),
    }


def references() -> int:
    gc.collect()
    shared = (None, True, False, *(IDS, np.float32, np.int64, OPTIONS))
    return sum(sys.getrefcount(item) for item in shared)


@pytest.mark.parametrize("entry", sorted(good_calls(_core.Device("ref", 1))))
def test_a_thousand_good_calls_leave_no_reference(entry: str, device: _core.Device) -> None:
    call = good_calls(device)[entry]
    call()
    before, blocks = references(), device.memory_statistics()["live_blocks"]
    objects, allocated = len(gc.get_objects()), sys.getallocatedblocks()
    for _ in range(1000):
        call()
    assert abs(references() - before) < 10
    assert len(gc.get_objects()) - objects < 10
    assert sys.getallocatedblocks() - allocated < 100  # what the collector does not know: arrays
    assert device.memory_statistics()["live_blocks"] == blocks


@pytest.mark.parametrize("entry", sorted(bad_calls(_core.Device("ref", 1))))
def test_a_thousand_failing_calls_leave_no_reference(entry: str, device: _core.Device) -> None:
    call = bad_calls(device)[entry]
    expected = (TypeError, ValueError, IndexError, AttributeError, StateError)
    with pytest.raises(expected):
        call()
    before, blocks = references(), device.memory_statistics()["live_blocks"]
    objects, allocated = len(gc.get_objects()), sys.getallocatedblocks()
    for _ in range(1000):
        with contextlib.suppress(*expected):
            call()
    assert abs(references() - before) < 10
    assert len(gc.get_objects()) - objects < 10
    assert sys.getallocatedblocks() - allocated < 100  # what the collector does not know: arrays
    assert device.memory_statistics()["live_blocks"] == blocks


# ---- ownership --------------------------------------------------------------------------------------


def test_children_hold_their_parents_alive() -> None:
    device = _core.Device("ref", 1)
    model = make_model(device)
    session = make_session(model)
    expected = forward(session, IDS)[2]
    view = model.parameters()[4][1]
    quantizer = model.quantizers()[0][1]
    copy = view.copy()
    del model, device
    gc.collect()
    np.testing.assert_array_equal(forward(session, IDS)[2], expected)
    np.testing.assert_array_equal(view, copy)
    quantizer.set_amax(np.array(2.0, np.float32))
    assert float(quantizer.amax()) == 2.0
    del session
    gc.collect()
    np.testing.assert_array_equal(view, copy)


def test_the_last_reference_gives_all_memory_back() -> None:
    device = _core.Device("ref", 1)
    before = device.memory_statistics()["live_bytes"]
    model = make_model(device)
    session = make_session(model)
    forward(session, IDS)
    view = model.parameters()[0][1]
    del model, session
    gc.collect()
    assert device.memory_statistics()["live_bytes"] > before
    del view
    gc.collect()
    assert device.memory_statistics()["live_bytes"] == before


def test_views_share_the_block_and_refuse_writing(device: _core.Device) -> None:
    model = make_model(device)
    views = dict(model.parameters())
    name = "bert.embeddings.word_embeddings.weight"
    index = list(views).index(name)
    assert not views[name].flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        views[name].flags.writeable = True
    assert all(view.ctypes.data % 64 == 0 for view in views.values())
    model.parameter_write(index)[3, 4] = 42.0
    assert views[name][3, 4] == 42.0


def test_outputs_are_what_was_asked_for(device: _core.Device) -> None:
    session = make_session(make_model(device, head="sequence_classification", num_labels=5))
    wanted = _core.OUTPUT_LOGITS | _core.OUTPUT_POOLER_OUTPUT | _core.OUTPUT_HIDDEN_STATES
    last, pooled, logits, states, attentions, *_ = forward(session, IDS, wanted)
    assert last is None
    assert attentions is None
    assert (pooled.shape, logits.shape) == ((2, 12), (2, 5))
    assert [state.shape for state in states] == [(2, 4, 12)] * 3


# ---- buffers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (IDS.astype(np.int32), TypeError, "input_ids: expected int64, got buffer format 'i'"),
        (IDS.astype(np.uint64), TypeError, "input_ids: expected int64, got buffer format 'L'"),
        (IDS.astype(">i8"), TypeError, "input_ids: expected int64, got buffer format"),
        (IDS.astype(float), TypeError, "input_ids: expected int64, got buffer format 'd'"),
        (IDS.T, TypeError, "input_ids: expected a C-contiguous buffer of int64, got numpy.ndarray"),
        ([[1, 2]], TypeError, "input_ids: expected a C-contiguous buffer of int64, got list"),
        (b"12345678", TypeError, "input_ids: expected int64, got buffer format 'B'"),
        (np.zeros((1,) * 9, np.int64), ShapeError, "input_ids: expected at most 8 dimensions, got 9"),
        (np.zeros((2, 0), np.int64), ShapeError, r"input_ids: .*got \(2, 0\)"),
        (np.int64(3), ShapeError, r"input_ids: expected \(batch, length\), got \(\)"),
    ],
)
def test_buffers_of_another_kind_are_refused_by_name(
    value: Any, kind: type[Exception], message: str, device: _core.Device
) -> None:
    with pytest.raises(kind, match=message):
        forward(make_session(make_model(device)), value)


def test_memory_that_is_not_aligned_is_refused(device: _core.Device) -> None:
    raw = bytearray(9)
    offset = int(np.frombuffer(raw, np.uint8).ctypes.data % 8 == 0)
    ids = np.frombuffer(raw, np.int64, 1, offset=offset)
    if ids.ctypes.data % 8 == 0:
        pytest.skip("the allocator gave memory on an odd address")
    with pytest.raises(TypeError, match="aligned to 8 bytes"):
        forward(make_session(make_model(device)), ids.reshape(1, 1))


def test_buffers_are_given_back_after_good_and_bad_calls(device: _core.Device) -> None:
    session = make_session(make_model(device))
    for ids in (bytearray(IDS.tobytes()), bytearray((IDS * 99).tobytes())):
        view = memoryview(ids).cast("q", IDS.shape)
        with contextlib.suppress(IndexError):
            forward(session, view)
        view.release()
        ids.extend(b"more")  # refused while a buffer is exported


# ---- threads and signals ----------------------------------------------------------------------------


LARGE = {
    "hidden_size": 384,
    "num_heads": 6,
    "intermediate_size": 1536,
    "max_positions": 512,
    "num_layers": 2,
}


def long_session() -> tuple[_core.Session, np.ndarray]:
    """A call of a few tenths of a second."""
    model = make_model(_core.Device(num_threads=1), **LARGE)
    return make_session(model, 3, 512), np.ones((3, 512), np.int64)


def test_other_threads_run_python_during_a_call() -> None:
    session, ids = long_session()
    forward(session, ids)
    ticks: list[float] = []
    begun, ended = threading.Event(), threading.Event()

    def tick() -> None:
        begun.wait()
        while not ended.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begun.set()
    start = time.monotonic()
    forward(session, ids)
    stop = time.monotonic()
    ended.set()
    thread.join()
    assert sum(start < moment < stop for moment in ticks) >= 3


def test_a_second_thread_is_refused_and_the_first_goes_on() -> None:
    session, ids = long_session()
    expected = forward(session, ids)[2]
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(forward(session, ids)[2]))
    refused: list[str] = []
    thread.start()
    while thread.is_alive():
        try:
            forward(session, IDS)
        except StateError as error:
            refused.append(str(error))
    thread.join()
    assert set(refused) == {"session is in use by another thread"}
    np.testing.assert_array_equal(results[0], expected)


class Pressed(Exception):
    pass


def test_a_signal_stops_a_call_with_the_handlers_exception() -> None:
    session, ids = long_session()
    expected = forward(session, ids)[2]

    def handler(number: int, frame: object) -> None:
        raise Pressed

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with pytest.raises(Pressed):
            forward(session, ids)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    np.testing.assert_array_equal(forward(session, ids)[2], expected)


def test_a_handler_that_returns_lets_the_call_go_on() -> None:
    session, ids = long_session()
    expected = forward(session, ids)[2]
    calls: list[int] = []
    old = signal.signal(signal.SIGALRM, lambda number, frame: calls.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        got = forward(session, ids)[2]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert calls
    np.testing.assert_array_equal(got, expected)


def test_an_interrupted_collection_leaves_the_statistics_as_they_were() -> None:
    device = _core.Device(num_threads=1)
    model = make_model(device, **LARGE)
    observers = []
    for _, quantizer in model.quantizers():
        observers.append(_core.Observer(device, "histogram"))
        quantizer.set_observer(observers[-1])
        quantizer.stages = _core.STAGE_CALIB
    session = _core.Session(model, max_sequences=3, max_length=512, keep_probabilities=True)
    forward(session, np.ones((1, 8), np.int64))
    before = [observer.histogram() for observer in observers]

    def handler(number: int, frame: object) -> None:
        raise Pressed

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.06)
        with pytest.raises(Pressed):
            forward(session, np.ones((3, 512), np.int64))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    for observer, (counts, edges) in zip(observers, before, strict=True):
        np.testing.assert_array_equal(observer.histogram()[0], counts)
        np.testing.assert_array_equal(observer.histogram()[1], edges)


def test_a_tiny_switch_interval_breaks_nothing(device: _core.Device) -> None:
    model = make_model(device)
    expected = forward(make_session(model), IDS)[2]
    wrong: list[object] = []

    def run() -> None:
        session = make_session(model)
        for _ in range(100):
            if not np.array_equal(forward(session, IDS)[2], expected):
                wrong.append("bits")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


# ---- device -----------------------------------------------------------------------------------------


def test_kernels_and_variants() -> None:
    names = [name for name, _ in _core.variants()]
    assert names[0] == "ref"
    device = _core.Device("ref", 1)
    kernels = dict(device.kernels())
    assert len(kernels) > 10
    assert set(kernels.values()) == {"ref"}
    assert repr(device) == "Device(isa='ref', num_threads=1)"


@pytest.mark.parametrize("value", [-1, 1025, 2**40, 2**70])
def test_thread_counts_that_cannot_be_are_refused(value: int) -> None:
    device = _core.Device("ref", 1)
    with pytest.raises(ValueError, match="1024"):
        device.num_threads = value
    assert device.num_threads == 1

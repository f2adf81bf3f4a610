# SPDX-License-Identifier: Apache-2.0
"""The extension's Quantizer, Observer and tensor functions: ownership, references, threads, wrong
arguments."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qdqbert import _core
from qdqbert.errors import ShapeError, StateError, UnsupportedError


@pytest.fixture(scope="module")
def device() -> _core.Device:
    return _core.Device(num_threads=2)


X = np.linspace(-2, 2, 35, dtype=np.float32)
ONE = np.float32(1).reshape(())


def observer_with_data(device: _core.Device, kind: str = "histogram") -> _core.Observer:
    observer = _core.Observer(device, kind)
    observer.collect(X)
    return observer


# ---- references --------------------------------------------------------------------------------------------


def entry_points(device: _core.Device) -> dict[str, Callable[[], Any]]:
    """One good call of every entry point."""
    quantizer, weight_quantizer = _core.Quantizer(device), _core.Quantizer(device)
    histogram, maximum = observer_with_data(device), observer_with_data(device, "max")
    tracking = _core.Observer(device, "max", track_amax=True)
    tracking.collect(X)
    counts, edges = histogram.histogram()
    grown = _core.Observer(device, "histogram", num_bins=5, rule="from_min")
    for factor in (1, 3):
        grown.collect(X * np.float32(factor))
    fine = grown.fine_edges()
    assert fine is not None
    weight = np.ones((3, 35), np.float32)
    return {
        "Quantizer": lambda: _core.Quantizer(device, {"num_bits": (4, 3), "axis": (0,)}),
        "options": quantizer.options,
        "set_options": lambda: quantizer.set_options({"num_bits": 8, "scale_amax": None, "axis": None}),
        "stages": lambda: setattr(quantizer, "stages", quantizer.stages),
        "set_amax": lambda: quantizer.set_amax(ONE),
        "amax": quantizer.amax,
        "set_clip": lambda: quantizer.set_clip(-1.0, 1.0),
        "clip of a quantizer": quantizer.clip,
        "set_pre_quant_scale": lambda: quantizer.set_pre_quant_scale(None),
        "pre_quant_scale": quantizer.pre_quant_scale,
        "set_observer": lambda: quantizer.set_observer(maximum),
        "forward": lambda: quantizer.forward(X),
        "Observer": lambda: _core.Observer(device, "histogram", num_bins=5, rule="fixed", fixed_max=2.0),
        "collect": lambda: maximum.collect(X),
        "merge": lambda: maximum.merge(tracking),
        "kind": lambda: (maximum.kind, maximum.has_data),
        "amax of an observer": maximum.amax,
        "set_amax of an observer": lambda: maximum.set_amax(ONE),
        "tracked": tracking.tracked,
        "histogram": histogram.histogram,
        "set_histogram": lambda: histogram.set_histogram(counts, edges),
        "fine_edges": grown.fine_edges,
        "set_fine_edges": lambda: grown.set_fine_edges(fine),
        "copies of a device": lambda: (device.__copy__(), device.__deepcopy__({})),
        "reset": _core.Observer(device, "max").reset,
        "tensor_quant": lambda: _core.tensor_quant(device, X, ONE, 8, False, True),
        "fake_tensor_quant": lambda: _core.fake_tensor_quant(device, X, ONE, 8, False, True),
        "tensor_quant_grad": lambda: _core.tensor_quant_grad(device, X, ONE, X),
        "scaled_e4m3": lambda: _core.scaled_e4m3(device, X, None),
        "fake_affine": lambda: _core.fake_affine(device, X, -1.0, 1.0, 8),
        "clip": lambda: _core.clip(device, X, -ONE, ONE),
        "clip_grad": lambda: _core.clip_grad(device, X, -ONE, ONE, X),
        "reduce_amax": lambda: _core.reduce_amax(device, X, (0,)),
        "quant_linear": lambda: _core.quant_linear(
            device, quantizer, weight_quantizer, X[None], weight, weight[:, 0].copy()
        ),
        "amax_percentile": lambda: _core.amax_percentile(counts, edges, 99.0),
        "amax_mse": lambda: _core.amax_mse(device, counts, edges, 8, False, 64, 128),
        "amax_entropy": lambda: _core.amax_entropy(device, counts, edges, 8, False, 64, 128),
    }


def failing_calls(device: _core.Device) -> dict[str, tuple[type[Exception], Callable[[], Any]]]:
    """One wrong call of every entry point that takes an argument."""
    quantizer, weight_quantizer = _core.Quantizer(device), _core.Quantizer(device)
    histogram, maximum = observer_with_data(device), observer_with_data(device, "max")
    counts, edges = histogram.histogram()
    wide, bad = X.astype(np.float64), np.full(3, np.nan, np.float32)
    rows = np.ones((2, 3), np.float32)
    pair = np.ones(2, np.float32)
    linear = (device, quantizer, weight_quantizer)
    anything: Any = object()
    return {
        "Quantizer device": (TypeError, lambda: _core.Quantizer(anything)),
        "Quantizer options": (TypeError, lambda: _core.Quantizer(device, {"bits": 8})),
        "Quantizer value": (ValueError, lambda: _core.Quantizer(device, {"num_bits": 99})),
        "set_options": (TypeError, lambda: quantizer.set_options({"axis": [0]})),
        "stages": (ValueError, lambda: setattr(quantizer, "stages", 16)),
        "set_amax type": (TypeError, lambda: quantizer.set_amax(wide)),
        "set_amax value": (ValueError, lambda: quantizer.set_amax(-ONE)),
        "set_clip": (TypeError, lambda: quantizer.set_clip("a", 1.0)),  # type: ignore[arg-type]
        "set_pre_quant_scale": (TypeError, lambda: quantizer.set_pre_quant_scale(anything)),
        "set_observer": (TypeError, lambda: quantizer.set_observer(anything)),
        "forward": (TypeError, lambda: quantizer.forward(wide)),
        "Observer kind": (ValueError, lambda: _core.Observer(device, "mean")),
        "Observer rule": (ValueError, lambda: _core.Observer(device, "histogram", rule="x")),
        "Observer axis": (TypeError, lambda: _core.Observer(device, "max", axis=0)),  # type: ignore[arg-type]
        "collect": (ValueError, lambda: maximum.collect(bad)),
        "merge": (TypeError, lambda: maximum.merge(anything)),
        "amax before any data": (StateError, _core.Observer(device, "max").amax),
        "histogram of a max": (StateError, maximum.histogram),
        "fine_edges of a max": (StateError, maximum.fine_edges),
        "fine_edges before any data": (StateError, _core.Observer(device, "histogram").fine_edges),
        "set_fine_edges type": (TypeError, lambda: histogram.set_fine_edges(edges)),
        "set_fine_edges shape": (ShapeError, lambda: histogram.set_fine_edges(np.ones((2, 2)))),
        "set_fine_edges of another rule": (StateError, lambda: histogram.set_fine_edges(np.ones(9))),
        "set_fine_edges of a max": (StateError, lambda: maximum.set_fine_edges(np.ones(9))),
        "set_histogram": (ShapeError, lambda: histogram.set_histogram(counts, edges[1:].copy())),
        "tensor_quant": (ValueError, lambda: _core.tensor_quant(device, X, -ONE, 8, False, True)),
        "fake_tensor_quant": (
            ShapeError,
            lambda: _core.fake_tensor_quant(device, rows, pair, 8, False, True),
        ),
        "tensor_quant_grad": (ShapeError, lambda: _core.tensor_quant_grad(device, X, ONE, rows)),
        "scaled_e4m3": (ShapeError, lambda: _core.scaled_e4m3(device, rows, pair)),
        "fake_affine": (ValueError, lambda: _core.fake_affine(device, X, 0.0, 1.0, 0)),
        "clip": (ShapeError, lambda: _core.clip(device, rows, pair, ONE)),
        "clip_grad": (
            ValueError,
            lambda: _core.clip_grad(device, rows, np.ones((2, 1), np.float32), ONE, rows),
        ),
        "reduce_amax": (IndexError, lambda: _core.reduce_amax(device, X, (1,))),
        "quant_linear input": (ShapeError, lambda: _core.quant_linear(*linear, X, rows, None)),
        "quant_linear weight": (ShapeError, lambda: _core.quant_linear(*linear, X, X, None)),
        "quant_linear bias": (ShapeError, lambda: _core.quant_linear(*linear, rows, rows, X)),
        "quant_linear quantizer": (
            TypeError,
            lambda: _core.quant_linear(device, anything, weight_quantizer, rows, rows, None),
        ),
        "amax_percentile": (ValueError, lambda: _core.amax_percentile(counts, edges, 101.0)),
        "amax_mse": (ShapeError, lambda: _core.amax_mse(device, counts, edges[:5].copy(), 8, False, 1, 128)),
        "amax_entropy": (ValueError, lambda: _core.amax_entropy(device, counts, edges, 8, False, 1, 1 << 40)),
    }


def watched(device: _core.Device) -> list[int]:
    gc.collect()
    objects = (device, X, ONE, None, True, _core.Quantizer, _core.Observer, np.ndarray)
    return [sys.getrefcount(each) for each in objects]


def check_references(device: _core.Device, call: Callable[[], Any]) -> None:
    for _ in range(3):
        call()
    before, blocks = watched(device), sys.getallocatedblocks()
    for _ in range(1_000):
        call()
    # Arrays are no objects of the collector, and types do not count them: only their memory tells.
    assert sys.getallocatedblocks() - blocks < 100
    # the interpreter itself takes and drops a few references to None and True between the two looks
    grown = [b - a for a, b in zip(before, watched(device), strict=True)]
    assert all(abs(each) < 50 for each in grown), grown


@pytest.mark.parametrize("name", entry_points(_core.Device(num_threads=1)))
def test_good_calls_keep_no_reference(device: _core.Device, name: str) -> None:
    check_references(device, entry_points(device)[name])


@pytest.mark.parametrize("name", failing_calls(_core.Device(num_threads=1)))
def test_wrong_calls_raise_and_keep_no_reference(device: _core.Device, name: str) -> None:
    expected, call = failing_calls(device)[name]

    def fail() -> None:
        try:
            call()
        except expected:
            return
        raise AssertionError(f"{name} did not raise {expected.__name__}")

    check_references(device, fail)


def test_nothing_is_left_on_the_device() -> None:
    device = _core.Device(num_threads=1)
    before = device.memory_statistics()["live_bytes"]
    for call in entry_points(device).values():
        call()
    gc.collect()
    assert device.memory_statistics()["live_bytes"] == before


def test_a_quantizer_keeps_its_device_and_observer_alive() -> None:
    device = _core.Device(num_threads=1)
    observer = _core.Observer(device, "max")
    quantizer = _core.Quantizer(device)
    quantizer.set_observer(observer)
    quantizer.stages = _core.STAGE_CALIB
    del device
    quantizer.forward(X)
    assert observer.amax() == 2.0
    del observer
    quantizer.forward(X * np.float32(3))


def test_types_cannot_be_changed_or_made_by_subclassing(device: _core.Device) -> None:
    for cls in (_core.Quantizer, _core.Observer):
        with pytest.raises(TypeError):
            cls.forward = None  # type: ignore[union-attr, method-assign, assignment]
        with pytest.raises(TypeError):
            type("Sub", (cls,), {})
    with pytest.raises(AttributeError, match="stages"):
        del _core.Quantizer(device).stages


# ---- results -----------------------------------------------------------------------------------------------


def test_results_own_their_memory(device: _core.Device) -> None:
    quantizer = _core.Quantizer(device)
    quantizer.set_amax(ONE)
    first = quantizer.amax()
    first[...] = 5
    assert quantizer.amax() == 1
    observer = observer_with_data(device)
    observer.histogram()[0][:] = 0
    assert observer.histogram()[0].sum() == X.size


@pytest.mark.parametrize("isa", [name for name, supported in _core.variants() if supported])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 33, 1009])
def test_every_variant_gives_the_bits_of_the_reference(isa: str, size: int) -> None:
    x = np.random.default_rng(size).normal(size=(3, size)).astype(np.float32)
    x[0, 0], x[1, size // 2] = np.float32(1e-40), -0.0
    scales = np.float32([[0.5], [1.0], [2.0]])
    results = []
    for name in ("ref", isa):
        device = _core.Device(isa=name, num_threads=1 + (name != "ref"))
        observer = _core.Observer(device, "histogram", num_bins=100)
        observer.collect(x)
        results.append(
            (
                *_core.tensor_quant(device, x, scales, 8, False, False),
                _core.fake_tensor_quant(device, x, scales, 8, False, True),
                _core.tensor_quant_grad(device, x, scales, x),
                _core.scaled_e4m3(device, x, scales),
                _core.fake_affine(device, x, -0.3, 1.1, 8),
                _core.reduce_amax(device, x, (0,)),
                *observer.histogram(),
            )
        )
    for expected, mine in zip(*results, strict=True):
        assert expected.tobytes() == mine.tobytes()


# ---- threads -----------------------------------------------------------------------------------------------


def overlapping_attempt(call: Callable[[int], None]) -> bool:
    """Whether two calls from two threads were under way at the same time."""
    windows: list[tuple[float, float]] = []
    barrier = threading.Barrier(2)

    def run(index: int) -> None:
        barrier.wait()
        start = time.perf_counter()
        call(index)
        windows.append((start, time.perf_counter()))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first, second) = sorted(windows)
    return second[0] < first[1]


@pytest.mark.uninstrumented
@pytest.mark.parametrize("what", ["forward", "collect", "fake_tensor_quant"])
def test_the_gil_is_released(what: str) -> None:
    x = np.ones(1 << 22, np.float32)
    devices = [_core.Device(num_threads=1) for _ in range(2)]
    quantizers = [_core.Quantizer(device) for device in devices]
    observers = [_core.Observer(device, "histogram") for device in devices]
    calls: dict[str, Callable[[int], Any]] = {
        "forward": lambda index: quantizers[index].forward(x),
        "collect": lambda index: observers[index].collect(x),
        "fake_tensor_quant": lambda index: _core.fake_tensor_quant(devices[index], x, ONE, 8, False, True),
    }
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(60.0)  # no thread is made to give up the GIL: it must do so itself
        assert any(overlapping_attempt(calls[what]) for _ in range(50))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("what", ["quantizer", "observer"])
def test_one_object_in_two_threads_is_refused_or_served_but_never_broken(what: str) -> None:
    x = np.ones(1 << 16, np.float32)
    device = _core.Device(num_threads=1)
    quantizer, observer = _core.Quantizer(device), _core.Observer(device, "histogram")
    served, refused, other = [], [], []
    interval = sys.getswitchinterval()

    def run() -> None:
        for _ in range(200):
            try:
                if what == "quantizer":
                    quantizer.forward(x)
                    quantizer.set_amax(ONE)
                else:
                    observer.collect(x)
                served.append(1)
            except StateError:
                refused.append(1)
            except Exception as error:
                other.append(error)

    try:
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not other
    assert served
    assert len(served) + len(refused) == 800
    if what == "observer":
        assert observer.histogram()[0].sum() == len(served) * x.size


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises((ValueError, UnsupportedError), match="sse9"):
        _core.Device(isa="sse9")


def test_statistics_can_be_read_while_another_thread_collects() -> None:
    device = _core.Device(num_threads=1)
    quantizer, observer = _core.Quantizer(device), _core.Observer(device, "histogram", num_bins=64)
    quantizer.set_observer(observer)
    quantizer.stages = _core.STAGE_CALIB
    # every batch grows the histogram, so that its memory moves
    batches = [np.full(1009, 1.0 + index, np.float32) for index in range(300)]
    quantizer.forward(batches[0])
    finished, broken = threading.Event(), []

    def collect() -> None:
        for batch in batches[1:]:
            while True:
                try:
                    quantizer.forward(batch)
                    break
                except StateError:
                    continue
        finished.set()

    def read() -> None:
        while not finished.is_set():
            try:
                counts, edges = observer.histogram()
            except StateError:
                continue
            if counts.sum() % 1009 or len(edges) != len(counts) + 1 or np.any(np.diff(edges) <= 0):
                broken.append((counts, edges))

    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=run) for run in (collect, read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not broken
    assert observer.histogram()[0].sum() == 300 * 1009

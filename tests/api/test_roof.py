# SPDX-License-Identifier: Apache-2.0
"""Roofs and rates of products: counted, not judged; how fast they are is no test's business."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest

from qdqbert import Device, _core
from qdqbert.roof import OPERANDS, ProductRate, measure_products, measure_roof


@pytest.mark.parametrize("operands", OPERANDS)
def test_a_roof_counts_what_every_thread_does(operands: str) -> None:
    seen = set()

    class Counting:
        """A device whose loop does at most 10^6 operations a second."""

        def peak(self, kind: str, rounds: int) -> int:
            assert kind == operands
            seen.add(threading.get_ident())
            time.sleep(rounds * 1e-6)
            return rounds

    device: Any = Counting()
    assert 0 < measure_roof(device, operands, 3, 0.001) <= 3e6
    assert len(seen) == 3


def test_operations_are_proportional_to_rounds() -> None:
    device = Device(num_threads=1)
    for operands in OPERANDS:
        assert device.peak(operands, 700) == 7 * device.peak(operands, 100)


def test_products_are_timed_for_every_combination() -> None:
    rates = list(
        measure_products("ref", [1, 2], rows=[3, 5], products=[(7, 11)], operands=["qs8"], seconds=0.0001)
    )
    assert [(rate.threads, rate.rows) for rate in rates] == [(1, 3), (1, 5), (2, 3), (2, 5)]
    for rate in rates:
        assert isinstance(rate, ProductRate)
        assert (rate.operands, rate.n, rate.k) == ("qs8", 7, 11)
        assert rate.operations_per_s == 2 * rate.rows * 77 / rate.least
        assert 0 < rate.least <= rate.median
        assert rate.share > 0


def test_times_of_products_are_an_array_of_repeats() -> None:
    seconds = Device(num_threads=1).time_product("f32", 3, 5, 7, 2, 4)
    assert (seconds.shape, seconds.dtype) == ((4,), np.float64)


@pytest.mark.parametrize("call", ["peak", "time_product"])
def test_operands_of_another_kind_are_named(call: str) -> None:
    device = Device(num_threads=1)
    numbers = {"peak": (1,), "time_product": (1, 1, 1, 1, 1)}[call]
    with pytest.raises(ValueError, match="operands: expected 'f32' or 'qs8', got 'int4'"):
        getattr(device, call)("int4", *numbers)


def test_a_number_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"repeats is 0, expected 1 \.\. 1000000"):
        Device(num_threads=1).time_product("qs8", 1, 1, 1, 1, 0)
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        measure_roof(Device(), "f32", 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity masks")
def test_a_process_on_one_cpu_gets_one_thread() -> None:
    allowed = os.sched_getaffinity(0)
    found: dict[str, Any] = {}

    def look() -> None:  # the mask is the thread's; the others keep theirs
        os.sched_setaffinity(0, {min(allowed)})
        found.update(_core.cpu_limits(), default=Device().num_threads)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert (found["affinity"], found["threads"], found["default"]) == (1, 1, 1)
    limits = _core.cpu_limits()
    assert limits["affinity"] == len(allowed) <= limits["online"]
    assert limits["threads"] == min(limits["affinity"], limits["quota"] or limits["affinity"])

# SPDX-License-Identifier: Apache-2.0
"""The device that models use unless they are given one, and its number of threads.

It is opened by the first model, not by the import: opening reads ``QDQBERT_CPU_ISA`` and asks how many
processors this process may use.
"""

from __future__ import annotations

import copyreg
from typing import Any

from qdqbert._core import Device
from qdqbert.forks import ForkLock

__all__ = ["Device", "default_device", "get_num_threads", "set_num_threads"]

_lock = ForkLock()
_opened: list[Device] = []


def default_device() -> Device:
    """Return the device of this process, opening it on the first call.

    Raises
    ------
    ValueError
        If ``QDQBERT_CPU_ISA`` names no known variant.
    UnsupportedError
        If it names one that this CPU lacks.
    """
    with _lock:
        if not _opened:
            _opened.append(Device())
        return _opened[0]


def set_num_threads(num_threads: int) -> None:
    """Set how many threads share the work of one call on the default device.

    Parameters
    ----------
    num_threads : int
        1 .. 1024, or 0 for as many as this process may use.  Results do not depend on it.

    Raises
    ------
    ValueError
        If it is out of range.
    """
    default_device().num_threads = num_threads


def _reduce(device: Device) -> tuple[Any, ...]:
    """Take a device apart for ``pickle``: the default one becomes that of the process that reads it."""
    if device in _opened:
        return default_device, ()
    return Device, (device.isa, device.num_threads)


copyreg.pickle(Device, _reduce)


def get_num_threads() -> int:
    """Return how many threads share the work of one call on the default device."""
    return default_device().num_threads

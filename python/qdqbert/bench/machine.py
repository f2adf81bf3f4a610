# SPDX-License-Identifier: Apache-2.0
"""What a reader must know of a machine to compare two measurements."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

__all__ = ["cpu_flags", "machine_facts", "steal_seconds"]


def machine_facts(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the facts: processor, memory, system, versions, time, and how busy the machine is.

    Parameters
    ----------
    packages : sequence of str
        Distributions whose versions are told, beside qdqbert and NumPy.
    """
    from qdqbert import __version__

    versions = {"qdqbert": __version__}
    for name in ("numpy", *packages):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_facts(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": versions,
        "utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_1min": os.getloadavg()[0],
    }


def cpu_flags() -> list[str]:
    """Return which of the instruction sets that matter here the processor has."""
    flags: list[str] = _cpu_facts().get("flags", [])
    return flags


def _cpu_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        fields: dict[str, str] = {}
        for line in lines:
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        facts["model"] = fields.get("model name", "")
        facts["family"] = f"{fields.get('cpu family', '?')}.{fields.get('model', '?')}"
        flags = set(fields.get("flags", fields.get("Features", "")).split())
        wanted = (
            "avx2",
            "fma",
            "avx512f",
            "avx512_vnni",
            "avx_vnni",
            "avx512_bf16",
            "amx_int8",
            "asimddp",
            "i8mm",
        )
        facts["flags"] = [flag for flag in wanted if flag in flags]
    facts["usable_cpus"] = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )
    return facts


def _steal_seconds() -> float | None:
    """Time that the hypervisor gave to others, since boot, all CPUs together."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            return int(lines.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def steal_seconds() -> float | None:
    """Return the time that the hypervisor gave to others since boot, all CPUs together; None if unknown."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            return int(lines.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None

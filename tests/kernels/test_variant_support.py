# SPDX-License-Identifier: Apache-2.0
"""Which kernel variants this CPU can run, against what the operating system says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qdqbert import _core

CPUINFO = Path("/proc/cpuinfo")

AVX2 = {"avx2", "fma"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
# variant -> what Linux calls its instructions (x86 flags, Arm features)
NEEDS = {
    "avx2": AVX2,
    "avx_vnni": AVX2 | {"avx_vnni"},
    "avx512": AVX512,
    "avx512_vnni": AVX512 | {"avx512_vnni"},
    "avx512_bf16": AVX512 | {"avx512_bf16"},
    "neon": {"asimd"},
    "neon_dotprod": {"asimd", "asimddp"},
    "neon_i8mm": {"asimd", "i8mm"},
}


def features() -> set[str]:
    for line in CPUINFO.read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


@pytest.mark.skipif(not CPUINFO.exists(), reason="needs Linux's /proc/cpuinfo")
def test_a_variant_is_supported_where_linux_names_its_instructions() -> None:
    offered = features()
    supported = dict(_core.variants())

    assert {name: supported[name] for name in NEEDS if name in supported} == {
        name: needed <= offered for name, needed in NEEDS.items() if name in supported
    }

# SPDX-License-Identifier: Apache-2.0
"""The inner loops of products keep their sums in registers, whatever compiler built the library.

Read from the machine code: a loop of a tile is known by the line that it fetches ahead, which nothing else
in the library does.  On x86-64 it is that of the extension.  The variants of 64-bit Arm are compiled here, if
a cross compiler is at hand.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

import qdqbert._core

CSRC = Path(__file__).resolve().parents[2] / "csrc"
CROSS = "aarch64-linux-gnu-"

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(?:\{vex\} )?(\S+)\s*(.*?)\s*$")
BRANCHES = ("jne", "jnz", "b.ne")
FETCHES = ("prefetcht1", "prfm")
# x86-64: a variant, what its tile multiplies with, in which registers, heights of it, each a loop of its own
X86 = [
    ("avx2", "vfmadd231ps", "ymm", 6),
    ("avx2", "vpmaddwd", "ymm", 4),
    ("avx_vnni", "vpdpbusd", "ymm", 6),
    ("avx512", "vfmadd231ps", "zmm", 14),
    ("avx512_vnni", "vpdpbusd", "zmm", 14),
    ("avx512_bf16", "vdpbf16ps", "zmm", 14),
]
# 64-bit Arm: a variant -> what its tile multiplies with, heights of it, multiplications of the tallest's loop
ARM = {"neon_dotprod": ("sdot", 6, 48), "neon_i8mm": ("smmla", 6, 48)}

Loop = list[tuple[str, str]]

needs_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64") or shutil.which("objdump") is None,
    reason="needs x86-64 and objdump",
)
needs_cross = pytest.mark.skipif(
    shutil.which(CROSS + "gcc") is None or shutil.which(CROSS + "objdump") is None,
    reason=f"needs {CROSS}gcc and {CROSS}objdump",
)


def loops_of(listing: str) -> list[Loop]:
    """Instructions (name, operands) of every innermost loop that fetches ahead."""
    found = [match.groups() for match in map(INSTRUCTION.match, listing.splitlines()) if match]
    at = {address: i for i, (address, _, _) in enumerate(found)}
    loops = []
    for end, (_, name, operands) in enumerate(found):
        target = operands.split()[0] if operands else ""
        if name in BRANCHES and at.get(target, end) < end:
            loop = [(name, operands) for _, name, operands in found[at[target] : end + 1]]
            jumps = sum(name.startswith(("j", "b.", "cb")) for name, _ in loop)
            if jumps == 1 and any(name in FETCHES for name, _ in loop):
                loops.append(loop)
    return loops


def disassemble(program: str, file: str | Path) -> str:
    command = [program, "-d", "--no-show-raw-insn", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def x86_loops() -> list[Loop]:
    return loops_of(disassemble("objdump", qdqbert._core.__file__))


@pytest.fixture(scope="module", params=ARM)
def arm_variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Loop]]:
    """A variant's name and its loops, compiled as the build does."""
    name: str = request.param
    build = (CSRC / "cmake/cpu_variant.cmake").read_text(encoding="utf-8")
    flags = re.search(rf"^set\(qdqbert_flags_{name} (.*)\)$", build, re.MULTILINE)
    assert flags is not None
    folder = CSRC / "kernels/cpu" / name
    compiled = tmp_path_factory.mktemp("arm") / f"{name}.o"
    command = [CROSS + "gcc", "-std=c11", "-O3", "-DNDEBUG", *flags.group(1).split(), f"-DQB_VARIANT={name}"]
    command += [f"-I{path}" for path in (CSRC, CSRC / "include", folder)]
    subprocess.run([*command, "-c", str(folder / "product_qs8.c"), "-o", str(compiled)], check=True)
    return name, loops_of(disassemble(CROSS + "objdump", compiled))


@needs_x86
@pytest.mark.parametrize(("variant", "multiply", "register", "heights"), X86)
def test_every_height_of_a_tile_has_a_loop(variant: str, multiply: str, register: str, heights: int) -> None:
    if variant not in dict(qdqbert._core.variants()):
        pytest.skip(f"{variant} is not in this build")

    loops = [
        loop
        for loop in x86_loops()
        if any(name == multiply and f"%{register}" in operands for name, operands in loop)
    ]

    assert len(loops) >= heights


@needs_x86
def test_no_inner_loop_stores_or_reads_the_stack() -> None:
    for loop in x86_loops():
        for name, operands in loop:
            destination = operands.split("#")[0].rsplit(",", 1)[-1]
            writes_memory = name.startswith("v") and destination.strip().endswith(")")
            assert not writes_memory, f"{name} {operands}"
            assert "%rsp" not in operands, f"{name} {operands}"


@needs_cross
def test_every_height_of_an_arm_tile_has_a_loop(arm_variant: tuple[str, list[Loop]]) -> None:
    variant, loops = arm_variant
    multiply, heights, most = ARM[variant]

    counts = sorted(sum(name == multiply for name, _ in loop) for loop in loops)

    assert len(counts) == heights
    assert counts[0] > 0
    assert counts[-1] == most


@needs_cross
def test_no_inner_loop_on_arm_stores_or_reads_the_stack(arm_variant: tuple[str, list[Loop]]) -> None:
    _, loops = arm_variant
    for loop in loops:
        for name, operands in loop:
            assert not name.startswith("st"), f"{name} {operands}"
            assert "sp" not in re.split(r"\W+", operands), f"{name} {operands}"

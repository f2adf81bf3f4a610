# SPDX-License-Identifier: Apache-2.0
"""The inner loops of products keep their sums in registers, whatever compiler built the library.

Read from the machine code: a loop of a tile is known by the line that it fetches ahead (``prefetcht1``),
which nothing else in the library does.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from functools import cache

import pytest

import qdqbert._core

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64") or shutil.which("objdump") is None,
    reason="needs x86-64 and objdump",
)

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*?)\s*$")
# what multiplies -> heights of tiles, each a loop of its own (floats of two variants, codes of two)
MULTIPLIES = {"vfmadd231ps": 14 + 6, "vpmaddwd": 4, "vpdpbusd": 14}


@cache
def tile_loops() -> list[list[tuple[str, str]]]:
    """Instructions (name, operands) of every innermost loop that fetches ahead."""
    command = ["objdump", "-d", "--no-show-raw-insn", qdqbert._core.__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [match.groups() for match in map(INSTRUCTION.match, listing.splitlines()) if match]
    at = {address: i for i, (address, _, _) in enumerate(found)}
    loops = []
    for end, (_, name, operands) in enumerate(found):
        target = operands.split()[0] if operands else ""
        if name in ("jne", "jnz") and at.get(target, end) < end:
            loop = [(name, operands) for _, name, operands in found[at[target] : end + 1]]
            jumps = sum(name.startswith("j") for name, _ in loop)
            if jumps == 1 and any(name == "prefetcht1" for name, _ in loop):
                loops.append(loop)
    return loops


@pytest.mark.parametrize("multiply", MULTIPLIES)
def test_every_height_of_a_tile_has_a_loop(multiply: str) -> None:
    loops = [loop for loop in tile_loops() if any(name == multiply for name, _ in loop)]

    assert len(loops) >= MULTIPLIES[multiply]


def test_no_inner_loop_stores_or_reads_the_stack() -> None:
    for loop in tile_loops():
        for name, operands in loop:
            destination = operands.split("#")[0].rsplit(",", 1)[-1]
            writes_memory = name.startswith("v") and destination.strip().endswith(")")
            assert not writes_memory, f"{name} {operands}"
            assert "%rsp" not in operands, f"{name} {operands}"

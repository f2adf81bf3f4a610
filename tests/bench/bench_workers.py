# SPDX-License-Identifier: Apache-2.0
"""Systems for tests of workers; a worker's process imports this module."""

from __future__ import annotations

import os
from typing import Any

from qdqbert.bench.turns import Missing


class Adding:
    """Adds a number to its input, and says in which process."""

    def __init__(self, term: int) -> None:
        self.term, self.input = term, 0

    def prepare(self, value: int) -> int:
        self.input = value
        return os.getpid()

    def __call__(self) -> int:
        if self.input < 0:
            raise ValueError("below zero")
        return self.input + self.term


def start_adding(term: int) -> tuple[Any, dict[str, Any]]:
    return Adding(term), {"omp": os.environ["OMP_NUM_THREADS"], "pid": os.getpid()}


def start_missing() -> tuple[Any, dict[str, Any]]:
    raise Missing("nobody is not importable; pip install nobody")

# SPDX-License-Identifier: Apache-2.0
"""Bytes of a file with something wrong in them, for tests of readers."""

from __future__ import annotations

import numpy as np


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Change, cut, repeat or insert a few bytes."""
    result = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        place = int(generator.integers(len(result) + 1))
        match int(generator.integers(4)):
            case 0:
                result[place : place + 1] = generator.bytes(1)
            case 1:
                result[place : place + int(generator.integers(40))] = b""
            case 2:
                result[place:place] = result[place : place + int(generator.integers(40))]
            case _:
                result[place:place] = [b'"', b"\\", b"\t", b"\x00", b"\xff", b"{", b"null", b"\\ud800"][
                    int(generator.integers(8))
                ]
    return bytes(result)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

import bundle_writer
from qdqbert.serialization.crc32c import Crc32c, crc32c, unmask

RNG = np.random.default_rng(1)


def test_the_check_value_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@pytest.mark.parametrize("size", [0, 1, 2, 255, 511, 512, 513, 767, 4096, 4097, 70_001])
def test_it_equals_the_definition_bit_by_bit(size: int) -> None:
    data = RNG.bytes(size)
    assert crc32c(data) == bundle_writer.crc32c(data)


def test_pieces_give_what_the_whole_gives() -> None:
    """Also across the megabyte at which data are cut."""
    data = RNG.bytes((1 << 20) + 4321)
    crc = Crc32c()
    for begin in range(0, len(data), 99_991):
        crc.update(data[begin : begin + 99_991])
    assert crc.value() == crc32c(data)
    assert crc32c(data) != crc32c(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("crc", [0, 1, 0xFFFFFFFF, 0x12345678])
def test_unmasking_undoes_masking(crc: int) -> None:
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert unmask(masked) == crc

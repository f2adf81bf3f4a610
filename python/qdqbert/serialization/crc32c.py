# SPDX-License-Identifier: Apache-2.0
"""CRC-32C (Castagnoli), which TensorFlow's checkpoints carry for every block and tensor.

The definition goes byte by byte: ``crc = table[(crc ^ byte) & 255] ^ (crc >> 8)``, from all ones, inverted at
the end.  In Python that is a megabyte in a tenth of a second, so large data go another way: a CRC is linear
over GF(2), so the rows of a matrix of bytes are computed side by side, two bytes a step, each from zero, and
put together afterwards by the operator "append n zero bytes", a 32 x 32 matrix of bits.

Source: RFC 3720, B.4; M. Adler's derivation of crc32_combine in zlib for the operator.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["Crc32c", "crc32c", "unmask"]

_POLYNOMIAL = 0x82F63B78  # reflected
_ONES = 0xFFFFFFFF
_ROW_BYTES = 256
_MAX_ROWS = 4096
_SMALL_BYTES = 512

_Words = npt.NDArray[np.uint32]


def _byte_table() -> _Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ _POLYNOMIAL, table >> 1).astype(np.uint32)
    return table


@cache
def _tables() -> tuple[list[int], _Words]:
    """Return the table of one byte, and that of two: entry w is the CRC, from zero, of the bytes of w."""
    one = _byte_table()
    words = np.arange(65536, dtype=np.uint32)
    first = one[words & 255]
    two = one[(first ^ (words >> 8)) & 255] ^ (first >> 8)
    return one.tolist(), two.astype(np.uint32, copy=False)


def _apply(operator: tuple[int, ...], state: int) -> int:
    result = 0
    for bit in range(32):
        if state >> bit & 1:
            result ^= operator[bit]
    return result


@cache
def _zeros(power: int) -> tuple[int, ...]:
    """Return the operator that appends 2**power zero bytes: the images of the 32 bits."""
    if power == 0:
        table = _tables()[0]
        return tuple(table[(1 << bit) & 255] ^ ((1 << bit) >> 8) for bit in range(32))
    half = _zeros(power - 1)
    return tuple(_apply(half, image) for image in half)


def _append_zeros(state: int, count: int) -> int:
    power = 0
    while count:
        if count & 1:
            state = _apply(_zeros(power), state)
        count >>= 1
        power += 1
    return state


@cache
def _zeros_tables(power: int) -> _Words:
    """Return `_zeros` as four tables of 256, one for each byte of a state."""
    operator = _zeros(power)
    return np.array(
        [[_apply(operator, value << (8 * byte)) for value in range(256)] for byte in range(4)], np.uint32
    )


def _raw(data: memoryview) -> int:
    """CRC of bytes from zero, not inverted."""
    if len(data) < _SMALL_BYTES:
        state, one = 0, _tables()[0]
        for byte in data:
            state = one[(state ^ byte) & 255] ^ (state >> 8)
        return state
    rows = 1 << (-(-len(data) // _ROW_BYTES) - 1).bit_length()
    # Zeros in front of a CRC from zero change nothing.
    padded = np.zeros(rows * _ROW_BYTES, np.uint8)
    padded[padded.size - len(data) :] = data
    steps = np.ascontiguousarray(padded.view("<u2").reshape(rows, -1).T).astype(np.uint32)
    table = _tables()[1]
    states = np.zeros(rows, np.uint32)
    for words in steps:
        states = table[(states ^ words) & 0xFFFF] ^ (states >> 16)
    power = _ROW_BYTES.bit_length() - 1
    while states.size > 1:
        tables, left = _zeros_tables(power), states[0::2]
        moved = tables[0][left & 255]
        for byte in (1, 2, 3):
            moved ^= tables[byte][(left >> (8 * byte)) & 255]
        states = moved ^ states[1::2]
        power += 1
    return int(states[0])


class Crc32c:
    """A CRC of bytes that come in pieces."""

    def __init__(self) -> None:
        self._state = _ONES

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes.

        Parameters
        ----------
        data : bytes or memoryview
        """
        view = memoryview(data)
        for begin in range(0, len(view), _ROW_BYTES * _MAX_ROWS):
            piece = view[begin : begin + _ROW_BYTES * _MAX_ROWS]
            self._state = _append_zeros(self._state, len(piece)) ^ _raw(piece)

    def value(self) -> int:
        """Return the CRC of the bytes so far."""
        return self._state ^ _ONES


def crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C of bytes.

    Parameters
    ----------
    data : bytes or memoryview
    """
    crc = Crc32c()
    crc.update(data)
    return crc.value()


def unmask(masked: int) -> int:
    """Undo LevelDB's masking, which keeps a CRC apart from the data it may be part of.

    Parameters
    ----------
    masked : int
    """
    rotated = (masked - 0xA282EAD8) & _ONES
    return (rotated >> 17 | rotated << 15) & _ONES

# SPDX-License-Identifier: Apache-2.0
"""Codes of a weight, as a file stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.nn.tensor_quantizer import TensorQuantizer
from qdqbert.quant_descriptor import QuantDescriptor
from qdqbert.tensor_quant import tensor_quant

__all__ = ["float8_bytes", "pack_nibbles", "weight_codes"]

Floats = npt.NDArray[np.float32]


def weight_codes(
    weight: Floats, amax: Floats, is_dead: npt.NDArray[np.bool_], kind: str, options: Mapping[str, Any]
) -> npt.NDArray[Any]:
    """Return the codes of a weight, transposed, by the quantizer that the model runs.

    Parameters
    ----------
    weight : ndarray, shape (out_features, in_features), float32
        Finite.
    amax : ndarray, float32
        Broadcasts to `weight`.
    is_dead : ndarray, shape of `amax`, bool
        Where all codes are 0.
    kind : str
        Element type of the file: ``"INT8"``, ``"UINT8"``, ``"INT4"``, ``"UINT4"``, ``"INT16"``, ``"UINT16"``
        or ``"FLOAT8E4M3FN"``.
    options : mapping
        Of the quantizer: ``num_bits``, ``unsigned`` and ``narrow_range``.

    Returns
    -------
    ndarray, shape (in_features, out_features), or its bytes where elements are packed
    """
    if kind == "FLOAT8E4M3FN":
        quantizer = TensorQuantizer(QuantDescriptor(num_bits=(4, 3), amax=np.where(is_dead, 1.0, amax)))
        scale = np.float32(448.0) * (np.float32(1.0) / np.where(is_dead, np.float32(1.0), amax))
        values = np.where(is_dead, np.float32(0.0), quantizer(weight))
        return float8_bytes(np.ascontiguousarray((values * scale).T, dtype=np.float32))
    codes, _ = tensor_quant(weight, amax, options["num_bits"], options["unsigned"], options["narrow_range"])
    codes = np.where(is_dead, np.float32(0.0), codes).T
    if kind in ("INT4", "UINT4"):
        return pack_nibbles(codes.astype(np.int8))
    return np.ascontiguousarray(codes.astype(np.dtype(kind.lower())))


def pack_nibbles(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Return codes of 4 bits, two in a byte, the first in the low half.

    Parameters
    ----------
    codes : ndarray, int8
        -8 .. 15.

    Returns
    -------
    ndarray, shape (ceil(size / 2),), uint8

    Examples
    --------
    >>> pack_nibbles(np.array([1, -1, 7], np.int8)).tolist()
    [241, 7]
    """
    flat = codes.astype(np.uint8).ravel() & 15
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return np.asarray(flat[0::2] | (flat[1::2] << 4), np.uint8)


def float8_bytes(values: Floats) -> npt.NDArray[np.uint8]:
    """Return the bits of floats that are, but for the last bits, values of E4M3.

    Parameters
    ----------
    values : ndarray, float32
        In [-448, 448].

    Returns
    -------
    ndarray, shape of `values`, uint8

    Examples
    --------
    >>> float8_bytes(np.array([0.0, 1.0, -448.0, 2.0**-9], np.float32)).tolist()
    [0, 56, 254, 1]
    """
    bits = np.arange(127)
    exponent, mantissa = bits >> 3, bits & 7
    table = np.where(
        exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * np.exp2(exponent.astype(np.float64) - 10)
    )
    middles = (table[1:] + table[:-1]) / 2
    found = np.searchsorted(middles, np.abs(values)).astype(np.uint8)
    return np.asarray(found | (np.signbit(values).astype(np.uint8) << 7), np.uint8)

# SPDX-License-Identifier: Apache-2.0
"""Ranges from histograms: what `HistogramCalibrator` and `calibrate_weights` share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array

__all__ = ["amax_of_histogram", "require_method", "require_percentile"]


def amax_of_histogram(
    device: _core.Device,
    counts: npt.NDArray[np.int64],
    edges: npt.NDArray[np.float32],
    method: str,
    *,
    num_bits: int | tuple[int, int],
    unsigned: bool,
    stride: int = 1,
    start_bin: int = 128,
    percentile: float = 99.99,
) -> Array:
    """Range of a histogram; arguments of `HistogramCalibrator.compute_amax`.

    Parameters
    ----------
    device : Device
    counts : ndarray, shape (bins,), int64
    edges : ndarray, shape (bins + 1,), float32
    method : {"entropy", "mse", "percentile"}
    num_bits, unsigned
        Number format that the range is for.
    stride, start_bin, percentile
        As in `HistogramCalibrator.compute_amax`.

    Returns
    -------
    ndarray, shape (), float32

    Raises
    ------
    ValueError
        If an option is out of range.
    """
    if method == "percentile":
        amax = _core.amax_percentile(counts, edges, percentile)
    else:
        search: Any = _core.amax_mse if method == "mse" else _core.amax_entropy
        bits = 0 if isinstance(num_bits, tuple) else num_bits
        amax = search(device, counts, edges, bits, bool(unsigned), stride, start_bin)
    return np.array(amax, dtype=np.float32)


def require_method(method: object, methods: tuple[str, ...], complaint: str) -> None:
    """Refuse an unknown method.

    Parameters
    ----------
    method : object
    methods : tuple of str
        What is known.
    complaint : str
        Begins the message; the method follows.

    Raises
    ------
    TypeError
        If `method` is none of `methods`.
    """
    if method not in methods:
        raise TypeError(f"{complaint} {method}")


def require_percentile(percentile: float) -> None:
    """Refuse a percentile that is none.

    Parameters
    ----------
    percentile : float

    Raises
    ------
    ValueError
        If it is not in [0, 100].
    """
    if not 0 <= percentile <= 100:
        raise ValueError("Invalid percentile. Must be in range 0 <= percentile <= 100.")

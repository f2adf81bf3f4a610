# SPDX-License-Identifier: Apache-2.0
"""From the scales of a file back to the ranges that they were made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["amax_of_scale"]

Floats = npt.NDArray[np.float32]


def amax_of_scale(scale: Floats, bound: float, likely: Floats | None = None) -> Floats:
    """Return ranges whose quotient by the bound is the scale, to the bit where there are such.

    Exporters write amax / bound, rounded to float32.  For 127 two neighbours share one scale where the
    mantissa of amax is at least 127/64, for 0.8 % of the ranges; elsewhere the range is the only one.

    Parameters
    ----------
    scale : ndarray, float32
        Positive.
    bound : float
        Code of amax.
    likely : ndarray, shape of `scale`, float32, optional
        Taken where it fits: the largest magnitude of a weight's row, which most calibrations choose.

    Returns
    -------
    ndarray, shape of `scale`, float32
        If nothing fits, because the scale is from elsewhere, the product.

    Examples
    --------
    >>> float(amax_of_scale(np.float32(1.5) / np.float32(127), 127.0))
    1.5
    """
    divisor = np.float32(bound)
    middle = (scale.astype(np.float64) * bound).astype(np.float32)
    found = middle
    down, up = np.float32(-np.inf), np.float32(np.inf)
    # From far to near, so that the nearest that fits stays.
    for candidate in (np.nextafter(middle, up), np.nextafter(middle, down), middle):
        found = np.where(candidate / divisor == scale, candidate, found)
    if likely is not None:
        found = np.where(likely / divisor == scale, likely, found)
    return np.asarray(found, np.float32)

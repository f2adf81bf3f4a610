# SPDX-License-Identifier: Apache-2.0
"""Tell whether a resumed run has the data that it began with."""

from __future__ import annotations

import numbers
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["data_fingerprint"]

_LOOKED_AT = 32  # items: reading them all may mean reading files


def data_fingerprint(dataset: Any) -> dict[str, int] | None:
    """Return the length of a dataset and a CRC-32 over some of its items, first and last among them.

    Parameters
    ----------
    dataset : sequence of mappings, or anything else

    Returns
    -------
    dict or None
        ``items`` and ``crc32``; None for a stream, which cannot be looked at without being used up.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        return None
    length = len(dataset)
    found = 0
    for index in sorted({round(place) for place in np.linspace(0, max(length - 1, 0), _LOOKED_AT)}):
        if index < length:
            found = _add(dataset[index], found)
    return {"items": length, "crc32": found}


def _add(value: Any, found: int) -> int:
    """Add what an item holds; equal numbers count alike as lists and as arrays."""
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            found = _add(value[name], zlib.crc32(str(name).encode(), found))
        return found
    if isinstance(value, str):
        return zlib.crc32(value.encode(), found)
    if isinstance(value, list | tuple) and value and not isinstance(value[0], numbers.Real):
        for each in value:
            found = _add(each, found)
        return found
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":  # something of the user's own, whose text may have an address in it
        return zlib.crc32(type(value).__name__.encode(), found)
    kind = np.float64 if array.dtype.kind == "f" else np.int64
    return zlib.crc32(
        np.ascontiguousarray(array, dtype=kind).tobytes(), zlib.crc32(str(array.shape).encode(), found)
    )

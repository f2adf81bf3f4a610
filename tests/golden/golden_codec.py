# SPDX-License-Identifier: Apache-2.0
"""The golden files' JSON codec for Python values, and comparison of a recorded outcome with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def decode(value: Any) -> Any:
    """Python value of a JSON value: tuples, arrays, tensors (as arrays), NumPy scalars and special floats."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tuple__" in value:
        return tuple(decode(item) for item in value["__tuple__"])
    for kind in ("__ndarray__", "__tensor__"):
        if kind in value:
            return np.array(value[kind], dtype=value["dtype"]).reshape(value["shape"])
    if "__np__" in value:
        return np.dtype(value["dtype"]).type(value["__np__"])
    if "__float__" in value:
        return float(value["__float__"])
    return {key: decode(item) for key, item in value.items()}


def load(folder: Path, name: str) -> Any:
    """Parsed JSON file of the golden data, undecoded."""
    with open(folder / name, encoding="utf-8") as file:
        return json.load(file)


def same(mine: Any, recorded: Any) -> bool:
    """Equality of decoded values: arrays by dtype kind, shape and value (NaN equal, -0.0 == 0.0)."""
    if isinstance(recorded, np.ndarray):
        mine = np.asarray(mine)
        return mine.shape == recorded.shape and np.array_equal(mine, recorded, equal_nan=True)
    if isinstance(recorded, dict):
        return (
            isinstance(mine, dict)
            and mine.keys() == recorded.keys()
            and all(same(mine[key], recorded[key]) for key in recorded)
        )
    if isinstance(recorded, list | tuple):
        return (
            type(mine) is type(recorded)
            and len(mine) == len(recorded)
            and all(same(a, b) for a, b in zip(mine, recorded, strict=True))
        )
    return bool(mine == recorded)

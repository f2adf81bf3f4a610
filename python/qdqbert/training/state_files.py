# SPDX-License-Identifier: Apache-2.0
"""States of optimizers and schedules as files: nested dicts and lists with arrays in them.

Arrays of float32 are tensors of a safetensors file; everything else is JSON in that file's metadata, with
``{"$tensor": name}`` where a tensor stood.  Floats keep their bits in both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qdqbert.arrays import Array
from qdqbert.errors import CheckpointError
from qdqbert.serialization.safetensors_file import SafetensorsFile, write_safetensors

__all__ = ["read_state", "write_state"]

_FORMAT = "qdqbert-state"
_TENSOR = "$tensor"


def write_state(path: Path, state: Any) -> None:
    """Write a state, replacing an old file at once.

    Parameters
    ----------
    path : Path
    state : dict, list, number, str, bool, None or ndarray, nested

    Raises
    ------
    TypeError
        If something in it is none of these.
    OSError
        If the file cannot be written.
    """
    tensors: dict[str, Array] = {}
    text = json.dumps(_split(state, "state", tensors))
    write_safetensors(path, tensors.items(), {"format": _FORMAT, "state": text})


def read_state(path: Path) -> Any:
    """Read what `write_state` wrote; lists stand for tuples.

    Parameters
    ----------
    path : Path

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    with SafetensorsFile(path) as file:
        if file.metadata.get("format") != _FORMAT:
            raise CheckpointError(f"{path}: is no state of this trainer")
        try:
            state = json.loads(file.metadata["state"])
        except (KeyError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: its metadata is damaged: {error!r}") from error
        return _join(state, file)


def _split(value: Any, name: str, tensors: dict[str, Array]) -> Any:
    """Return a state as JSON, with its arrays moved to `tensors`."""
    if isinstance(value, np.ndarray):
        if value.dtype != np.float32:
            raise TypeError(f"{name}: expected float32, got an array of {value.dtype}")
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{name}: expected names as keys, got {list(value)[:3]}")
        return {key: _split(each, f"{name}/{key}", tensors) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_split(each, f"{name}/{index}", tensors) for index, each in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: expected numbers, texts and arrays, got {type(value).__name__}")


def _join(value: Any, file: SafetensorsFile) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            name = value[_TENSOR]
            if name not in file.tensors:
                raise CheckpointError(f"{file.path}: has no tensor {name!r}")
            return file.read(name)
        return {key: _join(each, file) for key, each in value.items()}
    if isinstance(value, list):
        return [_join(each, file) for each in value]
    return value

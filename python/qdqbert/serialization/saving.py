# SPDX-License-Identifier: Apache-2.0
"""Write the weights of a model into a folder: one file, or shards with an index.

Every file takes its place at once; files of an older save that the new one does not use go last, so that
whatever stops the writer, the folder holds a whole checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from qdqbert.serialization.atomic import write_text
from qdqbert.serialization.safetensors_file import write_safetensors
from qdqbert.serialization.weight_files import INDEX_NAME, WEIGHTS_NAME

__all__ = ["parse_size", "save_weights"]

_METADATA = {"format": "pt"}
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors\Z")


def parse_size(size: int | str) -> int:
    """Bytes of a size such as ``"5GB"``, ``"200MiB"`` or a number.

    Parameters
    ----------
    size : int or str

    Raises
    ------
    ValueError
        If it is not a positive size.
    """
    match = re.fullmatch(r"\s*(\d+)\s*([KMG]?I?B)?\s*", str(size).upper())
    if isinstance(size, bool) or not match or int(match[1]) < 1:
        raise ValueError(f"max_shard_size: expected bytes or a size such as '5GB' or '200MiB', got {size!r}")
    return int(match[1]) * _UNITS[match[2] or "B"]


def save_weights(
    folder: Path, state: Mapping[str, npt.NDArray[Any]], max_shard_size: int | str
) -> list[Path]:
    """Write tensors as ``model.safetensors``, or as shards when they need more than `max_shard_size`.

    Parameters
    ----------
    folder : Path
        Exists.
    state : mapping of str to ndarray
    max_shard_size : int or str
        Largest amount of tensor data in one file; a tensor that is larger has a file of its own.

    Returns
    -------
    list of Path
        The files written.
    """
    shards = _split(state, parse_size(max_shard_size))
    if len(shards) == 1:
        names = [WEIGHTS_NAME]
    else:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, keys in zip(names, shards, strict=True):
        write_safetensors(folder / name, ((key, state[key]) for key in keys), _METADATA)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(array.nbytes for array in state.values())},
            "weight_map": {key: name for name, keys in zip(names, shards, strict=True) for key in keys},
        }
        write_text(folder / INDEX_NAME, json.dumps(index, indent=2, sort_keys=True) + "\n")
        names.append(INDEX_NAME)
    # A single file is found before an index, so a stale one would hide the new shards.
    for path in folder.iterdir():
        is_weights = path.name in (WEIGHTS_NAME, INDEX_NAME) or _SHARD.match(path.name)
        if is_weights and path.name not in names:
            path.unlink()
    return [folder / name for name in names]


def _split(state: Mapping[str, npt.NDArray[Any]], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for key, array in state.items():
        if shards[-1] and used + array.nbytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(key)
        used += array.nbytes
    return shards

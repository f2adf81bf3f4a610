# SPDX-License-Identifier: Apache-2.0
"""Write the weights of a model: one file, or shards with an index, and nothing of an older save beside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from qdqbert.serialization.folder_change import FolderChange
from qdqbert.serialization.safetensors_file import write_safetensors_to
from qdqbert.serialization.weight_files import INDEX_NAME, WEIGHTS_NAME, with_variant

__all__ = ["parse_size", "save_weights"]

_METADATA = {"format": "pt"}
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_VARIANT = re.compile(r"[A-Za-z0-9_-]{1,40}")


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
    change: FolderChange,
    state: Mapping[str, npt.NDArray[Any]],
    max_shard_size: int | str,
    variant: str | None = None,
) -> None:
    """Write tensors as ``model.safetensors``, or as shards when they need more than `max_shard_size`.

    Weights of this variant that an older save left are removed, as transformers does.

    Parameters
    ----------
    change : FolderChange
    state : mapping of str to ndarray
    max_shard_size : int or str
        Largest amount of tensor data in one file; a tensor that is larger has a file of its own.
    variant : str, optional
        To stand in the names of the files.

    Raises
    ------
    ValueError
        If `max_shard_size` or `variant` cannot be.
    """
    shards = _split(state, parse_size(max_shard_size))
    if variant is not None and not _VARIANT.fullmatch(variant):
        raise ValueError(f"variant: expected letters, digits, '_' and '-', got {variant!r}")
    single, index_name = with_variant(WEIGHTS_NAME, variant), with_variant(INDEX_NAME, variant)
    stem = single.removesuffix(".safetensors")
    names = [single]
    if len(shards) > 1:
        names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, keys in zip(names, shards, strict=True):
        with change.open(name) as file:
            write_safetensors_to(file, ((key, state[key]) for key in keys), _METADATA)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(array.nbytes for array in state.values())},
            "weight_map": {key: name for name, keys in zip(names, shards, strict=True) for key in keys},
        }
        change.write_text(index_name, json.dumps(index, indent=2, sort_keys=True) + "\n")
        names.append(index_name)
    # A single file is found before an index, so a stale one would hide the new shards.
    shard = re.compile(re.escape(stem) + r"-\d{5}-of-\d{5}\.safetensors")
    for path in change.folder.iterdir():
        if path.name not in names and (path.name in (single, index_name) or shard.fullmatch(path.name)):
            change.remove(path.name)


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

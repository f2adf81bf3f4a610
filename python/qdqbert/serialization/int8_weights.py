# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of int8 codes: what ``config.json`` says of them, and their tensors among the others.

A frozen model is saved with the codes of its frozen weights instead of their floats, row by row whatever the
machine's kernels make of them, and all else as ever::

    model.safetensors     bert.encoder.layer.0.attention.self.query.weight_codes              I8   (768, 768)
                          bert.encoder.layer.0.attention.self.query._weight_quantizer._amax   F32  (768, 1)
    config.json           "qdqbert_int8_weights": {"version": 1, "layout": "rows", "weights": [
                              "bert.encoder.layer.0.attention.self.query.weight", ...]}

A code means ``code / scale`` with the scale of its quantizer, whose settings and range are where those of
every quantizer are (`qdqbert.quantization_settings`).  The list in the configuration and the tensors must
agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.errors import CheckpointError
from qdqbert.serialization.checkpoint_tensors import Tensor

if TYPE_CHECKING:
    from qdqbert.configuration_qdqbert import QDQBertConfig

__all__ = ["INT8_SECTION", "codes_key", "describe_codes", "take_section", "tensors_with_codes"]

INT8_SECTION = "qdqbert_int8_weights"
_VERSION = 1
_LAYOUT = "rows"
_WEIGHT = ".weight"
_CODES = ".weight_codes"


def codes_key(name: str) -> str:
    """Return the key of the codes of a weight.

    Parameters
    ----------
    name : str
        Of the weight.
    """
    return name.removesuffix(_WEIGHT) + _CODES


def describe_codes(weights: Iterable[str]) -> dict[str, Any]:
    """Return the section of a configuration.

    Parameters
    ----------
    weights : iterable of str
    """
    return {"version": _VERSION, "layout": _LAYOUT, "weights": list(weights)}


def take_section(config: QDQBertConfig, where: str) -> list[str] | None:
    """Take the section out of a configuration, and return the names of its weights; None if there is none.

    Parameters
    ----------
    config : QDQBertConfig
    where : str
        Of the configuration, for messages.

    Raises
    ------
    CheckpointError
        If it is damaged, of another version or of another layout.
    """
    section = getattr(config, INT8_SECTION, None)
    if section is None:
        return None
    delattr(config, INT8_SECTION)
    place = f"{where}: {INT8_SECTION}"
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{place}: expected an object, got {section!r:.80}")
    if section.get("version") != _VERSION or isinstance(section.get("version"), bool):
        raise CheckpointError(
            f"{place}.version: this version of qdqbert reads {_VERSION}, got {section.get('version')!r:.80}"
        )
    if section.get("layout") != _LAYOUT:
        raise CheckpointError(f"{place}.layout: expected {_LAYOUT!r}, got {section.get('layout')!r:.80}")
    unknown = sorted(str(key) for key in set(section) - {"version", "layout", "weights"})
    if unknown:
        raise CheckpointError(f"{place}: unknown {', '.join(unknown):.80}")
    weights = section.get("weights")
    if not isinstance(weights, list) or not weights:
        raise CheckpointError(f"{place}.weights: expected a list of names, got {weights!r:.80}")
    for name in weights:
        if not isinstance(name, str) or not name.endswith(_WEIGHT):
            raise CheckpointError(f"{place}.weights: expected names that end in .weight, got {name!r:.80}")
    if len(set(weights)) != len(weights):
        raise CheckpointError(f"{place}.weights: a name stands twice")
    return weights


def tensors_with_codes(
    weights: list[str] | None, tensors: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, those of codes under the names of their weights.

    Parameters
    ----------
    weights : list of str or None
        From `take_section`.
    tensors : mapping of str to Tensor
        By the checkpoint's keys.
    where : str
        Of the checkpoint, for messages.

    Raises
    ------
    CheckpointError
        If the list and the tensors do not agree, or codes have a wrong number format or no range; file and
        key are named.
    """
    keys = [key for key in tensors if key.endswith(_CODES)]
    listed = {codes_key(name): name for name in weights or ()}
    for key in keys:
        if key not in listed:
            raise CheckpointError(
                f"{tensors[key].source}: {key}: int8 codes that {INT8_SECTION} in config.json does not list"
            )
    found = {key: tensor for key, tensor in tensors.items() if key not in listed}
    for key, name in listed.items():
        if key not in tensors:
            raise CheckpointError(f"{where}: {key}: missing, though {INT8_SECTION} in config.json lists it")
        tensor = tensors[key]
        if name in tensors:
            raise CheckpointError(f"{tensor.source}: {name}: there are floats and codes of one weight")
        if tensor.read_codes is None:
            raise CheckpointError(f"{tensor.source}: {key}: expected int8 (I8)")
        if len(tensor.shape) != 2:
            raise CheckpointError(f"{tensor.source}: {key}: shape {tensor.shape}, expected two dimensions")
        found[name] = _with_range(name, key, tensor, tensors)
    return found


def _with_range(name: str, key: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Check the range that gives codes their meaning, before anything is made of them."""
    amax_key = f"{name.removesuffix(_WEIGHT)}._weight_quantizer._amax"
    amax = tensors.get(amax_key)
    if amax is None:
        raise CheckpointError(f"{tensor.source}: {amax_key}: missing, without which {key} means nothing")
    rows = tensor.shape[0]
    if amax.shape not in ((), (1,), (1, 1), (rows, 1)):
        raise CheckpointError(
            f"{amax.source}: {amax_key}: shape {amax.shape}, expected one number or ({rows}, 1)"
        )
    values = np.empty(amax.shape, np.float32)
    amax.read_into(values)
    if not np.isfinite(values).all() or (values < 0).any():
        raise CheckpointError(f"{amax.source}: {amax_key}: expected finite magnitudes, got {_wrong(values)}")
    return dataclasses.replace(tensor, source=f"{tensor.source}: {key}")


def _wrong(values: Any) -> float:
    flat = values.reshape(-1)
    return float(flat[~np.isfinite(flat) | (flat < 0)][0])

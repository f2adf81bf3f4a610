# SPDX-License-Identifier: Apache-2.0
"""What an exported file says of the model that it is from, as ``metadata_props``.

Keys, all with the prefix ``qdqbert.``:

=================  ===========================================================================================
version            of this package
class              of the model: ``QDQBertForQuestionAnswering``
config             the text of ``config.json`` as `save_pretrained` writes it, with the settings of the
                   quantizers under ``qdqbert_quantization``
ranges             JSON object: name of a quantizer to ``{"amax": ..., "pre_quant_scale": ..., "clip": [low,
                   high]}``, each where there is one.  A scalar is a number; an array is ``{"shape": [...],
                   "float32": base64}`` of its little-endian elements.  A scale is amax / bound, from which
                   amax cannot be told to the bit
ties               JSON object: name of a parameter to ``[[place, value], ...]``, elements of the model that
                   stand an ulp beside in the file (`qdqbert.onnx.weight_ties`), places in the order of the
                   parameter; left out where there are none
weights            ``float`` or ``int8``
precision          ``fp32``, ``fp16`` or ``bf16``
calibration        how `qdqbert.calibrate` or a search chose the ranges, ``percentile 99.99; weights max``;
                   left out if it was done otherwise, or a range is another since
checkpoint_sha256  of all parameters in the order of their names: each name in UTF-8, a zero byte, and the
                   elements, float32 little-endian
=================  ===========================================================================================
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.arrays import digest_of
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.onnx.weight_ties import Moves

__all__ = ["PREFIX", "checkpoint_digest", "metadata_of", "plain_array"]

PREFIX = "qdqbert."


def metadata_of(
    model: QDQBertPreTrainedModel, *, weights: str, precision: str, moves: Mapping[str, Moves]
) -> dict[str, str]:
    """Return the properties of a file.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    weights, precision : str
        As `qdqbert.onnx.export` was asked for.
    moves : mapping of str to Moves
        Elements that are written otherwise than they are.
    """
    from qdqbert import __version__

    engine = model._engine
    note = engine.calibration
    facts = {
        "version": __version__,
        "class": _class_name(model),
        "config": model._saved_config(),
        "ranges": json.dumps(_ranges(model), sort_keys=True),
        "weights": weights,
        "precision": precision,
        "checkpoint_sha256": checkpoint_digest(model),
    }
    if note is not None and note.fits(model._core_quantizers()):
        facts["calibration"] = f"{note.activations}; weights {note.weights}"
    if moves:
        own = {
            name: [*zip(each.places.tolist(), each.own.tolist(), strict=True)] for name, each in moves.items()
        }
        facts["ties"] = json.dumps(own)
    return {PREFIX + key: value for key, value in facts.items()}


def checkpoint_digest(model: QDQBertPreTrainedModel) -> str:
    """Return the SHA-256 over all parameters, as the text of this module says.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    """
    return digest_of(model.named_parameters())


def plain_array(array: npt.NDArray[np.float32]) -> float | dict[str, Any]:
    """Return an array as JSON has it.

    Parameters
    ----------
    array : ndarray, float32

    Examples
    --------
    >>> plain_array(np.float32([[0.5], [2.0]]))
    {'shape': [2, 1], 'float32': 'AAAAPwAAAEA='}
    """
    if array.ndim == 0:
        return float(array)
    text = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
    return {"shape": list(array.shape), "float32": text}


def _class_name(model: QDQBertPreTrainedModel) -> str:
    """Name of the class of this package that a model is one of."""
    return next(kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("qdqbert."))


def _ranges(model: QDQBertPreTrainedModel) -> dict[str, dict[str, Any]]:
    ranges = {}
    for name, quantizer in model._core_quantizers():
        entry: dict[str, Any] = {}
        for key, value in (("amax", quantizer.amax()), ("pre_quant_scale", quantizer.pre_quant_scale())):
            if value is not None:
                entry[key] = plain_array(value)
        if quantizer.options()["learn_amax"]:
            entry["clip"] = [float(bound) for bound in quantizer.clip()]
        if entry:
            ranges[name] = entry
    return ranges

# SPDX-License-Identifier: Apache-2.0
"""Where a loss that is NaN or infinite comes from: the first place in the model that is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from qdqbert.arrays import Array
from qdqbert.errors import StateError

__all__ = ["find_nonfinite", "find_nonfinite_gradient"]

_IGNORED = -100


def find_nonfinite(model: Any, inputs: Mapping[str, Any]) -> str:
    """Say where the first value that is not finite is, by the weights, the inputs and a forward of its own.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
        Left in evaluation mode.
    inputs : mapping
        The batch that gave the loss.

    Returns
    -------
    str
        A clause, such as ``"bert.encoder.layer.3.output.dense.weight has 2 values that are not finite"``.
    """
    found = _first_of(model.named_parameters()) or _first_of(model.named_buffers())
    if found:
        return found
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"the batch's {name} has values that are not finite"
    for name, value in inputs.items():
        if "label" in name and (np.asarray(value) == _IGNORED).all():
            return f"every one of the batch's {name} is {_IGNORED}, so none counts"
    model.eval()
    labels = {name for name in inputs if "label" in name or name in ("start_positions", "end_positions")}
    arguments = {name: value for name, value in inputs.items() if name not in labels}
    try:
        out = model(**arguments, output_hidden_states=True)
    except (ValueError, StateError) as error:  # products of codes name the site themselves
        return str(error)
    base = model.base_model_prefix if model.base_model is not model else ""
    prefix = f"{base}." if base else ""
    for index, states in enumerate(out.hidden_states or ()):
        where = f"{prefix}encoder.layer.{index - 1}" if index else f"{prefix}embeddings"
        if not np.isfinite(states).all():
            sequence, token = np.argwhere(~np.isfinite(states).all(axis=-1))[0]
            return f"the output of {where} is not finite, first at sequence {sequence}, token {token}"
    for name, value in out.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            if not np.isfinite(value).all():
                return f"the hidden states are finite, {name} of the head is not"
            largest = float(np.abs(value).max(initial=0.0))
            if "logits" in name:
                return (
                    f"weights, hidden states and {name} (largest magnitude {largest:.3g}) are finite without "
                    "dropout; what is not is the loss of these labels, or a forward with dropout"
                )
    return "weights and hidden states are finite without dropout"


def find_nonfinite_gradient(model: Any) -> str:
    """Say which gradients are not finite.

    Parameters
    ----------
    model : QDQBertPreTrainedModel

    Returns
    -------
    str
        A clause.
    """
    gradients = ((name, parameter.grad) for name, parameter in model.named_parameters())
    # Backward goes from the head to the embeddings, so the last layer with such a gradient had it first.
    names = [name for name, gradient in gradients if gradient is not None and not np.isfinite(gradient).all()]
    if not names:
        return "each gradient is finite, their norm is too large for a number"
    if len(names) == 1:
        return f"the gradient of {names[0]} is not finite"
    return f"{len(names)} gradients are not finite, nearest to the loss that of {names[-1]}"


def _first_of(tensors: Iterable[tuple[str, Array]]) -> str:
    for name, value in tensors:
        count = int(value.size - np.count_nonzero(np.isfinite(value)))
        if count:
            values = "a value that is" if count == 1 else f"{count} values that are"
            return f"{name} has {values} not finite"
    return ""

# SPDX-License-Identifier: Apache-2.0
"""The length of gradients, and its limit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from qdqbert import _core
from qdqbert.module import Module
from qdqbert.parameter import ModelPlace, Parameter

__all__ = ["clip_grad_norm_"]


def clip_grad_norm_(
    parameters: Module | Parameter | Iterable[Parameter],
    max_norm: float,
    *,
    error_if_nonfinite: bool = False,
) -> float:
    """Scale gradients so that all together they are no longer than `max_norm`.

    Parameters
    ----------
    parameters : Module, Parameter, or iterable of Parameter
        Those without a gradient do not count.
    max_norm : float
        At least 0; infinity only measures.
    error_if_nonfinite : bool
        Whether a length that is NaN or infinite is an error; otherwise the gradients become NaN or 0, as in
        PyTorch.

    Returns
    -------
    float
        The length before: root of the sum of squares, computed in float64.

    Raises
    ------
    TypeError, ValueError
        If `parameters` or `max_norm` are none.
    ValueError
        If the length is not finite and `error_if_nonfinite` is set; nothing is scaled then.
    StateError
        If another thread runs backward on the model at this moment.
    """
    if isinstance(parameters, Module):
        parameters = parameters.parameters()
    elif isinstance(parameters, Parameter):
        parameters = [parameters]
    if not isinstance(parameters, Iterable) or isinstance(parameters, memoryview):
        raise TypeError(f"parameters: expected an iterable of Parameter, got {type(parameters).__name__}")
    chosen = list(parameters)
    for index, parameter in enumerate(chosen):
        if not isinstance(parameter, Parameter):
            raise TypeError(f"parameters[{index}]: expected a Parameter, got {type(parameter).__name__}")
    if isinstance(max_norm, bool) or not isinstance(max_norm, int | float | np.integer | np.floating):
        raise TypeError(f"max_norm: expected a number, got {type(max_norm).__name__}")
    if not max_norm >= 0.0:
        raise ValueError(f"max_norm: expected at least 0, got {max_norm}")
    indices: dict[_core.Model, list[int]] = {}
    others: list[Parameter] = []
    for parameter in chosen:
        if not parameter.state.has_gradient or parameter.grad is None:
            continue
        place = parameter.place
        if isinstance(place, ModelPlace):
            indices.setdefault(place.model, []).append(place.index)
        else:
            others.append(parameter)
    of_models = {model: np.array(places, np.int64) for model, places in indices.items()}
    total = _length(of_models, others)
    if error_if_nonfinite and not math.isfinite(total):
        raise ValueError(f"the gradients are {total} long, so they cannot be scaled to {max_norm}")
    factor = float(max_norm) / (total + 1e-6)
    if factor >= 1.0:
        return total
    for model, places in of_models.items():
        model.scale_gradients(factor, places)
    for parameter in others:
        parameter.grad = np.asarray(parameter.grad) * np.float32(factor)
    return total


def _length(of_models: dict[_core.Model, Any], others: list[Parameter]) -> float:
    squares = [model.gradient_norm(places) ** 2 for model, places in of_models.items()]
    squares += [float(np.sum(np.square(np.asarray(parameter.grad, np.float64)))) for parameter in others]
    return math.sqrt(sum(squares))

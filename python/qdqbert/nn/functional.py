# SPDX-License-Identifier: Apache-2.0
"""Clipping as a function, with the gradient that learned ranges need."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array, as_float32, as_float_array
from qdqbert.device import default_device

__all__ = ["ClipFunction", "clip", "clip_grad"]


def clip(inputs: npt.ArrayLike, clip_value_min: npt.ArrayLike, clip_value_max: npt.ArrayLike) -> Array:
    """``max(min(inputs, clip_value_max), clip_value_min)``.

    Parameters
    ----------
    inputs : array_like, any shape, floating point
    clip_value_min, clip_value_max : array_like
        Bounds that broadcast to `inputs`; where they cross, the lower one wins.

    Returns
    -------
    ndarray, shape and type of `inputs`

    Raises
    ------
    TypeError
        If a tensor is not floating point.
    ValueError
        If a bound does not broadcast.
    """
    x = as_float_array(inputs, "inputs")
    low = as_float_array(clip_value_min, "clip_value_min")
    high = as_float_array(clip_value_max, "clip_value_max")
    y = _core.clip(
        default_device(),
        as_float32(x, "inputs"),
        as_float32(low, "clip_value_min"),
        as_float32(high, "clip_value_max"),
    )
    if x.dtype == np.float64:  # a choice between three numbers, none of which may lose digits
        return np.asarray(np.maximum(np.minimum(x, high), low))
    return y.astype(x.dtype, copy=False)


def clip_grad(
    inputs: npt.ArrayLike,
    clip_value_min: npt.ArrayLike,
    clip_value_max: npt.ArrayLike,
    grad_outputs: npt.ArrayLike,
) -> tuple[Array, float, float]:
    """Gradient of `clip` with scalar bounds.

    Parameters
    ----------
    inputs, clip_value_min, clip_value_max : array_like
        As given to `clip`; the bounds have one element each.
    grad_outputs : array_like, shape of `inputs`
        Gradient of the outputs.

    Returns
    -------
    grad_inputs : ndarray, shape and type of `inputs`
        `grad_outputs` strictly between the bounds, otherwise 0.
    grad_min : float
        Sum of `grad_outputs` where ``inputs <= clip_value_min``.
    grad_max : float
        Sum of `grad_outputs` where ``inputs >= clip_value_max``.

    Raises
    ------
    ValueError
        If a bound has more than one element, or `grad_outputs` has another shape.
    TypeError
        If a tensor is not floating point.

    References
    ----------
    Choi et al., 2018, "PACT: Parameterized Clipping Activation for Quantized Neural Networks".
    """
    x = as_float_array(inputs, "inputs")
    low = as_float32(clip_value_min, "clip_value_min")
    high = as_float32(clip_value_max, "clip_value_max")
    if low.size != 1 or high.size != 1:
        raise ValueError(f"Learnable min/max can only be scalar, got size {low.shape} and {high.shape}.")
    dy = as_float_array(grad_outputs, "grad_outputs")
    arguments = default_device(), as_float32(x, "inputs"), low.reshape(()), high.reshape(())
    dx, dmin, dmax = _core.clip_grad(*arguments, as_float32(dy, "grad_outputs"))
    if dy.dtype == np.float64:
        passes, _, _ = _core.clip_grad(*arguments, np.ones(dy.shape, np.float32))
        dx = np.where(passes != 0, dy, 0.0)
    return dx.astype(x.dtype, copy=False), float(np.float32(dmin)), float(np.float32(dmax))


class ClipFunction:
    """`clip` as the original's autograd function: ``apply``, and its gradient."""

    apply: Final = staticmethod(clip)
    grad: Final = staticmethod(clip_grad)

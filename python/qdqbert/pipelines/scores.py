# SPDX-License-Identifier: Apache-2.0
"""From logits to scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["best", "sigmoid", "softmax"]

Floats = npt.NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Return shares of 1 along the last axis.

    Parameters
    ----------
    logits : ndarray (..., n) float32

    Returns
    -------
    ndarray (..., n) float32
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def sigmoid(logits: Floats) -> Floats:
    """Return one score in [0, 1] for each logit, without overflow.

    Parameters
    ----------
    logits : ndarray float32

    Returns
    -------
    ndarray float32
    """
    powers = np.exp(-np.abs(logits))
    scores: Floats = np.where(logits >= 0, 1 / (1 + powers), powers / (1 + powers))
    return scores


def best(scores: Floats, count: int) -> npt.NDArray[np.int64]:
    """Return indices of the largest values, best first, equal ones by index.

    Parameters
    ----------
    scores : ndarray (n,)
    count : int
        >= 1.

    Returns
    -------
    ndarray (min(count, n),) int64
    """
    if count < len(scores):
        # All that reach the smallest of the best, so that equal values at the border keep their order.
        border = np.partition(scores, -count)[-count]
        reached = np.flatnonzero(scores >= border)
    else:
        reached = np.arange(len(scores))
    return reached[np.argsort(-scores[reached], kind="stable")[:count]].astype(np.int64)

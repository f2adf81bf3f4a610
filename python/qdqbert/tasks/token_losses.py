# SPDX-License-Identifier: Apache-2.0
"""Negative log-likelihoods of tokens, one by one, from logits over a vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["token_losses", "vocabulary_logits"]

# Rows of logits in float64 at a time: 16 MB at 30,000 wordpieces.
_ROWS = 64


def vocabulary_logits(out: Any, shape: tuple[int, int], vocab_size: int) -> npt.NDArray[np.float32]:
    """Take a language model's logits.

    Parameters
    ----------
    out : object
        What the model returned.
    shape : (int, int)
        Of its input ids (B, T).
    vocab_size : int

    Returns
    -------
    ndarray (B, T, vocab_size) float32

    Raises
    ------
    ValueError
        If ``out.logits`` has another shape.
    """
    logits = np.asarray(out.logits)
    if logits.shape != (*shape, vocab_size):
        raise ValueError(
            f"logits: expected shape {(*shape, vocab_size)} (one value for each token and wordpiece), "
            f"found {logits.shape}"
        )
    return logits


def token_losses(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Negative log-likelihood of each target, natural logarithm.

    Parameters
    ----------
    logits : ndarray (N, V) float32
    targets : ndarray (N,) int64
        In [0, V).

    Returns
    -------
    ndarray (N,) float64
        Sums are taken in float64.

    Raises
    ------
    ValueError
        If a logit is NaN or infinite where that leaves no loss.
    """
    losses = np.empty(len(logits), dtype=np.float64)
    for start in range(0, len(logits), _ROWS):
        rows = logits[start : start + _ROWS].astype(np.float64)
        chosen = rows[np.arange(len(rows)), targets[start : start + _ROWS]]
        largest = rows.max(axis=1)
        with np.errstate(invalid="ignore"):  # infinite logits: looked at below
            rows -= largest[:, None]
            np.exp(rows, out=rows)
            losses[start : start + _ROWS] = largest + np.log(rows.sum(axis=1)) - chosen
    if not np.isfinite(losses).all():
        raise ValueError("logits: expected finite numbers, found NaN or infinities")
    # -0.0 and roundings below 0 belong to certainty.
    return np.maximum(losses, 0.0)

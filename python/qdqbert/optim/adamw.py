# SPDX-License-Identifier: Apache-2.0
"""AdamW, as PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from qdqbert.arrays import Array
from qdqbert.optim.optimizer import Moments, Optimizer, Settings, require_number

__all__ = ["AdamW"]


class AdamW(Optimizer):
    """Adam with decoupled weight decay and bias correction; ``torch.optim.AdamW``.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Such as ``model.parameters()`` or ``model.parameter_groups(weight_decay=0.01)``.
    lr : float
        Learning rate, at least 0.
    betas : pair of float
        Decay of the two moments, in [0, 1).
    eps : float
        Added to the root of the second moment, at least 0.
    weight_decay : float
        Share of a parameter, times `lr`, that a step takes away; at least 0.

    Raises
    ------
    TypeError, ValueError
        If `params` are none, or a setting is out of range; it is named.

    References
    ----------
    Loshchilov and Hutter, 2019, "Decoupled Weight Decay Regularization".

    Examples
    --------
    >>> import qdqbert
    >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
    >>> model = qdqbert.QDQBertForQuestionAnswering(config).train()
    >>> optimizer = AdamW(model.parameters(), lr=1e-4)
    >>> model([[5, 6, 7]], start_positions=[1], end_positions=[2]).loss.backward()
    >>> optimizer.step(); optimizer.zero_grad()
    """

    _kind = "adamw"
    _state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _settings(self, group: Mapping[str, Any], where: str) -> Settings:
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"{where}['betas']: expected a pair of numbers, got {betas!r}")
        return Settings(
            learning_rate=require_number(f"{where}['lr']", group["lr"]),
            weight_decay=require_number(f"{where}['weight_decay']", group["weight_decay"]),
            beta1=require_number(f"{where}['betas'][0]", betas[0], below=1.0),
            beta2=require_number(f"{where}['betas'][1]", betas[1], below=1.0),
            eps=require_number(f"{where}['eps']", group["eps"]),
        )

    def _step_array(self, x: Array, gradient: Array, moments: Moments, settings: Settings) -> Array:
        s, t = settings, moments.steps
        # The scalars in float64, rounded once, as in the C core.
        first_weight, second_weight = np.float32(1.0 - s.beta1), np.float32(1.0 - s.beta2)
        correction = np.float32(math.sqrt(1.0 - s.beta2**t))
        step_size = np.float32(s.learning_rate / (1.0 - s.beta1**t))
        moments.first += (gradient - moments.first) * first_weight
        moments.second *= np.float32(s.beta2)
        moments.second += gradient * gradient * second_weight
        denominator = np.sqrt(moments.second) / correction + np.float32(s.eps)
        decayed = x * np.float32(1.0 - s.learning_rate * s.weight_decay)
        return np.asarray(decayed - step_size * (moments.first / denominator), np.float32)

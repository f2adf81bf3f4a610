# SPDX-License-Identifier: Apache-2.0
"""Stochastic gradient descent with momentum, as PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from qdqbert.arrays import Array
from qdqbert.errors import UnsupportedError
from qdqbert.optim.optimizer import Moments, Optimizer, Settings, require_number

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent; ``torch.optim.SGD``.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Such as ``model.parameters()``.
    lr : float
        Learning rate, at least 0.
    momentum : float
        At least 0.
    dampening : float
        0: others are not built.
    weight_decay : float
        Share of a parameter that is added to its gradient; at least 0.
    nesterov : bool
        Look ahead; needs `momentum`.

    Raises
    ------
    TypeError, ValueError
        If `params` are none, or a setting is out of range; it is named.
    UnsupportedError
        If `dampening` is not 0.

    References
    ----------
    Sutskever et al., 2013, "On the importance of initialization and momentum in deep learning".

    Examples
    --------
    >>> import qdqbert
    >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
    >>> optimizer = SGD(qdqbert.QDQBertModel(config).parameters(), lr=0.1, momentum=0.9)
    >>> optimizer.param_groups[0]["momentum"]
    0.9
    """

    _kind = "sgd"
    _state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)

    def _settings(self, group: Mapping[str, Any], where: str) -> Settings:
        momentum = require_number(f"{where}['momentum']", group["momentum"])
        if require_number(f"{where}['dampening']", group["dampening"]) != 0.0:
            raise UnsupportedError(f"{where}['dampening']: expected 0, got {group['dampening']}: not built")
        nesterov = group["nesterov"]
        if not isinstance(nesterov, bool):
            raise TypeError(f"{where}['nesterov']: expected bool, got {type(nesterov).__name__}")
        if nesterov and momentum == 0.0:
            raise ValueError(f"{where}['nesterov']: needs a momentum above 0")
        return Settings(
            learning_rate=require_number(f"{where}['lr']", group["lr"]),
            weight_decay=require_number(f"{where}['weight_decay']", group["weight_decay"]),
            momentum=momentum,
            nesterov=nesterov,
        )

    def _step_array(self, x: Array, gradient: Array, moments: Moments, settings: Settings) -> Array:
        momentum = np.float32(settings.momentum)
        gradient = gradient + np.float32(settings.weight_decay) * x
        if settings.momentum:
            moments.first[...] = gradient if moments.steps == 1 else momentum * moments.first + gradient
            gradient = gradient + momentum * moments.first if settings.nesterov else moments.first
        return np.asarray(x - np.float32(settings.learning_rate) * gradient, np.float32)

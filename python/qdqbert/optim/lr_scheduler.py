# SPDX-License-Identifier: Apache-2.0
"""Learning rates over the steps of training: PyTorch's ``LambdaLR``, and the schedules of transformers.

A schedule is a factor on the learning rate that each group starts with, as a function of the number of steps
taken.  After each ``optimizer.step()`` call ``scheduler.step()``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qdqbert.errors import UnsupportedError
from qdqbert.optim.optimizer import Optimizer, require_number

__all__ = [
    "LambdaLR",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup",
    "get_inverse_sqrt_schedule",
    "get_linear_schedule_with_warmup",
    "get_polynomial_decay_schedule_with_warmup",
    "get_scheduler",
]

Factor = Callable[[int], float]


class LambdaLR:
    """Learning rate of each group: the one that it starts with, times a function of the step.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups get ``"initial_lr"``, and ``"lr"`` from then on.
    lr_lambda : callable (int) -> float, or sequence of them
        The factor after so many steps; one for all groups, or one for each.
    last_epoch : int
        Number of the last step, to go on from there; -1: from the start.

    Raises
    ------
    TypeError
        If `optimizer` is none.
    ValueError
        If there are not as many functions as groups.
    KeyError
        If `last_epoch` is not -1 and a group has no ``"initial_lr"``.

    Attributes
    ----------
    base_lrs : list of float
        What each group starts with.
    last_epoch : int
        Steps taken.
    """

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected an optimizer, got {type(optimizer).__name__}")
        groups = optimizer.param_groups
        self.lr_lambdas: list[Factor] = [lr_lambda] * len(groups) if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != len(groups):
            raise ValueError(f"lr_lambda: expected {len(groups)} functions, got {len(self.lr_lambdas)}")
        for index, group in enumerate(groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param_groups[{index}] has no 'initial_lr', from which a schedule goes on after step "
                    f"{last_epoch}"
                )
        self.optimizer = optimizer
        self.base_lrs: list[float] = [group["initial_lr"] for group in groups]
        self.last_epoch: int = last_epoch
        self.step()

    def step(self) -> None:
        """Count a step, and set the learning rate of every group."""
        self.last_epoch += 1
        self._last_lr = [
            base * factor(self.last_epoch)
            for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=False):
            group["lr"] = rate

    def get_last_lr(self) -> list[float]:
        """Return the present learning rate of each group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule is: plain numbers, without the functions."""
        return {
            "base_lrs": list(self.base_lrs),
            "last_epoch": self.last_epoch,
            "_last_lr": self.get_last_lr(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; the groups of the optimizer get its learning rates.

        Parameters
        ----------
        state_dict : mapping

        Raises
        ------
        ValueError
            If it is no such state, or of another number of groups; nothing is changed then.
        """
        try:
            bases = [require_number("base_lrs", value) for value in state_dict["base_lrs"]]
            rates = [require_number("_last_lr", value) for value in state_dict["_last_lr"]]
            last_epoch = state_dict["last_epoch"]
        except (KeyError, TypeError, NotImplementedError) as error:  # the last: odd memoryviews
            raise ValueError(f"state_dict: expected what state_dict() returns: {error}") from error
        groups = self.optimizer.param_groups
        if len(bases) != len(groups) or len(rates) != len(groups):
            raise ValueError(f"state_dict: expected {len(groups)} learning rates, got {len(bases)}")
        if isinstance(last_epoch, bool) or not isinstance(last_epoch, int) or last_epoch < 0:
            raise ValueError(f"last_epoch: expected an integer of at least 0, got {last_epoch!r}")
        self.base_lrs, self.last_epoch, self._last_lr = bases, last_epoch, rates
        for group, base, rate in zip(groups, bases, rates, strict=True):
            group["initial_lr"], group["lr"] = base, rate


# ---- factors ---------------------------------------------------------------------------------------------


def _warm_up(step: int, num_warmup_steps: int) -> float:
    return step / max(1, num_warmup_steps)


def _progress(step: int, num_warmup_steps: int, num_training_steps: int) -> float:
    """Share of the steps after the warm-up that have been taken."""
    return (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)


def _constant(step: int, *, num_warmup_steps: int) -> float:
    return _warm_up(step, num_warmup_steps) if step < num_warmup_steps else 1.0


def _linear(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    if step < num_warmup_steps:
        return _warm_up(step, num_warmup_steps)
    left = num_training_steps - step
    return max(0.0, left / max(1, num_training_steps - num_warmup_steps))


def _cosine(
    step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float, min_rate: float
) -> float:
    if step < num_warmup_steps:
        return _warm_up(step, num_warmup_steps)
    progress = _progress(step, num_warmup_steps, num_training_steps)
    factor = 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress))
    return max(0.0, factor * (1.0 - min_rate) + min_rate)


def _restarts(step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: int) -> float:
    if step < num_warmup_steps:
        return _warm_up(step, num_warmup_steps)
    progress = _progress(step, num_warmup_steps, num_training_steps)
    if progress >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((num_cycles * progress) % 1.0))))


def _polynomial(
    step: int, *, num_warmup_steps: int, num_training_steps: int, end_rate: float, power: float
) -> float:
    if step < num_warmup_steps:
        return _warm_up(step, num_warmup_steps)
    if step > num_training_steps:
        return end_rate
    left = 1.0 - _progress(step, num_warmup_steps, num_training_steps)
    return float((1.0 - end_rate) * left**power + end_rate)


def _inverse_sqrt(step: int, *, num_warmup_steps: int, timescale: int) -> float:
    if step < num_warmup_steps:
        return _warm_up(step, num_warmup_steps)
    return 1.0 / math.sqrt((step + timescale - num_warmup_steps) / timescale)


def _schedule(
    optimizer: Optimizer,
    shape: Callable[..., float],
    num_warmup_steps: int,
    num_training_steps: int,
    last_epoch: int,
    **settings: float,
) -> LambdaLR:
    """Return the schedule of a shape that warms up and knows where it ends."""
    factor = functools.partial(
        shape,
        num_warmup_steps=_steps("num_warmup_steps", num_warmup_steps),
        num_training_steps=_steps("num_training_steps", num_training_steps),
        **settings,
    )
    return LambdaLR(optimizer, factor, last_epoch)


def _steps(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{name}: expected an integer of at least 0, got {value!r}")
    return int(value)


# ---- schedules -------------------------------------------------------------------------------------------


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """Return the schedule that leaves learning rates as they are.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int
        See `LambdaLR`; also below.
    """
    return LambdaLR(optimizer, functools.partial(_constant, num_warmup_steps=0), last_epoch)


def get_constant_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Return the schedule that rises from 0 and stays.

    Parameters
    ----------
    optimizer : Optimizer
    num_warmup_steps : int
        Steps of the rise, at least 0.
    last_epoch : int
    """
    warmup = _steps("num_warmup_steps", num_warmup_steps)
    return LambdaLR(optimizer, functools.partial(_constant, num_warmup_steps=warmup), last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Return the schedule that rises from 0 and falls back to it in straight lines.

    Parameters
    ----------
    optimizer : Optimizer
    num_warmup_steps : int
        Steps of the rise, at least 0.
    num_training_steps : int
        All steps, at least 0.
    last_epoch : int
    """
    return _schedule(optimizer, _linear, num_warmup_steps, num_training_steps, last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Return the schedule that rises from 0 in a straight line and falls along a cosine.

    Parameters
    ----------
    optimizer : Optimizer
    num_warmup_steps : int
        Steps of the rise, at least 0.
    num_training_steps : int
        All steps, at least 0.
    num_cycles : float
        Waves; half a one goes from 1 to 0.
    last_epoch : int
    """
    return _schedule(
        optimizer,
        _cosine,
        num_warmup_steps,
        num_training_steps,
        last_epoch,
        num_cycles=num_cycles,
        min_rate=0.0,
    )


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """Return the cosine schedule that ends above 0.

    Parameters
    ----------
    optimizer : Optimizer
    num_warmup_steps, num_training_steps, num_cycles, last_epoch
        As in `get_cosine_schedule_with_warmup`.
    min_lr : float, optional
        The lowest learning rate, of groups that start with that of the optimizer.
    min_lr_rate : float, optional
        The same as a share of the first; one of the two.

    Raises
    ------
    ValueError
        If both or neither are given.
    """
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError("min_lr, min_lr_rate: expected one of the two")
    if min_lr is not None:
        min_lr_rate = require_number("min_lr", min_lr) / optimizer.defaults["lr"]
    return _schedule(
        optimizer,
        _cosine,
        num_warmup_steps,
        num_training_steps,
        last_epoch,
        num_cycles=num_cycles,
        min_rate=require_number("min_lr_rate", min_lr_rate),
    )


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: int = 1,
    last_epoch: int = -1,
) -> LambdaLR:
    """Return the schedule that falls along a cosine several times, each time from the top.

    Parameters
    ----------
    optimizer : Optimizer
    num_warmup_steps, num_training_steps, last_epoch
        As in `get_cosine_schedule_with_warmup`.
    num_cycles : int
        How often.
    """
    return _schedule(
        optimizer,
        _restarts,
        num_warmup_steps,
        num_training_steps,
        last_epoch,
        num_cycles=num_cycles,
    )


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """Return the schedule that falls from the learning rate to `lr_end` along a power of what is left.

    Parameters
    ----------
    optimizer : Optimizer
    num_warmup_steps, num_training_steps, last_epoch
        As in `get_linear_schedule_with_warmup`.
    lr_end : float
        Below the optimizer's learning rate.
    power : float

    Raises
    ------
    ValueError
        If `lr_end` is not below it.
    """
    rate = optimizer.defaults["lr"]
    if not rate > lr_end:
        raise ValueError(f"lr_end: expected less than the optimizer's learning rate {rate}, got {lr_end}")
    return _schedule(
        optimizer,
        _polynomial,
        num_warmup_steps,
        num_training_steps,
        last_epoch,
        end_rate=require_number("lr_end", lr_end) / rate,
        power=power,
    )


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """Return the schedule that rises from 0 and then falls with the root of the number of steps.

    Parameters
    ----------
    optimizer : Optimizer
    num_warmup_steps : int
        Steps of the rise, at least 0.
    timescale : int, optional
        Steps after which it has fallen by the root of 2; those of the rise if left out, or 10000.
    last_epoch : int
    """
    warmup = _steps("num_warmup_steps", num_warmup_steps)
    factor = functools.partial(
        _inverse_sqrt, num_warmup_steps=warmup, timescale=timescale or warmup or 10_000
    )
    return LambdaLR(optimizer, factor, last_epoch)


_SCHEDULES: dict[str, Callable[..., LambdaLR]] = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "cosine_with_restarts": get_cosine_with_hard_restarts_schedule_with_warmup,
    "cosine_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup,
    "polynomial": get_polynomial_decay_schedule_with_warmup,
    "constant": get_constant_schedule,
    "constant_with_warmup": get_constant_schedule_with_warmup,
    "inverse_sqrt": get_inverse_sqrt_schedule,
}
_NOT_BUILT = ("reduce_lr_on_plateau", "warmup_stable_decay")


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> LambdaLR:
    """Return a schedule by its name in transformers' ``SchedulerType``.

    Parameters
    ----------
    name : str
        ``"linear"``, ``"cosine"``, ``"cosine_with_restarts"``, ``"cosine_with_min_lr"``, ``"polynomial"``,
        ``"constant"``, ``"constant_with_warmup"`` or ``"inverse_sqrt"``.
    optimizer : Optimizer
    num_warmup_steps, num_training_steps : int, optional
        Of the schedules that have them.
    scheduler_specific_kwargs : mapping, optional
        More arguments of the schedule.

    Raises
    ------
    ValueError
        If there is no such schedule, or it needs steps that are not given.
    UnsupportedError
        If transformers has it, but it is not built here.
    """
    name = str(getattr(name, "value", name))
    more = dict(scheduler_specific_kwargs or {})
    if name in _NOT_BUILT:
        raise UnsupportedError(f"name: the schedule {name!r} is not built; there are {', '.join(_SCHEDULES)}")
    if name not in _SCHEDULES:
        raise ValueError(f"name: expected one of {', '.join(_SCHEDULES)}, got {name!r}")
    schedule = _SCHEDULES[name]
    if name == "constant":
        return schedule(optimizer, **more)
    if num_warmup_steps is None:
        raise ValueError(f"num_warmup_steps: the schedule {name!r} needs it")
    if name in ("constant_with_warmup", "inverse_sqrt"):
        return schedule(optimizer, num_warmup_steps=num_warmup_steps, **more)
    if num_training_steps is None:
        raise ValueError(f"num_training_steps: the schedule {name!r} needs it")
    return schedule(
        optimizer, num_warmup_steps=num_warmup_steps, num_training_steps=num_training_steps, **more
    )

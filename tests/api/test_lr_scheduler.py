# SPDX-License-Identifier: Apache-2.0
"""Schedules against their definitions where they turn, and against those of transformers if it is there."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qdqbert.errors import UnsupportedError
from qdqbert.nn import QuantLinear
from qdqbert.optim import SGD, get_scheduler, lr_scheduler
from qdqbert.optim.lr_scheduler import LambdaLR

LR = 0.5


def optimizer(lr: float = LR) -> SGD:
    return SGD(QuantLinear(3, 2).parameters(), lr=lr)


def rates(name: str, steps: int, warmup: int = 0, total: int | None = None, **more: Any) -> list[float]:
    each = optimizer()
    schedule = get_scheduler(name, each, warmup, total, more)
    values = []
    for _ in range(steps):
        values.append(each.param_groups[0]["lr"])
        assert schedule.get_last_lr() == values[-1:]
        schedule.step()
    return values


def test_the_linear_schedule_rises_and_falls_in_straight_lines() -> None:
    found = rates("linear", 9, warmup=2, total=6)
    assert found == pytest.approx([LR * f for f in (0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0, 0)])


def test_the_cosine_schedule_falls_along_half_a_wave() -> None:
    found = rates("cosine", 6, warmup=1, total=5)
    expected = [0.0] + [LR * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert found == pytest.approx(expected, abs=1e-16)


def test_constant_schedules_stay() -> None:
    assert rates("constant", 3) == [LR] * 3
    assert rates("constant_with_warmup", 4, warmup=2) == [0, LR / 2, LR, LR]


def test_the_cosine_schedule_may_end_above_zero() -> None:
    by_rate = rates("cosine_with_min_lr", 6, warmup=1, total=5, min_lr_rate=0.2)
    assert by_rate == pytest.approx(rates("cosine_with_min_lr", 6, warmup=1, total=5, min_lr=0.2 * LR))
    assert by_rate[1] == LR
    assert by_rate[5] == pytest.approx(0.2 * LR)


def test_restarts_begin_at_the_top_each_time() -> None:
    found = rates("cosine_with_restarts", 9, warmup=0, total=8, num_cycles=2)
    assert found[0] == found[4] == LR
    assert found[3] == pytest.approx(LR * (1 + math.cos(math.pi * 0.75)) / 2)
    assert found[8] == 0.0


def test_the_polynomial_schedule_ends_where_it_is_told() -> None:
    found = rates("polynomial", 7, warmup=1, total=5, lr_end=0.1, power=2.0)
    assert found[1] == LR
    assert found[3] == pytest.approx((LR - 0.1) * 0.25 + 0.1)
    assert found[5:] == pytest.approx([0.1, 0.1])


def test_the_inverse_root_schedule_halves_after_three_timescales() -> None:
    found = rates("inverse_sqrt", 21, warmup=5)
    assert found[5] == LR
    assert found[20] == pytest.approx(LR / 2)


def test_each_group_follows_its_own_rate_and_function() -> None:
    layer = QuantLinear(3, 2)
    each = SGD([{"params": layer.weight, "lr": 1.0}, {"params": layer.bias}], lr=0.1)
    schedule = LambdaLR(each, [lambda step: 0.5**step, lambda step: 1.0])
    schedule.step()
    assert [group["lr"] for group in each.param_groups] == [0.5, 0.1]
    assert [group["initial_lr"] for group in each.param_groups] == [1.0, 0.1]


def test_a_schedule_goes_on_from_its_state() -> None:
    each = optimizer()
    schedule = get_scheduler("cosine", each, 2, 10)
    for _ in range(4):
        schedule.step()
    state = schedule.state_dict()
    again = optimizer(0.123)
    other = get_scheduler("cosine", again, 2, 10)
    other.load_state_dict(state)
    assert again.param_groups[0]["lr"] == each.param_groups[0]["lr"]
    schedule.step()
    other.step()
    assert again.param_groups[0]["lr"] == each.param_groups[0]["lr"]
    assert other.last_epoch == 5


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"base_lrs": [1.0], "last_epoch": -1, "_last_lr": [1.0]},
        {"base_lrs": [1.0, 2.0], "last_epoch": 1, "_last_lr": [1.0, 2.0]},
        {"base_lrs": [math.nan], "last_epoch": 1, "_last_lr": [1.0]},
        {"base_lrs": ["1"], "last_epoch": 1, "_last_lr": [1.0]},
    ],
)
def test_a_state_that_is_none_changes_nothing(state: dict[str, Any]) -> None:
    each = optimizer()
    schedule = get_scheduler("constant", each)
    with pytest.raises(ValueError, match=r"state_dict|base_lrs|last_epoch"):
        schedule.load_state_dict(state)
    assert (schedule.last_epoch, each.param_groups[0]["lr"]) == (0, LR)


def test_going_on_without_a_first_rate_is_refused() -> None:
    with pytest.raises(KeyError, match="no 'initial_lr'"):
        LambdaLR(optimizer(), lambda step: 1.0, last_epoch=3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("quadratic", 0, 5), ValueError, "expected one of linear, cosine"),
        (("reduce_lr_on_plateau", 0, 5), UnsupportedError, "not built"),
        (("linear", None, 5), ValueError, "num_warmup_steps: the schedule 'linear' needs it"),
        (("linear", 0, None), ValueError, "num_training_steps: the schedule 'linear' needs it"),
        (("linear", -1, 5), ValueError, "num_warmup_steps: expected an integer of at least 0"),
        (("linear", 0, 5.5), ValueError, "num_training_steps: expected an integer"),
        (("cosine_with_min_lr", 0, 5), ValueError, "expected one of the two"),
    ],
)
def test_what_is_no_schedule_is_named(arguments: Any, error: type[Exception], message: str) -> None:
    name, warmup, total = arguments
    with pytest.raises(error, match=message):
        get_scheduler(name, optimizer(), warmup, total)
    with pytest.raises(TypeError, match="expected an optimizer"):
        lr_scheduler.get_constant_schedule(None)  # type: ignore[arg-type]


@pytest.mark.witness
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("linear", {}),
        ("cosine", {}),
        ("cosine", {"num_cycles": 1.5}),
        ("cosine_with_restarts", {"num_cycles": 3}),
        ("polynomial", {"power": 2.0, "lr_end": 1e-3}),
        ("constant_with_warmup", {}),
        ("inverse_sqrt", {}),
    ],
)
def test_rates_are_those_of_transformers(name: str, more: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    optimization = pytest.importorskip("transformers.optimization")
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    make = optimization.TYPE_TO_SCHEDULER_FUNCTION[optimization.SchedulerType(name)]
    arguments = {"num_warmup_steps": 7, **more}
    if name not in ("constant_with_warmup", "inverse_sqrt"):
        arguments["num_training_steps"] = 31
    schedule = make(theirs, **arguments)
    found = rates(name, 40, warmup=7, total=31, **more)
    expected = []
    for _ in range(40):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    assert found == pytest.approx(expected, rel=1e-14, abs=1e-16)

# SPDX-License-Identifier: Apache-2.0
"""Events reach callbacks; what these decide, and remember."""

from __future__ import annotations

from typing import Any

import pytest

from qdqbert import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from qdqbert.training.callback import CallbackHandler, DefaultFlowCallback

ARGUMENTS = TrainingArguments("out")
BEST = TrainingArguments(
    "out",
    load_best_model_at_end=True,
    evaluation_strategy="epoch",
    save_strategy="epoch",
    metric_for_best_model="f1",
)


class Counting(TrainerCallback):
    def __init__(self) -> None:
        self.count = 0
        self.seen: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.count += 1
        self.seen = kwargs


class Replacing(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> TrainerControl:
        return TrainerControl(should_save=True)


def call(handler: CallbackHandler, event: str = "on_step_end", **kwargs: Any) -> TrainerControl:
    return handler.call(event, ARGUMENTS, TrainerState(), TrainerControl(), **kwargs)


def test_callbacks_are_given_what_the_trainer_has() -> None:
    callback = Counting()
    handler = CallbackHandler([callback], "model", "tokenizer")
    call(handler, step_metrics={"loss": 1.0})
    assert callback.seen == {
        "model": "model",
        "tokenizer": "tokenizer",
        "optimizer": None,
        "lr_scheduler": None,
        "train_dataloader": None,
        "eval_dataloader": None,
        "step_metrics": {"loss": 1.0},
    }


def test_a_control_that_is_returned_is_used_from_then_on() -> None:
    assert call(CallbackHandler([Replacing, Counting], None, None)).should_save


def test_every_event_has_a_method_that_does_nothing() -> None:
    handler = CallbackHandler([TrainerCallback], None, None)
    events = [name for name in dir(TrainerCallback) if name.startswith("on_")]
    assert len(events) == 14
    for event in events:
        assert call(handler, event) == TrainerControl()


def test_something_else_is_no_callback() -> None:
    with pytest.raises(TypeError, match="expected TrainerCallback, got dict"):
        CallbackHandler([{}], None, None)


def test_a_second_one_of_a_class_is_told_and_called(caplog: pytest.LogCaptureFixture) -> None:
    handler = CallbackHandler([Counting, Counting], None, None)
    assert "there is a Counting already" in caplog.text
    call(handler)
    assert [callback.count for callback in handler.callbacks] == [1, 1]  # type: ignore[attr-defined]


def test_callbacks_are_taken_out_by_object_or_class() -> None:
    first, second = Counting(), Replacing()
    handler = CallbackHandler([first, second], None, None)
    assert handler.pop(Counting) is first
    assert handler.pop(first) is None
    assert handler.pop(second) is second
    assert not handler.callbacks


def test_states_go_back_to_the_callbacks_that_had_them(caplog: pytest.LogCaptureFixture) -> None:
    callbacks = [Counting(), DefaultFlowCallback(), Counting()]
    handler = CallbackHandler(callbacks, None, None)
    callbacks[0].count, callbacks[2].count = 3, 5  # type: ignore[attr-defined]
    states = handler.state_dict()
    assert states == {"Counting": {"count": 3}, "Counting#2": {"count": 5}}
    other = CallbackHandler([DefaultFlowCallback, Counting], None, None)
    other.load_state_dict(states)
    assert other.callbacks[1].count == 3  # type: ignore[attr-defined]
    assert "a state of Counting#2, which this run does not have" in caplog.text


@pytest.mark.parametrize("strategy", ["no", "steps", "epoch"])
def test_logs_evaluations_and_checkpoints_come_when_the_arguments_say(strategy: str) -> None:
    arguments = TrainingArguments(
        "out", logging_strategy=strategy, evaluation_strategy=strategy, save_strategy=strategy, eval_delay=4
    )
    flow = DefaultFlowCallback()
    at_steps, at_epochs = [], []
    for step in range(1, 13):
        state = TrainerState(
            epoch=step / 2, global_step=step, max_steps=12, logging_steps=2, eval_steps=3, save_steps=4
        )
        control = flow.on_step_end(arguments, state, TrainerControl())
        at_steps.append((control.should_log, control.should_evaluate, control.should_save))
        assert control.should_training_stop == (step == 12)
        control = flow.on_epoch_end(arguments, state, TrainerControl())
        at_epochs.append((control.should_log, control.should_evaluate, control.should_save))
    by_steps = [(n % 2 == 0, n % 3 == 0 and n >= 4, n % 4 == 0) for n in range(1, 13)]
    by_epochs = [(True, n / 2 >= 4, True) for n in range(1, 13)]
    never = [(False, False, False)] * 12
    assert at_steps == (by_steps if strategy == "steps" else never)
    assert at_epochs == (by_epochs if strategy == "epoch" else never)


def test_the_first_step_is_logged_if_it_should_be() -> None:
    arguments = TrainingArguments("out", logging_first_step=True)
    state = TrainerState(global_step=1, max_steps=9)
    assert DefaultFlowCallback().on_step_end(arguments, state, TrainerControl()).should_log


def stops(scores: list[float], patience: int, threshold: float, arguments: TrainingArguments = BEST) -> int:
    """Evaluations after which a run of these scores stops; 0 if it does not."""
    callback = EarlyStoppingCallback(patience, threshold)
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(arguments, state, control)
    for number, score in enumerate(scores, 1):
        callback.on_evaluate(arguments, state, control, metrics={"eval_f1": score})
        if control.should_training_stop:
            return number
        better = max if arguments.greater_is_better else min
        state.best_metric = score if state.best_metric is None else better(state.best_metric, score)
    return 0


@pytest.mark.parametrize(
    ("scores", "patience", "threshold", "expected"),
    [
        ([1, 2, 3, 4], 1, 0.0, 0),
        ([1, 2, 2], 1, 0.0, 3),
        ([1, 2, 1, 3, 2, 2.5], 2, 0.0, 6),
        ([1, 1.05, 1.2], 1, 0.1, 2),
        ([3, 2, 1], 3, 0.0, 0),
        ([3, 2, 1, 0], 3, 0.0, 4),
        ([1, float("nan")], 1, 0.0, 2),
    ],
)
def test_a_run_stops_when_it_no_longer_gets_better(
    scores: list[float], patience: int, threshold: float, expected: int
) -> None:
    assert stops(scores, patience, threshold) == expected


def test_less_is_better_for_a_loss() -> None:
    by_loss = TrainingArguments(
        "out",
        load_best_model_at_end=True,
        evaluation_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="f1",
        greater_is_better=False,
    )
    assert stops([3, 2, 1, 1], 1, 0.0, by_loss) == 4


def test_patience_is_remembered() -> None:
    callback = EarlyStoppingCallback(3)
    callback.early_stopping_patience_counter = 2
    other = EarlyStoppingCallback(3)
    other.load_state_dict(callback.state_dict())
    assert other.early_stopping_patience_counter == 2


def test_early_stopping_needs_best_checkpoints() -> None:
    with pytest.raises(ValueError, match="expected load_best_model_at_end=True"):
        EarlyStoppingCallback().on_train_begin(ARGUMENTS, TrainerState(), TrainerControl())


def test_an_evaluation_without_the_figure_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    control = TrainerControl()
    EarlyStoppingCallback().on_evaluate(BEST, TrainerState(), control, metrics={"eval_loss": 1.0})
    assert not control.should_training_stop
    assert "has no eval_f1" in caplog.text


@pytest.mark.parametrize("arguments", [(0,), (1, -0.5), (1, float("nan"))])
def test_patience_and_threshold_have_ranges(arguments: Any) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        EarlyStoppingCallback(*arguments)


class Failing(TrainerCallback):
    def on_train_abort(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise OSError("the tracker is gone")


def test_an_abort_that_fails_is_told_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    aborted = []

    class Noting(TrainerCallback):
        def on_train_abort(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            aborted.append(kwargs["model"])

    CallbackHandler([Failing(), Noting()], "model", None).abort(ARGUMENTS, TrainerState(), TrainerControl())
    assert aborted == ["model"]
    assert "on_train_abort of Failing failed" in caplog.text
    assert "the tracker is gone" in caplog.text

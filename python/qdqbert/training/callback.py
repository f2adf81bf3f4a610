# SPDX-License-Identifier: Apache-2.0
"""Code of others within the training loop: events, as in transformers, and who calls them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from qdqbert.training.arguments import IntervalStrategy, TrainingArguments
from qdqbert.training.trainer_state import TrainerControl, TrainerState

__all__ = ["CallbackHandler", "DefaultFlowCallback", "TrainerCallback"]

_logger = logging.getLogger(__name__)


class TrainerCallback:
    """Base of what looks at a run and decides on it; each method is called at the event of its name.

    Every method is given the run's ``args`` (`TrainingArguments`), its ``state`` (`TrainerState`, to be read)
    and its ``control`` (`TrainerControl`, whose switches it may set), and by name ``model``, ``tokenizer``,
    ``optimizer``, ``lr_scheduler``, ``train_dataloader`` and ``eval_dataloader``.  It may return a control to
    be used from then on.

    A callback that remembers something says so in `state_dict`, so that a resumed run goes on as if it had
    never stopped.

    Examples
    --------
    >>> class StopEarly(TrainerCallback):
    ...     def on_step_end(self, args, state, control, **kwargs):
    ...         control.should_training_stop = state.global_step >= 10
    """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know, as JSON can hold it; nothing by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned when the checkpoint was written.

        Called before `on_train_begin`.

        Parameters
        ----------
        state : mapping
        """

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act when a `Trainer` has been made.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act before the first step, also of a run that is resumed.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act when training has ended; not if an error ended it.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_train_abort(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act when an error or an interrupt ends training, which is raised afterwards; not in transformers.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act before the first step of an epoch, and before the first one that a resumed run does in it.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act after the last step of an epoch.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act before the first batch of a step.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act after a batch that is not the last of its step.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act when the weights have changed, before logs, evaluation and checkpoint of the step.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`; also ``step_metrics``, a dict with ``loss``, ``learning_rate``,
            ``grad_norm`` (None without clipping) and ``samples`` of the step.
        """
        return None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act after an evaluation.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`; also ``metrics``.
        """
        return None

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act after a prediction.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`; also ``metrics``.
        """
        return None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act after a checkpoint has been written.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act when something is logged.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`; also ``logs``, a dict.
        """
        return None

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Act after a batch of an evaluation or prediction.

        Parameters
        ----------
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        return None


class CallbackHandler:
    """The callbacks of a trainer, called in order.

    Parameters
    ----------
    callbacks : iterable of TrainerCallback or of their classes
    model : QDQBertPreTrainedModel
    tokenizer : BertTokenizerFast or None
    """

    def __init__(self, callbacks: Iterable[Any], model: Any, tokenizer: Any) -> None:
        self.callbacks: list[TrainerCallback] = []
        for callback in callbacks:
            self.add(callback)
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.train_dataloader: Any = None
        self.eval_dataloader: Any = None

    def add(self, callback: Any) -> None:
        """Append a callback, or an object of a class; a second one of a class is told in the log.

        Parameters
        ----------
        callback : TrainerCallback, or a class of them

        Raises
        ------
        TypeError
            If it is something else.
        """
        made = callback() if isinstance(callback, type) else callback
        if not isinstance(made, TrainerCallback):
            raise TypeError(f"callbacks: expected TrainerCallback, got {type(made).__name__}")
        if any(type(other) is type(made) for other in self.callbacks):
            _logger.warning("callbacks: there is a %s already; both will be called", type(made).__name__)
        self.callbacks.append(made)

    def pop(self, callback: Any) -> TrainerCallback | None:
        """Take out a callback and return it; None if there is none.

        Parameters
        ----------
        callback : TrainerCallback, or a class: the first one of it
        """
        for index, other in enumerate(self.callbacks):
            if isinstance(other, callback) if isinstance(callback, type) else other is callback:
                return self.callbacks.pop(index)
        return None

    def call(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        """Call the method of an event on all of them, and return the control to go on with.

        Parameters
        ----------
        event : str
            Name of the method.
        args, state, control, **kwargs
            See `TrainerCallback`.
        """
        for callback in list(self.callbacks):
            returned = self._call_one(callback, event, args, state, control, **kwargs)
            if returned is not None:
                control = returned
        return control

    def abort(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Call ``on_train_abort`` on all of them; an error of one is told in the log, and stops no other.

        Parameters
        ----------
        args, state, control
            See `TrainerCallback`.
        """
        for callback in list(self.callbacks):
            try:
                self._call_one(callback, "on_train_abort", args, state, control)
            except Exception:  # what ended training is what is raised
                _logger.warning(
                    "callbacks: on_train_abort of %s failed", type(callback).__name__, exc_info=True
                )

    def _call_one(
        self,
        callback: TrainerCallback,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl | None:
        method: Callable[..., TrainerControl | None] = getattr(callback, event)
        return method(
            args,
            state,
            control,
            model=self.model,
            tokenizer=self.tokenizer,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            train_dataloader=self.train_dataloader,
            eval_dataloader=self.eval_dataloader,
            **kwargs,
        )

    def _named(self) -> Iterator[tuple[str, TrainerCallback]]:
        """Yield each callback with the name of its class, numbered from the second of a class on."""
        seen: dict[str, int] = {}
        for callback in self.callbacks:
            name = type(callback).__name__
            seen[name] = seen.get(name, 0) + 1
            yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), callback

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the states of those callbacks that have one."""
        states = {name: callback.state_dict() for name, callback in self._named()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Give callbacks their states back; one that nobody takes is told in the log.

        Parameters
        ----------
        states : mapping
            As `state_dict` returned it.
        """
        left = dict(states)
        for name, callback in self._named():
            if name in left:
                callback.load_state_dict(left.pop(name))
        for name in left:
            _logger.warning("callbacks: the checkpoint has a state of %s, which this run does not have", name)


class DefaultFlowCallback(TrainerCallback):
    """Logs, evaluations, checkpoints and the end of training, when the arguments say."""

    def on_step_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        step, by_steps = state.global_step, IntervalStrategy.STEPS
        if args.logging_strategy == by_steps and step % state.logging_steps == 0:
            control.should_log = True
        if step == 1 and args.logging_first_step:
            control.should_log = True
        assert args.eval_delay is not None
        if args.evaluation_strategy == by_steps and step % state.eval_steps == 0 and step >= args.eval_delay:
            control.should_evaluate = True
        if args.save_strategy == by_steps and state.save_steps > 0 and step % state.save_steps == 0:
            control.should_save = True
        if step >= state.max_steps:
            control.should_training_stop = True
        return control

    def on_epoch_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        assert args.eval_delay is not None
        assert state.epoch is not None
        by_epochs = IntervalStrategy.EPOCH
        control.should_log |= args.logging_strategy == by_epochs
        control.should_evaluate |= args.evaluation_strategy == by_epochs and state.epoch >= args.eval_delay
        control.should_save |= args.save_strategy == by_epochs
        return control

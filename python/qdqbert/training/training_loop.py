# SPDX-License-Identifier: Apache-2.0
"""One call of `Trainer.train`: epochs, steps, and what happens between them.

A step takes up to ``gradient_accumulation_steps`` batches, its loss is their mean, and an epoch's last step
takes what is left.  (transformers 4.39 carries the rest into the next epoch, where a resumed run loses it.)
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.errors import NonFiniteError, ShapeError, StateError
from qdqbert.training.checkpoint_folder import (
    checkpoints,
    clear_leftovers,
    new_folder,
    remove_folder,
    sole_run,
)
from qdqbert.training.data_fingerprint import data_fingerprint
from qdqbert.training.early_stopping import best_metric_name
from qdqbert.training.nonfinite import find_nonfinite, find_nonfinite_gradient
from qdqbert.training.run_checkpoint import Position, load_weights, read_run, write_run
from qdqbert.training.trainer_state import TrainerControl, TrainerState, TrainOutput

if TYPE_CHECKING:
    from qdqbert.training.arguments import TrainingArguments
    from qdqbert.training.trainer import Trainer

__all__ = ["TrainingLoop", "batches_of", "items_of", "length_of", "speed_metrics"]

_logger = logging.getLogger(__name__)

# Errors that can be raised anew with another text; others are given a note.
_MADE_OF_A_TEXT = (ValueError, TypeError, IndexError, ShapeError)
_FLOATING_POINT_OPERATIONS = 6  # of a token and a parameter, forward and backward


def batches_of(loader: Any, epoch: int, first: int) -> Iterator[Any]:
    """Return the batches of an epoch, from number `first` on.

    Parameters
    ----------
    loader : BatchLoader, or any iterable of batches
        Of the latter, earlier batches are read and dropped.
    epoch, first : int
    """
    if hasattr(loader, "batches"):
        return iter(loader.batches(epoch, first))
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    return itertools.islice(iter(loader), first, None)


def length_of(loader: Any) -> int | None:
    """Return the batches of an epoch; None if nobody knows.

    Parameters
    ----------
    loader : BatchLoader, or any iterable of batches
    """
    try:
        return len(loader)
    except TypeError:
        return None


def items_of(inputs: Mapping[str, Any]) -> int:
    """Return the items of a batch.

    Parameters
    ----------
    inputs : mapping
        Model inputs, each with the items on its first axis.
    """
    return next((int(shape[0]) for value in inputs.values() if (shape := np.shape(value))), 0)


def speed_metrics(split: str, begin: float, samples: int, steps: int, tokens: int = 0) -> dict[str, float]:
    """Return seconds since `begin`, and what was done in one of them.

    Parameters
    ----------
    split : str
        What names begin with.
    begin : float
        As ``time.monotonic()`` gave it.
    samples, steps, tokens : int
        Done since then; tokens are left out if there are none.
    """
    seconds = max(time.monotonic() - begin, 1e-9)
    figures = {
        f"{split}_runtime": round(seconds, 4),
        f"{split}_samples_per_second": round(samples / seconds, 3),
        f"{split}_steps_per_second": round(steps / seconds, 3),
    }
    if tokens:
        figures[f"{split}_tokens_per_second"] = round(tokens / seconds, 3)
    return figures


def _require_dict(where: str, inputs: Any) -> None:
    if not isinstance(inputs, Mapping):
        raise TypeError(f"{where}: expected a dict of arrays from the collator, got {type(inputs).__name__}")


class TrainingLoop:
    """A run, or the rest of one.

    Parameters
    ----------
    trainer : Trainer
    resume_from : Path or None
        Checkpoint to go on from.
    ignore_keys : sequence of str or None
        Outputs that evaluations drop.
    """

    def __init__(self, trainer: Trainer, resume_from: Path | None, ignore_keys: Sequence[str] | None) -> None:
        self.trainer: Trainer = trainer
        self.args: TrainingArguments = trainer.args
        self.model: Any = trainer.model
        self.resume_from: Path | None = resume_from
        self.ignore_keys: Sequence[str] | None = ignore_keys
        self.position: Position = Position()
        self.loader: Any = trainer.get_train_dataloader()
        self.batches_per_epoch: int | None = length_of(self.loader)
        self._data: dict[str, int] | None = data_fingerprint(trainer.train_dataset)
        self._grad_norm: float | None = None
        self._samples = self._tokens = self._steps = 0  # of this process

    # ---- the whole -----------------------------------------------------------------------------------------

    def run(self) -> TrainOutput:
        """Train to the end."""
        args = self.args
        max_steps, epochs = self._plan()
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise StateError(
                "model: every parameter is frozen, so there is nothing to train; see model.unfreeze"
            )
        if args.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if args.bf16:
            self.model.bf16_products_enable()
        with sole_run(Path(args.output_dir)):
            return self._run(max_steps, epochs)

    def _run(self, max_steps: int, epochs: int) -> TrainOutput:
        trainer, args = self.trainer, self.args
        self._clear_output()
        trainer.create_optimizer_and_scheduler(num_training_steps=max_steps)
        callbacks = self._start_state(max_steps, epochs)
        handler = trainer.callback_handler
        handler.model, handler.train_dataloader = self.model, self.loader
        handler.optimizer, handler.lr_scheduler = trainer.optimizer, trainer.lr_scheduler
        handler.load_state_dict(callbacks)
        self._weights = self.model.num_parameters(exclude_embeddings=True)
        # Walking the tree of modules for them costs as much as a step of a tiny model.
        self._parameters = list(self.model.parameters())
        optimized = {id(each.state) for group in trainer.optimizer.param_groups for each in group["params"]}
        self._not_optimized = [each for each in self._parameters if id(each.state) not in optimized]
        begin = time.monotonic()
        self.model.zero_grad()
        try:
            try:
                trainer._call("on_train_begin")
                self._epochs(epochs)
                self._load_best()
            finally:
                self.model.zero_grad()
                self.model.eval()
            output = self._finish(begin)
            trainer._call("on_train_end")
        except BaseException:
            handler.abort(args, trainer.state, trainer.control)
            raise
        return output

    def _finish(self, begin: float) -> TrainOutput:
        """Log the figures of the whole run, and return them."""
        trainer, args = self.trainer, self.args
        state, position = trainer.state, self.position
        loss = (position.total_loss + position.loss_sum) / max(state.global_step, 1)
        tokens = self._tokens if args.include_tokens_per_second else 0
        metrics: dict[str, float] = {
            **speed_metrics("train", begin, self._samples, self._steps, tokens),
            "total_flos": state.total_flos,
            "train_loss": loss,
        }
        trainer.log(metrics)
        if args.save_total_limit == 1:
            self._rotate(keeps_last=False)
        return TrainOutput(state.global_step, loss, metrics)

    def _plan(self) -> tuple[int, int]:
        """Return the steps of the whole run, and its epochs."""
        args, batches = self.args, self.batches_per_epoch
        if batches is None:
            if args.max_steps <= 0:
                raise ValueError("max_steps: expected a positive number for a dataset without a length")
            return args.max_steps, sys.maxsize
        if batches == 0:
            raise ValueError("train_dataset: expected at least one batch, it has none")
        steps = math.ceil(batches / args.gradient_accumulation_steps)
        if args.max_steps > 0:
            return args.max_steps, math.ceil(args.max_steps / steps)
        return math.ceil(args.num_train_epochs * steps), math.ceil(args.num_train_epochs)

    def _clear_output(self) -> None:
        """Clear up after a killed process, and refuse to mix two runs in one folder."""
        folder = Path(self.args.output_dir)
        clear_leftovers(folder)
        if self.resume_from is not None:
            return
        found = checkpoints(folder)
        if found and not self.args.overwrite_output_dir:
            raise StateError(
                f"output_dir: {folder} has {len(found)} checkpoints of an earlier run, up to "
                f"{found[-1].name}; "
                "train(resume_from_checkpoint=True) goes on from the last, overwrite_output_dir=True removes "
                "them, or name another folder"
            )
        for path in found:
            remove_folder(path)

    def _start_state(self, max_steps: int, epochs: int) -> dict[str, Any]:
        """Set the trainer's state and control; return the states of callbacks."""
        trainer, args = self.trainer, self.args
        callbacks: dict[str, Any] = {}
        if self.resume_from is None:
            state = TrainerState(epoch=0)
            self.model.dropout_seed, self.model.dropout_step = args.seed, 0
        else:
            state, self.position, callbacks = read_run(
                self.resume_from,
                self.model,
                trainer.optimizer,
                trainer.lr_scheduler,
                args.to_dict(),
                self.batches_per_epoch,
                self._data,
            )
            if state.global_step >= state.max_steps and max_steps > state.global_step:
                self.position.should_training_stop = False  # the run was over, and has been made longer
            if state.global_step >= max_steps:
                self.position.should_training_stop = True  # or shorter than what is done
        state.max_steps, state.num_train_epochs = max_steps, min(epochs, 2**53)
        state.train_batch_size = args.train_batch_size
        for name in ("logging_steps", "eval_steps", "save_steps"):
            value = getattr(args, name)
            if value is not None:
                setattr(state, name, math.ceil(max_steps * value) if value < 1 else int(value))
        trainer.state = state
        trainer.control = TrainerControl(
            should_training_stop=self.position.should_training_stop,
            should_epoch_stop=self.position.should_epoch_stop,
        )
        if self.resume_from is not None:
            self._rotate(keeps_last=True)  # which a killed process may not have come to
        return callbacks

    # ---- epochs and steps ----------------------------------------------------------------------------------

    def _epochs(self, epochs: int) -> None:
        trainer, position = self.trainer, self.position
        while position.epoch < epochs and not (trainer.control.should_training_stop and position.batch == 0):
            if position.batch == 0:
                trainer.control.should_epoch_stop = False
            trainer._call("on_epoch_begin")
            batches = batches_of(self.loader, position.epoch, position.batch)
            while not (trainer.control.should_epoch_stop or trainer.control.should_training_stop):
                group = self._read(batches)
                if not group and position.batch == 0:
                    _logger.warning(
                        "the training data have no batch in epoch %d; training ends", position.epoch
                    )
                    trainer.control.should_training_stop = True
                if not group:
                    break
                self._step(group)
            position.epoch, position.batch = position.epoch + 1, 0
            trainer._call("on_epoch_end")
            self._log_evaluate_save()
            if trainer.control.should_training_stop:
                break

    def _read(self, batches: Iterator[Any]) -> list[Any]:
        """Return the batches of a step; an error of the data or of their collator is told its place."""
        try:
            return list(itertools.islice(batches, self.args.gradient_accumulation_steps))
        except Exception as error:
            position, count = self.position, self.args.gradient_accumulation_steps
            which = f"batch {position.batch}" if count == 1 else f"{count} batches from {position.batch} on"
            error.add_note(f"reading {which} of epoch {position.epoch}")
            raise

    def _step(self, group: Sequence[Any]) -> None:
        """Change the weights once."""
        trainer, args, state = self.trainer, self.args, self.trainer.state
        position, model = self.position, self.model
        control = trainer.control
        control.should_log = control.should_evaluate = control.should_save = False
        trainer._call("on_step_begin")
        model.train()
        trainer._batches_of_step = len(group)
        loss = 0.0
        samples = 0
        for number, inputs in enumerate(group, 1):
            where = (
                f"step {state.global_step + 1}, batch {position.batch + number - 1} of epoch {position.epoch}"
            )
            loss += self._batch(inputs, where)
            samples += items_of(inputs)
            if number < len(group):
                trainer._call("on_substep_end")
        if args.max_grad_norm > 0:
            self._grad_norm = self._clip_gradients(args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.optimizer.zero_grad()
        for parameter in self._not_optimized:
            parameter.grad = None
        state.global_step += 1
        position.batch += len(group)
        position.loss_sum += loss
        self._samples += samples
        self._steps += 1
        in_epoch = self.batches_per_epoch or state.max_steps * args.gradient_accumulation_steps
        state.epoch = position.epoch + position.batch / in_epoch
        figures = {
            "loss": loss,
            "grad_norm": self._grad_norm,
            "learning_rate": trainer._learning_rate(),
            "samples": samples,
        }
        trainer._call("on_step_end", step_metrics=figures)
        self._log_evaluate_save()

    def _clip_gradients(self, max_norm: float) -> float:
        """Clip the gradients, and return their norm before."""
        from qdqbert.optim import clip_grad_norm_

        try:
            return clip_grad_norm_(self._parameters, max_norm, error_if_nonfinite=True)
        except ValueError as error:
            step = self.trainer.state.global_step
            raise NonFiniteError(
                f"step {step + 1}: the norm of the gradients is not finite: "
                f"{find_nonfinite_gradient(self.model)}; the weights are those of step {step}"
            ) from error

    def _batch(self, inputs: Any, where: str) -> float:
        """Add the gradients of one batch, and return its share of the step's loss."""
        trainer = self.trainer
        _require_dict(where, inputs)
        try:
            loss = float(trainer.training_step(self.model, inputs))
        except NonFiniteError:
            raise
        except Exception as error:
            if type(error) in _MADE_OF_A_TEXT:
                raise type(error)(f"{where}: {error}") from error
            error.add_note(where)
            raise
        if not math.isfinite(loss):
            raise NonFiniteError(f"{where}: the loss is {loss}: {find_nonfinite(self.model, inputs)}")
        tokens = trainer._tokens_of(inputs)
        self._tokens += tokens
        trainer.state.total_flos += float(_FLOATING_POINT_OPERATIONS * tokens * self._weights)
        if self.args.include_num_input_tokens_seen:
            trainer.state.num_input_tokens_seen += tokens
        return loss

    # ---- between steps -------------------------------------------------------------------------------------

    def _log_evaluate_save(self) -> None:
        trainer, position = self.trainer, self.position
        step = trainer.state.global_step
        if trainer.control.should_log and step > position.logged_step:
            logs: dict[str, float] = {"loss": position.loss_sum / (step - position.logged_step)}
            if self._grad_norm is not None:
                logs["grad_norm"] = self._grad_norm
            logs["learning_rate"] = trainer._learning_rate()
            position.total_loss += position.loss_sum
            position.loss_sum, position.logged_step = 0.0, step
            trainer.log(logs)
        metrics = None
        if trainer.control.should_evaluate:
            metrics = trainer.evaluate(ignore_keys=self.ignore_keys)
        if trainer.control.should_save:
            self._save(metrics)
            trainer._call("on_save")

    def _save(self, metrics: dict[str, float] | None) -> None:
        """Write the checkpoint of this step, and remove what is one too many."""
        trainer, args, state = self.trainer, self.args, self.trainer.state
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        before = state.best_metric, state.best_model_checkpoint
        self._note_best(metrics, path)
        self.position.should_training_stop = trainer.control.should_training_stop
        self.position.should_epoch_stop = trainer.control.should_epoch_stop
        try:
            with new_folder(path) as folder:
                trainer.save_model(os.fspath(folder))
                resumable = not args.save_only_model
                write_run(
                    folder,
                    state,
                    self.position,
                    self.model,
                    trainer.optimizer if resumable else None,
                    trainer.lr_scheduler if resumable else None,
                    trainer.callback_handler.state_dict(),
                    args.to_dict(),
                    self._data,
                )
        except BaseException:
            state.best_metric, state.best_model_checkpoint = before
            raise
        self._rotate(keeps_last=True)

    def _note_best(self, metrics: dict[str, float] | None, path: Path) -> None:
        state, name = self.trainer.state, best_metric_name(self.args)
        if metrics is None or name is None:
            return
        if name not in metrics:
            raise ValueError(
                f"metric_for_best_model: the evaluation has no {name!r}; it has {', '.join(sorted(metrics))}"
            )
        value, best = metrics[name], state.best_metric
        is_better = best is None or state.best_model_checkpoint is None
        if not is_better:
            assert best is not None
            # NaN is smaller and larger than nothing: the first one would stay the best for good.
            is_better = math.isnan(best) or (value > best if self.args.greater_is_better else value < best)
        if is_better:
            state.best_metric, state.best_model_checkpoint = value, os.fspath(path)

    def _best(self) -> Path | None:
        """Return the best checkpoint, also if the folder of the run has been moved since."""
        best = self.trainer.state.best_model_checkpoint
        if best is None:
            return None
        moved = Path(self.args.output_dir) / Path(best).name
        return Path(best) if Path(best).is_dir() else moved

    def _rotate(self, *, keeps_last: bool) -> None:
        """Remove the oldest checkpoints beyond ``save_total_limit``, but never the best, nor the last."""
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        found, best = checkpoints(Path(self.args.output_dir)), self._best()
        kept = {best.name} if best is not None else set()
        if keeps_last or not kept:
            kept |= {path.name for path in found[-1:]}
        for path in reversed(found):
            if len(kept) < limit:
                kept.add(path.name)
        for path in found:
            if path.name not in kept:
                remove_folder(path)

    def _load_best(self) -> None:
        best = self._best()
        if not self.args.load_best_model_at_end or best is None:
            return
        _logger.info("loading the best model, %s (%s)", best, self.trainer.state.best_metric)
        load_weights(self.model, best)

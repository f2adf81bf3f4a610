# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds beside the model, so that a resumed run has the bits of one that never stopped.

``trainer_state.json``
    `TrainerState`, as transformers writes it.
``optimizer.safetensors``, ``scheduler.json``
    Their ``state_dict()``.
``progress.json``
    The place in the data (epoch, batches of it that are done), the state of dropout (seed and step), sums of
    losses that are not logged yet, the switches of `TrainerControl`, the states of callbacks, the arguments,
    what the data were (`qdqbert.training.data_fingerprint`), sizes and sums of all files.

There is no other random state: the order of an epoch and the masks of its collator follow from the seed and
the epoch's number, dropout from its seed and step.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdqbert.errors import CheckpointError
from qdqbert.serialization.atomic import write_text
from qdqbert.serialization.checkpoint_tensors import open_weights
from qdqbert.serialization.folder import Source, read_json
from qdqbert.serialization.weight_files import find_weights
from qdqbert.training.checkpoint_folder import (
    OPTIMIZER_NAME,
    PROGRESS_NAME,
    SCHEDULER_NAME,
    STATE_NAME,
    progress_of,
    require_intact,
    write_progress,
)
from qdqbert.training.state_files import read_state, write_state
from qdqbert.training.trainer_state import TrainerState

__all__ = ["Position", "load_weights", "read_run", "write_run"]

_FORMAT = 1
# Arguments that another value of makes another run.
_SHAPING = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "num_train_epochs", "max_steps"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_ratio", "warmup_steps", "seed", "data_seed"),
    *("dataloader_drop_last", "group_by_length", "label_smoothing_factor", "optim", "optim_args", "bf16"),
)

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Position:
    """Where a run stands, beside its `TrainerState`.

    Attributes
    ----------
    epoch : int
        Epoch that the next batch is of.
    batch : int
        Batches of it that are done.
    loss_sum : float
        Of the losses of steps since the last log.
    logged_step : int
        Step of the last log.
    total_loss : float
        Sum of the losses of all steps up to the last log.
    should_training_stop, should_epoch_stop : bool
        Switches of `TrainerControl`.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    logged_step: int = 0
    total_loss: float = 0.0
    should_training_stop: bool = False
    should_epoch_stop: bool = False


def write_run(
    folder: Path,
    state: TrainerState,
    position: Position,
    model: Any,
    optimizer: Any,
    lr_scheduler: Any,
    callbacks: Mapping[str, Any],
    arguments: Mapping[str, Any],
    data: Mapping[str, int] | None,
) -> None:
    """Write everything but the model into a new checkpoint folder.

    Parameters
    ----------
    folder : Path
        That has the model's files already, and that `qdqbert.training.checkpoint_folder.new_folder` gave.
    state : TrainerState
    position : Position
    model : QDQBertPreTrainedModel
        For the state of its dropout.
    optimizer, lr_scheduler : object
        With `state_dict`; None if the checkpoint is not for a resumed run.
    callbacks, arguments : mapping
        As JSON can hold them.
    data : mapping or None
        Fingerprint of the training data.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    if optimizer is not None:
        write_state(folder / OPTIMIZER_NAME, optimizer.state_dict())
        write_text(folder / SCHEDULER_NAME, json.dumps(lr_scheduler.state_dict()) + "\n")
    state.save_to_json(folder / STATE_NAME)
    progress = {
        "format": _FORMAT,
        "is_resumable": optimizer is not None,
        "position": dataclasses.asdict(position),
        "dropout": {"seed": int(model.dropout_seed), "step": int(model.dropout_step)},
        "callbacks": callbacks,
        "arguments": arguments,
        "data": data,
    }
    write_progress(folder, progress)


def read_run(
    folder: Path,
    model: Any,
    optimizer: Any,
    lr_scheduler: Any,
    arguments: Mapping[str, Any],
    batches_per_epoch: int | None,
    data: Mapping[str, int] | None,
) -> tuple[TrainerState, Position, dict[str, Any]]:
    """Put model, optimizer and schedule into the state of a checkpoint.

    Parameters
    ----------
    folder : Path
    model, optimizer, lr_scheduler : object
        Of the same run.
    arguments : mapping
        Of this run; those that differ from the checkpoint's and shape the result are told in the log.
    batches_per_epoch : int or None
        Of this run's data; None if nobody knows.
    data : mapping or None
        Fingerprint of this run's data; if it is another than the checkpoint's, that is told in the log.

    Returns
    -------
    state : TrainerState
    position : Position
    callbacks : dict
        States by name.

    Raises
    ------
    CheckpointError
        If the folder is no complete checkpoint, has changed since it was written, was written with
        ``save_only_model``, or is of another model or of more data; the model is as it was.
    """
    progress = progress_of(folder)
    if progress.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder / PROGRESS_NAME}: format {progress.get('format')!r}, expected {_FORMAT}"
        )
    if not progress.get("is_resumable"):
        raise CheckpointError(
            f"{folder}: was written with save_only_model, so there is no optimizer to go on with; "
            "from_pretrained loads its model"
        )
    require_intact(folder, progress)
    state = TrainerState.load_from_json(folder / STATE_NAME)
    try:
        position = Position(**progress["position"])
        dropout = int(progress["dropout"]["seed"]), int(progress["dropout"]["step"])
        _require_counts(
            {
                **{name: getattr(position, name) for name in ("epoch", "batch", "logged_step")},
                **{f"dropout.{name}": value for name, value in progress["dropout"].items()},
            }
        )
        callbacks, former = dict(progress["callbacks"]), dict(progress["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / PROGRESS_NAME}: is damaged: {error!r}") from error
    if batches_per_epoch is not None and position.batch > batches_per_epoch:
        raise CheckpointError(
            f"{folder}: has done {position.batch} batches of epoch {position.epoch}, and an epoch of this "
            f"run's data has {batches_per_epoch}; expected the data that the run began with"
        )
    optimizer_state = read_state(folder / OPTIMIZER_NAME)
    scheduler_state = read_json(folder / SCHEDULER_NAME)
    # The weights last: what does not fit leaves the model as it was.
    try:
        optimizer.load_state_dict(optimizer_state)
        lr_scheduler.load_state_dict(scheduler_state)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the optimizer's state does not fit this run: {error}") from error
    load_weights(model, folder)
    model.dropout_seed, model.dropout_step = dropout
    if model.config.problem_type is None:  # which the first labels decide, for good
        model.config.problem_type = read_json(folder / "config.json").get("problem_type")
    changed = [
        f"{name}={arguments[name]!r} (was {former[name]!r})"
        for name in _SHAPING
        if name in former and arguments[name] != former[name]
    ]
    if changed:
        _logger.warning("resumed with other arguments than the run had: %s", ", ".join(changed))
    if data is not None and progress.get("data") not in (None, data):
        _logger.warning(
            "resumed with other data than the run had (%s, was %s): what follows is not what the run would "
            "have come to",
            data,
            progress["data"],
        )
    return state, position, callbacks


def _require_counts(numbers: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
            raise ValueError(f"{name}: expected an integer in [0, 2**64), got {value!r}")


def load_weights(model: Any, folder: Path) -> None:
    """Copy weights and ranges of a checkpoint into a model.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    folder : Path

    Raises
    ------
    CheckpointError
        If files are missing or damaged, or tensors do not fit; the model is as it was.
    """
    with open_weights(find_weights(Source(folder))) as checkpoint:
        report = model._load(checkpoint, str(folder), ignore_mismatched_sizes=False)
    if report.missing_keys:
        raise CheckpointError(
            f"{folder}: {len(report.missing_keys)} weights of {type(model).__name__} are missing, e.g. "
            f"{report.missing_keys[0]}"
        )

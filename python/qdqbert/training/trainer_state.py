# SPDX-License-Identifier: Apache-2.0
"""Where a training run stands, what it is told by callbacks, and what it returns; as in transformers."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from qdqbert.errors import CheckpointError
from qdqbert.serialization.atomic import write_text
from qdqbert.serialization.folder import read_json

__all__ = [
    "EvalLoopOutput",
    "EvalPrediction",
    "PredictionOutput",
    "TrainOutput",
    "TrainerControl",
    "TrainerState",
]


@dataclasses.dataclass
class TrainerState:
    """Where a run stands: the content of ``trainer_state.json``.

    A step is one change of the weights, of `gradient_accumulation_steps` batches.

    Parameters
    ----------
    epoch : float
        Passes over the data so far, with the share of the present one; None before training.
    global_step : int
        Steps done.
    max_steps : int
        Steps of the whole run.
    logging_steps, eval_steps, save_steps : int
        Steps between logs, evaluations and checkpoints, where they go by steps.
    train_batch_size : int
        Items of a batch.
    num_train_epochs : int
        Passes of the whole run, a begun one counted.
    num_input_tokens_seen : int
        Tokens of the inputs so far, padding included, as in the original.
    total_flos : float
        Estimate of floating-point operations so far: 6 x tokens x parameters outside the embeddings.
    log_history : list of dict
        Everything that was logged, each with its ``step``.
    best_metric : float
        Best value so far of ``metric_for_best_model`` among the checkpoints.
    best_model_checkpoint : str
        Folder of that checkpoint.
    is_local_process_zero, is_world_process_zero : bool
        Always true: there is one process.
    is_hyper_param_search : bool
        Always false.
    trial_name, trial_params : None
        Of a hyperparameter search, which there is none of.
    """

    epoch: float | None = None
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_metric: float | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None

    def to_json_string(self) -> str:
        """Return all fields as JSON, sorted by name."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    def save_to_json(self, json_path: str | os.PathLike[str]) -> None:
        """Write a file, replacing an old one at once.

        Parameters
        ----------
        json_path : str or path

        Raises
        ------
        OSError
            If it cannot be written.
        """
        write_text(Path(json_path), self.to_json_string())

    @classmethod
    def load_from_json(cls, json_path: str | os.PathLike[str]) -> Self:
        """Read a file that `save_to_json` wrote, here or in transformers.

        Parameters
        ----------
        json_path : str or path

        Raises
        ------
        CheckpointError
            If it is missing, damaged, or no trainer's state.
        """
        path = Path(json_path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        fields = read_json(path)
        known = {field.name: field for field in dataclasses.fields(cls)}
        # Later releases of transformers add fields, such as stateful_callbacks.
        state = cls(**{name: value for name, value in fields.items() if name in known})
        for name in ("global_step", "max_steps", "num_input_tokens_seen"):
            value = getattr(state, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise CheckpointError(f"{path}: {name}: expected a count, got {value!r}")
        history = state.log_history
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            raise CheckpointError(f"{path}: log_history: expected a list of objects")
        return state


@dataclasses.dataclass
class TrainerControl:
    """Switches that callbacks set, and the training loop obeys.

    Parameters
    ----------
    should_training_stop : bool
        End training after this step.
    should_epoch_stop : bool
        Go on with the next epoch; taken back when that begins.
    should_save, should_evaluate, should_log : bool
        Write a checkpoint, evaluate, log now; taken back when the next step begins.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False


class TrainOutput(NamedTuple):
    """What `Trainer.train` returns.

    Attributes
    ----------
    global_step : int
        Steps done.
    training_loss : float
        Mean over the steps.
    metrics : dict
        ``train_runtime`` in seconds, ``train_samples_per_second``, ``train_steps_per_second``,
        ``train_loss``.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class PredictionOutput(NamedTuple):
    """What `Trainer.predict` returns.

    Attributes
    ----------
    predictions : ndarray, tuple of ndarray, or None
        Logits of all items, padded with -100 to one length where they have one.
    label_ids : ndarray, tuple of ndarray, or None
        Their labels.
    metrics : dict
    """

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


class EvalLoopOutput(NamedTuple):
    """What `Trainer.evaluation_loop` returns.

    Attributes
    ----------
    predictions, label_ids, metrics
        See `PredictionOutput`.
    num_samples : int
        Items.
    """

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]
    num_samples: int


class EvalPrediction:
    """What ``compute_metrics`` is given; also unpacks, and indexes, as the tuple of what is there.

    Parameters
    ----------
    predictions : ndarray or tuple of ndarray
        Logits of all items.
    label_ids : ndarray or tuple of ndarray
    inputs : ndarray, optional
        ``input_ids``, if ``include_inputs_for_metrics`` asks for them.
    """

    def __init__(self, predictions: Any, label_ids: Any, inputs: Any = None) -> None:
        self.predictions: Any = predictions
        self.label_ids: Any = label_ids
        self.inputs: Any = inputs

    def _parts(self) -> tuple[Any, ...]:
        given = () if self.inputs is None else (self.inputs,)
        return (self.predictions, self.label_ids, *given)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts())

    def __getitem__(self, index: int) -> Any:
        return self._parts()[index]

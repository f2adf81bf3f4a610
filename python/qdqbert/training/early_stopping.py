# SPDX-License-Identifier: Apache-2.0
"""End a run that no longer gets better."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from qdqbert.training.arguments import IntervalStrategy, TrainingArguments
from qdqbert.training.callback import TrainerCallback
from qdqbert.training.trainer_state import TrainerControl, TrainerState

__all__ = ["EarlyStoppingCallback", "best_metric_name"]

_logger = logging.getLogger(__name__)


def best_metric_name(args: TrainingArguments) -> str | None:
    """Return the name in an evaluation's figures of what says which model is best; None if nothing does.

    Parameters
    ----------
    args : TrainingArguments
    """
    name = args.metric_for_best_model
    return name if name is None or name.startswith("eval_") else f"eval_{name}"


class EarlyStoppingCallback(TrainerCallback):
    """Stop training when ``metric_for_best_model`` has not improved for some evaluations.

    Needs ``load_best_model_at_end``: the best value so far is that of the best checkpoint.

    Parameters
    ----------
    early_stopping_patience : int
        Evaluations without improvement after which training stops, at least 1.
    early_stopping_threshold : float
        What counts as an improvement, at least 0.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(
        self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0
    ) -> None:
        threshold = early_stopping_threshold or 0.0
        if early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience: expected at least 1, got {early_stopping_patience}")
        if not threshold >= 0:
            raise ValueError(f"early_stopping_threshold: expected at least 0, got {threshold}")
        self.early_stopping_patience: int = early_stopping_patience
        self.early_stopping_threshold: float = threshold
        self.early_stopping_patience_counter: int = 0

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"early_stopping_patience_counter": self.early_stopping_patience_counter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self.early_stopping_patience_counter = int(state["early_stopping_patience_counter"])

    def on_train_begin(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.load_best_model_at_end or args.evaluation_strategy == IntervalStrategy.NO:
            raise ValueError(
                "EarlyStoppingCallback: expected load_best_model_at_end=True and an evaluation_strategy, got "
                f"{args.load_best_model_at_end} and {str(args.evaluation_strategy)!r}"
            )

    def on_evaluate(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        name, metrics = best_metric_name(args), kwargs["metrics"]
        if name not in metrics:
            _logger.warning("EarlyStoppingCallback: the evaluation has no %s, so nothing is stopped", name)
            return
        gain = metrics[name] - state.best_metric if state.best_metric is not None else None
        if gain is not None and not args.greater_is_better:
            gain = -gain
        is_better = gain is None or gain > self.early_stopping_threshold
        self.early_stopping_patience_counter = 0 if is_better else self.early_stopping_patience_counter + 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

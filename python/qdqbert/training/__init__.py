# SPDX-License-Identifier: Apache-2.0
"""Training: `Trainer` and what belongs to it, with the names of transformers."""

from qdqbert.training.arguments import IntervalStrategy, OptimizerNames, SchedulerType, TrainingArguments
from qdqbert.training.callback import DefaultFlowCallback, TrainerCallback
from qdqbert.training.checkpoint_folder import get_last_checkpoint
from qdqbert.training.early_stopping import EarlyStoppingCallback
from qdqbert.training.history import plot_history, read_history
from qdqbert.training.quantization_aware import QuantizationAware
from qdqbert.training.reporting import JsonLinesCallback, PrinterCallback, ProgressCallback
from qdqbert.training.trainer import Trainer
from qdqbert.training.trainer_state import (
    EvalPrediction,
    PredictionOutput,
    TrainerControl,
    TrainerState,
    TrainOutput,
)

__all__ = [
    "DefaultFlowCallback",
    "EarlyStoppingCallback",
    "EvalPrediction",
    "IntervalStrategy",
    "JsonLinesCallback",
    "OptimizerNames",
    "PredictionOutput",
    "PrinterCallback",
    "ProgressCallback",
    "QuantizationAware",
    "SchedulerType",
    "TrainOutput",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "get_last_checkpoint",
    "plot_history",
    "read_history",
]

# SPDX-License-Identifier: Apache-2.0
"""The flags of ``qdqbert train``: those of the original SQuAD example, ours, and what they amount to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from qdqbert.cli.quantization_flags import add_quantization_flags, check_quantization_flags
from qdqbert.cli.report import UsageError
from qdqbert.cli.training_flags import add_flag, add_training_flags, given_arguments
from qdqbert.errors import UnsupportedError
from qdqbert.tasks.table import OPTIONS, TASKS

if TYPE_CHECKING:
    from qdqbert.training import TrainingArguments

__all__ = [
    "CALIBRATION_SAMPLES",
    "DISTILLATION",
    "READING",
    "add_arguments",
    "check_arguments",
    "training_arguments",
]

CALIBRATION_SAMPLES = 128  # what the original's loop comes to, whatever its flag says
_RECIPE: dict[str, Any] = {
    "learning_rate": 1e-6,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.01},
    "num_train_epochs": 1.0,
}
DISTILLATION = (
    ("temperature", 2.0, "what both models' logits are divided by"),
    ("alpha", 0.5, "weight of the teacher's logits; the labels have the rest"),
    ("hidden_weight", 0.0, "weight of the difference of hidden states"),
)
# Options of `qdqbert.data.read` that evaluations do not have.
READING: dict[str, dict[str, Any]] = {
    "problem_type": {
        "text": "classification: what labels are (as they look)",
        "choices": ("regression", "single_label_classification", "multi_label_classification"),
    },
    "label_delimiter": {"text": "classification: cuts labels into several", "metavar": "TEXT"},
    "boundary": {
        "text": "masked-lm, causal-lm: what no input goes over the end of (file)",
        "choices": ("file", "document", "line"),
    },
    "streaming": {
        "text": "masked-lm, causal-lm: read files in every epoch, in place of keeping them in memory; needs "
        "--max_steps",
        "type": bool,
    },
}
_REFUSED = {
    "dataset_name": "data sets are read from files; give --train_file",
    "dataset_config_name": "data sets are read from files; give --train_file",
    "preprocessing_num_workers": "texts are encoded here, by the threads of the tokenizers library",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", nargs="?", metavar="DIR", help="checkpoint folder to begin from")
    add_flag(parser, "output_dir", "folder for model, checkpoints and logs", required=True, metavar="OUT")
    parser.add_argument(
        "--qat",
        action="store_true",
        help="quantization-aware training by the usual recipe: calibrate (percentile 99.99) unless there are "
        "ranges, then 1 epoch from a learning rate of 1e-6 (1 %% of the 1e-4 that BERT is trained with), by "
        "a cosine down to 1 %% of that; flags that are given go before",
    )
    add_flag(
        parser,
        "qat_amax",
        "ranges of activations in training: frozen (the default), moving, learned",
        choices=("frozen", "moving", "learned"),
        default="frozen",
    )
    add_flag(
        parser,
        "qat_weights",
        "ranges of weights in training: frozen (the default), max after every step",
        choices=("frozen", "max"),
        default="frozen",
    )
    add_flag(parser, "qat_start_step", "steps in float before it (0)", type=int, metavar="N", default=0)
    add_flag(
        parser, "qat_momentum", "what stays of a moving range (0.99)", type=float, metavar="X", default=0.99
    )
    add_flag(parser, "teacher", "checkpoint to train against, in float; with --qat often DIR", metavar="DIR")
    for name, usual, text in DISTILLATION:
        add_flag(parser, f"teacher_{name}", f"{text} ({usual})", type=float, metavar="X", default=usual)
    _add_model_flags(parser)
    _add_data_flags(parser)
    add_quantization_flags(parser)
    add_training_flags(parser)


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add_flag(group, "model_name_or_path", "DIR, or a name on the hub", metavar="DIR")
    add_flag(group, "config_name", "configuration from elsewhere", metavar="DIR")
    add_flag(group, "tokenizer_name", "tokenizer from elsewhere", metavar="DIR")
    add_flag(group, "cache_dir", "where downloads are kept", metavar="DIR")
    add_flag(group, "model_revision", "branch, tag or commit on the hub", metavar="NAME")
    add_flag(group, "use_auth_token", "use the token of huggingface-cli login", action="store_true")
    add_flag(group, "do_calib", "calibrate on training data, and save", action="store_true")
    add_flag(
        group,
        "num_calib_batch",
        f"batches for calibration, of --per_device_eval_batch_size ({CALIBRATION_SAMPLES} samples)",
        type=int,
        metavar="N",
    )
    add_flag(
        group, "save_onnx", "write model.onnx (opset 13) to --output_dir at the end", action="store_true"
    )


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    width = max(len(entry.name) for entry in TASKS)
    lines = [f"  {entry.name:<{width}}  {entry.summary}; {entry.data}" for entry in TASKS]
    group = parser.add_argument_group("task and data", "\n".join(lines))
    group.add_argument(
        "--task", metavar="NAME", help="one of these (default: the first for the checkpoint's head)"
    )
    for name, text in (
        ("train_file", "to train and calibrate on"),
        ("validation_file", "to evaluate on"),
        ("test_file", "to predict"),
    ):
        add_flag(group, name, text, nargs="+", metavar="FILE")
    add_flag(
        group,
        "max_seq_length",
        "longest input in wordpieces (384 for squad, otherwise what the model takes)",
        type=int,
        metavar="N",
    )
    add_flag(
        group,
        "pad_to_max_length",
        "pad every batch to that length (true for squad); padding is not computed",
        type=bool,
    )
    for name, what in (("train", "train on"), ("eval", "evaluate on"), ("predict", "predict")):
        add_flag(group, f"max_{name}_samples", f"{what} the first N items", type=int, metavar="N")
    add_flag(group, "version_2_with_negative", "squad: questions may have no answer", action="store_true")
    add_flag(
        group,
        "overwrite_cache",
        "encode texts anew, as is always done: nothing is cached",
        action="store_true",
    )
    for name, option in OPTIONS.items():
        tasks = ", ".join(entry.name for entry in TASKS if name in entry.options)
        options: dict[str, Any] = {"type": option.kind}
        if option.choices:
            options = {"choices": option.choices}
        elif option.kind is not bool:
            options["metavar"] = "X" if option.kind is float else "N"
        add_flag(group, name, f"{tasks}: {option.text}", **options)
    for name, reading in READING.items():
        add_flag(group, name, **reading)
    for name in ("dataset_name", "dataset_config_name", "preprocessing_num_workers"):
        add_flag(group, name, argparse.SUPPRESS)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything is read.

    Parameters
    ----------
    arguments : Namespace

    Raises
    ------
    UsageError
        If a flag is not built, or flags contradict each other.
    """
    for name, reason in _REFUSED.items():
        if getattr(arguments, name):
            raise UsageError(f"--{name}: {reason}")
    if (arguments.folder is None) == (arguments.model_name_or_path is None):
        raise UsageError("DIR: expected a checkpoint folder, once: as DIR or as --model_name_or_path")
    if arguments.num_calib_batch is not None and arguments.num_calib_batch < 1:
        raise UsageError(f"--num_calib_batch: expected at least 1, found {arguments.num_calib_batch}")
    check_quantization_flags(arguments)
    if not arguments.qat:
        for name, usual in (
            ("qat_amax", "frozen"),
            ("qat_weights", "frozen"),
            ("qat_start_step", 0),
            ("qat_momentum", 0.99),
        ):
            if getattr(arguments, name) != usual:
                raise UsageError(f"--{name}: is for --qat")
    if arguments.qat_momentum != 0.99 and arguments.qat_amax != "moving":
        raise UsageError("--qat_momentum: is for --qat_amax moving")
    if not (arguments.do_calib or arguments.qat):
        for name in ("calibrator", "percentile", "num_calib_batch"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name}: is for --do_calib and --qat")
    for name, usual, _ in DISTILLATION:
        if arguments.teacher is None and getattr(arguments, f"teacher_{name}") != usual:
            raise UsageError(f"--teacher_{name}: is for --teacher")


def training_arguments(arguments: argparse.Namespace) -> TrainingArguments:
    """Make what the flags say, and what they leave to the recipe.

    Parameters
    ----------
    arguments : Namespace

    Returns
    -------
    TrainingArguments

    Raises
    ------
    UsageError
        If a value is out of range or means nothing here.
    """
    from qdqbert.training import TrainingArguments

    given = given_arguments(arguments)
    if arguments.qat:
        recipe = dict(_RECIPE)
        if "lr_scheduler_type" in given:
            del recipe["lr_scheduler_kwargs"]
        if "max_steps" in given:
            del recipe["num_train_epochs"]
        given = {**recipe, **given}
    for name in ("report_to", "fsdp"):  # words of a list, of which there is often one
        if isinstance(given.get(name), list) and len(given[name]) == 1:
            given[name] = given[name][0]
    if not any(given.get(f"do_{what}") for what in ("train", "eval", "predict")) and not arguments.do_calib:
        given["do_train"] = True
        given["do_eval"] = arguments.validation_file is not None
    try:
        return TrainingArguments(arguments.output_dir, **given)
    except (UnsupportedError, ValueError, TypeError) as error:
        raise UsageError(f"--{error}") from error

# SPDX-License-Identifier: Apache-2.0
"""Exported files where the command line takes a checkpoint: ``--runtime``, ``--tokenizer``, ``--against``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdqbert.cli.report import UsageError
from qdqbert.errors import CheckpointError
from qdqbert.tasks.table import TaskEntry, find_task, has_head, task_of_architectures

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qdqbert.onnx import OnnxRuntimeModel

__all__ = ["add_runtime_arguments", "check_runtime", "open_file"]


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what computes an exported file, and what it is compared with."""
    parser.add_argument(
        "--runtime", choices=["onnxruntime"], help="what computes the ONNX file that stands in place of DIR"
    )
    parser.add_argument(
        "--graph-optimization",
        choices=["all", "none"],
        help="whether --runtime fuses nodes (all) or runs them one by one",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="folder of the tokenizer of an ONNX file (default: that of --against, otherwise the file's own)",
    )
    parser.add_argument(
        "--against",
        metavar="DIR",
        help="checkpoint folder that an ONNX file is from: its rows come first, for comparison",
    )


def check_runtime(arguments: argparse.Namespace) -> None:
    """Refuse arguments that would have no effect.

    Parameters
    ----------
    arguments : Namespace

    Raises
    ------
    UsageError
        If ``--runtime`` is missing where an argument needs it, or what is left has nothing to act on.
    """
    if arguments.runtime is None:
        for name in ("graph_optimization", "tokenizer", "against"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')}: is for an ONNX file; add --runtime")
        if Path(arguments.folder).is_file() and arguments.folder.endswith(".onnx"):
            raise UsageError(f"{arguments.folder}: is a file; add --runtime onnxruntime")
    elif arguments.against is None and (
        arguments.quantizers is not None or arguments.rule or arguments.rules is not None
    ):
        raise UsageError(
            "--quantizers, --rule, --rules: have no effect on an ONNX file, but on the rows of --against"
        )


def open_file(arguments: argparse.Namespace) -> tuple[OnnxRuntimeModel, Any, Tokenizer, TaskEntry]:
    """Open the file that was given in place of a checkpoint folder.

    Parameters
    ----------
    arguments : Namespace
        With what `add_runtime_arguments` adds, `folder` and `task`.

    Returns
    -------
    (OnnxRuntimeModel, QDQBertConfig, tokenizer, TaskEntry)
        The configuration is the file's, otherwise that in the tokenizer's folder; the task is the one asked
        for, otherwise the first for the head.

    Raises
    ------
    CheckpointError
        If the file, its configuration or its tokenizer is missing, or its head is not the task's.
    UnsupportedError
        If the runtime is not installed or cannot run the file.
    """
    from qdqbert.configuration_qdqbert import QDQBertConfig
    from qdqbert.onnx import OnnxRuntimeModel
    from qdqbert.tokenization import load_tokenizer

    file = arguments.folder
    model = OnnxRuntimeModel(file, optimizes=arguments.graph_optimization != "none")
    folder = arguments.tokenizer or arguments.against or str(Path(file).resolve().parent)
    try:
        tokenizer = load_tokenizer(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; --tokenizer names another folder") from error
    config = model.config
    if config is None:
        described = Path(folder) / "config.json"
        if not described.is_file():
            raise CheckpointError(
                f"{file}: does not say how its model is configured, and there is no {described}"
            )
        config = QDQBertConfig.from_json_file(described)
    named = [model.model_class] if model.model_class else config.architectures
    found = task_of_architectures(named)
    entry = found if arguments.task is None else find_task(arguments.task)
    holds = f"is a {', '.join(map(str, named))}" if named else "does not say which class it is of"
    if entry is None:
        raise CheckpointError(f"{file}: {holds}, which has no head that a task is for; say --task")
    if found is not None and not any(has_head(str(name), entry) for name in named or ()):
        raise CheckpointError(f"{file}: {entry.name} needs a Bert{entry.head}, the file {holds}")
    return model, config, tokenizer, entry

# SPDX-License-Identifier: Apache-2.0
"""Arguments that choose a task and its data, and the task that they make.

The tasks themselves, with their options and usual files, are in `qdqbert.tasks.table`; nothing here knows one
of them by name.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdqbert.cli.report import UsageError
from qdqbert.errors import CheckpointError, Error
from qdqbert.tasks.table import OPTIONS, TASKS, TaskEntry, find_task

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qdqbert.tasks.task import Task

__all__ = [
    "DATA_VARIABLE",
    "add_calibration_arguments",
    "add_data_argument",
    "add_task_arguments",
    "check_data",
    "data_files",
    "open_task",
]

DATA_VARIABLE = "QDQBERT_DATA"


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what the task is and how data becomes model inputs."""
    width = max(len(entry.name) for entry in TASKS)
    lines = [f"  {entry.name:<{width}}  {entry.summary}; {entry.data}" for entry in TASKS]
    group = parser.add_argument_group("task", "\n".join(lines))
    group.add_argument(
        "--task",
        type=_task_name,
        metavar="NAME",
        help="one of these (default: the first for the checkpoint's head); SST-2 and WNUT-17 do too",
    )
    group.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="longest input in wordpieces (default: 384 for squad, otherwise what the model takes)",
    )
    for name, option in OPTIONS.items():
        tasks = ", ".join(entry.name for entry in TASKS if name in entry.options)
        text, flag = f"{tasks}: {option.text}", f"--{name.replace('_', '-')}"
        if option.kind is bool:
            group.add_argument(flag, action="store_const", const=True, help=text)
        elif option.choices:
            group.add_argument(flag, choices=option.choices, help=text)
        else:
            metavar = "X" if option.kind is float else "N"
            group.add_argument(flag, type=option.kind, metavar=metavar, help=text)


def add_data_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the data files."""
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="FILE",
        help=f"{what} (default: the task's usual file below ${DATA_VARIABLE})",
    )


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data files and the choice of calibration samples."""
    add_data_argument(parser, "where calibration samples are drawn from")
    parser.add_argument("--samples", type=int, default=128, metavar="N", help="calibration samples (128)")
    parser.add_argument("--seed", type=int, default=13, metavar="N", help="which samples are drawn (13)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="samples of a batch (1)")


def check_data(given: Sequence[str] | None) -> None:
    """Refuse a command that will find no data, before a checkpoint is opened.

    Parameters
    ----------
    given : sequence of str or None
        Value of ``--data``.

    Raises
    ------
    UsageError
        If there are no files, and no folder in which the usual ones could be.
    """
    if not given and not os.environ.get(DATA_VARIABLE):
        raise UsageError(f"--data: expected a file, or a folder of data sets in {DATA_VARIABLE}")


def data_files(given: Sequence[str] | None, entry: TaskEntry, *, training: bool) -> list[Path]:
    """Files of a command.

    Parameters
    ----------
    given : sequence of str or None
        Value of ``--data``.
    entry : TaskEntry
    training : bool
        Whether the task's training file stands in, or its evaluation file.

    Returns
    -------
    list of Path
        What was given, or else the usual file below ``$QDQBERT_DATA``.

    Raises
    ------
    UsageError
        If there is neither.
    """
    if given:
        return [Path(file) for file in given]
    usual = entry.training_file if training else entry.evaluation_file
    folder = os.environ.get(DATA_VARIABLE)
    if usual is None or not folder:
        hint = f", or {DATA_VARIABLE} with {usual} below it" if usual else "; there is no usual one"
        raise UsageError(f"--data: expected a file for {entry.name} ({entry.data}){hint}")
    return [Path(folder) / usual]


def open_task(
    arguments: argparse.Namespace,
    entry: TaskEntry,
    files: Sequence[Path],
    tokenizer: Tokenizer,
    config: Any,
) -> Task:
    """Read data files for a model.

    Parameters
    ----------
    arguments : Namespace
        With what `add_task_arguments` adds.
    entry : TaskEntry
    files : sequence of Path
        See `data_files`.
    tokenizer : tokenizers.Tokenizer
    config : QDQBertConfig

    Returns
    -------
    Task

    Raises
    ------
    DataError
        If a file is missing or malformed, or does not fit the model.
    CheckpointError
        If the model's configuration does not fit the task.
    UsageError
        If an option is out of its range or of another task.
    """
    given = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    for name in given:
        if name not in entry.options:
            tasks = " and ".join(other.name for other in TASKS if name in other.options)
            raise UsageError(f"--{name.replace('_', '-')}: is for {tasks} only, the task is {entry.name}")
    try:
        return entry.load().read(list(files), tokenizer, config, max_length=arguments.max_length, **given)
    except Error:
        raise
    except ValueError as error:
        # The tasks begin a message with the argument that it is about.
        name, _, rest = str(error).partition(":")
        if name.startswith("config."):
            raise CheckpointError(f"{arguments.folder}: {entry.name}: {error}") from error
        name = "max_length" if name == "max_seq_length" else name
        if name == "max_length" or name in OPTIONS:
            raise UsageError(f"--{name.replace('_', '-')}:{rest}") from error
        raise


def _task_name(word: str) -> str:
    """Name in the table of what was written."""
    try:
        return find_task(word).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from error

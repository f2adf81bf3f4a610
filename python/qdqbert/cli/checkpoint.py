# SPDX-License-Identifier: Apache-2.0
"""Opening and saving checkpoint folders for the command line."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdqbert.cli.report import UsageError
from qdqbert.errors import CheckpointError
from qdqbert.tasks.table import TaskEntry, find_task, has_head, task_of_architectures

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "add_rule_arguments",
    "check_output",
    "open_checkpoint",
    "open_model",
    "parse_rules",
    "save_checkpoint",
]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def open_checkpoint(folder: str, task: str | None) -> tuple[Any, Tokenizer, TaskEntry]:
    """Load the model and the tokenizer of a folder.

    Parameters
    ----------
    folder : str
    task : str or None
        Name of a task; None: the first that the checkpoint's head is for.

    Returns
    -------
    (model, tokenizer, TaskEntry)

    Raises
    ------
    CheckpointError
        If the folder does not hold a BERT with the head of the task, or no tokenizer.
    """
    import qdqbert
    from qdqbert.serialization.folder import Source, read_json
    from qdqbert.tokenization import load_tokenizer

    source = Source(folder)
    architectures = read_json(source.require("config.json")).get("architectures")
    named = [str(name) for name in architectures] if isinstance(architectures, list) else []
    found = task_of_architectures(architectures)
    entry = found if task is None else find_task(task)
    holds = f"config.json names {', '.join(named) or 'no class'}"
    if entry is None:
        raise CheckpointError(f"{folder}: {holds}, which has no head that a task is for; say --task")
    if found is not None and not any(has_head(name, entry) for name in named):
        raise CheckpointError(f"{folder}: {entry.name} needs a Bert{entry.head}, {holds}")
    model, info = getattr(qdqbert, entry.model_class).from_pretrained(folder, output_loading_info=True)
    if info["missing_keys"]:
        raise CheckpointError(
            f"{folder}: {len(info['missing_keys'])} weights of {type(model).__name__} are missing, e.g. "
            f"{info['missing_keys'][0]} ({holds}): the model has not been trained for {entry.name}"
        )
    return model, load_tokenizer(folder), entry


def open_model(folder: str) -> Any:
    """Load the model of a folder as the class that its configuration names.

    Parameters
    ----------
    folder : str

    Returns
    -------
    QDQBertPreTrainedModel

    Raises
    ------
    CheckpointError
        If the folder holds no BERT that is whole.
    """
    import qdqbert
    from qdqbert.serialization.folder import Source, read_json

    named = read_json(Source(folder).require("config.json")).get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    if not names:
        raise CheckpointError(f"{folder}: config.json names no architecture, so its head is not known")
    plain = names[0].removeprefix("QDQ").removeprefix("Bert")
    kind = getattr(qdqbert, f"QDQBert{plain}", None)
    if not (isinstance(kind, type) and issubclass(kind, qdqbert.QDQBertPreTrainedModel)):
        raise CheckpointError(f"{folder}: config.json names {names[0]}, which has no class here")
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    if info["missing_keys"]:
        raise CheckpointError(
            f"{folder}: {len(info['missing_keys'])} weights of {kind.__name__} are missing, e.g. "
            f"{info['missing_keys'][0]}"
        )
    return model


def check_output(source: str, output: str) -> None:
    """Refuse to replace the checkpoint that is read: there may be no other copy of its float weights.

    Parameters
    ----------
    source, output : str
        Folders.

    Raises
    ------
    UsageError
        If they are the same.
    """
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(source, output):
        raise UsageError(
            f"--output: {output} is the checkpoint itself, which would be replaced; name another folder"
        )


def save_checkpoint(model: Any, source: str, output: str) -> None:
    """Save a model with the tokenizer files of the folder it came from.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    source, output : str
        Folders.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    target = Path(output)
    model.save_pretrained(output)
    for name in _TOKENIZER_FILES:
        origin = Path(source) / name
        if origin.is_file() and not (target / name).exists():
            shutil.copyfile(origin, target / name)


def add_rule_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--rule`` and ``--rules``."""
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="GLOB=STATE",
        help="switch quantizers by name, STATE off or on, e.g. '*.attention.output.add_*=off'; "
        "may be repeated, later rules win",
    )
    parser.add_argument("--rules", metavar="FILE", help="JSON object of such rules, applied before --rule")


def parse_rules(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ordered rules of ``--rules`` and ``--rule``.

    Parameters
    ----------
    arguments : Namespace

    Returns
    -------
    dict of str to object
        For `qdqbert.quantizers`.

    Raises
    ------
    UsageError
        If a rule has no ``=STATE``.
    CheckpointError
        If the file is missing or not a JSON object.
    """
    rules: dict[str, Any] = {}
    if arguments.rules is not None:
        from qdqbert.serialization.folder import read_json

        if not Path(arguments.rules).is_file():
            raise CheckpointError(f"--rules: no file {arguments.rules}")
        rules.update(read_json(Path(arguments.rules)))
    for rule in arguments.rule:
        pattern, separator, state = rule.rpartition("=")
        if not separator or not pattern:
            raise UsageError(f"--rule: expected GLOB=STATE, found {rule!r}")
        rules.pop(pattern, None)  # a repeated pattern counts where it stands last
        rules[pattern] = json.loads(state) if state.startswith("{") else state
    return rules

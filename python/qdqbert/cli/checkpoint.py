# SPDX-License-Identifier: Apache-2.0
"""Opening and saving checkpoint folders for the command line."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdqbert.cli.report import UsageError
from qdqbert.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["add_rule_arguments", "open_checkpoint", "parse_rules", "save_checkpoint", "task_of"]

_HEADS = {
    "squad": ("QuestionAnswering", "QDQBertForQuestionAnswering"),
    "classification": ("SequenceClassification", "QDQBertForSequenceClassification"),
}

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def task_of(config: dict[str, Any]) -> str | None:
    """Task of the head that ``config.json`` names, or None if it names none that is known.

    Parameters
    ----------
    config : dict

    Returns
    -------
    str or None
        ``"squad"`` or ``"classification"``.
    """
    architectures = config.get("architectures")
    names = " ".join(map(str, architectures)) if isinstance(architectures, list) else ""
    return next((task for task, (suffix, _) in _HEADS.items() if suffix in names), None)


def open_checkpoint(folder: str, task: str | None) -> tuple[Any, Tokenizer, str]:
    """Load the model and the tokenizer of a folder.

    Parameters
    ----------
    folder : str
    task : str or None
        None: what the checkpoint's head is for.

    Returns
    -------
    (model, tokenizer, task)

    Raises
    ------
    CheckpointError
        If the folder does not hold a BERT with the head of the task, or no tokenizer.
    """
    import qdqbert
    from qdqbert.serialization.folder import Source, read_json
    from qdqbert.tokenization import load_tokenizer

    source = Source(folder)
    found = task_of(read_json(source.require("config.json")))
    if task is None and found is None:
        raise CheckpointError(
            f"{folder}: config.json names no head for question answering or sequence "
            "classification; say --task"
        )
    if task is not None and found is not None and task != found:
        raise CheckpointError(f"{folder}: expected a checkpoint for {task}, found one for {found}")
    chosen = task or found
    assert chosen is not None
    model, info = getattr(qdqbert, _HEADS[chosen][1]).from_pretrained(folder, output_loading_info=True)
    if info["missing_keys"]:
        raise CheckpointError(
            f"{folder}: {len(info['missing_keys'])} weights of {type(model).__name__} are missing, e.g. "
            f"{info['missing_keys'][0]}: the model has not been trained for this task"
        )
    return model, load_tokenizer(folder), chosen


def save_checkpoint(model: Any, source: str, output: str) -> None:
    """Save a model with the tokenizer files of the folder it came from.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    source, output : str
        Folders; they may be the same.

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

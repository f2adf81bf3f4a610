# SPDX-License-Identifier: Apache-2.0
"""Curves of a run, from its log."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.serialization.folder import read_json
from qdqbert.training.checkpoint_folder import STATE_NAME
from qdqbert.training.reporting import LOG_NAME

__all__ = ["plot_history", "read_history"]


def read_history(history: Any) -> list[dict[str, Any]]:
    """Return the entries of a log, oldest first.

    Parameters
    ----------
    history : list of dict, TrainerState, Trainer, str or path
        What was logged; or a ``trainer_state.json``, ``log.jsonl``, or a folder with one of them.

    Raises
    ------
    CheckpointError
        If a file is missing or is no log.
    TypeError
        If `history` is something else.
    """
    state = getattr(history, "state", history)
    entries = getattr(state, "log_history", state)
    if isinstance(entries, str | os.PathLike):
        return _read(Path(entries))
    if not isinstance(entries, Sequence) or not all(isinstance(entry, Mapping) for entry in entries):
        raise TypeError(
            f"history: expected a list of dicts, a trainer or a file, got {type(history).__name__}"
        )
    return [dict(entry) for entry in entries]


def plot_history(
    history: Any, keys: Sequence[str] | str = ("loss", "eval_loss"), *, ax: Any = None, **line_options: Any
) -> Any:
    """Draw curves of a run over its steps.

    Parameters
    ----------
    history : list of dict, TrainerState, Trainer, str or path
        See `read_history`.
    keys : str or sequence of str
        Figures to draw, each a line; those that the log does not have are left out.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    **line_options
        For ``Axes.plot``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnsupportedError
        If matplotlib is not installed; it comes with ``pip install 'qdqbert[plot]'``.
    ValueError
        If the log has none of the figures.
    CheckpointError, TypeError
        See `read_history`.
    """
    entries = read_history(history)
    names = [keys] if isinstance(keys, str) else list(keys)
    curves = {
        name: [(entry["step"], entry[name]) for entry in entries if name in entry and "step" in entry]
        for name in names
    }
    if not any(curves.values()):
        known = sorted({name for entry in entries for name in entry} - {"step", "epoch"})
        raise ValueError(
            f"keys: the log has none of {', '.join(names)}; it has {', '.join(known) or 'nothing'}"
        )
    if ax is None:
        try:
            pyplot = importlib.import_module("matplotlib.pyplot")
        except ImportError as error:
            raise UnsupportedError(
                "plot_history: needs matplotlib; pip install 'qdqbert[plot]', or pass ax"
            ) from error
        _, ax = pyplot.subplots()
    for name, points in curves.items():
        if points:
            steps, values = zip(*points, strict=True)
            # A curve of a single point would not be seen.
            defaults = {"label": name, "marker": "." if len(points) < 30 else None}
            ax.plot(steps, values, **{**defaults, **line_options})
    ax.set_xlabel("step")
    ax.legend()
    return ax


def _read(path: Path) -> list[dict[str, Any]]:
    if path.is_dir():
        found = next((path / name for name in (STATE_NAME, LOG_NAME) if (path / name).is_file()), None)
        if found is None:
            raise CheckpointError(f"{path}: has neither {STATE_NAME} nor {LOG_NAME}")
        path = found
    if path.suffix != ".jsonl":
        entries = read_json(path).get("log_history")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CheckpointError(f"{path}: has no log_history")
        return entries
    entries = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # a killed process leaves its last line torn
                break
            raise CheckpointError(f"{path}: line {number}: is not valid JSON: {error}") from error
        if not isinstance(entry, dict):
            raise CheckpointError(f"{path}: line {number}: expected an object")
        entries.append(entry)
    return entries

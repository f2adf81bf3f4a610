# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization in one pass over the data: every method is tried, the best is kept."""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qdqbert.cli.comparison import model_bytes
from qdqbert.cli.report import UsageError
from qdqbert.tasks.task import Evaluation, Task

__all__ = [
    "FLOAT",
    "METHODS",
    "Trials",
    "add_methods_argument",
    "apply_method",
    "check_methods",
    "held_out",
    "start_calibration",
    "try_methods",
]

FLOAT = "float"
METHODS = ("max", "percentile-99.99", "mse", "entropy")


@dataclass(slots=True)
class Trials:
    """Scores by method.

    Attributes
    ----------
    scores : dict of str to Evaluation
        `FLOAT` first, then the methods in the order tried.
    sizes : dict of str to int
        Bytes of the weights, see `model_bytes`.
    best : str
        Method with the best score; the earlier one of equals.
    """

    scores: dict[str, Evaluation] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    best: str = ""


def check_methods(methods: Sequence[str]) -> list[str]:
    """Return the methods, each once.

    Parameters
    ----------
    methods : sequence of str
        ``max``, ``mse``, ``entropy``, or ``percentile-P`` with P in (0, 100].

    Raises
    ------
    UsageError
        If one is unknown, or P is out of range.
    """
    for method in methods:
        _split(method)
    return list(dict.fromkeys(methods))


def _split(method: str) -> tuple[str, dict[str, float]]:
    if method in ("max", "mse", "entropy"):
        return method, {}
    name, _, value = method.partition("-")
    try:
        percentile = float(value) if name == "percentile" else 0.0
    except ValueError:
        percentile = 0.0
    if not 0.0 < percentile <= 100.0:
        raise UsageError(
            f"method: expected max, mse, entropy or percentile-P with P in (0, 100], found {method!r}"
        )
    return name, {"percentile": percentile}


def start_calibration(model: Any) -> Any:
    """Return a `Calibration` of a model as its folder and the rules have switched it.

    Raises
    ------
    CheckpointError
        If that leaves no quantizer of activations on.
    """
    import qdqbert

    try:
        return qdqbert.Calibration(model)
    except qdqbert.StateError as error:
        raise qdqbert.CheckpointError(
            f"{error}; calibrate and quantize take --rule '*=on', which switches them on"
        ) from error


def apply_method(calibration: Any, method: str) -> None:
    """Set the ranges of a calibrated model by a method of `check_methods`."""
    name, options = _split(method)
    calibration.apply(name, **options)


def held_out(task: Task, samples: int, seed: int, most: int) -> Task:
    """Items that the calibration samples of the same seed do not hold.

    Parameters
    ----------
    task : Task
    samples, seed : int
        As given to `Task.batches`.
    most : int
        How many items at most, drawn at random; >= 1.

    Returns
    -------
    Task

    Raises
    ------
    UsageError
        If no item is left.
    """
    count = len(task)
    used = set(random.Random(seed).sample(range(count), min(samples, count)))
    rest = [index for index in range(count) if index not in used]
    if not rest:
        raise UsageError(
            f"--samples: all {count} items of --data would be used for calibration; "
            "give fewer, or a file of held-out items"
        )
    if len(rest) > most:
        rest = sorted(random.Random(seed + 1).sample(rest, most))
    return task.select(rest)


def try_methods(
    model: Any, calibration: Any, methods: Sequence[str], task: Task, progress: bool | None = None
) -> Trials:
    """Score a model in float and under every method, and leave it with the best one.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    calibration : Calibration
        Of `model`, with the data collected.
    methods : sequence of str
        At least one, see `check_methods`.
    task : Task
        Of held-out items.
    progress : bool, optional
        Whether to show bars on stderr; by default on a terminal only.

    Returns
    -------
    Trials
    """
    import qdqbert

    full, quantized = model_bytes(model)
    trials = Trials()
    with qdqbert.quantizers(model, {"*": "off"}):
        trials.scores[FLOAT] = task.evaluate(model, progress=progress)
    trials.sizes[FLOAT] = full
    for method in methods:
        apply_method(calibration, method)
        trials.scores[method] = task.evaluate(model, progress=progress)
        trials.sizes[method] = quantized
    trials.best = max(methods, key=lambda method: _rank(trials.scores[method]))
    apply_method(calibration, trials.best)
    return trials


def _rank(score: Evaluation) -> float:
    """Larger is better; a score that is not defined is the worst."""
    value = score.value if score.figures[0].higher_is_better else -score.value
    return -math.inf if math.isnan(value) else value


def add_methods_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--methods``."""
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="METHOD",
        help=f"max, mse, entropy, percentile-P (default: {' '.join(METHODS)})",
    )

# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization in one pass over the data: every method is tried, the best is kept."""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qdqbert.calibration_search import METHODS_TRIED, MIX, MIX_BY_SITE, CalibrationSearch, method_options
from qdqbert.cli.comparison import model_bytes
from qdqbert.cli.report import UsageError
from qdqbert.tasks.task import Evaluation, Task

__all__ = [
    "FLOAT",
    "METHODS",
    "METHODS_HELP",
    "Trials",
    "add_methods_argument",
    "add_search_argument",
    "apply_method",
    "check_methods",
    "first_samples",
    "held_out",
    "start_calibration",
    "try_methods",
]

FLOAT = "float"
METHODS = ("max", "percentile-99.99", "mse", "entropy", MIX)
_SITES = 16
METHODS_HELP = (
    f"max, mse, entropy, percentile-P; {MIX}: for each kind of site the method (of {len(METHODS_TRIED)}) "
    "that keeps the logits of --search-samples texts nearest to float's, about 110 passes over these; "
    f"{MIX_BY_SITE}: then also at each of the {_SITES} sites that cost most, up to 390 passes more for "
    "12 layers"
)


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
    search : CalibrationSearch or None
        What the mixes are, if one was tried.
    """

    scores: dict[str, Evaluation] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    best: str = ""
    search: CalibrationSearch | None = None


def check_methods(methods: Sequence[str]) -> list[str]:
    """Return the methods, each once.

    Parameters
    ----------
    methods : sequence of str
        ``max``, ``mse``, ``entropy``, ``percentile-P`` with P in (0, 100], ``mix`` or ``mix-by-site``.

    Raises
    ------
    UsageError
        If one is unknown, or P is out of range.
    """
    for method in methods:
        if method in (MIX, MIX_BY_SITE):
            continue
        try:
            method_options(method)
        except ValueError as error:
            raise UsageError(
                "method: expected max, mse, entropy, percentile-P with P in (0, 100], "
                f"{MIX} or {MIX_BY_SITE}, found {method!r}"
            ) from error
    return list(dict.fromkeys(methods))


def apply_method(calibration: Any, method: str, batches: Sequence[Any]) -> CalibrationSearch | None:
    """Set the ranges of a calibrated model by a method of `check_methods`.

    Parameters
    ----------
    calibration : Calibration
    method : str
    batches : sequence of dicts
        Where a mix compares logits.

    Returns
    -------
    CalibrationSearch or None
        What a mix is.
    """
    if method in (MIX, MIX_BY_SITE):
        search: CalibrationSearch = calibration.search(batches, sites=_SITES if method == MIX_BY_SITE else 0)
        return search
    options = method_options(method)
    calibration.apply(options.pop("method"), **options)
    return None


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


def first_samples(batches: Sequence[Any], count: int, batch_size: int) -> Sequence[Any]:
    """Return the batches that hold the first so many samples.

    Parameters
    ----------
    batches : sequence of dicts
    count, batch_size : int

    Raises
    ------
    UsageError
        If `count` is not positive.
    """
    if count < 1:
        raise UsageError(f"--search-samples: expected at least 1, found {count}")
    return batches[: -(-count // batch_size)]


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
    model: Any,
    calibration: Any,
    methods: Sequence[str],
    task: Task,
    batches: Sequence[Any] = (),
    progress: bool | None = None,
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
    batches : sequence of dicts
        Where mixes compare logits; needed if one is among the methods.
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

    def apply(method: str) -> None:
        if method not in (MIX, MIX_BY_SITE):
            apply_method(calibration, method, ())
            return
        if trials.search is None:  # one search serves both
            wanted = MIX_BY_SITE if MIX_BY_SITE in methods else MIX
            trials.search = apply_method(calibration, wanted, batches)
            assert trials.search is not None
        trials.search.apply(trials.search.refined_from if method == MIX else None)

    for method in methods:
        apply(method)
        trials.scores[method] = task.evaluate(model, progress=progress)
        trials.sizes[method] = quantized
    trials.best = max(methods, key=lambda method: _rank(trials.scores[method]))
    apply(trials.best)
    return trials


def _rank(score: Evaluation) -> float:
    """Larger is better; a score that is not defined is the worst."""
    value = score.value if score.figures[0].higher_is_better else -score.value
    return -math.inf if math.isnan(value) else value


def add_methods_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--methods`` and ``--search-samples``."""
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="METHOD",
        help=f"{METHODS_HELP} (default: {' '.join(METHODS)})",
    )
    add_search_argument(parser)


def add_search_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--search-samples``."""
    parser.add_argument(
        "--search-samples",
        type=int,
        default=32,
        metavar="N",
        help="calibration samples that mixes compare logits on, the first ones (32)",
    )

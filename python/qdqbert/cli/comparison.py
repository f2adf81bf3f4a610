# SPDX-License-Identifier: Apache-2.0
"""Scores side by side: the first row is the baseline, every other one gets its change with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qdqbert.tasks.task import Evaluation, Task
from qdqbert.text_table import format_bytes, format_table

__all__ = ["add_comparison", "comparison_lines", "model_bytes", "relative_drop", "score_entry"]

CONFIDENCE = 0.95


def score_entry(score: Evaluation) -> dict[str, Any]:
    """Return the JSON form of a score: None where a number is not defined or infinite."""
    intervals = {}
    for figure in score.figures:
        interval = figure.interval(confidence=CONFIDENCE)
        intervals[figure.name] = {
            "low": _number(interval.low),
            "high": _number(interval.high),
            "confidence": CONFIDENCE,
        }
    return {
        "score": _number(score.value),
        "milliseconds_per_item": score.milliseconds,
        "metrics": {name: _number(value) for name, value in score.metrics.items()},
        "intervals": intervals,
    }


def add_comparison(rows: dict[str, dict[str, Any]], scores: Mapping[str, Evaluation]) -> None:
    """Add to each row but the first how far it is from the first, with 95 % paired-bootstrap intervals."""
    names = list(scores)
    for name in names[1:]:
        differences = {}
        for figure in scores[name].figures:
            if figure.name in scores[names[0]].metrics:
                found = figure.difference(scores[names[0]][figure.name], confidence=CONFIDENCE)
                differences[figure.name] = {
                    "mean": _number(found.mean),
                    "low": _number(found.low),
                    "high": _number(found.high),
                    "confidence": CONFIDENCE,
                }
        rows[name]["differences"] = differences


def comparison_lines(task: Task, scores: Mapping[str, Evaluation], sizes: Mapping[str, int]) -> list[str]:
    """Table of scores for people.

    Parameters
    ----------
    task : Task
    scores : mapping of row name to Evaluation
        The first row is the baseline.
    sizes : mapping of row name to int
        Bytes, where known; without any there is no such column.

    Returns
    -------
    list of str
    """
    names = list(scores)
    first = scores[names[0]]
    shown = [figure.name for figure in first.figures if not figure.is_detail]
    header = ["method", *shown]
    if len(names) > 1:
        header.append(f"change of {task.metric} against {names[0]}")
    header += (["size"] if sizes else []) + [f"ms per {task.item}"]
    rows = []
    for name, score in scores.items():
        row = [name]
        for figure in (score[wanted] for wanted in shown):
            interval = figure.interval(confidence=CONFIDENCE)
            row.append(f"{figure.value:.2f} ({interval.low:.2f} .. {interval.high:.2f})")
        if len(names) > 1:
            row.append("" if name == names[0] else _change(score, first))
        row += ([format_bytes(sizes[name])] if sizes else []) + [f"{score.milliseconds:.2f}"]
        rows.append(row)
    note = f"in parentheses: 95 % intervals, bootstrap over {first.items} {task.item}s"
    return [*format_table(header, rows), "", note + (", paired for the change" if len(names) > 1 else "")]


def relative_drop(baseline: Evaluation, score: Evaluation) -> float:
    """How much worse a score is, in percent of the baseline's; negative if it is better.

    Parameters
    ----------
    baseline, score : Evaluation
        Of one task.

    Returns
    -------
    float
        Infinity if the baseline is 0 and the score is worse, or the score is not defined.
    """
    loss = baseline.value - score.value
    if not baseline.figures[0].higher_is_better:
        loss = -loss
    if math.isnan(score.value) and not math.isnan(baseline.value):
        return math.inf
    if math.isnan(loss):  # neither is defined, or both are infinite
        return 0.0
    if baseline.value == 0.0:
        return 0.0 if loss <= 0.0 else math.inf
    return 100.0 * loss / abs(baseline.value)


def model_bytes(model: Any) -> tuple[int, int]:
    """Size of a model's parameters in float32, and with the encoder's products on 8-bit weights.

    Parameters
    ----------
    model : QDQBertPreTrainedModel

    Returns
    -------
    (int, int)
        Bytes.  In the second, each weight of a quantized linear layer is a one-byte code and each of its rows
        has a float32 scale; everything else is float32.
    """
    full = quantized = 0
    weights = {
        name.removesuffix("._weight_quantizer")
        for name, _ in model.named_modules()
        if name.endswith("._weight_quantizer")
    }
    for name, value in model.named_parameters():
        full += 4 * value.size
        layer, _, kind = name.rpartition(".")
        is_code = kind == "weight" and layer in weights
        quantized += value.size + 4 * value.shape[0] if is_code else 4 * value.size
    return full, quantized


def _change(score: Evaluation, baseline: Evaluation) -> str:
    found = score.figures[0].difference(baseline.figures[0], confidence=CONFIDENCE)
    return f"{found.mean:+.2f} ({found.low:+.2f} .. {found.high:+.2f})"


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None

# SPDX-License-Identifier: Apache-2.0
"""Scores side by side: the first row is the baseline, every other one gets its drop with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdqbert.cli.report import format_bytes, format_table
from qdqbert.cli.workload import Score, Workload
from qdqbert.tasks.bootstrap import paired_difference

__all__ = ["add_comparison", "comparison_lines", "model_bytes", "score_entry"]


def score_entry(score: Score) -> dict[str, Any]:
    """Return the JSON form of a score."""
    return {
        "score": score.value,
        "milliseconds_per_item": score.milliseconds,
        "metrics": {name: value for name, value in score.metrics.items()},
    }


def add_comparison(rows: dict[str, dict[str, Any]], scores: Mapping[str, Score]) -> None:
    """Add to each row but the first how far it is from the first, with a 95 % paired-bootstrap interval."""
    names = list(scores)
    for name in names[1:]:
        difference = paired_difference(scores[name].items, scores[names[0]].items)
        rows[name]["difference"] = {
            "mean": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "confidence": 0.95,
        }


def comparison_lines(workload: Workload, scores: Mapping[str, Score], sizes: Mapping[str, int]) -> list[str]:
    """Table of scores for people.

    Parameters
    ----------
    workload : Workload
    scores : mapping of row name to Score
        The first row is the baseline.
    sizes : mapping of row name to int
        Bytes, where known; without any there is no such column.

    Returns
    -------
    list of str
    """
    names = list(scores)
    # The v1.1 scorer says exact_match, the v2.0 scorer exact.
    exact = next((key for key in ("exact_match", "exact") if key in scores[names[0]].metrics), None)
    header = [
        "method",
        *(["EM"] if exact else []),
        workload.metric,
        "change against " + names[0] + " (95 % interval)",
    ]
    header += (["size"] if sizes else []) + [f"ms per {workload.item}"]
    rows = []
    for name, score in scores.items():
        change = ""
        if name != names[0]:
            difference = paired_difference(score.items, scores[names[0]].items)
            change = f"{difference.mean:+.2f} ({difference.low:+.2f} .. {difference.high:+.2f})"
        row = [name, *([f"{score.metrics[exact]:.2f}"] if exact else []), f"{score.value:.2f}", change]
        row += ([format_bytes(sizes[name])] if sizes else []) + [f"{score.milliseconds:.2f}"]
        rows.append(row)
    return format_table(header, rows)


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

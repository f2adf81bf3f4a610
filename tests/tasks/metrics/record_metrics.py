# SPDX-License-Identifier: Apache-2.0
"""Record what scikit-learn, scipy and seqeval answer to `metric_cases`; makes `metric_values.json`.

    python record_metrics.py

Needs scikit-learn, scipy and seqeval.  The file holds the versions that answered.
"""

from __future__ import annotations

import json
import math
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics
from metric_cases import class_cases, number_cases, tag_cases
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as default_scores
from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
from seqeval.scheme import IOB2

HERE = Path(__file__).resolve().parent


def class_values(labels: list[int], predicted: list[int]) -> dict[str, float | None]:
    """Answers of scikit-learn; None where it raises."""
    values: dict[str, float | None] = {
        "accuracy": float(sklearn.metrics.accuracy_score(labels, predicted)),
        "matthews": float(sklearn.metrics.matthews_corrcoef(labels, predicted)),
    }
    for average in ("macro", "micro", "weighted"):
        values[average] = float(sklearn.metrics.f1_score(labels, predicted, average=average))
    try:
        values["binary"] = float(sklearn.metrics.f1_score(labels, predicted))
    except ValueError:
        values["binary"] = None
    every = [0, 1, 2, 3, 4]
    values["macro of five"] = float(
        sklearn.metrics.f1_score(labels, predicted, labels=every, average="macro")
    )
    return values


def number_values(x: list[float], y: list[float]) -> dict[str, float | None]:
    """Answers of scipy; None for NaN."""
    values = {
        "pearson": float(scipy.stats.pearsonr(x, y)[0]),
        "spearman": float(scipy.stats.spearmanr(x, y)[0]),
    }
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def tag_values(gold: list[list[str]], predicted: list[list[str]], mode: str) -> dict[str, Any]:
    """Precision, recall, F1 and gold entities as seqeval counts them, by average and by type."""
    score: Any = default_scores
    options: dict[str, Any] = {}
    if mode == "strict":
        score, options = strict_scores, {"scheme": IOB2}
    values = {
        average: [float(value) for value in score(gold, predicted, average=average, **options)]
        for average in ("micro", "macro", "weighted")
    }
    by_type = zip(*score(gold, predicted, average=None, **options), strict=True)
    values["types"] = [[float(value) for value in row] for row in by_type]
    # The mean over no types is NaN there.
    return {k: v for k, v in values.items() if not np.isnan(np.asarray(v, dtype=float)).any()}


def main() -> None:
    warnings.simplefilter("ignore")
    content = {
        "versions": {name: version(name) for name in ("scikit-learn", "scipy", "seqeval")},
        "classes": {name: class_values(*case) for name, case in class_cases().items()},
        "numbers": {name: number_values(*case) for name, case in number_cases().items()},
        "default": {
            name: tag_values(*case, "default") for name, case in (tag_cases() | tag_cases("BIES")).items()
        },
        "strict": {name: tag_values(*case, "strict") for name, case in tag_cases().items()},
    }
    (HERE / "metric_values.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

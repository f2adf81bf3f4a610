# SPDX-License-Identifier: Apache-2.0
"""Metrics against scikit-learn, scipy and seqeval themselves, on many more random predictions.

Tolerances as in `test_recorded_metrics`; without the libraries the recorded values stand for them.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from qdqbert.tasks import metrics

pytestmark = [pytest.mark.witness, pytest.mark.filterwarnings("ignore")]
ULPS = 8 * np.finfo(np.float64).eps


def library(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def test_classes_score_as_in_scikit_learn():
    sklearn = library("sklearn.metrics")
    generator = np.random.default_rng(1)
    for _ in range(400):
        size, classes = int(generator.integers(1, 60)), int(generator.integers(1, 6))
        labels, predicted = generator.integers(0, classes, (2, size))
        assert metrics.accuracy(labels, predicted) == pytest.approx(
            sklearn.accuracy_score(labels, predicted), rel=ULPS
        )
        assert metrics.matthews_correlation(labels, predicted) == pytest.approx(
            sklearn.matthews_corrcoef(labels, predicted), rel=ULPS, abs=ULPS
        )
        for average in ("macro", "micro", "weighted"):
            assert metrics.f1(labels, predicted, average=average) == pytest.approx(
                sklearn.f1_score(labels, predicted, average=average), rel=ULPS
            )
        positive = int(generator.integers(0, classes))
        theirs = ours = None
        try:
            theirs = sklearn.f1_score(labels, predicted, pos_label=positive)
        except ValueError:
            with pytest.raises(ValueError, match=r"expected|needs"):
                metrics.f1(labels, predicted, positive=positive)
        else:
            ours = metrics.f1(labels, predicted, positive=positive)
            assert ours == pytest.approx(theirs, rel=ULPS)


def test_correlations_are_scipys():
    stats = library("scipy.stats")
    generator = np.random.default_rng(2)
    for _ in range(400):
        size, decimals = int(generator.integers(2, 80)), int(generator.integers(-1, 3))
        x = np.round(generator.uniform(0, 5, size), decimals)
        y = np.round(x * generator.uniform(-1, 1) + generator.normal(0, 2, size), decimals)
        for name, theirs in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
            assert getattr(metrics, name)(x, y) == pytest.approx(
                float(theirs(x, y)[0]), abs=1e-12, nan_ok=True
            )


@pytest.mark.parametrize("mode", ["default", "strict"])
def test_entities_are_seqevals(mode):
    labeling, scheme = library("seqeval.metrics.sequence_labeling"), library("seqeval.scheme")
    generator = np.random.default_rng(3)
    prefixes = "BI" if mode == "strict" else "BIES"
    tags = ["O", "B", "I", *(f"{p}-{kind}" for p in prefixes for kind in ("a", "b", "a-b"))]
    for _ in range(3000):
        words = [tags[i] for i in generator.integers(0, len(tags), generator.integers(0, 9))]
        if mode == "strict":
            entities = scheme.Tokens(words, scheme.IOB2).entities
            theirs = [(entity.start, entity.end, entity.tag) for entity in entities]
        else:
            theirs = [(start, end + 1, kind) for kind, start, end in labeling.get_entities(words)]
        ours = [(e.start, e.end, e.kind) for e in metrics.entities_of(words, mode=mode)]
        assert ours == theirs, words


def test_resampled_value_is_that_of_the_resampled_file():
    sklearn, stats = library("sklearn.metrics"), library("scipy.stats")
    generator = np.random.default_rng(4)
    labels, predicted = generator.integers(0, 3, (2, 40))
    x = np.round(generator.uniform(0, 5, 40), 1)
    y = np.round(x + generator.normal(0, 2, 40), 0)
    drawn = generator.integers(40, size=(50, 40))
    counts = np.stack([np.bincount(row, minlength=40) for row in drawn]).astype(np.float64)

    pairs: list[tuple[Any, Any]] = [
        (metrics.Matthews(labels, predicted), lambda i: sklearn.matthews_corrcoef(labels[i], predicted[i])),
        (
            metrics.F1(labels, predicted, average="macro"),
            lambda i: sklearn.f1_score(labels[i], predicted[i], average="macro"),
        ),
        (metrics.Pearson(x, y), lambda i: stats.pearsonr(x[i], y[i])[0]),
        (metrics.Spearman(x, y), lambda i: stats.spearmanr(x[i], y[i])[0]),
    ]
    for statistic, theirs in pairs:
        assert statistic(counts) == pytest.approx([float(theirs(row)) for row in drawn], abs=1e-12)

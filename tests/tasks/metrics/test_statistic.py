# SPDX-License-Identifier: Apache-2.0
"""Metrics over counted items: a resample scores as the file that it stands for; bad numbers are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qdqbert.tasks import metrics
from qdqbert.tasks.bootstrap import resampled_counts

GENERATOR = np.random.default_rng(11)
LABELS, PREDICTED = GENERATOR.integers(0, 3, (2, 53))
RARE = GENERATOR.integers(0, 40, 53)
RARE_FOUND = np.where(GENERATOR.random(53) < 0.5, RARE, GENERATOR.integers(0, 40, 53))
X = np.round(GENERATOR.uniform(0, 5, 53), 1)
Y = np.round(X + GENERATOR.normal(0, 2, 53))
TAGS = [["O", "B-a", "I-a"], ["B-b", "O"], ["I-a", "B-b"], ["O"], ["B-a", "B-a"]] * 10 + [["O"]] * 3
FOUND = [["O", "B-a", "O"], ["B-b", "O"], ["B-a", "I-b"], ["B-b"], ["B-a", "I-a"]] * 10 + [["O"]] * 3
TOKENS = GENERATOR.integers(0, 20, 53)
LOSSES = GENERATOR.uniform(0, 9, 53) * TOKENS


def chosen(rows, index):
    return [rows[i] for i in index]


STATISTICS = {
    "accuracy": (
        metrics.correct_mean(LABELS, PREDICTED),
        lambda i: metrics.accuracy(LABELS[i], PREDICTED[i]),
    ),
    "matthews": (
        metrics.Matthews(LABELS, PREDICTED),
        lambda i: metrics.matthews_correlation(LABELS[i], PREDICTED[i]),
    ),
    **{
        f"f1 {average}": (
            metrics.F1(LABELS, PREDICTED, average=average),
            lambda i, average=average: metrics.f1(LABELS[i], PREDICTED[i], average=average),
        )
        for average in ("macro", "micro", "weighted")
    },
    # Of 53 items of 40 classes a resample lacks many classes: the mean is over those that it holds.
    "f1 macro of rare classes": (
        metrics.F1(RARE, RARE_FOUND, average="macro"),
        lambda i: metrics.f1(RARE[i], RARE_FOUND[i], average="macro"),
    ),
    "f1 macro of given classes": (
        metrics.F1(RARE, RARE_FOUND, average="macro", classes=range(40)),
        lambda i: metrics.f1(RARE[i], RARE_FOUND[i], average="macro", classes=range(40)),
    ),
    "f1 binary": (
        metrics.F1(LABELS % 2, PREDICTED % 2),
        lambda i: metrics.f1(LABELS[i] % 2, PREDICTED[i] % 2),
    ),
    "pearson": (metrics.Pearson(X, Y), lambda i: metrics.pearson(X[i], Y[i])),
    "spearman": (metrics.Spearman(X, Y), lambda i: metrics.spearman(X[i], Y[i])),
    "perplexity": (metrics.Perplexity(LOSSES, TOKENS), lambda i: metrics.perplexity(LOSSES[i], TOKENS[i])),
    **{
        f"entity {score}": (
            metrics.EntityStatistic(metrics.count_entities(TAGS, FOUND), score),
            lambda i, score=score: getattr(
                metrics.entity_scores(chosen(TAGS, i), chosen(FOUND, i))[None], score
            ),
        )
        for score in ("precision", "recall", "f1")
    },
    "entity f1 of a": (
        metrics.EntityStatistic(metrics.count_entities(TAGS, FOUND), kind="a"),
        lambda i: metrics.entity_scores(chosen(TAGS, i), chosen(FOUND, i))["a"].f1,
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_counted_items_score_as_the_file_that_holds_them_so_often(name):
    statistic, score = STATISTICS[name]
    counts = np.concatenate(list(resampled_counts(53, 40, seed=3)))
    files = [np.repeat(np.arange(53), row.astype(np.int64)) for row in counts]

    values = statistic(counts)

    # Sums of at most 53 products in another order.
    assert values == pytest.approx([score(file) for file in files], rel=1e-12, abs=1e-13)
    assert statistic.value() == pytest.approx(score(np.arange(53)), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_correlation_does_not_depend_on_the_unit(scale):
    assert metrics.pearson(X * scale, -Y * scale) == pytest.approx(-metrics.pearson(X, Y), rel=1e-12)
    assert metrics.spearman(X * scale, Y) == metrics.spearman(X, Y)


def test_correlation_of_a_resample_without_variance_is_undefined():
    # 13 times -0.41, divided by 13, is not -0.41: that must not pass for variance. (-1 and 1 make that -0.41
    # what the values are after scaling.)
    x, y = np.array([-1.0, 1.0, -0.41]), np.array([1.0, -1.0, -0.41])
    constant = np.array([[0.0, 0.0, float(n)] for n in range(1, 100)])
    assert np.isnan(metrics.Pearson(x, y)(constant)).all()
    assert np.isnan(metrics.Spearman(x, y)(constant)).all()

    varying = constant + np.array([1.0, 0.0, 0.0])
    assert np.isfinite(metrics.Pearson(x, y)(varying)).all()
    assert np.isfinite(metrics.Spearman(x, y)(varying)).all()


def test_perplexity_beyond_floats_is_infinite():
    assert metrics.perplexity([800.0], [1]) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.pearson([1, 2, np.nan], [1, 2, 3]),
            "x: expected finite numbers, found nan at index 2",
        ),
        (lambda: metrics.spearman([1, 2], [1, np.inf]), "y: expected finite numbers, found inf at index 1"),
        (lambda: metrics.pearson([1], [2]), "at least two pairs"),
        (lambda: metrics.pearson([1, 2], [2]), r"one length, found shapes \(2,\) and \(1,\)"),
        (lambda: metrics.perplexity([np.nan], [1]), "losses: expected finite"),
        (lambda: metrics.perplexity([-1.0], [1]), "losses: expected none below 0"),
        (lambda: metrics.perplexity([1.0], [0]), "tokens: expected integers"),
        (lambda: metrics.perplexity([1.0], [1.5]), "tokens: expected integers"),
        (lambda: metrics.accuracy([], []), "one length"),
        (lambda: metrics.accuracy([0, 1], [0]), "one length"),
        (lambda: metrics.accuracy([0.5], [0]), "labels: expected classes"),
        (lambda: metrics.accuracy([0], [np.nan]), "predicted: expected classes"),
        (lambda: metrics.accuracy([0], ["0"]), "one kind of classes"),
        (lambda: metrics.accuracy([None], [0]), "labels: expected integers or texts"),
        (lambda: metrics.f1([0, 1], [0, 1], average="mean"), "average: expected one of"),
        (lambda: metrics.f1([0, 1], [0, 1], classes=[0, 1]), "classes: not for average='binary'"),
        (lambda: metrics.Mean([[1.0]]), "values: expected a vector"),
        (lambda: metrics.Ratio([1.0], [np.inf]), "denominators: expected finite"),
        (lambda: metrics.entity_scores([], []), "at least one"),
        (lambda: metrics.entity_scores([["O"]], [["O", "O"]]), r"predicted\[0\]: expected 1 tags"),
        (lambda: metrics.entities_of(["O", "X-a"]), "tags: expected O, B-..., .* found 'X-a' at word 1"),
        (lambda: metrics.entities_of(["E-a"], mode="strict"), "found 'E-a' at word 0"),
        (lambda: metrics.entities_of([""]), "found '' at word 0"),
        (lambda: metrics.entities_of(["Bob"]), "found 'Bob' at word 0"),
        (lambda: metrics.entities_of(["O"], mode="lenient"), "mode: expected one of default, strict"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

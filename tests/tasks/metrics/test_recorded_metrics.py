# SPDX-License-Identifier: Apache-2.0
"""Metrics equal those of scikit-learn, scipy and seqeval, recorded by `record_metrics.py`.

Tolerance: counts are exact, so a score is a handful of roundings away from the same score computed in another
order: 8 units in the last place.  A correlation sums N products; 1e-12 is N eps for N = 1500 with a reserve
of 3, and of the large-offset case, whose inputs carry 1e9 times the difference that matters, 1e-6.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from metric_cases import class_cases, number_cases, tag_cases

from qdqbert.tasks import metrics

RECORDED = json.loads((Path(__file__).resolve().parent / "metric_values.json").read_text())
ULPS = 8 * np.finfo(np.float64).eps
CLASSES, NUMBERS = class_cases(), number_cases()
TAGS = {"default": tag_cases() | tag_cases("BIES"), "strict": tag_cases()}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_score_as_in_scikit_learn(name):
    labels, predicted = CLASSES[name]
    expected = dict(RECORDED["classes"][name])
    binary, five = expected.pop("binary"), expected.pop("macro of five")

    found = {
        "accuracy": metrics.accuracy(labels, predicted),
        "matthews": metrics.matthews_correlation(labels, predicted),
        **{a: metrics.f1(labels, predicted, average=a) for a in ("macro", "micro", "weighted")},
    }

    assert found == pytest.approx(expected, rel=ULPS, abs=ULPS)
    assert metrics.f1(labels, predicted, average="macro", classes=range(5)) == pytest.approx(five, rel=ULPS)
    if binary is None:
        with pytest.raises(ValueError, match=r"average: 'binary' needs two classes|positive: expected one"):
            metrics.f1(labels, predicted)
    else:
        assert metrics.f1(labels, predicted) == pytest.approx(binary, rel=ULPS)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlations_are_scipys(name, metric):
    value = getattr(metrics, metric)(*NUMBERS[name])

    expected = RECORDED["numbers"][name][metric]
    tolerance = 1e-6 if name == "large offset" else 1e-12
    assert value == pytest.approx(np.nan if expected is None else expected, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize(("mode", "name"), [(mode, name) for mode, cases in TAGS.items() for name in cases])
def test_entities_score_as_in_seqeval(mode, name):
    gold, predicted = TAGS[mode][name]
    expected = RECORDED[mode][name]

    scores = metrics.entity_scores(gold, predicted, mode=mode)
    counts = metrics.count_entities(gold, predicted, mode=mode)

    rows = [[s.precision, s.recall, s.f1, s.gold] for kind, s in scores.items() if kind is not None]
    assert np.array(rows).ravel() == pytest.approx(np.array(expected["types"]).ravel(), rel=ULPS)
    total = scores[None]
    micro = [total.precision, total.recall, total.f1, total.gold]
    assert micro == pytest.approx(expected["micro"], rel=ULPS)
    for average in ("macro", "weighted"):
        if average in expected:  # the mean over no types is not a number there
            found = [
                metrics.EntityStatistic(counts, score, average=average).value()
                for score in ("precision", "recall", "f1")
            ]
            assert found == pytest.approx(expected[average][:3], rel=ULPS)


def test_recorded_file_holds_every_case():
    assert set(RECORDED["classes"]) == set(CLASSES)
    assert set(RECORDED["numbers"]) == set(NUMBERS)
    for mode, cases in TAGS.items():
        assert set(RECORDED[mode]) == set(cases)

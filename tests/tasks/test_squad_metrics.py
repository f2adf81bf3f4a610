# SPDX-License-Identifier: Apache-2.0
"""EM and F1 against the definitions of the official scorers and their published results."""

from __future__ import annotations

import pytest

from qdqbert.tasks.squad_data import read_predictions, read_squad
from qdqbert.tasks.squad_metrics import (
    exact_match,
    f1,
    normalize_answer,
    question_scores,
    score_v1,
    score_v2,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Norman-French!", "normanfrench"),
        ("  An   apple\ta\nday ", "apple day"),
        ("theater", "theater"),
        ("A", ""),
        ("U.S.", "us"),
        ("\u201cquoted\u201d", "\u201cquoted\u201d"),  # only ASCII punctuation goes
        ("Frédéric", "frédéric"),
    ],
)
def test_normalization_drops_case_ascii_punctuation_articles_and_spaces(text, expected):
    assert normalize_answer(text) == expected


def test_f1_counts_words_with_multiplicity():
    assert f1("to be or not to be", "to be") == pytest.approx(2 * (2 / 6) * 1 / (2 / 6 + 1))
    assert f1("cat", "dog") == 0.0
    assert exact_match("The cat.", "cat") == 1.0


def test_two_empty_answers_agree_in_v2_and_have_no_f1_in_v1():
    assert f1("", "") == 1.0
    assert score_v1({"q": ["the"]}, {"q": "a"})["f1"] == 0.0
    assert score_v2({"q": []}, {"q": "the"})["f1"] == 100.0


def test_best_gold_answer_counts():
    assert question_scores({"q": ["x y", "x"]}, {"q": "x"}) == {"q": (1.0, 1.0)}


def test_missing_prediction_scores_zero_in_v1_and_is_left_out_in_v2():
    answers = {"p": ["x"], "q": ["y"]}

    assert score_v1(answers, {"p": "x"}) == {"exact_match": 50.0, "f1": 50.0, "total": 2, "missing": 1}
    assert score_v2(answers, {"p": "x"})["exact"] == 100.0
    assert score_v2(answers, {"p": "x"})["missing"] == 1


def test_v2_reports_answerable_and_unanswerable_questions_apart():
    answers = {"a": ["x"], "b": ["y z"], "c": [], "d": []}

    result = score_v2(answers, {"a": "x", "b": "y", "c": "", "d": "w"})

    assert result["exact"] == 50.0
    assert result["HasAns_exact"] == 50.0
    assert result["HasAns_f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert (result["NoAns_exact"], result["NoAns_f1"], result["NoAns_total"]) == (50.0, 50.0, 2)


def test_best_threshold_admits_answers_while_they_pay():
    answers = {"a": ["x"], "b": [], "c": ["y"]}
    predictions = {"a": "x", "b": "w", "c": "y"}

    result = score_v2(answers, predictions, {"a": -3.0, "b": 0.5, "c": 2.0})

    # Nothing answered: 1 of 3. Up to -3: 2. Up to 0.5: b is now wrong, 1. Up to 2: 2 again, which is no
    # better.
    assert result["best_exact"] == pytest.approx(100 * 2 / 3)
    assert result["best_exact_thresh"] == -3.0


def test_question_without_gold_answer_is_refused_by_v1():
    with pytest.raises(ValueError, match=r"'q'.*no gold answer"):
        score_v1({"q": []}, {"q": "x"})
    with pytest.raises(ValueError, match="at least one question"):
        score_v1({}, {})
    with pytest.raises(ValueError, match="none for any of the 1"):
        score_v2({"q": ["x"]}, {})


@pytest.mark.shared
@pytest.mark.uninstrumented  # Python alone
@pytest.mark.parametrize(
    ("name", "em", "f"),
    [("bert-ensemble-v1.1", 86.21, 92.20), ("logistic-regression-v1.1", 40.14, 50.98)],
)
def test_published_scores_of_official_predictions(shared, name, em, f):
    dataset = read_squad(shared("data", "squad", "dev-v1.1.json"))
    predictions = read_predictions(shared("data", "squad", "predictions", f"{name}.json"))

    result = score_v1(dataset.answers(), predictions)

    assert round(result["exact_match"], 2) == em
    assert round(result["f1"], 2) == f

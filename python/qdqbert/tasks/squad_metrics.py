# SPDX-License-Identifier: Apache-2.0
"""Exact match and F1 of SQuAD, as its two official scorers define them.

The v1.1 and the v2.0 scorer agree on normalisation (lower case, no punctuation, no articles, single spaces)
and on the best score over all gold answers.  They differ in three places, which are kept apart here:

- a question without a prediction scores 0 in v1.1 and is left out of every mean in v2.0; - in v2.0 a question
without answers is right only if the prediction is empty, and F1 of an empty text is 1 or 0; - v2.0 reports
the answerable (HasAns) and the unanswerable (NoAns) questions also on their own, and the best score
  over all thresholds on a no-answer score.

Reference: Rajpurkar et al., 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1;
Rajpurkar et al., 2018, "Know What You Don't Know", section 5.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

__all__ = ["exact_match", "f1", "normalize_answer", "question_scores", "score_v1", "score_v2"]

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation and articles, with single spaces.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
    >>> normalize_answer("The  Norman-French!")
    'normanfrench'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """1.0 if both normalise to the same text, else 0.0.

    Parameters
    ----------
    prediction, gold : str

    Returns
    -------
    float
    """
    return float(normalize_answer(prediction) == normalize_answer(gold))


def f1(prediction: str, gold: str) -> float:
    """Harmonic mean of the precision and recall of normalised words, counted with multiplicity.

    Parameters
    ----------
    prediction, gold : str

    Returns
    -------
    float
        In [0, 1].  If one of them has no word: 1.0 if neither has, else 0.0.

    Examples
    --------
    >>> f1("the cat sat", "cat sat down")
    0.8
    """
    predicted_words = normalize_answer(prediction).split()
    gold_words = normalize_answer(gold).split()
    if not predicted_words or not gold_words:
        return float(predicted_words == gold_words)
    same = sum((Counter(predicted_words) & Counter(gold_words)).values())
    if same == 0:
        return 0.0
    precision = same / len(predicted_words)
    recall = same / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def _f1_v1(prediction: str, gold: str) -> float:
    """F1 of the v1.1 scorer, for which two empty texts have nothing in common."""
    return f1(prediction, gold) if normalize_answer(prediction) else 0.0


def question_scores(
    answers: Mapping[str, Sequence[str]], predictions: Mapping[str, str], *, version_2: bool = False
) -> dict[str, tuple[float, float]]:
    """Exact match and F1 of every question, each the best over its gold answers.

    Parameters
    ----------
    answers : mapping of question id to sequence of str
        Gold answers; an empty sequence marks a question without an answer, which only `version_2` knows.
    predictions : mapping of question id to str
        Ids that are not in `answers` are ignored.
    version_2 : bool
        Whether to score as the v2.0 scorer does.

    Returns
    -------
    dict of question id to (exact match, F1)
        Each 0 .. 1, in the order of `answers`.  A question without prediction is (0, 0) in v1.1 and absent in
        v2.0.

    Raises
    ------
    ValueError
        If a question has no gold answer and `version_2` is False.
    """
    scores: dict[str, tuple[float, float]] = {}
    f1_of: Callable[[str, str], float] = f1 if version_2 else _f1_v1
    for question, golds in answers.items():
        if version_2:
            golds = [gold for gold in golds if normalize_answer(gold)] or [""]
        elif not golds:
            raise ValueError(f"question {question!r} has no gold answer: score it with version_2=True")
        prediction = predictions.get(question)
        if prediction is None:
            if not version_2:
                scores[question] = (0.0, 0.0)
            continue
        scores[question] = (
            max(exact_match(prediction, gold) for gold in golds),
            max(f1_of(prediction, gold) for gold in golds),
        )
    return scores


def score_v1(answers: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """Score predictions as the official v1.1 scorer does.

    Parameters
    ----------
    answers : mapping of question id to sequence of str
        Gold answers, at least one each.
    predictions : mapping of question id to str

    Returns
    -------
    dict
        `exact_match` and `f1` in percent, `total` (questions) and `missing` (questions without a prediction).

    Raises
    ------
    ValueError
        If there are no questions, or one has no gold answer.
    """
    if not answers:
        raise ValueError("answers: expected at least one question, found none")
    scores = question_scores(answers, predictions)
    return {
        "exact_match": _percent([exact for exact, _ in scores.values()]),
        "f1": _percent([f for _, f in scores.values()]),
        "total": len(answers),
        "missing": sum(question not in predictions for question in answers),
    }


def score_v2(
    answers: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Score predictions as the official v2.0 scorer does.

    Parameters
    ----------
    answers : mapping of question id to sequence of str
        Gold answers; empty for an unanswerable question.
    predictions : mapping of question id to str
        The empty text means "no answer".
    null_odds : mapping of question id to float, optional
        The larger, the likelier the question has no answer.  With it the result also holds the best score
        over all thresholds on it.

    Returns
    -------
    dict
        `exact`, `f1` in percent, `total`, `missing`; the same three with the prefixes `HasAns_` and `NoAns_`
        where there are such questions; with `null_odds` also `best_exact`, `best_exact_thresh`, `best_f1`,
        `best_f1_thresh`.

    Raises
    ------
    ValueError
        If no question has a prediction.
    """
    scores = question_scores(answers, predictions, version_2=True)
    if not scores:
        raise ValueError(f"predictions: none for any of the {len(answers)} questions")
    # As the official scorer: answerable is what lists an answer, even one that normalises to nothing.
    answerable = {question: bool(golds) for question, golds in answers.items()}
    result: dict[str, float] = _means("", list(scores.values()))
    result["missing"] = len(answers) - len(scores)
    for prefix, wanted in (("HasAns_", True), ("NoAns_", False)):
        chosen = [pair for question, pair in scores.items() if answerable[question] is wanted]
        if chosen:
            result |= _means(prefix, chosen)
    if null_odds is not None:
        for index, key in enumerate(("exact", "f1")):
            values = {question: pair[index] for question, pair in scores.items()}
            best, threshold = _best_threshold(values, predictions, null_odds, answerable)
            result[f"best_{key}"] = best
            result[f"best_{key}_thresh"] = threshold
    return result


def _percent(values: Sequence[float]) -> float:
    return 100.0 * sum(values) / len(values)


def _means(prefix: str, pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    return {
        f"{prefix}exact": _percent([exact for exact, _ in pairs]),
        f"{prefix}f1": _percent([f for _, f in pairs]),
        f"{prefix}total": len(pairs),
    }


def _best_threshold(
    scores: Mapping[str, float],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
    answerable: Mapping[str, bool],
) -> tuple[float, float]:
    """Largest mean score in percent if answers are given up to a threshold on `null_odds`, and where it lies.

    Start by answering nothing, which is right for every unanswerable question, and admit answers in the order
    of their odds: an answerable question then gains its score, an answered unanswerable one loses its point.
    """
    current = best = float(sum(not answerable[question] for question in scores))
    threshold = 0.0
    for question in sorted((q for q in null_odds if q in scores), key=lambda q: null_odds[q]):
        if answerable[question]:
            current += scores[question]
        elif predictions[question]:
            current -= 1.0
        if current > best:
            best, threshold = current, null_odds[question]
    return 100.0 * best / len(scores), threshold

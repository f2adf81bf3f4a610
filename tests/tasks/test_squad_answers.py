# SPDX-License-Identifier: Apache-2.0
"""Answers from logits: transformers' recorded n-best lists, and the way back to the original text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdqbert.tasks.squad_answers import AnswerFinder, original_text
from qdqbert.tasks.squad_data import SquadExample, read_squad
from qdqbert.tasks.squad_features import SquadOptions, features_of

RECORDED = json.loads(Path(__file__).with_name("squad_answers.json").read_text())
OPTIONS = SquadOptions(
    max_seq_length=64,
    doc_stride=24,
    max_query_length=20,
    n_best_size=12,
    max_answer_length=8,
    null_score_diff_threshold=-20.0,
)


def recorded_logits(index, length):
    """Logits of a window as `record_answers.py` made them."""
    generator = np.random.default_rng([2021, index])
    return tuple((generator.integers(-12, 13, size=length) / 2).astype(np.float32) for _ in range(2))


def answers(tokenizer, cases, options, keep_n_best=True):
    finder = AnswerFinder(tokenizer, options, keep_n_best=keep_n_best)
    result, count = {}, 0
    for features in features_of(read_squad(cases).examples, tokenizer, options):
        logits = [recorded_logits(count + i, len(feature.input_ids)) for i, feature in enumerate(features)]
        count += len(features)
        result[features[0].example.id] = finder.find(features, [s for s, _ in logits], [e for _, e in logits])
    return result


@pytest.mark.parametrize(("version", "negative"), [("v1.1", False), ("v2.0", True)])
def test_n_best_lists_are_those_of_transformers(tokenizer, cases, version, negative):
    found = answers(tokenizer, cases, replace(OPTIONS, version_2_with_negative=negative))

    recorded = RECORDED[version]
    assert {question: answer.text for question, answer in found.items()} == recorded["predictions"]
    for question, answer in found.items():
        entries = [
            {
                "text": c.text,
                "probability": c.probability,
                "start_logit": c.start_logit,
                "end_logit": c.end_logit,
            }
            for c in answer.n_best
        ]
        assert entries == recorded["n_best"][question]
    if negative:
        assert {question: answer.null_odds for question, answer in found.items()} == recorded["null_odds"]


@pytest.mark.parametrize("negative", [False, True])
def test_answer_does_not_depend_on_keeping_the_list(tokenizer, cases, negative):
    options = replace(OPTIONS, version_2_with_negative=negative)

    kept, dropped = (answers(tokenizer, cases, options, keep) for keep in (True, False))

    assert [(a.text, a.null_odds) for a in kept.values()] == [(a.text, a.null_odds) for a in dropped.values()]


def one_window(tokenizer, context, options=None):
    options = options or SquadOptions()
    (features,) = features_of([SquadExample("q", "Who?", context)], tokenizer, options)
    return features, AnswerFinder(tokenizer, options)


def spikes(feature, start, end, height=9.0):
    """Logits that are 0 but at one wordpiece of the paragraph each."""
    logits = np.zeros((2, len(feature.input_ids)), np.float32)
    logits[0, feature.offset + start] = logits[1, feature.offset + end] = height
    return [logits[0]], [logits[1]]


def test_answer_is_cut_from_the_original_words(tokenizer):
    features, finder = one_window(tokenizer, "In 1066, William (the Conqueror) won.")
    document = features[0].document
    first, last = document.word_of_piece.tolist().index(2), document.pieces.index(")") - 1

    answer = finder.find(features, *spikes(features[0], first, last))

    assert answer.text == "William (the Conqueror"


def test_answer_that_starts_inside_a_word_is_the_whole_word(tokenizer):
    features, finder = one_window(tokenizer, "xylophonists play")
    assert features[0].document.pieces[1].startswith("##")

    answer = finder.find(features, *spikes(features[0], 1, 1))

    assert answer.text == "xylophonists"


def test_pairs_that_end_before_they_start_or_are_too_long_do_not_stand(tokenizer):
    options = SquadOptions(max_answer_length=2, n_best_size=1)
    features, finder = one_window(tokenizer, "a b c d e", options)

    for start, end in ((3, 1), (0, 2)):
        answer = finder.find(features, *spikes(features[0], start, end))
        assert answer.text == "empty"
        assert [c.probability for c in answer.n_best] == [1.0]
    assert finder.find(features, *spikes(features[0], 0, 1)).text == "a b"


def test_question_and_special_tokens_are_no_answers(tokenizer):
    features, finder = one_window(tokenizer, "a b c", SquadOptions(n_best_size=1))
    for position in (-4, -1, 3):  # [CLS], the first [SEP], the last [SEP], seen from the paragraph
        assert finder.find(features, *spikes(features[0], position, position)).text == "empty"


def test_empty_paragraph_has_no_answer(tokenizer):
    features, finder = one_window(tokenizer, "")
    zeros = [np.zeros(len(features[0].input_ids), np.float32)]

    assert finder.find(features, zeros, zeros).text == "empty"


def test_no_answer_wins_only_beyond_the_threshold(tokenizer):
    for threshold, expected in ((2.0, "b"), (1.9, "")):
        options = SquadOptions(version_2_with_negative=True, null_score_diff_threshold=threshold)
        features, finder = one_window(tokenizer, "a b c", options)
        start, end = spikes(features[0], 1, 1)
        start[0][0], end[0][0] = 10.0, 10.0

        answer = finder.find(features, start, end)

        assert answer.null_odds == 2.0
        assert answer.text == expected
        assert answer.n_best[0].text == ""


def test_logits_behind_the_window_are_not_looked_at(tokenizer):
    features, finder = one_window(tokenizer, "a b c")
    start, end = spikes(features[0], 1, 1)
    padded = [np.append(logits, np.float32([1e9, np.nan])) for logits in (start[0], end[0])]

    assert finder.find(features, [padded[0]], [padded[1]]) == finder.find(features, start, end)


def test_logits_that_do_not_fit_are_named(tokenizer):
    features, finder = one_window(tokenizer, "a b c")
    start, end = spikes(features[0], 1, 1)

    with pytest.raises(ValueError, match="end_logits: expected at least 8 values"):
        finder.find(features, start, [end[0][:-1]])
    with pytest.raises(ValueError, match="expected 1 arrays"):
        finder.find(features, [], [])


def lower_and_split(text):
    return " ".join(text.lower().replace("'", " ' ").replace("(", " ( ").replace(")", " ) ").split())


@pytest.mark.parametrize(
    ("answer", "original", "expected"),
    [
        ("steve smith", "Steve Smith's", "Steve Smith"),
        ("norman", "(Norman)", "Norman"),
        ("( norman )", "(Norman)", "(Norman)"),
        ("s", "it's", "s"),
        ("smith", "Jones's", "Jones's"),  # not there
        ("##man", "Norman", "Norman"),  # a continuation is never found
        ("", "Norman", "Norman"),
    ],
)
def test_original_text_of_an_answer(answer, original, expected):
    assert original_text(answer, original, lower_and_split) == expected


def test_original_text_is_whole_when_normalisation_changed_its_length():
    assert original_text("x", "x\u00bd y", lambda text: text.replace("\u00bd", "1/2")) == "x\u00bd y"

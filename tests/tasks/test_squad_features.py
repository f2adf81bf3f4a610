# SPDX-License-Identifier: Apache-2.0
"""Windows: a hand-made example, the max-context rule, and what transformers recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qdqbert.tasks.squad_data import SquadExample, read_squad
from qdqbert.tasks.squad_features import SquadOptions, features_of, split_words

pytestmark = pytest.mark.uninstrumented

RECORDED = json.loads(Path(__file__).with_name("squad_answers.json").read_text())
OPTIONS = SquadOptions(
    max_seq_length=64, doc_stride=24, max_query_length=20, n_best_size=12, max_answer_length=8
)


def windows(tokenizer, context, options, question="Who?"):
    (features,) = features_of([SquadExample("q", question, context)], tokenizer, options)
    return features


def test_words_split_at_five_kinds_of_space_only():
    assert split_words("a\tb\nc\rd\u202fe  f\u00a0g ") == ["a", "b", "c", "d", "e", "f\u00a0g"]


def test_one_window_holds_question_and_paragraph(tokenizer):
    (feature,) = windows(tokenizer, "The Normans, in France", SquadOptions())

    tokens = [tokenizer.id_to_token(int(index)) for index in feature.input_ids]
    assert tokens[:4] == ["[CLS]", "who", "?", "[SEP]"]
    assert tokens[-1] == "[SEP]"
    assert feature.offset == 4
    assert feature.token_type_ids.tolist() == [0] * 4 + [1] * (len(tokens) - 4)
    assert tokens[4:-1] == feature.document.pieces
    words = [feature.document.words[index] for index in feature.document.word_of_piece]
    assert words[0] == "The"
    assert words[-1] == "France"
    assert feature.is_max_context.all()


def test_windows_start_every_stride_and_the_last_reaches_the_end(tokenizer):
    # "a" is one wordpiece: 30 of them, windows of 16 - 4 - 1 = 11, every 4.
    options = SquadOptions(max_seq_length=16, doc_stride=4, max_query_length=2)

    features = windows(tokenizer, " ".join(["a"] * 30), options)

    assert [feature.window_start for feature in features] == [0, 4, 8, 12, 16, 20]
    assert [len(feature.input_ids) for feature in features] == [16, 16, 16, 16, 16, 15]


def test_each_wordpiece_is_at_home_in_the_window_with_most_context_on_its_poorer_side(tokenizer):
    options = SquadOptions(max_seq_length=16, doc_stride=4, max_query_length=2)
    features = windows(tokenizer, " ".join(["a"] * 30), options)

    for piece in range(30):
        scores = []
        for feature in features:
            length = len(feature.is_max_context)
            position = piece - feature.window_start
            is_inside = 0 <= position < length
            scores.append(min(position, length - 1 - position) + 0.01 * length if is_inside else -1)
        best = int(np.argmax(scores))
        at_home = [
            index
            for index, feature in enumerate(features)
            if 0 <= piece - feature.window_start < len(feature.is_max_context)
            and feature.is_max_context[piece - feature.window_start]
        ]
        assert at_home == [best]


def test_question_is_cut_and_paragraph_is_not(tokenizer):
    options = SquadOptions(max_seq_length=32, doc_stride=8, max_query_length=5)

    features = windows(tokenizer, "one two three", options, question="why " * 50)

    assert features[0].offset == 7
    assert features[0].document.pieces == [tokenizer.id_to_token(int(i)) for i in features[0].input_ids[7:-1]]


def test_stride_longer_than_the_window_skips_nothing(tokenizer):
    options = SquadOptions(max_seq_length=10, doc_stride=128, max_query_length=2)

    features = windows(tokenizer, " ".join(["a"] * 23), options)

    covered = {f.window_start + i for f in features for i in range(len(f.is_max_context))}
    assert covered == set(range(23))


@pytest.mark.parametrize("context", ["", "   \n", "\u200b"])
def test_empty_paragraph_gives_one_window_without_wordpieces(tokenizer, context):
    (feature,) = windows(tokenizer, context, SquadOptions())

    assert feature.input_ids[-2:].tolist() == [tokenizer.token_to_id("[SEP]")] * 2
    assert feature.is_max_context.size == 0


def test_windows_are_those_of_transformers(tokenizer, cases):
    features = [f for fs in features_of(read_squad(cases).examples, tokenizer, OPTIONS) for f in fs]

    assert [feature.example.id for feature in features] == [entry["id"] for entry in RECORDED["features"]]
    for feature, entry in zip(features, RECORDED["features"], strict=True):
        assert feature.input_ids.tolist() == entry["input_ids"]
        assert feature.token_type_ids.tolist() == entry["token_type_ids"]
        assert (np.flatnonzero(feature.is_max_context) + feature.offset).tolist() == entry["is_max_context"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("doc_stride", 0),
        ("max_query_length", 0),
        ("n_best_size", 0),
        ("max_answer_length", -1),
        ("max_seq_length", 67),
    ],
)
def test_options_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected at least"):
        SquadOptions(**{name: value})


@pytest.mark.shared
def test_number_of_windows_of_the_development_set(shared):
    from qdqbert.tokenization import load_tokenizer

    tokenizer = load_tokenizer(shared("checkpoints", "minilm-squad"))
    examples = read_squad(shared("data", "squad", "dev-v1.1.json")).examples

    assert sum(len(features) for features in features_of(examples, tokenizer, SquadOptions())) == 10_833

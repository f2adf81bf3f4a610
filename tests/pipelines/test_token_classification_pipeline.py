# SPDX-License-Identifier: Apache-2.0
"""Labels of tokens and entities, on logits made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.pipelines import TokenClassificationPipeline

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}


def near(value):
    return pytest.approx(value, rel=1e-5)


def row(*shares):
    """Logits whose softmax gives {label: share}, the rest spread evenly."""
    logits = []
    for share in shares:
        rest = (1 - sum(share.values())) / (len(NAMES) - len(share))
        logits.append([np.log(share.get(name, rest)) for name in NAMES])
    return logits


SPECIAL = {"O": 0.9}


@pytest.fixture
def make(tiny, tokenizer, say):
    def make(*rows, **options):
        pipe = TokenClassificationPipeline(
            tiny("QDQBertForTokenClassification", **LABELS), tokenizer, **options
        )
        say(pipe, *rows)
        return pipe

    return make


TEXT = "the king of what"


def test_each_token_that_is_not_ignored_is_a_result(make):
    pipe = make(row(SPECIAL, {"O": 0.6}, {"B-PER": 0.7}, {"I-PER": 0.5}, {"B-LOC": 0.8}, SPECIAL))

    assert pipe(TEXT) == [
        {"entity": "B-PER", "score": near(0.7), "index": 2, "word": "king", "start": 4, "end": 8},
        {"entity": "I-PER", "score": near(0.5), "index": 3, "word": "of", "start": 9, "end": 11},
        {"entity": "B-LOC", "score": near(0.8), "index": 4, "word": "what", "start": 12, "end": 16},
    ]
    assert [each["entity"] for each in pipe(TEXT, ignore_labels=["B-PER"])] == ["O", "I-PER", "B-LOC"]


def test_neighbours_of_one_label_make_an_entity_and_b_begins_another(make):
    pipe = make(
        row(SPECIAL, {"I-PER": 0.6}, {"I-PER": 0.8}, {"B-PER": 0.5}, {"I-PER": 0.7}, SPECIAL),
        aggregation_strategy="simple",
    )

    assert pipe(TEXT) == [
        {"entity_group": "PER", "score": near(0.7), "word": "the king", "start": 0, "end": 8},
        {"entity_group": "PER", "score": near(0.6), "word": "of what", "start": 9, "end": 16},
    ]


def test_another_label_between_ends_an_entity(make):
    pipe = make(
        row(SPECIAL, {"B-PER": 0.6}, {"O": 0.8}, {"I-PER": 0.5}, {"I-LOC": 0.7}, SPECIAL),
        aggregation_strategy="simple",
    )

    assert [(each["entity_group"], each["word"]) for each in pipe(TEXT)] == [
        ("PER", "the"),
        ("PER", "of"),
        ("LOC", "what"),
    ]


PIECES = [{"B-PER": 0.5, "B-LOC": 0.3}, {"B-PER": 0.1, "B-LOC": 0.45}, {"B-LOC": 0.1, "I-PER": 0.8}]


@pytest.mark.parametrize(
    ("strategy", "label", "score"),
    [
        ("first", "PER", 0.5),  # of the first piece
        ("average", "PER", (0.2 / 3 + 0.45 / 3 + 0.8) / 3),  # I-PER; see below
        ("max", "PER", 0.8),  # of the piece with the highest score
    ],
)
def test_pieces_of_a_word_get_one_label(make, tokenizer, strategy, label, score):
    word = next(w for w in ("unaffordable", "kingliness", "riverbanks") if len(tokenizer.tokenize(w)) == 3)
    pipe = make(row(SPECIAL, *PIECES, {"O": 0.9}, SPECIAL), aggregation_strategy=strategy)

    (result,) = pipe(f"{word} is")

    if strategy == "average":
        # Shares of the piece: unnamed labels have (1 - named) / 3 each, so I-PER has 0.2/3, 0.45/3 and 0.8.
        assert max(0.5 + 0.1 + 0.1 / 3, 0.3 + 0.45 + 0.1) < 0.2 / 3 + 0.45 / 3 + 0.8
    assert result == {
        "entity_group": label,
        "score": near(score),
        "word": word,
        "start": 0,
        "end": len(word),
    }


def test_a_piece_that_the_vocabulary_lacks_reads_as_in_the_text(make):
    pipe = make(row(SPECIAL, {"B-PER": 0.5}, {"O": 0.9}, SPECIAL))

    (result,) = pipe("\u4e02 what")

    assert (result["word"], result["start"], result["end"]) == ("\u4e02", 0, 1)


def test_a_decomposed_accent_does_not_join_two_words(make):
    # "e" and a combining accent are two characters and the token "e..." has one less: by lengths, which the
    # original compares, the second word would continue the first.
    text = "king the\u0301"
    pipe = make(row(SPECIAL, {"B-PER": 0.9}, {"B-LOC": 0.9}, SPECIAL), aggregation_strategy="first")

    assert [each["entity_group"] for each in pipe(text)] == ["PER", "LOC"]


def test_a_long_text_is_read_in_windows_and_overlapping_entities_are_merged(make, tokenizer):
    tokenizer.model_max_length = 6
    # "the king of what is it": windows [the king of what] and, sharing two, [of what is it].
    first = row(SPECIAL, {"O": 0.9}, {"O": 0.9}, {"O": 0.9}, {"B-LOC": 0.9}, SPECIAL)
    second = row(SPECIAL, {"B-PER": 0.5}, {"I-PER": 0.5}, {"O": 0.9}, {"B-LOC": 0.6}, SPECIAL)
    pipe = make(first, second, aggregation_strategy="simple", stride=2)

    assert [(each["entity_group"], each["word"]) for each in pipe("the king of what is it")] == [
        ("PER", "of what"),  # longer than LOC "what", which begins inside it
        ("LOC", "it"),
    ]


def test_equally_long_overlapping_entities_are_decided_by_score(make, tokenizer):
    tokenizer.model_max_length = 6
    first = row(SPECIAL, {"O": 0.9}, {"O": 0.9}, {"O": 0.9}, {"B-LOC": 0.7}, SPECIAL)
    second = row(SPECIAL, {"O": 0.9}, {"B-PER": 0.8}, {"O": 0.9}, {"O": 0.6}, SPECIAL)

    pipe = make(first, second, aggregation_strategy="simple", stride=2)

    assert [each["entity_group"] for each in pipe("the king of what is it")] == ["PER"]


def test_without_a_stride_a_long_text_is_cut(make, tokenizer):
    tokenizer.model_max_length = 4
    pipe = make(row(SPECIAL, {"B-PER": 0.9}, {"B-LOC": 0.9}, SPECIAL))

    assert [each["word"] for each in pipe("the king of what is it")] == ["the", "king"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"aggregation_strategy": "mean"}, ValueError, "aggregation_strategy: expected one of none, simple"),
        ({"ignore_labels": "O"}, TypeError, "ignore_labels: expected a list"),
        ({"stride": 3}, ValueError, "stride: windows overlap"),
        ({"stride": 62, "aggregation_strategy": "simple"}, ValueError, "stride: expected less than the 62"),
        ({"stride": -1, "aggregation_strategy": "simple"}, ValueError, "stride: expected at least 0"),
        ({"stride": 1.5, "aggregation_strategy": "simple"}, TypeError, "stride: expected an integer"),
    ],
)
def test_a_wrong_option_is_named(make, options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_older_names_of_options_warn(make):
    pipe = make(row(SPECIAL, {"B-PER": 0.9}, {"I-PER": 0.9}, SPECIAL))

    with pytest.warns(UserWarning, match="aggregation_strategy='simple'"):
        assert len(pipe("the king", grouped_entities=True)) == 1
    with pytest.raises(ValueError, match="inputs: expected a text"):
        pipe(5)

# SPDX-License-Identifier: Apache-2.0
"""SQuAD's labels: they decode to the answer, or say that the window has none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qdqbert.data import read
from qdqbert.data.question_answering import answer_positions
from qdqbert.tasks import DataError
from qdqbert.tasks.squad_data import SquadExample, read_squad
from qdqbert.tasks.squad_features import SquadOptions, features_of

pytestmark = pytest.mark.uninstrumented

CONTEXT = "The  Normans\twere in Normandy, a region in (northern) France.\nÉtudes cafe\u0301 -- 1066-1204!"


def squad(context=CONTEXT, answers=("Normandy",), **members):
    questions = [
        {
            "id": str(number),
            "question": "Where?",
            "answers": [{"text": text, "answer_start": context.index(text)}] if text is not None else [],
        }
        for number, text in enumerate(answers)
    ]
    paragraphs = [{"context": context, "qas": questions}]
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}], **members})


def windows(tokenizer, answer, begin=None, context=CONTEXT, **options):
    example = SquadExample(
        "q", "Where?", context, ((answer, context.index(answer) if begin is None else begin),)
    )
    settings = SquadOptions(**{"max_seq_length": 64, "max_query_length": 8, **options})
    (found,) = features_of([example], tokenizer.backend_tokenizer, settings)
    return found


def text_of(feature, positions):
    """Characters of the paragraph between two positions."""
    first, last = (position - feature.offset + feature.window_start for position in positions)
    spans = feature.document.spans
    return feature.example.context[spans[first, 0] : spans[last, 1]]


@pytest.mark.parametrize(
    "answer",
    [
        "The",
        "Normans",
        "Normans\twere",
        "Normandy",
        "northern",
        "France",
        "Études",
        "1066",
        "1204",
        "!",
    ],
)
def test_labels_decode_to_the_answer(tokenizer, answer):
    (feature,) = windows(tokenizer, answer)

    assert text_of(feature, answer_positions(feature)) == answer


@pytest.mark.parametrize(
    ("answer", "found"),
    [("orman", "Normans"), ("066-12", "1066-1204"), ("northern) Fr", "northern) France"), (" in ", "in")],
)
def test_whole_wordpieces_count_and_spaces_around_an_answer_do_not(tokenizer, answer, found):
    (feature,) = windows(tokenizer, answer)

    text = text_of(feature, answer_positions(feature))
    assert answer.strip() in text
    assert text in found


def test_characters_without_wordpiece_at_the_ends_of_an_answer_draw_no_neighbour_in(tokenizer):
    (feature,) = windows(tokenizer, "cafe\u0301")

    assert text_of(feature, answer_positions(feature)) == "cafe"


def test_answer_of_characters_without_wordpiece_has_no_labels(tokenizer):
    (feature,) = windows(tokenizer, "\u0301")

    assert answer_positions(feature) == (0, 0)


def test_only_windows_that_hold_the_whole_answer_have_labels(tokenizer):
    context = " ".join(f"w{number}" for number in range(100))
    answer = "w50 w51 w52"
    features = windows(tokenizer, answer, context=context, max_seq_length=40, doc_stride=7)
    whole = [answer in feature.example.context[slice(*_characters(feature))] for feature in features]

    labels = [answer_positions(feature) for feature in features]

    assert 1 < sum(whole) < len(features)
    for feature, has_it, positions in zip(features, whole, labels, strict=True):
        assert (text_of(feature, positions) == answer) if has_it else (positions == (0, 0))


def _characters(feature):
    spans = feature.document.spans[feature.window_start :][: len(feature.is_max_context)]
    return spans[0, 0], spans[-1, 1]


@pytest.mark.parametrize("context", ["", "  ", "\u200b"])
def test_paragraph_without_wordpieces_has_no_labels(tokenizer, context):
    (feature,) = windows(tokenizer, "x", begin=0, context=context)

    assert answer_positions(feature) == (0, 0)


def test_items_are_the_windows_of_the_evaluation(tokenizer, config, write):
    file = write("a.json", squad(" ".join(f"w{number}" for number in range(200)), ("w7", "w150")))

    data = read("squad", file, tokenizer, config(), max_seq_length=48, max_query_length=9, doc_stride=20)

    options = SquadOptions(max_seq_length=48, max_query_length=9, doc_stride=20)
    expected = features_of(read_squad(file).examples, tokenizer.backend_tokenizer, options)
    expected = [feature for of_question in expected for feature in of_question]
    assert data.num_items == len(data.dataset) == len(expected) > 10
    for item, feature in zip(data.dataset, expected, strict=True):
        assert item["input_ids"].tolist() == feature.input_ids.tolist()
        assert item["token_type_ids"].tolist() == feature.token_type_ids.tolist()
        assert (item["start_positions"], item["end_positions"]) == answer_positions(feature)
    assert (data.task, data.model_class, data.id2label) == ("squad", "QDQBertForQuestionAnswering", None)


def test_batches_are_what_the_head_takes(tokenizer, config, write):
    data = read("squad", write("a.json", squad(answers=("Normandy", "France"))), tokenizer, config())

    batch = data.collate_fn(list(data.dataset))

    # As in the original example, padded to max_seq_length unless told otherwise.
    assert {key: values.shape for key, values in batch.items()} == {
        "input_ids": (2, 384),
        "token_type_ids": (2, 384),
        "attention_mask": (2, 384),
        "start_positions": (2,),
        "end_positions": (2,),
    }


def test_batches_are_padded_to_their_longest_if_asked(tokenizer, config, write):
    data = read("squad", write("a.json", squad()), tokenizer, config(), pad_to_max_length=False)

    assert data.collate_fn([data.dataset[0]])["input_ids"].shape[1] == len(data.dataset[0]["input_ids"])


def test_samples_limit_questions_and_then_windows(tokenizer, config, write):
    file = write("a.json", squad(" ".join(f"w{number}" for number in range(200)), ("w7", "w150", "w9")))
    options = {"max_seq_length": 48, "max_query_length": 9, "doc_stride": 20}

    whole = read("squad", file, tokenizer, config(), **options)
    some = read("squad", file, tokenizer, config(), max_train_samples=2, **options)

    assert some.num_items == 2
    assert [item["input_ids"].tolist() for item in some.dataset] == [
        item["input_ids"].tolist() for item in whole.dataset[:2]
    ]


def test_several_files_follow_each_other(tokenizer, config, write):
    second = squad("Elsewhere.", ("Elsewhere",)).replace('"id": "0"', '"id": "b"')
    files = [write("a.json", squad(answers=("Normandy", "France"))), write("b.json", second)]

    assert read("squad", files, tokenizer, config()).num_items == 3
    with pytest.raises(DataError, match=r"a\.json: id: '0' stands already in another file"):
        read("squad", [files[0], files[0]], tokenizer, config())


@pytest.mark.parametrize(
    ("file", "flag"),
    [
        (squad(answers=("France", None)), True),
        (squad(answers=("France", None)), None),
        (squad(answers=("France", None), version="v2.0"), None),
    ],
)
def test_questions_without_answer_are_labelled_cls(tokenizer, config, write, file, flag):
    data = read("squad", write("a.json", file), tokenizer, config(), version_2_with_negative=flag)

    assert [int(item["start_positions"]) > 0 for item in data.dataset] == [True, False]
    assert data.dataset[1]["end_positions"] == 0


def test_questions_without_answer_are_refused_by_the_rules_of_version_1(tokenizer, config, write):
    file = write("a.json", squad(answers=("France", None)))

    with pytest.raises(DataError, match=r"a\.json: question '1': answers: .*version_2_with_negative=True"):
        read("squad", file, tokenizer, config(), version_2_with_negative=False)


def test_test_set_without_answers_cannot_be_learned_from(tokenizer, config, write):
    document = json.loads(squad())
    del document["data"][0]["paragraphs"][0]["qas"][0]["answers"]

    with pytest.raises(DataError, match="question '0': answers: expected one, found none"):
        read("squad", write("a.json", json.dumps(document)), tokenizer, config())


@pytest.mark.parametrize(
    ("text", "start", "sentence"),
    [
        ("Normandy", 20, "expected 'Normandy' at character 20 of the context, .* found ' Normand'"),
        ("France", len(CONTEXT), "found ''"),
        ("normandy", CONTEXT.index("Normandy"), "found 'Normandy'"),
        (" ", 3, r"answers\[0\]\.text: expected a text, found ' '"),
        ("", 3, r"answers\[0\]\.text: expected a text, found ''"),
    ],
)
def test_answers_that_do_not_stand_where_they_should_are_named(
    tokenizer, config, write, text, start, sentence
):
    document = json.loads(squad())
    document["data"][0]["paragraphs"][0]["qas"][0]["answers"] = [{"text": text, "answer_start": start}]

    with pytest.raises(DataError, match=rf"a\.json: question '0': .*{sentence}"):
        read("squad", write("a.json", json.dumps(document)), tokenizer, config())


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"max_seq_length": 513}, ValueError, r"max_length: expected 4 \.\. 512"),
        ({"max_seq_length": 67}, ValueError, "max_seq_length: expected at least 68"),
        ({"doc_stride": 0}, ValueError, "doc_stride: expected at least 1"),
        ({"max_train_samples": 0}, ValueError, "max_train_samples: expected at least 1"),
        ({"stride": 3}, TypeError, "stride: not an option of squad; those are max_seq_length"),
    ],
)
def test_options_that_do_not_fit_are_named(tokenizer, config, write, options, error, sentence):
    with pytest.raises(error, match=sentence):
        read("squad", write("a.json", squad()), tokenizer, config(), **options)


@pytest.mark.shared
def test_windows_and_answers_of_the_training_set_are_those_of_the_recorded_recipe(shared, config):
    # checkpoints/README.md: 13,240 windows of 11,877 questions, of which 12,220 hold the answer.
    from qdqbert.tokenization import load_tokenizer

    tokenizer = load_tokenizer(shared("checkpoints", "minilm-squad"))
    file = shared("data", "squad", "train-du44-v1.1.json")

    data = read("squad", file, tokenizer, config(), max_seq_length=256)

    starts = np.array([int(item["start_positions"]) for item in data.dataset])
    assert (data.num_items, int((starts > 0).sum())) == (13_240, 12_220)
    # Ids and types five bytes a token, and four numbers a window.
    assert data.dataset.nbytes == 5 * int(data.dataset.lengths.sum()) + 8 * (3 * 13_240 + 1)


@pytest.mark.shared
def test_labels_of_the_training_set_decode_to_its_answers(shared):
    from qdqbert.tokenization import load_tokenizer

    tokenizer = load_tokenizer(shared("checkpoints", "minilm-squad"))
    examples = read_squad(shared("data", "squad", "train-du44-v1.1.json")).examples
    found = []
    for of_question in features_of(examples, tokenizer, SquadOptions()):
        for feature in of_question:
            positions = answer_positions(feature)
            if positions != (0, 0):
                text, answer = text_of(feature, positions), feature.example.answers[0][0].strip()
                assert answer in text
                found.append(text == answer)
    # The rest ends inside a wordpiece ("1970" of "1970s"), which counts as a whole.
    assert (len(found), sum(found)) == (11_927, 11_841)

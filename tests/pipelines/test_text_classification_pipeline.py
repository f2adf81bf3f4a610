# SPDX-License-Identifier: Apache-2.0
"""Labels of texts: the shape of results, and which function makes scores."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.pipelines import TextClassificationPipeline

LABELS = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
LOGITS = [0.0, np.log(2.0), np.log(5.0)]  # softmax: 1/8, 2/8, 5/8


def near(value):
    return pytest.approx(value, rel=1e-6)


@pytest.fixture
def make(tiny, tokenizer, say):
    def make(*logits, config=LABELS, **options):
        pipe = TextClassificationPipeline(
            tiny("QDQBertForSequenceClassification", **config), tokenizer, **options
        )
        say(pipe, *logits)
        return pipe

    return make


GOOD = {"label": "good", "score": near(5 / 8)}
FAIR = {"label": "fair", "score": near(2 / 8)}
BAD = {"label": "bad", "score": near(1 / 8)}


@pytest.mark.parametrize(
    ("inputs", "options", "expected"),
    [
        ("it", {}, [GOOD]),
        ("it", {"top_k": 1}, [GOOD]),
        ("it", {"top_k": 2}, [GOOD, FAIR]),
        ("it", {"top_k": None}, [GOOD, FAIR, BAD]),
        (["it"], {}, [GOOD]),
        (["it"], {"top_k": 1}, [[GOOD]]),
        (["it"], {"top_k": 9}, [[GOOD, FAIR, BAD]]),
        ({"text": "it", "text_pair": "is"}, {}, GOOD),
        ({"text": "it"}, {"top_k": 1}, [GOOD]),
        ([[["it", "is"]]], {}, [GOOD]),
    ],
)
def test_results_have_the_shape_of_the_original(make, inputs, options, expected):
    assert make(LOGITS)(inputs, **options) == expected


def test_top_k_of_the_pipeline_makes_lists_and_one_string_is_still_wrapped(make):
    assert make(LOGITS, top_k=2)(["it"]) == [[GOOD, FAIR]]
    assert make(LOGITS, top_k=2)("it") == [[GOOD, FAIR]]


def test_return_all_scores_is_deprecated_and_keeps_the_order_of_the_model(make):
    with pytest.warns(UserWarning, match="return_all_scores is deprecated"):
        assert make(LOGITS)(["it"], return_all_scores=True) == [[BAD, FAIR, GOOD]]


@pytest.mark.parametrize(
    ("config", "logits", "expected"),
    [
        ({"num_labels": 1}, [np.log(3.0)], 3 / 4),
        ({"num_labels": 1, "problem_type": "regression"}, [np.log(3.0)], 3 / 4),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, [-9.0, np.log(3.0)], 3 / 4),
        ({"num_labels": 2, "problem_type": "single_label_classification"}, [0.0, np.log(3.0)], 3 / 4),
        ({"num_labels": 2}, [0.0, np.log(4.0)], 4 / 5),
    ],
)
def test_the_problem_decides_the_function(make, config, logits, expected):
    assert make(logits, config=config)("it")[0]["score"] == near(expected)


@pytest.mark.parametrize(
    ("function", "expected"),
    [("none", np.log(5.0)), ("sigmoid", 5 / 6), ("softmax", 5 / 8), ("default", 5 / 8)],
)
def test_the_function_can_be_chosen(make, function, expected):
    assert make(LOGITS)("it", function_to_apply=function)[0]["score"] == near(expected)


def test_a_pair_is_read_as_a_pair(tiny, tokenizer):
    model = tiny("QDQBertForSequenceClassification", **LABELS)
    pipe = TextClassificationPipeline(model, tokenizer, function_to_apply="none", top_k=None)

    (result,) = [pipe({"text": "what is", "text_pair": "it"})]

    logits = model(**tokenizer("what is", "it", return_tensors="np")).logits[0]
    assert {each["label"]: each["score"] for each in result} == {
        LABELS["id2label"][i]: float(score) for i, score in enumerate(logits)
    }


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (5, {}, "inputs: expected a text, or a pair"),
        ([["it", "is"]], {}, "inputs: expected a text, or a pair"),
        (
            {"text": "it", "pair": "is"},
            {},
            "inputs: expected the keys 'text' and 'text_pair', got text, pair",
        ),
        ({"text": "it", "text_pair": 5}, {}, "inputs: expected a text"),
        ("it", {"top_k": 0}, "top_k: expected at least 1"),
        ("it", {"function_to_apply": "log"}, "function_to_apply: expected one of default, none"),
    ],
)
def test_a_wrong_argument_is_named(make, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        make(LOGITS)(inputs, **options)

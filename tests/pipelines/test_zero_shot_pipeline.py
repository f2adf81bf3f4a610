# SPDX-License-Identifier: Apache-2.0
"""Labels chosen at the call, against the model called directly."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from qdqbert import pipelines


def softmax(logits):
    powers = np.exp(np.float64(logits) - np.max(logits))
    return powers / powers.sum()


def near(value):
    return pytest.approx(value, rel=1e-5)


NLI = {
    "id2label": {0: "contradiction", 1: "neutral", 2: "ENTAILMENT"},
    "label2id": {"contradiction": 0, "neutral": 1, "ENTAILMENT": 2},
}


def logits_of(pipe, *pairs):
    return [pipe.model(**pipe.tokenizer(*pair, return_tensors="np")).logits[0] for pair in pairs]


def test_labels_share_the_entailment(tiny, tokenizer):
    pipe = pipelines.ZeroShotClassificationPipeline(
        tiny("QDQBertForSequenceClassification", **NLI), tokenizer
    )
    first, second = logits_of(pipe, ("it", "This example is king."), ("it", "This example is river."))
    shares = softmax([first[2], second[2]])

    found = pipe("it", ["king", "river"])

    assert found["sequence"] == "it"
    assert dict(zip(found["labels"], found["scores"], strict=True)) == {
        "king": near(shares[0]),
        "river": near(shares[1]),
    }
    assert found["scores"] == sorted(found["scores"], reverse=True)
    assert pipe("it", "king, river") == pipe("it", candidate_labels=["king", "river"]) == found
    assert pipe(["it", "it"], ["king", "river"]) == [found, found]


def test_labels_by_themselves_are_scored_against_contradiction(tiny, tokenizer):
    pipe = pipelines.ZeroShotClassificationPipeline(
        tiny("QDQBertForSequenceClassification", **NLI), tokenizer, hypothesis_template="It is {}!"
    )
    (logits,) = logits_of(pipe, ("it", "It is king!"))
    share = near(softmax(logits[[0, 2]])[1])

    assert pipe("it", ["king"])["scores"] == [share]
    several = pipe("it", ["king", "river"], multi_label=True)
    assert several["scores"][several["labels"].index("king")] == share


def test_a_long_text_is_cut_and_the_hypothesis_is_not(tiny, tokenizer):
    pipe = pipelines.ZeroShotClassificationPipeline(
        tiny("QDQBertForSequenceClassification", **NLI), tokenizer
    )
    hypothesis = len(tokenizer.tokenize("This example is king."))

    found = pipe("it " * 100, ["king"], multi_label=True)

    kept = ("it " * (64 - 3 - hypothesis)).strip()
    assert found["scores"] == pipe(kept, ["king"], multi_label=True)["scores"]


def test_what_zero_shot_needs(tiny, tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="qdqbert"):
        pipe = pipelines.ZeroShotClassificationPipeline(
            tiny("QDQBertForSequenceClassification"), tokenizer, candidate_labels=["king"]
        )
    assert "no label of config.label2id" in caplog.text
    assert pipe("it")["labels"] == ["king"]
    with pytest.raises(ValueError, match="candidate_labels: expected at least one"):
        pipe("it", [])
    with pytest.raises(ValueError, match="inputs: expected a text"):
        pipe("")
    with pytest.raises(ValueError, match=r"hypothesis_template: expected a text with \{\}"):
        pipe("it", hypothesis_template="It is.")
    with pytest.raises(TypeError, match="candidate_labels: expected strings"):
        pipe("it", [5])

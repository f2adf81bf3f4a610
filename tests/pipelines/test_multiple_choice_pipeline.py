# SPDX-License-Identifier: Apache-2.0
"""Choices of prompts, against the model called directly."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert import pipelines


def softmax(logits):
    powers = np.exp(np.float64(logits) - np.max(logits))
    return powers / powers.sum()


def near(value):
    return pytest.approx(value, rel=1e-5)


def test_the_best_choice_has_the_largest_logit(tiny, tokenizer):
    pipe = pipelines.MultipleChoicePipeline(tiny("QDQBertForMultipleChoice"), tokenizer)
    choices = ["it", "the river of the king", "what"]
    inputs = tokenizer(["what is"] * 3, choices, padding=True, return_tensors="np")
    shares = softmax(pipe.model(**{key: value[None] for key, value in inputs.items()}).logits[0])
    order = np.argsort(-shares)

    found = pipe("what is", choices)

    assert found == {
        "score": near(shares[order[0]]),
        "index": int(order[0]),
        "choice": choices[order[0]],
    }
    every = pipe({"prompt": "what is", "choices": choices}, top_k=None)
    assert [each["index"] for each in every] == order.tolist()
    # prompts with different numbers of choices share batches
    other = {"prompt": "it", "choices": ["is", "what"]}
    assert pipe([{"prompt": "what is", "choices": choices}, other]) == [found, pipe(other)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("what", "inputs: expected {'prompt'"),
        ({"prompt": 5, "choices": ["a"]}, "prompt: expected a text"),
        ({"prompt": "it", "choices": []}, "choices: expected a list of at least one"),
        ({"prompt": "it", "choices": ["a", 5]}, r"choices\[1\]: expected a text"),
    ],
)
def test_wrong_choices_are_named(tiny, tokenizer, inputs, message):
    pipe = pipelines.MultipleChoicePipeline(tiny("QDQBertForMultipleChoice"), tokenizer)

    with pytest.raises(ValueError, match=message):
        pipe(inputs)

# SPDX-License-Identifier: Apache-2.0
"""Whether a text follows another, against the model called directly."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert import pipelines


def softmax(logits):
    powers = np.exp(np.float64(logits) - np.max(logits))
    return powers / powers.sum()


def near(value):
    return pytest.approx(value, rel=1e-5)


def test_a_text_follows_another_or_not(tiny, tokenizer):
    pipe = pipelines.NextSentencePredictionPipeline(tiny("QDQBertForNextSentencePrediction"), tokenizer)
    shares = softmax(pipe.model(**tokenizer("what is", "it", return_tensors="np")).logits[0])
    best = int(shares.argmax())

    found = pipe("what is", "it")

    assert found == {"label": ["IsNext", "NotNext"][best], "score": near(shares[best])}
    pair = {"text": "what is", "text_pair": "it"}
    assert pipe([pair, pair]) == [found, found]
    assert [each["score"] for each in pipe(pair, top_k=None)] == near(sorted(shares, reverse=True))
    with pytest.raises(ValueError, match=r"inputs: expected \{'text'"):
        pipe("what")
    with pytest.raises(ValueError, match="text_pair: expected a text, got 5"):
        pipe("what", 5)
    with pytest.raises(ValueError, match="top_k: expected 1, 2 or None"):
        pipe(pair, top_k=3)

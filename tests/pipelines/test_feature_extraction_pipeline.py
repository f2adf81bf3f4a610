# SPDX-License-Identifier: Apache-2.0
"""Vectors of tokens and of sentences, against the model called directly."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert import pipelines


@pytest.fixture
def base(tiny):
    return tiny("QDQBertModel")


def test_features_are_the_last_hidden_state_with_a_batch_axis(base, tokenizer):
    pipe = pipelines.FeatureExtractionPipeline(base, tokenizer)
    state = base(**tokenizer("what is it", return_tensors="np")).last_hidden_state

    assert pipe("what is it") == state.tolist()
    assert pipe(["what is it", "it"])[0] == state.tolist()
    np.testing.assert_array_equal(pipe("what is it", return_tensors=True), state)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_pooled_features(base, tokenizer, pooling, normalize):
    pipe = pipelines.FeatureExtractionPipeline(base, tokenizer, pooling=pooling, normalize=normalize)
    state = np.float64(base(**tokenizer("what is it", return_tensors="np")).last_hidden_state[0])
    expected = state.mean(axis=0) if pooling == "mean" else state[0]
    if normalize:
        expected = expected / np.sqrt((expected**2).sum())

    found = pipe("what is it")

    assert isinstance(found, list)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # padding that is asked for changes no mean
    padded = pipe("what is it", tokenize_kwargs={"padding": "max_length"})
    np.testing.assert_allclose(padded, expected, atol=1e-6)


def test_features_of_a_model_with_a_head_are_those_of_its_base(tiny, tokenizer):
    model = tiny("QDQBertForTokenClassification")

    found = pipelines.FeatureExtractionPipeline(model, tokenizer)("what", return_tensors=True)

    expected = model(**tokenizer("what", return_tensors="np"), output_hidden_states=True).hidden_states[-1]
    np.testing.assert_array_equal(found, expected)


def test_sentence_embeddings_are_rows_of_length_one(base, tokenizer):
    embed = pipelines.SentenceEmbeddingPipeline(base, tokenizer)

    vectors = embed(["what is it", "the river " * 60])

    assert vectors.shape == (2, 24)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(embed("what is it"), vectors[0])
    np.testing.assert_array_equal(next(embed(iter(["what is it"]))), vectors[0])
    assert isinstance(embed(["it"], return_tensors=False)[0], list)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling: expected None, 'mean' or 'cls'"),
        ({"truncation": True, "tokenize_kwargs": {"truncation": True}}, "truncation: given twice"),
    ],
)
def test_wrong_options_of_features_are_named(base, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        pipelines.FeatureExtractionPipeline(base, tokenizer, **options)


def test_no_texts_have_an_array_of_no_rows(base, tokenizer):
    embed = pipelines.SentenceEmbeddingPipeline(base, tokenizer)
    some, none = embed(["what is it"]), embed([])
    assert none.shape == (0, some.shape[1])
    assert none.dtype == some.dtype
    assert embed([], return_tensors=False) == embed([], pooling=None, batch_size=2, progress=False) == []
    assert list(embed(iter([]))) == []
    with pytest.raises(TypeError, match="unknown option 'pool'"):
        embed([], pool="mean")

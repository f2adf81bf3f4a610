# SPDX-License-Identifier: Apache-2.0
"""Inputs, batches and options of every pipeline, on a classifier."""

from __future__ import annotations

import numpy as np
import pytest

import qdqbert
from qdqbert import ShapeError
from qdqbert.pipelines import TextClassificationPipeline
from qdqbert.tasks.batching import MAX_BATCH_TOKENS

WORDS = ["what", "is", "it", "of", "the", "river", "king"]


def texts(count, seed=0, most=60):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, most))) for _ in range(count)]


@pytest.fixture
def pipe(tiny, tokenizer):
    return TextClassificationPipeline(
        tiny("QDQBertForSequenceClassification", num_labels=5), tokenizer, top_k=None
    )


@pytest.fixture
def sizes(pipe, monkeypatch):
    """Shapes of the calls of the model."""
    seen = []
    forward = pipe._forward

    def record(rows):
        seen.append((len(rows), max(len(row.input_ids) for row in rows)))
        return forward(rows)

    monkeypatch.setattr(pipe, "_forward", record)
    return seen


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 1000])
def test_results_are_those_of_each_input_alone_in_order(pipe, batch_size):
    inputs = texts(301)
    alone = [pipe(text, top_k=None) for text in inputs]

    assert pipe(inputs, batch_size=batch_size) == alone
    assert list(pipe(iter(inputs), batch_size=batch_size)) == alone


def test_no_call_exceeds_the_budget_of_tokens(pipe, sizes):
    pipe(texts(300))

    assert len(sizes) > 1
    assert max(rows * length for rows, length in sizes) <= MAX_BATCH_TOKENS


def test_batch_size_is_the_most_rows_of_a_call(pipe, sizes):
    pipe(texts(20), batch_size=6)

    assert [rows for rows, _ in sizes] == [6, 6, 6, 2]
    del sizes[:]
    pipe.batch_size = 10
    pipe(texts(20))
    assert [rows for rows, _ in sizes] == [10, 10]


def test_an_iterator_is_read_as_results_are_taken(pipe):
    read = []

    def stream():
        for index, text in enumerate(texts(9)):
            read.append(index)
            yield text

    results = pipe(stream())
    next(results)
    assert read == [0]
    next(results)
    assert read == [0, 1]
    batched = pipe(stream(), batch_size=4)
    del read[:]
    next(batched)
    assert read == [0, 1, 2, 3]


def test_rows_of_a_model_with_dynamic_ranges_are_computed_alone(pipe, sizes):
    qdqbert.quantizers(pipe.model, {"*": "on"})
    inputs = texts(12)

    results = pipe(inputs)

    assert [rows for rows, _ in sizes] == [1] * 12
    assert results == [pipe(text, top_k=None) for text in inputs]
    del sizes[:]
    pipe(inputs, batch_size=12)  # asked for
    assert [rows for rows, _ in sizes] == [12]


def test_learned_ranges_are_not_dynamic(tiny, tokenizer, monkeypatch):
    of_config = tiny("QDQBertForSequenceClassification", num_labels=5)
    descriptor = qdqbert.tensor_quant.QuantDescriptor(learn_amax=True)
    with monkeypatch.context() as patch:
        patch.setattr(qdqbert.nn.QuantLinear, "default_quant_desc_input", descriptor)
        model = type(of_config)(of_config.config, seed=4)
    pipe = TextClassificationPipeline(model, tokenizer, top_k=None)
    rows = []
    forward = pipe._forward
    monkeypatch.setattr(pipe, "_forward", lambda batch: rows.append(len(batch)) or forward(batch))
    inputs = texts(12)

    results = pipe(inputs)

    assert max(rows) > 1
    assert results == [pipe(text, top_k=None) for text in inputs]


def test_rows_of_a_calibrated_model_are_batched_with_equal_bits(pipe, sizes):
    qdqbert.quantizers(
        pipe.model, {"*_weight_quantizer": "on", "*_input_quantizer": {"state": "on", "amax": 4.0}}
    )
    inputs = texts(40)

    results = pipe(inputs)

    assert max(rows for rows, _ in sizes) > 1
    assert results == [pipe(text, top_k=None) for text in inputs]


def test_options_of_a_call_come_before_those_of_the_pipeline_and_do_not_stay(pipe):
    assert len(pipe(["what"])[0]) == 5
    assert len(pipe(["what"], top_k=2)[0]) == 2
    assert len(pipe(["what"])[0]) == 5
    assert "top_k=None" in repr(pipe)


def test_an_unknown_option_is_refused_with_those_that_are_known(pipe, tokenizer):
    message = r"text-classification: unknown option 'topk'; known are .*top_k"
    with pytest.raises(TypeError, match=message):
        pipe("what", topk=1)
    with pytest.raises(TypeError, match=message):
        TextClassificationPipeline(pipe.model, tokenizer, topk=1)


def test_a_model_with_another_head_is_refused(tiny, tokenizer):
    with pytest.raises(
        TypeError, match="model: text-classification needs a QDQBertForSequenceClassification"
    ):
        TextClassificationPipeline(tiny("QDQBertModel"), tokenizer)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_wrong_batch_size_is_named(pipe, value, error):
    with pytest.raises(error, match="batch_size"):
        pipe("what", batch_size=value)


def test_no_inputs_no_results(pipe):
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []


def test_a_text_that_is_too_long_is_an_error_unless_it_may_be_cut(pipe, tokenizer):
    long = "what " * 90

    message = "inputs: 92 tokens in a sequence, the model has 64 positions; truncation=True cuts it"
    with pytest.raises(ShapeError, match=message):
        pipe(long)
    tokenizer.model_max_length = int(1e30)  # the model's own limit counts where the files have none
    assert len(pipe(long, truncation=True)[0]) == 5


def test_the_bar_is_shown_if_asked_and_not_for_a_few(pipe, capfd):
    pipe(texts(3))
    assert capfd.readouterr().err == ""

    pipe(texts(3), progress=True)

    assert "3/3" in capfd.readouterr().err


def test_an_interrupt_passes_and_leaves_the_pipeline_usable(pipe, monkeypatch):
    before = pipe("what")

    def stop(rows):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipe, "_forward", stop)
        with pytest.raises(KeyboardInterrupt):
            pipe(texts(300), progress=True)

    assert pipe("what") == before

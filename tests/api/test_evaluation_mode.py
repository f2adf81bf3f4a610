# SPDX-License-Identifier: Apache-2.0
"""What looks at a model in training mode sees it without dropout, and leaves its mode alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.forward_passes import evaluating


def training_model() -> Any:
    model = tiny_model.question_answering(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    return model.train()


def test_calibration_collects_without_dropout() -> None:
    batches = [tiny_model.batch(seed=seed) for seed in range(2)]
    model, plain = training_model(), training_model().eval()
    for each in (model, plain):
        qdqbert.calibrate(each, batches, method="max")
    assert model.training
    assert model.dropout_step == 0
    for (name, mine), (_, theirs) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


def test_a_context_ends_with_the_mode_that_it_found() -> None:
    model = training_model()
    model.bert.encoder.eval()
    with pytest.raises(TypeError), evaluating(model):
        model(nothing=model.training)
    assert model.training
    assert not model.bert.encoder.training
    model.eval()
    with evaluating(model):
        assert not model.training
    assert not model.training
    with evaluating(len):
        pass


def test_pipelines_and_tasks_see_no_dropout() -> None:
    from importlib.resources import files

    folder = files("qdqbert") / "demo" / "topics-tiny"
    model = qdqbert.QDQBertForSequenceClassification.from_pretrained(str(folder))
    classify = qdqbert.pipeline(
        "text-classification", model=model, tokenizer=qdqbert.BertTokenizerFast.from_pretrained(str(folder))
    )
    expected = classify("Who built the first bridge?")
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.5
    assert classify("Who built the first bridge?") == expected
    model.train()
    assert classify("Who built the first bridge?") == expected
    assert model.training

# SPDX-License-Identifier: Apache-2.0
"""Dropout as users meet it: where it acts, what it depends on, and how it is repeated."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model

PATHS = [
    "bert.embeddings.dropout",
    "bert.encoder.layer.0.attention.self.dropout",
    "bert.encoder.layer.1.attention.output.dropout",
    "bert.encoder.layer.1.output.dropout",
    "dropout",
]


def classifier(p: float = 0.0, **changes: Any) -> Any:
    fields = {"hidden_dropout_prob": p, "attention_probs_dropout_prob": p, "num_labels": 4, **changes}
    return qdqbert.QDQBertForSequenceClassification(tiny_model.config(**fields), seed=0).train()


def logits(model: Any, step: int = 0) -> np.ndarray:
    model.dropout_step = step
    return np.array(model(**tiny_model.batch()).logits)


def test_every_place_drops_with_its_own_probability() -> None:
    model = classifier()
    plain = logits(model)
    seen = []
    for path in PATHS:
        module = model.get_submodule(path)
        module.p = 0.5
        seen.append(logits(model))
        assert not np.array_equal(seen[-1], plain), path
        module.eval()
        np.testing.assert_array_equal(logits(model), plain, err_msg=path)
        module.train()
        module.p = 0.0
    np.testing.assert_array_equal(logits(model), plain)


def test_cross_attention_drops_at_its_own_places() -> None:
    config = tiny_model.config(
        is_decoder=True, add_cross_attention=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = qdqbert.QDQBertModel(config).train()
    states = np.random.default_rng(0).standard_normal((3, 5, 24)).astype(np.float32)

    def hidden() -> np.ndarray:
        model.dropout_step = 0
        return np.array(model(**tiny_model.batch(), encoder_hidden_states=states).last_hidden_state)

    plain = hidden()
    for part in ("self", "output"):
        module = model.get_submodule(f"encoder.layer.1.crossattention.{part}.dropout")
        module.p = 0.5
        assert not np.array_equal(hidden(), plain), part
        module.p = 0.0


def test_evaluation_mode_drops_nothing() -> None:
    model = classifier(0.5)
    plain = classifier(0.0)
    np.testing.assert_array_equal(logits(model.eval()), logits(plain.eval()))


def test_seed_and_step_say_what_is_dropped() -> None:
    model = classifier(0.3)
    first = logits(model, 7)
    assert model.dropout_step == 8
    assert not np.array_equal(logits(model, 8), first)
    np.testing.assert_array_equal(logits(model, 7), first)
    model.dropout_seed = 1
    assert not np.array_equal(logits(model, 7), first)
    model.dropout_seed = 0
    np.testing.assert_array_equal(logits(model, 7), first)
    assert model.bert.dropout_step == 8


def test_forwards_in_evaluation_mode_are_not_counted() -> None:
    model = classifier(0.3)
    model.eval()(**tiny_model.batch())
    assert model.dropout_step == 0


def test_what_is_dropped_does_not_depend_on_threads_or_padding() -> None:
    model = classifier(0.3)
    expected = logits(model)
    threads = model.device.num_threads
    try:
        model.device.num_threads = 1 if threads > 1 else 2
        np.testing.assert_array_equal(logits(model), expected)
    finally:
        model.device.num_threads = threads
    batch = tiny_model.batch()
    wider = {name: np.pad(array, ((0, 0), (0, 5))) for name, array in batch.items()}
    model.dropout_step = 0
    np.testing.assert_array_equal(model(**wider).logits, expected)


def test_gradients_are_those_of_what_was_left() -> None:
    model = classifier(0.4)
    labels = np.array([0, 3, 1])
    name = "classifier.weight"
    with qdqbert.quantizers(model, {"*": "off"}):
        model.dropout_step = 3
        model(**tiny_model.batch(), labels=labels).loss.backward()
        slope = np.array(model.classifier.weight.grad)
        value = np.array(model.classifier.weight)
        direction = slope / np.linalg.norm(slope)
        losses = []
        for sign in (1, -1):
            model.load_state_dict({name: value + sign * np.float32(0.01) * direction}, strict=False)
            model.dropout_step = 3
            losses.append(float(model(**tiny_model.batch(), labels=labels).loss))
    assert (losses[0] - losses[1]) / 0.02 == pytest.approx(np.linalg.norm(slope), rel=1e-3)


def test_with_everything_dropped_the_head_sees_its_bias_alone() -> None:
    model = classifier()
    model.dropout.p = 1.0
    np.testing.assert_array_equal(logits(model), np.broadcast_to(model.classifier.bias, (3, 4)))


def test_a_copy_drops_what_the_model_would_have_dropped() -> None:
    model = classifier(0.3)
    model.dropout_seed = 5
    logits(model, 2)
    copied = copy.deepcopy(model)
    assert (copied.dropout_seed, copied.dropout_step) == (5, 3)
    np.testing.assert_array_equal(copied(**tiny_model.batch()).logits, model(**tiny_model.batch()).logits)
    assert (copied.dropout_step, model.dropout_step) == (4, 4)


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, "0.1", None, True])
def test_what_is_no_probability_is_named(value: Any) -> None:
    model = classifier()
    model.bert.encoder.layer[1].output.dropout.p = value
    with pytest.raises((TypeError, ValueError), match=r"encoder\.layer\.1\.output\.dropout\.p: expected"):
        model(**tiny_model.batch())
    model.eval()(**tiny_model.batch())


@pytest.mark.parametrize("name", ["dropout_seed", "dropout_step"])
@pytest.mark.parametrize("value", [-1, 2**64, 1.0, True])
def test_what_is_no_word_of_64_bits_is_refused(name: str, value: Any) -> None:
    model = classifier()
    with pytest.raises((TypeError, ValueError), match=f"{name}: expected"):
        setattr(model, name, value)
    setattr(model, name, 2**64 - 1)
    model(**tiny_model.batch())

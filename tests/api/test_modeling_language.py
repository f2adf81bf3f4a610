# SPDX-License-Identifier: Apache-2.0
"""Language models that score the vocabulary at some tokens alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model

LANGUAGE_MODELS = [
    (qdqbert.QDQBertForMaskedLM, {}),
    (qdqbert.QDQBertLMHeadModel, {"is_decoder": True}),
]
# Padding is among them: row 2 has 7 tokens.
WHERE = np.random.default_rng(6).random((3, 11)) < 0.4


def make(kind: Any, **changes: Any) -> Any:
    """A model whose ranges are known, so that its encoder is integer."""
    model = kind(tiny_model.config(**changes), seed=0)
    qdqbert.calibrate(model, [tiny_model.batch()], method="max")
    return model.eval()


@pytest.mark.parametrize(("kind", "changes"), LANGUAGE_MODELS)
@pytest.mark.parametrize("padding", ["skip", "compute"])
def test_scores_of_some_tokens_are_those_of_all_there(kind: Any, changes: Any, padding: str) -> None:
    model, batch = make(kind, **changes), tiny_model.batch()
    model.padding = padding
    whole = model(**batch, output_hidden_states=True)
    part = model(**batch, output_hidden_states=True, only_where=WHERE)
    assert WHERE[2, 7:].any()
    assert part.logits.shape == (WHERE.sum(), 53)
    np.testing.assert_array_equal(part.logits, whole.logits[WHERE])
    np.testing.assert_array_equal(part.hidden_states[-1], whole.hidden_states[-1])
    for form in (WHERE.tolist(), WHERE.astype(np.int8), WHERE.T.copy().T):
        np.testing.assert_array_equal(model(**batch, only_where=form).logits, part.logits)


@pytest.mark.parametrize(("kind", "changes"), LANGUAGE_MODELS)
def test_nobody_asked_is_no_row(kind: Any, changes: Any) -> None:
    model, batch = make(kind, **changes), tiny_model.batch()
    assert model(**batch, only_where=np.zeros((3, 11), bool)).logits.shape == (0, 53)


def test_tokens_are_those_of_the_call_not_of_its_cache() -> None:
    model = make(qdqbert.QDQBertLMHeadModel, is_decoder=True)
    ids = tiny_model.batch()["input_ids"]
    cache = model(ids[:, :8]).past_key_values
    whole = model(ids[:, 8:], past_key_values=cache).logits
    part = model(ids[:, 8:], past_key_values=cache, only_where=WHERE[:, 8:]).logits
    np.testing.assert_array_equal(part, whole[WHERE[:, 8:]])


@pytest.mark.parametrize(("kind", "changes"), LANGUAGE_MODELS)
def test_a_loss_of_some_scores_has_the_gradients_of_one_that_leaves_the_others_out(
    kind: Any, changes: Any
) -> None:
    model, batch = (
        make(kind, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **changes),
        tiny_model.batch(),
    )
    model.train()
    rows = np.random.default_rng(8).standard_normal((int(WHERE.sum()), 53)).astype(np.float32)
    spread = np.zeros((3, 11, 53), np.float32)
    spread[WHERE] = rows
    found = []
    for d_logits, where in ((spread, None), (rows, WHERE)):
        model.zero_grad()
        model(**batch, only_where=where)
        model.backward(d_logits=d_logits)
        found.append({name: np.array(p.grad) for name, p in model.named_parameters() if p.grad is not None})
    assert any(np.any(gradient) for gradient in found[0].values())
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        np.testing.assert_array_equal(found[1][name], gradient, err_msg=name)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (WHERE[:, 1:], qdqbert.ShapeError, r"only_where: expected \(3, 11\), got \(3, 10\)"),
        (WHERE[0], qdqbert.ShapeError, r"only_where: expected \(3, 11\), got \(11,\)"),
        ([3, 5], qdqbert.ShapeError, r"only_where: expected \(3, 11\), got \(2,\)"),
        (WHERE * 2, ValueError, "only_where: expected True and False, or 0 and 1, got 2"),
        (WHERE * 1.0, TypeError, "only_where: expected integers, got float64"),
    ],
)
def test_what_says_no_places_is_refused(where: Any, error: type[Exception], message: str) -> None:
    model = make(qdqbert.QDQBertForMaskedLM)
    with pytest.raises(error, match=message):
        model(**tiny_model.batch(), only_where=where)


def test_labels_say_what_counts_themselves() -> None:
    model, batch = make(qdqbert.QDQBertForMaskedLM), tiny_model.batch()
    with pytest.raises(ValueError, match="only_where: labels say already which tokens count"):
        model(**batch, labels=batch["input_ids"], only_where=WHERE)
    with pytest.raises(ValueError, match="only_labelled: there are no labels"):
        model(**batch, only_labelled=True, only_where=WHERE)
    with pytest.raises(ValueError, match="You have to specify either input_ids or inputs_embeds"):
        model(only_where=WHERE)

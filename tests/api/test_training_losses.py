# SPDX-License-Identifier: Apache-2.0
"""Losses of the heads in training: smoothed labels, and language models that score labelled tokens alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model

FLOAT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LANGUAGE_MODELS = [
    (qdqbert.QDQBertForMaskedLM, {}),
    (qdqbert.QDQBertLMHeadModel, {"is_decoder": True}),
]


def make(kind: Any, **changes: Any) -> Any:
    return kind(tiny_model.config(**FLOAT, **changes), seed=0).train()


def token_labels() -> np.ndarray:
    found = np.random.default_rng(4).integers(3, 53, (3, 11))
    found[np.random.default_rng(5).random((3, 11)) < 0.6] = -100
    return found


def gradients(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def smoothed(logits: np.ndarray, labels: np.ndarray, share: float) -> float:
    """As `torch.nn.functional.cross_entropy` defines it."""
    z = logits.reshape(-1, logits.shape[-1]).astype(np.float64)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    rows = np.flatnonzero(labels.reshape(-1) != -100)
    at_label = log_p[rows, labels.reshape(-1)[rows]].mean()
    return float(-(1 - share) * at_label - share * log_p[rows].mean())


# ---- smoothed labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "labels"),
    [
        (qdqbert.QDQBertForNextSentencePrediction, {}, np.array([0, 1, 1])),
        (qdqbert.QDQBertForSequenceClassification, {"num_labels": 5}, np.array([4, 0, 2])),
        (qdqbert.QDQBertForTokenClassification, {"num_labels": 5}, token_labels() % 5),
        (qdqbert.QDQBertForMaskedLM, {}, token_labels()),
    ],
)
def test_smoothed_losses_are_those_of_their_definition(kind: Any, changes: Any, labels: np.ndarray) -> None:
    model = make(kind, **changes)
    batch = tiny_model.batch()
    counted = np.where(batch["attention_mask"] == 0, -100, labels) if labels.ndim == 2 else labels
    output = model(**batch, labels=labels, label_smoothing=0.1)
    assert output.loss == pytest.approx(smoothed(output.logits, counted, 0.1), rel=1e-6)
    output.loss.backward()
    assert gradients(model)


def test_spans_and_choices_are_smoothed_too() -> None:
    answers = make(qdqbert.QDQBertForQuestionAnswering)
    first, last = np.array([1, 2, 30]), np.array([3, 2, 4])  # 30 is outside and does not count
    output = answers(**tiny_model.batch(), start_positions=first, end_positions=last, label_smoothing=0.2)
    # Each text chooses among its own positions, those that were computed.
    lengths = tiny_model.batch()["attention_mask"].sum(axis=1)

    def side(logits: np.ndarray, labels: np.ndarray) -> float:
        rows = zip(logits, lengths, labels, strict=True)
        return float(np.mean([smoothed(x[:n], np.array([at]), 0.2) for x, n, at in rows if at < n]))

    expected = (side(output.start_logits, first) + side(output.end_logits, last)) / 2
    assert output.loss == pytest.approx(expected, rel=1e-6)

    choices = make(qdqbert.QDQBertForMultipleChoice)
    batch = {name: np.stack([array, array[::-1]], axis=1) for name, array in tiny_model.batch().items()}
    output = choices(**batch, labels=np.array([0, 1, 1]), label_smoothing=0.2)
    assert output.loss == pytest.approx(smoothed(output.logits, np.array([0, 1, 1]), 0.2), rel=1e-6)
    output.loss.backward()


@pytest.mark.parametrize(
    ("value", "labels", "error", "message"),
    [
        (1.5, [0, 1, 0], ValueError, r"label_smoothing is 1.5, expected 0 \.\. 1"),
        (np.nan, [0, 1, 0], ValueError, "label_smoothing is nan"),
        ("0.1", [0, 1, 0], TypeError, "label_smoothing: expected a number, got str"),
        (0.1, None, ValueError, "label_smoothing: there are no labels"),
        (0.1, [[0.0, 1.0]] * 3, ValueError, "multi_label_classification has no classes to smooth"),
    ],
)
def test_what_cannot_be_smoothed_is_said(
    value: Any, labels: Any, error: type[Exception], message: str
) -> None:
    model = make(qdqbert.QDQBertForSequenceClassification, num_labels=2)
    with pytest.raises(error, match=message):
        model(
            **tiny_model.batch(), labels=None if labels is None else np.array(labels), label_smoothing=value
        )


# ---- labelled tokens alone -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "changes"), LANGUAGE_MODELS)
@pytest.mark.parametrize("padding", ["skip", "compute"])
def test_scoring_labelled_tokens_alone_changes_neither_loss_nor_gradients(
    kind: Any, changes: Any, padding: str
) -> None:
    model = make(kind, **changes)
    model.padding = padding
    batch = {**tiny_model.batch(), "labels": token_labels()}
    whole = model(**batch, label_smoothing=0.1)
    whole.loss.backward()
    expected = gradients(model)
    model.zero_grad()

    part = model(**batch, label_smoothing=0.1, only_labelled=True)

    assert part.loss == whole.loss
    assert part.logits.shape[0] < 33
    rows = {row.tobytes() for row in whole.logits.reshape(-1, 53)}
    assert all(row.tobytes() in rows for row in part.logits)
    part.loss.backward()
    largest = max(float(np.abs(gradient).max()) for gradient in expected.values())
    for name, gradient in gradients(model).items():
        # Rows without a label add exact zeros: only the sign of a zero can differ.
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-7 * largest, err_msg=name)


@pytest.mark.parametrize(("kind", "changes"), LANGUAGE_MODELS)
def test_a_batch_without_labels_that_count_has_the_loss_of_pytorch(kind: Any, changes: Any) -> None:
    model = make(kind, **changes)
    for only_labelled in (False, True):
        output = model(**tiny_model.batch(), labels=np.full((3, 11), -100), only_labelled=only_labelled)
        assert np.isnan(output.loss)


def test_only_labelled_needs_labels() -> None:
    model = make(qdqbert.QDQBertForMaskedLM)
    with pytest.raises(ValueError, match="only_labelled: there are no labels"):
        model(**tiny_model.batch(), only_labelled=True)
    with pytest.raises(ValueError, match=r"labels: expected \(3, 11\), got \(3, 10\)"):
        model(**tiny_model.batch(), labels=token_labels()[:, 1:], only_labelled=True)
    with pytest.raises(ValueError, match="You have to specify either input_ids or inputs_embeds"):
        model(labels=token_labels(), only_labelled=True)
    with pytest.raises(IndexError, match=r"labels\[\d+\] is 53"):
        model(**tiny_model.batch(), labels=np.where(token_labels() > 0, 53, -100), only_labelled=True)
    model(**tiny_model.batch(), labels=token_labels(), only_labelled=True).loss.backward()

# SPDX-License-Identifier: Apache-2.0
"""Losses against a teacher: values by definition, gradients by differences, and what does not fit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import Distillation
from qdqbert.errors import ShapeError

FLOAT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS = {"start_positions": np.array([1, 2, 3]), "end_positions": np.array([2, 4, 3])}


def pair(kind: Any = qdqbert.QDQBertForQuestionAnswering, **changes: Any) -> tuple[Any, Any]:
    """Student and teacher of other weights, both float."""
    models = []
    for seed in (0, 1):
        model = kind(tiny_model.config(**FLOAT, **changes), seed=seed)
        qdqbert.quantizers(model, {"*": "off"})
        models.append(model)
    return models[0].train(), models[1]


def log_softmax(x: np.ndarray, heat: float) -> np.ndarray:
    z = x.astype(np.float64) / heat
    z -= z.max(-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))


def soft(x: np.ndarray, y: np.ndarray, heat: float, counts: Any = slice(None)) -> float:
    p, q = log_softmax(x, heat), log_softmax(y, heat)
    return float((np.exp(q) * (q - p)).sum(-1)[counts].mean()) * heat**2


def require_derivative(distillation: Distillation, model: Any, batch: dict[str, Any], name: str) -> None:
    """Slope along the gradient of a parameter: central differences, error of third order in 0.01."""
    model.zero_grad()
    distillation(model, batch).backward()
    parameter = dict(model.named_parameters())[name]
    slope, value = np.array(parameter.grad), np.array(parameter)
    direction = slope / np.linalg.norm(slope)
    losses = []
    for sign in (1, -1):
        model.load_state_dict({name: value + sign * np.float32(0.01) * direction}, strict=False)
        losses.append(float(distillation(model, batch)))
    model.load_state_dict({name: value}, strict=False)
    assert (losses[0] - losses[1]) / 0.02 == pytest.approx(np.linalg.norm(slope), rel=2e-3)


def test_the_loss_is_that_of_its_definition() -> None:
    student, teacher = pair()
    batch = tiny_model.batch()
    found = Distillation(teacher, temperature=3.0, alpha=0.3, hidden_weight=0.5)(student, {**batch, **LABELS})

    mine = student.eval()(**batch, **LABELS, output_hidden_states=True)
    theirs = teacher(**batch, output_hidden_states=True)
    keep = batch["attention_mask"] != 0
    kl = np.mean(
        [
            soft(mine[name][row : row + 1, keep[row]], theirs[name][row : row + 1, keep[row]], 3.0)
            for name in ("start_logits", "end_logits")
            for row in range(len(keep))  # each text over its own positions
        ]
    )
    hidden = np.mean(
        [
            np.square(a - b)[keep].mean(dtype=np.float64)
            for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True)
        ]
    )
    assert found == pytest.approx(0.3 * kl + 0.7 * float(mine.loss) + 0.5 * hidden, rel=1e-6)


def test_several_labels_of_a_text_are_choices_between_yes_and_no() -> None:
    several = {"num_labels": 5, "problem_type": "multi_label_classification"}
    student, teacher = pair(CLASSIFIER, **several)
    batch = tiny_model.batch()
    found = Distillation(teacher, temperature=3.0, alpha=1.0)(student, batch)
    heat = 3.0
    p, q = (
        1.0 / (1.0 + np.exp(-model(**batch).logits.astype(np.float64) / heat))
        for model in (student.eval(), teacher)
    )
    divergence = q * np.log(q / p) + (1.0 - q) * np.log((1.0 - q) / (1.0 - p))
    assert found == pytest.approx(heat**2 * divergence.mean(), rel=1e-5)


CLASSIFIER = qdqbert.QDQBertForSequenceClassification
TOKENS = np.arange(33).reshape(3, 11)
HEADS = [
    (qdqbert.QDQBertForQuestionAnswering, {}, LABELS, "qa_outputs.weight"),
    (CLASSIFIER, {"num_labels": 3}, {"labels": np.array([0, 2, 1])}, "classifier.weight"),
    (CLASSIFIER, {"num_labels": 1}, {"labels": np.array([0.5, 2, 1])}, "classifier.weight"),
    (
        CLASSIFIER,
        {"num_labels": 5, "problem_type": "multi_label_classification"},
        {"labels": np.array([[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]], np.float32)},
        "classifier.weight",
    ),
    (
        qdqbert.QDQBertForNextSentencePrediction,
        {},
        {"labels": np.array([0, 1, 1])},
        "bert.pooler.dense.weight",
    ),
    (
        qdqbert.QDQBertForTokenClassification,
        {"num_labels": 3},
        {"labels": TOKENS % 3},
        "classifier.weight",
    ),
    (
        qdqbert.QDQBertForMaskedLM,
        {},
        {"labels": np.where(TOKENS % 3, -100, 7)},
        "cls.predictions.transform.dense.weight",
    ),
    (qdqbert.QDQBertLMHeadModel, {"is_decoder": True}, {"labels": TOKENS + 5}, "cls.predictions.bias"),
]


@pytest.mark.parametrize(("kind", "changes", "labels", "name"), HEADS)
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_gradients_are_derivatives_for_every_head(
    kind: Any, changes: Any, labels: dict[str, Any], name: str, alpha: float
) -> None:
    student, teacher = pair(kind, **changes)
    distillation = Distillation(teacher, alpha=alpha, hidden_weight=0.5)
    batch = tiny_model.batch()
    require_derivative(distillation, student, {**batch, **labels}, name)
    require_derivative(
        distillation,
        student,
        {**batch, **labels},
        f"{kind.base_model_prefix}.encoder.layer.0.output.dense.weight",
    )
    if alpha == 1.0:
        require_derivative(distillation, student, batch, name)


def test_choices_are_distilled_too() -> None:
    student, teacher = pair(qdqbert.QDQBertForMultipleChoice)
    batch = {name: np.stack([array, array[::-1]], axis=1) for name, array in tiny_model.batch().items()}
    batch["labels"] = np.array([0, 1, 1])
    require_derivative(Distillation(teacher, hidden_weight=1.0), student, batch, "classifier.weight")


def test_base_models_are_compared_by_hidden_states_alone() -> None:
    student, teacher = pair(qdqbert.QDQBertModel)
    distillation = Distillation(teacher, alpha=0.0, hidden_weight=1.0)
    require_derivative(distillation, student, tiny_model.batch(), "embeddings.LayerNorm.weight")
    assert student.pooler.dense.weight.grad is None


def test_hidden_states_are_mapped_at_equal_distances_or_as_told() -> None:
    student, _ = pair()
    _, teacher = pair(num_hidden_layers=4)
    mine = student(**tiny_model.batch(), output_hidden_states=True).hidden_states
    theirs = teacher(**tiny_model.batch(), output_hidden_states=True).hidden_states
    keep = tiny_model.batch()["attention_mask"] != 0
    for layers, mapped in ((None, {0: 0, 1: 2, 2: 4}), ({2: 3}, {2: 3})):
        distillation = Distillation(teacher, alpha=0.0, hidden_weight=1.0, layers=layers)
        hidden = (
            distillation(student, {**tiny_model.batch(), **LABELS})
            - student(**tiny_model.batch(), **LABELS).loss
        )
        expected = np.mean(
            [np.square(mine[i] - theirs[j])[keep].mean(dtype=np.float64) for i, j in mapped.items()]
        )
        assert hidden == pytest.approx(expected, rel=1e-5)
    with pytest.raises(
        ValueError, match=r"layers: expected a mapping, since 3 layers .* no multiple of the 2"
    ):
        Distillation(pair(num_hidden_layers=3)[1], hidden_weight=1.0)(
            student, {**tiny_model.batch(), **LABELS}
        )
    for wrong in ({3: 1}, {0: 5}, {}):
        with pytest.raises(ValueError, match="layers: expected"):
            Distillation(teacher, hidden_weight=1.0, layers=wrong)(student, {**tiny_model.batch(), **LABELS})


def test_a_teacher_is_neither_trained_nor_recorded_and_keeps_its_mode() -> None:
    student, teacher = pair()
    teacher.train()
    for module in teacher.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.5
    before = float(Distillation(teacher)(student, {**tiny_model.batch(), **LABELS}))
    loss = Distillation(teacher)(student, {**tiny_model.batch(), **LABELS})
    assert float(loss) == before
    loss.backward()
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert teacher.dropout_step == 0


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    student, _ = pair()
    teacher = copy.deepcopy(student)
    loss = Distillation(teacher, alpha=1.0, hidden_weight=1.0)(student, tiny_model.batch())
    assert loss == 0.0
    loss.backward()
    assert not any(parameter.grad.any() for parameter in student.parameters())


def test_distillation_brings_a_quantized_student_nearer_to_its_teacher() -> None:
    student = tiny_model.question_answering(**FLOAT)
    teacher = copy.deepcopy(student)
    qdqbert.quantizers(teacher, {"*": "off"})
    qdqbert.quantizers(student, {"*": {"num_bits": 4}})
    optimizer = qdqbert.optim.AdamW(student.parameters(), lr=2e-3)
    distillation = Distillation(teacher, alpha=1.0, hidden_weight=1.0)
    student.train()
    losses = []
    for _ in range(30):
        loss = distillation(student, tiny_model.batch())
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"teacher": None}, TypeError, "teacher: expected a model, got NoneType"),
        ({"temperature": 0.0}, ValueError, "temperature: expected a number above 0"),
        ({"temperature": np.nan}, ValueError, "temperature: expected a finite number"),
        ({"alpha": 1.5}, ValueError, r"alpha: expected 0 \.\. 1, got 1.5"),
        ({"alpha": "0.5"}, TypeError, "alpha: expected a number, got str"),
        ({"hidden_weight": -1.0}, ValueError, "hidden_weight: expected a finite number"),
        ({"layers": [1, 2]}, TypeError, "layers: expected a mapping"),
    ],
)
def test_arguments_that_cannot_be_are_named(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Distillation(**{"teacher": tiny_model.question_answering(), **arguments})


def test_models_that_do_not_fit_each_other_are_said() -> None:
    student, teacher = pair()
    batch = {**tiny_model.batch(), **LABELS}
    with pytest.raises(TypeError, match="expected the head of the teacher, a QDQBertForQuestionAnswering"):
        Distillation(teacher)(qdqbert.QDQBertForMaskedLM(tiny_model.config()), batch)
    with pytest.raises(ValueError, match="is its own teacher"):
        Distillation(student)(student, batch)
    with pytest.raises(ValueError, match=r"there are no labels, which alpha=0\.5"):
        Distillation(teacher)(student, tiny_model.batch())
    with pytest.raises(ValueError, match="start_positions are not all labels"):
        Distillation(teacher)(student, {**tiny_model.batch(), "start_positions": [1, 2, 3]})
    narrow = pair(hidden_size=12)[1]
    with pytest.raises(ShapeError, match=r"hidden states of shape \(3, 11, 24\), got \(3, 11, 12\)"):
        Distillation(narrow, hidden_weight=1.0)(student, batch)
    few, many = (pair(qdqbert.QDQBertForSequenceClassification, num_labels=n) for n in (2, 3))
    with pytest.raises(ShapeError, match=r"teacher: expected logits of shape \(3, 2\), got \(3, 3\)"):
        Distillation(many[1])(few[0], {**tiny_model.batch(), "labels": [0, 1, 0]})

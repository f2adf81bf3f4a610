# SPDX-License-Identifier: Apache-2.0
"""Training beside PyTorch's and transformers', where both are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import _core
from qdqbert.optim import SGD, AdamW, clip_grad_norm_

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.witness, pytest.mark.filterwarnings("ignore")]
FLOAT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS: dict[str, dict[str, Any]] = {
    "QuestionAnswering": {"start_positions": np.array([1, 2, 3]), "end_positions": np.array([2, 4, 3])},
    "SequenceClassification": {"labels": np.array([0, 2, 1])},
    "TokenClassification": {"labels": np.arange(33).reshape(3, 11) % 3},
    "MaskedLM": {"labels": np.where(np.arange(33) % 3, -100, 7).reshape(3, 11)},
    "NextSentencePrediction": {"labels": np.array([0, 1, 1])},
}
# Float32 sums in another order over two layers, of the largest gradient: as of the recorded gradients.
RTOL = 1e-5


def both(head: str) -> tuple[Any, Any]:
    """Our model in float and training mode, and transformers' with its weights."""
    num_labels = {"QuestionAnswering": 2, "SequenceClassification": 3, "TokenClassification": 3}.get(head, 2)
    config = tiny_model.config(num_labels=num_labels, **FLOAT)
    mine = getattr(qdqbert, f"QDQBertFor{head}")(config, seed=0)
    qdqbert.quantizers(mine, {"*": "off"})
    mine.padding = "compute"
    theirs = getattr(transformers, f"BertFor{head}")(
        transformers.BertConfig(**{**tiny_model.FIELDS, "num_labels": num_labels, **FLOAT})
    )
    state = {name: torch.tensor(np.array(value)) for name, value in mine.state_dict().items()}
    missing, _ = theirs.load_state_dict(state, strict=False)
    assert all("position_ids" in name for name in missing)
    return mine.train(), theirs.float().train()


def tensors(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(value) for name, value in batch.items()}


@pytest.mark.parametrize("head", sorted(LABELS))
def test_gradients_are_those_of_transformers(head: str) -> None:
    mine, theirs = both(head)
    batch = {**tiny_model.batch(), **LABELS[head]}
    loss = mine(**batch).loss
    loss.backward()
    expected = theirs(**tensors(batch)).loss
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    found = {name: p.grad for name, p in mine.named_parameters() if p.grad is not None}
    assert set(found) == set(gradients)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, gradients[name], rtol=0, atol=RTOL * largest, err_msg=name)


def test_a_run_of_training_loses_what_it_loses_in_transformers() -> None:
    mine, theirs = both("QuestionAnswering")
    names = [name for name, _ in mine.named_parameters()]
    mine_optimizer = AdamW(mine.parameter_groups(weight_decay=0.1), lr=1e-3)
    decayed = {p.state.name for p in mine_optimizer.param_groups[0]["params"]}
    parameters = dict(theirs.named_parameters())
    their_optimizer = torch.optim.AdamW(
        [
            {"params": [parameters[name] for name in names if name in decayed], "weight_decay": 0.1},
            {"params": [parameters[name] for name in names if name not in decayed], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    mine_schedule = qdqbert.optim.get_scheduler("linear", mine_optimizer, 2, 10)
    their_schedule = transformers.get_scheduler("linear", their_optimizer, 2, 10)
    for step in range(10):
        batch = {**tiny_model.batch(seed=step % 3), **LABELS["QuestionAnswering"]}
        loss, expected = mine(**batch).loss, theirs(**tensors(batch)).loss
        # A step is the sign of a gradient where it is rounding alone, so differences grow with steps.
        assert float(loss) == pytest.approx(expected.item(), rel=1e-4)
        loss.backward()
        expected.backward()
        norm = clip_grad_norm_(mine, 0.5)
        assert norm == pytest.approx(
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item(), rel=1e-3
        )
        for each in (mine_optimizer, mine_schedule, their_optimizer, their_schedule):
            each.step()
        mine_optimizer.zero_grad()
        their_optimizer.zero_grad()


@pytest.mark.parametrize(
    ("make_mine", "make_theirs"),
    [
        (lambda p: AdamW(p, lr=3e-3), lambda p: torch.optim.AdamW(p, lr=3e-3)),
        (
            lambda p: AdamW(p, lr=1e-2, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.3),
            lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.3),
        ),
        (lambda p: SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        ),
    ],
)
def test_steps_are_those_of_pytorch(make_mine: Any, make_theirs: Any) -> None:
    mine, theirs = both("QuestionAnswering")
    mine(**tiny_model.batch(), **LABELS["QuestionAnswering"]).loss.backward()
    my_optimizer = make_mine(mine.parameters())
    their_optimizer = make_theirs(theirs.parameters())
    parameters = dict(theirs.named_parameters())
    rng = np.random.default_rng(0)
    for _ in range(5):
        for name, parameter in mine.named_parameters():
            gradient = rng.standard_normal(parameter.shape).astype(np.float32)
            parameter.grad = gradient
            parameters[name].grad = torch.tensor(gradient)
        my_optimizer.step()
        their_optimizer.step()
    for name, parameter in mine.named_parameters():
        # The same operations in the same order; PyTorch may fuse a product and a sum into one rounding.
        expected = parameters[name].detach().numpy()
        np.testing.assert_allclose(np.asarray(parameter), expected, rtol=2e-6, atol=2e-7, err_msg=name)


def test_losses_are_those_of_pytorch() -> None:
    rng = np.random.default_rng(0)
    x, y = (3 * rng.standard_normal((2, 17, 29))).astype(np.float32)
    labels = rng.integers(0, 29, 17)
    labels[::4] = -100
    device = _core.Device()
    logits = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), label_smoothing=0.2)
    expected.backward()
    assert _core.cross_entropy(device, x, labels, -100, 0.2) == pytest.approx(expected.item(), rel=1e-6)
    found = _core.cross_entropy_grad(device, x, labels, -100, 0.2, 1.0)
    np.testing.assert_allclose(found, logits.grad.numpy(), rtol=0, atol=1e-7)

    logits = torch.tensor(x, requires_grad=True)
    divergence = torch.nn.functional.kl_div(
        torch.log_softmax(logits / 2, -1), torch.softmax(torch.tensor(y) / 2, -1), reduction="batchmean"
    )
    divergence.backward()
    assert _core.kl_divergence(device, x, y, None, -100, 2.0) == pytest.approx(divergence.item(), rel=1e-5)
    found = _core.kl_divergence_grad(device, x, y, None, -100, 2.0, 1.0)
    np.testing.assert_allclose(found, logits.grad.numpy(), rtol=0, atol=1e-7)

# SPDX-License-Identifier: Apache-2.0
"""Training with arguments of every wrong kind: refused by a sentence, and what can be trained goes on."""

from __future__ import annotations

import copy
import traceback
from typing import Any

import numpy as np
import pytest
from test_hostile_arguments import CALLS, SENTENCES, objects

import qdqbert
import tiny_model
from qdqbert.loss import Loss
from qdqbert.optim import SGD, AdamW, clip_grad_norm_, get_scheduler

FLOAT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SPANS = {"start_positions": [0, 1], "end_positions": [1, 2]}


class Trainee:
    """Models in training mode, and ways to call what training calls, with arguments that may be wrong."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(7)
        self.objects = objects()
        self.model: Any = tiny_model.question_answering(hidden_size=4, num_attention_heads=2, **FLOAT).train()
        fields = {"hidden_size": 4, "num_attention_heads": 2, "is_decoder": True, **FLOAT}
        self.writer: Any = qdqbert.QDQBertLMHeadModel(tiny_model.config(**fields)).train()
        self.teacher = copy.deepcopy(self.model).eval()
        self.batch = np.array([[1, 2, 3], [4, 5, 6]])
        self.optimizer = AdamW(self.model.parameters(), lr=0.0)
        self.schedule = get_scheduler("linear", self.optimizer, 1, 10)

    def some(self, usual: Any) -> Any:
        """What is expected, or anything else."""
        wrong = self.objects[int(self.generator.integers(len(self.objects)))]
        return usual if self.generator.integers(2) else wrong

    def step(self) -> Any:
        """A forward and backward that must go on working."""
        self.model(self.batch, **SPANS).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def ways(self) -> list[Any]:
        some, model = self.some, self.model
        hidden = np.ones((2, 3, 4), np.float32)
        row = np.ones((2, 3), np.float32)
        weight = model.qa_outputs.weight
        weights = {name: value.copy() for name, value in model.state_dict().items()}

        def backward(**arguments: Any) -> Any:
            model(self.batch)
            return model.backward(**arguments)

        def scaled(value: Any) -> Any:
            product = model(self.batch, **SPANS).loss * value
            if isinstance(product, Loss):  # an array times a loss is an array
                product.backward()

        def set_setting(name: str, value: Any) -> Any:
            group = self.optimizer.param_groups[0]
            before = group[name]
            group[name] = value
            try:
                self.step()
            finally:
                group[name] = before
                model.load_state_dict(weights)  # a rate of 10**30 is a rate

        def set_dropout(value: Any) -> Any:
            model.bert.embeddings.dropout.p = value
            try:
                self.step()
            finally:
                model.bert.embeddings.dropout.p = 0.0

        def set_gradient(value: Any) -> Any:
            self.step()
            try:
                weight.grad = value
            finally:
                weight.grad = None

        def load(key: str, value: Any) -> Any:
            other = AdamW(model.parameters(), lr=0.0)
            other.load_state_dict({**other.state_dict(), key: value})

        return [
            lambda: model(self.batch, start_positions=some([0, 1]), end_positions=some([1, 2])),
            lambda: model(some(self.batch), **SPANS).loss.backward(),
            lambda: model(self.batch, **SPANS, label_smoothing=some(0.1)),
            lambda: self.writer(self.batch, labels=some(self.batch), only_labelled=True).loss.backward(),
            lambda: self.writer(some(self.batch), labels=self.batch, only_labelled=some(True)),
            lambda: self.writer(self.batch, only_where=some(self.batch == 5)),
            lambda: scaled(some(2.0)),
            lambda: some(1.0) - model(self.batch, **SPANS).loss / some(2.0),
            lambda: backward(d_last_hidden_state=some(hidden), wants_inputs=True),
            lambda: backward(d_logits=some((row, row))),
            lambda: backward(d_logits=(some(row), some(row))),
            lambda: backward(d_pooler_output=some(None)),
            lambda: backward(d_hidden_states=some([None, hidden, None])),
            lambda: backward(d_hidden_states=[some(None), some(hidden), None]),
            lambda: set_gradient(some(np.ones(weight.shape))),
            lambda: set_setting("lr", some(0.0)),
            lambda: set_setting("betas", some((0.9, 0.99))),
            lambda: set_setting("betas", (some(0.9), some(0.99))),
            lambda: set_dropout(some(0.1)),
            lambda: AdamW(some(list(model.parameters()))),
            lambda: AdamW([some(weight)]),
            lambda: SGD(model.parameters(), some(0.1), some(0.9), some(0.0), some(0.0), some(True)),
            lambda: load("state", some({})),
            lambda: load("param_groups", some(None)),
            lambda: load("state", {"qa_outputs.weight": some(None)}),
            lambda: load(
                "state", {"qa_outputs.bias": {"step": some(1), "exp_avg": some(row), "exp_avg_sq": row}}
            ),
            lambda: self.schedule.load_state_dict(some({})),
            lambda: self.schedule.load_state_dict(
                {"base_lrs": some([0.0]), "last_epoch": some(1), "_last_lr": [0.0]}
            ),
            lambda: get_scheduler(some("linear"), self.optimizer, some(1), some(3)),
            lambda: clip_grad_norm_(some(model), some(1.0)),
            lambda: model.freeze(some("nobody")),
            lambda: model.parameter_groups(no_decay=some(["*"])),
            lambda: model.train(some(True)),
            lambda: setattr(model, "dropout_seed", some(3)),
            lambda: setattr(model, "dropout_step", some(3)),
            lambda: qdqbert.Distillation(some(self.teacher), some(2.0), some(0.5), some(0.0), some(None)),
            lambda: qdqbert.Distillation(self.teacher, hidden_weight=1.0)(
                some(model), {"input_ids": some(self.batch), **SPANS}
            ),
            lambda: qdqbert.Distillation(self.teacher)(
                model,
                {"input_ids": self.batch, "start_positions": some([0, 1]), "end_positions": some([1, 0])},
            ),
            lambda: qdqbert.Distillation(self.teacher, hidden_weight=1.0, layers={some(1): some(1)})(
                model, {"input_ids": self.batch, **SPANS}
            ),
        ]


@pytest.mark.filterwarnings("ignore")
def test_hostile_arguments_of_training_are_refused_by_a_sentence() -> None:
    trainee = Trainee()
    before = {name: value.copy() for name, value in trainee.model.state_dict().items()}
    ways = trainee.ways()
    defects, refused = [], 0
    with np.errstate(all="ignore"):
        for index in range(CALLS // 2):
            try:
                ways[index % len(ways)]()
            except SENTENCES as error:
                refused += 1
                if not str(error):
                    defects.append(f"way {index % len(ways)}: {type(error).__name__} without a sentence")
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                defects.append(f"way {index % len(ways)}: {error!r:.120} at {place.filename}:{place.lineno}")
            trainee.model.train()
            trainee.model.unfreeze("*")
            trainee.model.zero_grad()  # of a loss times NaN, which a step would hand on
    assert not defects, f"{len(defects)} defects\n" + "\n".join(sorted(set(defects))[:40])
    assert refused > CALLS // 10
    trainee.step()
    for name, value in trainee.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])  # the learning rate was 0

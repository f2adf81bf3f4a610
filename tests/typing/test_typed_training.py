# SPDX-License-Identifier: Apache-2.0
"""Small programs of users: what a type checker is told about training is what it is at run time.

mypy --strict and pyright in its strict mode read this file in CI; pytest runs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import qdqbert


class FewSteps(qdqbert.TrainerCallback):
    def on_step_end(
        self,
        args: qdqbert.TrainingArguments,
        state: qdqbert.TrainerState,
        control: qdqbert.TrainerControl,
        **kwargs: Any,
    ) -> None:
        control.should_training_stop = state.global_step >= 2


def collate(items: list[dict[str, Any]]) -> dict[str, npt.NDArray[np.int64]]:
    return {name: np.array([item[name] for item in items]) for name in items[0]}


def test_a_run(tmp_path: Path) -> None:
    config = qdqbert.QDQBertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )
    items = [{"input_ids": [3, 4, 5], "labels": index % 2} for index in range(7)]
    arguments = qdqbert.TrainingArguments(str(tmp_path), per_device_train_batch_size=2, report_to="none")
    assert_type(arguments.learning_rate, float)
    trainer = qdqbert.Trainer(
        qdqbert.QDQBertForSequenceClassification(config, seed=1),
        arguments,
        data_collator=collate,
        train_dataset=items,
        eval_dataset=items[:3],
        callbacks=[FewSteps, qdqbert.QuantizationAware(amax="moving", weights="max")],
    )
    result = trainer.train()
    assert_type(result.global_step, int)
    assert_type(result.metrics, dict[str, float])
    assert result.global_step == 2
    metrics = trainer.evaluate()
    assert_type(metrics, dict[str, float])
    assert metrics["eval_loss"] > 0
    assert_type(trainer.state.best_metric, float | None)
    assert_type(trainer.predict(items).metrics, dict[str, float])


def test_a_loop_by_hand_is_typed_as_it_runs() -> None:
    config = qdqbert.QDQBertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )
    model = qdqbert.QDQBertForSequenceClassification(config).train()
    assert_type(model, qdqbert.QDQBertForSequenceClassification)
    optimizer = qdqbert.optim.AdamW(model.parameter_groups(weight_decay=0.01), lr=1e-3)
    scheduler = qdqbert.optim.get_scheduler("linear", optimizer, 0, 3)
    loss = model([[5, 6, 7]], labels=[1]).loss
    assert_type(loss, qdqbert.Loss | None)
    assert loss is not None
    loss.backward()
    assert_type(loss.item(), float)
    assert_type(qdqbert.optim.clip_grad_norm_(model, 1.0), float)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    assert_type(scheduler.get_last_lr(), list[float])
    hidden = model.bert([[5, 6, 7]]).last_hidden_state
    inputs = model.bert.backward(hidden, wants_inputs=True)
    assert inputs.inputs_embeds is not None
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape

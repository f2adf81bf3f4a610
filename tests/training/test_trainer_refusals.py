# SPDX-License-Identifier: Apache-2.0
"""What a trainer cannot do is refused by a sentence that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model


class PlainLoss(qdqbert.Trainer):
    """Takes the way back away."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        return np.sqrt(super().compute_loss(model, inputs))


def items() -> list[dict[str, Any]]:
    return [
        {"input_ids": [5, 6, 7], "start_positions": 0, "end_positions": 1},
        {"input_ids": [8, 9, 7], "start_positions": 2, "end_positions": 2},
    ]


def trainer(folder: Path, kind: Any = qdqbert.Trainer, **arguments: Any) -> Any:
    args = qdqbert.TrainingArguments(str(folder), max_steps=1, save_strategy="no", report_to="none")
    return kind(tiny_model.question_answering(), args, train_dataset=items(), **arguments)


def test_a_loss_without_a_way_back_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"compute_loss: expected a Loss.* got float32, which has no way back"
    ):
        trainer(tmp_path, PlainLoss).train()


@pytest.mark.parametrize("nothing", [[], iter(())])
def test_an_evaluation_of_nothing_is_refused(tmp_path: Path, nothing: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"eval_dataset|dataset"):
        trainer(tmp_path).evaluate(nothing)


def test_a_model_that_is_frozen_whole_is_named(tmp_path: Path) -> None:
    frozen = trainer(tmp_path)
    frozen.model.freeze("*")
    with pytest.raises(qdqbert.StateError, match=r"every parameter is frozen.*see model.unfreeze"):
        frozen.train()


def test_figures_that_are_no_dict_are_named(tmp_path: Path) -> None:
    made = trainer(tmp_path, compute_metrics=lambda prediction: 0.5)
    with pytest.raises(TypeError, match=r"compute_metrics: expected a dict of figures, got float"):
        made.evaluate(items())

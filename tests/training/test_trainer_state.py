# SPDX-License-Identifier: Apache-2.0
"""State, control and results of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqbert import CheckpointError, EvalPrediction, TrainerState

STATE = TrainerState(
    epoch=1.1 + 2.2,
    global_step=7,
    max_steps=9,
    log_history=[{"loss": 0.1 + 0.2, "step": 7}, {"eval_loss": float("nan"), "step": 7}],
    best_metric=1 / 3,
    best_model_checkpoint="out/checkpoint-7",
)


def test_a_file_gives_back_every_bit(tmp_path: Path) -> None:
    STATE.save_to_json(tmp_path / "state.json")
    read = TrainerState.load_from_json(tmp_path / "state.json")
    assert read.to_json_string() == STATE.to_json_string()
    assert (read.epoch, read.best_metric) == (STATE.epoch, STATE.best_metric)


def test_fields_of_later_releases_are_left_out(tmp_path: Path) -> None:
    later = {**json.loads(STATE.to_json_string()), "stateful_callbacks": {}}
    (tmp_path / "state.json").write_text(json.dumps(later))
    assert TrainerState.load_from_json(tmp_path / "state.json").global_step == 7


@pytest.mark.parametrize(
    "damage",
    ["", "[]", '{"global_step": -1}', '{"global_step": true}', '{"log_history": 3}', '{"log_history": [3]}'],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(damage)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        TrainerState.load_from_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state\.json: no such file"):
        TrainerState.load_from_json(tmp_path / "state.json")


@pytest.mark.parametrize("given", [(), (np.ones(3),)])
def test_predictions_unpack_as_what_is_there(given: Any) -> None:
    prediction = EvalPrediction(np.zeros(2), np.ones(2), *given)
    assert len(list(prediction)) == 2 + len(given)
    assert prediction[0] is prediction.predictions
    assert prediction[1] is prediction.label_ids

# SPDX-License-Identifier: Apache-2.0
"""States of optimizers as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqbert import CheckpointError
from qdqbert.serialization.safetensors_file import write_safetensors
from qdqbert.training.state_files import read_state, write_state

STATE = {
    "state": {
        "bert.encoder.layer.0.output.dense.weight": {
            "exp_avg": np.float32([[1e-45, -0.0], [np.inf, np.nan]])
        },
        "a/b": {"exp_avg": np.zeros((0, 3), np.float32), "step": 12},
    },
    "param_groups": [
        {"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "params": ["a/b"], "nesterov": False, "eps": None}
    ],
}


def test_a_file_gives_back_every_bit(tmp_path: Path) -> None:
    write_state(tmp_path / "state.safetensors", STATE)
    read = read_state(tmp_path / "state.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert read["state"][name]["exp_avg"].tobytes() == STATE["state"][name]["exp_avg"].tobytes()  # type: ignore[index]
    assert read["state"]["a/b"]["exp_avg"].shape == (0, 3)
    assert read["state"]["a/b"]["step"] == 12
    assert read["param_groups"] == [{**STATE["param_groups"][0], "betas": [0.9, 0.999]}]  # type: ignore[dict-item]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    write_state(tmp_path / "state", {"step": np.int64(3), "lr": np.float32(0.1)})
    assert read_state(tmp_path / "state") == {"step": 3, "lr": float(np.float32(0.1))}


@pytest.mark.parametrize("value", [np.zeros(3), {3: 4}, object(), {"x": [np.arange(2)]}])
def test_what_cannot_be_kept_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"^state/deep"):
        write_state(tmp_path / "state", {"deep": value})
    assert not list(tmp_path.iterdir())


def test_weights_of_a_model_are_no_state(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model", [("x", np.zeros(2, np.float32))], {"format": "pt"})
    with pytest.raises(CheckpointError, match="is no state of this trainer"):
        read_state(tmp_path / "model")


@pytest.mark.parametrize("text", ["", "{", '{"$tensor": "missing"}', "[" * 100_000])
def test_damaged_metadata_are_refused(tmp_path: Path, text: str) -> None:
    write_safetensors(tmp_path / "state", [], {"format": "qdqbert-state", "state": text})
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "state")

# SPDX-License-Identifier: Apache-2.0
"""Curves from logs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qdqbert import CheckpointError, TrainerState, UnsupportedError, plot_history
from qdqbert.training import read_history

ENTRIES = [
    {"loss": 2.0, "learning_rate": 1e-5, "step": 10},
    {"eval_loss": 1.5, "step": 10},
    {"loss": 1.0, "learning_rate": 5e-6, "step": 20},
]


class Axes:
    """Keeps what is drawn."""

    def __init__(self) -> None:
        self.lines: dict[str, Any] = {}

    def plot(self, x: Any, y: Any, **options: Any) -> None:
        self.lines[options["label"]] = (list(x), list(y), options)

    def set_xlabel(self, text: str) -> None:
        self.xlabel = text

    def legend(self) -> None:
        self.has_legend = True


@pytest.fixture
def run(tmp_path: Path) -> Path:
    TrainerState(log_history=ENTRIES).save_to_json(tmp_path / "trainer_state.json")
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in ENTRIES))
    return tmp_path


def test_a_history_is_read_from_whatever_has_one(run: Path) -> None:
    state = TrainerState(log_history=ENTRIES)
    sources = [ENTRIES, state, SimpleNamespace(state=state), run, str(run), run / "trainer_state.json"]
    for source in [*sources, run / "log.jsonl"]:
        assert read_history(source) == ENTRIES
    (run / "trainer_state.json").unlink()
    assert read_history(run) == ENTRIES


def test_a_torn_last_line_is_left_out(run: Path) -> None:
    text = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(text[:-9])
    assert read_history(run / "log.jsonl") == ENTRIES[:-1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.jsonl", '{"step": 1}\n{\n{"step": 2}\n', "line 2: is not valid JSON"),
        ("log.jsonl", "[3]\n", "line 1: expected an object"),
        ("state.json", "{}", "has no log_history"),
        ("state.json", '{"log_history": [3]}', "has no log_history"),
    ],
)
def test_a_damaged_log_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_history(tmp_path / name)


def test_what_has_no_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has neither trainer_state\.json nor log\.jsonl"):
        read_history(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_history(tmp_path / "missing.jsonl")
    for wrong in (3, [3], None):
        with pytest.raises(TypeError, match=r"^history: expected"):
            read_history(wrong)


def test_each_figure_is_a_line_over_the_steps() -> None:
    axes = Axes()
    assert plot_history(ENTRIES, ax=axes) is axes
    assert {name: line[:2] for name, line in axes.lines.items()} == {
        "loss": ([10, 20], [2.0, 1.0]),
        "eval_loss": ([10], [1.5]),
    }
    assert axes.xlabel == "step"
    assert axes.has_legend


def test_options_go_to_the_line() -> None:
    axes = Axes()
    plot_history(ENTRIES, "learning_rate", ax=axes, color="red", marker="x")
    assert axes.lines["learning_rate"][2] == {"label": "learning_rate", "color": "red", "marker": "x"}


def test_figures_that_nobody_logged_are_named() -> None:
    with pytest.raises(ValueError, match="the log has none of f1; it has eval_loss, learning_rate, loss"):
        plot_history(ENTRIES, ["f1"], ax=Axes())


def test_a_missing_matplotlib_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'qdqbert\[plot\]'"):
        plot_history(ENTRIES)


@pytest.mark.witness
def test_matplotlib_draws_it() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    axes = plot_history(ENTRIES)
    assert [line.get_label() for line in axes.get_lines()] == ["loss", "eval_loss"]

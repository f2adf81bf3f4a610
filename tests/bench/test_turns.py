# SPDX-License-Identifier: Apache-2.0
"""Turns, workers and their statistics; nothing here is about how fast anything is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_workers import start_adding, start_missing

from qdqbert.bench.turns import Missing, Worker, interleave, paired_ratio, quantile, summary

pytestmark = pytest.mark.uninstrumented


@pytest.mark.parametrize("count", [1, 2, 7, 10])
def test_quantiles_are_numpys(count: int) -> None:
    values = sorted(np.random.default_rng(count).random(count).tolist())
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q), rel=1e-15)


def test_a_summary_has_the_statistics_of_its_values() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"n": 3, "min": 1.0, "p50": 2.0, "p90": 2.8, "max": 3.0, "mean": 2.0}


def test_ratios_are_paired_by_round_so_that_drift_does_not_count() -> None:
    ours = [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]  # the machine slows down
    theirs = [[3.0, 3.0], [6.0, 6.0], [12.0, 12.0]]
    ratio = paired_ratio(theirs, ours)
    assert ratio["p50"] == ratio["p10"] == ratio["p90"] == ratio["min"] == 3.0


class Recorded:
    """A worker that writes down who was asked."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def ask(self, *command: Any) -> Any:
        assert command == ("time", 0.5, False)
        self.log.append(self.name)
        return {"times": [float(len(self.log))], "cpu_per_wall": 1.0}


def test_turns_go_round_and_back_with_the_roof_before_each_round() -> None:
    log: list[str] = []
    workers: Any = [Recorded(name, log) for name in "abc"]
    turns = interleave(
        workers, rounds=3, turn_s=0.5, warm=False, roof=lambda: log.append("roof") or len(log), progress=False
    )
    assert "".join(each[0] for each in log) == "rabcrcbarabc"
    assert turns["roof"] == [1, 5, 9]
    assert turns["times"]["b"] == [[3.0], [7.0], [11.0]]
    assert turns["cpu"] == {"a": 1.0, "b": 1.0, "c": 1.0}


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_lives_in_a_process_of_its_own_that_sleeps_outside_its_turn() -> None:
    with Worker("adding", start_adding, {"term": 5}, threads=3) as worker:
        pid = worker.facts["pid"]
        assert (worker.facts["omp"], pid != os.getpid()) == ("3", True)
        assert worker.ask("prepare", 37) == pid
        assert worker.ask("output") == 42
        answer = worker.ask("time", 0.0, True)
        assert len(answer["times"]) == 1
        while state_of(pid) == "R":  # a signal takes effect when the scheduler comes by
            pass
        assert state_of(pid) in "Tt"
        worker.ask("prepare", -1)
        with pytest.raises(RuntimeError, match="below zero"):
            worker.ask("output")
        worker.ask("prepare", 0)
        assert worker.ask("output") == 5
    assert not Path(f"/proc/{pid}").exists()


def test_a_peer_that_is_missing_says_what_to_install() -> None:
    with pytest.raises(Missing, match="pip install nobody"):
        Worker("missing", start_missing, {})

# SPDX-License-Identifier: Apache-2.0
"""``qdqbert bench``: its arguments and its tables; tests/bench runs the comparison itself."""

from __future__ import annotations

import importlib.util
import json

import pytest

pytestmark = pytest.mark.uninstrumented

SECONDS = {"n": 3, "min": 0.0123, "p50": 0.0234, "p90": 0.345, "max": 0.4, "mean": 0.1}
RATIO = {"p50": 1.5, "p10": 1.25, "p90": 1.75, "min": 1.4}


def system(operands, codes, **more):
    return {
        "operands": operands,
        "codes": codes,
        "seconds": SECONDS,
        "share_of_roof": 0.875,
        "error": 0.012,
        "cpu_per_wall": 1.96,
        "facts": {},
        **more,
    }


@pytest.fixture
def asked(monkeypatch):
    """What `compare` was asked; it answers at once."""
    calls = []

    def compare(source, settings, say):
        calls.append(settings)
        row = {
            "batch": "2x8",
            "sequences": 2,
            "tokens": 16,
            "threads": 1,
            "operations": 2.5e9,
            "roof": {"qs8": 203e9, "f32": 102e9},
            "systems": {
                "qdqbert": system("qs8", "8 bit, exact"),
                "peer": system("qs8", "7 bit", time_over_ours=RATIO, seconds={**SECONDS, "min": 0.011}),
            },
        }
        machine = {
            "cpu": {"model": "CPU", "usable_cpus": 2, "flags": ["avx2"]},
            "memory_gib": 24.0,
            "system": "Linux",
            "python": "3.11",
            "packages": {"qdqbert": "0.1.0"},
            "load_1min": 3.0,
        }
        return {"machine": machine, "model": {"calibrated_here": False}, "rows": [row]}

    monkeypatch.setattr("qdqbert.bench.compare", compare)
    return calls


def test_bench_compares_every_batch_with_every_number_of_threads(qdqbert, asked):
    words = ("--batch", 1, 8, "--seq-len", 128, 384, "--varied", 4, "--threads", 1, 2, "--rounds", 5)
    assert qdqbert("bench", "DIR", *words).status == 0

    [settings] = asked
    names = [batch.name for batch in settings.batches]
    assert names == ["1x128", "1x384", "8x128", "8x384", "4 varied"]
    assert (settings.threads, settings.rounds, settings.against) == ((1, 2), 5, ())


def test_bench_shows_who_is_faster_than_we_are_first(qdqbert, asked):
    lines = qdqbert("bench", "DIR").out.splitlines()

    assert "2x8, 1 thread: 16 tokens, 2.5 G operations; peak loop 203 GOP/s int8, 102 GF/s float" in lines
    rows = [line.split() for line in lines if line.startswith(("peer ", "qdqbert  "))]
    assert [row[0] for row in rows] == ["peer", "qdqbert"]
    assert rows[0][3:] == ["11.0", "23.4", "345", "88", "%", "1.50", "(1.25-1.75)", "1.40", "1.2e-02", "1.96"]
    assert any("others were running (load 3.00)" in line for line in lines)


def test_bench_writes_the_raw_numbers(qdqbert, asked, tmp_path):
    path = tmp_path / "result.json"
    outcome = qdqbert("bench", "DIR", "--json", path)

    assert "peak loop" in outcome.out
    assert json.loads(path.read_text())["rows"][0]["systems"]["peer"]["time_over_ours"] == RATIO
    assert qdqbert("bench", "DIR", "--json").data["rows"][0]["roof"]["qs8"] == 203e9


def test_bench_names_the_extra_of_a_peer_that_is_missing(qdqbert, quantized, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    outcome = qdqbert("bench", quantized, "--against", "openvino", "--json")

    assert outcome.status == 3
    assert "pip install 'qdqbert[bench]'" in outcome.data["error"]["message"]


@pytest.mark.parametrize(
    "words",
    [("--batch", 0), ("--rounds", 0), ("--turn", 0), ("--turn", "inf"), ("--turn", "nan"), ("--threads", 0)],
)
def test_bench_refuses_numbers_that_cannot_be(qdqbert, words):
    assert qdqbert("bench", "DIR", *words).status == 2

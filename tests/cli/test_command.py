# SPDX-License-Identifier: Apache-2.0
"""Exit statuses, error sentences, JSON: what scripts rely on."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from qdqbert import BackendError, CheckpointError, StateError
from qdqbert.cli.report import Report

VERBS = (
    "info",
    "calibrate",
    "quantize",
    "eval",
    "export",
    "onnx-check",
    "doctor",
    "demo",
    "explain",
    "bench",
)


def failing(monkeypatch, error):
    """Make `doctor`, which needs no arguments, raise."""

    def run(arguments):
        raise error

    monkeypatch.setattr(importlib.import_module("qdqbert.cli.doctor"), "run", run)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (CheckpointError("x: no config.json"), 3, "x: no config.json"),
        (ValueError("two\n  lines"), 3, "two lines"),
        (FileNotFoundError(2, "No such file or directory", "f.json"), 3, "f.json: No such file or directory"),
        (StateError("busy"), 1, "busy"),
        (BackendError("no thread"), 1, "no thread"),
        (OSError(28, "No space left on device", "out"), 1, "out: No space left on device"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero (a defect; --debug"),
    ],
)
def test_error_is_one_sentence_and_a_status(qdqbert, monkeypatch, error, status, sentence):
    failing(monkeypatch, error)

    outcome = qdqbert("doctor")

    assert outcome.status == status
    assert outcome.out == ""
    assert outcome.err.startswith(f"qdqbert doctor: {sentence}")
    assert outcome.err.count("\n") == 1


def test_error_as_json_keeps_stdout_parsable(qdqbert, monkeypatch):
    failing(monkeypatch, CheckpointError("x: no config.json"))

    outcome = qdqbert("doctor", "--json")

    assert outcome.status == 3
    assert outcome.data["error"] == {"type": "CheckpointError", "message": "x: no config.json"}
    assert outcome.data["status"] == 3


def test_debug_shows_the_traceback(monkeypatch, qdqbert):
    failing(monkeypatch, CheckpointError("x"))

    with pytest.raises(CheckpointError):
        qdqbert("doctor", "--debug")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("info",),
        ("info", "a", "b"),
        ("eval", "DIR"),
        ("info", "DIR", "--jso"),
        ("demo", "--model", "DIR"),
        ("demo", "--limit", "0"),
        ("demo", "--methods", "median"),
        ("demo", "--methods", "percentile-101"),
        ("demo", "--max-length", "999"),
    ],
)
def test_wrong_arguments_are_status_2(qdqbert, words):
    outcome = qdqbert(*words)

    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_json_and_debug(qdqbert, verb):
    outcome = qdqbert(verb, "--help")

    assert outcome.status == 0
    assert "--json" in outcome.out
    assert "--debug" in outcome.out


def test_help_lists_verbs_and_exit_statuses(qdqbert):
    outcome = qdqbert("--help")

    assert outcome.status == 0
    for word in (*VERBS, "130", "NO_COLOR"):
        assert word in outcome.out


def test_result_as_json_names_command_version_and_status(qdqbert, monkeypatch):
    module = importlib.import_module("qdqbert.cli.doctor")
    monkeypatch.setattr(module, "run", lambda arguments: Report({"answer": "é"}, ["text"], 4))

    assert qdqbert("doctor").out == "text\n"
    outcome = qdqbert("doctor", "--json")

    assert outcome.status == 4
    assert list(outcome.data) == ["command", "version", "status", "answer"]
    assert outcome.data["answer"] == "é"


@pytest.mark.uninstrumented  # starts processes
def test_module_and_closed_pipe():
    program = "import sys; from qdqbert.cli import main; sys.exit(main(['doctor', '--json']))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=120)

    assert process.returncode == 141
    assert err == ""
    version = subprocess.run(
        [sys.executable, "-m", "qdqbert", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("qdqbert ")


def test_help_imports_neither_the_extension_nor_third_parties():
    program = (
        "import sys; from qdqbert.cli import main; main(['--help']); "
        "print([n for n in ('qdqbert._core', 'tokenizers', 'tqdm') if n in sys.modules], file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert process.stderr.strip() == "[]"


def test_colours_need_a_terminal_and_no_color(monkeypatch):
    from qdqbert.cli.report import emphasize

    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert emphasize("x", Terminal()) == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert emphasize("x", Terminal()) == "x"
    monkeypatch.setenv("NO_COLOR", "")
    assert emphasize("x") == "x"  # not a terminal under pytest


def test_table_aligns_wide_and_combining_letters():
    from qdqbert.text_table import format_table

    lines = format_table(["a", "n"], [["東京", "1"], ["e\u0301", "10"]])

    assert lines == ["a      n", "----  --", "東京   1", "e\u0301     10"]


def test_sizes_have_three_digits():
    from qdqbert.text_table import format_bytes

    sizes = [0, 999, 1000, 45_144_116, 1.2e9, 3e12]
    assert [format_bytes(s) for s in sizes] == ["0 B", "999 B", "1 kB", "45.1 MB", "1.2 GB", "3000 GB"]


def test_json_output_is_one_object(qdqbert, topics):
    outcome = qdqbert("info", topics, "--json")

    assert json.loads(outcome.out)["command"] == "info"

# SPDX-License-Identifier: Apache-2.0
"""What README claims and can be looked up: tests that hold a mended bug, files, public names."""

from __future__ import annotations

import importlib
import json
import re

import pytest

import qdqbert
from qdqbert.tasks.table import TASKS
from test_layout import ROOT

README = (ROOT / "README.md").read_text()
# `test_x.py::test_y` of the toolkit's table is below tests/api, as its caption says
CITED = re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py::\w+)`(?:, `(::\w+)`)?", README)


def cited_tests() -> list[str]:
    names = []
    for first, second in CITED:
        path = first if first.startswith("tests/") else f"tests/api/{first}"
        names.append(path)
        if second:
            names.append(path.split("::")[0] + second)
    return names


def test_there_are_tables_of_mended_bugs() -> None:
    assert len(cited_tests()) >= 35


@pytest.mark.parametrize("name", cited_tests())
def test_a_cited_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert (ROOT / path).is_file()
    assert re.search(rf"^def {function}\(", (ROOT / path).read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`?((?:benchmarks|csrc|python|tests)/[\w./-]+\w)", README)))
)
def test_a_named_file_exists(path: str) -> None:
    assert (ROOT / path.split("::")[0]).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(QDQBert\w+|Auto[A-Z]\w+|pipeline)`", README))))
def test_a_public_name_can_be_imported(name: str) -> None:
    assert hasattr(qdqbert, name)


def test_every_task_of_the_command_line_is_named() -> None:
    listed = re.search(r"^Tasks: (.*?);", README, flags=re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert re.findall(r"`([\w-]+)`", listed[1]) == [entry.name for entry in TASKS]


def test_the_table_of_int8_is_made_of_its_result_file(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ROOT / "benchmarks" / "results" / "int8.json"
    if not result.exists():
        pytest.skip(f"no {result.name}: not measured yet, or a source distribution, which has no results")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "models"))
    bench_int8 = importlib.import_module("bench_int8")
    begin, end = bench_int8.MARKS
    shown = README.partition(begin)[2].partition(end)[0].strip()
    assert shown == bench_int8.table_of(json.loads(result.read_text()))

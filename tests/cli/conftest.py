# SPDX-License-Identifier: Apache-2.0
"""Running the command in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qdqbert.cli import main
from qdqbert.cli.demo import bundled_folder


@dataclass
class Outcome:
    """What a call of the command left behind."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The JSON on stdout."""
        content: dict[str, Any] = json.loads(self.out)
        return content


@pytest.fixture
def qdqbert(capfd, monkeypatch) -> Callable[..., Outcome]:
    """Call the command with words; paths are allowed."""
    monkeypatch.delenv("QDQBERT_DATA", raising=False)

    def call(*words: object) -> Outcome:
        capfd.readouterr()
        status = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return call


@pytest.fixture
def topics() -> Path:
    """The bundled classifier."""
    return bundled_folder()


@pytest.fixture(scope="session")
def quantized(tmp_path_factory) -> Path:
    """The bundled classifier, calibrated and saved by the command itself."""
    folder = tmp_path_factory.mktemp("quantized") / "model"
    data = bundled_folder() / "calibration.tsv"
    words = ["calibrate", bundled_folder(), "--data", data, "--samples", "16", "--output", folder]
    assert main([str(word) for word in words]) == 0
    return folder

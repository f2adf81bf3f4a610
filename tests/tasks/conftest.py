# SPDX-License-Identifier: Apache-2.0
"""The bundled tokenizer, and stand-ins for models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from constructed_models import write_tokenizer
from qdqbert.cli.demo import bundled_folder
from qdqbert.tokenization import load_tokenizer

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Tokenizer of the bundled classifier: 4,000 uncased wordpieces."""
    return load_tokenizer(bundled_folder())


class RecordingModel:
    """Gives every token logits that depend on its id and position only, and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, np.ndarray]] = []

    def __call__(self, **inputs: np.ndarray) -> SimpleNamespace:
        self.calls.append(inputs)
        ids = inputs["input_ids"]
        position = np.arange(ids.shape[1])
        start = ((ids * 7 + position * 3) % 23).astype(np.float32)
        end = ((ids * 5 + position * 11) % 19).astype(np.float32)
        # A model's values at padding are arbitrary; they must never matter.
        noise = np.where(inputs["attention_mask"] == 1, 0, 1e6).astype(np.float32)
        classes = np.stack([ids[:, 1] % 3 == c for c in range(3)], axis=1).astype(np.float32)
        return SimpleNamespace(start_logits=start + noise, end_logits=end + noise, logits=classes)


@pytest.fixture
def model() -> RecordingModel:
    """Stand-in with the call signature of a model."""
    return RecordingModel()


@pytest.fixture
def cases() -> Path:
    """Hand-made SQuAD v2.0 file: two paragraphs, five questions, accents, quotes, odd spaces."""
    return HERE / "squad_cases.json"


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Any:
    """Tokenizer of the hand-made models in `constructed_models`."""
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("words")))


@pytest.fixture
def write(tmp_path):
    """Write a file of the test's folder and give its path."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return put

# SPDX-License-Identifier: Apache-2.0
"""The bundled tokenizer, configurations, and files of the test's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qdqbert import BertTokenizerFast
from qdqbert.cli.demo import bundled_folder


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizerFast:
    """Tokenizer of the bundled classifier: 4,000 uncased wordpieces."""
    return BertTokenizerFast.from_pretrained(bundled_folder())


@pytest.fixture
def config():
    """Make configurations: ``config("yes", "no")`` names classes, ``config()`` has two placeholders."""

    def make(*names: str, **fields: Any) -> SimpleNamespace:
        id2label = dict(enumerate(names or ("LABEL_0", "LABEL_1")))
        known = {"max_position_embeddings": 512, "problem_type": None, "is_decoder": False}
        return SimpleNamespace(**{**known, "id2label": id2label, "num_labels": len(id2label), **fields})

    return make


@pytest.fixture
def write(tmp_path):
    """Write a file of the test's folder and give its path."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return put

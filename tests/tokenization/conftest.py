# SPDX-License-Identifier: Apache-2.0
"""The bundled tokenizer, and texts that are hard on one."""

from __future__ import annotations

import pytest

from qdqbert.cli.demo import bundled_folder
from qdqbert.tokenization import BertTokenizerFast


@pytest.fixture
def tokenizer() -> BertTokenizerFast:
    """Tokenizer of the bundled classifier: 4,000 uncased wordpieces, at most 64 tokens; a fresh one."""
    return BertTokenizerFast.from_pretrained(bundled_folder())

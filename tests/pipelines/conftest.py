# SPDX-License-Identifier: Apache-2.0
"""Small random models with the bundled vocabulary, and a way to put logits in a model's mouth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qdqbert
from qdqbert.cli.demo import bundled_folder
from qdqbert.tokenization import BertTokenizerFast

FIELDS: dict[str, Any] = {
    "vocab_size": 4000,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


@pytest.fixture
def tokenizer() -> BertTokenizerFast:
    """Tokenizer of the bundled classifier; a fresh one."""
    return BertTokenizerFast.from_pretrained(bundled_folder())


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """Make a random model of a class, with its quantizers off."""

    def make(name: str, **fields: Any) -> Any:
        model = getattr(qdqbert, name)(qdqbert.QDQBertConfig(**{**FIELDS, **fields}), seed=4)
        qdqbert.quantizers(model, {"*": "off"})
        return model

    return make


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a pipeline take these arrays, one for each row in order, for what its model computed."""

    def replace(pipe: Any, *taken: Any) -> None:
        def compute(rows: Any, batch_size: int | None, options: Any) -> list[Any]:
            assert len(rows) == len(taken)
            return [np.asarray(each, dtype=np.float32) for each in taken]

        monkeypatch.setattr(pipe, "_compute", compute)

    return replace

# SPDX-License-Identifier: Apache-2.0
"""A model small enough for every test, with weights far from zero so that nothing cancels."""

from __future__ import annotations

from typing import Any

import numpy as np

import qdqbert
from qdqbert import QDQBertConfig

FIELDS: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 37,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def config(**changes: Any) -> QDQBertConfig:
    """Configuration of the tiny model."""
    return QDQBertConfig(**{**FIELDS, **changes})


def question_answering(seed: int = 0, **changes: Any) -> Any:
    """A fresh tiny model for question answering."""
    return qdqbert.QDQBertForQuestionAnswering(config(**changes), seed=seed)


def batch(rows: int = 3, length: int = 11, seed: int = 0) -> dict[str, np.ndarray]:
    """Ids, right-padded mask and token types; row i has length - 2 i tokens."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < (length - 2 * np.arange(rows))[:, None]).astype(np.int64)
    return {
        "input_ids": rng.integers(3, FIELDS["vocab_size"], (rows, length)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (rows, length)),
    }

# SPDX-License-Identifier: Apache-2.0
"""Small calibrated models of every class, of sizes that divide nothing, and what goes into them."""

from __future__ import annotations

from typing import Any

import numpy as np

import qdqbert
import tiny_model

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 20,
    "num_attention_heads": 5,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "max_position_embeddings": 23,
}
DECODER = {"is_decoder": True, "use_cache": True}
CROSS = {**DECODER, "add_cross_attention": True}
CLASSES = {
    "base": ("QDQBertModel", {}, {}),
    "base without pooler": ("QDQBertModel", {"add_pooling_layer": False}, {}),
    "masked": ("QDQBertForMaskedLM", {}, {}),
    "masked untied": ("QDQBertForMaskedLM", {}, {"tie_word_embeddings": False}),
    "causal": ("QDQBertLMHeadModel", {}, DECODER),
    "next sentence": ("QDQBertForNextSentencePrediction", {}, {}),
    "sequence": ("QDQBertForSequenceClassification", {}, {"num_labels": 3}),
    "choice": ("QDQBertForMultipleChoice", {}, {}),
    "token": ("QDQBertForTokenClassification", {}, {"num_labels": 5}),
    "question": ("QDQBertForQuestionAnswering", {}, {}),
    "decoder": ("QDQBertModel", {}, DECODER),
    "cross": ("QDQBertLMHeadModel", {}, CROSS),
}

# Of models with which `batch` meets no quotient near a tie; test_export.py looks.
SEEDS = {**dict.fromkeys(CLASSES, 14), "choice": 39}


def batch(kind: str, rows: int | None = None, length: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """Arguments of a model of `CLASSES`; three choices of an example, an encoder of 5 states."""
    rng = np.random.default_rng(seed)
    rows = (2 if kind == "choice" else 3) if rows is None else rows
    count = rows * 3 if kind == "choice" else rows
    ends = length - np.arange(count) % 4
    made = {
        "input_ids": rng.integers(3, SIZES["vocab_size"], (count, length)),
        "attention_mask": (np.arange(length) < ends[:, None]).astype(np.int64),
        "token_type_ids": rng.integers(0, 2, (count, length)),
    }
    if kind == "choice":
        made = {name: value.reshape(rows, 3, length) for name, value in made.items()}
    if kind == "cross":
        made["encoder_hidden_states"] = rng.standard_normal((rows, 5, SIZES["hidden_size"]), np.float32)
        made["encoder_attention_mask"] = (np.arange(5) < [[5], [3], [4]][:rows]).astype(np.int64)
    return made


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A fresh model of `CLASSES` that computes padding, as graphs do."""
    name, arguments, fields = CLASSES[kind]
    model = getattr(qdqbert, name)(
        tiny_model.config(**{**SIZES, **fields, **changes}), seed=seed, **arguments
    )
    rng = np.random.default_rng(seed)
    # Biases and gains of their own, so that a missing or exchanged one shows.
    state = {
        key: value + rng.normal(0, 0.2, value.shape).astype(np.float32) if value.ndim == 1 else value
        for key, value in model.named_parameters()
    }
    model.load_state_dict(state, strict=False)
    model.padding = "compute"
    return model.eval()


def calibrated(kind: str, seed: int | None = None, method: str = "max", **changes: Any) -> Any:
    """The same with the ranges of two batches."""
    model = build(kind, SEEDS[kind] if seed is None else seed, **changes)
    qdqbert.calibrate(model, [batch(kind, 3, seed=1000 + i) for i in range(2)], method=method)
    return model


def outputs_of(kind: str, model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model gives, under the names of the graph's outputs."""
    output = model(**inputs, use_cache=False) if kind in ("causal", "decoder", "cross") else model(**inputs)
    if kind == "question":
        return {"output_start_logits": output.start_logits, "output_end_logits": output.end_logits}
    return {name: np.asarray(value) for name, value in output.items() if value is not None}

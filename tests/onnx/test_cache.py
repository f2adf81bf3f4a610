# SPDX-License-Identifier: Apache-2.0
"""Decoders whose keys and values of earlier tokens are inputs and outputs of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import CLASSES, batch, calibrated
from ties import MARGIN, ROUNDING, quantized_inputs, tie_margin

from graph_runs import check, evaluate, exported, runner
from qdqbert import UnsupportedError

DECODERS = ["causal", "decoder", "cross"]


def empty_cache(proto: onnx.ModelProto, rows: int) -> dict[str, np.ndarray]:
    """No earlier tokens."""
    shapes = {
        each.name: [d.dim_value for d in each.type.tensor_type.shape.dim]
        for each in proto.graph.input
        if each.name.startswith("past_key_values.")
    }
    return {name: np.zeros((rows, s[1], 0, s[3]), np.float32) for name, s in shapes.items()}


def in_chunks(
    proto: onnx.ModelProto, run: Any, inputs: dict[str, np.ndarray], sizes: list[int]
) -> tuple[dict[str, np.ndarray], float]:
    """Outputs of all tokens together, the last cache, and the least distance from a tie."""
    rows, start, margin = len(inputs["input_ids"]), 0, 0.5
    cache, pieces = empty_cache(proto, rows), []
    for size in sizes:
        piece = slice(start, start + size)
        start += size
        fed = {
            **inputs,
            "input_ids": inputs["input_ids"][:, piece],
            "token_type_ids": inputs["token_type_ids"][:, piece],
            "attention_mask": inputs["attention_mask"][:, :start],
        }
        values = run(fed | cache)
        margin = min(margin, tie_margin(proto, values))
        pieces.append(values)
        cache = {name: values[name.replace("past_key_values", "present")] for name in cache}
    main = "logits" if "logits" in pieces[0] else "last_hidden_state"
    whole = {main: np.concatenate([each[main] for each in pieces], axis=1)}
    return whole | {
        name.replace("past_key_values", "present"): value for name, value in cache.items()
    }, margin


def of_model(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    output = model(**inputs, use_cache=True)
    main = "logits" if "logits" in output else "last_hidden_state"
    found = {main: output[main]}
    for layer, (key, value, *_) in enumerate(output.past_key_values):
        found |= {f"present.{layer}.key": key, f"present.{layer}.value": value}
    return found


@pytest.mark.parametrize("positions", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("sizes", [[5], [2, 3], [3, 1, 1]])
@pytest.mark.parametrize("kind", DECODERS)
def test_tokens_in_chunks_are_those_of_one_call(kind: str, sizes: list[int], positions: str) -> None:
    model = calibrated(kind, position_embedding_type=positions, num_hidden_layers=2)

    proto = exported(model, use_cache=True)

    check(proto)
    run = runner(proto, quantized_inputs(proto))
    for seed in range(60):
        inputs = batch(kind, 2, 5, seed=seed)
        values, margin = in_chunks(proto, run, inputs, sizes)
        if margin >= MARGIN:
            break
    assert margin >= MARGIN, "every batch meets a tie"
    expected = of_model(model, inputs)
    assert len(expected) == 5
    for name, value in expected.items():
        assert values[name].shape == value.shape, name
        np.testing.assert_allclose(values[name], value, rtol=0, atol=ROUNDING, err_msg=name)


@pytest.mark.parametrize("kind", DECODERS)
def test_names_of_the_cache_are_those_of_the_field(kind: str) -> None:
    proto = exported(calibrated(kind), use_cache=True)

    pairs = [f"{i}.{part}" for i in range(3) for part in ("key", "value")]
    inputs = {each.name: each for each in proto.graph.input}
    assert [name for name in inputs if "past" in name] == [f"past_key_values.{pair}" for pair in pairs]
    outputs = [each.name for each in proto.graph.output]
    assert [name for name in outputs if "present" in name] == [f"present.{pair}" for pair in pairs]
    mask = inputs["attention_mask"].type.tensor_type.shape.dim
    assert [each.dim_param for each in mask] == ["batch_size", "past_seq_len + seq_len"]


@pytest.mark.parametrize("kind", DECODERS)
def test_without_a_cache_there_is_none(kind: str) -> None:
    proto = exported(calibrated(kind))

    names = [each.name for each in [*proto.graph.input, *proto.graph.output]]
    assert not [name for name in names if "past" in name or "present" in name]


@pytest.mark.parametrize("kind", sorted(CLASSES.keys() - set(DECODERS)))
def test_an_encoder_keeps_none(kind: str) -> None:
    with pytest.raises(UnsupportedError, match=r"use_cache: config\.is_decoder is False"):
        exported(calibrated(kind), use_cache=True)


def test_a_head_that_returns_no_cache_takes_none() -> None:
    with pytest.raises(UnsupportedError, match="use_cache: QDQBertForMaskedLM returns no keys and values"):
        exported(calibrated("masked", is_decoder=True), use_cache=True)


def test_a_decoder_does_not_see_what_follows() -> None:
    model = calibrated("causal")
    proto = exported(model)
    inputs = batch("causal")
    changed = {**inputs, "input_ids": inputs["input_ids"].copy()}
    changed["input_ids"][:, 4:] = 3

    before, after = (evaluate(proto, each)["logits"] for each in (inputs, changed))

    assert np.array_equal(before[:, :4], after[:, :4])
    assert not np.array_equal(before[:, 4], after[:, 4])

# SPDX-License-Identifier: Apache-2.0
"""Whole models with their quantizers off against the formulas in NumPy's float64 (bert_reference.py).

Tolerance: the same formulas in float32 differ from float64 by the rounding of float32 alone, which says how
these numbers magnify a rounding.  Their sums and ours differ in order only.  A sum of n terms in one chain,
as ours are, collects n roundings of random signs, sqrt(n) u in the mean, and any other order one at least;
the longest sum has n = 37 terms, so ours may be off by sqrt(37) < 8 times as much.  The largest difference
that NumPy's float32 shows anywhere in a tensor, times 8, is what every element of it may have.  Slips are
far larger: the last test puts that to the proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from bert_reference import Reference, Results

import qdqbert
import tiny_model
from qdqbert import QDQBertLMHeadModel, QDQBertModel

POSITIONS = ["absolute", "relative_key", "relative_key_query"]
KINDS = ["encoder", "decoder", "cross"]
ROWS, LENGTH, MEMORY = 4, 13, 9
HIDDEN, HEADS, LAYERS, EPSILON = 24, 3, 2, 1e-12
MAGNIFICATION = 8
Array = np.ndarray


@dataclass
class Case:
    """A model and its two references."""

    model: Any
    truth: Reference
    rounded: Reference


def make(kind: str, positions: str, cls: type[Any] = QDQBertModel, **fields: Any) -> Case:
    fields.update(is_decoder=kind != "encoder", add_cross_attention=kind == "cross")
    config = tiny_model.config(position_embedding_type=positions, layer_norm_eps=EPSILON, **fields)
    model = cls(config, seed=4)
    qdqbert.quantizers(model, {"*": "off"})
    parameters = {name.removeprefix("bert."): value for name, value in model.state_dict().items()}
    rng = np.random.default_rng(5)  # biases and LayerNorms too, or nothing would notice their absence
    for name, value in parameters.items():
        if name.endswith((".bias", "LayerNorm.weight")) or "distance" in name:
            parameters[name] = (value + 0.3 * rng.standard_normal(value.shape)).astype(np.float32)
    if "cls.predictions.bias" in parameters:  # one tensor of two names
        parameters["cls.predictions.decoder.bias"] = parameters["cls.predictions.bias"]
    prefix = "" if cls is QDQBertModel else "bert."
    heads = ("cls.", "classifier.")
    model.load_state_dict({n if n.startswith(heads) else prefix + n: v for n, v in parameters.items()})
    settings = {"heads": HEADS, "epsilon": EPSILON, "positions": positions, "is_causal": kind != "encoder"}
    return Case(
        model,
        Reference(parameters, **settings, dtype=np.float64),
        Reference(parameters, **settings, dtype=np.float32),
    )


def inputs_of(kind: str, seed: int = 0) -> dict[str, Any]:
    """Token arguments, with padding on the right, on the left and in the middle."""
    rng = np.random.default_rng(seed)
    mask = np.ones((ROWS, LENGTH), np.int64)
    mask[1, 9:] = 0
    mask[2, :3] = 0
    mask[3, [0, 4, 5, 12]] = 0
    made: dict[str, Any] = {
        "ids": rng.integers(3, tiny_model.FIELDS["vocab_size"], (ROWS, LENGTH)),
        "mask": mask,
        "types": rng.integers(0, 2, (ROWS, LENGTH)),
    }
    if kind == "cross":
        made["encoder"] = rng.standard_normal((ROWS, MEMORY, HIDDEN)).astype(np.float32)
        made["encoder_mask"] = (np.arange(MEMORY) < MEMORY - 2 * np.arange(ROWS)[:, None]).astype(np.int64)
    return made


def call(model: Any, inputs: dict[str, Any], **flags: Any) -> Any:
    names = {
        "ids": "input_ids",
        "mask": "attention_mask",
        "types": "token_type_ids",
        "positions": "position_ids",
        "head_mask": "head_mask",
        "encoder": "encoder_hidden_states",
        "encoder_mask": "encoder_attention_mask",
    }
    arguments = {names[name]: value for name, value in inputs.items()}
    return model(**arguments, output_attentions=True, output_hidden_states=True, **flags)


def expect(name: str, got: Array, truth: Array, rounded: Array, where: Array | None = None) -> None:
    """Hold `got` to the tolerance; `where` are the rows that count, of its batch and token axes."""
    assert got.shape == truth.shape, name
    where = np.ones(truth.shape, bool) if where is None else np.broadcast_to(where, truth.shape)
    tolerance = MAGNIFICATION * np.abs(rounded - truth)[where].max()
    assert 0 < tolerance < 1e-3, (name, tolerance)  # float32's, and nothing grew out of bounds
    worst = np.abs(got - truth)[where].max()
    assert worst <= tolerance, f"{name}: off by {worst}, tolerance {tolerance}"


def expect_all(out: Any, truth: Results, rounded: Results, computed: Array, columns: Array) -> None:
    """Every output; `computed` (B, T) are the tokens that count, `columns` (B, S) the keys."""
    tokens, pairs, keys = computed[:, :, None], computed[:, None, :, None], columns[:, None, :, None]
    expect(
        "last_hidden_state", out.last_hidden_state, truth.last_hidden_state, rounded.last_hidden_state, tokens
    )
    for i in range(LAYERS + 1):
        expect(
            f"hidden_states/{i}",
            out.hidden_states[i],
            truth.hidden_states[i],
            rounded.hidden_states[i],
            tokens,
        )
    for i in range(LAYERS):
        expect(f"attentions/{i}", out.attentions[i], truth.attentions[i], rounded.attentions[i], pairs)
        if truth.cross_attentions:
            expect(
                f"cross_attentions/{i}",
                out.cross_attentions[i],
                truth.cross_attentions[i],
                rounded.cross_attentions[i],
                pairs,
            )
        if out.past_key_values is not None:
            expect(f"keys/{i}", out.past_key_values[i][0], truth.keys[i], rounded.keys[i], keys)
            expect(f"values/{i}", out.past_key_values[i][1], truth.values[i], rounded.values[i], keys)


# ---- whole models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["skip", "compute"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_output_is_the_formulas(kind: str, positions: str, padding: str) -> None:
    case = make(kind, positions)
    inputs = inputs_of(kind)
    if padding == "skip":  # a pooled first token must be computed
        inputs["mask"][2:, 0] = 1
    truth, rounded = case.truth(**inputs), case.rounded(**inputs)
    case.model.padding = padding

    out = call(case.model, inputs)

    computed = inputs["mask"] != 0 if padding == "skip" else np.ones((ROWS, LENGTH), bool)
    expect_all(out, truth, rounded, computed, computed)
    assert truth.pooler_output is not None
    assert rounded.pooler_output is not None
    expect("pooler_output", out.pooler_output, truth.pooler_output, rounded.pooler_output)
    assert not out.last_hidden_state[~computed].any()
    for attention in out.attentions:
        assert not attention.transpose(0, 2, 1, 3)[~computed].any()


@pytest.mark.parametrize("padding", ["skip", "compute"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_tokens_after_a_cache_are_the_formulas(kind: str, positions: str, padding: str) -> None:
    first, cut = 7, slice(7, None)
    case = make(kind, positions)
    inputs = inputs_of(kind)
    inputs["mask"][2:, 0] = 1
    shared = {name: value for name, value in inputs.items() if name.startswith("encoder")}
    start = {
        **shared,
        "ids": inputs["ids"][:, :first],
        "mask": inputs["mask"][:, :first],
        "types": inputs["types"][:, :first],
    }
    rest = {**shared, "ids": inputs["ids"][:, cut], "mask": inputs["mask"], "types": inputs["types"][:, cut]}
    truth = case.truth(**rest, earlier=case.truth(**start))
    rounded = case.rounded(**rest, earlier=case.rounded(**start))
    case.model.padding = padding

    past = call(case.model, start, use_cache=True).past_key_values
    out = call(case.model, rest, past_key_values=past, use_cache=True)

    computed = inputs["mask"] != 0 if padding == "skip" else np.ones((ROWS, LENGTH), bool)
    expect_all(out, truth, rounded, computed[:, cut], computed)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_rank_3_positions_and_head_masks_are_the_formulas(kind: str, positions: str) -> None:
    case = make(kind, positions)
    inputs = inputs_of(kind)
    rng = np.random.default_rng(6)
    inputs["mask"] = (rng.random((ROWS, LENGTH, LENGTH)) < 0.6).astype(np.int64)
    inputs["mask"][1, 5] = 0  # a token that sees nothing
    inputs["positions"] = rng.integers(0, tiny_model.FIELDS["max_position_embeddings"], (ROWS, LENGTH))
    inputs["head_mask"] = rng.uniform(0, 2, (LAYERS, HEADS)).astype(np.float32)
    if kind == "cross":
        inputs["encoder_mask"] = (rng.random((ROWS, LENGTH, MEMORY)) < 0.6).astype(np.int64)
    case.model.padding = "compute"

    out = call(case.model, inputs)

    everywhere = np.ones((ROWS, LENGTH), bool)
    expect_all(out, case.truth(**inputs), case.rounded(**inputs), everywhere, everywhere)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_language_models_score_with_the_formulas(kind: str, positions: str, tied: bool) -> None:
    case = make(kind, positions, QDQBertLMHeadModel, tie_word_embeddings=tied)
    inputs = inputs_of(kind)
    truth, rounded = case.truth(**inputs), case.rounded(**inputs)

    out = call(case.model, inputs)

    computed = inputs["mask"] != 0
    assert truth.logits is not None
    assert rounded.logits is not None
    expect("logits", out.logits, truth.logits, rounded.logits, computed[:, :, None])
    assert not out.logits[~computed].any()


# ---- the tolerance proves something -----------------------------------------------------------------


@pytest.mark.parametrize(
    "slip", ["positions", "causality", "padding", "types", "distance", "encoder padding", "heads", "past"]
)
def test_the_tolerance_is_far_below_any_slip(slip: str) -> None:
    case = make("cross", "relative_key_query" if slip == "distance" else "absolute")
    inputs = inputs_of("cross")
    inputs["mask"][2:, 0] = 1
    truth, rounded = case.truth(**inputs), case.rounded(**inputs)
    wrong = dict(inputs)
    if slip == "positions":
        wrong["positions"] = np.maximum(np.arange(LENGTH) - 1, 0)[None].repeat(ROWS, 0)
    elif slip == "causality":
        case.truth.is_causal = False
    elif slip == "padding":
        wrong["mask"] = np.ones_like(inputs["mask"])
    elif slip == "types":
        wrong["types"] = 1 - inputs["types"]
    elif slip == "distance":
        case.truth.positions = "relative_key"
    elif slip == "encoder padding":
        wrong["encoder_mask"] = None
    elif slip == "heads":
        case.truth.heads = 4
    else:  # the last two tokens without what stands before them
        wrong["mask"] = inputs["mask"] * (np.arange(LENGTH) >= LENGTH - 2)
    slipped = case.truth(**wrong).last_hidden_state

    where = inputs["mask"] != 0
    tolerance = MAGNIFICATION * np.abs(rounded.last_hidden_state - truth.last_hidden_state)[where].max()
    assert np.abs(slipped - truth.last_hidden_state)[where].max() > 100 * tolerance

# SPDX-License-Identifier: Apache-2.0
"""Gradients of whole models with their quantizers off, against finite differences of the formulas in float64.

For each parameter, each word vector and the encoder's states: the derivative of a weighted sum of the
outputs along a random direction, as a central difference of bert_reference.py in float64, against the inner
product of the gradient with that direction.

Tolerance.  The difference of step h is off by h^2 f'''/6 and by u |f| / h: with h = 1e-5, u = 1.1e-16 and
|f| below 1e3, both are below 1e-8 |f|.  What is left is the rounding of float32 in forward and backward,
which is relative to the gradient's norm: two roundings u = 6e-8 for each of some 40 operations on the way,
and chains of up to 52 terms, sqrt(52) u each, give 40 * 8 * 6e-8 = 2e-5 of it.  The gradient of a key's
bias is zero, as a sum of terms that cancel: a rounding u of terms as large as the largest gradient of the
model may be left of it.  Slips are far larger: the last test puts that to the proof.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bert_reference import Reference
from test_bert_reference import HEADS, HIDDEN, KINDS, LAYERS, LENGTH, MEMORY, POSITIONS, ROWS, inputs_of, make

from qdqbert import QDQBertLMHeadModel, QDQBertModel, _core

STEP = 1e-5
RTOL = 2e-5
UNIT = 6e-8
Array = np.ndarray


class Gradients:
    """Forward and backward of a case in the C core."""

    def __init__(
        self,
        case: Any,
        inputs: dict[str, Any],
        weights: dict[str, Array],
        *,
        padding: str,
        threads: int = 1,
        dropout: tuple[int, int, Array] | None = None,
        recomputes: bool = False,
    ) -> None:
        core = case.model._engine.core
        core.device.num_threads = threads
        encoder = inputs.get("encoder")
        session = _core.Session(
            core,
            max_sequences=ROWS,
            max_length=LENGTH,
            keep_probabilities="head_mask" in inputs,
            max_encoder_length=0 if encoder is None else MEMORY,
            trains=True,
            recomputes=recomputes,
        )
        core.zero_gradients()
        outputs = {
            "last_hidden_state": _core.OUTPUT_LAST_HIDDEN_STATE,
            "pooler_output": _core.OUTPUT_POOLER_OUTPUT,
            "logits": _core.OUTPUT_LOGITS,
        }
        session.forward(
            inputs["ids"],
            None,
            inputs["mask"],
            inputs["types"],
            inputs.get("positions"),
            inputs.get("head_mask"),
            padding == "compute",
            bool(case.model.config.is_decoder),
            None,
            None,
            encoder,
            inputs.get("encoder_mask"),
            None,
            None,
            sum(outputs[name] for name in weights if name in outputs),
            None,
            dropout,
        )
        given = (weights.get("last_hidden_state"), weights.get("pooler_output"), weights.get("logits"))
        hidden = [weights.get(f"hidden_states/{i}") for i in range(LAYERS + 1)]
        self.words, self.memory = session.backward(
            *given, True, encoder is not None, hidden if any(h is not None for h in hidden) else None
        )
        self.of = {
            name.removeprefix("bert."): np.array(core.gradient(i))
            for i, (name, _) in enumerate(core.parameters())
        }


def weights_of(case: Any, inputs: dict[str, Any], computed: Array, seed: int = 1) -> dict[str, Array]:
    """Of each output in the sum; nothing of tokens that are not computed."""
    rng = np.random.default_rng(seed)
    truth = case.truth(**inputs)
    weights = {}
    for name in ("last_hidden_state", "pooler_output", "logits"):
        value = getattr(truth, name)
        if value is not None and (name != "last_hidden_state" or truth.logits is None):
            weights[name] = rng.standard_normal(value.shape).astype(np.float32)
            if value.ndim == 3:
                weights[name] *= computed[:, :, None]
    return weights


def objective(reference: Reference, inputs: dict[str, Any], weights: dict[str, Array]) -> float:
    out = reference(**inputs)
    total = 0.0
    for name, weight in weights.items():
        field, _, index = name.partition("/")
        value = getattr(out, field)[int(index)] if index else getattr(out, field)
        total += float((value * weight.astype(np.float64)).sum())
    return total


def derivative(
    case: Any, inputs: dict[str, Any], weights: dict[str, Array], at: Array, direction: Array
) -> float:
    """Central difference of the objective; `at` is the array that is moved, in place."""
    before = at.copy()
    values = []
    for sign in (1.0, -1.0):
        at[...] = before + sign * STEP * direction
        values.append(objective(case.truth, inputs, weights))
    at[...] = before
    return (values[0] - values[1]) / (2 * STEP)


def expect(name: str, found: dict[str, Array], direction: Array, truth: float) -> None:
    got = float((found[name].astype(np.float64) * direction).sum())
    length = float(np.linalg.norm(direction))
    scale = float(np.linalg.norm(found[name])) * length
    floor = UNIT * max(float(np.abs(gradient).max()) for gradient in found.values()) * length
    assert abs(got - truth) <= RTOL * scale + floor, f"{name}: {got}, the formulas say {truth} (norm {scale})"


def check(
    case: Any,
    inputs: dict[str, Any],
    padding: str,
    dropout: tuple[int, int, Array] | None = None,
    weights: dict[str, Array] | None = None,
) -> Gradients:
    computed = inputs["mask"] != 0 if padding == "skip" else np.ones((ROWS, LENGTH), bool)
    weights = weights_of(case, inputs, computed) if weights is None else weights
    found = Gradients(case, inputs, weights, padding=padding, dropout=dropout)
    rng = np.random.default_rng(3)
    moved = 0
    for name, gradient in found.of.items():
        direction = rng.standard_normal(gradient.shape)
        expect(name, found.of, direction, derivative(case, inputs, weights, case.truth.of[name], direction))
        moved += bool(gradient.any())
    assert moved >= 16 * LAYERS
    if "encoder" in inputs:
        states = inputs["encoder"].astype(np.float64)
        direction = rng.standard_normal(states.shape)
        truth = derivative(case, inputs | {"encoder": states}, weights, states, direction)
        assert found.memory is not None
        expect("encoder", {"encoder": found.memory}, direction, truth)
    return found


@pytest.mark.parametrize("padding", ["skip", "compute"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_is_the_derivative_of_the_formulas(kind: str, positions: str, padding: str) -> None:
    case = make(kind, positions, QDQBertModel)
    inputs = inputs_of(kind)
    inputs["mask"][2:, 0] = 1  # a pooled first token must be computed
    check(case, inputs, padding)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_language_models_are_the_derivatives(kind: str, tied: bool) -> None:
    case = make(kind, "absolute", QDQBertLMHeadModel, tie_word_embeddings=tied)
    if tied:  # one tensor of two names
        del case.truth.of["cls.predictions.decoder.weight"]
    check(case, inputs_of(kind), "skip")


@pytest.mark.parametrize("positions", POSITIONS)
def test_head_masks_masks_of_rank_3_and_positions_have_their_gradients(positions: str) -> None:
    case = make("encoder", positions)
    rng = np.random.default_rng(8)
    inputs = inputs_of("encoder")
    inputs["mask"] = (rng.random((ROWS, LENGTH, LENGTH)) < 0.7).astype(np.int64)
    inputs["mask"][:, :, 0] = 1
    inputs["positions"] = np.arange(LENGTH)[None].repeat(ROWS, 0) + (2 if positions == "absolute" else 0)
    inputs["head_mask"] = rng.uniform(0, 2, LAYERS * HEADS).astype(np.float32)
    inputs["head_mask"][1] = 0.0
    found = Gradients(case, inputs, w := _weights_of_square(case, inputs), padding="compute")
    for_truth = inputs | {"head_mask": inputs["head_mask"].reshape(LAYERS, HEADS)}
    for name, gradient in found.of.items():
        direction = rng.standard_normal(gradient.shape)
        expect(name, found.of, direction, derivative(case, for_truth, w, case.truth.of[name], direction))


def _weights_of_square(case: Any, inputs: dict[str, Any]) -> dict[str, Array]:
    for_truth = inputs | {"head_mask": inputs["head_mask"].reshape(LAYERS, HEADS)}
    return weights_of(case, for_truth, np.ones((ROWS, LENGTH), bool))


def test_the_gradient_of_word_vectors_is_that_of_their_rows() -> None:
    case = make("encoder", "absolute")
    inputs = inputs_of("encoder")
    inputs["mask"][2:, 0] = 1
    found = check(case, inputs, "skip")
    table = np.zeros_like(found.of["embeddings.word_embeddings.weight"])
    assert found.words is not None
    np.add.at(table, inputs["ids"].reshape(-1), found.words.reshape(-1, HIDDEN))
    np.testing.assert_allclose(table, found.of["embeddings.word_embeddings.weight"], rtol=1e-5, atol=1e-5)
    assert not found.words[inputs["mask"] == 0].any()


def test_the_padding_token_gets_no_gradient_as_an_input() -> None:
    case = make("encoder", "absolute")
    inputs = inputs_of("encoder")
    inputs["mask"][:] = 1
    inputs["ids"][:, 4] = 0
    weights = weights_of(case, inputs, np.ones((ROWS, LENGTH), bool))
    found = Gradients(case, inputs, weights, padding="skip")
    table = found.of["embeddings.word_embeddings.weight"]
    assert not table[0].any()
    assert table[1:].any()
    assert found.words is not None
    assert found.words[:, 4].any()


@pytest.mark.parametrize("padding", ["skip", "compute"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_hidden_states_join_on_the_way(kind: str, padding: str) -> None:
    case = make(kind, "absolute")
    inputs = inputs_of(kind)
    inputs["mask"][2:, 0] = 1
    computed = inputs["mask"] != 0 if padding == "skip" else np.ones((ROWS, LENGTH), bool)
    weights = weights_of(case, inputs, computed)
    rng = np.random.default_rng(9)
    for i in (0, LAYERS):  # not the one between
        weights[f"hidden_states/{i}"] = rng.standard_normal((ROWS, LENGTH, HIDDEN)).astype(np.float32)
        weights[f"hidden_states/{i}"] *= computed[:, :, None]
    check(case, inputs, padding, weights=weights)
    check(case, inputs, padding, weights={"hidden_states/1": weights["hidden_states/0"]} | weights)


def test_gradients_of_hidden_states_are_checked() -> None:
    case = make("encoder", "absolute")
    inputs = inputs_of("encoder")
    inputs["mask"][:] = 1
    session = _core.Session(case.model._engine.core, max_sequences=ROWS, max_length=LENGTH, trains=True)
    session.forward(inputs["ids"], *(None,) * 5, False, False, *(None,) * 6, _core.OUTPUT_LAST_HIDDEN_STATE)
    good = np.zeros((ROWS, LENGTH, HIDDEN), np.float32)
    wrong: list[tuple[Any, type[Exception], str]] = [
        ([good] * LAYERS, ValueError, "d_hidden_states: expected an array or None for each of 3"),
        ([good, good[:, 1:].copy(), None], ValueError, "d_hidden_states: expected shape"),
        ([good, good.astype(np.float64), None], TypeError, "d_hidden_states"),
        (3, TypeError, "d_hidden_states: expected a sequence"),
    ]
    for given, error, message in wrong:
        with pytest.raises(error, match=message):
            session.backward(None, None, None, True, False, given)
    words, _ = session.backward(None, None, None, True, False, [None, None, None])
    assert words is not None
    assert not words.any()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_gives_the_same_bits(kind: str, positions: str) -> None:
    case = make(kind, positions)
    inputs = inputs_of(kind)
    inputs["mask"][2:, 0] = 1
    weights = weights_of(case, inputs, inputs["mask"] != 0)
    weights["hidden_states/1"] = weights["last_hidden_state"][::-1].copy()
    kept, again = (
        Gradients(case, inputs, weights, padding="skip", recomputes=recomputes)
        for recomputes in (False, True)
    )
    for name, gradient in kept.of.items():
        assert gradient.tobytes() == again.of[name].tobytes(), name
    assert kept.words is not None
    assert again.words is not None
    assert kept.words.tobytes() == again.words.tobytes()
    assert kept.memory is None or kept.memory.tobytes() == again.memory.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_do_not_depend_on_threads_and_add_up(kind: str) -> None:
    case = make(kind, "relative_key")
    inputs = inputs_of(kind)
    inputs["mask"][2:, 0] = 1
    weights = weights_of(case, inputs, inputs["mask"] != 0)
    one, three = (Gradients(case, inputs, weights, padding="skip", threads=n) for n in (1, 3))
    for name, gradient in one.of.items():
        assert gradient.tobytes() == three.of[name].tobytes(), name


@pytest.mark.parametrize("slip", ["a missing term", "a wrong scale"])
def test_the_tolerance_is_far_below_any_slip(slip: str) -> None:
    case = make("encoder", "absolute")
    inputs = inputs_of("encoder")
    inputs["mask"][2:, 0] = 1
    weights = weights_of(case, inputs, inputs["mask"] != 0)
    found = Gradients(case, inputs, weights, padding="skip")
    name = "encoder.layer.0.attention.self.query.weight"
    gradient = found.of[name]
    if slip == "a missing term":
        gradient[3, 4] = 0.0
        direction = np.zeros_like(gradient, dtype=np.float64)
        direction[3, 4] = 1.0
    else:
        gradient *= 1.001
        direction = gradient.astype(np.float64)
    truth = derivative(case, inputs, weights, case.truth.of[name], direction)
    with pytest.raises(AssertionError, match="the formulas say"):
        expect(name, found.of, direction, truth)

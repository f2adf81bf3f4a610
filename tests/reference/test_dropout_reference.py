# SPDX-License-Identifier: Apache-2.0
"""Dropout of whole models, their quantizers off, against the formulas in float64 with the same masks.

Outputs are held to the tolerance of test_bert_reference.py and gradients to that of
test_gradient_reference.py, to which dropout adds one rounding of 1 / (1 - p).  A mask that is one element
off, or sits one operation earlier or later, changes outputs by the size of the numbers themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dropout_reference import Dropout, philox
from test_bert_reference import HEADS, KINDS, LAYERS, LENGTH, MEMORY, POSITIONS, ROWS, inputs_of, make
from test_bert_reference import expect as expect_output
from test_gradient_reference import Gradients, check, derivative, expect, weights_of

from qdqbert import (
    QDQBertForSequenceClassification,
    QDQBertForTokenClassification,
    QDQBertLMHeadModel,
    QDQBertModel,
    _core,
)

NODES = 2 + 5 * LAYERS
SEED, STEP = 0xC0FFEE1234567890, (3 << 32) + 5
NAMES = ("last_hidden_state", "pooler_output", "logits", "hidden_states", "attentions", "cross_attentions")


def probabilities_of(kind: str, *, has_head: bool = False) -> np.ndarray:
    """One of its own for every dropout that the model has."""
    made = np.linspace(0.1, 0.45, NODES, dtype=np.float32)
    if kind != "cross":
        made[[3, 4, 8, 9]] = 0
    if not has_head:
        made[-1] = 0
    return made


def drop_out(case: Any, inputs: dict[str, Any], padding: str, probabilities: np.ndarray) -> Any:
    """Give the case's references their masks; returns what the core is given."""
    everything = np.ones((ROWS, LENGTH), bool)
    encoder = inputs.get("encoder_mask")
    if encoder is not None:
        encoder = encoder != 0 if padding == "skip" else np.ones((ROWS, MEMORY), bool)
    computed = inputs["mask"] != 0 if padding == "skip" else everything
    drop = Dropout(SEED, STEP, probabilities, computed, encoder)
    case.truth.drop = case.rounded.drop = drop
    return SEED, STEP, probabilities


def forward(case: Any, inputs: dict[str, Any], padding: str, dropout: Any, wanted: int) -> dict[str, Any]:
    encoder = inputs.get("encoder")
    session = _core.Session(
        case.model._engine.core,
        max_sequences=ROWS,
        max_length=LENGTH,
        keep_probabilities=True,
        max_encoder_length=0 if encoder is None else MEMORY,
        trains=True,
    )
    results = session.forward(
        inputs["ids"],
        None,
        inputs["mask"],
        inputs["types"],
        None,
        inputs.get("head_mask"),
        padding == "compute",
        bool(case.model.config.is_decoder),
        None,
        None,
        encoder,
        inputs.get("encoder_mask"),
        None,
        None,
        wanted,
        None,
        dropout,
    )
    return dict(zip(NAMES, results, strict=False))


def test_words_are_those_of_random123() -> None:
    ones = 0xFFFFFFFF
    assert philox((0, 0, 0, 0), (0, 0)).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox((ones,) * 4, (ones, ones)).tolist() == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize("padding", ["skip", "compute"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_output_is_the_formulas(kind: str, positions: str, padding: str) -> None:
    case = make(kind, positions, QDQBertModel)
    inputs = inputs_of(kind)
    inputs["mask"][2:, 0] = 1  # a pooled first token must be computed
    inputs["head_mask"] = np.linspace(0.5, 1.5, LAYERS * HEADS, dtype=np.float32)
    dropout = drop_out(case, inputs, padding, probabilities_of(kind))
    wanted = (
        _core.OUTPUT_LAST_HIDDEN_STATE
        | _core.OUTPUT_POOLER_OUTPUT
        | _core.OUTPUT_HIDDEN_STATES
        | _core.OUTPUT_ATTENTIONS
        | (_core.OUTPUT_CROSS_ATTENTIONS if kind == "cross" else 0)
    )

    out = forward(case, inputs, padding, dropout, wanted)

    for_truth = inputs | {"head_mask": inputs["head_mask"].reshape(LAYERS, HEADS)}
    truth, rounded = case.truth(**for_truth), case.rounded(**for_truth)
    computed = inputs["mask"] != 0 if padding == "skip" else np.ones((ROWS, LENGTH), bool)
    for name in NAMES:
        got, expected, inexact = out[name], getattr(truth, name), getattr(rounded, name)
        if not isinstance(expected, list):
            got, expected, inexact = (got,), (expected,), (inexact,)
        for i in range(len(expected)):
            if expected[i] is not None:
                assert got is not None
                where = {2: np.True_, 3: computed[:, :, None], 4: computed[:, None, :, None]}
                expect_output(f"{name}/{i}", got[i], expected[i], inexact[i], where[expected[i].ndim])
    assert (truth.attentions[0] == 0).mean() > 0.05


# With either padding in turn: without dropout test_gradient_reference.py has every combination.
@pytest.mark.uninstrumented  # NumPy takes the time; tests/c/test_session_dropout.c runs the same C
@pytest.mark.parametrize(
    ("kind", "positions", "padding"),
    [
        (kind, positions, ("skip", "compute")[(i + j) % 2])
        for i, kind in enumerate(KINDS)
        for j, positions in enumerate(POSITIONS)
    ],
)
def test_every_gradient_is_the_derivative_of_the_formulas(kind: str, positions: str, padding: str) -> None:
    case = make(kind, positions, QDQBertModel)
    inputs = inputs_of(kind)
    inputs["mask"][2:, 0] = 1
    check(case, inputs, padding, drop_out(case, inputs, padding, probabilities_of(kind)))


@pytest.mark.parametrize("cls", [QDQBertForSequenceClassification, QDQBertForTokenClassification])
def test_heads_drop_out_what_they_read(cls: Any) -> None:
    case = make("encoder", "absolute", cls, num_labels=5)
    inputs = inputs_of("encoder")
    inputs["mask"][2:, 0] = 1
    dropout = drop_out(case, inputs, "skip", probabilities_of("encoder", has_head=True))
    out = forward(case, inputs, "skip", dropout, _core.OUTPUT_LOGITS)
    truth, rounded = case.truth(**inputs), case.rounded(**inputs)
    assert truth.logits is not None
    assert rounded.logits is not None
    where = np.True_ if truth.logits.ndim == 2 else (inputs["mask"] != 0)[:, :, None]
    expect_output("logits", out["logits"], truth.logits, rounded.logits, where)
    check(case, inputs, "skip", dropout)


def test_language_models_drop_out_below_the_head() -> None:
    case = make("cross", "absolute", QDQBertLMHeadModel)
    del case.truth.of["cls.predictions.decoder.weight"]  # one tensor of two names
    inputs = inputs_of("cross")
    check(case, inputs, "skip", drop_out(case, inputs, "skip", probabilities_of("cross")))


def test_head_masks_act_on_what_was_kept() -> None:
    case = make("encoder", "relative_key")
    inputs = inputs_of("encoder")
    inputs["mask"][:] = 1
    inputs["head_mask"] = np.linspace(0.0, 2.0, LAYERS * HEADS, dtype=np.float32)
    dropout = drop_out(case, inputs, "compute", probabilities_of("encoder"))
    for_truth = inputs | {"head_mask": inputs["head_mask"].reshape(LAYERS, HEADS)}
    weights = weights_of(case, for_truth, np.ones((ROWS, LENGTH), bool))
    found = Gradients(case, inputs, weights, padding="compute", dropout=dropout)
    rng = np.random.default_rng(8)
    for name, gradient in found.of.items():
        direction = rng.standard_normal(gradient.shape)
        expect(
            name, found.of, direction, derivative(case, for_truth, weights, case.truth.of[name], direction)
        )


def test_quantizers_see_what_was_dropped_out() -> None:
    """The largest magnitudes of probabilities and of a dense output, as calibration sees them."""
    case = make("encoder", "absolute")
    inputs = inputs_of("encoder")
    inputs["mask"][:] = 1
    p = np.zeros(NODES, np.float32)
    p[1], p[2] = 0.5, 0.75
    dropout = drop_out(case, inputs, "skip", p)
    core = case.model._engine.core
    names = (
        "encoder.layer.0.attention.self.matmul_a_input_quantizer",
        "encoder.layer.0.attention.output.add_local_input_quantizer",
    )
    observers = {}
    for name, quantizer in core.quantizers():
        if name in names:
            observers[name] = _core.Observer(core.device, kind="max", axis=None)
            quantizer.set_observer(observers[name])
            quantizer.stages = _core.STAGE_CALIB
    out = forward(case, inputs, "skip", dropout, _core.OUTPUT_ATTENTIONS)
    assert observers[names[0]].amax() == out["attentions"][0].max()
    reference = case.truth
    seen: dict[int, float] = {}
    drop = reference.drop

    def watch(node: int, x: np.ndarray) -> np.ndarray:
        y = drop(node, x)
        seen[node] = float(np.abs(y).max())
        return y

    reference.drop = watch
    reference(**inputs)
    assert observers[names[1]].amax() == pytest.approx(seen[2], rel=1e-5)
    assert observers[names[0]].amax() == pytest.approx(seen[1], rel=1e-5)


def test_arguments_of_dropout_are_checked() -> None:
    case = make("encoder", "absolute")
    inputs = inputs_of("encoder")
    inputs["mask"][:] = 1
    p = np.zeros(NODES, np.float32)
    assert case.model._engine.core.dropout_count == NODES
    wrong: list[tuple[Any, type[Exception], str]] = [
        ([1, 2, p], TypeError, "dropout: expected a tuple"),
        ((1, 2), TypeError, "dropout: expected a tuple"),
        ((-1, 2, p), ValueError, "dropout seed: expected 0"),
        ((1, 2**64, p), ValueError, "dropout step: expected 0"),
        ((1.5, 2, p), TypeError, "dropout seed: expected an integer"),
        ((1, 2, p[1:]), ValueError, f"dropout: expected a probability for each of {NODES} dropouts"),
        ((1, 2, p.astype(np.float64)), TypeError, "dropout"),
        ((1, 2, p + 2), ValueError, r"dropout_probabilities\[0\] is 2, expected 0 .. 1"),
    ]
    for dropout, error, message in wrong:
        with pytest.raises(error, match=message):
            forward(case, inputs, "skip", dropout, _core.OUTPUT_LAST_HIDDEN_STATE)

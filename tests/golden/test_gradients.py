# SPDX-License-Identifier: Apache-2.0
"""Gradients of every parameter against those recorded from the original, float and through the quantizers.

Tolerance 1e-5 of the largest gradient of the model (``shared/golden/README.md``: the original's own spread
over versions and thread counts is 5.4e-7 of it); inputs were searched so that no activation lies near a
rounding boundary (``tie_margin``) or a range (``clip_margin``), so no straight-through mask can differ.
The gradients of losses with respect to logits are computed here, in float64, from their formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from golden_codec import decode
from golden_models import (
    FOLDER,
    arrays_of,
    build,
    extra,
    manifest,
    original_defaults,
    quantizers,
    read_weights,
)

from qdqbert import _core, nn
from qdqbert.tensor_quant import QuantDescriptor

RTOL = 1e-5
MODELS = manifest()["models"]
CASES = [
    (name, kind)
    for name, facts in MODELS.items()
    for kind in ("qat_gradients", "float_gradients")
    if kind in facts
]


@pytest.fixture(autouse=True)
def recorded_defaults() -> Iterator[None]:
    with original_defaults():
        yield


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def cross_entropy_grad(logits: np.ndarray, labels: np.ndarray, ignored: int) -> np.ndarray:
    """Of the mean over rows whose label counts."""
    d = softmax(logits)
    counts = labels != ignored
    d[np.arange(len(labels))[counts], labels[counts]] -= 1.0
    d[~counts] = 0.0
    return d / counts.sum()


def d_logits(model: Any, class_name: str, logits: np.ndarray, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Gradient of the head's loss."""
    shape = logits.shape
    if class_name == "QDQBertForQuestionAnswering":
        d = np.zeros(shape)
        for i, name in enumerate(("start_positions", "end_positions")):
            labels = inputs[name].clip(0, shape[1])
            d[:, :, i] = cross_entropy_grad(logits[:, :, i], labels, shape[1]) / 2
        return d
    labels = inputs["labels"]
    if class_name == "QDQBertForMultipleChoice":
        rows = logits.reshape(labels.shape[0], -1)
        return cross_entropy_grad(rows, labels, -100).reshape(shape)
    if class_name == "QDQBertForSequenceClassification" and labels.dtype.kind == "f":
        z = logits.astype(np.float64)
        if model.config.num_labels == 1:
            return (2 * (z.reshape(-1) - labels.reshape(-1)) / labels.size).reshape(shape)
        return np.asarray((1 / (1 + np.exp(-z)) - labels) / z.size)
    if class_name == "QDQBertLMHeadModel":
        d = np.zeros(shape)
        shifted = cross_entropy_grad(logits[:, :-1].reshape(-1, shape[2]), labels[:, 1:].reshape(-1), -100)
        d[:, :-1] = shifted.reshape(shape[0], shape[1] - 1, shape[2])
        return d
    return cross_entropy_grad(logits.reshape(-1, shape[-1]), labels.reshape(-1), -100).reshape(shape)


def gradients_of(
    model: Any, class_name: str, inputs: dict[str, np.ndarray], seeds: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """One forward and backward of the C model; the padding is computed, as in the original."""
    core = model._engine.core
    ids = inputs["input_ids"]
    rows = ids.reshape(-1, ids.shape[-1])
    states = inputs.get("encoder_hidden_states")
    session = _core.Session(
        core,
        max_sequences=len(rows),
        max_length=rows.shape[1],
        keep_probabilities=True,
        max_encoder_length=0 if states is None else states.shape[1],
        trains=True,
    )
    core.zero_gradients()

    def flat(name: str) -> Any:
        return inputs[name].reshape(rows.shape) if name in inputs else None

    has_head = class_name != "QDQBertModel"
    wanted = _core.OUTPUT_LOGITS if has_head else _core.OUTPUT_LAST_HIDDEN_STATE | _core.OUTPUT_POOLER_OUTPUT
    _, _, logits, *_ = session.forward(
        rows,
        None,
        flat("attention_mask"),
        flat("token_type_ids"),
        None,
        None,
        True,
        bool(model.config.is_decoder),
        None,
        None,
        states,
        inputs.get("encoder_attention_mask"),
        None,
        None,
        wanted,
    )
    d = None
    if has_head:
        assert logits is not None
        d = d_logits(model, class_name, logits, inputs).astype(np.float32)
    session.backward(seeds.get("last_hidden_state"), seeds.get("pooler_output"), d, False, False)
    return {name: np.array(core.gradient(i)) for i, (name, _) in enumerate(core.parameters())}


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], without: list[str]) -> float:
    """Largest difference, relative to the largest gradient."""
    largest = max(float(np.abs(value).max()) for value in expected.values())
    worst = 0.0
    tied = {name for name in expected if name not in found}
    assert all(name.endswith(("decoder.weight", "decoder.bias")) for name in tied), tied
    for name, value in found.items():
        if name in without:
            assert not value.any(), name
            continue
        assert value.shape == expected[name].shape, name
        worst = max(worst, float(np.abs(value - expected[name]).max()) / largest)
        assert worst <= RTOL, f"{name}: {worst:.2e} of {largest:.2e}"
    return worst


@pytest.mark.shared
@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}-{kind}" for name, kind in CASES])
def test_gradients_are_those_of_the_original(name: str, kind: str) -> None:
    facts = MODELS[name]
    case = facts[kind]
    model = build(facts["class"], f"{name}/config.json", case["weights"])
    if kind == "float_gradients":
        for _, quantizer in quantizers(model):
            quantizer.disable()
    arrays = arrays_of(facts["arrays"])
    inputs = {key: arrays[path] for key, path in case["inputs"].items()}
    seeds = {}
    if facts["class"] == "QDQBertModel":
        seeds = {key: arrays[f"grad_seed/{key}"] for key in ("last_hidden_state", "pooler_output")}
    found = gradients_of(model, facts["class"], inputs, seeds)
    compare(found, read_weights(FOLDER / case["file"]), facts["qat_gradients"]["parameters_without_gradient"])


@pytest.mark.shared
def test_gradients_of_learned_bounds_are_those_of_the_original() -> None:
    case = extra("learn_amax")
    nn.QuantLinear.set_default_quant_desc_input(QuantDescriptor(**decode(case["quant_desc_input"])))
    model = build("QDQBertForQuestionAnswering", "qa/config.json", case["weights"])
    arrays = arrays_of(case["arrays"])
    inputs = {key: arrays[path] for key, path in case["inputs"].items()}
    expected = read_weights(FOLDER / case["gradients"])
    bounds = {name: expected.pop(name) for name in list(expected) if "clip_value" in name}
    found = gradients_of(model, "QDQBertForQuestionAnswering", inputs, {})
    compare(found, expected, [])
    largest = max(float(np.abs(value).max()) for value in expected.values())
    handles = dict(model._engine.core.quantizers())
    assert len(bounds) > 50
    for name, value in bounds.items():
        quantizer, _, bound = name.rpartition(".clip.")
        got = handles[quantizer].clip_gradient()[bound == "clip_value_max"]
        assert abs(got - float(value)) <= RTOL * max(largest, float(np.abs(value))), name

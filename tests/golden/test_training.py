# SPDX-License-Identifier: Apache-2.0
"""Losses, gradients and steps of the original through the names that users call.

Tolerances are those of `test_gradients` and `test_optimizer_steps`, whose texts derive them; a loss is a mean
of logarithms near 1, so 1e-5 of it is the spread that ``shared/golden/README.md`` states for logits.
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
    original_defaults,
    quantizers,
    read_weights,
)
from test_gradients import CASES, MODELS, RTOL, compare
from test_optimizer_steps import ATOL, RECORDS

import qdqbert
from qdqbert import nn
from qdqbert.tensor_quant import QuantDescriptor


@pytest.fixture(autouse=True)
def recorded_defaults() -> Iterator[None]:
    with original_defaults():
        yield


def training(class_name: str, config: str, weights: list[str]) -> Any:
    """A model in training mode, without dropout, as the records were made."""
    model = build(class_name, config, weights).train()
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.eval()
    return model


def gradients_of(model: Any) -> dict[str, np.ndarray]:
    """Gradient of every parameter but learned bounds; zeros where there is none."""
    return {
        name: np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
        if "clip_value" not in name
    }


@pytest.mark.shared
@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}-{kind}" for name, kind in CASES])
def test_backward_gives_the_gradients_of_the_original(name: str, kind: str) -> None:
    facts = MODELS[name]
    case = facts[kind]
    model = training(facts["class"], f"{name}/config.json", case["weights"])
    if kind == "float_gradients":
        for _, quantizer in quantizers(model):
            quantizer.disable()
    arrays = arrays_of(facts["arrays"])
    inputs = {key: arrays[path] for key, path in case["inputs"].items()}

    output = model(**inputs)
    if facts["class"] == "QDQBertModel":
        model.backward(
            arrays["grad_seed/last_hidden_state"], d_pooler_output=arrays["grad_seed/pooler_output"]
        )
    else:
        output.loss.backward()
        assert output.loss == pytest.approx(case["loss"], rel=1e-5)

    without = facts["qat_gradients"]["parameters_without_gradient"]
    compare(gradients_of(model), read_weights(FOLDER / case["file"]), without)
    assert [n for n, p in model.named_parameters() if p.grad is None] == without


@pytest.mark.shared
def test_learned_bounds_have_the_gradients_of_the_original() -> None:
    case = extra("learn_amax")
    nn.QuantLinear.set_default_quant_desc_input(QuantDescriptor(**decode(case["quant_desc_input"])))
    model = training("QDQBertForQuestionAnswering", "qa/config.json", case["weights"])
    arrays = arrays_of(case["arrays"])
    expected = read_weights(FOLDER / case["gradients"])

    model(**{key: arrays[path] for key, path in case["inputs"].items()}).loss.backward()

    largest = max(float(np.abs(value).max()) for name, value in expected.items() if "clip_value" not in name)
    found = {name: parameter.grad for name, parameter in model.named_parameters() if "clip_value" in name}
    assert len(found) > 50
    assert set(found) == {name for name in expected if "clip_value" in name}
    for name, gradient in found.items():
        value = float(expected[name])
        assert gradient is not None
        assert abs(float(gradient) - value) <= RTOL * max(largest, abs(value)), name


@pytest.mark.shared
@pytest.mark.parametrize("record", RECORDS, ids=[record["file"].split("/")[1] for record in RECORDS])
def test_the_usual_loop_takes_the_steps_of_the_original(record: dict[str, Any]) -> None:
    is_adamw = "AdamW" in record["optimizer"]
    model = training("QDQBertForQuestionAnswering", "qa/config.json", record["weights"])
    left_out = record["parameters_not_given_to_the_optimizer"]
    chosen = [parameter for name, parameter in model.named_parameters() if name not in left_out]
    optimizer: Any = (
        qdqbert.optim.AdamW(chosen, lr=1e-3, weight_decay=0.01)
        if is_adamw
        else qdqbert.optim.SGD(chosen, lr=1e-2)
    )
    arrays = arrays_of(record["arrays"])
    gradients: dict[str, np.ndarray] = {}
    for batch, loss in zip(record["batches"], record["losses"], strict=True):
        output = model(**{name: arrays[key] for name, key in batch.items()})
        model.zero_grad()
        output.loss.backward()
        gradients = {name: np.array(value) for name, value in gradients_of(model).items()}
        optimizer.step()
        assert output.loss == pytest.approx(loss, rel=1e-5)

    expected = read_weights(FOLDER / record["file"])
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    for name, value in model.named_parameters():
        says = np.ones(value.shape, bool)
        if record["steps"] == 1 and is_adamw:
            says = np.abs(gradients[name]) > 1e-6 * largest
        difference = np.abs(np.asarray(value) - expected[name])
        atol = 0.0 if name in left_out else ATOL["adamw" if is_adamw else "sgd"]
        assert difference[says].max(initial=0.0) <= atol, name

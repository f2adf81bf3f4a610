# SPDX-License-Identifier: Apache-2.0
"""Whole models against the outputs recorded from the original (its padding rule included).

Tolerance 2e-5 on every output: the original's own spread over versions and thread counts is 3.6e-6, and
inputs were searched so that no activation lies within `tie_margin` of a rounding boundary, which is far above
the float32 rounding of these sizes (a few ulp, 2e-5 steps).  One code that flips would move logits by about
4e-2, so nothing hides below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from golden_codec import decode
from golden_models import (
    FAMILIES,
    FOLDER,
    arrays_of,
    build,
    disable_what_the_original_lost,
    entry,
    manifest,
    original_defaults,
    quantizers,
)

from qdqbert import nn
from qdqbert.tensor_quant import QuantDescriptor

ATOL = 2e-5
CASES = [case for case in manifest()["cases"] if case["id"].split("/")[0] in FAMILIES]


@pytest.fixture(autouse=True)
def recorded_defaults() -> Iterator[None]:
    with original_defaults():
        yield


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_outputs_are_those_of_the_original(case: dict[str, Any]) -> None:
    if case["id"] == "qa/learn_amax":
        nn.QuantLinear.set_default_quant_desc_input(
            QuantDescriptor(**decode(manifest()["extras"]["learn_amax"]["quant_desc_input"]))
        )
    changes = {"vocab_size": case["vocab_size"]} if "vocab_size" in case else {}
    model = build(case["class"], case["config"], case["weights"], **changes)
    if case["quantizers"] == "disabled":
        for _, quantizer in quantizers(model):
            quantizer.disable()
    elif case["model"] == "base_pruned":
        disable_what_the_original_lost(model)
    arrays = arrays_of(case["arrays"])
    inputs = {name: arrays[key] for name, key in case["inputs"].items()}
    if "procedure" in case:
        length = inputs["input_ids"].shape[1]
        output = in_chunks(model, inputs, [1] * length)
        output["two_chunks/logits"] = in_chunks(model, inputs, [3, length - 3])["logits"]
    else:
        output = model(**inputs, **case.get("flags", {}))

    for path, key in case["outputs"].items():
        got, expected = entry(output, path), arrays[key]
        assert got.shape == expected.shape, path
        np.testing.assert_allclose(got, expected, rtol=0, atol=ATOL, err_msg=path)


def in_chunks(model: Any, inputs: dict[str, np.ndarray], sizes: list[int]) -> dict[str, Any]:
    """Feed tokens in chunks, each with the cache of those before; logits concatenated, the last cache."""
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    logits, past, start = [], None, 0
    for size in sizes:
        end = start + size
        output = model(
            ids[:, start:end],
            attention_mask=mask[:, :end],
            past_key_values=past,
            use_cache=True,
            **inputs,
        )
        logits.append(output.logits)
        past, start = output.past_key_values, end
    inputs.update(input_ids=ids, attention_mask=mask)
    return {"logits": np.concatenate(logits, axis=1), "past_key_values": past}


@pytest.mark.shared
def test_every_family_has_cases() -> None:
    assert {case["id"].split("/")[0] for case in CASES} == set(FAMILIES) or not FOLDER.exists()
    assert len(CASES) == len(manifest()["cases"])

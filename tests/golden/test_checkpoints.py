# SPDX-License-Identifier: Apache-2.0
"""Trained checkpoints (float16 files) against PyTorch's float32 logits of their golden batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
from qdqbert import Device, QDQBertForQuestionAnswering, QDQBertForSequenceClassification, _core

# Real sizes: sanitizers see the same C in the models of test_models.py, and every variant in tests/c.
pytestmark = [pytest.mark.shared, pytest.mark.uninstrumented]
# float32 against float32 in another order of summation, six layers of width 384, logits up to about 10.
ATOL = 2e-5
CHECKPOINTS = {
    "minilm-squad": (QDQBertForQuestionAnswering, ("start_logits", "end_logits")),
    "minilm-sst2": (QDQBertForSequenceClassification, ("logits",)),
    "topics-tiny": (QDQBertForSequenceClassification, ("logits",)),
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@pytest.mark.parametrize("padding", ["skip", "compute"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_float_logits_are_pytorchs(name: str, padding: str, shared: Any) -> None:
    kind, outputs = CHECKPOINTS[name]
    golden = np.load(shared("checkpoints", name, "golden.npz"))
    model, info = kind.from_pretrained(shared("checkpoints", name), padding=padding, output_loading_info=True)
    assert info["missing_keys"] == info["mismatched_keys"] == []
    with qdqbert.quantizers(model, {"*": "off"}):
        result = model(**{key: golden[key] for key in INPUTS})
    kept = golden["attention_mask"] == 1
    for key in outputs:
        difference = np.abs(result[key] - golden[key])
        assert (difference[kept] if key != "logits" else difference).max() <= ATOL, key


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_quantized_logits_have_the_same_bits_on_every_variant(name: str, shared: Any) -> None:
    kind, outputs = CHECKPOINTS[name]
    golden = np.load(shared("checkpoints", name, "golden.npz"))
    batch = {key: golden[key][:2, :20] for key in INPUTS}  # `ref` is slow
    results = {}
    for isa, is_supported in _core.variants():
        for threads in (1, 2):
            if is_supported:
                model = kind.from_pretrained(shared("checkpoints", name), device=Device(isa, threads))
                qdqbert.calibrate(model, [batch])
                results[isa, threads] = model(**batch)
    first = results.pop(("ref", 1))
    for where, result in results.items():
        for key in outputs:
            np.testing.assert_array_equal(result[key], first[key], err_msg=f"{where} {key}")

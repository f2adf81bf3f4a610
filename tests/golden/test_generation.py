# SPDX-License-Identifier: Apache-2.0
"""Generated token ids against those of the original: greedy search and beam search, float and calibrated.

The smallest gap between the best and the second score of the recorded greedy runs is 6.4e-3, three hundred
times the tolerance on logits, so ids are compared exactly.  Scores of beams are means of a few
log-probabilities of such logits: 2e-5 as well, relative to values of order one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from golden_models import FOLDER, arrays_of, build, manifest, original_defaults, quantizers

pytestmark = pytest.mark.shared
CASES = manifest()["extras"].get("generation", [])


@pytest.fixture(autouse=True)
def recorded_defaults() -> Iterator[None]:
    if not FOLDER.exists():
        pytest.skip(f"missing data: {FOLDER}")
    with original_defaults():
        yield


def model_of(case: dict[str, Any]) -> Any:
    model = build("QDQBertLMHeadModel", "lm/config.json", case["weights"])
    if case["quantizers"] == "disabled":
        for _, quantizer in quantizers(model):
            quantizer.disable()
    return model


@pytest.mark.parametrize("padding", ["compute", "skip"])
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_token_ids_are_the_recorded_ones(case: dict[str, Any], padding: str) -> None:
    model, arrays = model_of(case), arrays_of(case["arrays"])
    model.padding = padding
    arguments = dict(case["arguments"])
    # Recorded with the end token of the generation configuration cleared: None alone falls back to it.
    model.generation_config.eos_token_id = arguments.pop("eos_token_id")
    output = model.generate(
        arrays[case["input_ids"]],
        attention_mask=arrays[case["attention_mask"]],
        return_dict_in_generate=True,
        output_scores=True,
        **arguments,
    )
    np.testing.assert_array_equal(output.sequences, arrays[case["sequences"]])
    if "sequences_scores" in case:
        np.testing.assert_allclose(
            output.sequences_scores, arrays[case["sequences_scores"]], rtol=2e-5, atol=2e-5
        )


def test_every_recorded_case_is_here() -> None:
    assert len(CASES) == 18

# SPDX-License-Identifier: Apache-2.0
"""`generate` against that of transformers 4.39 on the same float model, over random settings.

Run where transformers and PyTorch are: ``pytest tests/generation -m witness``.  Weights have a standard
deviation of 0.5, so that candidates differ by far more than the rounding of two float32 forwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import QDQBertLMHeadModel

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.witness, pytest.mark.filterwarnings("ignore")]

if not transformers.__version__.startswith("4.39"):
    pytest.skip("the rules are those of transformers 4.39", allow_module_level=True)

SETTINGS = 300


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("m")
    config = tiny_model.config(is_decoder=True, initializer_range=0.5, eos_token_id=None)
    mine = QDQBertLMHeadModel(config, seed=1)
    mine.padding = "compute"
    qdqbert.quantizers(mine, {"*": "off"})
    mine.save_pretrained(folder)
    theirs = transformers.BertLMHeadModel.from_pretrained(
        folder, config=transformers.BertConfig.from_pretrained(folder)
    )
    return mine, theirs.eval()


def random_settings(rng: np.random.Generator) -> dict[str, Any]:
    beams = int(rng.choice([1, 2, 3, 5]))
    settings: dict[str, Any] = {
        "max_new_tokens": int(rng.integers(1, 12)),
        "num_beams": beams,
        "pad_token_id": 0,
    }
    if rng.random() < 0.7:
        ends = rng.choice(np.arange(1, 53), int(rng.integers(1, 13)), replace=False).tolist()
        settings["eos_token_id"] = ends if len(ends) > 1 or rng.random() < 0.5 else ends[0]
    if rng.random() < 0.3:
        settings["repetition_penalty"] = float(rng.choice([0.7, 1.2, 2.0]))
    if rng.random() < 0.3:
        settings["no_repeat_ngram_size"] = int(rng.integers(1, 4))
    if rng.random() < 0.3:
        settings["min_new_tokens"] = int(rng.integers(1, settings["max_new_tokens"] + 1))
    if rng.random() < 0.2:
        settings["min_length"] = int(rng.integers(1, 8))
    if beams > 1:
        settings["num_return_sequences"] = int(rng.integers(1, beams + 1))
        settings["length_penalty"] = float(rng.choice([-1.0, 0.0, 0.6, 1.0, 2.0]))
        settings["early_stopping"] = [True, False, "never"][int(rng.integers(3))]
    settings["use_cache"] = bool(rng.random() < 0.5)
    return settings


def random_prompts(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, length = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    ids = rng.integers(1, 53, (rows, length))
    mask = (np.arange(length) >= rng.integers(0, length, rows)[:, None]).astype(np.int64)
    return np.where(mask == 1, ids, 0), mask


def generate(model: Any, ids: np.ndarray, mask: np.ndarray, settings: dict[str, Any]) -> Any:
    arguments = {**settings, "return_dict_in_generate": True, "output_scores": True}
    if isinstance(model, QDQBertLMHeadModel):
        return model.generate(ids, attention_mask=mask, **arguments)
    return model.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **arguments)


def test_token_ids_are_those_of_transformers_for_random_settings(models: tuple[Any, Any]) -> None:
    rng, ended_early = np.random.default_rng(0), 0
    for index in range(SETTINGS):
        settings, (ids, mask) = random_settings(rng), random_prompts(rng)
        longest = ids.shape[1] + settings["max_new_tokens"]
        settings["min_length"] = min(settings.get("min_length", 0), longest)
        mine, theirs = (generate(model, ids, mask, settings) for model in models)
        note = f"{index}: {settings}"
        np.testing.assert_array_equal(mine.sequences, theirs.sequences.numpy(), note)
        ended_early += mine.sequences.shape[1] < longest
        if "sequences_scores" in mine:
            scores = theirs.sequences_scores.numpy()
            np.testing.assert_allclose(mine.sequences_scores, scores, rtol=1e-4, atol=1e-4, err_msg=note)
            np.testing.assert_array_equal(mine.beam_indices, theirs.beam_indices.numpy(), note)
    assert ended_early > SETTINGS // 10  # the interesting half of the bookkeeping was exercised


@pytest.mark.parametrize("seed", range(20))
def test_what_sampling_draws_from_is_what_transformers_draws_from(models: tuple[Any, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, mask = random_prompts(rng)
    settings = {
        "do_sample": True,
        "temperature": float(rng.choice([0.3, 1.0, 1.7])),
        "top_k": int(rng.choice([0, 1, 5, 20])),
        "top_p": float(rng.choice([0.1, 0.6, 0.95, 1.0])),
        "num_beams": int(rng.choice([1, 3])),
        "eos_token_id": [7, 9],
        "max_new_tokens": 1,
        "pad_token_id": 0,
    }
    mine, theirs = (generate(model, ids, mask, settings).scores[0] for model in models)
    np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(theirs.numpy()))
    # Logits of order one, a few ulp apart, divided by a temperature of at least 0.3.
    np.testing.assert_allclose(mine, theirs.numpy(), rtol=2e-5, atol=2e-5)

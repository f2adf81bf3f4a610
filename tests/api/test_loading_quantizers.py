# SPDX-License-Identifier: Apache-2.0
"""What QDQBERT and pytorch-quantization keep of quantizers in a state dict comes back from a `.bin` too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_model
from pickle_programs import old_file, zip_file
from qdqbert import QDQBertForQuestionAnswering, QDQBertModel
from qdqbert.nn import QuantLinear
from qdqbert.tensor_quant import QuantDescriptor

QUERY = "bert.encoder.layer.0.attention.self.query._input_quantizer"
Arrays = dict[str, np.ndarray]


@pytest.fixture
def learned() -> Iterator[None]:
    """Quantizers of activations learn their range, as a user of the original sets it before loading."""
    saved = QuantLinear.default_quant_desc_input
    QuantLinear.set_default_quant_desc_input(QuantDescriptor(num_bits=8, learn_amax=True))
    try:
        yield
    finally:
        QuantLinear.set_default_quant_desc_input(saved)


def state_of(model: Any) -> Arrays:
    return {name: np.array(value) for name, value in model.state_dict().items()}


def load(folder: Path, content: bytes) -> tuple[QDQBertForQuestionAnswering, dict[str, list[Any]]]:
    tiny_model.config().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(content)
    model, info = QDQBertForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    return model, info


def bounds_of(state: Arrays) -> Arrays:
    return {name: value for name, value in state.items() if ".clip.clip_value_" in name}


def test_learned_bounds_load_where_bounds_are_learned(tmp_path: Path, learned: None) -> None:
    state = state_of(tiny_model.question_answering(seed=1))
    for place, name in enumerate(bounds_of(state)):
        state[name] = np.float32(place) * np.ones_like(state[name])
    model, info = load(tmp_path, old_file(state))
    assert not any(info.values())
    found = bounds_of(state_of(model))
    assert len(found) == 56
    for name, value in bounds_of(state).items():
        np.testing.assert_array_equal(found[name], value)


def test_learned_bounds_are_unexpected_elsewhere_as_in_the_original(tmp_path: Path) -> None:
    state = state_of(tiny_model.question_answering(seed=1))
    state[f"{QUERY}.clip.clip_value_max"] = np.ones((), np.float32)
    _, info = load(tmp_path, zip_file(state))
    assert info["unexpected_keys"] == [f"{QUERY}.clip.clip_value_max"]


def test_a_factor_before_quantization_loads_and_is_saved(tmp_path: Path) -> None:
    state = state_of(tiny_model.question_answering(seed=1))
    key = f"{QUERY}._pre_quant_scale"
    state[key] = np.linspace(0.5, 2, 24, dtype=np.float32).reshape(1, 1, 24)
    model, info = load(tmp_path, zip_file(state))
    assert not any(info.values())
    np.testing.assert_array_equal(model.get_submodule(QUERY).pre_quant_scale, state[key])
    model.save_pretrained(tmp_path / "again")
    again = QDQBertForQuestionAnswering.from_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(again.state_dict()[key], state[key])


def test_ranges_load_into_a_base_model(tmp_path: Path) -> None:
    state = state_of(tiny_model.question_answering(seed=1))
    state[f"{QUERY}._amax"] = np.float32(3.5).reshape(())
    load(tmp_path, old_file(state))
    model, info = QDQBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert sorted(info["unexpected_keys"]) == ["qa_outputs.bias", "qa_outputs.weight"]
    assert model.get_submodule(QUERY.removeprefix("bert.")).amax == 3.5


@pytest.mark.uninstrumented
@pytest.mark.parametrize("pack", [zip_file, old_file])
def test_loading_a_bin_peaks_at_a_fifth_above_the_model(pack: Any, tmp_path: Path) -> None:
    """Measured by the operating system in a process of its own, on 75 MB of float16 that become 150 MB."""
    fields = {
        "vocab_size": 75_000_000 // 2 // 768, "hidden_size": 768, "num_attention_heads": 12,
        "intermediate_size": 8, "num_hidden_layers": 1,
    }  # fmt: skip
    model = QDQBertModel(tiny_model.config(**fields), add_pooling_layer=False)
    state = {name: value.astype(np.float16) for name, value in model.state_dict().items()}
    (tmp_path / "pytorch_model.bin").write_bytes(pack(state))
    model.config.save_pretrained(tmp_path)
    block = sum(value.nbytes for value in model.state_dict().values())
    script = (
        "import resource, sys, qdqbert\n"
        "from qdqbert import QDQBertModel\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "QDQBertModel.from_pretrained(sys.argv[1], add_pooling_layer=False)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 1.2 * block

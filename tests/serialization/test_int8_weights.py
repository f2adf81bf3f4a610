# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of int8 codes: what is written, equal bits, thawing, damage that is named by file and key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import qdqbert
import tiny_model
from qdqbert import CheckpointError, StateError
from qdqbert.serialization.int8_weights import INT8_SECTION
from qdqbert.serialization.safetensors_file import write_safetensors

QUERY = "bert.encoder.layer.0.attention.self.query"
CODES = f"{QUERY}.weight_codes"
AMAX = f"{QUERY}._weight_quantizer._amax"


def answer(model: Any) -> bytes:
    out = model(**tiny_model.batch())
    return bytes(out.start_logits.tobytes() + out.end_logits.tobytes())


@pytest.fixture(scope="module")
def calibrated() -> Any:
    model = tiny_model.question_answering(0)
    qdqbert.calibrate(model, [tiny_model.batch(seed=0)], method="max")
    return model


@pytest.fixture(scope="module")
def saved(calibrated: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the tests only read."""
    folder = tmp_path_factory.mktemp("int8")
    calibrated.save_pretrained(folder / "float")
    model = type(calibrated).from_pretrained(folder / "float")
    model.freeze()
    model.save_pretrained(folder / "int8")
    return folder


def load(folder: Path, **options: Any) -> Any:
    return qdqbert.QDQBertForQuestionAnswering.from_pretrained(folder, **options)


def rewritten(saved: Path, folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Path:
    """Write a copy of the checkpoint with other tensors or another configuration."""
    tensors = dict(safetensors.numpy.load_file(saved / "int8" / "model.safetensors"))
    config = json.loads((saved / "int8" / "config.json").read_text())
    change(tensors, config)
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors.items(), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# ---- what is written, and read again -----------------------------------------------------------------------


def test_the_file_has_codes_and_no_floats_of_frozen_weights(saved: Path) -> None:
    tensors = safetensors.numpy.load_file(saved / "int8" / "model.safetensors")
    floats = safetensors.numpy.load_file(saved / "float" / "model.safetensors")
    codes = {key: value for key, value in tensors.items() if value.dtype == np.int8}
    assert len(codes) == 12
    assert all(key.endswith(".weight_codes") for key in codes)
    assert set(floats) - set(tensors) == {key.removesuffix("_codes") for key in codes}
    assert codes[CODES].shape == floats[f"{QUERY}.weight"].shape
    section = json.loads((saved / "int8" / "config.json").read_text())[INT8_SECTION]
    assert section["version"] == 1
    assert {f"{name}_codes" for name in section["weights"]} == set(codes)


def test_a_loaded_model_is_frozen_and_has_the_bits_of_the_floats(calibrated: Any, saved: Path) -> None:
    model = load(saved / "int8")
    assert model.is_frozen
    assert answer(model) == answer(calibrated)
    with pytest.raises(StateError, match="frozen"):
        model.train()


def test_thawed_floats_have_the_same_codes_and_can_be_trained(calibrated: Any, saved: Path) -> None:
    model = load(saved / "int8", thaw=True)
    assert not model.is_frozen
    assert answer(model) == answer(calibrated)
    model.train().eval()
    assert INT8_SECTION not in model.config.to_dict()


def test_saving_again_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    expected = (saved / "int8" / "model.safetensors").read_bytes()
    load(saved / "int8").save_pretrained(tmp_path / "frozen")
    thawed = load(saved / "int8", thaw=True)
    thawed.freeze()
    thawed.save_pretrained(tmp_path / "thawed")
    for folder in ("frozen", "thawed"):
        assert (tmp_path / folder / "model.safetensors").read_bytes() == expected
        assert (tmp_path / folder / "config.json").read_text() == (saved / "int8" / "config.json").read_text()


def test_a_thawed_model_is_saved_as_floats(saved: Path, tmp_path: Path) -> None:
    load(saved / "int8", thaw=True).save_pretrained(tmp_path)
    assert INT8_SECTION not in json.loads((tmp_path / "config.json").read_text())
    assert not load(tmp_path).is_frozen


def test_a_folder_can_be_replaced_by_the_model_that_reads_it(saved: Path, tmp_path: Path) -> None:
    folder = rewritten(saved, tmp_path, lambda tensors, config: None)
    model = load(folder)
    expected = answer(model)
    model.save_pretrained(folder)
    assert answer(model) == expected
    assert answer(load(folder)) == expected


def test_shards_are_read(saved: Path, tmp_path: Path) -> None:
    model = load(saved / "int8")
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert answer(load(tmp_path)) == answer(model)


def test_the_base_model_is_read_from_a_model_with_a_head(calibrated: Any, saved: Path) -> None:
    base = qdqbert.QDQBertModel.from_pretrained(saved / "int8", add_pooling_layer=False)
    assert base.is_frozen
    expected = calibrated.bert(**tiny_model.batch()).last_hidden_state
    assert np.array_equal(base(**tiny_model.batch()).last_hidden_state, expected)


def test_a_mixed_model_keeps_its_floats(saved: Path, tmp_path: Path) -> None:
    model = load(saved / "float")
    qdqbert.quantizers(model, {f"{QUERY}.*": "off"})
    model.freeze()
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert answer(again) == answer(model)
    assert list(again.freeze().kept) == [f"{QUERY}.weight"]


def test_a_weight_that_is_mapped_can_be_frozen_later(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qdqbert.modeling_checkpoint._LEAST_LENT", 1)
    model = load(saved / "float")
    expected = answer(model)
    qdqbert.quantizers(model, {f"{QUERY}.*": "off"})
    model.freeze()
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert f"{QUERY}.weight" in again._engine.handles.bound.lent
    qdqbert.quantizers(again, {f"{QUERY}.*": "on"})
    assert f"{QUERY}.weight" in again.freeze().frozen
    assert answer(again) == expected


def test_large_tables_are_the_files(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdqbert.modeling_checkpoint._LEAST_LENT", 1)
    model = load(saved / "int8")
    words = "bert.embeddings.word_embeddings.weight"
    assert words in model._engine.handles.bound.lent
    assert model.freeze().mapped_bytes > 0
    assert answer(model) == answer(load(saved / "int8"))
    model.load_state_dict(model.state_dict())
    others = np.array(model.state_dict()[words])
    others[2, 3] += 1
    expected = (
        rf"{words}: 1 of {others.size} numbers are others than the file's, the first at \(2, 3\); it cannot"
    )
    with pytest.raises(StateError, match=expected):
        model.load_state_dict({words: others}, strict=False)


# ---- what is refused ---------------------------------------------------------------------------------------


def test_thaw_of_floats_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"thaw: .*float holds no int8 codes"):
        load(saved / "float", thaw=True)
    with pytest.raises(TypeError, match="thaw: expected bool"):
        load(saved / "int8", thaw="yes")


def _set(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda tensors, config: tensors.__setitem__(key, value(tensors[key]))


def _narrow(tensors: dict[str, Any], config: dict[str, Any]) -> None:
    config["qdqbert_quantization"]["weight"]["narrow_range"] = True
    tensors[CODES] = tensors[CODES].copy()
    tensors[CODES][1, 2] = -128


def _at(codes: Any, place: tuple[int, int], value: int) -> Any:
    changed = codes.copy()
    changed[place] = value
    return changed


def _four_bits(tensors: dict[str, Any], config: dict[str, Any]) -> None:
    config["qdqbert_quantization"]["weight"]["num_bits"] = 4
    tensors[CODES] = _at(tensors[CODES], (0, 0), 8)


def _dead_row(tensors: dict[str, Any], config: dict[str, Any]) -> None:
    tensors[AMAX] = tensors[AMAX].copy()
    tensors[AMAX][2] = 0.0
    tensors[CODES] = tensors[CODES].copy()
    tensors[CODES][2] = 0
    tensors[CODES][2, 3] = 1


def _shorter(tensors: dict[str, Any], config: dict[str, Any]) -> None:
    tensors[CODES], tensors[AMAX] = tensors[CODES][:-1], tensors[AMAX][:-1]


def _in_section(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda tensors, config: config[INT8_SECTION].__setitem__(key, value)


def _disable(tensors: dict[str, Any], config: dict[str, Any]) -> None:
    config["qdqbert_quantization"]["quantizers"] = {f"{QUERY}._input_quantizer": {"disabled": True}}


DAMAGE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str, str]] = {
    "dtype": (_set(CODES, lambda codes: codes.astype(np.float32)), "model.safetensors", "expected int8"),
    "shape": (_shorter, f"{QUERY}.weight", "size mismatch"),
    "rank": (_set(CODES, lambda codes: codes.reshape(-1)), CODES, "expected two dimensions"),
    "narrow": (_narrow, CODES, "element (1, 2) is -128, expected codes of -127 .. 127"),
    "bits": (_four_bits, CODES, "expected codes of -8 .. 7"),
    "dead": (_dead_row, CODES, "element (2, 3) is 1, expected codes of 0 .. 0"),
    "no scale": (lambda tensors, config: tensors.pop(AMAX), AMAX, "missing"),
    "nan scale": (_set(AMAX, lambda amax: amax * np.nan), AMAX, "expected finite magnitudes, got nan"),
    "infinite": (_set(AMAX, lambda amax: amax * np.inf), AMAX, "expected finite magnitudes, got inf"),
    "negative": (_set(AMAX, lambda amax: -amax), AMAX, "expected finite magnitudes, got -"),
    "scale shape": (_set(AMAX, lambda amax: amax[1:]), AMAX, "expected one number or"),
    "no codes": (lambda tensors, config: tensors.pop(CODES), CODES, "missing, though"),
    "both": (
        lambda tensors, config: tensors.__setitem__(f"{QUERY}.weight", tensors[CODES].astype(np.float32)),
        f"{QUERY}.weight",
        "floats and codes of one weight",
    ),
    "no section": (lambda tensors, config: config.pop(INT8_SECTION), "weight_codes", "does not list"),
    "not listed": (_in_section("weights", [f"{QUERY}.weight"]), "weight_codes", "does not list"),
    "version": (_in_section("version", 2), f"{INT8_SECTION}.version", "reads 1, got 2"),
    "layout": (_in_section("layout", "avx2"), f"{INT8_SECTION}.layout", "expected 'rows', got 'avx2'"),
    "unknown": (_in_section("isa", "avx2"), INT8_SECTION, "unknown isa"),
    "names": (_in_section("weights", [3]), f"{INT8_SECTION}.weights", "got 3"),
    "empty": (_in_section("weights", []), f"{INT8_SECTION}.weights", "expected a list of names"),
    "twice": (_in_section("weights", [f"{QUERY}.weight"] * 2), INT8_SECTION, "stands twice"),
    "object": (
        lambda tensors, config: config.__setitem__(INT8_SECTION, 7),
        INT8_SECTION,
        "expected an object",
    ),
    "floats": (_disable, CODES, "only one of the two operands is quantized"),
}


@pytest.mark.parametrize("thaw", [False, True], ids=["frozen", "thawed"])
@pytest.mark.parametrize(("change", "key", "part"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named_by_file_and_key(
    saved: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any], dict[str, Any]], object],
    key: str,
    part: str,
    thaw: bool,
) -> None:
    folder = rewritten(saved, tmp_path / "damaged", change)
    with pytest.raises((CheckpointError, ValueError)) as caught:
        load(folder, thaw=thaw)
    text = str(caught.value)
    if "holds no int8 codes" in text:  # without the section there is nothing to thaw
        assert thaw
        return
    assert isinstance(caught.value, CheckpointError)
    assert key in text
    assert part in text
    assert str(folder) in text or "size mismatch" in text


def test_codes_of_no_quantized_layer_are_refused(saved: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Any], config: dict[str, Any]) -> None:
        head = tensors.pop("qa_outputs.weight")
        tensors["qa_outputs.weight_codes"] = head.astype(np.int8)
        tensors["qa_outputs._weight_quantizer._amax"] = np.ones((), np.float32)
        config[INT8_SECTION]["weights"].append("qa_outputs.weight")

    folder = rewritten(saved, tmp_path / "head", change)
    with pytest.raises(CheckpointError, match=r"qa_outputs\.weight is not the weight of a linear layer"):
        load(folder)
    with pytest.raises(CheckpointError, match=r"qa_outputs\.weight: is no weight of a linear layer"):
        load(folder, thaw=True)


def test_a_file_that_is_cut_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = rewritten(saved, tmp_path, lambda tensors, config: None)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="cut off"):
        load(folder)


@pytest.mark.parametrize("thaw", [False, True])
def test_a_file_that_is_cut_while_it_is_read_is_told(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thaw: bool
) -> None:
    folder = rewritten(saved, tmp_path, lambda tensors, config: None)
    path = folder / "model.safetensors"
    last = sorted(key for key in safetensors.numpy.load_file(path) if key.endswith(".weight_codes"))[-1]

    def cut(*arguments: Any) -> None:
        os.truncate(path, path.stat().st_size - 1)

    monkeypatch.setattr("qdqbert.modeling_checkpoint.refuse_disproportion", cut)
    with pytest.raises(CheckpointError) as caught:
        load(folder, thaw=thaw)
    assert str(caught.value).startswith(f"{path}: ")
    assert last in str(caught.value)

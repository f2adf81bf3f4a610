# SPDX-License-Identifier: Apache-2.0
"""Weights of the extension's Model as codes, and floats lent to it: references, arguments, errors."""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqbert import _core
from qdqbert.errors import ShapeError, StateError

OPTIONS: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 12,
    "num_layers": 1,
    "num_heads": 3,
    "intermediate_size": 17,
    "max_positions": 16,
    "type_vocab_size": 2,
    "num_labels": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "add_pooling_layer": True,
    "head": "none",
    "input_quantizer": {},
    "weight_quantizer": {},
}
QUERY = "encoder.layer.0.attention.self.query.weight"
WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def device() -> _core.Device:
    return _core.Device(num_threads=2)


def make_model(device: _core.Device, **changes: Any) -> _core.Model:
    model = _core.Model(device, **{**OPTIONS, **changes})
    for name, quantizer in model.quantizers():
        if name.endswith("_weight_quantizer"):
            quantizer.set_amax(np.float32(1.0))
    return model


def place(model: _core.Model, name: str) -> int:
    return [each for each, _ in model.parameters()].index(name)


def test_a_weight_of_codes_has_no_view(device: _core.Device) -> None:
    model = make_model(device, codes=[QUERY])
    views = dict(model.parameters())
    assert views.pop(QUERY) is None
    assert all(view is not None for view in views.values())


def test_storages_say_where_numbers_are(device: _core.Device) -> None:
    table = np.zeros((31, 12), np.float32)
    model = make_model(device, codes=[QUERY], lent={WORDS: table})
    index = place(model, QUERY)
    assert model.storages()[index] == ("codes", (12, 12), 0, 0, None)
    assert model.storages()[place(model, WORDS)][:4] == ("lent", (31, 12), 0, 0)
    bias = model.storages()[place(model, QUERY.replace("weight", "bias"))]
    assert bias[:4] == ("floats", (12,), 48, 0)
    assert bias[4] == "it is no weight of a linear layer with quantizers"
    model.write_codes(index, np.zeros((12, 12), np.int8))
    assert model.storages()[index][3] > 0


def test_codes_come_back(device: _core.Device) -> None:
    model = make_model(device, codes=[QUERY])
    index = place(model, QUERY)
    codes = np.random.default_rng(0).integers(-128, 128, (12, 12), np.int8)
    model.write_codes(index, codes)
    assert np.array_equal(model.read_codes(index), codes)
    values = model.values_of_codes(index, codes)
    assert np.array_equal(values, codes.astype(np.float32) / np.float32(127))


def test_codes_of_floats_are_those_of_the_quantizer(device: _core.Device) -> None:
    model = make_model(device)
    index = place(model, QUERY)
    weight = np.linspace(-1.2, 1.2, 144, dtype=np.float32).reshape(12, 12)
    model.parameter_write(index)[...] = weight
    expected = np.clip(np.rint(weight * np.float32(127)), -128, 127)
    assert np.array_equal(model.read_codes(index), expected)


@pytest.mark.parametrize(
    ("codes", "error", "part"),
    [
        (np.zeros((12, 11), np.int8), ShapeError, "expected codes of shape (12, 12), got (12, 11)"),
        (np.zeros(144, np.int8), ShapeError, "got (144,)"),
        (np.zeros((12, 12), np.float32), TypeError, "codes: expected int8"),
        (np.zeros((12, 12), np.uint8), TypeError, "codes: expected int8"),
        (None, TypeError, "codes"),
    ],
)
def test_wrong_codes_are_refused(device: _core.Device, codes: Any, error: type[Exception], part: str) -> None:
    model = make_model(device, codes=[QUERY])
    index = place(model, QUERY)
    for method in (model.write_codes, model.values_of_codes):
        with pytest.raises(error) as caught:
            method(index, codes)
        assert part in str(caught.value)
    with pytest.raises(StateError, match="not been written"):
        model.read_codes(index)


def test_a_code_outside_the_range_is_named(device: _core.Device) -> None:
    model = make_model(device, codes=[QUERY], weight_quantizer={"narrow_range": True})
    codes = np.zeros((12, 12), np.int8)
    codes[3, 4] = -128
    with pytest.raises(ValueError, match=r"query\.weight: element \(3, 4\) is -128, expected codes of -127"):
        model.write_codes(place(model, QUERY), codes)


KEY = QUERY.replace("query", "key")


def test_codes_of_many_weights_come_from_arrays_and_files(device: _core.Device, tmp_path: Path) -> None:
    model = make_model(device, codes=[QUERY, KEY])
    query, key = np.random.default_rng(0).integers(-128, 128, (2, 12, 12), np.int8)
    (tmp_path / "codes").write_bytes(b"begin" + key.tobytes())
    with open(tmp_path / "codes", "rb") as file:
        model.write_all_codes([(place(model, QUERY), query), (place(model, KEY), (file.fileno(), 5))])
    assert np.array_equal(model.read_codes(place(model, QUERY)), query)
    assert np.array_equal(model.read_codes(place(model, KEY)), key)
    model.write_all_codes(())


def test_a_file_that_ends_inside_codes_is_told(device: _core.Device, tmp_path: Path) -> None:
    model = make_model(device, codes=[QUERY, KEY])
    codes = np.zeros((12, 12), np.int8)
    (tmp_path / "codes").write_bytes(bytes(143))
    message = r"self\.key\.weight: the file ends inside its codes"
    with open(tmp_path / "codes", "rb") as file, pytest.raises(EOFError, match=message):
        model.write_all_codes([(place(model, QUERY), codes), (place(model, KEY), (file.fileno(), 0))])
    for name in (QUERY, KEY):
        with pytest.raises(StateError, match="not been written"):
            model.read_codes(place(model, name))


def test_a_file_that_cannot_be_read_is_told(device: _core.Device, tmp_path: Path) -> None:
    model = make_model(device, codes=[QUERY])
    message = r"self\.query\.weight"
    with open(tmp_path / "codes", "wb") as file, pytest.raises(OSError, match=message) as caught:
        model.write_all_codes([(place(model, QUERY), (file.fileno(), 0))])
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize(
    ("make", "error", "part"),
    [
        (lambda index, codes: 3, TypeError, "int"),
        (lambda index, codes: [3], TypeError, "sources: expected tuples, got int"),
        (lambda index, codes: [(index,)], TypeError, "a source is an index and codes"),
        (lambda index, codes: [(-1, codes)], IndexError, "-1"),
        (lambda index, codes: [("x", codes)], TypeError, "str"),
        (
            lambda index, codes: [(index, codes[:5])],
            ShapeError,
            "expected codes of shape (12, 12), got (5, 12)",
        ),
        (lambda index, codes: [(index, codes.astype(float))], TypeError, "codes: expected int8"),
        (lambda index, codes: [(index, (0,))], TypeError, "a source in a file is a descriptor and an offset"),
        (lambda index, codes: [(index, (-1, 0))], ValueError, "expected no negative ones"),
        (lambda index, codes: [(index, (0, -1))], ValueError, "expected no negative ones"),
        (lambda index, codes: [(index, (0, 2**63 - 144))], ValueError, "no file has room"),
        (lambda index, codes: [(index, codes), (index, codes)], ValueError, "its codes are given twice"),
        (lambda index, codes: [(index, codes), (0, (0, 0))], StateError, "is no weight of a linear layer"),
        (
            lambda index, codes: [(index + 1, (0, 0))],
            StateError,
            "query.bias: is no weight of a linear layer",
        ),
    ],
)
def test_wrong_sources_are_refused(
    device: _core.Device, make: Callable[[int, Any], Any], error: type[Exception], part: str
) -> None:
    model = make_model(device, codes=[QUERY])
    codes = np.zeros((12, 12), np.int8)
    before = sys.getrefcount(codes)
    with pytest.raises(error) as caught:
        model.write_all_codes(make(place(model, QUERY), codes))
    assert part in str(caught.value)
    del caught
    assert sys.getrefcount(codes) == before
    with pytest.raises(StateError, match="not been written"):
        model.read_codes(place(model, QUERY))


def test_indices_are_checked(device: _core.Device) -> None:
    model = make_model(device, codes=[QUERY])
    for call in (
        lambda index: model.read_codes(index),
        lambda index: model.write_codes(index, np.zeros((12, 12), np.int8)),
        lambda index: model.values_of_codes(index, np.zeros((12, 12), np.int8)),
    ):
        for index in (-1, 10**6):
            with pytest.raises(IndexError):
                call(index)
    with pytest.raises(TypeError, match="takes 2 arguments"):
        model.write_codes(0)  # type: ignore[call-arg]


def test_a_sealed_quantizer_says_why_it_stays(device: _core.Device) -> None:
    model = make_model(device, codes=[QUERY])
    model.write_codes(place(model, QUERY), np.zeros((12, 12), np.int8))
    model.seal()
    name = QUERY.removesuffix("weight") + "_input_quantizer"
    quantizer = dict(model.quantizers())[name]
    for change in (
        lambda: setattr(quantizer, "stages", _core.STAGE_DISABLED),
        lambda: quantizer.set_amax(np.float32(2.0)),
        lambda: quantizer.set_observer(None),
        lambda: quantizer.set_options({"num_bits": 4}),
    ):
        with pytest.raises(StateError) as caught:
            change()
        assert str(caught.value).startswith(name)
        assert "load the checkpoint again" in str(caught.value)
    with pytest.raises(StateError, match="sealed already"):
        model.seal()


@pytest.mark.parametrize(
    ("changes", "error", "part"),
    [
        ({"codes": [WORDS]}, ValueError, "word_embeddings.weight is not the weight of a linear layer"),
        ({"codes": ["nothing"]}, ValueError, "the model has no parameter nothing"),
        ({"codes": [3]}, TypeError, "codes: expected names, got int"),
        ({"codes": 3}, TypeError, "int"),
        ({"lent": [1]}, TypeError, "list"),
        (
            {"lent": {WORDS: np.zeros((31, 11), np.float32)}},
            ShapeError,
            "expected shape (31, 12)",
        ),
        ({"lent": {WORDS: np.zeros((31, 12))}}, TypeError, "lent: expected float32"),
        ({"lent": {"nothing": np.zeros(1, np.float32)}}, ValueError, "the model has no parameter nothing"),
    ],
)
def test_wrong_storages_are_refused(
    device: _core.Device, changes: dict[str, Any], error: type[Exception], part: str
) -> None:
    with pytest.raises(error) as caught:
        make_model(device, **changes)
    assert part in str(caught.value)


def test_lent_floats_live_as_long_as_whoever_reads_them(device: _core.Device) -> None:
    table = np.random.default_rng(0).standard_normal((31, 12)).astype(np.float32)
    before = sys.getrefcount(table)
    model: Any = make_model(device, lent={WORDS: table})
    session: Any = _core.Session(model, max_sequences=1, max_length=4)
    view: Any = model.parameters()[place(model, WORDS)][1]
    assert np.shares_memory(view, table)
    assert not view.flags.writeable
    with pytest.raises(StateError, match="word_embeddings"):
        model.parameter_write(place(model, WORDS))
    assert sys.getrefcount(table) > before
    del model, session, view
    gc.collect()
    assert sys.getrefcount(table) == before


def test_what_is_lent_to_a_model_that_cannot_be_is_given_back(device: _core.Device) -> None:
    table = np.zeros((31, 12), np.float32)
    before = sys.getrefcount(table)
    for changes in ({"hidden_size": 13}, {"lent": {WORDS: table, "nothing": table}}, {"vocab_size": 30}):
        with pytest.raises(ValueError, match=r"hidden_size|nothing|expected shape"):
            make_model(device, **{"lent": {WORDS: table}, **changes})
    gc.collect()
    assert sys.getrefcount(table) == before


def test_the_epoch_moves_with_changes(device: _core.Device) -> None:
    model = make_model(device)
    before = model.epoch()
    assert model.epoch() == before
    dict(model.quantizers())["encoder.layer.0.output.add_local_input_quantizer"].set_amax(np.float32(1.0))
    assert model.epoch() != before
    with _core.Change((model,)), pytest.raises(StateError, match="being changed"):
        model.epoch()

# SPDX-License-Identifier: Apache-2.0
"""`from_onnx` of our own files: what was exported comes back, to the bit; what was changed is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx_models import CLASSES, batch, build, calibrated, outputs_of

import qdqbert
from qdqbert import CheckpointError
from qdqbert.nn.quantizer_state import handle_state
from qdqbert.onnx import export, from_onnx
from qdqbert.onnx.codes import weight_codes
from qdqbert.onnx.opsets import newest_opset
from qdqbert.quant_descriptor import QuantDescriptor


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Calibrated models, made once."""
    return {kind: calibrated(kind) for kind in CLASSES}


def round_trip(model: Any, folder: Path, **options: Any) -> Any:
    export(model, folder / "model.onnx", **options)
    read = from_onnx(folder / "model.onnx")
    read.padding = model.padding
    return read


def assert_same_quantizers(read: Any, model: Any) -> None:
    mine, theirs = dict(read._core_quantizers()), dict(model._core_quantizers())
    assert mine.keys() == theirs.keys()
    for name, quantizer in mine.items():
        one, other = handle_state(quantizer), handle_state(theirs[name])
        for key in ("amax", "pre_quant_scale"):
            assert (one[key] is None) == (other[key] is None), name
            if one[key] is not None:
                assert one[key].shape == other[key].shape, name
                assert one[key].tobytes() == other[key].tobytes(), name
        assert {key: one[key] for key in ("options", "clip", "stages")} == {
            key: other[key] for key in ("options", "clip", "stages")
        }, name


def assert_same_state(read: Any, model: Any) -> None:
    mine, theirs = read.state_dict(), model.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert mine[name].shape == value.shape, name
        assert mine[name].tobytes() == value.tobytes(), name


def assert_same_outputs(kind: str, read: Any, model: Any) -> None:
    inputs = batch(kind, seed=77)
    expected = outputs_of(kind, model, inputs)
    found = outputs_of(kind, read, inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name


# ---- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 17, newest_opset()])
@pytest.mark.parametrize("kind", CLASSES)
def test_float_weights_come_back_to_the_bit(
    models: dict[str, Any], tmp_path: Path, kind: str, opset: int
) -> None:
    model = models[kind]

    read = round_trip(model, tmp_path, opset=opset)

    assert type(read) is type(model)
    assert_same_state(read, model)
    assert_same_quantizers(read, model)
    assert_same_outputs(kind, read, model)


def codes_of(model: Any) -> dict[str, Any]:
    """Codes of every weight that is quantized."""
    found = {}
    for name, quantizer in model._core_quantizers():
        if name.endswith("_weight_quantizer"):
            state = handle_state(quantizer)
            weight = np.asarray(model.get_submodule(name.rpartition(".")[0]).weight)
            dead = np.zeros(state["amax"].shape, bool)
            found[name] = weight_codes(weight, state["amax"], dead, "INT8", state["options"])
    return found


@pytest.mark.parametrize("kind", CLASSES)
def test_int8_weights_come_back_with_their_codes_and_ranges(
    models: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    model = models[kind]

    read = round_trip(model, tmp_path, weights="int8")

    assert_same_quantizers(read, model)
    mine, theirs = codes_of(read), codes_of(model)
    assert len(mine) == 3 * (10 if kind == "cross" else 6)
    for name, codes in theirs.items():
        assert np.array_equal(mine[name], codes), name
    quantized = {name.removesuffix("_weight_quantizer") + "weight" for name in mine}
    for name, value in model.state_dict().items():
        if name not in quantized:
            assert read.state_dict()[name].tobytes() == value.tobytes(), name
    assert_same_outputs(kind, read, model)


@pytest.mark.parametrize("kind", ["masked", "sequence"])
def test_configuration_comes_back(tmp_path: Path, kind: str) -> None:
    model = calibrated(kind, hidden_act="gelu_new", layer_norm_eps=1e-7, initializer_range=0.3)
    model.config.id2label = {i: f"label {i}" for i in range(model.config.num_labels)}
    model.config.label2id = {label: i for i, label in model.config.id2label.items()}
    model.config.something_of_mine = [1, {"a": None}]

    read = round_trip(model, tmp_path)

    assert json.loads(read._saved_config()) == json.loads(model._saved_config())


def test_a_file_with_its_data_beside_it_comes_back(models: dict[str, Any], tmp_path: Path) -> None:
    model = models["question"]

    read = round_trip(model, tmp_path, external_data=True)

    assert len(list(tmp_path.iterdir())) == 2
    assert_same_state(read, model)


def test_shared_input_quantizers_come_back_as_three(models: dict[str, Any], tmp_path: Path) -> None:
    model = models["question"]

    read = round_trip(model, tmp_path, share_input_quantizers=True)

    names = {each.name for each in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert "bert.encoder.layer.0.attention.self.key._input_quantizer.scale" not in names
    assert_same_state(read, model)


def test_float_model_comes_back_with_its_quantizers_off(tmp_path: Path) -> None:
    model = build("token", 5)
    qdqbert.quantizers(model, {"*": "off"})

    read = round_trip(model, tmp_path)

    assert_same_state(read, model)
    assert_same_quantizers(read, model)
    assert_same_outputs("token", read, model)


@pytest.mark.parametrize(
    "rules",
    [
        {"*layer.1*": "off"},
        {"*_weight_quantizer": "off"},
        {"*matmul_a_input_quantizer": {"unsigned": True}},
        {"*": {"narrow_range": True}},
        {"*": {"scale_amax": 0.7}},
        {"*layer.0.output.dense._weight_quantizer": {"amax": 1e-9}},
        {"*layer.2*": {"num_bits": 4}, "*layer.0*": {"num_bits": 16}},
        {"*": {"num_bits": (4, 3)}},
    ],
    ids=str,
)
@pytest.mark.parametrize("weights", ["float", "int8"])
def test_settings_of_quantizers_come_back(tmp_path: Path, rules: dict[str, Any], weights: str) -> None:
    model = calibrated("question", 3)
    qdqbert.quantizers(model, rules)

    read = round_trip(model, tmp_path, weights=weights, opset=21)

    assert_same_quantizers(read, model)
    if weights == "float":
        assert_same_state(read, model)
    assert_same_outputs("question", read, model)


def test_tensorrt_float8_comes_back(tmp_path: Path) -> None:
    model = calibrated("question", 3)
    qdqbert.quantizers(model, {"*": {"num_bits": (4, 3)}})
    for name, quantizer in model._core_quantizers():
        if name.endswith("_weight_quantizer"):
            quantizer.set_amax(np.float32(quantizer.amax().max()))

    for weights in ("float", "int8"):
        read = round_trip(model, tmp_path, weights=weights, float8="tensorrt")
        assert_same_quantizers(read, model)
        assert_same_outputs("question", read, model)


def test_learned_ranges_come_back(tmp_path: Path) -> None:
    descriptor = QuantDescriptor(learn_amax=True, amax=1.5)
    qdqbert.nn.QuantLinear.set_default_quant_desc_input(descriptor)
    try:
        model = build("question", 3)
    finally:
        qdqbert.nn.QuantLinear.set_default_quant_desc_input(QuantDescriptor())
    for index, (name, quantizer) in enumerate(model._core_quantizers()):
        if name.endswith("_weight_quantizer"):
            weight = np.asarray(model.get_submodule(name.rpartition(".")[0]).weight)
            quantizer.set_amax(np.abs(weight).max(axis=1, keepdims=True))
        else:
            quantizer.set_clip(-0.1 - index / 30, 0.4 + index / 70)

    read = round_trip(model, tmp_path)

    assert_same_quantizers(read, model)
    assert_same_state(read, model)
    assert_same_outputs("question", read, model)


def test_half_precision_comes_back_as_halves(models: dict[str, Any], tmp_path: Path) -> None:
    model = models["question"]

    read = round_trip(model, tmp_path, precision="fp16")

    assert_same_quantizers(read, model)
    for name, value in model.named_parameters():
        mine = np.asarray(dict(read.named_parameters())[name])
        half = value if name.endswith(("LayerNorm.weight", "LayerNorm.bias")) else value.astype(np.float16)
        assert np.array_equal(mine, half.astype(np.float32)), name


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_come_back_and_unused_tables_are_fresh(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = calibrated("question", 3, position_embedding_type=kind)

    read = round_trip(model, tmp_path)

    assert_same_quantizers(read, model)
    assert_same_outputs("question", read, model)
    unused = "bert.embeddings.position_embeddings.weight"
    for name, value in model.state_dict().items():
        assert name == unused or read.state_dict()[name].tobytes() == value.tobytes(), name
    assert unused in caplog.text


# ---- files that were changed -------------------------------------------------------------------------------


def tampered(model: Any, folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    export(model, folder / "model.onnx")
    proto = onnx.load(folder / "model.onnx")
    change(proto)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return folder / "model.onnx"


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(each for each in proto.graph.initializer if each.name == name)


def add_to(proto: onnx.ModelProto, name: str, value: float) -> None:
    tensor = initializer(proto, name)
    array = onnx.numpy_helper.to_array(tensor) + np.float32(value)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))


def set_property(proto: onnx.ModelProto, key: str, value: str) -> None:
    found = [each for each in proto.metadata_props if each.key == f"qdqbert.{key}"]
    prop = found[0] if found else proto.metadata_props.add(key=f"qdqbert.{key}")
    prop.value = value


def rename_tensor(proto: onnx.ModelProto, name: str, other: str) -> None:
    for tensor in proto.graph.initializer:
        tensor.name = other if tensor.name == name else tensor.name
    for node in proto.graph.node:
        node.input[:] = [other if each == name else each for each in node.input]


def edit_tie(proto: onnx.ModelProto, entries: Any) -> None:
    set_property(proto, "ties", json.dumps({"bert.encoder.layer.1.intermediate.dense.weight": entries}))


def edit_ranges(proto: onnx.ModelProto, **changes: Any) -> None:
    ranges = json.loads(next(each.value for each in proto.metadata_props if each.key == "qdqbert.ranges"))
    name = "bert.encoder.layer.0.output.add_local_input_quantizer"
    ranges[name].update(changes)
    set_property(proto, "ranges", json.dumps(ranges))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda proto: add_to(proto, "bert.encoder.layer.1.output.dense._input_quantizer.scale", 1e-3),
            r"layer\.1\.output\.dense\._input_quantizer\.scale: is not amax / 127",
        ),
        (lambda proto: add_to(proto, "qa_outputs.bias", 1e-3), "checkpoint_sha256"),
        (
            lambda proto: proto.graph.initializer.remove(
                initializer(proto, "bert.encoder.layer.2.output.dense.bias")
            ),
            r"bert\.encoder\.layer\.2\.output\.dense\.bias",
        ),
        (
            lambda proto: setattr(initializer(proto, "qa_outputs.bias"), "name", "extra_outputs.bias"),
            r"qa_outputs\.bias|extra_outputs\.bias",
        ),
        (lambda proto: initializer(proto, "qa_outputs.bias").dims.append(7), "needs 56 bytes, and has 8"),
        (
            lambda proto: setattr(
                initializer(proto, "bert.encoder.layer.0.output.dense._input_quantizer.scale"),
                "name",
                "scale",
            ),
            r"layer\.0\.output\.dense\._input_quantizer: has a range, and the graph has no scale",
        ),
        (lambda proto: set_property(proto, "class", "QDQBertForEverything"), "class: expected one of"),
        (lambda proto: set_property(proto, "class", "from_onnx"), "class: expected one of"),
        (
            lambda proto: set_property(proto, "class", "QDQBertForTokenClassification"),
            "classifier|qa_outputs",
        ),
        (lambda proto: set_property(proto, "config", "{"), r"qdqbert\.config: is not valid JSON"),
        (lambda proto: set_property(proto, "config", "[]"), r"qdqbert\.config: expected a JSON object"),
        (
            lambda proto: set_property(proto, "config", '{"hidden_size": -1}'),
            r"qdqbert\.config: .*hidden_size",
        ),
        (
            lambda proto: set_property(
                proto, "config", '{"vocab_size": 2000000000, "hidden_size": 20, "num_attention_heads": 5}'
            ),
            "describes a model of",
        ),
        (lambda proto: set_property(proto, "ranges", "{}"), "is not amax|has no range"),
        (lambda proto: set_property(proto, "ranges", '{"x": {"amax": 1.0}}'), r"x\._amax"),
        (lambda proto: set_property(proto, "ranges", '{"x": 1}'), r"ranges\['x'\]: expected"),
        (lambda proto: edit_ranges(proto, amax="1"), "amax: expected a number"),
        (lambda proto: edit_ranges(proto, amax={"shape": [3], "float32": "AAAA"}), "has 3 bytes"),
        (lambda proto: edit_ranges(proto, amax={"shape": [-1], "float32": ""}), "amax: expected a number"),
        (lambda proto: edit_ranges(proto, amax={"shape": [1], "float32": "?"}), "is not base64"),
        (lambda proto: edit_ranges(proto, amax=float("nan")), "amax|range"),
        (lambda proto: edit_ranges(proto, amax=10**400), "amax|range"),
        (lambda proto: edit_ranges(proto, clip=[1.0]), "clip: expected two numbers"),
        (lambda proto: edit_ranges(proto, colour=1), "expected amax, pre_quant_scale and clip"),
        (lambda proto: set_property(proto, "ties", "["), "ties: is not valid JSON"),
        (lambda proto: set_property(proto, "ties", '{"x": []}'), r"ties\['x'\]: the file has no parameter"),
        (
            lambda proto: rename_tensor(proto, "bert.embeddings.position_embeddings.weight", "x"),
            r"the file has no bert\.embeddings\.position_embeddings\.weight",
        ),
        (lambda proto: edit_tie(proto, 7), "expected a list, got 7"),
        (lambda proto: edit_tie(proto, [[0, 1.0, 2]]), "expected a place below 740 and a number, got"),
        (lambda proto: edit_tie(proto, [[-1, 1.0]]), "expected a place below 740"),
        (lambda proto: edit_tie(proto, [[740, 1.0]]), "expected a place below 740"),
        (lambda proto: edit_tie(proto, [[True, 1.0]]), "expected a place below 740"),
        (lambda proto: edit_tie(proto, [[0, 1e300]]), "1e.300 is not beside"),
        (lambda proto: edit_tie(proto, [[0, float("nan")]]), "nan is not beside"),
    ],
)
def test_a_file_that_was_changed_is_refused(
    models: dict[str, Any], tmp_path: Path, change: Callable[[onnx.ModelProto], object], text: str
) -> None:
    path = tampered(models["question"], tmp_path, change)

    with pytest.raises(CheckpointError, match=text) as caught:
        from_onnx(path)

    assert str(caught.value).startswith(f"{path}: ")

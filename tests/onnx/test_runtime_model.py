# SPDX-License-Identifier: Apache-2.0
"""`OnnxRuntimeModel`: a file in a runtime is called as the model that it is from.

The runtime is ONNX's reference evaluator behind onnxruntime's interface; test_runtimes.py has the real one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import CLASSES, batch, calibrated
from ties import ROUNDING

import qdqbert
import reference_onnxruntime
from graph_runs import exported
from qdqbert.onnx import OnnxRuntimeModel


@pytest.fixture
def session(monkeypatch):
    """Class of the sessions that are made; its ``last`` is the newest."""
    return reference_onnxruntime.put_in_place(monkeypatch)


def file_of(kind, folder: Path, change=None, **options) -> Path:
    """A file of a model of that kind, changed by a function."""
    path = folder / "model.onnx"
    proto = exported(calibrated(kind), **options)
    if change is not None:
        change(proto)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("kind", CLASSES)
def test_it_returns_what_the_model_returns(session, tmp_path, kind):
    model, inputs = calibrated(kind), batch(kind)

    found = OnnxRuntimeModel(file_of(kind, tmp_path))(**inputs)

    expected = model(**inputs)
    names = [name for name, _ in expected.items() if name != "past_key_values"]
    assert list(found.keys()) == names
    for name in names:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["causal", "decoder", "cross"])
def test_a_cache_goes_in_empty(session, tmp_path, kind):
    model, inputs = calibrated(kind), batch(kind)

    found = OnnxRuntimeModel(file_of(kind, tmp_path, use_cache=True))(**inputs)

    [fed] = session.last.fed
    caches = {name: value for name, value in fed.items() if name.startswith("past_key_values.")}
    assert len(caches) == 6
    assert {value.shape for value in caches.values()} == {(3, 5, 0, 4)}
    np.testing.assert_allclose(found[0], model(**inputs)[0], rtol=0, atol=ROUNDING)
    assert "past_key_values" not in found


def test_exact_kernels_are_asked_for(session, tmp_path):
    path = file_of("question", tmp_path)

    OnnxRuntimeModel(path, optimizes=False, num_threads=3)

    assert session.last.options.entries == {"session.x64quantprecision": "1"}
    assert session.last.options.graph_optimization_level == 0
    assert session.last.options.intra_op_num_threads == 3
    assert session.last.providers == ["CPUExecutionProvider"]
    OnnxRuntimeModel(path)
    assert session.last.options.graph_optimization_level == 99
    assert session.last.options.intra_op_num_threads == qdqbert.get_num_threads()


def test_it_says_what_the_file_is_of(session, tmp_path):
    model = calibrated("token")

    runtime = OnnxRuntimeModel(file_of("token", tmp_path))

    assert runtime.model_class == "QDQBertForTokenClassification"
    assert runtime.config.to_dict()["id2label"] == model.config.to_dict()["id2label"]
    assert runtime.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert runtime.output_names == ("logits",)


def test_a_file_of_others_says_nothing_of_itself(session, tmp_path):
    def change(proto):
        del proto.metadata_props[:]

    runtime = OnnxRuntimeModel(file_of("sequence", tmp_path, change))

    assert (runtime.model_class, runtime.config) == (None, None)


def test_inputs_have_the_types_of_the_file(session, tmp_path):
    def change(proto):
        for each in proto.graph.input:
            each.type.tensor_type.elem_type = onnx.TensorProto.INT32

    runtime = OnnxRuntimeModel(file_of("sequence", tmp_path, change))
    inputs = batch("sequence")

    found = runtime(**{name: value.tolist() for name, value in inputs.items()})

    assert {value.dtype for value in session.last.fed[0].values()} == {np.dtype(np.int32)}
    np.testing.assert_allclose(found.logits, calibrated("sequence")(**inputs).logits, rtol=0, atol=ROUNDING)


def test_token_types_may_be_missing_from_a_file_if_all_are_0(session, tmp_path):
    def change(proto):
        kept = [each for each in proto.graph.input if each.name != "token_type_ids"]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
        zero = onnx.numpy_helper.from_array(np.zeros((1, 1), np.int64), "token_type_ids")
        proto.graph.initializer.append(zero)

    runtime = OnnxRuntimeModel(file_of("sequence", tmp_path, change))
    inputs = batch("sequence")
    zeros = {**inputs, "token_type_ids": np.zeros_like(inputs["token_type_ids"])}

    found = runtime(**zeros)

    np.testing.assert_allclose(found.logits, calibrated("sequence")(**zeros).logits, rtol=0, atol=ROUNDING)
    with pytest.raises(
        ValueError, match=r"token_type_ids: .* has no such input; it has input_ids, attention_"
    ):
        runtime(**inputs)


def test_inputs_that_do_not_fit_are_named(session, tmp_path):
    runtime = OnnxRuntimeModel(file_of("question", tmp_path))
    inputs = batch("question")

    with pytest.raises(ValueError, match=r"^position_ids: .*model.onnx has no such input"):
        runtime(**inputs, position_ids=inputs["input_ids"])
    del inputs["input_ids"]
    with pytest.raises(ValueError, match=r"^input_ids: .*model.onnx needs it, and it is missing"):
        runtime(**inputs)
    assert session.last.fed == []


@pytest.mark.parametrize("kind", ["sequence", "choice", "cross"])
def test_what_is_left_out_is_what_a_model_takes_for_it(session, tmp_path, kind):
    model, inputs = calibrated(kind), batch(kind)
    kept = {name: inputs[name] for name in ("input_ids", "encoder_hidden_states") if name in inputs}

    found = OnnxRuntimeModel(file_of(kind, tmp_path))(**kept)

    np.testing.assert_allclose(found.logits, model(**kept).logits, rtol=0, atol=ROUNDING)


def test_inputs_may_be_given_by_place_and_outputs_as_a_tuple(session, tmp_path):
    runtime, inputs = OnnxRuntimeModel(file_of("question", tmp_path)), batch("question")
    places = [inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")]

    start, end = runtime(*places, return_dict=False)

    expected = runtime(**inputs, return_dict=True)
    assert np.array_equal(start, expected.start_logits)
    assert np.array_equal(end, expected.end_logits)


@pytest.mark.parametrize(
    ("name", "change", "kind", "sentence"),
    [
        ("input_ids", lambda ids: ids + 0.5, TypeError, "expected integers, got float64"),
        ("input_ids", lambda ids: ids - 100, IndexError, "has -.*, expected at least 0"),
        ("input_ids", lambda ids: ids[0], ValueError, r"expected the axes \(batch_size, seq_len\), got the"),
        ("input_ids", lambda ids: [[1, 2], [3]], ValueError, "rows of one length expected"),
        ("input_ids", lambda ids: ids.astype(str), TypeError, "expected integers, got <U"),
        ("token_type_ids", lambda ids: ids * 1.0, TypeError, "expected integers, got float64"),
        ("attention_mask", lambda mask: mask * 0.5, ValueError, r"is 0\.5, expected 0 or 1"),
        ("attention_mask", lambda mask: mask * 2, ValueError, "has 2, expected 0 or 1"),
    ],
)
def test_what_no_model_takes_is_refused_as_models_do(session, tmp_path, name, change, kind, sentence):
    runtime, inputs = OnnxRuntimeModel(file_of("question", tmp_path)), batch("question")
    inputs[name] = change(inputs[name])

    with pytest.raises(kind, match=rf"^{name}(\[.*\])?:? {sentence}"):
        runtime(**inputs)

    assert session.last.fed == []


@pytest.mark.parametrize("kind", [bool, np.float32, np.int32])
def test_masks_may_have_other_types(session, tmp_path, kind):
    runtime, inputs = OnnxRuntimeModel(file_of("question", tmp_path)), batch("question")

    found = runtime(**{**inputs, "attention_mask": inputs["attention_mask"].astype(kind)})

    assert np.array_equal(found.start_logits, runtime(**inputs).start_logits)


def test_its_text_names_file_class_and_inputs(session, tmp_path):
    path = file_of("token", tmp_path)

    inputs = "input_ids, attention_mask, token_type_ids"
    assert (
        repr(OnnxRuntimeModel(path))
        == f"OnnxRuntimeModel('{path}', a QDQBertForTokenClassification: {inputs})"
    )


def test_a_failure_of_the_runtime_names_file_and_shapes(session, tmp_path):
    runtime = OnnxRuntimeModel(file_of("question", tmp_path))
    inputs = batch("question", 2, 24)  # one position more than there are

    with pytest.raises(
        qdqbert.UnsupportedError, match=r"model.onnx: onnxruntime failed on input_ids \(2, 24\)"
    ):
        runtime(**inputs)


def test_outputs_of_no_model_are_refused(session, tmp_path):
    def change(proto):
        for node in proto.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        proto.graph.output[0].name = "scores"

    path = file_of("sequence", tmp_path, change)

    with pytest.raises(qdqbert.UnsupportedError, match="its outputs are scores; expected logits"):
        OnnxRuntimeModel(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "is not valid JSON"), ("[]", "expected a JSON object"), ('{"model_type": "gpt"}', "'gpt' is not")],
)
def test_a_configuration_that_cannot_be_is_named(session, tmp_path, text, sentence):
    def change(proto):
        for each in proto.metadata_props:
            if each.key == "qdqbert.config":
                each.value = text

    path = file_of("sequence", tmp_path, change)

    with pytest.raises(qdqbert.CheckpointError, match=rf"model.onnx: property qdqbert.config: .*{sentence}"):
        OnnxRuntimeModel(path)


def test_a_missing_file_and_no_threads_are_refused(session, tmp_path):
    with pytest.raises(qdqbert.CheckpointError, match="there is no such file"):
        OnnxRuntimeModel(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="num_threads: expected at least 1, got 0"):
        OnnxRuntimeModel(file_of("sequence", tmp_path), num_threads=0)
    with pytest.raises(TypeError, match=r"num_threads: expected an integer, got 2\.5"):
        OnnxRuntimeModel(file_of("sequence", tmp_path), num_threads=2.5)


def test_without_the_runtime_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)

    with pytest.raises(qdqbert.UnsupportedError, match="onnxruntime is not installed"):
        OnnxRuntimeModel(file_of("sequence", tmp_path))

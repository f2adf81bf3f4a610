# SPDX-License-Identifier: Apache-2.0
"""Which quantizers new models get, and the two switches for export."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import nn, quant_modules
from qdqbert.errors import StateError, UnsupportedError
from qdqbert.nn import QuantLinear, TensorQuantizer
from qdqbert.rules import named_quantizers
from qdqbert.tensor_quant import QuantDescriptor

LINEARS = ("._input_quantizer", "._weight_quantizer")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process as it was."""
    yield
    qdqbert.deactivate()
    TensorQuantizer.use_fb_fake_quant = False
    assert TensorQuantizer._enable_onnx_export is False
    assert nn.Linear is QuantLinear


class Coarse(QuantLinear):
    default_quant_desc_input = QuantDescriptor(num_bits=5)
    default_quant_desc_weight = QuantDescriptor(num_bits=4, axis=(0,))


def disabled(model: Any) -> list[str]:
    return [name for name, quantizer in named_quantizers(model) if quantizer._disabled]


def formats(model: Any) -> set[Any]:
    return {quantizer.num_bits for _, quantizer in named_quantizers(model)}


# ---- initialize and deactivate -----------------------------------------------------------------------------


def test_new_models_have_every_quantizer_on_with_or_without_a_call() -> None:
    before = repr(tiny_model.question_answering())
    qdqbert.initialize()
    assert repr(tiny_model.question_answering()) == before
    assert disabled(tiny_model.question_answering()) == []
    qdqbert.deactivate()
    assert repr(tiny_model.question_answering()) == before


def test_linear_layers_can_be_left_float() -> None:
    qdqbert.initialize(float_module_list=["Linear"])
    model = tiny_model.question_answering()
    off = disabled(model)
    assert off == [name for name, _ in named_quantizers(model) if name.endswith(LINEARS)]
    assert len(off) == 2 * 6 * 2  # layers, linears, quantizers of each
    assert len(named_quantizers(model)) == 2 * 20


def test_linear_layers_of_cross_attention_are_left_float_too() -> None:
    qdqbert.initialize(["Linear"])
    config = tiny_model.config(is_decoder=True, add_cross_attention=True)
    model = qdqbert.QDQBertLMHeadModel(config)
    assert len(named_quantizers(model)) == 2 * (20 + 14)
    assert len(disabled(model)) == 2 * 10 * 2  # layers, linears, quantizers of each
    assert any("crossattention.self.query._weight_quantizer" in name for name in disabled(model))


def test_a_model_with_float_linears_computes_as_if_they_were_switched_off() -> None:
    quantized = tiny_model.question_answering()
    qdqbert.initialize(["Linear"])
    model, batch = tiny_model.question_answering(), tiny_model.batch()
    qdqbert.quantizers(quantized, {f"*{end}": "off" for end in LINEARS})
    np.testing.assert_array_equal(model(**batch).start_logits, quantized(**batch).start_logits)
    model.bert.encoder.layer[0].output.dense.input_quantizer.enable()
    assert not np.array_equal(model(**batch).start_logits, quantized(**batch).start_logits)


def test_deactivate_gives_new_models_every_quantizer_and_leaves_old_ones() -> None:
    qdqbert.initialize(["Linear"])
    old = tiny_model.question_answering()
    qdqbert.deactivate()
    assert disabled(tiny_model.question_answering()) == []
    assert len(disabled(old)) == 24


def test_a_second_initialize_starts_anew() -> None:
    namespace = types.SimpleNamespace(Linear="float")
    qdqbert.initialize(["Linear"], [(namespace, "Linear", "first")])
    qdqbert.initialize(None, [(namespace, "Linear", "second")])
    assert namespace.Linear == "second"
    assert disabled(tiny_model.question_answering()) == []
    qdqbert.deactivate()
    assert namespace.Linear == "float"


def test_modules_that_bert_does_not_have_can_be_left_out_too() -> None:
    qdqbert.initialize(["Conv2d", "ConvTranspose1d", "LSTM", "LSTMCell", "AvgPool3d", "AdaptiveAvgPool2d"])
    assert disabled(tiny_model.question_answering()) == []


@pytest.mark.parametrize("names", [["linear"], ["Linear", "Embedding"], ["Conv4d"], [3]])
def test_a_name_that_is_never_replaced_is_refused_and_changes_nothing(names: Any) -> None:
    qdqbert.initialize(["Linear"])
    with pytest.raises(ValueError, match="float_module_list") as caught:
        qdqbert.initialize(names)
    assert str(next(name for name in names if name != "Linear")) in str(caught.value)
    assert len(disabled(tiny_model.question_answering())) == 24


def test_a_string_is_no_list_of_names() -> None:
    with pytest.raises(TypeError, match="got the string 'Linear'"):
        qdqbert.initialize("Linear")


# ---- custom modules ----------------------------------------------------------------------------------------


def test_a_custom_linear_decides_for_new_models_and_overrides_the_exclusion() -> None:
    qdqbert.initialize(["Linear"], [(nn, "Linear", Coarse)])
    model = tiny_model.question_answering()
    assert nn.Linear is Coarse
    assert disabled(model) == []
    assert formats(model) == {4, 5}
    qdqbert.deactivate()
    assert nn.Linear is QuantLinear
    assert formats(tiny_model.question_answering()) == {8}


def test_any_attribute_can_be_replaced_until_deactivate() -> None:
    namespace = types.SimpleNamespace(Dense="float", Other=1)
    qdqbert.initialize(custom_quant_modules=[(namespace, "Dense", "a"), (namespace, "Dense", "b")])
    assert (namespace.Dense, namespace.Other) == ("b", 1)
    qdqbert.deactivate()
    assert namespace.Dense == "float"
    qdqbert.deactivate()
    assert namespace.Dense == "float"


@pytest.mark.parametrize(
    ("entry", "error", "text"),
    [
        ((nn, "Linear", TensorQuantizer), TypeError, "expected a subclass of QuantLinear"),
        ((nn, "Linear", Coarse(2, 3)), TypeError, "expected a subclass of QuantLinear"),
        ((nn, "Linaer", Coarse), AttributeError, "Linaer"),
        ((nn, "Conv2d", Coarse), ImportError, "out of scope"),
        ((nn, "Linear"), TypeError, r"expected \(module, name, replacement\)"),
        ({"Linear": Coarse}, TypeError, "custom_quant_modules"),
        ((nn, 3, Coarse), TypeError, "custom_quant_modules"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_and_changes_nothing(
    entry: Any, error: type[Exception], text: str
) -> None:
    namespace = types.SimpleNamespace(Dense="float")
    with pytest.raises(error, match=text):
        qdqbert.initialize(["Linear"], [(namespace, "Dense", "quantized"), entry])
    assert namespace.Dense == "float"
    assert disabled(tiny_model.question_answering()) == []


def test_an_attribute_that_cannot_be_set_leaves_everything_as_it_was() -> None:
    holder = types.SimpleNamespace(first=1, second=2)
    qdqbert.initialize(["Linear"], [(holder, "first", 10)])
    with pytest.raises(TypeError, match="real"):
        qdqbert.initialize([], [(holder, "second", 20), (holder, "first", 11), (int, "real", 30)])
    assert (holder.first, holder.second) == (10, 2)
    assert disabled(tiny_model.question_answering())
    qdqbert.deactivate()
    assert (holder.first, holder.second) == (1, 2)
    assert not disabled(tiny_model.question_answering())


def test_a_linear_whose_forward_models_would_not_run_is_refused() -> None:
    class Own(QuantLinear):
        def forward(self, input: Any) -> Any:
            return super().forward(input) * 2

    with pytest.raises(UnsupportedError, match="Own has a forward of its own"):
        qdqbert.initialize(custom_quant_modules=[(nn, "Linear", Own)])


def test_the_helper_does_the_same_in_three_steps() -> None:
    helper = quant_modules.QuantModuleReplacementHelper()
    helper.prepare_state(["Linear"], None)
    assert disabled(tiny_model.question_answering()) == []
    helper.apply_quant_modules()
    assert len(disabled(tiny_model.question_answering())) == 24
    helper.restore_float_modules()
    assert disabled(tiny_model.question_answering()) == []
    assert "Linear" in helper.default_quant_map


def test_a_folder_that_records_its_quantization_is_built_as_recorded(tmp_path: Path) -> None:
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()])
    name = "bert.encoder.layer.0.output.dense._input_quantizer"
    qdqbert.quantizers(model, {name: "off"})
    model.save_pretrained(tmp_path)

    qdqbert.initialize(["Linear"])
    loaded = qdqbert.QDQBertForQuestionAnswering.from_pretrained(tmp_path)
    assert disabled(loaded) == [name]
    np.testing.assert_array_equal(
        loaded(**tiny_model.batch()).start_logits, model(**tiny_model.batch()).start_logits
    )


def test_a_model_built_with_float_linears_is_saved_and_loaded_as_such(tmp_path: Path) -> None:
    qdqbert.initialize(["Linear"])
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()])
    model.save_pretrained(tmp_path)
    qdqbert.deactivate()
    loaded = qdqbert.QDQBertForQuestionAnswering.from_pretrained(tmp_path)
    assert disabled(loaded) == disabled(model)
    assert len(disabled(loaded)) == 24


# ---- export switches ---------------------------------------------------------------------------------------


def calibrated() -> Any:
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()])
    return model


def test_a_calibrated_model_computes_the_same_under_either_switch() -> None:
    model, batch = calibrated(), tiny_model.batch()
    expected = model(**batch).start_logits
    with qdqbert.enable_onnx_export():
        np.testing.assert_array_equal(model(**batch).start_logits, expected)
    TensorQuantizer.use_fb_fake_quant = True
    np.testing.assert_array_equal(model(**batch).start_logits, expected)


def test_a_model_without_ranges_is_not_ready_for_export_and_names_the_quantizer() -> None:
    model, batch = calibrated(), tiny_model.batch()
    name = "bert.encoder.layer.1.attention.self.matmul_k_input_quantizer"
    del model.get_submodule(name)._amax
    with (
        qdqbert.enable_onnx_export(),
        pytest.raises(StateError, match=rf"has not been calibrated.*Quantizer: {name}"),
    ):
        model(**batch)
    model(**batch)


def test_what_is_off_needs_no_range_for_export() -> None:
    with qdqbert.enable_onnx_export():
        assert TensorQuantizer(disabled=True)([2.0]) == 2.0
        assert TensorQuantizer(if_quant=False)([2.0]) == 2.0
        assert TensorQuantizer(QuantDescriptor(learn_amax=True))([2.0]) == 1.0


def test_a_linear_layer_checks_both_quantizers() -> None:
    x = np.ones((1, 3), np.float32)
    for ready in ("quant_desc_input", "quant_desc_weight"):
        linear = QuantLinear(3, 2, **{ready: QuantDescriptor(amax=1.0)})
        with qdqbert.enable_onnx_export(), pytest.raises(StateError, match="has not been calibrated"):
            linear(x)


def test_e4m3_is_exported_per_tensor_only() -> None:
    x = np.ones((2, 3), np.float32)
    one = TensorQuantizer(QuantDescriptor(num_bits=(4, 3), amax=1.0))
    two = TensorQuantizer(QuantDescriptor(num_bits=(4, 3), amax=[[1.0], [2.0]]))
    with qdqbert.enable_onnx_export():
        one(x)
        with pytest.raises(StateError, match=r"scalar amax\. Received non-scalar amax of shape: \(2, 1\)"):
            two(x)


def test_a_quantizer_that_still_calibrates_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    model = calibrated()
    name = "bert.encoder.layer.0.output.dense._input_quantizer"
    model.get_submodule(name).enable_calib()
    with qdqbert.enable_onnx_export():
        model(**tiny_model.batch())
    assert [text.split(":")[0] for text in caplog.messages] == [name]
    assert "Quantizer is in calibration mode" in caplog.text


def test_the_switch_is_put_back_after_an_exception_and_nests() -> None:
    def failing_export() -> None:
        with qdqbert.enable_onnx_export():
            with qdqbert.enable_onnx_export():
                pass
            assert TensorQuantizer._enable_onnx_export is True
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_export()
    assert TensorQuantizer._enable_onnx_export is False


def test_the_old_switch_takes_dynamic_ranges_as_the_original_did() -> None:
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = TensorQuantizer()(x)
    TensorQuantizer.use_fb_fake_quant = True
    np.testing.assert_array_equal(TensorQuantizer()(x), expected)


@pytest.mark.parametrize(
    ("fields", "dtype", "error", "text"),
    [
        ({"amax": 1.0}, np.float16, UnsupportedError, "Exporting to ONNX in fp16 is not supported"),
        ({"axis": (0, 1)}, np.float32, TypeError, "doesn't support multiple axes"),
        ({"amax": [[1.0, 2.0], [3.0, 4.0]]}, np.float32, TypeError, "doesn't support multiple axes"),
        ({"narrow_range": True}, np.float32, StateError, "always uses the full range"),
        ({"num_bits": (4, 3)}, np.float32, UnsupportedError, "no E4M3"),
    ],
)
def test_what_native_quantization_could_not_do_is_refused_under_the_old_switch(
    fields: dict[str, Any], dtype: Any, error: type[Exception], text: str
) -> None:
    quantizer, x = TensorQuantizer(QuantDescriptor(**fields)), np.ones((2, 2), dtype)
    quantizer(x)
    TensorQuantizer.use_fb_fake_quant = True
    with pytest.raises(error, match=text):
        quantizer(x)
    quantizer.disable()
    np.testing.assert_array_equal(quantizer(x), x)


def test_the_old_switch_is_honoured_by_models_and_names_the_quantizer() -> None:
    model, batch = calibrated(), tiny_model.batch()
    name = "bert.encoder.layer.1.output.add_residual_input_quantizer"
    qdqbert.quantizers(model, {name: {"narrow_range": True}})
    TensorQuantizer.use_fb_fake_quant = True
    with pytest.raises(StateError, match=rf"narrow_range=True\. Quantizer: {name}"):
        model(**batch)

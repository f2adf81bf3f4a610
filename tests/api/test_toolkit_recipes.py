# SPDX-License-Identifier: Apache-2.0
"""The toolkit as its users put it together: build, print, calibrate, save, as the original's own tests do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import calib, tensor_quant
from qdqbert import nn as quant_nn
from qdqbert.nn.modules.tensor_quantizer import TensorQuantizer
from qdqbert.tensor_quant import QuantDescriptor


class Net(quant_nn.Module):
    """Three layers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.fc1 = quant_nn.Linear(16, 33, seed=1, **kwargs)
        self.fc2 = quant_nn.QuantLinear(33, 17, bias=False, seed=2, **kwargs)
        self.fc3 = quant_nn.QuantLinear(17, 3, seed=3, **kwargs)

    def forward(self, x: Any) -> Any:
        return self.fc3(np.maximum(self.fc2(np.maximum(self.fc1(x), 0)), 0))


X = np.random.default_rng(9).normal(size=(19, 16)).astype(np.float32)


# ---- build and run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("amax", [None, 6.0])
def test_a_network_of_quantized_layers_runs(amax: float | None) -> None:
    net = Net(quant_desc_input=QuantDescriptor(amax=amax), quant_desc_weight=QuantDescriptor(amax=amax))
    assert net(X).shape == (19, 3)
    for name, module in net.named_modules():
        if name.endswith("_quantizer"):
            module.disable()
    # A float32 chain of K products and a sum errs by (K + 1) 2**-24 of the sum of their magnitudes, and
    # passes the error of its input on through the magnitudes of the weight.
    exact, error = X.astype(np.float64), np.zeros(X.shape)
    for layer in (net.fc1, net.fc2, net.fc3):
        weight = layer.weight.astype(np.float64)
        bias = 0.0 if layer.bias is None else layer.bias.astype(np.float64)
        magnitude = np.abs(exact) @ np.abs(weight.T) + np.abs(bias)
        error = error @ np.abs(weight.T) + (layer.in_features + 1) * 2.0**-24 * magnitude
        exact = exact @ weight.T + bias
        if layer is not net.fc3:
            exact = np.maximum(exact, 0)
    assert np.all(np.abs(net(X) - exact) <= error)


def test_predefined_descriptors_build_it_too() -> None:
    descriptor = tensor_quant.QUANT_DESC_8BIT_PER_TENSOR
    net = Net(quant_desc_input=descriptor, quant_desc_weight=descriptor)
    assert {name for name, _ in net.named_parameters()} == {
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc3.weight",
        "fc3.bias",
    }


def test_half_precision_in_half_precision_out() -> None:
    assert Net()(X.astype(np.float16)).dtype == np.float16


# ---- calibrate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calib_method", "arguments"),
    [
        ("max", {}),
        ("histogram", {"method": "percentile", "percentile": 99.9}),
        ("histogram", {"method": "mse"}),
    ],
)
def test_the_calibration_loop_of_the_users_guide(calib_method: str, arguments: dict[str, Any]) -> None:
    net = Net(
        quant_desc_input=QuantDescriptor(calib_method=calib_method),
        quant_desc_weight=QuantDescriptor(axis=(0,)),
    )
    for name, module in net.named_modules():
        if name.endswith("_quantizer"):
            if module._calibrator is not None:
                module.disable_quant()
                module.enable_calib()
            else:
                module.disable()
    floats = net(X)
    for name, module in net.named_modules():
        if name.endswith("_quantizer"):
            if module._calibrator is not None:
                is_max = isinstance(module._calibrator, calib.MaxCalibrator)
                module.load_calib_amax(**({} if is_max else arguments))
                module.enable_quant()
                module.disable_calib()
            else:
                module.enable()

    static = net(X)
    ranges = [name for name, _ in net.named_buffers()]
    assert ranges == [f"fc{i}._{kind}_quantizer._amax" for i in (1, 2, 3) for kind in ("input", "weight")]
    assert not np.array_equal(static, floats)
    if calib_method == "max":
        # The ranges are those of the float activations: the first layer's are the same as the dynamic ones.
        assert net.fc1.input_quantizer.amax == np.abs(X).max()
    for module in net.modules():
        if isinstance(module, TensorQuantizer):
            module.num_bits = 4
    # The same ranges in 16 times coarser steps: what is lost must grow, by far more than 2 times.
    assert np.abs(net(X) - floats).mean() > 2 * np.abs(static - floats).mean()


def test_weights_of_a_whole_model_are_calibrated_in_one_call() -> None:
    model = tiny_model.question_answering()
    calib.calibrate_weights(model, method="max", perchannel=True)
    for name, module in model.named_modules():
        if isinstance(module, quant_nn.QuantLinear):
            amax = module.weight_quantizer.amax
            np.testing.assert_array_equal(amax, np.abs(module.weight).max(1, keepdims=True), err_msg=name)
    calibrated = [name for name, _ in model.named_buffers() if name.endswith("_amax")]
    assert len(calibrated) == 12
    assert all(name.endswith("_weight_quantizer._amax") for name in calibrated)


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
@pytest.mark.parametrize("perchannel", [False, True])
def test_every_method_of_weight_calibration_gives_a_model_that_runs(method: str, perchannel: bool) -> None:
    model, batch = tiny_model.question_answering(), tiny_model.batch()
    before = model(**batch).start_logits
    calib.calibrate_weights(model, method=method, perchannel=perchannel, percentile=99.0, num_bins=512)
    shapes = {m.weight_quantizer.amax.ndim for m in model.modules() if isinstance(m, quant_nn.QuantLinear)}
    assert shapes == {2 if perchannel else 0}
    after = model(**batch).start_logits
    assert np.isfinite(after).all()
    assert np.array_equal(after, before) == (method == "max" and perchannel)


# ---- a whole script ----------------------------------------------------------------------------------------

SCRIPT = """
import pytorch_quantization.utils as quant_utils
from pytorch_quantization import calib, enable_onnx_export, quant_modules
from pytorch_quantization import nn as quant_nn
from pytorch_quantization.nn.modules import _utils as quant_nn_utils
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from pytorch_quantization.optim import helper
from pytorch_quantization.tensor_quant import QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW, QuantDescriptor

quant_modules.initialize()
input_desc = QuantDescriptor(num_bits=8, calib_method="histogram")
quant_nn.QuantLinear.set_default_quant_desc_input(input_desc)
quant_nn.QuantLinear.set_default_quant_desc_weight(QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW)
model = build()
quant_modules.deactivate()


def collect_stats(model, batches):
    for name, module in model.named_modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            if module._calibrator is not None:
                if isinstance(module._calibrator, calib.HistogramCalibrator):
                    module._calibrator._torch_hist = True
                module.disable_quant()
                module.enable_calib()
            else:
                module.disable()
    for batch in batches:
        model(**batch)
    for name, module in model.named_modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            if module._calibrator is not None:
                module.enable_quant()
                module.disable_calib()
            else:
                module.enable()


def compute_amax(model, **kwargs):
    for name, module in model.named_modules():
        if isinstance(module, TensorQuantizer) and module._calibrator is not None:
            if isinstance(module._calibrator, calib.MaxCalibrator):
                module.load_calib_amax(strict=False)
            else:
                module.load_calib_amax(**kwargs)


collect_stats(model, batches)
compute_amax(model, method="percentile", percentile=99.99)
for name, module in model.named_modules():
    if name.endswith("_input_quantizer"):
        assert module.step_size == module._amax / module.maxbound
for name, module in model.named_modules():
    if name.endswith("output.dense") and "attention" not in name:
        module._input_quantizer._amax = min(module._input_quantizer._amax, 10.0)
    if isinstance(module, quant_nn.QuantLinear):
        assert (module._weight_quantizer.amax == quant_utils.reduce_amax(module.weight, axis=1)).all()
helper.freeze_parameters(model, ["embeddings"])
groups = helper.group_parameters(model, [["weight$"], ["bias$"]], lrs=[1e-4, 1e-3])
with enable_onnx_export():
    outputs = model(**batches[0])
quantizers = [m for m in model.modules() if isinstance(m, TensorQuantizer) and not m._disabled]
"""


def test_a_script_moves_over_by_changing_its_imports() -> None:
    space: dict[str, Any] = {
        "build": tiny_model.question_answering,
        "batches": [tiny_model.batch(seed=seed) for seed in range(3)],
    }
    saved = quant_nn.QuantLinear.default_quant_desc_input, quant_nn.QuantLinear.default_quant_desc_weight
    try:
        exec(SCRIPT.replace("pytorch_quantization", "qdqbert"), space)
    finally:
        quant_nn.QuantLinear.default_quant_desc_input, quant_nn.QuantLinear.default_quant_desc_weight = saved

    model = space["model"]
    assert len(space["quantizers"]) == 40
    assert all(quantizer.amax is not None for quantizer in space["quantizers"])
    assert [group["lr"] for group in space["groups"]] == [1e-4, 1e-3]
    assert sum(len(group["params"]) for group in space["groups"]) == len(list(model.parameters()))
    assert all(p.requires_grad == ("embeddings" not in name) for name, p in model.named_parameters())
    assert np.isfinite(space["outputs"].start_logits).all()


# ---- save and load -----------------------------------------------------------------------------------------


def test_a_calibrated_network_survives_its_state_dict() -> None:
    net, other = Net(), Net()
    net.fc2.input_quantizer.pre_quant_scale = np.linspace(0.5, 2.0, 33).astype(np.float32)
    net.fc1.input_quantizer.amax = 2.0
    net.load_state_dict({**net.state_dict(), "fc3.bias": np.float32([1, 2, 3])})
    result = other.load_state_dict(net.state_dict())
    assert str(result) == "<All keys matched successfully>"
    np.testing.assert_array_equal(other(X), net(X))


def test_a_pre_quant_scale_survives_saving_a_model(tmp_path: Path) -> None:
    model, batch = tiny_model.question_answering(), tiny_model.batch()
    name = "bert.encoder.layer.1.intermediate.dense._input_quantizer"
    factor = np.linspace(0.5, 2.0, 24).astype(np.float32)
    model.get_submodule(name).pre_quant_scale = factor
    model.save_pretrained(tmp_path)
    loaded = qdqbert.QDQBertForQuestionAnswering.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.get_submodule(name).pre_quant_scale, factor)
    np.testing.assert_array_equal(loaded(**batch).start_logits, model(**batch).start_logits)
    plain = tiny_model.question_answering()
    assert not np.array_equal(plain(**batch).start_logits, model(**batch).start_logits)


# ---- print -------------------------------------------------------------------------------------------------


def test_everything_prints() -> None:
    tracked, histogram = calib.MaxCalibrator(7, 1, False), calib.HistogramCalibrator(8, None, True, 4)
    histogram.collect(np.linspace(0, 1, 10))
    assert str(tensor_quant.QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL) == "QuantDescriptor(8bit fake axis=0)"
    assert str(TensorQuantizer()) == (
        "TensorQuantizer(8bit fake per-tensor amax=dynamic calibrator=MaxCalibrator scale=1.0 quant)"
    )
    assert str(tracked) == "MaxCalibrator(track_amax=False)"
    assert repr(tracked) == (
        "MaxCalibrator(num_bits=7 axis=1 unsigned=False calib_amax=None track_amax=False)"
    )
    assert str(histogram) == "HistogramCalibrator(calib_bin_edges=[0.000, ..., 1.000](5))"
    assert repr(histogram) == (
        "HistogramCalibrator(num_bits=8 axis=None unsigned=True calib_bin_edges="
        "array([0.  , 0.25, 0.5 , 0.75, 1.  ], dtype=float32) calib_hist=array([3, 2, 2, 3]))"
    )


def test_a_network_prints_its_layers_and_quantizers() -> None:
    net = Net(quant_desc_input=QuantDescriptor(amax=2.0), quant_desc_weight=QuantDescriptor(axis=(0,)))
    net.fc2.weight_quantizer.disable()
    quantizer = "8bit fake per-tensor amax=2.0000 calibrator=MaxCalibrator scale=1.0 quant"
    weight = "8bit fake axis=(0,) amax=dynamic calibrator=MaxCalibrator scale=1.0 quant"
    assert repr(net) == (
        "Net(\n"
        "  (fc1): QuantLinear(\n"
        "    in_features=16, out_features=33, bias=True\n"
        f"    (_input_quantizer): TensorQuantizer({quantizer})\n"
        f"    (_weight_quantizer): TensorQuantizer({weight})\n"
        "  )\n"
        "  (fc2): QuantLinear(\n"
        "    in_features=33, out_features=17, bias=False\n"
        f"    (_input_quantizer): TensorQuantizer({quantizer})\n"
        "    (_weight_quantizer): TensorQuantizer(disabled)\n"
        "  )\n"
        "  (fc3): QuantLinear(\n"
        "    in_features=17, out_features=3, bias=True\n"
        f"    (_input_quantizer): TensorQuantizer({quantizer})\n"
        f"    (_weight_quantizer): TensorQuantizer({weight})\n"
        "  )\n"
        ")"
    )

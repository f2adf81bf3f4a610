# SPDX-License-Identifier: Apache-2.0
"""Small programs of users of the toolkit: see test_typed_models.py."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import qdqbert
from qdqbert import calib, nn, tensor_quant
from qdqbert.tensor_quant import QuantDescriptor

Array = npt.NDArray[Any]


def test_quantizers() -> None:
    quantizer = nn.TensorQuantizer(QuantDescriptor(num_bits=4, amax=7.0))
    y = quantizer([0.4, 2.6, 9.0])
    assert_type(y, Array)
    assert y.tolist() == [0.0, 3.0, 7.0]
    amax = quantizer.amax
    assert_type(amax, Array | None)
    assert amax is not None
    quantizer.amax = 2 * amax
    quantizer.disable()
    assert quantizer.extra_repr() == "disabled"


def test_layers() -> None:
    layer = nn.QuantLinear(3, 2, bias=False)
    assert_type(layer(np.ones((5, 3), np.float32)), Array)
    assert_type(layer.weight_quantizer, nn.TensorQuantizer)
    layer.weight = np.zeros((2, 3))
    assert layer.bias is None
    assert isinstance(layer, nn.Module)


def test_calibrators() -> None:
    calibrator = calib.HistogramCalibrator(8, None, False, num_bins=64)
    calibrator.collect(np.arange(10.0))
    amax = calibrator.compute_amax("percentile", percentile=90)
    assert_type(amax, Array | None)
    assert amax is not None
    assert 0 < float(amax) <= 9


def test_functions() -> None:
    codes, scale = tensor_quant.tensor_quant(np.ones(3, np.float32), 2.0)
    assert_type(codes, Array)
    assert_type(scale, Array)
    assert float(scale) == 63.5
    faked = tensor_quant.fake_tensor_quant(np.ones(3, np.float32), 2.0, 8, False, True)
    assert_type(faked, Array)
    assert_type(tensor_quant.TensorQuantFunction.apply(np.ones(3), 1.0), tuple[Array, Array])


class Doubled(nn.Module):
    """A module of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.QuantLinear(3, 3)

    def forward(self, x: npt.ArrayLike) -> Array:
        return 2 * self.linear(x)


def test_own_modules() -> None:
    module = Doubled()
    for name, child in module.named_modules():
        assert_type(name, str)
        assert_type(child, nn.Module)
    y: Array = module(np.ones((1, 3), np.float32))
    assert y.shape == (1, 3)
    with qdqbert.quantizers(module, [("*", "off")]) as changes:
        assert len(changes) == 2


def test_devices() -> None:
    device = qdqbert.Device(num_threads=1)
    assert_type(device.num_threads, int)
    device.num_threads = 2
    kernels = dict(device.kernels())
    assert_type(kernels, dict[str, str])
    assert device.isa

# SPDX-License-Identifier: Apache-2.0
"""Quantizers and quantized modules, under the names of ``pytorch_quantization.nn``."""

from qdqbert.nn import functional
from qdqbert.nn.clip import Clip
from qdqbert.nn.quant_linear import Linear, QuantLinear
from qdqbert.nn.quant_mixin import QuantMixin
from qdqbert.nn.tensor_quantizer import TensorQuantizer

__all__ = ["Clip", "Linear", "QuantLinear", "QuantMixin", "TensorQuantizer", "functional"]

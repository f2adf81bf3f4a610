# SPDX-License-Identifier: Apache-2.0
"""The paths below ``pytorch_quantization.nn.modules``, for code that imports from them."""

from qdqbert.nn.modules import clip, quant_linear, tensor_quantizer

__all__ = ["clip", "quant_linear", "tensor_quantizer"]

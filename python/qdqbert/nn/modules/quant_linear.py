# SPDX-License-Identifier: Apache-2.0
"""The original's path of `QuantLinear`."""

from qdqbert.nn.quant_linear import Linear, QuantLinear

__all__ = ["Linear", "QuantLinear"]

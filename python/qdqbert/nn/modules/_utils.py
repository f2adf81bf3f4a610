# SPDX-License-Identifier: Apache-2.0
"""The original's path of the mixins for quantized modules of one's own."""

from qdqbert.nn.quant_mixin import QuantInputMixin, QuantMixin, pop_quant_desc_in_kwargs

__all__ = ["QuantInputMixin", "QuantMixin", "pop_quant_desc_in_kwargs"]

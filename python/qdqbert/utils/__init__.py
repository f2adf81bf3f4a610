# SPDX-License-Identifier: Apache-2.0
"""The public functions of ``pytorch_quantization.utils``; nothing else lives here."""

from qdqbert.tensor_quant import reduce_amax
from qdqbert.utils import quant_logging

__all__ = ["quant_logging", "reduce_amax"]

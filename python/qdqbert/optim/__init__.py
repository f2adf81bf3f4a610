# SPDX-License-Identifier: Apache-2.0
"""Names of ``pytorch_quantization.optim``."""

from qdqbert.optim import helper

__all__ = ["helper"]

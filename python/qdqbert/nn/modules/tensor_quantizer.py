# SPDX-License-Identifier: Apache-2.0
"""The original's path of `TensorQuantizer`."""

from qdqbert.nn.tensor_quantizer import TensorQuantizer

__all__ = ["TensorQuantizer"]

# SPDX-License-Identifier: Apache-2.0
"""How near quotients are to a tie, where rounding decides between two codes.

The package rounds x times bound / amax, ONNX x over amax / bound, and both see an x that float32 sums have
rounded differently; so codes may differ where ``x / scale`` is within a few ulp of a half, and nowhere else.
"""

from __future__ import annotations

import numpy as np
import onnx
from graph_runs import quantize_nodes, tensors_of
from ml_dtypes import iinfo  # of 4 bits as well

# Float32 rounding moves x / scale by some ulp of 127 at most, 2^-17 each.
MARGIN = 8 * 2.0**-17


def quantized_inputs(proto: onnx.ModelProto) -> list[str]:
    """Tensors that quantizers of activations see."""
    return [
        node.input[0]
        for name, node in quantize_nodes(proto).items()
        if not name.endswith("_weight_quantizer")
    ]


def tie_margin(proto: onnx.ModelProto, values: dict[str, np.ndarray]) -> float:
    """Least distance of x / scale from a tie over the quantizers of activations, but where it saturates."""
    constants = tensors_of(proto)
    found = 0.5
    for name, node in quantize_nodes(proto).items():
        if not name.endswith("_weight_quantizer"):
            scale, limits = constants[node.input[1]], iinfo(constants[node.input[2]].dtype)
            quotient = values[node.input[0]].astype(np.float64) / scale
            inside = quotient[(quotient > limits.min) & (quotient < limits.max)]
            found = min(found, float(np.abs(inside - np.floor(inside) - 0.5).min(initial=0.5)))
    return found

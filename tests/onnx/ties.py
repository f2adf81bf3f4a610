# SPDX-License-Identifier: Apache-2.0
"""How near quotients are to a tie, where rounding decides between two codes.

The package rounds x times bound / amax, ONNX x over amax / bound, and both see an x that float32 sums have
rounded differently; so codes may differ where ``x / scale`` is within a few ulp of a half, and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from ml_dtypes import iinfo  # of 4 bits as well
from onnx_models import batch, outputs_of

from graph_runs import quantize_nodes, runner, tensors_of

# Float32 rounding moves x / scale by some ulp of 127 at most, 2^-17 each.
MARGIN = 8 * 2.0**-17
# Outputs are of order 2, rounded some 20 times after the last codes; a moved code moves them by 1e-3 or so.
ROUNDING = 2e-5


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


def differences_of(kind: str, model: Any, proto: onnx.ModelProto, margin: float = MARGIN) -> float:
    """Largest difference of the outputs of graph and model, on the first batch that meets no tie."""
    run = runner(proto, quantized_inputs(proto))
    for seed in range(60):
        inputs = batch(kind, 1 if kind == "choice" else 2, 5, seed=seed)
        values = run(inputs)
        if tie_margin(proto, values) >= margin:
            expected = outputs_of(kind, model, inputs)
            return max(float(np.abs(values[name] - value).max()) for name, value in expected.items())
    raise AssertionError("every batch meets a tie")

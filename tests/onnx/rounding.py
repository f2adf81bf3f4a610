# SPDX-License-Identifier: Apache-2.0
"""How far two float32 computations of one model can be apart when all codes are equal.

Between two quantizers nothing accumulates: what leaves a quantizer is a code, equal on both sides or not.  So
only what follows the last codes counts: the residual add of the last layer, its LayerNorm, and the head.
Every function takes a float64 value and a bound of its error, and returns both of its result, to first order
in the unit roundoff.  A bound is for one computation against the exact one; two are twice that apart.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray

UNIT = 2.0**-24  # largest relative error of one float32 operation


def residual(local: Array, residual: Array) -> tuple[Array, Array]:
    """Sum of two dequantized values.

    A value is code times step, or code times ``amax / bound``: step and scale are two and one roundings of
    the same number and the product is another, so it is 3 UNIT off; the sum is one more.
    """
    total = local.astype(np.float64) + residual
    return total, UNIT * (3 * (np.abs(local) + np.abs(residual)) + np.abs(total))


def layer_norm(x: Array, error: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    """Normalization: dy = w r (dx - mean(dx) - n mean(n dx)), n the normalized row, r 1 / its deviation.

    Own roundings: a sum of k terms in any order is k UNIT of the sum of magnitudes off; then the difference,
    the variance (halved by the root), root, quotient, products and sum.
    """
    k = x.shape[-1]
    difference = x - x.mean(-1, keepdims=True)
    r = 1.0 / np.sqrt((difference**2).mean(-1, keepdims=True))
    n = difference * r
    error = error + (k + 1) * UNIT * np.abs(x).mean(-1, keepdims=True) + UNIT * np.abs(difference)
    passed = error + error.mean(-1, keepdims=True) + np.abs(n) * (np.abs(n) * error).mean(-1, keepdims=True)
    y = n * weight + bias
    return y, np.abs(weight) * r * passed + ((k + 2) / 2 + 5) * UNIT * np.abs(n * weight) + UNIT * np.abs(y)


def linear(x: Array, error: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    """A product: k terms in any order are k UNIT of their magnitudes off, the bias adds one."""
    weight = weight.astype(np.float64)
    y = x @ weight.T + bias
    magnitude = np.abs(x) @ np.abs(weight).T + np.abs(bias)
    return y, error @ np.abs(weight).T + (x.shape[-1] + 1) * UNIT * magnitude


def tanh(x: Array, error: Array) -> tuple[Array, Array]:
    """Slope at most 1, and 8 ulp (16 UNIT) of the function itself."""
    y = np.tanh(x)
    return y, error + 16 * UNIT * np.abs(y)


def gelu(x: Array, error: Array) -> tuple[Array, Array]:
    """Slope at most 1.13.

    As x (1 + erf(x / sqrt 2)) / 2 the error of erf, 8 ulp of at most 1, is multiplied by x / 2 whatever the
    result is.
    """
    y = x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    return y, 1.13 * error + 16 * UNIT * np.abs(x) + 4 * UNIT * np.abs(y)


def bounds_of(kind: str, model: Any, last: tuple[Array, Array]) -> dict[str, Array]:
    """Bound of the difference of each output for a model of `onnx_models.CLASSES`.

    Parameters
    ----------
    last : (ndarray, ndarray)
        The two operands of the last layer's residual add.
    """
    state = {name: np.asarray(value, np.float64) for name, value in model.state_dict().items()}
    base = model.base_model._prefix
    end = f"{base}encoder.layer.{model.config.num_hidden_layers - 1}.output.LayerNorm"

    def parts(path: str) -> tuple[Array, Array]:
        return state[f"{path}.weight"], state[f"{path}.bias"]

    hidden, error = layer_norm(*residual(*last), *parts(end))
    pooled: tuple[Array, Array] = (hidden, error)
    if f"{base}pooler.dense.weight" in state:
        pooled = tanh(*linear(hidden[:, 0], error[:, 0], *parts(f"{base}pooler.dense")))
    match kind:
        case "base" | "decoder":
            found = {"last_hidden_state": error, "pooler_output": pooled[1]}
        case "base without pooler":
            found = {"last_hidden_state": error}
        case "masked" | "masked untied" | "causal" | "cross":
            head = "cls.predictions"
            inner = gelu(*linear(hidden, error, *parts(f"{head}.transform.dense")))
            inner = layer_norm(*inner, *parts(f"{head}.transform.LayerNorm"))
            found = {"logits": linear(*inner, *parts(f"{head}.decoder"))[1]}
        case "next sentence":
            found = {"logits": linear(*pooled, *parts("cls.seq_relationship"))[1]}
        case "sequence":
            found = {"logits": linear(*pooled, *parts("classifier"))[1]}
        case "choice":
            found = {"logits": linear(*pooled, *parts("classifier"))[1].reshape(-1, 3)}
        case "token":
            found = {"logits": linear(hidden, error, *parts("classifier"))[1]}
        case "question":
            spans = linear(hidden, error, *parts("qa_outputs"))[1]
            found = {"output_start_logits": spans[..., 0], "output_end_logits": spans[..., 1]}
    return {name: 2 * bound for name, bound in found.items()}

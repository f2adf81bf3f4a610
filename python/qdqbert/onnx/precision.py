# SPDX-License-Identifier: Apache-2.0
"""In which floats a graph computes: float32, float16 or bfloat16.

In half a precision, parameters are stored in it, and what is linear runs in it: embeddings, products, biases.
What squares or exponentiates stays in float32: LayerNorm with the add before it, softmax with the mask, and
activation functions; so does everything next to QuantizeLinear and DequantizeLinear, whose scales would move
codes if they were rounded to half (11 bits: by 0.06 steps at
code 127).  Casts stand where one meets the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qdqbert.errors import NonFiniteError
from qdqbert.onnx.graph_builder import GraphBuilder, Value

__all__ = ["PRECISIONS", "Precision", "bfloat16_bits"]


class Precision(NamedTuple):
    """The floats of a graph.

    Attributes
    ----------
    kind : str
        Element type of parameters and products.
    masked : float
        Added to the scores of what is not seen: the lowest number of `kind`, so that a runtime that computes
        softmax in half does not meet an infinity, of which 0 times would be NaN.
    """

    kind: str
    masked: float

    def parameter(
        self,
        graph: GraphBuilder,
        name: str,
        shape: Sequence[int],
        make: Callable[[], npt.NDArray[np.float32]],
    ) -> Value:
        """Add a parameter of the model to a graph.

        Parameters
        ----------
        graph : GraphBuilder
        name : str
        shape : sequence of int
        make : callable () -> ndarray of this shape, float32
            Called when the file is written.

        Returns
        -------
        Value
            Of type `kind`.
        """

        def converted() -> npt.NDArray[Any]:
            array = np.ascontiguousarray(make())
            if self.kind == "BFLOAT16":
                return bfloat16_bits(array)
            if self.kind == "FLOAT16":
                with np.errstate(over="ignore"):
                    half = array.astype(np.float16)
                if np.isfinite(array).all() and not np.isfinite(half).all():
                    raise NonFiniteError(
                        f"{name}: {float(np.abs(array).max()):g} is beyond float16; use bf16 or fp32"
                    )
                return half
            return array

        return graph.initializer(name, self.kind, shape, converted)


PRECISIONS = {
    "fp32": Precision("FLOAT", float(np.finfo(np.float32).min)),
    "fp16": Precision("FLOAT16", float(np.finfo(np.float16).min)),
    "bf16": Precision("BFLOAT16", -float(2.0**127 * (2.0 - 2.0**-7))),
}


def bfloat16_bits(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return the nearest bfloat16 of each element, ties to even, as its bits.

    Parameters
    ----------
    array : ndarray, float32

    Returns
    -------
    ndarray, shape of `array`, uint16

    Examples
    --------
    >>> [hex(bits) for bits in bfloat16_bits(np.array([1.0, -2.0, 1.00390625, 3.4e38], np.float32))]
    ['0x3f80', '0xc000', '0x3f80', '0x7f80']
    """
    bits = array.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)

# SPDX-License-Identifier: Apache-2.0
"""Elements of a weight that lie on a tie of ONNX's quotient, moved off it to the side of the model's code.

ONNX rounds ``x / scale``, the model rounds ``x * (bound / amax)``.  They differ where the quotient is a tie
but for float32 rounding.  Among activations such an x is met now and then; a weight that was stored in
float16 has them by the hundred: where amax is ``127 m 2^e`` with a small integer m, ``(k + 1/2) scale`` is a
float16 for every k, a tie to the bit.  Each moves a code of the weight in every forward.  A weight is
constant, so it can be known here: such an element is written one or two ulp to the side on which ONNX finds
the model's code, and its own value stands in the properties of the file (`qdqbert.onnx.metadata`), from which
`from_onnx` puts it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qdqbert.tensor_quant import tensor_quant

__all__ = ["Moves", "moves_off_ties"]

Floats = npt.NDArray[np.float32]

_MOST_STEPS = 4
_MOST_BITS = 8  # the steps of 16 bits are as fine as the rounding, and most codes are next to a tie


class Moves(NamedTuple):
    """What is written otherwise than it is.

    Attributes
    ----------
    places : ndarray, shape (n,), int64
        In the order of the weight, rows of out_features.
    values : ndarray, shape (n,), float32
        That are written.
    own : ndarray, shape (n,), float32
        That the model has.
    """

    places: npt.NDArray[np.int64]
    values: Floats
    own: Floats

    def applied(self, weight: Floats) -> Floats:
        """Return a weight with the values that are written.

        Parameters
        ----------
        weight : ndarray, float32
        """
        copied = np.array(weight, order="C")
        copied.reshape(-1)[self.places] = self.values
        return copied


def moves_off_ties(
    weight: Floats, amax: Floats, scale: Floats, options: Mapping[str, Any], limits: tuple[float, float]
) -> Moves | None:
    """Return the elements that ONNX would give another code than the model does, and where to move them.

    Parameters
    ----------
    weight : ndarray, shape (out_features, in_features), float32
        Finite.
    amax, scale : ndarray, float32
        Broadcast to `weight`; where a range is dead, the scale sends all elements to code 0.
    options : mapping
        Of the quantizer: ``num_bits``, ``unsigned`` and ``narrow_range``.
    limits : (float, float)
        Lowest and highest code.

    Returns
    -------
    Moves or None
        None if there are no such elements, or the number format is not one of up to 8 bits.
    """
    bits = options["num_bits"]
    if not isinstance(bits, int) or bits > _MOST_BITS:
        return None
    codes, _ = tensor_quant(weight, amax, bits, options["unsigned"], options["narrow_range"])
    differs = np.clip(np.rint(weight / scale), *limits) != codes
    if not differs.any():
        return None
    places = np.flatnonzero(differs)
    own, wanted = weight.reshape(-1)[places], codes.reshape(-1)[places]
    steps = np.broadcast_to(scale, weight.shape).reshape(-1)[places]
    values = own
    for _ in range(_MOST_STEPS):
        found = np.clip(np.rint(values / steps), *limits)
        towards = np.where(found < wanted, np.float32(np.inf), np.float32(-np.inf))
        values = np.where(found == wanted, values, np.nextafter(values, towards))
    is_right = np.clip(np.rint(values / steps), *limits) == wanted
    return Moves(places[is_right], values[is_right], own[is_right])

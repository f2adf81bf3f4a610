# SPDX-License-Identifier: Apache-2.0
"""What each version of the ONNX operator set has, as far as a quantized BERT needs it.

Everything else that is used (MatMul, Softmax, Clip with inputs, QuantizeLinear with an axis) is in opset 13,
the first that can say "one scale for each channel".
"""

from __future__ import annotations

import numbers
from typing import NamedTuple

import onnx.defs
import onnx.helper

from qdqbert.errors import UnsupportedError

__all__ = ["FIRST", "Opset", "newest_opset", "opset_of"]

FIRST = 13
"""The first opset with an axis on QuantizeLinear."""

_LAYER_NORMALIZATION = 17
_MISH = 18
_FLOAT8 = 19
_GELU = 20
_INT4_INT16 = 21


class Opset(NamedTuple):
    """One version and what it has.

    Attributes
    ----------
    version : int
    ir_version : int
        Of the file format that goes with it.
    has_layer_normalization : bool
        LayerNormalization as one node, with its statistics in float32 whatever its input is.
    has_mish : bool
    has_float8 : bool
        QuantizeLinear to float8.
    has_gelu : bool
    has_int4_int16 : bool
        QuantizeLinear to 4 and 16 bits, signed and unsigned.
    """

    version: int
    ir_version: int
    has_layer_normalization: bool
    has_mish: bool
    has_float8: bool
    has_gelu: bool
    has_int4_int16: bool


def newest_opset() -> int:
    """Return the newest version that the installed ``onnx`` package knows."""
    return int(onnx.defs.onnx_opset_version())


def opset_of(version: int) -> Opset:
    """Return what a version has.

    Parameters
    ----------
    version : int
        13 up to what the installed ``onnx`` package knows.

    Raises
    ------
    TypeError
        If it is no integer.
    UnsupportedError
        If it is out of this range.
    """
    if isinstance(version, bool) or not isinstance(version, numbers.Integral):
        raise TypeError(f"opset: expected an integer, got {type(version).__name__}")
    version = int(version)
    newest = newest_opset()
    if not FIRST <= version <= newest:
        raise UnsupportedError(
            f"opset: expected {FIRST} (the first with one scale for each channel) .. {newest} (what the "
            f"installed onnx {onnx.__version__} knows), got {version}"
        )
    return Opset(
        version=version,
        ir_version=int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])),
        has_layer_normalization=version >= _LAYER_NORMALIZATION,
        has_mish=version >= _MISH,
        has_float8=version >= _FLOAT8,
        has_gelu=version >= _GELU,
        has_int4_int16=version >= _INT4_INT16,
    )

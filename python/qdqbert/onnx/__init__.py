# SPDX-License-Identifier: Apache-2.0
"""ONNX files with QuantizeLinear and DequantizeLinear: write them.

`export` writes any model of this package.  The name of the package hides that of ``onnx``, which is another
one and needed here; ``import onnx`` still means that one.
"""

from qdqbert.onnx.export import export as export

__all__ = ["export"]

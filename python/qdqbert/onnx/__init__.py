# SPDX-License-Identifier: Apache-2.0
"""ONNX files with QuantizeLinear and DequantizeLinear: write and check them.

`export` writes any model of this package; `check` compares any ONNX file with what TensorRT takes.  The name
of the package hides that of ``onnx``, which is another one and needed here; ``import onnx`` still means that
one.
"""

from qdqbert.onnx.checker import Violation as Violation
from qdqbert.onnx.checker import check as check
from qdqbert.onnx.export import export as export

__all__ = ["Violation", "check", "export"]

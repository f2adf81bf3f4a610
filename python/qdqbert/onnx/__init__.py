# SPDX-License-Identifier: Apache-2.0
"""ONNX files with QuantizeLinear and DequantizeLinear: write, check and read them.

`export` writes any model of this package; `check` compares any ONNX file with what TensorRT takes;
`from_onnx` makes a model of an exported file again; `OnnxRuntimeModel` runs one in ONNX Runtime.  The name
of the package hides that of ``onnx``, which is another one and needed here; ``import onnx`` still means that
one.
"""

from qdqbert.onnx.checker import Violation as Violation
from qdqbert.onnx.checker import check as check
from qdqbert.onnx.export import export as export
from qdqbert.onnx.reading import from_onnx as from_onnx
from qdqbert.onnx.runtime import OnnxRuntimeModel as OnnxRuntimeModel

__all__ = ["OnnxRuntimeModel", "Violation", "check", "export", "from_onnx"]

# SPDX-License-Identifier: Apache-2.0
"""The table of rules that `qdqbert.onnx.check` goes through.

They are those that TensorRT's parser enforces and its documentation gives, each with its source.  What is
*not* a rule, although it is said of TensorRT: codes of -128 in weights (explicit quantization has the full
range since it follows ONNX, NVIDIA/TensorRT#1796), and a Transpose between DequantizeLinear of a weight and
MatMul (it is folded when the engine is built, NVIDIA/TensorRT#1604).
"""

from __future__ import annotations

from qdqbert.onnx import file_rules, pair_rules, placement_rules
from qdqbert.onnx.rule import Rule

__all__ = ["ONNX_CHECKER", "RULES"]

RULES: tuple[Rule, ...] = (*file_rules.RULES, *pair_rules.RULES, *placement_rules.RULES)
"""All rules but the next one, in the order in which violations are told."""

ONNX_CHECKER = Rule(
    "onnx-checker",
    "The file is valid ONNX, and its shapes and types can be inferred.",
    "refused",
    "export again; a file that was edited needs nodes in the order in which they run, and every name once",
    "onnx.checker.check_model(full_check=True) of the installed onnx package",
    lambda view: iter(()),
)
"""What the checker of the ``onnx`` package says, which looks at a file and not at one graph."""

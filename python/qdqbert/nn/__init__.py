# SPDX-License-Identifier: Apache-2.0
"""Quantizers and quantized modules, under the names of ``pytorch_quantization.nn``.

Convolution, pooling, instance norm and recurrent modules are out of scope: their names raise
`qdqbert.OutOfScopeError`.
"""

from typing import TYPE_CHECKING

from qdqbert.module import Module, ModuleList
from qdqbert.nn import functional, modules
from qdqbert.nn.clip import Clip
from qdqbert.nn.quant_linear import Linear, QuantLinear
from qdqbert.nn.quant_mixin import QuantInputMixin, QuantMixin
from qdqbert.nn.tensor_quantizer import TensorQuantizer

__all__ = [
    "Clip",
    "Linear",
    "Module",
    "ModuleList",
    "QuantInputMixin",
    "QuantLinear",
    "QuantMixin",
    "TensorQuantizer",
    "functional",
    "modules",
]

if not TYPE_CHECKING:  # a type checker should go on refusing names that do not exist

    def __getattr__(name: str) -> None:
        """Say why a name of the original is not here."""
        from qdqbert.nn.out_of_scope import missing_name

        raise missing_name(__name__, name)

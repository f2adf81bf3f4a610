# SPDX-License-Identifier: Apache-2.0
"""What quantized modules share: default descriptors per class, and their two quantizers."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from qdqbert.module import Module
from qdqbert.nn.tensor_quantizer import TensorQuantizer
from qdqbert.quant_descriptor import QUANT_DESC_8BIT_PER_TENSOR, QuantDescriptor

__all__ = ["QuantMixin", "pop_quant_descriptors", "require_fake_quant"]


class QuantMixin(Module):
    """A module that quantizes its input and its weight.

    Attributes
    ----------
    default_quant_desc_input, default_quant_desc_weight : QuantDescriptor
        For instances that are made without descriptors of their own.  Models read those of ``QuantLinear``
        when they are built.
    """

    default_quant_desc_input: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_PER_TENSOR
    default_quant_desc_weight: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_PER_TENSOR

    @classmethod
    def set_default_quant_desc_input(cls, value: QuantDescriptor) -> None:
        """Set the default input descriptor of this class, and of no class above or beside it.

        Parameters
        ----------
        value : QuantDescriptor
            Copied.

        Raises
        ------
        ValueError
            If `value` is no QuantDescriptor.
        """
        cls.default_quant_desc_input = _copy_of(value)

    @classmethod
    def set_default_quant_desc_weight(cls, value: QuantDescriptor) -> None:
        """Set the default weight descriptor of this class, and of no class above or beside it.

        Parameters
        ----------
        value : QuantDescriptor
            Copied.

        Raises
        ------
        ValueError
            If `value` is no QuantDescriptor.
        """
        cls.default_quant_desc_weight = _copy_of(value)

    def init_quantizer(self, quant_desc_input: QuantDescriptor, quant_desc_weight: QuantDescriptor) -> None:
        """Make both quantizers; for the ``__init__`` of quantized modules.

        Parameters
        ----------
        quant_desc_input, quant_desc_weight : QuantDescriptor

        Raises
        ------
        TypeError
            If the module has its quantizers already.
        ValueError
            If a descriptor has ``fake_quant=False``.
        """
        if "_input_quantizer" in self._modules:
            raise TypeError(f"{__name__} should be only called by __init__ of quantized module.")
        require_fake_quant(quant_desc_input, quant_desc_weight)
        self.add_module("_input_quantizer", TensorQuantizer(quant_desc_input))
        self.add_module("_weight_quantizer", TensorQuantizer(quant_desc_weight))

    @property
    def input_quantizer(self) -> TensorQuantizer:
        """Quantizer of the input."""
        quantizer: TensorQuantizer = self._input_quantizer
        return quantizer

    @property
    def weight_quantizer(self) -> TensorQuantizer:
        """Quantizer of the weight."""
        quantizer: TensorQuantizer = self._weight_quantizer
        return quantizer


def require_fake_quant(*descriptors: QuantDescriptor) -> None:
    """Refuse descriptors of real quantization, whose products have no meaning inside a module.

    Parameters
    ----------
    *descriptors : QuantDescriptor

    Raises
    ------
    ValueError
        If one of them has ``fake_quant=False``.
    """
    if not all(descriptor.fake_quant for descriptor in descriptors):
        raise ValueError("Only fake quantization is supported!")


def pop_quant_descriptors(
    cls: type[QuantMixin], keywords: dict[str, Any]
) -> tuple[QuantDescriptor, QuantDescriptor]:
    """Input and weight descriptor of a new module: its keywords, or its class's defaults.

    Parameters
    ----------
    cls : type
        Class of the module.
    keywords : dict
        ``quant_desc_input`` and ``quant_desc_weight`` are taken out of it.

    Returns
    -------
    tuple of QuantDescriptor

    Raises
    ------
    TypeError
        If there are other keywords.
    ValueError
        If one of the two is no QuantDescriptor.
    """
    descriptors = (
        keywords.pop("quant_desc_input", cls.default_quant_desc_input),
        keywords.pop("quant_desc_weight", cls.default_quant_desc_weight),
    )
    if keywords:
        raise TypeError(f"Unused keys: {keywords.keys()}")
    return _copy_of(descriptors[0]), _copy_of(descriptors[1])


def _copy_of(value: object) -> QuantDescriptor:
    if not isinstance(value, QuantDescriptor):
        raise ValueError(f"{value!r} is not an instance of QuantDescriptor!")
    return copy.deepcopy(value)

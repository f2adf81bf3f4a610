# SPDX-License-Identifier: Apache-2.0
"""What quantized modules share: default descriptors per class, and their quantizers.

The classes are mixins, as in ``pytorch_quantization.nn.modules._utils``: a quantized module of one's own is
``class Mine(Module, QuantMixin)`` with `pop_quant_desc_in_kwargs` and ``init_quantizer`` in its ``__init__``.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal, overload

from qdqbert.module import ModuleList
from qdqbert.nn.tensor_quantizer import TensorQuantizer
from qdqbert.quant_descriptor import QUANT_DESC_8BIT_PER_TENSOR, QuantDescriptor

__all__ = ["QuantInputMixin", "QuantMixin", "pop_quant_desc_in_kwargs", "require_fake_quant"]


class QuantInputMixin:
    """A module that quantizes its input.

    Attributes
    ----------
    default_quant_desc_input : QuantDescriptor
        For instances that are made without a descriptor of their own.
    """

    default_quant_desc_input: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_PER_TENSOR

    _input_quantizer: TensorQuantizer
    _fake_quant: bool

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

    def init_quantizer(self, quant_desc_input: QuantDescriptor) -> None:
        """Make the quantizer; for the ``__init__`` of quantized modules.

        Parameters
        ----------
        quant_desc_input : QuantDescriptor

        Raises
        ------
        TypeError
            If the module has its quantizer already.
        ValueError
            If the descriptor has ``fake_quant=False``.
        """
        _refuse_second_call(self)
        require_fake_quant(quant_desc_input)
        self._fake_quant = True
        self._input_quantizer = TensorQuantizer(quant_desc_input)

    @property
    def input_quantizer(self) -> TensorQuantizer:
        """Quantizer of the input."""
        return self._input_quantizer


class QuantMixin:
    """A module that quantizes its input and its weight.

    Attributes
    ----------
    default_quant_desc_input, default_quant_desc_weight : QuantDescriptor
        For instances that are made without descriptors of their own.  Models read those of ``QuantLinear``
        when they are built.
    """

    default_quant_desc_input: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_PER_TENSOR
    default_quant_desc_weight: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_PER_TENSOR

    _input_quantizer: TensorQuantizer
    _weight_quantizer: TensorQuantizer
    _input_quantizers: ModuleList
    _weight_quantizers: ModuleList
    _fake_quant: bool

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

    def init_quantizer(
        self,
        quant_desc_input: QuantDescriptor,
        quant_desc_weight: QuantDescriptor,
        num_layers: int | None = None,
    ) -> None:
        """Make the quantizers; for the ``__init__`` of quantized modules.

        Parameters
        ----------
        quant_desc_input, quant_desc_weight : QuantDescriptor
        num_layers : int or None
            None: one quantizer each, ``_input_quantizer`` and ``_weight_quantizer``.  Otherwise that many of
            each, in the lists ``_input_quantizers`` and ``_weight_quantizers``.

        Raises
        ------
        TypeError
            If the module has its quantizers already.
        ValueError
            If a descriptor has ``fake_quant=False``.
        """
        _refuse_second_call(self)
        require_fake_quant(quant_desc_input, quant_desc_weight)
        self._fake_quant = True
        if num_layers is None:
            self._input_quantizer = TensorQuantizer(quant_desc_input)
            self._weight_quantizer = TensorQuantizer(quant_desc_weight)
        else:
            layers = range(num_layers)
            self._input_quantizers = ModuleList([TensorQuantizer(quant_desc_input) for _ in layers])
            self._weight_quantizers = ModuleList([TensorQuantizer(quant_desc_weight) for _ in layers])

    @property
    def input_quantizer(self) -> TensorQuantizer:
        """Quantizer of the input."""
        return self._input_quantizer

    @property
    def weight_quantizer(self) -> TensorQuantizer:
        """Quantizer of the weight."""
        return self._weight_quantizer


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


@overload
def pop_quant_desc_in_kwargs(
    quant_cls: type[Any], input_only: Literal[True], **kwargs: Any
) -> QuantDescriptor: ...
@overload
def pop_quant_desc_in_kwargs(
    quant_cls: type[QuantMixin], input_only: Literal[False] = False, **kwargs: Any
) -> tuple[QuantDescriptor, QuantDescriptor]: ...
def pop_quant_desc_in_kwargs(
    quant_cls: type[Any], input_only: bool = False, **kwargs: Any
) -> QuantDescriptor | tuple[QuantDescriptor, QuantDescriptor]:
    """Descriptors of a new module: its keywords, or its class's defaults.

    Parameters
    ----------
    quant_cls : type
        Class of the module, with the attributes of `QuantMixin` or `QuantInputMixin`.
    input_only : bool
        Whether there is no weight: ``quant_desc_weight`` is an unknown keyword then.
    **kwargs
        ``quant_desc_input`` and ``quant_desc_weight``.

    Returns
    -------
    QuantDescriptor, or tuple of two
        Copies: input, or input and weight.

    Raises
    ------
    TypeError
        If there are other keywords.
    ValueError
        If a descriptor is no QuantDescriptor.
    """
    names = ("input",) if input_only else ("input", "weight")
    descriptors = [
        kwargs.pop(f"quant_desc_{name}", getattr(quant_cls, f"default_quant_desc_{name}")) for name in names
    ]
    if kwargs:
        raise TypeError(f"Unused keys: {kwargs.keys()}")
    copies = tuple(_copy_of(each) for each in descriptors)
    return copies[0] if input_only else (copies[0], copies[1])


def _refuse_second_call(module: object) -> None:
    if hasattr(module, "_input_quantizer") or hasattr(module, "_input_quantizers"):
        raise TypeError("init_quantizer should be only called by __init__ of quantized module.")


def _copy_of(value: object) -> QuantDescriptor:
    if not isinstance(value, QuantDescriptor):
        raise ValueError(f"{value!r} is not an instance of QuantDescriptor!")
    return copy.deepcopy(value)

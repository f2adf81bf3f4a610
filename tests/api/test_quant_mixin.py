# SPDX-License-Identifier: Apache-2.0
"""Quantized modules of one's own, made from the mixins as with the original toolkit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqbert.module import Module
from qdqbert.nn.quant_mixin import QuantInputMixin, QuantMixin, pop_quant_desc_in_kwargs
from qdqbert.tensor_quant import QuantDescriptor


class Scaled(Module, QuantMixin):
    """A weight per feature."""

    def __init__(self, features: int, **kwargs: Any) -> None:
        super().__init__()
        self.weight = np.linspace(0.5, 1.5, features, dtype=np.float32)
        self.init_quantizer(*pop_quant_desc_in_kwargs(type(self), **kwargs))

    def forward(self, x: Any) -> Any:
        return self.input_quantizer(x) * self.weight_quantizer(self.weight)


class Rounded(Module, QuantInputMixin):
    """Nothing but its input quantizer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.init_quantizer(pop_quant_desc_in_kwargs(type(self), input_only=True, **kwargs))

    def forward(self, x: Any) -> Any:
        return self.input_quantizer(x)


class Stacked(Module, QuantMixin):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.init_quantizer(QuantDescriptor(), QuantDescriptor(axis=(0,)), num_layers=layers)


def test_a_module_of_ones_own_quantizes_and_has_the_originals_names() -> None:
    module = Scaled(5, quant_desc_input=QuantDescriptor(num_bits=4))
    x = np.float32([[1.0, -2.0, 0.3, 0.1, 0.0]])
    np.testing.assert_array_equal(
        module(x), module.input_quantizer(x) * module.weight_quantizer(module.weight)
    )
    assert [name for name, _ in module.named_children()] == ["_input_quantizer", "_weight_quantizer"]
    assert (module.input_quantizer.num_bits, module.weight_quantizer.num_bits) == (4, 8)
    assert module._fake_quant is True


def test_a_module_without_weight_takes_one_descriptor() -> None:
    module = Rounded(quant_desc_input=QuantDescriptor(amax=127.0))
    assert module(np.float32([0.4, 1.6])).tolist() == [0.0, 2.0]
    with pytest.raises(TypeError, match="Unused keys"):
        Rounded(quant_desc_weight=QuantDescriptor())


def test_defaults_belong_to_the_class_they_are_set_on() -> None:
    class Mine(Rounded):
        pass

    Mine.set_default_quant_desc_input(QuantDescriptor(num_bits=3))
    assert Mine().input_quantizer.num_bits == 3
    assert Rounded().input_quantizer.num_bits == 8
    with pytest.raises(ValueError, match="not an instance of QuantDescriptor"):
        Mine.set_default_quant_desc_input("x")  # type: ignore[arg-type]


def test_lists_of_quantizers_are_numbered() -> None:
    module = Stacked(3)
    names = [name for name, each in module.named_modules() if name.endswith(("0", "1", "2"))]
    assert names == [f"_{kind}_quantizers.{i}" for kind in ("input", "weight") for i in range(3)]
    assert module._weight_quantizers[2].axis == (0,)


@pytest.mark.parametrize("module", [Scaled(3), Rounded(), Stacked(2)], ids=lambda m: type(m).__name__)
def test_quantizers_are_made_once(module: Any) -> None:
    before = repr(module)
    arguments = (QuantDescriptor(),) * (1 if isinstance(module, QuantInputMixin) else 2)
    with pytest.raises(TypeError, match="should be only called by __init__ of quantized module"):
        module.init_quantizer(*arguments)
    assert repr(module) == before


def test_real_quantization_is_refused() -> None:
    with pytest.raises(ValueError, match="Only fake quantization is supported!"):
        Rounded(quant_desc_input=QuantDescriptor(fake_quant=False))
    with pytest.raises(ValueError, match="Only fake quantization is supported!"):
        Scaled(3, quant_desc_weight=QuantDescriptor(fake_quant=False))


def test_descriptors_in_keywords_are_checked() -> None:
    with pytest.raises(ValueError, match="8 is not an instance of QuantDescriptor"):
        Scaled(3, quant_desc_input=8)
    with pytest.raises(TypeError, match="Unused keys: dict_keys\\(\\['bits'\\]\\)"):
        Scaled(3, bits=8)

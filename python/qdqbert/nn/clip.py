# SPDX-License-Identifier: Apache-2.0
"""Clipping as a module whose bounds may be learned; ``pytorch_quantization.nn.Clip``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array, as_float32
from qdqbert.copies import Copyable, constructed
from qdqbert.errors import ShapeError
from qdqbert.module import Module, Slot
from qdqbert.nn import functional
from qdqbert.parameter import BoundPlace, ParameterState

__all__ = ["Clip"]


class Clip(Module, Copyable):
    """Clip values to bounds: ``max(min(inputs, clip_value_max), clip_value_min)``.

    Parameters
    ----------
    clip_value_min, clip_value_max : float or array_like
        Bounds; a learned one has a single element.
    learn_min, learn_max : bool
        Whether the bound is a parameter: part of `state_dict` and changed by training.

    Raises
    ------
    ValueError
        If a learned bound has more than one element.
    TypeError
        If a bound is no floating-point number or tensor.

    References
    ----------
    Choi et al., 2018, "PACT: Parameterized Clipping Activation for Quantized Neural Networks".

    Examples
    --------
    >>> Clip(-1.0, 1.0)([-3.0, 0.5]).tolist()
    [-1.0, 0.5]
    """

    _machinery = frozenset(("_bounds", "_fixed", "_learned", "_modules"))

    def __init__(
        self,
        clip_value_min: npt.ArrayLike,
        clip_value_max: npt.ArrayLike,
        learn_min: bool = False,
        learn_max: bool = False,
    ) -> None:
        super().__init__()
        self._source: Callable[[], _core.Quantizer] | None = None
        self._learned = {"clip_value_min": bool(learn_min), "clip_value_max": bool(learn_max)}
        bounds = {"clip_value_min": clip_value_min, "clip_value_max": clip_value_max}
        self._bounds = {name: self._own_slot(name, value) for name, value in bounds.items()}

    def _own_slot(self, name: str, value: npt.ArrayLike) -> Slot:
        bound = as_float32(value, name).copy()
        if self._learned[name]:
            if bound.size != 1:
                raise ValueError(
                    "clip_value_min/clip_value_max must be scalar for initilizing learnable range."
                )
            bound = bound.reshape(())

        def write(new: Array) -> None:
            bound[...] = new

        return Slot(read=bound.copy, write=write, shape=bound.shape)

    @classmethod
    def _of_quantizer(cls, source: Callable[[], _core.Quantizer], name: str) -> Clip:
        """View of the learned bounds of the quantizer that `source` returns, which is called `name`."""
        self = cls.__new__(cls)
        Module.__init__(self)
        self._source = source
        self._learned = {"clip_value_min": True, "clip_value_max": True}
        self._bounds = {
            bound: _slot_of(source, index, f"{name}.clip.{bound}" if name else "")
            for index, bound in enumerate(self._learned)
        }
        return self

    def _copy_state(self) -> dict[str, Any]:
        """Return the arguments of the constructor, and the flags of learned bounds."""
        return {
            "clip_value_min": np.array(self.clip_value_min),
            "clip_value_max": np.array(self.clip_value_max),
            "learn_min": self._learned["clip_value_min"],
            "learn_max": self._learned["clip_value_max"],
            "requires_grad": self._gradient_flags(),
        }

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make a clip of bounds of its own."""
        names = ("clip_value_min", "clip_value_max", "learn_min", "learn_max")
        self: Self = constructed(cls, *(state[name] for name in names))
        self._set_gradient_flags(state["requires_grad"])
        return self

    @property
    def clip_value_min(self) -> Array:
        """Lower bound, float32: a `Parameter` if it is learned, otherwise a copy; assign to change it."""
        return self._bound("clip_value_min")

    @clip_value_min.setter
    def clip_value_min(self, value: npt.ArrayLike) -> None:
        self._assign("clip_value_min", value)

    @property
    def clip_value_max(self) -> Array:
        """Upper bound, float32: a `Parameter` if it is learned, otherwise a copy; assign to change it."""
        return self._bound("clip_value_max")

    @clip_value_max.setter
    def clip_value_max(self, value: npt.ArrayLike) -> None:
        self._assign("clip_value_max", value)

    def _bound(self, name: str) -> Array:
        if self._learned[name]:
            return self._parameter(name)
        value = self._bounds[name].read()
        assert value is not None  # bounds always exist
        return value

    def _assign(self, name: str, value: npt.ArrayLike) -> None:
        slot = self._bounds[name]
        bound = as_float32(value, name)
        if bound.shape != slot.shape:
            raise ShapeError(f"{name}: expected shape {slot.shape}, got {bound.shape}")
        slot.write(bound)

    def _slots(self) -> Mapping[str, Slot]:
        owner = None if self._source is None else self._source()
        return {
            name: dataclasses.replace(slot, owner=owner)
            for name, slot in self._bounds.items()
            if self._learned[name]
        }

    def forward(self, inputs: npt.ArrayLike) -> Array:
        """Clip a tensor; see `qdqbert.nn.functional.clip`.

        Parameters
        ----------
        inputs : array_like, any shape, floating point
        """
        return functional.clip(inputs, self.clip_value_min, self.clip_value_max)

    def __call__(self, inputs: npt.ArrayLike) -> Array:
        """Call `forward`."""
        return self.forward(inputs)


def _slot_of(source: Callable[[], _core.Quantizer], index: int, name: str) -> Slot:
    """Slot of the lower (0) or upper (1) learned bound of a quantizer."""
    place = BoundPlace(source, index)

    return Slot(place.read, place.write, shape=(), state=ParameterState(name=name), place=place)

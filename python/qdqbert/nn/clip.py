# SPDX-License-Identifier: Apache-2.0
"""Clipping as a module whose bounds may be learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array, as_float32
from qdqbert.module import Module, Slot
from qdqbert.nn import functional

__all__ = ["Clip"]


class Clip(Module):
    """Clip values to bounds: ``max(min(inputs, clip_value_max), clip_value_min)``.

    Parameters
    ----------
    clip_value_min, clip_value_max : float or array_like
        Bounds; a learned one has a single element.
    learn_min, learn_max : bool
        Whether the bound is a parameter: part of `state_dict`.

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

    def __init__(
        self,
        clip_value_min: npt.ArrayLike,
        clip_value_max: npt.ArrayLike,
        learn_min: bool = False,
        learn_max: bool = False,
    ) -> None:
        super().__init__()
        bounds = {
            "clip_value_min": as_float32(clip_value_min, "clip_value_min").copy(),
            "clip_value_max": as_float32(clip_value_max, "clip_value_max").copy(),
        }
        self._learned = {"clip_value_min": bool(learn_min), "clip_value_max": bool(learn_max)}
        for name, learned in self._learned.items():
            if learned and bounds[name].size != 1:
                raise ValueError(
                    "clip_value_min/clip_value_max must be scalar for initilizing learnable range."
                )
            bounds[name] = bounds[name].reshape(()) if learned else bounds[name]
        self._read: Callable[[str], Array] = bounds.__getitem__
        self._write: Callable[[str, Array], None] = bounds.__setitem__

    @classmethod
    def _of_quantizer(cls, source: Callable[[], _core.Quantizer]) -> Clip:
        """View of the learned bounds of the quantizer that `source` returns."""
        self = cls.__new__(cls)
        Module.__init__(self)
        self._learned = {"clip_value_min": True, "clip_value_max": True}
        names = tuple(self._learned)

        def read(name: str) -> Array:
            return np.array(source().clip()[names.index(name)], dtype=np.float32)

        def write(name: str, value: Array) -> None:
            bounds = list(source().clip())
            bounds[names.index(name)] = float(value)
            source().set_clip(*bounds)

        self._read, self._write = read, write
        return self

    @property
    def clip_value_min(self) -> Array:
        """Lower bound, a copy."""
        return np.array(self._read("clip_value_min"))

    @property
    def clip_value_max(self) -> Array:
        """Upper bound, a copy."""
        return np.array(self._read("clip_value_max"))

    def _slots(self) -> Mapping[str, Slot]:
        return {name: self._slot(name) for name, learned in self._learned.items() if learned}

    def _slot(self, name: str) -> Slot:
        def read() -> Array:
            view = self._read(name).view()
            view.flags.writeable = False
            return view

        def write(value: Array) -> None:
            self._write(name, np.array(value, dtype=np.float32))

        return Slot(read, write, shape=())

    def forward(self, inputs: npt.ArrayLike) -> Array:
        """Clip a tensor; see `qdqbert.nn.functional.clip`."""
        return functional.clip(inputs, self._read("clip_value_min"), self._read("clip_value_max"))

    def __call__(self, inputs: npt.ArrayLike) -> Array:
        """Call `forward`."""
        return self.forward(inputs)

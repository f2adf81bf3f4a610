# SPDX-License-Identifier: Apache-2.0
"""What every calibrator is: a face of one C observer, which holds the statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array, as_float32
from qdqbert.copies import Copyable

__all__ = ["Calibrator"]


class Calibrator(Copyable, ABC):
    """Collects tensors and finds a range for them.

    Parameters
    ----------
    num_bits : int or tuple (4, 3)
        Number format that the range is for.
    axis : int, sequence of int or None
        Axes that keep a range of their own.
    unsigned : bool
        Whether codes start at 0.
    observer : _core.Observer
        Holds the statistics.
    """

    def __init__(
        self,
        num_bits: int | tuple[int, int],
        axis: int | Sequence[int] | None,
        unsigned: bool,
        observer: _core.Observer,
    ) -> None:
        self._num_bits = num_bits
        self._axis = axis
        self._unsigned = unsigned
        self._observer = observer

    def collect(self, x: npt.ArrayLike) -> None:
        """Count the elements of a tensor.

        Parameters
        ----------
        x : array_like, any shape, floating point

        Raises
        ------
        ValueError
            If an element is NaN or infinite; its place is named and nothing is counted.
        ShapeError
            If the kept axes have other sizes than before.
        TypeError
            If `x` is not floating point.
        """
        self._observer.collect(as_float32(x, "x"))

    def reset(self) -> None:
        """Forget everything that was collected."""
        self._observer.reset()

    def merge(self, other: Self) -> None:
        """Add what another calibrator of the same kind has seen.

        Parameters
        ----------
        other : Calibrator
            Stays as it is.

        Raises
        ------
        TypeError
            If `other` is of another kind.
        StateError
            If the two cannot be added: histograms with other edges, ranges of other shapes.
        """
        if type(other) is not type(self):
            raise TypeError(f"other: expected {type(self).__name__}, got {type(other).__name__}")
        self._observer.merge(other._observer)

    def _copy_state(self) -> dict[str, Any]:
        """Refuse: only `MaxCalibrator` and `HistogramCalibrator` know what made their observer.

        Raises
        ------
        TypeError
            Always; they override this.
        """
        raise TypeError(
            f"{type(self).__name__}: cannot be copied; derive it from MaxCalibrator or HistogramCalibrator, "
            "or give it __deepcopy__ and __reduce__"
        )

    @abstractmethod
    def compute_amax(self, *args: Any, **kwargs: Any) -> Array | None:
        """Range of what was collected, float32; None before any data.

        Parameters
        ----------
        *args, **kwargs
            As the subclass says.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Array]:
        """Statistics as arrays, empty before any data; `load_state_dict` continues from them."""

    @abstractmethod
    def load_state_dict(self, state_dict: Mapping[str, npt.ArrayLike]) -> None:
        """Replace the statistics by what `state_dict` returned.

        Parameters
        ----------
        state_dict : mapping of str to array_like
        """

    def _repr_fields(self) -> str:
        return f"num_bits={self._num_bits} axis={self._axis} unsigned={self._unsigned}"


_Calibrator = Calibrator  # the original's name

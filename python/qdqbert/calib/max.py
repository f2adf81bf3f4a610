# SPDX-License-Identifier: Apache-2.0
"""Calibration by the largest magnitude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array, as_float32, axis_tuple
from qdqbert.calib.calibrator import Calibrator
from qdqbert.copies import constructed
from qdqbert.device import default_device

__all__ = ["MaxCalibrator"]


class MaxCalibrator(Calibrator):
    """The largest magnitude that was seen, per tensor or per index of the kept axes.

    The result does not depend on how the data were split into batches, or on their order.

    Parameters
    ----------
    num_bits : int or tuple (4, 3)
        Number format that the range is for.
    axis : int, sequence of int or None
        Axes that keep a range of their own; negative axes count from the end, axes beyond a tensor's rank
        keep nothing.  A single range is 0-dim whatever `axis` says.
    unsigned : bool
        Whether codes start at 0.
    track_amax : bool
        Whether every batch's range is kept in `amaxs`.
    device : Device, optional
        Where statistics are kept; the default device if not given.

    Raises
    ------
    TypeError
        If `axis` is no int, sequence of int or None.

    Examples
    --------
    >>> calibrator = MaxCalibrator(8, None, False)
    >>> calibrator.collect([-3.0, 2.0])
    >>> float(calibrator.compute_amax())
    3.0
    """

    _machinery = frozenset(("_axis", "_device", "_num_bits", "_observer", "_track_amax", "_unsigned"))

    def __init__(
        self,
        num_bits: int | tuple[int, int],
        axis: int | Sequence[int] | None,
        unsigned: bool,
        track_amax: bool = False,
        *,
        device: _core.Device | None = None,
    ) -> None:
        self._device = device or default_device()
        observer = _core.Observer(self._device, "max", axis=axis_tuple(axis), track_amax=bool(track_amax))
        super().__init__(num_bits, axis, unsigned, observer)
        self._track_amax = track_amax

    @property
    def amaxs(self) -> list[Array]:
        """Range of every batch since the last reset, oldest first.

        Raises
        ------
        AttributeError
            If the calibrator was made without `track_amax`.
        """
        if not self._track_amax:
            raise AttributeError("amaxs: made without track_amax=True")
        return self._observer.tracked()

    # The original's names, which scripts use as well.
    _amaxs = amaxs

    @property
    def _calib_amax(self) -> Array | None:
        """What `compute_amax` returns."""
        return self.compute_amax()

    def compute_amax(self) -> Array | None:
        """Largest magnitude so far.

        Returns
        -------
        ndarray or None
            float32 copy with the kept axes in place and the others 1, 0-dim if it is a single one; None
            before any data.
        """
        return self._observer.amax() if self._observer.has_data else None

    def state_dict(self) -> dict[str, Array]:
        """Return the running maximum, for `load_state_dict`.

        Returns
        -------
        dict
            ``{"amax": ndarray}``; empty before any data.
        """
        amax = self.compute_amax()
        return {} if amax is None else {"amax": amax}

    def load_state_dict(self, state_dict: Mapping[str, npt.ArrayLike]) -> None:
        """Continue from a running maximum.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict`.

        Raises
        ------
        ValueError
            If it has other keys, or values that are no magnitudes.
        """
        if not state_dict:
            self.reset()
            return
        if set(state_dict) != {"amax"}:
            raise ValueError(f"state_dict: expected the key 'amax', got {sorted(state_dict)}")
        self._observer.set_amax(as_float32(state_dict["amax"], "amax"))

    def _copy_state(self) -> dict[str, Any]:
        """Return the arguments of the constructor, the running maximum, and those of the batches."""
        return {
            "num_bits": self._num_bits,
            "axis": self._axis,
            "unsigned": self._unsigned,
            "track_amax": self._track_amax,
            "device": self._device,
            "statistics": self.state_dict(),
            "tracked": self._observer.tracked(),
        }

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make a calibrator that has seen the same."""
        names = ("num_bits", "axis", "unsigned", "track_amax")
        self: Self = constructed(cls, *(state[name] for name in names), device=state["device"])
        if state["statistics"]:
            self.load_state_dict(state["statistics"])
        for amax in state["tracked"]:
            # The range of a batch has the kept axes in place, and is its own range.
            self._observer.collect(amax)
        return self

    def __str__(self) -> str:
        return f"MaxCalibrator(track_amax={self._track_amax})"

    def __repr__(self) -> str:
        text = f"MaxCalibrator({self._repr_fields()} calib_amax={self.compute_amax()!r}"
        text += f" track_amax={self._track_amax}"
        if self._track_amax:
            text += f" amaxs={self.amaxs!r}"
        return text + ")"

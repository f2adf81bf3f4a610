# SPDX-License-Identifier: Apache-2.0
"""Calibration by a histogram of magnitudes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array, as_float32, as_float_array
from qdqbert.calib.calibrator import Calibrator
from qdqbert.calib.histogram_range import amax_of_histogram, require_method, require_percentile
from qdqbert.calib.weights import calibrate_weights
from qdqbert.copies import constructed
from qdqbert.device import default_device
from qdqbert.errors import StateError

__all__ = ["HistogramCalibrator", "calibrate_weights"]

_logger = logging.getLogger(__name__)

_METHODS = ("entropy", "mse", "percentile")


class HistogramCalibrator(Calibrator):
    """A histogram of magnitudes that grows with the data, and three ways to find a range in it.

    Counts are 64-bit integers.  The width of the bins is fixed by the first batch, so the histogram depends
    on which batch comes first; with `fixed_range` it depends on nothing but the data, in any split and order.

    Parameters
    ----------
    num_bits : int or tuple (4, 3)
        Number format that the range is for; ``"mse"`` and ``"entropy"`` use it.
    axis : None
        Histograms are per tensor.
    unsigned : bool
        Whether codes start at 0.
    num_bins : int
        Bins of the first batch, at least 1.
    grow_method : object
        Ignored with a warning, as in the original: histograms grow by appending bins.
    skip_zeros : bool
        Whether zeros are left out.
    torch_hist : bool
        How the first edges are laid.  True: from 0 to the first batch's largest magnitude.  False: from its
        smallest magnitude, as `numpy.histogram` does.
    fixed_range : float, optional
        Edges run from 0 to this for good: the second pass of the two-pass form.  A larger magnitude is an
        error.
    device : Device, optional
        Where statistics are kept; the default device if not given.

    Raises
    ------
    NotImplementedError
        If `axis` is not None.
    ValueError
        If `num_bins` or `fixed_range` is out of range.

    Examples
    --------
    >>> calibrator = HistogramCalibrator(8, None, False, num_bins=4)
    >>> calibrator.collect([0.0, 1.0, 2.0, 4.0])
    >>> float(calibrator.compute_amax("percentile", percentile=75))
    2.0
    """

    _machinery = frozenset(
        ("_axis", "_device", "_first_num_bins", "_fixed_range", "_from_zero", "_num_bits", "_observer")
    ) | {"_skip_zeros", "_unsigned"}

    def __init__(
        self,
        num_bits: int | tuple[int, int],
        axis: int | Sequence[int] | None,
        unsigned: bool,
        num_bins: int = 2048,
        grow_method: object = None,
        skip_zeros: bool = False,
        torch_hist: bool = True,
        *,
        fixed_range: float | None = None,
        device: _core.Device | None = None,
    ) -> None:
        if axis is not None:
            raise NotImplementedError("Calibrator histogram collection only supports per tensor scaling")
        if grow_method is not None:
            _logger.warning("grow_method is deprecated. Got %s, ingored!", grow_method)
        rule = "from_zero" if torch_hist else "from_min"
        self._device = device or default_device()
        observer = _core.Observer(
            self._device,
            "histogram",
            num_bins=num_bins,
            skip_zeros=bool(skip_zeros),
            rule=rule if fixed_range is None else "fixed",
            fixed_max=0.0 if fixed_range is None else fixed_range,
        )
        super().__init__(num_bits, axis, unsigned, observer)
        self._first_num_bins = num_bins
        self._skip_zeros = bool(skip_zeros)
        self._from_zero = bool(torch_hist)
        self._fixed_range = fixed_range

    @property
    def num_bins(self) -> int:
        """Bins now; before any data, the number that the first batch will get."""
        return len(self._observer.histogram()[0]) if self._observer.has_data else self._first_num_bins

    # The original's names of the same, which scripts use as well.
    _num_bins = num_bins

    @property
    def _calib_hist(self) -> npt.NDArray[np.int64] | None:
        """Counts, or None before any data."""
        histogram = self.histogram()
        return None if histogram is None else histogram[0]

    @property
    def _calib_bin_edges(self) -> npt.NDArray[np.float32] | None:
        """Edges, or None before any data."""
        histogram = self.histogram()
        return None if histogram is None else histogram[1]

    @property
    def _torch_hist(self) -> bool:
        """Whether the first edges start at 0; scripts set it to True, which it is by default."""
        return self._from_zero

    @_torch_hist.setter
    def _torch_hist(self, value: bool) -> None:
        if bool(value) != self._from_zero:
            raise StateError(
                "_torch_hist: is fixed when a calibrator is made; assign "
                f"HistogramCalibrator(..., torch_hist={bool(value)}) to the quantizer's _calibrator"
            )

    def histogram(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None:
        """Return counts and edges.

        Returns
        -------
        counts : ndarray, shape (num_bins,), int64
        edges : ndarray, shape (num_bins + 1,), float32
            Or None in place of both before any data.
        """
        return self._observer.histogram() if self._observer.has_data else None

    def compute_amax(
        self, method: str, *, stride: int = 1, start_bin: int = 128, percentile: float = 99.99
    ) -> Array | None:
        """Range from the collected histogram.

        Parameters
        ----------
        method : {"entropy", "mse", "percentile"}
        stride : int
            Distance between the candidates that ``"entropy"`` and ``"mse"`` try, in bins.
        start_bin : int
            Their first candidate.
        percentile : float
            In [0, 100]; used by ``"percentile"`` only.  Share of magnitudes that lie below the bin of amax.

        Returns
        -------
        ndarray, shape (), float32
            Magnitude in the units of the observed tensor; None if nothing was collected.  ``"percentile"``
            and ``"entropy"`` choose an edge, ``"mse"`` the center of a bin.

        Raises
        ------
        TypeError
            If `method` is unknown.
        ValueError
            If `percentile` is out of range, or there are fewer bins than `start_bin`.

        References
        ----------
        Wu et al., 2020, "Integer Quantization for Deep Learning Inference", section 4.2.
        """
        require_method(method, _METHODS, "Unknown calibration method")
        if method == "percentile":
            require_percentile(percentile)
        histogram = self.histogram()
        if histogram is None:
            return None
        return amax_of_histogram(
            self._device,
            *histogram,
            method,
            num_bits=self._num_bits,
            unsigned=self._unsigned,
            stride=stride,
            start_bin=start_bin,
            percentile=percentile,
        )

    def state_dict(self) -> dict[str, Array]:
        """Histogram, for `load_state_dict`.

        Returns
        -------
        dict
            ``{"counts": ndarray, "edges": ndarray}``; empty before any data.  The edges are float64 where the
            original's are: without `torch_hist`, once the histogram has grown.
        """
        histogram = self.histogram()
        if histogram is None:
            return {}
        fine = self._observer.fine_edges()
        return {"counts": histogram[0], "edges": histogram[1] if fine is None else fine}

    def load_state_dict(self, state_dict: Mapping[str, npt.ArrayLike]) -> None:
        """Continue from a histogram.

        Parameters
        ----------
        state_dict : mapping
            From `state_dict`.

        Raises
        ------
        ValueError
            If it has other keys, counts below 0, edges that do not grow, or sizes that do not match.
        TypeError
            If the arrays have other types.
        """
        if not state_dict:
            self.reset()
            return
        if set(state_dict) != {"counts", "edges"}:
            raise ValueError(f"state_dict: expected the keys 'counts' and 'edges', got {sorted(state_dict)}")
        counts = np.asarray(state_dict["counts"])
        if counts.dtype.kind not in "iu":
            raise TypeError(f"counts: expected integers, got {counts.dtype}")
        edges = as_float_array(state_dict["edges"], "edges")
        self._observer.set_histogram(
            np.require(counts, np.int64, ["C_CONTIGUOUS", "ALIGNED"]), as_float32(edges, "edges")
        )
        if edges.dtype == np.float64 and not self._from_zero and self._fixed_range is None:
            self._observer.set_fine_edges(np.require(edges, np.float64, ["C_CONTIGUOUS", "ALIGNED"]))

    def _copy_state(self) -> dict[str, Any]:
        """Return the arguments of the constructor, the histogram, and the largest magnitude."""
        return {
            "num_bits": self._num_bits,
            "axis": self._axis,
            "unsigned": self._unsigned,
            "num_bins": self._first_num_bins,
            "skip_zeros": self._skip_zeros,
            "torch_hist": self._from_zero,
            "fixed_range": self._fixed_range,
            "device": self._device,
            "statistics": self.state_dict(),
            "amax": self._observer.amax() if self._observer.has_data else None,
        }

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make a calibrator that has seen the same."""
        names = (
            "num_bits",
            "axis",
            "unsigned",
            "num_bins",
            "skip_zeros",
            "torch_hist",
            "fixed_range",
            "device",
        )
        self: Self = constructed(cls, **{name: state[name] for name in names})
        if state["statistics"]:
            self.load_state_dict(state["statistics"])
            self._observer.set_amax(state["amax"])
        return self

    def __str__(self) -> str:
        histogram = self.histogram()
        if histogram is None:
            return "HistogramCalibrator(calib_bin_edges=None)"
        edges = histogram[1]
        return f"HistogramCalibrator(calib_bin_edges=[{edges[0]:.3f}, ..., {edges[-1]:.3f}]({len(edges)}))"

    def __repr__(self) -> str:
        counts, edges = self.histogram() or (None, None)
        return f"HistogramCalibrator({self._repr_fields()} calib_bin_edges={edges!r} calib_hist={counts!r})"

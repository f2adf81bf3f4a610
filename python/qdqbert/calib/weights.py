# SPDX-License-Identifier: Apache-2.0
"""Ranges of weights, from the weights themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qdqbert import _core
from qdqbert.arrays import Array
from qdqbert.calib.histogram_range import amax_of_histogram, require_method, require_percentile
from qdqbert.module import Module

if TYPE_CHECKING:
    from qdqbert.nn.tensor_quantizer import TensorQuantizer

__all__ = ["calibrate_weights"]

_METHODS = ("max", "mse", "percentile")


def calibrate_weights(
    model: Module,
    method: str = "percentile",
    perchannel: bool = True,
    percentile: float = 99.99,
    num_bins: int = 2048,
) -> None:
    """Set the range of every weight quantizer from its weight.

    The quantizers' own calibrators are not used.  A module takes part if it has a ``weight`` and a
    ``weight_quantizer``; its channels are axis 0, or what its attribute ``channel_axis`` says.

    Parameters
    ----------
    model : Module
        Changed in place; on failure it is as it was.
    method : {"max", "mse", "percentile"}
    perchannel : bool
        One range per channel, or one per weight.
    percentile : float
        In [0, 100]; used by ``"percentile"`` only.
    num_bins : int
        Bins of the histograms that ``"mse"`` and ``"percentile"`` use, at least 1.

    Raises
    ------
    TypeError
        If `method` is unknown.
    ValueError
        If an option is out of range, or a weight has a NaN or an infinity.
    StateError
        If a quantizer has a range of another shape already, or a forward runs on the model at this moment.
    """
    require_method(method, _METHODS, "Unsupported calibration method")
    if method == "percentile":
        require_percentile(percentile)
    found = []
    for name, module in model.named_modules():
        weight, quantizer = getattr(module, "weight", None), getattr(module, "weight_quantizer", None)
        if weight is None or quantizer is None:
            continue
        axis = getattr(module, "channel_axis", 0) if perchannel else None
        channels = [weight] if axis is None else np.moveaxis(weight, axis, 0)
        try:
            ranges = [_range_of(channel, quantizer, method, percentile, num_bins) for channel in channels]
        except ValueError as error:
            raise ValueError(f"{name}.weight: {error}" if name else f"weight: {error}") from error
        shape = [] if axis is None else [-1 if each == axis else 1 for each in range(weight.ndim)]
        found.append((quantizer, np.array(ranges, dtype=np.float32).reshape(shape)))
    with _core.Change(tuple(quantizer._handle for quantizer, _ in found)):
        before = [quantizer._handle.amax() for quantizer, _ in found]
        try:
            for quantizer, amax in found:
                quantizer.amax = amax
        except BaseException:
            for (quantizer, _), amax in zip(found, before, strict=True):
                quantizer._handle.set_amax(amax)
            raise


def _range_of(
    weight: Array, quantizer: TensorQuantizer, method: str, percentile: float, num_bins: int
) -> Array:
    device = quantizer._device
    values = np.ascontiguousarray(weight, dtype=np.float32)
    if method == "max":
        observer = _core.Observer(device, "max")
        observer.collect(values)
        return observer.amax()
    observer = _core.Observer(device, "histogram", num_bins=num_bins)
    observer.collect(values)
    return amax_of_histogram(
        device,
        *observer.histogram(),
        method,
        num_bits=quantizer.num_bits,
        unsigned=quantizer.unsigned,
        percentile=percentile,
    )

# SPDX-License-Identifier: Apache-2.0
"""What a quantizer must be like while one of the original's two export switches is on.

``TensorQuantizer.use_fb_fake_quant`` (toolkit 2.1) made quantizers use PyTorch's own fake quantization, whose
ONNX form exporters knew; ``enable_onnx_export()`` (2.2) turned exportable ones on.  Here there is one
arithmetic, so neither changes a number: they make a forward check what the export of their version needed,
and name the quantizer that does not have it.  Where 2.1 went on with other numbers (it ignored
``narrow_range``), this refuses.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.arrays import Array
from qdqbert.errors import StateError, UnsupportedError

if TYPE_CHECKING:
    from qdqbert.nn.tensor_quantizer import TensorQuantizer

__all__ = ["require_native", "require_ready"]

_logger = logging.getLogger(__name__)


def require_ready(quantizer: TensorQuantizer) -> None:
    """Check what `qdqbert.enable_onnx_export` needs: a range that does not depend on the tensor.

    A quantizer that is still calibrating is named in the log.  One that is disabled, or does not quantize, is
    not part of an exported graph and needs nothing.

    Parameters
    ----------
    quantizer : TensorQuantizer

    Raises
    ------
    StateError
        If the range is dynamic, or is one of E4M3 with more than one element.
    """
    if quantizer._disabled:
        return
    if quantizer._if_calib:
        _logger.warning(
            "%sQuantizer is in calibration mode. Please complete calibration before exporting to ONNX for "
            "correct results.",
            quantizer._prefix(),
        )
    if not quantizer._if_quant or quantizer._learn_amax:
        return
    amax = quantizer.amax
    if amax is None:
        raise StateError(
            "Quantizer has not been calibrated. ONNX export requires the quantizer to be calibrated. "
            f"Calibrate and load amax before exporting to ONNX.{quantizer._at()}"
        )
    if isinstance(quantizer.num_bits, tuple) and amax.size != 1:
        raise StateError(
            "E4M3 supports ONNX export only for per-tensor quantization. Per-tensor quantization requires "
            f"scalar amax. Received non-scalar amax of shape: {amax.shape}.{quantizer._at()}"
        )


def require_native(quantizer: TensorQuantizer, dtype: np.dtype[Any] | None) -> None:
    """Check what ``use_fb_fake_quant`` needs: PyTorch's fake quantization would compute the same.

    Parameters
    ----------
    quantizer : TensorQuantizer
    dtype : numpy.dtype or None
        Of the tensor to be quantized, if it is known.

    Raises
    ------
    UnsupportedError
        If the tensor is float16, or the format is E4M3.
    TypeError
        If the range keeps more than one axis.
    StateError
        If the range is narrow, which PyTorch's is not.
    """
    if quantizer._disabled or not quantizer._if_quant or not quantizer.fake_quant:
        return
    if dtype == np.float16:
        raise UnsupportedError(
            "Exporting to ONNX in fp16 is not supported. Please export in fp32, i.e. disable AMP."
            + quantizer._at()
        )
    if isinstance(quantizer.num_bits, tuple):
        raise UnsupportedError(
            f"use_fb_fake_quant: PyTorch's native quantization has no E4M3.{quantizer._at()}"
        )
    if quantizer.narrow_range and not quantizer.unsigned:
        raise StateError(
            "use_fb_fake_quant: PyTorch's native quantization always uses the full range, and this quantizer "
            f"has narrow_range=True.{quantizer._at()}"
        )
    if _keeps_several_axes(quantizer.amax, quantizer.axis):
        raise TypeError(f"Pytorch's native quantization doesn't support multiple axes.{quantizer._at()}")


def _keeps_several_axes(amax: Array | None, axis: object) -> bool:
    if amax is None:
        return isinstance(axis, list | tuple) and len(axis) > 1
    return amax.squeeze().ndim > 1

# SPDX-License-Identifier: Apache-2.0
"""One quantizer: what a descriptor says, applied to tensors.

A `TensorQuantizer` holds one handle of the C core, where options, stages, range and statistics are.
Stand-alone it owns the quantizer; inside a model it looks at one that the model owns, and changing it here
changes the model.

It behaves like ``pytorch_quantization.nn.TensorQuantizer`` 2.2, with these differences, each decided in the
reference catalogue: a disabled quantizer is the identity even with a ``pre_quant_scale``; learned clip bounds
do not clip while calibrating; negative axes count from the end for dynamic ranges too; a loaded range is a
copy of the calibrator's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from qdqbert import _core, calib
from qdqbert.arrays import Array, as_float32, as_float_array, axis_tuple
from qdqbert.copies import Copyable, constructed
from qdqbert.device import default_device
from qdqbert.errors import ShapeError, StateError
from qdqbert.module import Module, Slot
from qdqbert.nn.clip import Clip
from qdqbert.nn.export_checks import require_native, require_ready
from qdqbert.nn.quantizer_stages import QuantizerStages
from qdqbert.nn.quantizer_state import handle_state, set_handle_state
from qdqbert.quant_descriptor import QuantDescriptor
from qdqbert.tensor_quant import reduce_amax, refuse_negative, tensor_quant

__all__ = ["TensorQuantizer"]

_logger = logging.getLogger(__name__)


class TensorQuantizer(Copyable, QuantizerStages):  # a module's shallow copy would not share the calibrator
    """Quantize tensors as a descriptor says.

    Parameters
    ----------
    quant_desc : QuantDescriptor
        Number format, range and calibration method.
    disabled : bool
        Whether the quantizer starts as the identity, whatever the other flags say.
    if_quant : bool
        Whether it starts quantizing.
    if_clip : bool
        Whether it starts clipping to its learned bounds; a descriptor with ``learn_amax`` always does.
    if_calib : bool
        Whether it starts collecting statistics.

    Raises
    ------
    ValueError
        If `if_clip` is set without ``learn_amax``, or the descriptor's `num_bits` or `amax` is out of range.
    TypeError
        If the descriptor's `axis` is no int, sequence of int or None.
    NotImplementedError
        If the descriptor asks for a histogram of a range with axes.

    Attributes
    ----------
    use_fb_fake_quant : bool
        Class-wide switch of toolkit 2.1 for ONNX export; see `qdqbert.nn.export_checks`.

    Notes
    -----
    In `forward`, an enabled quantizer multiplies by ``pre_quant_scale``, shows the tensor to its
    calibrator if calibration is on, clips if that is on, and quantizes if that is on: with its range, or,
    while it has none, with the largest magnitude of the tensor at hand.

    Examples
    --------
    >>> quantizer = TensorQuantizer(QuantDescriptor(num_bits=4, amax=7.0))
    >>> quantizer([0.4, 2.6, 9.0]).tolist()
    [0.0, 3.0, 7.0]
    """

    use_fb_fake_quant: ClassVar[bool] = False
    _enable_onnx_export: ClassVar[bool] = False  # set by qdqbert.enable_onnx_export()
    _machinery = frozenset(
        ("_descriptor", "_device", "_fixed", "_modules", "_name", "_observing", "_scale", "_source")
    ) | {"_tensor_shape", "clip"}
    _device: _core.Device
    _scale: Array | float | None
    _tensor_shape: Callable[[], tuple[int, ...] | None]  # of the one tensor that it is for, if there is one

    def __init__(
        self,
        quant_desc: QuantDescriptor = QuantDescriptor(),  # noqa: B008  immutable
        disabled: bool = False,
        if_quant: bool = True,
        if_clip: bool = False,
        if_calib: bool = False,
    ) -> None:
        if if_clip and not quant_desc.learn_amax:
            raise ValueError("learn_amax is False. Cannot enable clip.")
        device = default_device()
        handle = _core.Quantizer(device, descriptor_options(quant_desc))
        set_range(handle, quant_desc)
        handle.stages = (
            (_core.STAGE_DISABLED if disabled else 0)
            | (_core.STAGE_QUANT if if_quant else 0)
            | (_core.STAGE_CLIP if if_clip or quant_desc.learn_amax else 0)
            | (_core.STAGE_CALIB if if_calib else 0)
        )
        self._set_up(lambda: handle, quant_desc, None, device)

    @classmethod
    def from_handle(
        cls,
        source: Callable[[], _core.Quantizer],
        descriptor: QuantDescriptor,
        name: str,
        device: _core.Device,
    ) -> Self:
        """View of a quantizer inside a model.

        Parameters
        ----------
        source : callable () -> _core.Quantizer
            The model's present quantizer: another one after the model has changed its sizes.
        descriptor : QuantDescriptor
            What the quantizer was made from.
        name : str
            Its dotted name, for messages.
        device : Device
            The model's.

        Returns
        -------
        TensorQuantizer
        """
        self = cls.__new__(cls)
        self._set_up(source, descriptor, name, device)
        return self

    def _set_up(
        self,
        source: Callable[[], _core.Quantizer],
        descriptor: QuantDescriptor,
        name: str | None,
        device: _core.Device,
    ) -> None:
        Module.__init__(self)
        # Past Module.__setattr__: a model has hundreds of quantizers, and none of these is a child.
        vars(self).update(
            _device=device,
            _source=source,
            _descriptor=descriptor,
            _name=name,
            _scale=1.0 if descriptor.fake_quant else None,
            _tensor_shape=_no_shape,
        )
        bits, axis, unsigned = descriptor.num_bits, descriptor.axis, descriptor.unsigned
        self._calibrator = (
            calib.HistogramCalibrator(bits, axis, unsigned, device=device)
            if descriptor.calib_method == "histogram"
            else calib.MaxCalibrator(bits, axis, unsigned, device=device)
        )
        if descriptor.learn_amax:
            self.add_module("clip", Clip._of_quantizer(source, name or ""))

    # ---- number format -------------------------------------------------------------------------------------

    @property
    def num_bits(self) -> int | tuple[int, int]:
        """Bits of the integer format, or ``(4, 3)``; settable."""
        bits: int | tuple[int, int] = self._handle.options()["num_bits"]
        return bits

    @num_bits.setter
    def num_bits(self, value: int | tuple[int, int]) -> None:
        self._handle.set_options({"num_bits": value})

    @property
    def unsigned(self) -> bool:
        """Whether codes start at 0; settable."""
        return bool(self._handle.options()["unsigned"])

    @unsigned.setter
    def unsigned(self, value: bool) -> None:
        self._handle.set_options({"unsigned": value})

    @property
    def narrow_range(self) -> bool:
        """Whether the lowest signed code is minus the highest; settable."""
        return bool(self._handle.options()["narrow_range"])

    @narrow_range.setter
    def narrow_range(self, value: bool) -> None:
        self._handle.set_options({"narrow_range": value})

    @property
    def maxbound(self) -> int | float:
        """Highest code; 448.0 for E4M3."""
        bits = self.num_bits
        if isinstance(bits, tuple):
            return 448.0
        return (1 << (bits - 1 + self.unsigned)) - 1

    @property
    def axis(self) -> int | Sequence[int] | None:
        """Axes that keep a range of their own, as the descriptor gave them."""
        return self._descriptor.axis

    @property
    def fake_quant(self) -> bool:
        """Whether values are dequantized again."""
        return bool(self._handle.options()["fake_quant"])

    # The original's names of the same, which scripts use as well.
    _num_bits, _unsigned, _narrow_range = num_bits, unsigned, narrow_range
    _axis, _fake_quant = axis, fake_quant

    @property
    def _learn_amax(self) -> bool:
        """Whether the range is a pair of learned clip bounds."""
        return bool(self._descriptor.learn_amax)

    @property
    def _scale_amax(self) -> float | None:
        """Factor on amax when it is used, or None; settable."""
        given, used = self._descriptor.scale_amax, self._handle.options()["scale_amax"]
        if used is None or (given is not None and np.float32(given) == np.float32(used)):
            return given if used is not None else None
        return float(str(np.float32(used)))  # the shortest number that C's float32 stands for

    @_scale_amax.setter
    def _scale_amax(self, value: float | None) -> None:
        self._handle.set_options({"scale_amax": value})

    # ---- range ---------------------------------------------------------------------------------------------

    @property
    def amax(self) -> Array | None:
        """Range, a float32 copy of the shape in which it was set, or None while it is dynamic.

        Set it to a number, list or array of magnitudes (at least 0, or NaN, with which the quantizer gives
        NaN and a model refuses to quantize).  A range keeps its shape for
        life: another one is a `StateError`.  That of a layer's weight must broadcast to it, or it is a
        `ShapeError`.  Setting None is refused with a message in the log, as in the
        original.
        """
        return self._handle.amax()

    @amax.setter
    def amax(self, value: npt.ArrayLike | None) -> None:
        if value is None:
            _logger.error("%sSetting amax to None is meaningless.", self._prefix())
            return
        amax = _magnitudes(value, "amax")
        self._require_fit(amax)
        self._replace("amax", self._handle.amax(), amax, self._handle.set_amax)

    def _require_fit(self, amax: Array | None) -> None:
        """Refuse a range that does not broadcast to the weight, if the quantizer is one of a weight."""
        shape = self._tensor_shape()
        if amax is None or shape is None:
            return
        sizes = zip(reversed(amax.shape), reversed(shape), strict=False)
        if amax.ndim > len(shape) or any(mine not in (1, size) for mine, size in sizes):
            raise ShapeError(
                f"{self._prefix()}amax: expected a shape that broadcasts to {shape}, got shape {amax.shape}"
            )

    @property
    def _amax(self) -> Array:
        """`amax` as the original's buffer: missing while the range is dynamic.

        Assigning replaces the range whatever its shape was, ``del`` makes it dynamic again.
        """
        amax = self._handle.amax()
        if amax is None:
            raise AttributeError("_amax")
        return amax

    @_amax.setter
    def _amax(self, value: npt.ArrayLike) -> None:
        amax = _magnitudes(value, "amax")
        self._require_fit(amax)
        self._handle.set_amax(amax)

    @_amax.deleter
    def _amax(self) -> None:
        self._handle.set_amax(None)

    @property
    def step_size(self) -> Array | None:
        """Value of one code, ``amax / maxbound``, float32; None while the range is dynamic."""
        amax = self._handle.amax()
        if amax is None:
            _logger.error("%sstep_size is undefined under dynamic amax mode!", self._prefix())
            return None
        return np.asarray(amax / np.float32(self.maxbound), dtype=np.float32)

    @property
    def scale(self) -> Array | float | None:
        """Codes per unit of the last tensor that was quantized for real, None before any; 1.0 for fake."""
        if self.fake_quant:
            _logger.error("%sFake quantize mode doesn't use scale explicitly!", self._prefix())
            return 1.0
        if self._scale is None:
            _logger.critical("%sAccessing scale before quantizing any tensor!", self._prefix())
        return self._scale

    @property
    def pre_quant_scale(self) -> Array | None:
        """Factor on the input, a float32 copy, or None; settable like `amax`."""
        return self._handle.pre_quant_scale()

    @pre_quant_scale.setter
    def pre_quant_scale(self, value: npt.ArrayLike | None) -> None:
        if value is None:
            _logger.error("%sSetting pre_quant_scale to None is meaningless.", self._prefix())
            return
        self._replace(
            "pre_quant_scale",
            self._handle.pre_quant_scale(),
            _magnitudes(value, "pre_quant_scale"),
            self._handle.set_pre_quant_scale,
        )

    def _replace(self, what: str, old: Array | None, new: Array, write: Any) -> None:
        if old is not None and old.shape != new.shape:
            raise StateError(
                f"Changing shape when setting {what} is not allowed."
                f" {self._prefix()}expected {old.shape}, got {new.shape}"
            )
        write(new)

    # ---- calibration ---------------------------------------------------------------------------------------

    def load_calib_amax(self, *args: Any, strict: bool = True, **kwargs: Any) -> None:
        """Take the range that the calibrator finds.

        Parameters
        ----------
        *args, **kwargs
            For the calibrator's ``compute_amax``: none for ``"max"``; method and its options for
            ``"histogram"``.
        strict : bool
            Whether a calibrator that has seen nothing is an error; otherwise the range becomes NaN, with a
            warning. A quantizer gives NaN for such a range; a model refuses to quantize with it.

        Raises
        ------
        StateError
            If there is no calibrator, nothing was collected and `strict` is set, or the shape of an existing
            range does not match.
        TypeError, ValueError
            As the calibrator's ``compute_amax``.
        """
        calibrator = self._calibrator
        if calibrator is None:
            raise StateError(f"Calibrator not created.{self._at()}")
        # The range is for the format that the quantizer has now, which may have been set after it was made.
        calibrator._num_bits, calibrator._unsigned = self.num_bits, self.unsigned
        amax = calibrator.compute_amax(*args, **kwargs)
        if amax is None:
            message = (
                "Calibrator returned None. This usually happens when calibrator hasn't seen any tensor."
                " Passing 'strict=False' to `load_calib_amax()` will ignore the error."
            )
            if strict:
                raise StateError(message + self._at())
            _logger.warning("%s%s Set amax to NaN!", self._prefix(), message)
            amax = np.array(np.nan, dtype=np.float32)
        old = self._handle.amax()
        if old is not None and old.shape != amax.shape:
            with contextlib.suppress(ValueError):  # the setter says what does not match
                amax = np.ascontiguousarray(np.broadcast_to(amax, old.shape))
        self.amax = amax

    def init_learn_amax(self) -> None:
        """Start the learned bounds at minus and plus the largest range.

        Raises
        ------
        StateError
            If the descriptor has no ``learn_amax``, or there is no range yet.
        """
        if not self._descriptor.learn_amax:
            raise StateError(f"{self._prefix()}Called init_learn_amax with learn_amax=False.")
        amax = self._handle.amax()
        if amax is None:
            raise StateError(f"{self._prefix()}Called init_learn_amax before there is an amax.")
        bound = float(np.max(amax))
        self._handle.set_clip(-bound, bound)

    # ---- work ----------------------------------------------------------------------------------------------

    def forward(self, inputs: npt.ArrayLike) -> Array:
        """Do to a tensor what the stages say.

        Parameters
        ----------
        inputs : array_like, any shape, float16, float32 or float64

        Returns
        -------
        ndarray, shape and type of `inputs`

        Raises
        ------
        TypeError
            If `inputs` is not floating point, or an unsigned quantizer meets a negative element.
        ShapeError
            If the range or ``pre_quant_scale`` does not broadcast to `inputs`, or the calibrator has
            collected another shape of ranges.
        ValueError
            If a tensor to be collected has a NaN or an infinity.
        StateError
            If another thread uses the quantizer at this moment, or an export switch is on and the quantizer
            is not ready (`qdqbert.nn.export_checks`).
        """
        array = as_float_array(inputs, "inputs")
        self._require_exportable(array.dtype)
        x = as_float32(array, "inputs")
        try:
            y = self._handle.forward(x)
        except ValueError:
            refuse_negative(x, self.unsigned)
            raise
        if not self.fake_quant and self._handle.stages & (_core.STAGE_DISABLED | _core.STAGE_QUANT) == (
            _core.STAGE_QUANT
        ):
            self._scale = self._scale_of(x)
        if array.dtype == np.float64 and self._is_identity():
            return array.copy()
        return y.astype(array.dtype, copy=False)

    def __call__(self, inputs: npt.ArrayLike) -> Array:
        """Call `forward`."""
        return self.forward(inputs)

    def _is_identity(self) -> bool:
        if self._disabled:
            return True
        clips = self._if_clip and not self._if_calib
        return not (self._if_quant or clips) and self._handle.pre_quant_scale() is None

    def _require_exportable(self, dtype: np.dtype[Any] | None = None) -> None:
        """Check what an export switch that is on asks of the quantizer; raises what the checks raise."""
        if TensorQuantizer._enable_onnx_export:
            require_ready(self)
        if TensorQuantizer.use_fb_fake_quant:
            require_native(self, dtype)

    def _scale_of(self, x: Array) -> Array:
        """Scale that real quantization of x used."""
        options = self._handle.options()
        amax = self._handle.amax()
        if options["learn_amax"]:
            low, high = self._handle.clip()
            amax = np.array(max(-low, high), dtype=np.float32)
        elif amax is None:
            factor = self._handle.pre_quant_scale()
            x = x if factor is None else x * factor
            kept = {axis % x.ndim for axis in options["axis"] or () if -x.ndim <= axis < x.ndim}
            amax = reduce_amax(x, tuple(axis for axis in range(x.ndim) if axis not in kept))
        if options["scale_amax"]:
            amax = amax * np.float32(options["scale_amax"])
        zeros = np.zeros(amax.shape, np.float32)
        _, scale = tensor_quant(zeros, amax, options["num_bits"], options["unsigned"])
        return scale

    # ---- copies --------------------------------------------------------------------------------------------

    def _copy_state(self) -> dict[str, Any]:
        """Return descriptor, device, calibrator, last scale, flags of parameters, and `handle_state`."""
        return {
            "descriptor": self._descriptor,
            "device": self._device,
            "calibrator": self._calibrator,
            "scale": self._scale,
            "requires_grad": self._gradient_flags(),
            **handle_state(self._handle),
        }

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make a quantizer that belongs to no model."""
        self: Self = constructed(cls, state["descriptor"])
        if state["device"] is not self._device:
            handle = _core.Quantizer(state["device"], descriptor_options(self._descriptor))
            self._set_up(lambda: handle, self._descriptor, None, state["device"])
        self._set_state(state)
        self._set_gradient_flags(state["requires_grad"])
        return self

    def _set_state(self, state: Mapping[str, Any]) -> None:
        """Set calibrator, last scale and the core's quantizer to those of a state."""
        self._descriptor = state["descriptor"]
        self._handle.stages = 0  # so that a calibrator may be taken away
        self._calibrator = state["calibrator"]
        self._scale = state["scale"]
        set_handle_state(self._handle, state)

    # ---- tree ----------------------------------------------------------------------------------------------

    def _slots(self) -> Mapping[str, Slot]:
        tensors = (
            ("_amax", self._handle.amax, self._handle.set_amax),
            ("_pre_quant_scale", self._handle.pre_quant_scale, self._handle.set_pre_quant_scale),
        )
        slots = {}
        for name, read, write in tensors:
            value = read()
            shape = None if value is None else value.shape
            slots[name] = Slot(
                read,
                write,
                shape,
                is_parameter=False,
                required=False,
                owner=self._handle,
                difference=None if self._handle.frozen_name is None else _frozen_difference(value),
            )
        return slots

    def _parameter_slots(self) -> Mapping[str, Slot]:
        """None: learned bounds are those of `clip`."""
        return {}

    def extra_repr(self) -> str:
        """Return the whole state on one line."""
        if self._has_stage(_core.STAGE_DISABLED):
            return "disabled"
        text = "unsigned " if self.unsigned else ""
        text += f"{self.num_bits}bit"
        text += " narrow" if self.narrow_range else ""
        text += " fake" if self.fake_quant else ""
        text += f" axis={self.axis}" if self.axis is not None else " per-tensor"
        text += f" amax={_range_text(self._handle.amax())}"
        text += f" *{self._scale_amax}" if self._scale_amax else ""
        text += " pre_quant_scale" if self._handle.pre_quant_scale() is not None else ""
        text += " learned" if self._descriptor.learn_amax else ""
        text += f" calibrator={type(self._calibrator).__name__}" if self._calibrator is not None else ""
        if self.fake_quant:
            text += " scale=1.0"
        elif self._scale is not None:
            scale = np.asarray(self._scale)
            text += f" scale={scale.item() if scale.ndim == 0 else scale!r}"
        text += " quant" if self._has_stage(_core.STAGE_QUANT) else ""
        text += " clip" if self._has_stage(_core.STAGE_CLIP) else ""
        text += " calib" if self._has_stage(_core.STAGE_CALIB) else ""
        return text


def _frozen_difference(present: Array | None) -> Callable[[Array], str]:
    """Return what says how a value differs from what a quantizer of frozen codes has."""

    def difference(value: Array) -> str:
        if present is not None and np.array_equal(value, present):
            return ""
        what = "there is none" if present is None else "it differs from what is there"
        return (
            f"{what}, and that cannot be changed, because the weight of the layer is frozen: what its codes "
            "mean follows from it; load the checkpoint again"
        )

    return difference


def _no_shape() -> None:
    return None


def descriptor_options(descriptor: QuantDescriptor) -> dict[str, Any]:
    """Options of a core quantizer for a descriptor; its `amax`, `name` and `calib_method` are no options.

    Parameters
    ----------
    descriptor : QuantDescriptor

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        If the descriptor's `axis` is no int, sequence of int or None.
    """
    return {
        "num_bits": descriptor.num_bits,
        "axis": axis_tuple(descriptor.axis),
        "unsigned": bool(descriptor.unsigned),
        "narrow_range": bool(descriptor.narrow_range),
        "fake_quant": bool(descriptor.fake_quant),
        "learn_amax": bool(descriptor.learn_amax),
        "scale_amax": descriptor.scale_amax,
    }


def set_range(handle: _core.Quantizer, descriptor: QuantDescriptor) -> None:
    """Start a core quantizer with the range that its descriptor names, if it names one.

    Parameters
    ----------
    handle : _core.Quantizer
    descriptor : QuantDescriptor

    Raises
    ------
    ValueError
        If a learned range starts from more than one number, or the range is negative.
    """
    amax = descriptor.amax
    if amax is not None:
        handle.set_amax(amax)
    if descriptor.learn_amax:
        if amax is not None and amax.size != 1:
            raise ValueError("clip_value_min/clip_value_max must be scalar for initilizing learnable range.")
        bound = 1.0 if amax is None else float(amax.reshape(()))
        handle.set_clip(-bound, bound)


def _magnitudes(value: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind in "iu":
        array = array.astype(np.float32)
    return as_float32(array, name)


def _range_text(amax: Array | None) -> str:
    if amax is None:
        return "dynamic"
    if amax.size == 1:
        return f"{amax.item():.4f}"
    return f"[{amax.min():.4f}, {amax.max():.4f}]({amax.size})"

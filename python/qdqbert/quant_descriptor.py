# SPDX-License-Identifier: Apache-2.0
"""What a quantizer should do, as plain data: `QuantDescriptor` and the predefined descriptors.

Public names and texts are those of ``pytorch_quantization.tensor_quant``, from which these are re-exported
here as `qdqbert.tensor_quant`.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert import yaml_subset

__all__ = [
    "QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW",
    "QUANT_DESC_8BIT_PER_TENSOR",
    "QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR",
    "QuantDescriptor",
    "ScaledQuantDescriptor",
]

_logger = logging.getLogger(__name__)

_CALIB_METHODS = ("max", "histogram")

_Fields = dict[str, Any]  # the class has a method named dict


class ScaledQuantDescriptor:
    """How to quantize a tensor: number format, range and calibration.  Immutable.

    Parameters
    ----------
    num_bits : int or tuple (4, 3)
        Bits of the integer format, 0 or more (quantizers accept up to 16), or ``(4, 3)`` for the 8-bit
        floating-point format E4M3.  0 turns everything into a constant and one signed bit into NaN, which
        models refuse; both are logged as errors.
    name : str or None
        Shown by `str`.
    fake_quant : bool
        True: quantize and dequantize.  False: a quantizer returns integer values and keeps the scale.
    axis : int, sequence of int or None
        Axes that keep a range of their own (the opposite of the `axis` of `numpy.max`); negative axes count
        from the end.  None: one range for the whole tensor.
    amax : float, list, ndarray or None
        Fixed range: magnitude of the largest value that does not saturate, stored as float32.  None: the
        range is calibrated or computed from each tensor.
    learn_amax : bool
        The range is a pair of learned clip bounds.
    scale_amax : float or None
        Factor on amax when it is used.
    calib_method : {"max", "histogram"}
        Which calibrator a quantizer creates.
    unsigned : bool
        Codes 0 .. 2**num_bits - 1; a negative element is an error.
    narrow_range : bool
        Lowest signed code is minus the highest, e.g. -127 instead of -128.
    **unused
        Any other keyword is an error.

    Raises
    ------
    ValueError
        If `num_bits` is negative, `calib_method` is unknown, `axis` has an axis twice, or `amax` holds what
        is no number.
    TypeError
        If `num_bits`, `name`, `axis` or `amax` has another type, `axis` is given together with `learn_amax`,
        or there is any other keyword.

    Notes
    -----
    Of the fields, `scale_amax`, `fake_quant`, `unsigned` and `narrow_range` are taken as they
    come, as in the original; a quantizer refuses values that make no sense.

    References
    ----------
    Wu et al., 2020, "Integer Quantization for Deep Learning Inference", section 3.

    Examples
    --------
    >>> print(ScaledQuantDescriptor(num_bits=4, axis=(0,), unsigned=True))
    QuantDescriptor(unsigned 4bit fake axis=(0,))
    """

    __slots__ = (
        "_amax",
        "_axis",
        "_calib_method",
        "_fake_quant",
        "_learn_amax",
        "_name",
        "_narrow_range",
        "_num_bits",
        "_scale_amax",
        "_unsigned",
    )

    def __init__(
        self,
        num_bits: int | tuple[int, int] = 8,
        name: str | None = None,
        *,
        fake_quant: bool = True,
        axis: int | tuple[int, ...] | list[int] | None = None,
        amax: float | list[Any] | npt.NDArray[Any] | None = None,
        learn_amax: bool = False,
        scale_amax: float | None = None,
        calib_method: str = "max",
        unsigned: bool = False,
        narrow_range: bool = False,
        **unused: object,
    ) -> None:
        _check_num_bits(num_bits, bool(unsigned))
        _check_axis(axis)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, not {type(name)}.")
        if learn_amax and axis is not None:
            raise TypeError(f"axis is ignored and must be None when learn_amax is true, got {type(axis)}.")
        if amax is not None and (isinstance(amax, bool) or not isinstance(amax, float | list | np.ndarray)):
            raise TypeError(f"amax must be float, list or ndarray, not {type(amax)}")
        if unused:
            raise TypeError(f"Unused keys: {unused.keys()}")
        if calib_method not in _CALIB_METHODS:
            raise ValueError(f"calib_method: expected one of {_CALIB_METHODS}, got {calib_method!r}")
        self._num_bits = num_bits
        self._name = name
        self._fake_quant = fake_quant
        self._axis = axis
        self._amax: npt.NDArray[np.float32] | None = None
        if amax is not None:
            try:
                self._amax = np.array(amax, dtype=np.float32)
            except OverflowError as error:  # an integer beyond every float
                raise ValueError(f"amax: {error}") from None
            self._amax.flags.writeable = False
        self._learn_amax = learn_amax
        self._scale_amax = scale_amax
        self._calib_method = calib_method
        self._unsigned = unsigned
        self._narrow_range = narrow_range

    @property
    def num_bits(self) -> int | tuple[int, int]:
        """Bits of the integer format, or ``(4, 3)``."""
        return self._num_bits

    @property
    def name(self) -> str | None:
        """Name shown by `str`, or None."""
        return self._name

    @property
    def fake_quant(self) -> bool:
        """Whether values are dequantized again."""
        return self._fake_quant

    @property
    def axis(self) -> int | tuple[int, ...] | list[int] | None:
        """Axes that keep a range of their own, as given; None for one range per tensor."""
        return self._axis

    @property
    def amax(self) -> npt.NDArray[np.float32] | None:
        """Fixed range, read-only float32 array of the shape that was given (0-dim for a number), or None."""
        return self._amax

    @property
    def learn_amax(self) -> bool:
        """Whether the range is a pair of learned clip bounds."""
        return self._learn_amax

    @property
    def scale_amax(self) -> float | None:
        """Factor on amax, or None."""
        return self._scale_amax

    @property
    def calib_method(self) -> str:
        """``"max"`` or ``"histogram"``."""
        return self._calib_method

    @property
    def unsigned(self) -> bool:
        """Whether codes start at 0."""
        return self._unsigned

    @property
    def narrow_range(self) -> bool:
        """Whether the lowest signed code is minus the highest."""
        return self._narrow_range

    def dict(self) -> _Fields:
        """Fields that are not at their defaults (`num_bits` and `name` always), in plain Python types.

        Returns
        -------
        dict
            Keyword arguments of an equal descriptor: ``QuantDescriptor(**d.dict()) == d``.
        """
        fields: _Fields = {"num_bits": self._num_bits, "name": self._name}
        if not self._fake_quant:
            fields["fake_quant"] = self._fake_quant
        if self._axis is not None:
            fields["axis"] = self._axis
        if self._amax is not None:
            fields["amax"] = self._amax.tolist()
        if self._scale_amax is not None:
            fields["scale_amax"] = self._scale_amax
        if self._learn_amax:
            fields["learn_amax"] = self._learn_amax
        if self._unsigned:
            fields["unsigned"] = self._unsigned
        if self._narrow_range is not False:
            fields["narrow_range"] = self._narrow_range
        if self._calib_method != "max":
            fields["calib_method"] = self._calib_method
        return fields

    def to_yaml(self) -> str:
        """YAML text of `dict`, with tuples as lists.

        Returns
        -------
        str
            What `from_yaml` reads.

        Raises
        ------
        TypeError
            If a field that is not validated holds something YAML has no form for.
        """
        fields = self.dict()
        axis = fields.get("axis")
        if axis is not None and not isinstance(axis, int):
            fields["axis"] = list(axis)
        return yaml_subset.dump(fields)

    @classmethod
    def from_yaml(cls, yaml_str: str) -> ScaledQuantDescriptor:
        """Descriptor written by `to_yaml`, by the original toolkit, or by hand.

        Parameters
        ----------
        yaml_str : str
            A mapping of constructor arguments.  Lists under ``axis`` and ``num_bits`` become tuples.

        Returns
        -------
        ScaledQuantDescriptor

        Raises
        ------
        ValueError
            If the text is not in the subset of YAML that descriptors use, or a value is not allowed.
        TypeError
            If the text is not a mapping, or a value has a wrong type.
        """
        fields = yaml_subset.load(yaml_str)
        if not isinstance(fields, dict):
            raise TypeError(f"a descriptor must be a mapping, not {type(fields).__name__}")
        for key in ("axis", "num_bits"):
            if isinstance(fields.get(key), list):
                fields[key] = tuple(fields[key])
        return cls(**fields)

    def __str__(self) -> str:
        """One line: name, format, axis and range."""
        text = "QuantDescriptor(" if self._name is None else f"{self._name}: ("
        text += "unsigned " if self._unsigned else ""
        text += f"{self._num_bits}bit"
        text += " fake" if self._fake_quant else " real"
        text += f" axis={self._axis if self._axis is not None else ' per-tensor'}"
        if self._amax is not None:
            text += f" amax={self._amax} full_range"
        text += " learn_amax" if self._learn_amax else ""
        text += f" scale_amax={self._scale_amax}" if self._scale_amax else ""
        return text + ")"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from qdqbert.notebook import descriptor_html

        return descriptor_html(self)

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal; ranges are compared by shape and value."""
        if not isinstance(other, ScaledQuantDescriptor):
            return NotImplemented
        mine, theirs = self._amax, other._amax
        if mine is None or theirs is None:
            if mine is not theirs:
                return False
        elif mine.shape != theirs.shape or not np.array_equal(mine, theirs):
            return False
        return all(
            getattr(self, field) == getattr(other, field) for field in self.__slots__ if field != "_amax"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle through the constructor."""
        fields = self.dict() | {"fake_quant": self._fake_quant, "amax": self._amax}
        return _rebuild, (type(self), fields)


def _rebuild(cls: type[ScaledQuantDescriptor], fields: _Fields) -> ScaledQuantDescriptor:
    return cls(**fields)


def _check_axis(axis: object) -> None:
    axes = axis if isinstance(axis, tuple | list) else () if axis is None else (axis,)
    if any(isinstance(each, bool) or not isinstance(each, int | np.integer) for each in axes):
        raise TypeError(f"axis: expected an integer, a sequence of them or None, got {axis!r}")
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis: expected each axis once, got {axis!r}")


def _check_num_bits(num_bits: object, unsigned: bool) -> None:
    if isinstance(num_bits, int) and not isinstance(num_bits, bool):
        if num_bits < 0:
            raise ValueError(f"num_bits must be > 0, not {num_bits}.")
        if num_bits + unsigned == 1:
            _logger.error(
                "num_bits is %d and %s. The largest code is 0: this will result in the tensor being "
                "quantized to NaN.",
                num_bits,
                "unsigned" if unsigned else "signed",
            )
        elif num_bits == 0:
            _logger.error("num_bits is 0. This will result in the tensor being quantized to all zeros.")
    elif num_bits != (4, 3) or not isinstance(num_bits, tuple):
        raise TypeError(f"num_bits must be a postive integer or tuple (4,3), not {type(num_bits)}.")


QuantDescriptor = ScaledQuantDescriptor

QUANT_DESC_8BIT_PER_TENSOR = QuantDescriptor(num_bits=8)
QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR = QuantDescriptor(num_bits=8, unsigned=True)
QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)

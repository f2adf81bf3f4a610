# SPDX-License-Identifier: Apache-2.0
"""One quantizer as nodes of an ONNX graph.

A quantizer with the range amax becomes QuantizeLinear and DequantizeLinear with zero point 0 and the scale
``amax / bound``, one float32 division, as the original's exporter writes it: a scalar without an axis for one
range per tensor, a vector with its axis otherwise.  ONNX computes ``rint(x / scale)`` where this package
computes ``rint(x * (bound / amax))``, so codes can differ where ``x / scale`` is a tie but for float32
rounding, and nowhere else; those of weights in float32 do not (`qdqbert.onnx.weight_ties`).

What needs more than these two nodes:

- *narrow range*.  ONNX saturates signed codes at ``-bound - 1``.  That code comes from ``x / scale`` below
  ``-bound - 1/2`` alone, so where x is known to stay above, nothing is added: a weight whose elements are
  looked at, probabilities, or an activation function whose least value is known.  Elsewhere x is kept above
  ``-bound * scale`` first (Clip, or Max where there are several scales); that quotient is ``-bound`` within
  an ulp, so it rounds to ``-bound``, and no other code changes.
- *dead ranges*, amax at most 2^-24: the quantizer gives 0.  The scale is 1, as in the original.  An
  activation is multiplied by 0 first; for a weight the scale is the power of two, at least 1, that sends the
  largest element of the channel to code 0; a weight that is stored as codes has zeros.
- *learned ranges* clip to their two bounds first, and *pre-quantization scales* multiply.
- *E4M3* is QuantizeLinear to float8 from opset 19 on, or TensorRT's own pair of operators.

Quantizers that are off leave no trace.  What cannot be written is refused with the quantizer's name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qdqbert._core import STAGE_CALIB, STAGE_CLIP, STAGE_DISABLED, STAGE_QUANT
from qdqbert.errors import StateError, UnsupportedError
from qdqbert.nn.quantizer_state import handle_state
from qdqbert.nn.tensor_quantizer import TensorQuantizer
from qdqbert.onnx.codes import weight_codes
from qdqbert.onnx.graph_builder import GraphBuilder, Value, bits_of, scope_of
from qdqbert.onnx.opsets import Opset
from qdqbert.onnx.precision import Precision
from qdqbert.onnx.weight_ties import Moves, moves_off_ties

__all__ = ["Format", "QuantizeNodes", "Range"]

_logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

_DEAD = np.float32(2.0**-24)
_TENSORRT = "trt"


class Format(NamedTuple):
    """Codes of a quantizer.

    Attributes
    ----------
    kind : str
        Element type of the codes.
    bound : float
        Code of amax.
    lowest : float
        Lowest code; ``-bound`` where the range is narrow.
    is_narrow : bool
        Whether the element type has a code below `lowest`.
    silent : float
        Quotients below it have code 0.
    """

    kind: str
    bound: float
    lowest: float
    is_narrow: bool
    silent: float = 0.5


class Range(NamedTuple):
    """Format and scales of a quantizer that quantizes.

    Attributes
    ----------
    format : Format
    amax : ndarray, float32
        In the shape of the tensor's axes, as the quantizer uses it.
    scale : ndarray, shape of `amax`, float32
        Value of one code; 1 where the range is dead.
    is_dead : ndarray, shape of `amax`, bool
    """

    format: Format
    amax: Floats
    scale: Floats
    is_dead: npt.NDArray[np.bool_]


class QuantizeNodes:
    """Writes quantizers into a graph.

    Parameters
    ----------
    graph : GraphBuilder
    opset : Opset
    precision : Precision
    keeps_codes : bool
        Store weights as codes and DequantizeLinear, not as floats and both.
    uses_tensorrt_float8 : bool
        Write E4M3 as TensorRT's own operators.

    Attributes
    ----------
    graph, opset, precision
        As given.
    moves : dict of str to Moves
        Elements of weights that are written otherwise than they are, by the name of the parameter.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        opset: Opset,
        precision: Precision,
        *,
        keeps_codes: bool,
        uses_tensorrt_float8: bool,
    ) -> None:
        self.graph = graph
        self.opset = opset
        self.precision = precision
        self._keeps_codes = keeps_codes
        self._uses_tensorrt_float8 = uses_tensorrt_float8
        self.moves: dict[str, Moves] = {}
        self._zero_points: dict[tuple[str, str], Value] = {}

    # ---- activations ---------------------------------------------------------------------------------------

    def activation(
        self,
        value: Value,
        quantizer: TensorQuantizer,
        path: str,
        *,
        least: float = -np.inf,
        last_axis_is_free: bool = False,
    ) -> Value:
        """Return an activation as its quantizer makes it.

        Parameters
        ----------
        value : Value
            Float32, or the precision's type.
        quantizer : TensorQuantizer
        path : str
            Dotted name of the quantizer.
        least : float
            A value that no element is below.
        last_axis_is_free : bool
            Whether the model serves ranges along the last axis here.

        Returns
        -------
        Value
            The same one if the quantizer is off, otherwise float32.

        Raises
        ------
        StateError
            If there is no range, or it is not finite.
        UnsupportedError
            If the number format or the axis cannot be written.
        """
        state = _state_of(quantizer, path)
        if state["stages"] & STAGE_DISABLED:
            return value
        scope = scope_of(path)
        value = self._prepared(value, state, path)
        if not state["stages"] & STAGE_QUANT:
            return value
        found = self.range_of(state, path)
        axis = None
        if found.amax.size > 1:
            if not last_axis_is_free or found.amax.shape[-1] != found.amax.size:
                where = ", or follow the last axis" if last_axis_is_free else ""
                raise UnsupportedError(
                    f"{path}: the range of an activation can be one number{where}, got {found.amax.shape}"
                )
            axis = value.rank - 1
        if found.is_dead.any():
            alive = np.where(found.is_dead, np.float32(0), np.float32(1)).reshape(-1 if axis else ())
            value = self.graph.node("Mul", scope, self._float(value, scope), self.graph.constant(alive))
        needs_floor = found.format.is_narrow and bool(
            (least < -(found.format.bound + 0.49) * found.scale.astype(np.float64)).any()
        )
        return self._pair(value, found, path, axis, needs_floor)

    def _prepared(self, value: Value, state: Mapping[str, Any], path: str) -> Value:
        """Multiply and clip, where the quantizer does so first."""
        scope, graph = scope_of(path), self.graph
        factor = state["pre_quant_scale"]
        if factor is not None:
            factor = np.asarray(factor, np.float32)
            value = graph.node("Mul", scope, self._float(value, scope), graph.constant(factor))
        stages = state["stages"]
        quantizes_learned = stages & STAGE_QUANT and state["options"]["learn_amax"]
        if quantizes_learned or (stages & STAGE_CLIP and not stages & STAGE_CALIB):
            low, high = (graph.constant(np.float32(bound)) for bound in state["clip"])
            value = graph.node("Clip", scope, self._float(value, scope), low, high)
        return value

    def _float(self, value: Value, scope: str) -> Value:
        return self.graph.cast(value, "FLOAT", scope)

    # ---- weights -------------------------------------------------------------------------------------------

    def weight(self, weight: Floats, quantizer: TensorQuantizer, path: str) -> Value:
        """Return the weight of a linear layer, transposed, as its quantizer makes it.

        The tensor in the file is transposed too, so that nothing stands between DequantizeLinear and MatMul:
        runtimes look for that pattern.

        Parameters
        ----------
        weight : ndarray, shape (out_features, in_features), float32
            A view of the model's: it is read when the file is written.
        quantizer : TensorQuantizer
        path : str
            Dotted name of the layer.

        Returns
        -------
        Value
            Rank 2, (in_features, out_features).

        Raises
        ------
        StateError, UnsupportedError
            As for `activation`.
        """
        name = f"{path}._weight_quantizer"
        state = _state_of(quantizer, name)
        stages = state["stages"]
        if stages & STAGE_DISABLED:
            return self.plain_weight(weight, path)
        if not stages & STAGE_QUANT:
            return self._prepared(self.plain_weight(weight, path), _transposed(state), name)
        found = self.range_of(state, name)
        axis = _weight_axis(found.amax, weight.shape, name)
        if not np.isfinite(weight).all():
            raise StateError(f"{path}.weight: has a NaN or an infinity, for which there is no code")
        if found.format.lowest == 0.0 and (weight < 0.0).any():
            raise StateError(f"{name}: is unsigned, and the weight has negative elements")
        if self._keeps_codes:
            return self._coded_weight(weight, state, found, path, axis)
        used = weight if state["pre_quant_scale"] is None else weight * state["pre_quant_scale"]
        largest = (
            np.abs(used).max(axis=_reduced(found.amax, weight.shape), keepdims=True).reshape(found.amax.shape)
        )
        silent = np.exp2(np.ceil(np.log2(np.maximum(largest / found.format.silent, 1.0))) + 1.0)
        is_loud = found.is_dead & (largest >= found.format.silent)
        scale = np.where(is_loud, silent, found.scale).astype(np.float32)
        least = used.min(axis=_reduced(found.amax, weight.shape), keepdims=True).reshape(found.amax.shape)
        below = least < -(found.format.bound + 0.49) * scale.astype(np.float64)
        needs_floor = found.format.is_narrow and bool(below.any())
        found = found._replace(scale=scale)
        is_plain = state["pre_quant_scale"] is None and not state["options"]["learn_amax"]
        if is_plain and self.precision.kind == "FLOAT":
            limits = found.format.lowest, found.format.bound
            moves = moves_off_ties(weight, found.amax, scale, state["options"], limits)
            if moves is not None:
                self.moves[f"{path}.weight"] = moves
        value = self._prepared(self.plain_weight(weight, path), _transposed(state), name)
        return self._pair(value, found, name, axis, needs_floor)

    def plain_weight(self, weight: Floats, path: str) -> Value:
        """Return the weight of a linear layer, transposed.

        Parameters
        ----------
        weight : ndarray, shape (out_features, in_features), float32
            As for `weight`.
        path : str
            Dotted name of the layer.
        """
        rows, columns = weight.shape
        moves = self.moves.get(f"{path}.weight")
        return self.precision.parameter(
            self.graph,
            f"{path}.weight_transposed",
            (columns, rows),
            lambda: (weight if moves is None else moves.applied(weight)).T,
        )

    def _coded_weight(
        self, weight: Floats, state: Mapping[str, Any], found: Range, path: str, axis: int | None
    ) -> Value:
        options, amax, form = state["options"], found.amax, found.format
        factor, clip = state["pre_quant_scale"], state["clip"] if options["learn_amax"] else None

        def make() -> npt.NDArray[Any]:
            used = weight if factor is None else weight * factor
            if clip is not None:
                used = np.clip(used, *np.asarray(clip, np.float32))
            return weight_codes(used, amax, found.is_dead, form.kind, options)

        rows, columns = weight.shape
        kind = "UINT8" if self._is_tensorrt(form) else form.kind
        codes = self.graph.initializer(f"{path}.weight_codes", kind, (columns, rows), make)
        name = f"{path}._weight_quantizer"
        return self._dequantize(codes, found, name, axis, self._scale(found, name, axis))

    # ---- nodes ---------------------------------------------------------------------------------------------

    def _pair(self, value: Value, found: Range, path: str, axis: int | None, needs_floor: bool) -> Value:
        """QuantizeLinear and DequantizeLinear, after a floor where the range is narrow and needs one."""
        scope, graph = scope_of(path), self.graph
        value = self._float(value, scope)
        if needs_floor:
            floor = (-np.float32(found.format.bound) * found.scale).astype(np.float32)
            if axis is None:
                value = graph.node("Clip", scope, value, graph.constant(floor.reshape(())))
            else:
                value = graph.node("Max", scope, value, graph.constant(_along(floor, axis, value.rank)))
        scale = self._scale(found, path, axis)
        if self._is_tensorrt(found.format):
            codes = graph.node(
                "TRT_FP8QuantizeLinear", scope, value, scale, kind="UINT8", rank=value.rank, domain=_TENSORRT
            )
            graph.describe(codes)
        else:
            codes = graph.node(
                "QuantizeLinear",
                scope,
                value,
                scale,
                self._zero_point(found, path, axis),
                kind=found.format.kind,
                rank=value.rank,
                **_axis_attribute(axis),
            )
        return self._dequantize(codes, found, path, axis, scale)

    def _dequantize(self, codes: Value, found: Range, path: str, axis: int | None, scale: Value) -> Value:
        scope, graph = scope_of(path), self.graph
        if self._is_tensorrt(found.format):
            value = graph.node(
                "TRT_FP8DequantizeLinear",
                scope,
                codes,
                scale,
                kind="FLOAT",
                rank=codes.rank,
                domain=_TENSORRT,
            )
            graph.describe(value)
            return value
        return graph.node(
            "DequantizeLinear",
            scope,
            codes,
            scale,
            self._zero_point(found, path, axis),
            kind="FLOAT",
            rank=codes.rank,
            **_axis_attribute(axis),
        )

    def _scale(self, found: Range, path: str, axis: int | None) -> Value:
        return self.graph.array(f"{path}.scale", found.scale.reshape(() if axis is None else -1))

    def _zero_point(self, found: Range, path: str, axis: int | None) -> Value:
        """Return zeros of the quantizer's own: ONNX Runtime rewrites them beside each weight."""
        kind = found.format.kind
        if (kind, path) not in self._zero_points:
            shape = () if axis is None else (found.scale.size,)
            zeros = np.zeros((math.prod(shape) * bits_of(kind) + 7) // 8, np.uint8)
            name = f"{path}.zero_point"
            self._zero_points[kind, path] = self.graph.initializer(name, kind, shape, lambda: zeros)
        return self._zero_points[kind, path]

    def _is_tensorrt(self, form: Format) -> bool:
        return form.kind == "FLOAT8E4M3FN" and self._uses_tensorrt_float8

    # ---- ranges --------------------------------------------------------------------------------------------

    def range_of(self, state: Mapping[str, Any], path: str) -> Range:
        """Return format and scales of a quantizer that quantizes.

        Parameters
        ----------
        state : mapping
            As `qdqbert.nn.quantizer_state.handle_state` gives it.
        path : str
            Dotted name of the quantizer.

        Raises
        ------
        StateError
            If it has no range yet, or one that is not finite.
        UnsupportedError
            If its number format has no type in this opset.
        """
        options = state["options"]
        form = self._format(options, path)
        amax = state["amax"]
        if options["learn_amax"]:
            low, high = (np.float32(bound) for bound in state["clip"])
            amax = np.asarray(max(-low, high), np.float32)
        elif amax is None:
            raise StateError(
                f"{path}: has no range yet, and a dynamic one would be frozen to that of one batch; "
                "calibrate first, or disable the quantizer"
            )
        else:
            factor = options["scale_amax"]
            amax = np.asarray(amax if not factor else amax * np.float32(factor), np.float32)
        if not np.isfinite(amax).all():
            raise StateError(f"{path}: amax is {amax[~np.isfinite(amax)].flat[0]}, expected a finite range")
        if self._is_tensorrt(form) and amax.size > 1:
            raise UnsupportedError(
                f"{path}: TensorRT's float8 operators take one scale for a tensor, got {amax.size}"
            )
        scale = np.asarray(amax / np.float32(form.bound), np.float32)
        # E4M3 has no rule for small ranges; only where the scale vanishes is there nothing to divide by.
        is_dead = np.asarray(scale == 0.0 if form.kind == "FLOAT8E4M3FN" else amax <= _DEAD)
        return Range(form, amax, np.where(is_dead, np.float32(1.0), scale), is_dead)

    def _format(self, options: Mapping[str, Any], path: str) -> Format:
        bits, is_unsigned = options["num_bits"], bool(options["unsigned"])
        if isinstance(bits, tuple):
            if not (self.opset.has_float8 or self._uses_tensorrt_float8):
                raise UnsupportedError(
                    f"{path}: float8 needs opset 19, or TensorRT's own operators (float8='tensorrt'); "
                    f"the opset is {self.opset.version}"
                )
            return Format("FLOAT8E4M3FN", 448.0, -448.0, False, 2.0**-10)
        kind = f"{'UINT' if is_unsigned else 'INT'}{bits}"
        if bits not in (4, 8, 16):
            raise UnsupportedError(f"{path}: ONNX has integers of 4, 8 and 16 bits, got num_bits={bits}")
        if bits != 8 and not self.opset.has_int4_int16:
            raise UnsupportedError(
                f"{path}: num_bits={bits} needs opset 21, the first with {kind}; got {self.opset.version}"
            )
        bound = float((1 << (bits - 1 + is_unsigned)) - 1)
        if is_unsigned:
            return Format(kind, bound, 0.0, False)
        is_narrow = bool(options["narrow_range"])
        return Format(kind, bound, -bound if is_narrow else -bound - 1.0, is_narrow)


def _state_of(quantizer: TensorQuantizer, path: str) -> dict[str, Any]:
    state = handle_state(quantizer._handle)
    if state["stages"] & STAGE_CALIB and not state["stages"] & STAGE_DISABLED:
        _logger.warning("%s: is still calibrating; the range that it has now is exported", path)
    return state


def _transposed(state: dict[str, Any]) -> dict[str, Any]:
    factor = state["pre_quant_scale"]
    return state if factor is None else {**state, "pre_quant_scale": np.atleast_2d(factor).T}


def _weight_axis(amax: Floats, shape: tuple[int, ...], path: str) -> int | None:
    """Axis of the transposed weight that the scales follow, or None for one scale."""
    sizes = (1,) * (2 - amax.ndim) + amax.shape
    if amax.size == 1:
        return None
    if sizes == (shape[0], 1):
        return 1
    if sizes == (1, shape[1]):
        return 0
    raise UnsupportedError(f"{path}: ONNX has scales along one axis, got a range of shape {amax.shape}")


def _reduced(amax: Floats, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of a weight over which one range is for all elements."""
    sizes = (1,) * (2 - amax.ndim) + amax.shape
    return tuple(axis for axis in range(2) if sizes[axis] == 1)


def _axis_attribute(axis: int | None) -> dict[str, Any]:
    """None on a node with one scale: parsers refuse an axis there."""
    return {} if axis is None else {"axis": axis}


def _along(array: Floats, axis: int, rank: int) -> Floats:
    """Return a vector so that it broadcasts along an axis."""
    return array.reshape([-1 if each == axis else 1 for each in range(rank)])

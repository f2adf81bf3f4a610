# SPDX-License-Identifier: Apache-2.0
"""ONNX's own conformance cases against our quantizer, case by case: reproduced, or listed with the reason.

ONNX computes ``saturate(rint(x / s) + z)``; a quantizer here ``clamp(rint(x * (bound / amax)))``, which is
that with s = amax / bound and z = 0.  A zero point in the middle of an unsigned type is the same: uint8 with
128 is int8 with 0, 128 higher.  Any other one moves the window to which codes saturate, and quantizers here
have none.

Dequantization has no window: ``(q - z) s`` is the value of the code q - z, of a symmetric quantizer with a
bit more where z is not 0.

Of 36 cases 16 are reproduced (4 of 13 that quantize, 12 of 14 that dequantize), 6 have another window, 1 is
refused, 4 are of another number format, 9 are products.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import pytest

from qdqbert.onnx.graph_view import attribute
from qdqbert.onnx.tensor_values import KINDS, TensorReader, kind_of
from qdqbert.tensor_quant import scaled_e4m3, tensor_quant
from shared_data import Shared

REPRODUCED = "reproduced"
WINDOW = "the zero point moves the window of codes; a symmetric quantizer has none"
FORMAT = "the number format is none of this package's: integers of up to 16 bits and E4M3"
REFUSED = "an unsigned quantizer refuses negative elements, where ONNX makes code 0 of them"
PRODUCT = "a product of codes with zero points, which is another operator"

CASES = {
    "test_dequantizelinear": REPRODUCED,
    "test_dequantizelinear_axis": REPRODUCED,
    "test_dequantizelinear_blocked": REPRODUCED,
    "test_dequantizelinear_e4m3fn": REPRODUCED,
    "test_dequantizelinear_e4m3fn_float16": REPRODUCED,
    "test_dequantizelinear_e4m3fn_zero_point": REPRODUCED,
    "test_dequantizelinear_e5m2": FORMAT,
    "test_dequantizelinear_float4e2m1": FORMAT,
    "test_dequantizelinear_int16": REPRODUCED,
    "test_dequantizelinear_int2": REPRODUCED,
    "test_dequantizelinear_int4": REPRODUCED,
    "test_dequantizelinear_uint16": REPRODUCED,
    "test_dequantizelinear_uint2": REPRODUCED,
    "test_dequantizelinear_uint4": REPRODUCED,
    "test_matmulinteger": PRODUCT,
    "test_qlinearmatmul_2D_int8_float16": PRODUCT,
    "test_qlinearmatmul_2D_int8_float32": PRODUCT,
    "test_qlinearmatmul_2D_uint8_float16": PRODUCT,
    "test_qlinearmatmul_2D_uint8_float32": PRODUCT,
    "test_qlinearmatmul_3D_int8_float16": PRODUCT,
    "test_qlinearmatmul_3D_int8_float32": PRODUCT,
    "test_qlinearmatmul_3D_uint8_float16": PRODUCT,
    "test_qlinearmatmul_3D_uint8_float32": PRODUCT,
    "test_quantizelinear": REPRODUCED,
    "test_quantizelinear_axis": WINDOW,
    "test_quantizelinear_blocked_asymmetric": WINDOW,
    "test_quantizelinear_blocked_symmetric": REPRODUCED,
    "test_quantizelinear_e4m3fn": REPRODUCED,
    "test_quantizelinear_e5m2": FORMAT,
    "test_quantizelinear_float4e2m1": FORMAT,
    "test_quantizelinear_int16": WINDOW,
    "test_quantizelinear_int2": REPRODUCED,
    "test_quantizelinear_int4": WINDOW,
    "test_quantizelinear_uint16": WINDOW,
    "test_quantizelinear_uint2": REFUSED,
    "test_quantizelinear_uint4": WINDOW,
}

Array = npt.NDArray[Any]


class Case(NamedTuple):
    """One node with its inputs; scale and zero point in the shape of `x`."""

    op: str
    x: Array
    scale: Array
    zero_point: Array
    y: Array
    kind: str  # of the codes


def tensors(folder: Path) -> Iterator[tuple[str, onnx.TensorProto]]:
    for path in sorted((folder / "test_data_set_0").glob("*.pb")):
        yield path.stem, onnx.TensorProto.FromString(path.read_bytes())


def array(tensor: onnx.TensorProto) -> Array:
    """Elements by our own reader, or by onnx's where there is no use for them here."""
    if kind_of(tensor.data_type) in KINDS:
        return TensorReader(None).values(tensor)
    return onnx.numpy_helper.to_array(tensor).astype(np.float32)


def spread(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Give every element of `shape` its scale or zero point."""
    if values.size == 1:
        return np.broadcast_to(values.reshape(()), shape)
    if block:
        return np.repeat(values, block, axis)
    return np.broadcast_to(values.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def read(folder: Path) -> Case:
    node = onnx.load(folder / "model.onnx").graph.node[0]
    found = dict(tensors(folder))
    x, y = array(found["input_0"]), array(found["output_0"])
    axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
    scale = spread(array(found["input_1"]), x.shape, axis, block)
    zero_point = np.zeros((), np.int64)
    if "input_2" in found:
        zero_point = array(found["input_2"]).astype(np.int64)
    coded = found["output_0" if node.op_type == "QuantizeLinear" else "input_0"]
    return Case(node.op_type, x, scale, spread(zero_point, x.shape, axis, block), y, kind_of(coded.data_type))


def bits_of(kind: str) -> int:
    return int("".join(each for each in kind if each.isdigit()))


@pytest.fixture
def folder(shared: Shared, request: pytest.FixtureRequest) -> Path:
    return shared("data", "onnx-node-tests", request.param)


def these(*reasons: str, op: str = "") -> list[str]:
    return [name for name, reason in CASES.items() if reason in reasons and name.startswith(f"test_{op}")]


@pytest.mark.shared
def test_every_case_of_the_folder_is_accounted_for(shared: Shared) -> None:
    assert {each.name for each in shared("data", "onnx-node-tests").iterdir()} == CASES.keys()


@pytest.mark.shared
@pytest.mark.parametrize("folder", these(REPRODUCED, op="quantizelinear"), indirect=True)
def test_codes_are_reproduced(folder: Path) -> None:
    case = read(folder)

    if case.kind == "FLOAT8E4M3FN":
        ours = scaled_e4m3(case.x, np.float32(448.0) * case.scale)
        assert np.array_equal(ours, case.y * case.scale)
        return
    bits = bits_of(case.kind)
    middle = 1 << (bits - 1) if case.kind.startswith("U") else 0
    assert (case.zero_point == middle).all(), "not symmetric"
    amax = ((1 << (bits - 1)) - 1) * case.scale
    codes, _ = tensor_quant(case.x, amax, bits, narrow_range=False)
    assert np.array_equal(codes + middle, case.y.astype(np.float32))


@pytest.mark.shared
@pytest.mark.parametrize("folder", these(REPRODUCED, op="dequantizelinear"), indirect=True)
def test_values_are_reproduced(folder: Path) -> None:
    case = read(folder)

    if case.kind == "FLOAT8E4M3FN":
        # Values of codes are what the quantizer leaves as it is.
        amax = np.float32(448.0) * case.scale.astype(np.float32)
        assert np.array_equal(scaled_e4m3(case.y, amax), case.y)
        assert np.array_equal(scaled_e4m3(case.x * case.scale, amax), case.y)
        return
    codes = (case.x.astype(np.int64) - case.zero_point).astype(np.float32)
    bits = min(bits_of(case.kind) + (case.zero_point != 0).any(), 16)
    amax = ((1 << (bits - 1)) - 1) * case.scale
    assert (np.abs(codes) <= 1 << (bits - 1)).all(), "a code that 16 bits do not have"
    again, scale = tensor_quant(case.y, amax, int(bits), narrow_range=False)
    assert np.array_equal(again, codes)
    assert np.array_equal(codes / scale, case.y)


@pytest.mark.shared
@pytest.mark.parametrize("folder", these(WINDOW, op="quantizelinear"), indirect=True)
def test_rounding_agrees_where_only_the_window_differs(folder: Path) -> None:
    case = read(folder)
    assert (case.zero_point != 0).any()
    limits = np.iinfo(case.y.dtype) if bits_of(case.kind) > 4 else None
    low, high = (limits.min, limits.max) if limits else ((-8, 7) if case.kind == "INT4" else (0, 15))

    codes, _ = tensor_quant(case.x, 32767 * case.scale, 16, narrow_range=False)

    inside = np.abs(codes) < 32767
    moved = np.clip(codes + case.zero_point, low, high)
    assert inside.mean() > 0.6  # the others saturate in any window
    assert np.array_equal(moved[inside], case.y.astype(np.float64)[inside])


@pytest.mark.shared
@pytest.mark.parametrize("folder", these(REFUSED), indirect=True)
def test_what_is_refused_agrees_elsewhere(folder: Path) -> None:
    case = read(folder)
    amax = ((1 << bits_of(case.kind)) - 1) * case.scale

    with pytest.raises(TypeError, match="Negative values encountered"):
        tensor_quant(case.x, amax, bits_of(case.kind), unsigned=True)
    codes, _ = tensor_quant(np.maximum(case.x, 0), amax, bits_of(case.kind), unsigned=True)
    assert np.array_equal(codes, case.y.astype(np.float32))


@pytest.mark.shared
@pytest.mark.parametrize("folder", these(FORMAT), indirect=True)
def test_listed_formats_are_none_of_ours(folder: Path) -> None:
    assert read(folder).kind in ("FLOAT8E5M2", "FLOAT4E2M1")


@pytest.mark.shared
@pytest.mark.parametrize("folder", these(PRODUCT), indirect=True)
def test_listed_products_are_other_operators(folder: Path) -> None:
    assert onnx.load(folder / "model.onnx").graph.node[0].op_type in ("MatMulInteger", "QLinearMatMul")


@pytest.mark.shared
@pytest.mark.parametrize("folder", CASES, indirect=True)
def test_elements_are_read_as_onnx_reads_them(folder: Path) -> None:
    for name, tensor in tensors(folder):
        if kind_of(tensor.data_type) in KINDS:
            expected = onnx.numpy_helper.to_array(tensor)
            assert np.array_equal(TensorReader(None).values(tensor), expected.astype(array(tensor).dtype)), (
                name
            )

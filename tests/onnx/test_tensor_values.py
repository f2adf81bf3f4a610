# SPDX-License-Identifier: Apache-2.0
"""Elements of constant tensors: every code of every format, from both kinds of field, as onnx reads them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx import TensorProto

from qdqbert.onnx.tensor_values import KINDS, TensorReader, kind_of

# All codes where there are at most 16 bits; of 4 bits an odd number, so that half a byte is left over.
COUNTS = {4: 33, 8: 256, 16: 65536, 32: 1031, 64: 1031}


def bits_of(kind: str) -> bytes:
    """Bytes of tensors with every code of a format, or of random ones."""
    bits, count = KINDS[kind].bits, COUNTS[KINDS[kind].bits]
    if bits == 4:
        return bytes(np.random.default_rng(1).integers(0, 256, (count + 1) // 2).astype(np.uint8))
    if bits == 8:
        return bytes(range(2)) * 128 if kind == "BOOL" else bytes(range(256))
    if bits == 16:
        return np.arange(1 << 16, dtype="<u2").tobytes()
    return np.random.default_rng(2).bytes(count * bits // 8)


def test_kinds_have_the_numbers_that_onnx_gives_them() -> None:
    for name, kind in KINDS.items():
        assert TensorProto.DataType.Value(name) == kind.number
    for name, number in TensorProto.DataType.items():
        assert kind_of(number) in (name, f"type {number}")  # newer formats have no name here


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_has_the_value_that_onnx_gives_it(kind: str) -> None:
    count = COUNTS[KINDS[kind].bits]
    tensor = TensorProto(name="t", data_type=KINDS[kind].number, dims=[count], raw_data=bits_of(kind))

    found = TensorReader(None).values(tensor)

    expected = onnx.numpy_helper.to_array(tensor)
    assert found.shape == (count,)
    with np.errstate(invalid="ignore"):  # signalling NaN
        assert np.array_equal(found, expected.astype(found.dtype), equal_nan=found.dtype.kind == "f")


@pytest.mark.parametrize("kind", KINDS)
def test_typed_fields_and_raw_bytes_are_the_same(kind: str) -> None:
    count, data = COUNTS[KINDS[kind].bits], bits_of(kind)
    raw = TensorProto(name="t", data_type=KINDS[kind].number, dims=[count], raw_data=data)
    typed = TensorProto(name="t", data_type=KINDS[kind].number, dims=[count])
    elements = np.frombuffer(data, KINDS[kind].dtype)
    getattr(typed, KINDS[kind].field).extend(elements.tolist())

    reader = TensorReader(None)

    reader.verify(typed)
    with np.errstate(invalid="ignore"):
        found = reader.values(typed), reader.values(raw)
    assert np.array_equal(*found, equal_nan=found[0].dtype.kind == "f")


def test_scalars_and_empty_tensors_keep_their_shapes() -> None:
    reader = TensorReader(None)

    assert reader.values(TensorProto(data_type=1, raw_data=bytes(4))).shape == ()
    assert reader.values(TensorProto(data_type=1, dims=[3, 0, 5])).shape == (3, 0, 5)

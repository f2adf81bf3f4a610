# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from qdqbert import CheckpointError
from qdqbert.serialization.data_file import DataFile
from qdqbert.serialization.stored_tensor import StoredTensor, contiguous_strides, placement_error

RNG = np.random.default_rng(3)
DTYPES = {
    "F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def stored(path: Path, values: np.ndarray, number_format: str, lead: int = 5) -> DataFile:
    path.write_bytes(bytes(lead) + np.ascontiguousarray(values).tobytes())
    return DataFile(path)


@pytest.mark.parametrize("number_format", sorted(DTYPES))
@pytest.mark.parametrize("size", [0, 1, 131_071, 131_072, 300_007])
def test_a_contiguous_tensor_is_converted_across_chunks(
    number_format: str, size: int, tmp_path: Path
) -> None:
    values = (RNG.standard_normal(size) * 50).astype(DTYPES[number_format])
    with stored(tmp_path / "f", values, number_format) as file:
        tensor = StoredTensor(file, "x", number_format, (size,), (1,), 5)
        np.testing.assert_array_equal(tensor.read(), values.astype(np.float32))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 600, 700), (129, 1, 2053)])
@pytest.mark.parametrize("number_format", ["F32", "F16", "I64"])
def test_a_permuted_tensor_is_gathered(
    order: tuple[int, ...], shape: tuple[int, ...], number_format: str, tmp_path: Path
) -> None:
    values = RNG.integers(-99, 99, shape).astype(DTYPES[number_format])
    strides = contiguous_strides(shape)
    with stored(tmp_path / "f", values, number_format) as file:
        tensor = StoredTensor(
            file, "x", number_format, tuple(shape[i] for i in order), tuple(strides[i] for i in order), 5
        )
        np.testing.assert_array_equal(tensor.read(), values.transpose(order).astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32_with_any_strides(tmp_path: Path) -> None:
    halves = RNG.integers(0, 2**16, (40, 30)).astype(np.uint16)
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    with stored(tmp_path / "f", halves, "BF16") as file:
        plain = StoredTensor(file, "x", "BF16", (40, 30), (30, 1), 5)
        np.testing.assert_array_equal(plain.read().view(np.uint32), expected.view(np.uint32))
        np.testing.assert_array_equal(plain.transposed().read().view(np.uint32), expected.T.view(np.uint32))


def test_steps_and_broadcast_axes(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(6, 10)
    with stored(tmp_path / "f", values, "F32") as file:
        tensor = StoredTensor(file, "x", "F32", (3, 4, 4), (20, 0, 3), 5)
        expected = np.broadcast_to(values[::2, ::3][:, None], (3, 4, 4))
        np.testing.assert_array_equal(tensor.read(), expected)
        single = StoredTensor(file, "x", "F32", (), (), 5 + 4 * 7)
        assert single.read() == 7


def test_rows_are_a_part(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(6, 10)
    with stored(tmp_path / "f", values, "F32") as file:
        tensor = StoredTensor(file, "x", "F32", (6, 10), (10, 1), 5)
        np.testing.assert_array_equal(tensor.rows(2, 5).read(), values[2:5])
        np.testing.assert_array_equal(tensor.transposed().rows(2, 5).read(), values.T[2:5])


def test_float64_beyond_float32_becomes_infinite(tmp_path: Path) -> None:
    with stored(tmp_path / "f", np.array([1e300, -1e300, np.nan, 1e-300]), "F64") as file:
        read = StoredTensor(file, "x", "F64", (4,), (1,), 5).read()
    np.testing.assert_array_equal(read, np.array([np.inf, -np.inf, np.nan, 0], np.float32))


def test_any_byte_but_zero_is_true(tmp_path: Path) -> None:
    with stored(tmp_path / "f", np.array([0, 1, 2, 255], np.uint8), "BOOL") as file:
        assert StoredTensor(file, "x", "BOOL", (4,), (1,), 5).read().tolist() == [0, 1, 1, 1]


def test_a_broadcast_tensor_larger_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    with stored(tmp_path / "f", np.ones(1, np.float32), "F32") as file:
        tensor = StoredTensor(file, "x", "F32", (2**40, 2**40), (0, 0), 5)
        with pytest.raises(CheckpointError, match="in a file of 9 bytes"):
            tensor.read()


def test_a_format_without_float_meaning_is_refused(tmp_path: Path) -> None:
    with stored(tmp_path / "f", np.ones(4, np.uint8), "F8_E4M3") as file:
        tensor = StoredTensor(file, "x", "F8_E4M3", (4,), (1,), 5)
        with pytest.raises(CheckpointError, match="F8_E4M3"):
            tensor.read()


PLACES = {
    "the whole": ((2, 3), (3, 1), 0, 6, None),
    "one too many": ((2, 3), (3, 1), 1, 6, "reaches to element 6 of a storage of 6"),
    "far away": ((2,), (2**47,), 0, 6, "reaches to element"),
    "no element": ((0, 5), (5, 1), 99, 6, None),
    "a scalar": ((), (), 5, 6, None),
    "a scalar behind the end": ((), (), 6, 6, "reaches to element 6"),
    "broadcast": ((9, 3), (0, 2), 1, 6, None),
    "transposed": ((3, 2), (1, 3), 0, 6, None),
    "overlapping": ((4, 3), (1, 1), 0, 6, "on top of each other"),
    "overlapping by one": ((2, 3), (2, 1), 0, 6, "on top of each other"),
    "strides missing": ((2, 3), (3,), 0, 6, "2 sizes and 1 strides"),
    "sizes of one may have any stride": ((1, 6), (1, 1), 0, 6, None),
}


@pytest.mark.parametrize("place", sorted(PLACES))
def test_a_place_is_judged(place: str) -> None:
    shape, strides, offset, count, expected = PLACES[place]
    found = placement_error(shape, strides, offset, count)
    assert found is None if expected is None else expected in str(found)

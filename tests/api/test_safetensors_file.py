# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqbert import CheckpointError
from qdqbert.serialization import SafetensorsFile, write_safetensors

RNG = np.random.default_rng(0)
TENSORS = {
    "b": RNG.standard_normal((3, 5)).astype(np.float32),
    "a": RNG.standard_normal(7).astype(np.float32),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f", TENSORS.items(), {"format": "pt"})
    with SafetensorsFile(tmp_path / "f") as file:
        assert file.metadata == {"format": "pt"}
        assert set(file.tensors) == set(TENSORS)
        for name, value in TENSORS.items():
            np.testing.assert_array_equal(file.read(name), value)
            assert file.read(name).shape == value.shape


@pytest.mark.witness
def test_the_file_is_the_librarys_byte_for_byte(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    tensors = {name: value for name, value in TENSORS.items() if value.size}
    library.save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    write_safetensors(tmp_path / "ours", tensors.items(), {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.witness
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "int32", "uint8", "bool"])
def test_every_number_format_is_read_as_the_library_reads_it(dtype: str, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    # More than one chunk of conversion, and a tail.
    values = (RNG.standard_normal(1_100_003) * 50).astype(dtype)
    library.save_file({"x": values}, tmp_path / "f")
    with SafetensorsFile(tmp_path / "f") as file:
        np.testing.assert_array_equal(file.read("x"), values.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.0e38, 0.0, -0.0, np.inf, -np.inf, 1e-40], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    (tmp_path / "f").write_bytes(raw({"x": one("BF16", [8], 0, 16)}, halves.tobytes()))
    with SafetensorsFile(tmp_path / "f") as file:
        expected = (halves.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(file.read("x").view(np.uint32), expected.view(np.uint32))


def test_reading_goes_into_the_given_memory(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f", TENSORS.items(), {})
    block = np.full(40, 9.0, np.float32)
    with SafetensorsFile(tmp_path / "f") as file:
        file.read_into("b", block[8:23].reshape(3, 5))
        np.testing.assert_array_equal(block[8:23].reshape(3, 5), TENSORS["b"])
        assert (block[:8] == 9).all()
        assert (block[23:] == 9).all()
        with pytest.raises(ValueError, match="target"):
            file.read_into("b", np.empty((5, 3), np.float32))


DAMAGED = {
    "empty file": (b"", "0 bytes"),
    "seven bytes": (b"1234567", "7 bytes"),
    "header longer than the file": (struct.pack("<Q", 1000) + b"{}", "claims a header of 1000 bytes"),
    "header length of 2**63": (struct.pack("<Q", 2**63) + b"{}", "claims a header"),
    "not JSON": (raw(b"{oops}"), "not valid JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "not valid JSON"),
    "too deep": (raw(b"[" * 100_000), "not valid JSON"),
    "a list": (raw([1]), "expected an object"),
    "duplicate names": (
        raw(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"\0" * 4),
        "stands twice",
    ),
    "metadata not strings": (raw({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata not an object": (raw({"__metadata__": "a"}), "__metadata__"),
    "entry not an object": (raw({"x": 3}), "x: expected an entry"),
    "entry without shape": (raw({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, b"\0" * 4), "x: expected"),
    "entry with more": (raw({"x": {**one("F32", [1], 0, 4), "more": 1}}, b"\0" * 4), "x: expected an entry"),
    "unknown dtype": (raw({"x": one("F33", [1], 0, 4)}, b"\0" * 4), "unknown dtype 'F33'"),
    "dtype a list": (raw({"x": one(["F32"], [1], 0, 4)}, b"\0" * 4), "unknown dtype"),  # type: ignore[arg-type]
    "negative size": (raw({"x": one("F32", [-1], 0, 4)}, b"\0" * 4), "shape"),
    "size a float": (raw({"x": one("F32", [1.0], 0, 4)}, b"\0" * 4), "shape"),
    "size a bool": (raw({"x": one("F32", [True], 0, 4)}, b"\0" * 4), "shape"),
    "huge size": (raw({"x": one("F32", [2**62, 8], 0, 4)}, b"\0" * 4), "shape"),
    "sizes whose product is huge": (raw({"x": one("F32", [2**40] * 4, 0, 4)}, b"\0" * 4), "data_offsets"),
    "too many dimensions": (raw({"x": one("F32", [1] * 33, 0, 4)}, b"\0" * 4), "shape"),
    "offsets backwards": (raw({"x": one("F32", [1], 4, 0)}, b"\0" * 4), "data_offsets"),
    "one offset": (raw({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}, b"\0" * 4), "offsets"),
    "offset too large for shape": (raw({"x": one("F32", [1], 0, 8)}, b"\0" * 8), "hold 8 bytes"),
    "hole": (raw({"x": one("F32", [1], 0, 4), "y": one("F32", [1], 8, 12)}, b"\0" * 12), "hole"),
    "hole at the start": (raw({"x": one("F32", [1], 4, 8)}, b"\0" * 8), "hole"),
    "overlap": (raw({"x": one("F32", [2], 0, 8), "y": one("F32", [1], 4, 8)}, b"\0" * 8), "overlaps"),
    "cut off": (raw({"x": one("F32", [2], 0, 8)}, b"\0" * 7), "cut off"),
    "bytes at the end": (raw({"x": one("F32", [2], 0, 8)}, b"\0" * 9), "belong to no tensor"),
    "Git-LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 437955512\n",
        "Git-LFS pointer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", sorted(DAMAGED))
def test_a_header_that_lies_is_refused_before_anything_is_read(damage: str, tmp_path: Path) -> None:
    content, message = DAMAGED[damage]
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(tmp_path / "model.safetensors")
    assert "model.safetensors" in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f", TENSORS.items(), {"format": "pt"})
    whole = (tmp_path / "f").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "g").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            SafetensorsFile(tmp_path / "g")


def test_random_damage_gives_typed_errors_only(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f", TENSORS.items(), {"format": "pt"})
    whole = bytearray((tmp_path / "f").read_bytes())
    header_end = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for position in RNG.integers(0, header_end, RNG.integers(1, 4)):
            damaged[position] = RNG.integers(0, 256)
        (tmp_path / "g").write_bytes(damaged)
        try:
            with SafetensorsFile(tmp_path / "g") as file:
                for name in file.tensors:
                    file.read(name)
        except CheckpointError:
            refused += 1
    assert refused > 1000


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f", [("x", np.ones(1000, np.float32))], {})
    with SafetensorsFile(tmp_path / "f") as file:
        with open(tmp_path / "f", "r+b") as other:
            other.truncate(500)
        with pytest.raises(CheckpointError, match="cut off inside x"):
            file.read("x")


def test_a_number_format_without_float_meaning_is_refused_when_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(raw({"x": one("F8_E4M3", [4], 0, 4)}, b"\0" * 4))
    with SafetensorsFile(tmp_path / "f") as file, pytest.raises(CheckpointError, match="F8_E4M3"):
        file.read("x")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(tmp_path / "f", [("x", np.ones(3, np.float32))], {})

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_safetensors(tmp_path / "f", [("x", np.zeros(3, np.float32))], {})
    with SafetensorsFile(tmp_path / "f") as file:
        assert file.read("x").tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]

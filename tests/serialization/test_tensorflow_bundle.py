# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bundle_writer
from bundle_writer import DTYPES, entry, field, header, shape_of, table, write_bundle
from qdqbert import CheckpointError, UnsupportedError
from qdqbert.serialization.tensorflow_bundle import TensorflowBundle

RNG = np.random.default_rng(2)
ARRAYS = {
    "bert/a/kernel": RNG.standard_normal((3, 5)).astype(np.float32),
    "bert/a/bias": RNG.standard_normal(5).astype(np.float16),
    "bert/b/table": RNG.integers(-5, 5, (70, 41)),
    "global_step": np.array(12, np.int64),
    **{f"bert/layer_{index}/gamma": np.full(3, index, np.float32) for index in range(40)},
}


@pytest.mark.parametrize("shards", [1, 3])
def test_every_variable_is_read(shards: int, tmp_path: Path) -> None:
    write_bundle(tmp_path / "model.ckpt", ARRAYS, shards)
    with TensorflowBundle(tmp_path / "model.ckpt") as bundle:
        bundle.verify(bundle.tensors)
        assert set(bundle.tensors) == set(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(bundle.tensors[name].read(), array.astype(np.float32))


def test_a_kernel_is_transposed_without_a_copy(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", ARRAYS)
    with TensorflowBundle(tmp_path / "m") as bundle:
        turned = bundle.tensors["bert/a/kernel"].transposed()
        np.testing.assert_array_equal(turned.read(), ARRAYS["bert/a/kernel"].T)


def test_strings_are_left_out(tmp_path: Path) -> None:
    entries = [(b"", header()), (b"names", entry(7, (1,), 0, b"abc"))]
    (tmp_path / "m.index").write_bytes(table(entries))
    (tmp_path / "m.data-00000-of-00001").write_bytes(b"abc")
    with TensorflowBundle(tmp_path / "m") as bundle:
        assert not bundle.tensors


@pytest.mark.shared
def test_an_original_checkpoint_is_read_and_verified(shared: Any) -> None:
    prefix = shared("data", "checkpoints", "tf-tiny-complete") / "bert_model.ckpt"
    with TensorflowBundle(prefix) as bundle:
        assert len(bundle.tensors) == 139
        bundle.verify(bundle.tensors)
        assert bundle.tensors["bert/embeddings/word_embeddings"].read().shape == (15, 4)


@pytest.mark.shared
def test_an_index_without_its_data_says_so(shared: Any) -> None:
    prefix = shared("data", "checkpoints", "tf-index-only-2") / "bert_model.ckpt"
    with pytest.raises(CheckpointError, match=r"index of a TensorFlow checkpoint whose data are missing"):
        TensorflowBundle(prefix)


@pytest.mark.witness
def test_what_tensorflow_wrote_is_read(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    v1 = tensorflow.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        for name, array in ARRAYS.items():
            v1.get_variable(name, initializer=array)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    with TensorflowBundle(tmp_path / "model.ckpt") as bundle:
        bundle.verify(bundle.tensors)
        assert set(bundle.tensors) == set(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(bundle.tensors[name].read(), array.astype(np.float32))


@pytest.mark.witness
def test_tensorflow_reads_what_these_tests_write(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    write_bundle(tmp_path / "model.ckpt", ARRAYS, 2)
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "model.ckpt"))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(reader.get_tensor(name), array)


# ---- damage -----------------------------------------------------------------------------------------------

FLOATS = b"\0\0\x80\x3f" * 6
GOOD = entry(1, (2, 3), 0, FLOATS)


def index_of(*entries: tuple[bytes, bytes], head: bytes | None = None) -> bytes:
    return table([(b"", header() if head is None else head), *entries])


def corrupted(place: int) -> bytes:
    content = bytearray(index_of((b"x", GOOD)))
    content[place] ^= 1
    return bytes(content)


def two_blocks(change: Callable[[list[tuple[bytes, bytes]]], Any]) -> bytes:
    entries = [(b"", header()), *((b"k%02d" % i, entry(1, (), 4 * i, FLOATS[:4])) for i in range(3))]
    change(entries)
    return table(entries, entries_per_block=2)


DAMAGED = {
    "empty": (b"", "empty"),
    "short": (b"x" * 47, "is not an index"),
    "another magic": (b"\0" * 40 + b"\1" * 8, "is not an index"),
    "zeros": (bytes(100), "filled with zeros"),
    "a web page": (b"<!DOCTYPE html>" + b" " * 90, "a web page"),
    "a Git-LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git-LFS"),
    "a wrong checksum of a block": (corrupted(3), "checksum of the block at byte 0"),
    "no header": (table([(b"x", GOOD)]), "no header"),
    "no entries": (table([]), "no header"),
    "a big-endian header": (index_of(head=header(endianness=1)), "little-endian"),
    "a thousand and one shards": (index_of(head=header(1001)), "1001 files of data"),
    "no shards": (index_of(head=header(0)), "0 files of data"),
    "keys not in order": (two_blocks(lambda e: e.reverse()), "not in order|no header"),
    "a key twice": (two_blocks(lambda e: e.insert(1, e[1])), "not in order"),
    "a name that is no UTF-8": (index_of((b"\xff\xfe", GOOD)), "not UTF-8"),
    "an object graph": (index_of((b"_CHECKPOINTABLE_OBJECT_GRAPH", GOOD)), "TensorFlow 2's objects"),
    "a partitioned variable": (index_of((b"x", GOOD + field(7, b""))), "stored in parts"),
    "a shard that is not there": (index_of((b"x", entry(1, (2, 3), 0, FLOATS, 5))), "in file 5 of 1"),
    "a place beyond the data": (index_of((b"x", entry(1, (2, 3), 8, FLOATS))), "cut off: x ends at byte 32"),
    "a place of 2**60": (index_of((b"x", entry(1, (2, 3), 2**60, FLOATS))), "lies at byte"),
    "a size that is not the shape's": (index_of((b"x", entry(1, (2, 2), 0, FLOATS))), "24 bytes, F32"),
    "a size of 2**60": (index_of((b"x", entry(1, (2**60,), 0, FLOATS))), "a shape with the size"),
    "sizes whose product is huge": (index_of((b"x", entry(1, (2**40,) * 4, 0, FLOATS))), "24 bytes, F32"),
    "too many dimensions": (index_of((b"x", entry(1, (1,) * 33, 0, FLOATS[:4]))), "more than 32 dimensions"),
    "an unknown rank": (index_of((b"x", field(1, 1) + field(2, field(3, 1)))), "unknown rank"),
    "two variables in one place": (index_of((b"x", GOOD), (b"y", entry(1, (2,), 16, FLOATS[:8]))), "y lies"),
    "a number where bytes should be": (index_of((b"x", field(1, b"1"))), "bytes where a number"),
    "a message that is cut off": (index_of((b"x", GOOD[:-2])), "cut off"),
    "a field of an unknown kind": (index_of((b"x", b"\x0b")), "field of kind 3"),
    "a number that does not end": (index_of((b"x", b"\x08" + b"\xff" * 11)), "64 bits"),
    "a length beyond the message": (index_of((b"x", b"\x12\x7f")), "cut off"),
    "a compressed block": (
        (lambda c: bundle_writer.with_trailer(c, 1) + bytes(40) + bundle_writer.MAGIC.to_bytes(8, "little"))(
            bundle_writer.block([(b"k", b"\0\4")])
        ),
        "table is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", sorted(DAMAGED))
def test_an_index_that_lies_is_refused(damage: str, tmp_path: Path) -> None:
    content, message = DAMAGED[damage]
    (tmp_path / "m.index").write_bytes(content)
    (tmp_path / "m.data-00000-of-00001").write_bytes(FLOATS)
    with pytest.raises((CheckpointError, UnsupportedError), match=message) as caught:
        TensorflowBundle(tmp_path / "m")
    assert re.search(r"m\.(index|data)", str(caught.value))


def test_a_block_compressed_with_snappy_is_named(tmp_path: Path) -> None:
    content = bundle_writer.block([(b"k", b"\0\4")])
    index = bundle_writer.with_trailer(content, 1)
    handles = (b"\0\0" + b"\0" + bundle_writer.varint(len(content))).ljust(40, b"\0")
    (tmp_path / "m.index").write_bytes(index + handles + bundle_writer.MAGIC.to_bytes(8, "little"))
    with pytest.raises(CheckpointError, match="compressed \\(snappy\\)"):
        TensorflowBundle(tmp_path / "m")


def test_a_changed_number_is_found_by_its_checksum(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", ARRAYS)
    data = tmp_path / "m.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    with TensorflowBundle(tmp_path / "m") as bundle:
        content[bundle.tensors["bert/b/table"].begin + 1000] ^= 4
        data.write_bytes(content)
        with pytest.raises(CheckpointError, match="bert/b/table is damaged"):
            bundle.verify(bundle.tensors)
        bundle.verify(["bert/a/kernel"])


def test_every_truncation_of_the_index_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", {"x": np.ones(3, np.float32)})
    whole = (tmp_path / "m.index").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "m.index").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            TensorflowBundle(tmp_path / "m")


def test_dtypes_are_those_of_the_library() -> None:
    tensorflow = pytest.importorskip("tensorflow")
    assert {name: tensorflow.dtypes.as_dtype(name).as_datatype_enum for name in DTYPES} == DTYPES
    assert shape_of((2,)) == b"\x12\x02\x08\x02"

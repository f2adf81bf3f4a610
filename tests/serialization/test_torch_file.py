# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert.serialization
from pickle_programs import (
    PROTO,
    STOP,
    Archive,
    call,
    legacy_file,
    name,
    number,
    old_file,
    ordered,
    storage,
    tensor,
    text,
    zip_file,
    zip_members,
)
from qdqbert import CheckpointError
from qdqbert.serialization.torch_file import TorchFile

HERE = Path(__file__).resolve().parent
RECORDED = [
    pytest.param(case, id=f"{version} {case['container']} {case['case']}")
    for version, cases in json.loads((HERE / "torch_files.json").read_text()).items()
    for case in cases
]
RNG = np.random.default_rng(4)
ARRAYS = {
    "a": RNG.standard_normal((3, 5)).astype(np.float32),
    "b": RNG.standard_normal(7).astype(np.float16),
    "c": RNG.integers(-9, 9, (2, 2, 2)),
}


def write(folder: Path, content: bytes) -> Path:
    path = folder / "pytorch_model.bin"
    path.write_bytes(content)
    return path


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        TorchFile(write(folder, content))
    assert "pytorch_model.bin" in str(caught.value)
    return str(caught.value)


def zipped(program: bytes, **storages: np.ndarray) -> bytes:
    keys = {key.removeprefix("s"): values for key, values in storages.items()}
    return Archive(zip_members(program, keys)).write()


# ---- what PyTorch wrote -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [p for p in RECORDED if p.values[0]["expected"] is not None])
def test_what_torch_wrote_is_read(case: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, zlib.decompress(base64.b64decode(case["file"])))
    with TorchFile(path) as file:
        assert list(file.tensors) == list(case["expected"])
        for each, expected in case["expected"].items():
            values = np.array(expected["values"]).reshape(expected["shape"])
            assert file.tensors[each].shape == values.shape
            np.testing.assert_array_equal(file.tensors[each].read(), values.astype(np.float32), err_msg=each)


REFUSED = {
    "a single tensor": "holds a single tensor, expected a dictionary of tensors",
    "a whole model": r"names torch\.nn\.modules|holds a whole pickled model",
    "a sparse tensor": r"names torch\._utils\._rebuild_sparse_tensor",
}


@pytest.mark.parametrize("case", [p for p in RECORDED if p.values[0]["expected"] is None])
def test_what_is_no_state_dict_is_refused_by_name(case: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, zlib.decompress(base64.b64decode(case["file"])))
    with pytest.raises(CheckpointError, match=REFUSED[case["case"]]):
        TorchFile(path)


def test_a_trainers_checkpoint_gives_its_state_dict_and_says_where_it_was(tmp_path: Path) -> None:
    case = next(p.values[0] for p in RECORDED if p.values[0]["case"] == "a trainer's checkpoint")
    with TorchFile(write(tmp_path, zlib.decompress(base64.b64decode(case["file"])))) as file:
        assert file.wrapper == "state_dict"
        assert list(file.tensors) == ["weight", "bias"]


@pytest.mark.shared
@pytest.mark.parametrize("prefix", [1, 2000, -1])
def test_a_trained_model_in_the_old_format_is_read(prefix: int, shared: Any, tmp_path: Path) -> None:
    whole = shared("data", "checkpoints", "albert-uspto-mlm", "pytorch_model.bin").read_bytes()
    if prefix > 0:
        assert "cut off" in refusal(tmp_path, whole[:-prefix])
        return
    with TorchFile(write(tmp_path, whole)) as file:
        assert len(file.tensors) == 32
        table = file.tensors["albert.embeddings.word_embeddings.weight"].read()
        assert table.shape == (591, 128)
        assert 0.01 < table.std() < 1
        assert (
            file.tensors["predictions.decoder.weight"].begin
            == file.tensors["albert.embeddings.word_embeddings.weight"].begin
        )


# ---- both containers, by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [zip_file, old_file])
def test_contiguous_arrays_of_several_formats_are_read(pack: Any, tmp_path: Path) -> None:
    with TorchFile(write(tmp_path, pack(ARRAYS))) as file:
        assert list(file.tensors) == list(ARRAYS)
        for each, array in ARRAYS.items():
            np.testing.assert_array_equal(file.tensors[each].read(), array.astype(np.float32))


def test_tensors_over_one_storage_count_once(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    over = storage("0", 6)
    items = {"x": tensor(over, 0, (2, 3), (3, 1)), "y": tensor(over, 0, (9, 6), (0, 1))}
    with TorchFile(write(tmp_path, zipped(PROTO + ordered(items) + STOP, s0=values))) as file:
        assert file.stored_counts == {"x": 6, "y": 0}
        np.testing.assert_array_equal(file.tensors["y"].read(), np.broadcast_to(values, (9, 6)))


def test_untyped_storages_take_the_format_of_their_tensor(tmp_path: Path) -> None:
    values = np.array([1, 65535, 3], np.uint16)
    over = b"(" + text("storage") + name("torch.storage", "UntypedStorage") + text("0") + text("cpu")
    over += number(6) + b"tQ"
    arguments = [over, number(1), b"K\x02\x85", b"K\x01\x85", b"\x89", b"N", name("torch", "uint16")]
    program = PROTO + ordered({"x": call(name("torch._utils", "_rebuild_tensor_v3"), *arguments)}) + STOP
    with TorchFile(write(tmp_path, zipped(program, s0=values))) as file:
        assert file.tensors["x"].read().tolist() == [65535, 3]


def test_a_view_of_an_old_storage_is_read(tmp_path: Path) -> None:
    view = b"(" + text("v") + number(2) + number(3) + b"t"
    over = storage("0", 6, legacy=True, view=view)
    program = PROTO + ordered({"x": tensor(over, 1, (2,), (1,))}) + STOP
    with TorchFile(write(tmp_path, legacy_file(program, {"0": np.arange(6, dtype=np.float32)}))) as file:
        assert file.tensors["x"].read().tolist() == [3, 4]


def test_pickles_longer_than_the_first_window_are_read(tmp_path: Path) -> None:
    arrays = {f"{'long' * 50}.{index}": np.full(2, index, np.float32) for index in range(3000)}
    with TorchFile(write(tmp_path, old_file(arrays))) as file:
        assert len(file.tensors) == 3000
        assert file.tensors[f"{'long' * 50}.2999"].read().tolist() == [2999, 2999]


def test_values_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    items = {"x": tensor(storage("0", 2), 0, (2,), (1,)), "step": number(7), "args": b"}"}
    with TorchFile(
        write(tmp_path, zipped(PROTO + ordered(items) + STOP, s0=np.zeros(2, np.float32)))
    ) as file:
        assert list(file.tensors) == ["x"]
        assert file.others == ["step", "args"]


def test_two_state_dicts_are_refused_by_name(tmp_path: Path) -> None:
    inner = ordered({"x": tensor(storage("0", 2), 0, (2,), (1,))})
    program = PROTO + ordered({"model": inner, "net": inner}) + STOP
    assert "model and net both hold tensors" in refusal(tmp_path, zipped(program, s0=np.zeros(2, np.float32)))


def test_a_dictionary_without_tensors_is_refused_by_its_keys(tmp_path: Path) -> None:
    program = PROTO + ordered({"weights": b"}", "epoch": number(3)}) + STOP
    assert "its keys are 'weights', 'epoch'" in refusal(tmp_path, zipped(program))


def test_large_archives_have_their_places_in_extra_fields(tmp_path: Path) -> None:
    """As torch writes them beyond 4 GB; every place here is small, but said in the large form."""
    values = np.arange(4, dtype=np.float32)
    program = PROTO + ordered({"x": tensor(storage("0", 4), 0, (2, 2), (2, 1))}) + STOP
    members = zip_members(program, {"0": values})
    plain = Archive(members).write()
    begin, size = struct.unpack("<2L", plain[-10:-2])[::-1]
    offset = plain.index(b"PK\x03\x04", 40 + len(program))  # of byteorder
    extra = struct.pack("<2H3Q", 1, 24, 6, 6, offset)
    entry = {"packed": 2**32 - 1, "size": 2**32 - 1, "offset": 2**32 - 1, "extra": extra}
    size += len(extra)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 4, 4, size, begin)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, begin + size, 1)
    end = {"here": 0xFFFF, "count": 0xFFFF, "size": 2**32 - 1, "begin": 2**32 - 1, "before": record + locator}
    content = Archive(members, entries={"archive/byteorder": entry}, end=end).write()
    with TorchFile(write(tmp_path, content)) as file:
        np.testing.assert_array_equal(file.tensors["x"].read(), values.reshape(2, 2))


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, zip_file({"x": np.ones(100_000, np.float32)}))
    with TorchFile(path) as file:
        with open(path, "r+b") as other:
            other.truncate(5000)
        with pytest.raises(CheckpointError, match="cut off inside x"):
            file.tensors["x"].read()


# ---- witnesses --------------------------------------------------------------------------------------------


@pytest.mark.witness
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}])
def test_random_state_dicts_of_torch_are_read(options: dict[str, Any], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(7)
    dtypes = (
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int64,
        torch.uint8,
        torch.bool,
    )
    rng = np.random.default_rng(7)
    for _ in range(30):
        state = {}
        for index in range(int(rng.integers(1, 6))):
            shape = tuple(int(n) for n in rng.integers(1, 9, rng.integers(0, 5)))
            values = (torch.randn(shape, generator=generator) * 100).to(
                dtypes[int(rng.integers(len(dtypes)))]
            )
            if values.ndim:
                values = values.permute(tuple(rng.permutation(values.ndim)))
                values = values[int(rng.integers(values.shape[0])) :: int(rng.integers(1, 4))]
            state[f"t{index}"] = values
        path = tmp_path / "pytorch_model.bin"
        torch.save(state, path, **options)
        with TorchFile(path) as file:
            for each, values in state.items():
                np.testing.assert_array_equal(file.tensors[each].read(), values.to(torch.float32).numpy())


@pytest.mark.witness
@pytest.mark.parametrize("pack", [zip_file, old_file])
def test_torch_reads_the_files_that_these_tests_write(pack: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    loaded = torch.load(write(tmp_path, pack(ARRAYS)), weights_only=True)
    for each, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded[each].numpy(), array)


def test_the_pickle_is_never_given_to_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("unpickled")

    for each in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, each, refuse)
    with TorchFile(write(tmp_path, zip_file(ARRAYS))) as file:
        assert len(file.tensors) == 3
    folder = Path(qdqbert.serialization.__file__).parent
    source = "\n".join(path.read_text() for path in folder.glob("*.py"))
    assert "pickle_machine import" in source
    assert not re.search(r"^\s*(import|from) (pickle|_pickle|marshal|shelve|copyreg)\b", source, re.MULTILINE)

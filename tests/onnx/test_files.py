# SPDX-License-Identifier: Apache-2.0
"""What lands on the disk: the same model in one file and in two, and the old one if something fails."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import batch, calibrated

import qdqbert
from graph_runs import evaluate, exported
from qdqbert.onnx import files, from_onnx, reading
from qdqbert.onnx.export import build


@pytest.fixture(scope="module")
def model() -> Any:
    return calibrated("question")


def test_one_file_is_what_the_onnx_package_would_write(tmp_path: Path, model: Any) -> None:
    proto, graph = build(model)
    for each in graph.initializers:
        proto.graph.initializer.add(
            name=each.name,
            dims=each.shape,
            data_type=onnx.TensorProto.DataType.Value(each.kind),
            raw_data=each.make().tobytes(),
        )

    [path] = qdqbert.onnx.export(model, tmp_path / "model.onnx")

    assert onnx.load(path) == proto
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_two_files_hold_the_same_model(tmp_path: Path, model: Any) -> None:
    written = qdqbert.onnx.export(model, tmp_path / "model.onnx", external_data=True)

    path, data = written
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert path.stat().st_size < len(exported(model).SerializeToString()) - 40_000
    assert data.stat().st_size > 40_000
    loaded = onnx.load(path)
    onnx.checker.check_model(str(path), full_check=True)
    inputs = batch("question")
    for name, value in evaluate(loaded, inputs).items():
        assert np.array_equal(value, evaluate(exported(model), inputs)[name])


def test_large_tensors_begin_at_pages(tmp_path: Path, model: Any) -> None:
    path, data = qdqbert.onnx.export(model, tmp_path / "model.onnx", external_data=True)

    places = [
        {entry.key: entry.value for entry in each.external_data}
        for each in onnx.load(path, load_external_data=False).graph.initializer
        if each.data_location == onnx.TensorProto.EXTERNAL
    ]
    assert len(places) > 10
    assert {place["location"] for place in places} == {data.name}
    assert all(int(place["offset"]) % 4096 == 0 for place in places)
    ends = [int(place["offset"]) + int(place["length"]) for place in places]
    assert all(end <= int(after["offset"]) for end, after in zip(ends, places[1:], strict=False))
    assert ends[-1] == data.stat().st_size


def test_the_second_file_goes_with_the_model_that_named_it(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "model.onnx"
    other = tmp_path / "other.onnx"
    _, of_other = qdqbert.onnx.export(model, other, external_data=True)
    _, first = qdqbert.onnx.export(model, path, external_data=True)

    _, second = qdqbert.onnx.export(model, path, external_data=True, weights="int8")
    assert first != second
    assert not first.exists()
    assert second.exists()

    qdqbert.onnx.export(model, path)
    assert sorted(tmp_path.iterdir()) == sorted([path, other, of_other])


@pytest.mark.parametrize("change", ["weights", "ranges"])
def test_the_second_file_of_other_numbers_has_another_name(tmp_path: Path, model: Any, change: str) -> None:
    other = calibrated("question", 3) if change == "weights" else calibrated("question", method="mse")

    _, mine = qdqbert.onnx.export(model, tmp_path / "model.onnx", external_data=True)
    _, theirs = qdqbert.onnx.export(other, tmp_path / "model.onnx", external_data=True)

    assert mine.name != theirs.name


def test_what_a_killed_writer_left_goes_with_the_next_export(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "model.onnx"
    dead = [".model.onnx.k3j_x9ab.tmp", ".model.onnx.0123456789abcdef.data.abcdefgh.tmp", ".model.onnx.lock"]
    others = [".model.onnx.tmp", ".other.onnx.k3j_x9ab.tmp", "model.onnx.0123.data"]
    for name in (*dead, *others):
        (tmp_path / name).write_bytes(b"x")

    qdqbert.onnx.export(model, path)

    assert {each.name for each in tmp_path.iterdir()} == {path.name, *others}


def test_writers_of_one_path_take_turns(tmp_path: Path, model: Any) -> None:
    path, models = tmp_path / "model.onnx", [model, calibrated("question", 3)]
    failures: list[Exception] = []

    def write(mine: Any) -> None:
        try:
            for _ in range(6):
                qdqbert.onnx.export(mine, path, external_data=True)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(each,)) for each in models]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            from_onnx(path)  # whichever it is, it is whole
    for thread in threads:
        thread.join()

    assert not failures
    assert len(list(tmp_path.iterdir())) == 2
    from_onnx(path)


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "model.onnx", calibrated("question", 3)
    qdqbert.onnx.export(model, path, external_data=True)
    read_message, reads = reading.read_message, []

    def replaced_once(file: Any) -> onnx.ModelProto:
        proto = read_message(file)
        reads.append(file)
        if len(reads) == 1:
            qdqbert.onnx.export(other, path, external_data=True)
        return proto

    monkeypatch.setattr(reading, "read_message", replaced_once)
    read = from_onnx(path)

    assert len(reads) == 2
    assert read.qa_outputs.bias.tobytes() == other.qa_outputs.bias.tobytes()


def test_models_beyond_one_message_have_a_second_file(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = qdqbert.onnx.export(model, tmp_path / "model.onnx")
    size = path.stat().st_size

    monkeypatch.setattr(files, "LARGEST_MESSAGE", size)
    assert len(qdqbert.onnx.export(model, path)) == 1
    monkeypatch.setattr(files, "LARGEST_MESSAGE", size - 1)
    assert len(qdqbert.onnx.export(model, path)) == 2
    with pytest.raises(ValueError, match=f"external_data: False, but the model has {size:,} bytes"):
        qdqbert.onnx.export(model, path, external_data=False)


@pytest.mark.parametrize("external_data", [False, True])
def test_a_failed_write_leaves_the_old_model(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch, external_data: bool
) -> None:
    path = tmp_path / "model.onnx"
    qdqbert.onnx.export(model, path, external_data=external_data)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    made: list[int] = []

    def fail_later(initializer: Any) -> memoryview:
        made.append(1)
        if len(made) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(initializer)

    whole = files._bytes_of
    monkeypatch.setattr(files, "_bytes_of", fail_later)
    with pytest.raises(OSError, match="No space"):
        qdqbert.onnx.export(model, path, external_data=external_data, weights="int8")

    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_folder_is_no_file(tmp_path: Path, model: Any) -> None:
    with pytest.raises(IsADirectoryError, match="expected a file"):
        qdqbert.onnx.export(model, tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        qdqbert.onnx.export(model, tmp_path / "missing" / "model.onnx")


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "model.onnx"
    os.mkfifo(path)

    with pytest.raises(OSError, match="is no regular file and is not replaced"):
        qdqbert.onnx.export(model, path)

    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_not_utf8_has_no_second_file(tmp_path: Path, model: Any) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.onnx")

    with pytest.raises(ValueError, match=r"^path: .*m\\xff.onnx' is not UTF-8.*external_data=False"):
        qdqbert.onnx.export(model, path, external_data=True)

    assert not list(tmp_path.iterdir())
    assert qdqbert.onnx.export(model, path) == [path]


@pytest.mark.parametrize(
    ("path", "options", "sentence"),
    [
        (b"model.onnx", {}, "path: expected a str or a path, got bytes"),
        (None, {}, "path: expected a str or a path, got NoneType"),
        ("model.onnx", {"use_cache": 1}, "use_cache: expected True or False, got 1"),
        ("model.onnx", {"share_input_quantizers": "no"}, "share_input_quantizers: .* got 'no'"),
    ],
)
def test_arguments_of_another_type_are_named(
    tmp_path: Path, model: Any, monkeypatch: Any, path: Any, options: dict[str, Any], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(TypeError, match=f"^{sentence}"):
        qdqbert.onnx.export(model, path, **options)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("value", "expected"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02")])
def test_lengths_are_written_as_protobuf_has_them(value: int, expected: str) -> None:
    assert files._varint(value).hex() == expected


def test_files_of_equal_models_are_equal(tmp_path: Path, model: Any) -> None:
    [first] = qdqbert.onnx.export(model, tmp_path / "a.onnx")
    [second] = qdqbert.onnx.export(calibrated("question"), tmp_path / "b.onnx")

    assert first.read_bytes() == second.read_bytes()

# SPDX-License-Identifier: Apache-2.0
"""A file of calibration statistics that lies is refused; what is read serves or refuses every method."""

from __future__ import annotations

import contextlib
import io
import json
import os
import traceback
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_checkpoints import FIELDS, VALUES

import tiny_model
from qdqbert import Calibration
from qdqbert.errors import CheckpointError, StateError

FILES = int(os.environ.get("QDQBERT_FUZZ", "240"))
ARRAYS: tuple[Any, ...] = (
    np.zeros(0),
    np.array(np.nan, np.float32),
    np.array(-1.0, np.float32),
    np.array(np.inf),
    np.array([1.0, 2.0], np.float32),
    np.array(["x"]),
    np.array(b"x"),
    np.zeros((3, 3), np.int64),
    np.full(2048, -1, np.int64),
    np.full(2048, 2**62, np.int64),
    np.full(2049, np.nan, np.float32),
    np.arange(2049)[::-1].astype(np.float32),
    np.zeros(5, [("a", np.int8), ("b", np.float64)]),
    np.array(1 + 2j),
    np.array("2020-01-01", np.datetime64),
    np.float16(3.0),
    np.ones(2048, ">i8"),
    np.ones(2048, np.uint64),
)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model.question_answering(**FIELDS)


@pytest.fixture(scope="module", params=[("max", 1), ("histogram", 1), ("histogram", 2)])
def arrays(request: pytest.FixtureRequest, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    statistics, passes = request.param
    calibration = Calibration(model, statistics=statistics, passes=passes)
    batches = [{"input_ids": np.array([[1, 2, 3]])}]
    calibration.collect(batches)
    if passes == 2:
        calibration.next_pass()
        calibration.collect(batches)
    path = tmp_path_factory.mktemp("statistics") / "f"
    calibration.save(path)
    with np.load(path) as file:
        return dict(file)


def use(model: Any, path: Path) -> bool:
    """Whether a file was read; then every use of it ends in an answer or a sentence."""
    try:
        calibration = Calibration.load(model, path)
    except CheckpointError as error:
        return not str(error).startswith(str(path))
    for method in ("max", "percentile", "mse", "entropy"):
        with contextlib.suppress(ValueError, StateError):
            calibration.ranges(method)
    with contextlib.suppress(ValueError, StateError):
        calibration.collect([{"input_ids": np.array([[1, 2, 3]])}] * 2)
    calibration.save(path)
    return True


def damage(generator: np.random.Generator, arrays: dict[str, Any], path: Path) -> str:
    def pick(choices: Any) -> Any:
        return choices[int(generator.integers(len(choices)))]

    contents = dict(arrays)
    header = json.loads(contents["header"].tobytes())
    kind = pick(("header", "header", "array", "array", "bytes"))
    said = ""
    if kind == "header":
        key = pick(list(header))
        value = pick([value for value in VALUES if value not in ("\ud800",)])
        header[key] = value
        contents["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        said = f"{key} = {value!r:.50}"
    elif kind == "array":
        key, array = pick(list(contents)), pick(ARRAYS)
        contents[key] = array
        said = f"{key} = {array!r:.50}"
        if not generator.integers(4):
            del contents[key]
    memory = io.BytesIO()
    np.savez(memory, **contents)
    data = bytearray(memory.getvalue())
    if kind == "bytes":
        for _ in range(int(generator.integers(1, 4))):
            place = int(generator.integers(len(data)))
            data[place] = int(generator.integers(256))
            said += f"{place} "
    path.write_bytes(data)
    return f"{kind}: {said}"


def test_hostile_statistics_are_refused_by_a_checkpoint_error(
    model: Any, arrays: dict[str, Any], tmp_path: Path
) -> None:
    generator = np.random.default_rng(int(os.environ.get("QDQBERT_FUZZ_SEED", "7")))
    defects, read = [], 0
    for index in range(FILES):
        done = damage(generator, arrays, tmp_path / "f")
        try:
            read += use(model, tmp_path / "f")
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            defects.append(f"{index} {done}: {error!r:.90} at {place.filename}:{place.lineno}")
    assert not defects, f"{len(defects)} defects\n" + "\n".join(defects[:40])
    assert read < FILES * 2 // 3


def test_statistics_that_unpack_to_more_than_the_file_are_refused(model: Any, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "f", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("x.npy", "w") as member,
    ):
        np.lib.format.write_array(member, np.zeros(1 << 22, np.int64))
    with pytest.raises(CheckpointError, match="compressed"):
        Calibration.load(model, tmp_path / "f")


def test_statistics_whose_members_overlap_are_refused(
    model: Any, arrays: dict[str, Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "f.npz", **arrays)
    data = bytearray((tmp_path / "f.npz").read_bytes())
    directory = data.index(b"PK\x01\x02")
    first = data[directory : data.index(b"PK\x01\x02", directory + 1)]
    end = data.index(b"PK\x05\x06")
    count = int.from_bytes(data[end + 8 : end + 10], "little") + 1000
    data[end + 8 : end + 12] = count.to_bytes(2, "little") * 2
    size = end - directory + 1000 * len(first)
    data[end + 12 : end + 16] = size.to_bytes(4, "little")
    data[end:end] = first * 1000
    (tmp_path / "f.npz").write_bytes(data)
    with pytest.raises(CheckpointError):
        Calibration.load(model, tmp_path / "f.npz")

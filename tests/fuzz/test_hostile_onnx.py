# SPDX-License-Identifier: Apache-2.0
"""Damaged ONNX files: the checker answers with violations or one typed error, whatever was done.

``QDQBERT_FUZZ`` is the number of files; a long run takes 10000 and more.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile_onnx import HostileOnnx

import qdqbert
import tiny_model
from qdqbert.errors import CheckpointError, Error
from qdqbert.onnx import check, export, from_onnx
from quantized_graph import sound_model

FILES = int(os.environ.get("QDQBERT_FUZZ", "240"))


def answer(path: Path) -> str:
    """Rules that are violated, or the error; an error of another type passes."""
    try:
        return ", ".join(each.rule for each in check(path))
    except CheckpointError as error:
        return str(error)


def test_checker_answers_for_every_damaged_file(tmp_path: Path) -> None:
    hostile, path = HostileOnnx(sound_model(), seed=5), tmp_path / "model.onnx"
    defects, told = [], 0
    for index in range(FILES):
        done = hostile.write(path)
        try:
            told += bool(answer(path))
        except Exception as error:
            defects.append(f"file {index}: {done}: {type(error).__name__}: {error}")

    assert not defects, defects[:5]
    # Some damage is none: a text that nobody reads, a tensor that nobody takes.
    assert told > FILES // 2


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = sound_model().SerializeToString()
    for end in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:end])
        assert answer(path).startswith((f"{path}: ", "opset")), end


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A small model, as it is exported."""
    fields = {"vocab_size": 7, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = tiny_model.question_answering(**fields, intermediate_size=5, max_position_embeddings=6)
    qdqbert.calibrate(model, [{"input_ids": np.array([[1, 2, 3], [4, 5, 6]])}], method="max", progress=False)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(model, path)
    return onnx.load(path)


@pytest.mark.parametrize("says_what_it_is", [True, False], ids=["own", "foreign"])
def test_reader_answers_for_every_damaged_file(
    tmp_path: Path, exported: onnx.ModelProto, says_what_it_is: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sound = onnx.ModelProto()
    sound.CopyFrom(exported)
    if not says_what_it_is:
        del sound.metadata_props[:]
    hostile, path = HostileOnnx(sound, seed=7), tmp_path / "model.onnx"
    defects, refused = [], 0
    for index in range(FILES):
        done = hostile.write(path)
        try:
            from_onnx(path)
        except Error as error:
            refused += 1
            if not str(error).startswith(f"{path}: "):
                defects.append(f"file {index}: {done}: no path in {error}")
        except Exception as error:
            defects.append(f"file {index}: {done}: {type(error).__name__}: {error}")
        caplog.clear()

    assert not defects, defects[:5]
    # Most damage is done to what does not make the model: names, descriptions, other properties.
    assert FILES // 20 < refused < FILES

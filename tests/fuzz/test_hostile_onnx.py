# SPDX-License-Identifier: Apache-2.0
"""Damaged ONNX files: the checker answers with violations or one typed error, whatever was done.

``QDQBERT_FUZZ`` is the number of files; a long run takes 10000 and more.
"""

from __future__ import annotations

import os
from pathlib import Path

from hostile_onnx import HostileOnnx

from qdqbert import CheckpointError
from qdqbert.onnx import check
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

# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that lies is refused by an error that says so, at once and without taking memory.

``QDQBERT_FUZZ`` is the number of folders; a long run takes 10000 and more.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import resource
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_checkpoints import Hostile, sound_folder

from qdqbert import QDQBertForQuestionAnswering, QDQBertModel
from qdqbert.errors import Error

FOLDERS = int(os.environ.get("QDQBERT_FUZZ", "240"))
# Sanitizers need more of both; without them a folder takes milliseconds.
BOUNDED = "asan" not in os.environ.get("LD_PRELOAD", "")
SECONDS = 2.0
KIBIBYTES = 500 << 10


def refusal(folder: Path) -> str:
    """Load and use a folder; the sentence that refused it, or nothing.  Untyped errors pass."""
    try:
        model = QDQBertForQuestionAnswering.from_pretrained(folder)
    except (json.JSONDecodeError, UnicodeError) as error:
        raise AssertionError("a decoder's error, which names no file") from error
    except (Error, ValueError, OSError) as error:
        return str(error)
    # What is harmless must work to the end.
    with contextlib.suppress(Error, ValueError, IndexError):
        model(np.array([[1, 2]]))
    with contextlib.suppress(Error, ValueError):
        model.save_pretrained(folder / "again")
    return ""


def attempt(folder: Path) -> tuple[str, str]:
    """Return (refusal, defect)."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        said = refusal(folder)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "", f"{type(error).__name__}: {error!s:.90} at {place.filename}:{place.lineno}"
    spent = time.process_time() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if BOUNDED and (spent > SECONDS or grown > KIBIBYTES):
        return said, f"{spent:.1f} s, {grown >> 10} MiB"
    return said, ""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound_folder(tmp_path_factory.mktemp("checkpoint") / "sound")


def test_a_hostile_folder_is_refused_by_an_error_of_ours(
    sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    hostile = Hostile(sound, seed=int(os.environ.get("QDQBERT_FUZZ_SEED", "3")))
    folder = tmp_path / "hostile"
    defects, count = [], 0
    for index in range(FOLDERS):
        done = hostile.write(folder, index)
        said, defect = attempt(folder)
        count += bool(said)
        if defect:
            defects.append(f"{index} {done}: {defect}")
    print(f"{count} of {FOLDERS} refused")
    assert not defects, f"{len(defects)} defects\n" + "\n".join(defects[:40])
    assert count > FOLDERS // 2


HOSTILE_FIELDS: dict[str, dict[str, Any]] = {
    "vocab_size is 2147483647": {"vocab_size": 2**31 - 1},
    "vocab_size 16777216": {"vocab_size": 2**24},
    "type_vocab_size": {"type_vocab_size": 2**24},
    "max_position_embeddings": {"max_position_embeddings": 2**24},
    "hidden_size": {"hidden_size": 49152},
    "intermediate_size 131072": {"intermediate_size": 131072, "num_hidden_layers": 500},
    "num_hidden_layers": {"num_hidden_layers": 10_000},
    "num_hidden_layers 65536": {"num_hidden_layers": 65536, "hidden_size": 2},
    "num_labels": {"num_labels": 10**12},
    "label2id": {"label2id": {"a": float("inf"), "b": 0}, "id2label": None},
    "id2label": {"id2label": {"1e3": "a", "b": "b"}},
    "pruned_heads": {"pruned_heads": {"0": [float("inf")]}},
    "nested": {"anything": functools.reduce(lambda inner, _: [inner], range(300), 0)},
}


@pytest.mark.parametrize("expected", HOSTILE_FIELDS)
def test_a_configuration_that_asks_for_too_much_is_refused_by_name(
    expected: str, sound: Path, tmp_path: Path
) -> None:
    config = json.loads((sound / "config.json").read_text()) | HOSTILE_FIELDS[expected]
    shutil.copy(sound / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    said, defect = attempt(tmp_path)
    assert not defect
    assert expected.split()[0] in said
    assert "config.json" in said


def test_a_repeated_name_at_the_end_of_a_long_header_is_found_at_once(sound: Path, tmp_path: Path) -> None:
    shutil.copy(sound / "config.json", tmp_path)
    names = ",".join(f'"{index:x}":0' for index in range(600_000))
    text = f'{{{names},"927bf":0}}'.encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    said, defect = attempt(tmp_path)
    assert not defect
    assert "'927bf' stands twice" in said


def test_a_range_of_a_terabyte_takes_no_memory(sound: Path, tmp_path: Path) -> None:
    """The file is sparse: it is as long as it says."""
    shutil.copy(sound / "config.json", tmp_path)
    weights = (sound / "model.safetensors").read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    name = "bert.encoder.layer.0.attention.self.query._input_quantizer._amax"
    end = len(weights) - 8 - length
    entries = {key: value for key, value in header.items() if key not in (name, "__metadata__")}
    entries["hole"] = {"dtype": "F32", "shape": [1], "data_offsets": header[name]["data_offsets"]}
    entries[name] = {"dtype": "F32", "shape": [2**38], "data_offsets": [end, end + 2**40]}
    text = json.dumps(entries).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + weights[8 + length :])
        file.truncate(file.tell() + 2**40)
    said, defect = attempt(tmp_path)
    assert not defect
    assert "_amax" in said
    assert "one number" in said


def test_architectures_of_any_kind_do_not_stop_the_report(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    config = json.loads((sound / "config.json").read_text()) | {"architectures": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, info = QDQBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["unexpected_keys"]

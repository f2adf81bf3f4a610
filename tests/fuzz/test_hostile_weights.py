# SPDX-License-Identifier: Apache-2.0
"""Weights that lie, in every format, are refused by an error of ours, at once and without taking memory.

``QDQBERT_FUZZ`` is the number of damaged files of each kind; a long run takes 100000 and more.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_weights import cases, mutate, sound_files

import bundle_writer
from qdqbert import CheckpointError, QDQBertModel, UnsupportedError
from qdqbert.serialization import SafetensorsFile, write_safetensors
from qdqbert.serialization.tensorflow_bundle import TensorflowBundle
from qdqbert.serialization.torch_file import TorchFile

FILES = int(os.environ.get("QDQBERT_FUZZ", "400"))
SEED = int(os.environ.get("QDQBERT_FUZZ_SEED", "5"))
BOUNDED = "asan" not in os.environ.get("LD_PRELOAD", "")
# Of a processor that others use too; alone it is a tenth.
SECONDS = 5.0
KIBIBYTES = 300 << 10
CONFIG = {
    "vocab_size": 7,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 5,
}
CASES = cases()
ARRAYS = {
    "embeddings.word_embeddings.weight": np.arange(28, dtype=np.float32).reshape(7, 4),
    "b": np.arange(5, dtype=np.float16),
    "c": np.arange(6).reshape(3, 2),
}


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 300


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def measured(work: Callable[[], Any]) -> tuple[str, str]:
    """Return (refusal, defect) of opening and reading something."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said, defect = "", ""
    try:
        work()
    except (CheckpointError, UnsupportedError) as error:
        said = str(error)
        if len(said) > 2000:
            defect = f"a message of {len(said)} letters"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        defect = f"{type(error).__name__}: {error!s:.90} at {place.filename}:{place.lineno}"
    spent = time.process_time() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if BOUNDED and (spent > SECONDS or grown > KIBIBYTES):
        defect = f"{spent:.1f} s, {grown >> 10} MiB"
    return said, defect


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_file_that_lies_is_refused_by_what_is_wrong(case: str, tmp_path: Path) -> None:
    files, message = CASES[case]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    said, defect = measured(lambda: QDQBertModel.from_pretrained(tmp_path))
    assert not defect
    assert said, "it loads"
    assert re.search(message, said), said
    assert "pytorch_model" in said or "config.json" in said or ".bin" in said


def read_all(file: Any) -> None:
    with file:
        for tensor in file.tensors.values():
            tensor.read()


def opener(kind: str, path: Path) -> Any:
    if kind == "bundle":
        bundle = TensorflowBundle(path.with_name("m"))
        bundle.verify(bundle.tensors)
        return bundle
    return SafetensorsFile(path) if kind == "safetensors" else TorchFile(path)


def sound(kind: str, folder: Path) -> bytes:
    if kind == "safetensors":
        write_safetensors(
            folder / "x", ((n, a.astype(np.float32)) for n, a in ARRAYS.items()), {"format": "pt"}
        )
        return (folder / "x").read_bytes()
    if kind == "bundle":
        bundle_writer.write_bundle(folder / "m", ARRAYS)
        return (folder / "m.index").read_bytes()
    return sound_files(ARRAYS)[kind]()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old", "bundle"])
def test_damaged_files_give_typed_errors_only(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, *kind.encode()])
    whole = sound(kind, tmp_path)
    path = tmp_path / ("m.index" if kind == "bundle" else "f")
    defects, refused = [], 0
    for index in range(FILES):
        path.write_bytes(with_checksums(mutate(whole, rng)) if kind == "bundle" else mutate(whole, rng))
        said, defect = measured(lambda: read_all(opener(kind, path)))
        refused += bool(said)
        if defect:
            defects.append(f"{index}: {defect}")
    print(f"{kind}: {refused} of {FILES} refused, {len(defects)} defects")
    assert not defects, "\n".join(defects[:40])
    assert refused > FILES // 3


def with_checksums(index: bytes) -> bytes:
    """Make the checksums of a damaged index right again, so that it is parsed further."""
    from qdqbert.serialization.crc32c import crc32c

    data = bytearray(index)
    for end in range(len(data) - 53):
        # A trailer: no compression, then a checksum that was right before the damage, or is now.
        if data[end] == 0 and end in TRAILERS:
            begin = TRAILERS[end]
            crc = crc32c(bytes(data[begin : end + 1]))
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            data[end + 1 : end + 5] = masked.to_bytes(4, "little")
    return bytes(data)


def trailers() -> dict[int, int]:
    """Where the blocks of the sound index begin, by where they end."""
    entries = [(b"", bundle_writer.header())]
    offset = 0
    for name in sorted(ARRAYS):
        content = ARRAYS[name].tobytes()
        message = bundle_writer.entry(
            bundle_writer.DTYPES[str(ARRAYS[name].dtype)], ARRAYS[name].shape, offset, content
        )
        entries.append((name.encode(), message))
        offset += len(content)
    first = len(bundle_writer.block(entries))
    second = first + 5 + len(bundle_writer.block([]))
    whole = bundle_writer.table(entries)
    return {first: 0, second: first + 5, len(whole) - 48 - 5: second + 5}


TRAILERS = trailers()

# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes a file holds, reading it succeeds or raises the package's own error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdqbert.cli.demo import bundled_folder
from qdqbert.errors import Error
from qdqbert.tasks.squad_data import read_squad
from qdqbert.tasks.text_classification import read_texts
from qdqbert.tokenization import load_tokenizer

TABLE = 'text\tlabel\r\nsay \\"hi\\"\tx\r\nÉtudes\ty\r\n'.encode()
LINES = '{"text": "a", "label": 1}\n{"text": "É", "label": "x"}\n'.encode()
WORDS = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n##s\né\n".encode()


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Change, cut, repeat or insert a few bytes."""
    result = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        place = int(generator.integers(len(result) + 1))
        match int(generator.integers(4)):
            case 0:
                result[place : place + 1] = generator.bytes(1)
            case 1:
                result[place : place + int(generator.integers(40))] = b""
            case 2:
                result[place:place] = result[place : place + int(generator.integers(40))]
            case _:
                result[place:place] = [b'"', b"\\", b"\t", b"\x00", b"\xff", b"{", b"null", b"\\ud800"][
                    int(generator.integers(8))
                ]
    return bytes(result)


CASES: list[tuple[str, str, Callable[[Path], object]]] = [
    ("squad_cases.json", "squad.json", read_squad),
    ("", "t.tsv", read_texts),
    ("", "t.csv", read_texts),
    ("", "t.jsonl", read_texts),
    ("", "vocab.txt", lambda path: load_tokenizer(path.parent)),
    ("tokenizer.json", "tokenizer.json", lambda path: load_tokenizer(path.parent)),
]


@pytest.mark.parametrize(("source", "name", "read"), CASES, ids=[case[1] for case in CASES])
def test_damaged_file_is_read_or_refused_by_an_error_of_ours(tmp_path, source, name, read):
    generator = np.random.default_rng(11)
    match source:
        case "squad_cases.json":
            data = Path(__file__).with_name(source).read_bytes()
        case "tokenizer.json":
            data = (bundled_folder() / source).read_bytes()
        case _:
            data = {"vocab.txt": WORDS, "t.jsonl": LINES, "t.csv": TABLE.replace(b"\t", b",")}.get(
                name, TABLE
            )
    path = tmp_path / name
    refused = 0
    for _ in range(60 if source == "tokenizer.json" else 400):
        path.write_bytes(damaged(data, generator))
        with contextlib.suppress(Error):
            read(path)
            refused -= 1
        refused += 1
    assert refused > 0

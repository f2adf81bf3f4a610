# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes a file holds, reading it succeeds or raises the package's own error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from damaged_bytes import damaged
from qdqbert.cli.demo import bundled_folder
from qdqbert.errors import Error
from qdqbert.tasks import SST2, STSB, CoLA, MaskedLM, NextSentence, Task
from qdqbert.tasks.conll_data import read_conll
from qdqbert.tasks.copa_data import read_copa
from qdqbert.tasks.squad_data import read_squad
from qdqbert.tasks.text_classification import read_texts
from qdqbert.tokenization import load_tokenizer

TABLE = 'text\tlabel\r\nsay \\"hi\\"\tx\r\nÉtudes\ty\r\n'.encode()
LINES = '{"text": "a", "label": 1}\n{"text": "É", "label": "x"}\n'.encode()
WORDS = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n##s\né\n".encode()


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


TAGGED = "É\tB-person\r\nSmith\tI-person\r\n\t\r\na\tO\n".encode()
XML = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE copa-corpus SYSTEM "copa.dtd">\n<copa-corpus>\n'
    '<item id="1" asks-for="cause" most-plausible-alternative="1">\n'
    "<p>É &amp; a.</p><a1>b</a1><a2>c</a2></item>\n"
    "</copa-corpus>\n"
).encode()
CHOICES = '{"premise": "p", "choice1": "a", "choice2": "É", "question": "cause", "label": 1}\n'.encode()
SENTENCES = b'sentence\tlabel\nsay "hi\t1\nback\\slash\t0\n'
PAIRS = b"sentence1\tsentence2\tscore\na\tb\t4.5\nc\td\t0\n"
FOLLOWING = b"a\tb\nc\td\r\ne\tf\n\ng\th\n"


def read_with(task: type[Task], labels: int) -> Callable[[Path], object]:
    config = SimpleNamespace(
        max_position_embeddings=64,
        num_labels=labels,
        id2label={index: f"LABEL_{index}" for index in range(labels)},
        vocab_size=4000,
    )
    tokenizer = load_tokenizer(bundled_folder())
    return lambda path: task.read(path, tokenizer, config)


TASK_CASES: list[tuple[str, bytes, Callable[[Path], object]]] = [
    ("a.conll", TAGGED, read_conll),
    ("a.xml", XML, read_copa),
    ("copa.jsonl", CHOICES, read_copa),
    ("sst2.tsv", SENTENCES, read_with(SST2, 2)),
    ("sst2.csv", SENTENCES.replace(b"\t", b",").replace(b'"', b""), read_with(SST2, 2)),
    ("cola.tsv", b"gj04\t1\t\tgood\ngj04\t0\t*\tbad\n", read_with(CoLA, 2)),
    ("stsb.tsv", PAIRS, read_with(STSB, 1)),
    ("pairs.txt", FOLLOWING, read_with(NextSentence, 2)),
    ("corpus.txt", "one two\nÉtudes\n".encode(), read_with(MaskedLM, 2)),
]


@pytest.mark.parametrize(("name", "data", "read"), TASK_CASES, ids=[case[0] for case in TASK_CASES])
def test_damaged_file_of_a_task_is_read_or_refused_by_an_error_of_ours(tmp_path, name, data, read):
    generator = np.random.default_rng(12)
    path = tmp_path / name
    path.write_bytes(data)
    read(path)
    refused = 0
    for _ in range(40 if "corpus" in name or "pairs" in name else 150):
        path.write_bytes(damaged(data, generator))
        with contextlib.suppress(Error):
            read(path)
            refused -= 1
        refused += 1
    assert refused > 0

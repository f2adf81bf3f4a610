# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes a file holds, reading it for training succeeds or raises a DataError that names the file."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from damaged_bytes import damaged
from qdqbert.data import read
from qdqbert.tasks import DataError

pytestmark = pytest.mark.uninstrumented

SQUAD = json.dumps(
    {
        "version": "1.1",
        "data": [
            {
                "title": "t",
                "paragraphs": [
                    {
                        "context": "Études in Paris, 1066.",
                        "qas": [
                            {
                                "id": "a",
                                "question": "Where?",
                                "answers": [{"text": "Paris", "answer_start": 10}],
                            }
                        ],
                    }
                ],
            }
        ],
    },
    ensure_ascii=False,
).encode()
TABLE = 'text,text_b,label\r\n"say ""hi""",É,x\r\nb,"c\nd",y\r\n'.encode()
LINES = '{"text": "a", "label": [1, "x"]}\n{"text": "É", "text_b": "b", "label": ["x"]}\n'.encode()
NUMBERS = b"text\tlabel\na\t1.5\nb\\\tc\t-2\nd\t1e-3\n"
XML = (
    b'<?xml version="1.0"?>\n<copa-corpus>\n<item asks-for="cause" most-plausible-alternative="1">\n'
    b"<p>a &amp; b</p><a1>c</a1><a2>d</a2></item>\n</copa-corpus>\n"
)
TEXT = "one two\n\nÉtudes\r\n".encode()
CASES = {
    "squad": ("a.json", SQUAD),
    "csv": ("a.csv", TABLE),
    "csv of lists": ("a.jsonl", LINES),
    "csv of numbers": ("a.tsv", NUMBERS),
    "sst2": ("a.tsv", b'sentence\tlabel\nsay "hi\t1\nback\\slash\t0\n'),
    "cola": ("a.tsv", b"gj04\t1\t\tgood\ngj04\t0\t*\tbad\n"),
    "rte": ("a.tsv", b"sentence1\tsentence2\tlabel\na\tb\tentailment\nc\td\tnot_entailment\n"),
    "mrpc": ("a.tsv", b"Quality\t#1 String\t#2 String\n1\ta\tb\n0\tc\td\n"),
    "stsb": ("a.tsv", b"sentence1\tsentence2\tscore\na\tb\t4.5\nc\td\t0\n"),
    "ner": ("a.conll", "É\tB-person\r\nSmith\tI-person\r\n\t\r\na\tO\n".encode()),
    "copa": ("a.xml", XML),
    "nsp": ("a.txt", b"a\tb\nc\td\r\ne\tf\n\ng\th\n"),
    "mlm": ("a.txt", TEXT),
    "clm": ("a.txt", TEXT),
}


def read_all(name, path, tokenizer, config):
    """Read a file, and all of its items into batches."""
    task = name.split()[0]
    data = read(task, path, tokenizer, config(is_decoder=task == "clm"), max_seq_length=80)
    items = list(data.dataset)
    assert data.num_items == len(items) > 0
    arguments = {"rng": np.random.default_rng(0)} if task == "mlm" else {}
    batch = data.collate_fn(items, **arguments)
    assert batch["input_ids"].max() < len(tokenizer)
    if "labels" in batch and batch["labels"].dtype.kind == "f":
        assert np.isfinite(batch["labels"]).all()
    return data


@pytest.mark.parametrize("name", CASES)
def test_damaged_file_is_read_or_refused_by_an_error_that_names_it(tmp_path, tokenizer, config, name):
    file, content = CASES[name]
    path = tmp_path / file
    path.write_bytes(content)
    read_all(name, path, tokenizer, config)
    generator = np.random.default_rng(21)
    refused = 0
    for _ in range(200):
        path.write_bytes(damaged(content, generator))
        try:
            read_all(name, path, tokenizer, config)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  most files are read
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("name", CASES)
def test_file_cut_off_anywhere_is_read_or_refused_by_an_error_that_names_it(
    tmp_path, tokenizer, config, name
):
    file, content = CASES[name]
    path = tmp_path / file
    for length in range(len(content)):
        path.write_bytes(content[:length])
        try:
            read_all(name, path, tokenizer, config)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  most files are read
    path.write_bytes(b"")
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_all(name, path, tokenizer, config)


@pytest.mark.parametrize("name", CASES)
def test_byte_order_mark_and_other_line_ends_change_nothing(tmp_path, tokenizer, config, name):
    file, content = CASES[name]
    content = content.replace(b"\r\n", b"\n").replace(b'"c\nd"', b'"c d"')
    path = tmp_path / file
    variants = [content, b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n")]
    batches = []
    for variant in variants:
        path.write_bytes(variant)
        data = read_all(name, path, tokenizer, config)
        arguments = {"rng": np.random.default_rng(0)} if name == "mlm" else {}
        batches.append(
            {key: values.tolist() for key, values in data.collate_fn(list(data.dataset), **arguments).items()}
        )

    assert batches[1] == batches[0]
    assert batches[2] == batches[0]


@pytest.mark.parametrize("name", CASES)
def test_nul_bytes_are_read_or_refused_by_an_error_that_names_the_file(tmp_path, tokenizer, config, name):
    file, content = CASES[name]
    path = tmp_path / file
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + b"\0" + content[place:])
        try:
            read_all(name, path, tokenizer, config)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  most files are read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("squad", SQUAD.replace(b"Where?", b"w " * 200_000)),
        ("squad", SQUAD.replace(b"1066.", b"106 " * 20_000)),
        ("sst2", b"sentence\tlabel\n" + b"good " * 200_000 + b"\t1\n"),
        ("csv", b'text,label\n"' + b"good " * 20_000 + b'",1\n'),
        ("mlm", b"good " * 200_000),
        ("nsp", (b"a\t" + b"good " * 200_000 + b"\n") + b"b\tc\nd\te\nf\tg\n"),
        ("ner", b"g" * 1_000_000 + b"\tO\n"),
    ],
)
def test_lines_of_a_megabyte_are_read(tmp_path, tokenizer, config, name, content):
    path = tmp_path / CASES[name][0]
    path.write_bytes(content)

    data = read_all(name, path, tokenizer, config)

    assert max(len(item["input_ids"]) for item in data.dataset) <= 80

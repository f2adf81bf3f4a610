# SPDX-License-Identifier: Apache-2.0
"""SQuAD files: what is read, and that every defect is named with its place."""

from __future__ import annotations

import copy
import json

import pytest

from qdqbert.errors import Error
from qdqbert.tasks import DataError
from qdqbert.tasks.squad_data import read_predictions, read_squad


def test_reads_questions_in_order_with_shared_contexts(cases):
    dataset = read_squad(cases)

    assert [example.id for example in dataset.examples] == ["n1", "n2", "n3", "b1", "b2"]
    assert dataset.examples[0].context is dataset.examples[2].context
    assert dataset.examples[1].answers == (("Rollo", 291),)
    assert dataset.examples[2].answers == ()
    assert dataset.examples[0].title == "Normans"
    assert dataset.version_2


def test_v1_file_is_not_version_2(tmp_path):
    path = write(tmp_path, {"version": "1.1", "data": [article([question("a", [answer("is", 5)])])]})

    assert not read_squad(path).version_2


def test_byte_order_mark_is_ignored(tmp_path, cases):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + cases.read_bytes())

    assert len(read_squad(path).examples) == 5


def answer(text, start):
    return {"text": text, "answer_start": start}


def question(identifier, answers):
    return {"id": identifier, "question": "What?", "answers": answers}


def article(questions):
    return {"title": "T", "paragraphs": [{"context": "This is it.", "qas": questions}]}


def write(folder, root):
    path = folder / "file.json"
    path.write_text(root if isinstance(root, str) else json.dumps(root))
    return path


GOOD = {"data": [article([question("a", [answer("is", 5)]), question("b", [answer("it", 8)])])]}


def broken(change):
    root = copy.deepcopy(GOOD)
    change(root)
    return root


def qas(root):
    return root["data"][0]["paragraphs"][0]["qas"]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ('{"data": [\n  {"title": }]}', r"line 2, column 13: not JSON"),
        ('{"data": ' + "9" * 5000 + "}", r"not JSON that can be read"),
        (broken(lambda r: qas(r)[0].update(question="\ud800")), r"question: .*half of a surrogate pair"),
        ("[]", r"\$: expected an object, found an array"),
        ("{}", r"data: expected an array, found nothing"),
        ('{"data": []}', r"at least one question, found none"),
        ("[" * 100_000, r"nested too deeply|not JSON"),
        (broken(lambda r: r["data"].append(3)), r"data\[1\]: expected an object, found a number"),
        (broken(lambda r: r["data"][0].pop("paragraphs")), r"data\[0\]\.paragraphs: .*found nothing"),
        (
            broken(lambda r: r["data"][0]["paragraphs"][0].pop("context")),
            r"paragraphs\[0\]\.context: .*nothing",
        ),
        (
            broken(lambda r: qas(r)[1].update(question=None)),
            r"qas\[1\]\.question: expected a text, found null",
        ),
        (broken(lambda r: qas(r)[1].update(id="")), r"qas\[1\]\.id: expected a text that is not empty"),
        (broken(lambda r: qas(r)[1].update(id="a")), r"qas\[1\]\.id: 'a' stands already at .*qas\[0\]"),
        (broken(lambda r: qas(r)[0].update(is_impossible="no")), r"is_impossible: expected true or false"),
        (
            broken(lambda r: qas(r)[0]["answers"][0].update(answer_start=99)),
            r"answer_start: expected 0 \.\. 11",
        ),
        (
            broken(lambda r: qas(r)[0]["answers"][0].update(answer_start=True)),
            r"answer_start: expected an integer",
        ),
    ],
)
def test_defect_is_named_with_file_and_place(tmp_path, root, message):
    path = write(tmp_path, root)

    with pytest.raises(DataError, match=message) as caught:
        read_squad(path)

    assert str(path) in str(caught.value)
    assert isinstance(caught.value, Error)
    assert isinstance(caught.value, ValueError)


def test_missing_file_and_wrong_encoding_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_squad(tmp_path / "none.json")
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"data":\n "caf\xe9"}')
    with pytest.raises(DataError, match="line 2: expected UTF-8, found byte 0xe9"):
        read_squad(path)


def test_predictions_must_be_texts(tmp_path):
    path = write(tmp_path, {"a": "x", "b": 3})

    with pytest.raises(DataError, match=r"\$\['b'\]: expected a text, found a number"):
        read_predictions(path)

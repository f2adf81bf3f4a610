# SPDX-License-Identifier: Apache-2.0
"""Labelled texts: files, labels, batches, accuracy."""

from __future__ import annotations

import random

import numpy as np
import pytest

from qdqbert.cli.demo import bundled_folder
from qdqbert.tasks import DataError
from qdqbert.tasks import text_classification as texts


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_tsv_unescapes_backslashes_and_leaves_quotes(tmp_path):
    path = write(tmp_path, "a.tsv", 'text\tlabel\r\nsay \\"hi\\"\tx\r\n"half\ty\r\na\\\tb\tz\r\n')

    assert [(e.text, e.label, e.line) for e in texts.read_texts(path)] == [
        ('say "hi"', "x", 2),
        ('"half', "y", 3),
        ("a\tb", "z", 4),
    ]


def test_csv_keeps_quoted_commas_and_lines(tmp_path):
    path = write(tmp_path, "a.csv", 'id,label,sentence\n1,0,"a, b\nc"\n2,1,d\n')

    assert [(e.text, e.label, e.line) for e in texts.read_texts(path)] == [("a, b\nc", "0", 2), ("d", "1", 4)]


def test_json_lines_take_numbers_as_labels_and_ignore_the_rest(tmp_path):
    path = write(
        tmp_path, "a.jsonl", '{"text": "a\u2028b", "label": 1, "meta": {}}\n\n{"text": "c", "label": "x"}\n'
    )

    assert [(e.text, e.label, e.line) for e in texts.read_texts(path)] == [
        ("a\u2028b", "1", 1),
        ("c", "x", 3),
    ]


def test_pairs_are_read_by_the_names_of_glue(tmp_path):
    path = write(tmp_path, "a.tsv", "index\tsentence1\tsentence2\tlabel\n0\tp\th\tentailment\n")

    (example,) = texts.read_texts(path)

    assert (example.text, example.text_pair, example.label) == ("p", "h", "entailment")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "text\tlabel\na\tx\nb\n", r"a\.tsv:3: expected 2 columns \(text, label\), found 1"),
        ("a.tsv", "text\tkind\na\tx\n", r"a\.tsv:2: expected a column 'label', found text, kind"),
        ("a.tsv", "text\tlabel\n", r"at least one text"),
        ("a.tsv", b"text\tlabel\nok\tx\nb\xff\tx\n", r"a\.tsv:3: expected UTF-8, found byte 0xff"),
        ("a.csv", 'text,label\n"a,x\n', r"a\.csv:2: unexpected end of data"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '{"text": "\\ud800", "label": "x"}\n', r"a\.jsonl:1: text: expected a text"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}\n", r"a\.jsonl:1: not JSON that can be read"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: expected an object"),
        ("a.jsonl", '{"text": 3, "label": "x"}\n', r"a\.jsonl:1: text: expected a text, found 3"),
        ("a.jsonl", '{"text": "a", "label": true}\n', r"a\.jsonl:1: label: expected a text, found True"),
        ("a.txt", "text\n", r"expected a file named \.tsv"),
    ],
)
def test_defect_is_named_with_file_and_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        texts.read_texts(write(tmp_path, name, content))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.tsv: cannot be read"):
        texts.read_texts(tmp_path / "none.tsv")


def test_labels_are_names_or_numbers_and_others_are_named_with_near_misses():
    names = {0: "negative", 1: "positive"}
    examples = [texts.TextExample("a", "positive"), texts.TextExample("b", "0")]

    assert texts.label_ids(examples, names).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"f\.tsv:7: label: .*found 'postive'; near: positive"):
        texts.label_ids([texts.TextExample("a", "postive", line=7)], names, "f.tsv")


EXAMPLES = [texts.TextExample(f"{'what ' * (i % 7)}is number {i}?", str(i % 3)) for i in range(23)]


def test_logits_come_in_order_whatever_the_batches(tokenizer, model):
    rows = [
        np.stack(
            list(texts.iterate_logits(model, EXAMPLES, tokenizer, max_length=32, max_batch_tokens=budget))
        )
        for budget in (1, 40, 10_000)
    ]

    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])
    one = next(texts.iterate_logits(model, EXAMPLES[5:6], tokenizer, max_length=32))
    assert np.array_equal(rows[0][5], one)


def test_accuracy_is_the_share_of_largest_logits(tokenizer, model):
    labels = np.array(
        [int(row.argmax()) for row in texts.iterate_logits(model, EXAMPLES, tokenizer, max_length=32)]
    )
    wrong = labels.copy()
    wrong[:5] = (wrong[:5] + 1) % 3

    assert texts.evaluate(model, EXAMPLES, labels, tokenizer, max_length=32).accuracy == 100.0
    result = texts.evaluate(model, EXAMPLES, wrong, tokenizer, max_length=32)
    assert result.accuracy == pytest.approx(100 * 18 / 23)
    assert result.correct.tolist() == [False] * 5 + [True] * 18


def test_texts_are_cut_and_pairs_lose_from_the_longer_one(tokenizer, model):
    examples = [texts.TextExample("what " * 50, "0"), texts.TextExample("what " * 9, "0", "is " * 5)]

    list(texts.iterate_logits(model, examples, tokenizer, max_length=13, max_batch_tokens=1))

    single, pair = (call["input_ids"][0] for call in model.calls)
    what, is_, sep = (tokenizer.token_to_id(t) for t in ("what", "is", "[SEP]"))
    assert len(single) == 13
    assert single[-1] == sep
    assert pair.tolist() == [tokenizer.token_to_id("[CLS]"), *[what] * 5, sep, *[is_] * 5, sep]
    assert model.calls[1]["token_type_ids"][0].tolist() == [0] * 7 + [1] * 6


def test_what_cannot_be_scored_is_refused(tokenizer, model):
    with pytest.raises(ValueError, match="max_length: expected at least 4"):
        next(texts.iterate_logits(model, EXAMPLES, tokenizer, max_length=3))
    with pytest.raises(ValueError, match="found 1 for 23"):
        texts.evaluate(model, EXAMPLES, np.zeros(1, np.int64), tokenizer, max_length=8)

    def two_rows(**inputs):
        out = model(**inputs)
        out.logits = out.logits[:1]
        return out

    with pytest.raises(ValueError, match="logits: expected one row for each of"):
        list(texts.iterate_logits(two_rows, EXAMPLES, tokenizer, max_length=8))


def test_calibration_takes_seeded_texts_in_drawn_order(tokenizer):
    batches = list(texts.calibration_batches(EXAMPLES, tokenizer, max_length=32, samples=4, seed=5))

    chosen = random.Random(5).sample(EXAMPLES, 4)
    assert [batch["input_ids"][0].tolist() for batch in batches] == [
        tokenizer.encode(e.text).ids for e in chosen
    ]


def test_bundled_classifier_scores_what_pytorch_does(tokenizer):
    import qdqbert

    model = qdqbert.QDQBertForSequenceClassification.from_pretrained(bundled_folder())
    examples = texts.read_texts(bundled_folder() / "test.tsv")
    labels = texts.label_ids(examples, model.config.id2label)

    with qdqbert.quantizers(model, {"*": "off"}):
        result = texts.evaluate(model, examples, labels, tokenizer, max_length=64)

    # PyTorch's float32: 80.33 %, 1,205 of 1,500. One text within float noise of a tie may fall either way.
    assert abs(int(result.correct.sum()) - 1205) <= 1

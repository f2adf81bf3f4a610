# SPDX-License-Identifier: Apache-2.0
"""Tables of texts: what their labels mean, which classes there are, and rows that do not fit."""

from __future__ import annotations

import json

import pytest

from qdqbert.data import read
from qdqbert.tasks import DataError, TextClassification


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def labelled(*labels):
    return lines(*({"text": f"text {number}", "label": label} for number, label in enumerate(labels)))


def labels_of(data):
    labels = data.collate_fn(list(data.dataset))["labels"]
    return labels.dtype.name, labels.tolist()


@pytest.mark.parametrize(
    ("labels", "names", "kind", "found"),
    [
        (["b", "a", "b"], {0: "a", 1: "b"}, "single_label_classification", ("int64", [1, 0, 1])),
        ([10, 9, 100], {0: "9", 1: "10", 2: "100"}, "single_label_classification", ("int64", [1, 0, 2])),
        ([0, 2, 1], {0: "0", 1: "1", 2: "2"}, "single_label_classification", ("int64", [0, 2, 1])),
        ([0.5, 2, -1e3], {0: "LABEL_0"}, "regression", ("float32", [0.5, 2.0, -1000.0])),
        ([1.0, 2.0], {0: "LABEL_0"}, "regression", ("float32", [1.0, 2.0])),
        (
            [["b", "a"], [], ["c"]],
            {0: "a", 1: "b", 2: "c"},
            "multi_label_classification",
            ("float32", [[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
        ),
        ([[3], [1, 3]], {0: "1", 1: "3"}, "multi_label_classification", ("float32", [[0, 1], [1, 1]])),
    ],
)
def test_labels_say_what_they_mean(tokenizer, config, write, labels, names, kind, found):
    data = read("csv", write("a.jsonl", labelled(*labels)), tokenizer, config())

    assert (data.id2label, data.problem_type, labels_of(data)) == (names, kind, found)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,text_b,label\n"one, two",three,x\nfour,"five\nsix",y\n'),
        ("a.tsv", "text\ttext_b\tlabel\none, two\tthree\tx\nfour\tfive six\ty\n"),
        (
            "a.jsonl",
            lines(
                {"text": "one, two", "text_b": "three", "label": "x"},
                {"text": "four", "text_b": "five six", "label": "y"},
            ),
        ),
    ],
)
def test_three_formats_say_the_same_and_are_what_the_evaluation_reads(
    tokenizer, config, write, name, content
):
    path = write(name, content)

    data = read("csv", path, tokenizer, config())

    evaluated = TextClassification.read(path, tokenizer, config("x", "y"))
    for index, item in enumerate(data.dataset):
        inputs = evaluated._batch([index])
        assert item["input_ids"].tolist() == inputs["input_ids"][0].tolist()
        assert item["token_type_ids"].tolist() == inputs["token_type_ids"][0].tolist()
        assert item["token_type_ids"].any()
    assert labels_of(data) == ("int64", evaluated.labels.tolist())
    assert data.model_class == "QDQBertForSequenceClassification"


def test_bom_and_crlf_belong_to_no_cell(tokenizer, config, write):
    plain = read("csv", write("a.csv", "text,label\na b,x\nc,y\n"), tokenizer, config())
    windows = read("csv", write("b.csv", b"\xef\xbb\xbftext,label\r\na b,x\r\nc,y\r\n"), tokenizer, config())

    assert windows.id2label == plain.id2label == {0: "x", 1: "y"}
    assert windows.dataset[0]["input_ids"].tolist() == plain.dataset[0]["input_ids"].tolist()


def test_cells_are_cut_into_lists_at_a_delimiter(tokenizer, config, write):
    file = write("a.csv", "text,label\na,x | y\nb,\nc,z|\n")

    data = read("csv", file, tokenizer, config(), label_delimiter="|")

    assert labels_of(data) == ("float32", [[1, 1, 0], [0, 0, 0], [0, 0, 1]])


def test_classes_do_not_depend_on_how_many_samples_are_taken(tokenizer, config, write):
    data = read("csv", write("a.jsonl", labelled("c", "b", "a")), tokenizer, config(), max_train_samples=1)

    assert (data.num_items, data.id2label) == (1, {0: "a", 1: "b", 2: "c"})
    assert labels_of(data) == ("int64", [2])


def test_names_of_the_head_win(tokenizer, config, write):
    data = read("csv", write("a.jsonl", labelled("b", 0, "a")), tokenizer, config("b", "a", "c"))

    assert labels_of(data) == ("int64", [0, 0, 1])
    assert data.id2label == {0: "b", 1: "a", 2: "c"}


def test_problem_type_of_option_and_configuration(tokenizer, config, write):
    file = write("a.jsonl", labelled(1, 2))

    assert labels_of(read("csv", file, tokenizer, config(problem_type="regression")))[0] == "float32"
    assert labels_of(read("csv", file, tokenizer, config("LABEL_0")))[0] == "float32"
    data = read(
        "csv", file, tokenizer, config(problem_type="regression"), problem_type="single_label_classification"
    )
    assert labels_of(data) == ("int64", [0, 1])
    with pytest.raises(ValueError, match=r"problem_type: expected one of regression, .* got 'both'"):
        read("csv", file, tokenizer, config(), problem_type="both")


def test_several_numbers_for_a_text(tokenizer, config, write):
    data = read(
        "csv", write("a.jsonl", labelled([0.5, 1], [2, -3])), tokenizer, config(), problem_type="regression"
    )

    assert labels_of(data) == ("float32", [[0.5, 1.0], [2.0, -3.0]])
    assert data.num_labels == 2


def test_several_files_have_their_classes_together(tokenizer, config, write):
    files = [write("a.jsonl", labelled("b")), write("b.csv", "text,label\nx,a\n")]

    data = read("csv", files, tokenizer, config())

    assert labels_of(data) == ("int64", [1, 0])


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ([0.5, "a"], r":2: label: expected a number, as .*a\.jsonl:1 has one \(0\.5\), found 'a'"),
        (["a", 0.5], r":1: label: expected a number, as .*a\.jsonl:2 has one"),
        ([0.5, float("nan")], ":2: label: expected a finite number, found nan"),
        ([1, float("inf")], ":2: label: expected a finite number, found inf"),
        ([0.5, "nan"], ":2: label: expected a finite number, found 'nan'"),
        ([1, ""], ":2: label: expected one, found none"),
        ([1, "  "], ":2: label: expected one, found none"),
        ([1, None], ":2: label: expected a text, found None"),
        ([1, True], ":2: label: expected a text, found True"),
        ([1, {"a": 1}], ":2: label: expected a text, found"),
        ([["a"], "a"], ":2: label: expected a list of classes, found 'a'"),
        ([["a"], [["b"]]], ":2: label: expected a text, found"),
        ([["a"], ["\ud800"]], ":2: label: expected a text, found"),
    ],
)
def test_labels_that_do_not_fit_are_named_by_file_and_line(tokenizer, config, write, labels, place):
    content = "".join(json.dumps({"text": "t", "label": label}) + "\n" for label in labels)

    with pytest.raises(DataError, match=rf"a\.jsonl{place}"):
        read("csv", write("a.jsonl", content), tokenizer, config())


@pytest.mark.parametrize(
    ("labels", "kind", "place"),
    [
        (["a"], "regression", r":1: label: expected a finite number, found 'a'"),
        ([["1", "2"], ["1"]], "regression", ":2: label: expected 2 numbers, found 1"),
        ([["a"]], "single_label_classification", ":1: label: expected one class, found a list"),
        (["a"], "multi_label_classification", ":1: label: expected a list of classes"),
    ],
)
def test_labels_that_do_not_fit_the_problem_are_named(tokenizer, config, write, labels, kind, place):
    with pytest.raises(DataError, match=rf"a\.jsonl{place}"):
        read("csv", write("a.jsonl", labelled(*labels)), tokenizer, config(), problem_type=kind)


def test_label_that_the_head_does_not_know_is_named_with_near_ones(tokenizer, config, write):
    with pytest.raises(DataError, match=r"a\.jsonl:2: label: .* 3 classes .*found 'sprots'; near: sports"):
        read(
            "csv", write("a.jsonl", labelled("sports", "sprots")), tokenizer, config("sports", "news", "arts")
        )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "", ": expected at least one text, found none"),
        ("a.csv", "text,label\n", ": expected at least one text, found none"),
        ("a.csv", "words,label\na,b\n", ":2: expected a column 'text', found words, label"),
        ("a.csv", "text,class_name\na,b\n", ":2: expected a column 'label', found text, class_name"),
        ("a.csv", "text,label\na,b,c\n", r":2: expected 2 columns \(text, label\), found 3"),
        ("a.csv", 'text,label\n"a,b\n', ":2: unexpected end of data"),
        ("a.csv", "text,label\n" + "a" * 200_000 + ",b\n", r":2: field larger than field limit"),
        ("a.jsonl", '{"text": "a", "label": 1\n', ":1: not JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', ":2: expected an object"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n\xff\n', ":2: expected UTF-8, found byte 0xff"),
        ("a.txt", "text,label\na,b\n", r": expected a file named \.tsv, \.csv"),
    ],
)
def test_malformed_files_are_named_by_line(tokenizer, config, write, name, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read("csv", write(name, content), tokenizer, config())


def test_line_of_ten_megabytes_is_a_row_like_others(tokenizer, config, write):
    # A text of ten megabytes is encoded in ten seconds, so most of the line is a column that nobody asks for.
    long = {"text": "word " * 20_000, "note": "a" * 10_000_000, "label": "a"}
    content = lines(long, {"text": "b", "label": "b"})

    data = read("csv", write("a.jsonl", content), tokenizer, config(), max_seq_length=128)

    assert data.dataset.lengths.tolist() == [128, 3]


def test_bytes_that_are_no_text_are_passed_over(tokenizer, config, write):
    with_nul = read("csv", write("a.jsonl", labelled("x")), tokenizer, config())
    without = read("csv", write("b.jsonl", lines({"text": "te\0xt 0", "label": "x"})), tokenizer, config())

    assert with_nul.dataset[0]["input_ids"].tolist() == without.dataset[0]["input_ids"].tolist()


def test_rows_are_read_in_the_order_of_the_file(tokenizer, config, write):
    # More rows than one call of the library encodes.
    data = read(
        "csv", write("a.jsonl", labelled(*(number % 7 for number in range(1300)))), tokenizer, config()
    )

    assert labels_of(data) == ("int64", [number % 7 for number in range(1300)])
    assert data.num_items == 1300

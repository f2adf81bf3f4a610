# SPDX-License-Identifier: Apache-2.0
"""Lines and rows of data files."""

from __future__ import annotations

import pytest

from qdqbert.tasks import DataError
from qdqbert.tasks.rows import iterate_lines, iterate_rows


def test_lines_end_in_lf_or_crlf_and_nowhere_else(write):
    path = write("a.txt", b"\xef\xbb\xbfone\r\ntwo\xe2\x80\xa8still two\x0c\x1c\n\nfour\rstill four")

    assert list(iterate_lines(path)) == [
        (1, "one"),
        (2, "two\u2028still two\x0c\x1c"),
        (3, ""),
        (4, "four\rstill four"),
    ]


def test_byte_order_mark_counts_at_the_start_only(write):
    path = write("a.txt", "\ufeffa\n\ufeffb\n")

    assert [text for _, text in iterate_lines(path)] == ["a", "\ufeffb"]


def test_tsv_has_neither_quotes_nor_escapes(write):
    path = write("a.tsv", 'sentence\tlabel\r\n"half a quote\t0\r\nback\\\\slash \\"q\\"\t1\r\n')

    assert [(line, row["sentence"]) for line, row in iterate_rows(path)] == [
        (2, '"half a quote'),
        (3, 'back\\\\slash \\"q\\"'),
    ]


def test_tsv_with_escapes_takes_the_next_character_as_it_is(write):
    path = write("a.tsv", 'sentence\tlabel\nsay \\"a\\\tb\\"\t0\n')

    assert [row for _, row in iterate_rows(path, tsv_escapes=True)] == [
        {"sentence": 'say "a\tb"', "label": "0"}
    ]


def test_csv_rows_know_the_line_on_which_they_start(write):
    path = write("a.csv", 'a,b\n"x\r\ny",1\n"say ""hi""",2\n')

    assert list(iterate_rows(path)) == [(2, {"a": "x\r\ny", "b": "1"}), (4, {"a": 'say "hi"', "b": "2"})]


def test_json_lines_keep_what_stands_in_them(write):
    path = write("a.jsonl", b'\xef\xbb\xbf{"a": 1.5}\r\n\r\n{"a": [null]}\n')

    assert list(iterate_rows(path)) == [(1, {"a": 1.5}), (3, {"a": [None]})]


def test_reading_is_lazy(write):
    rows = iterate_rows(write("a.tsv", "a\tb\n1\t2\nonly one\n"))

    assert next(rows) == (2, {"a": "1", "b": "2"})
    with pytest.raises(DataError, match=r"a\.tsv:3: expected 2 columns \(a, b\), found 1"):
        next(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", r"a\.txt: expected a file named \.tsv"),
        ("a.tsv", b"a\tb\nx\xe9\t1\n", r"a\.tsv:2: expected UTF-8, found byte 0xe9"),
        ("a.csv", b'a,b\n"x\n\xff",1\n', r"a\.csv:3: expected UTF-8, found byte 0xff"),
        ("a.csv", 'a,b\n1,"2', r"a\.csv:2: unexpected end of data"),
        ("a.csv", 'a,b\n1,"2"3\n', r"a\.csv:2: "),
        ("a.jsonl", "{}\nnull\n", r"a\.jsonl:2: expected an object"),
    ],
)
def test_defect_is_named_with_file_and_line(write, name, content, message):
    with pytest.raises(DataError, match=message):
        list(iterate_rows(write(name, content)))


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "none.tsv", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            list(iterate_lines(path))

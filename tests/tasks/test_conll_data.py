# SPDX-License-Identifier: Apache-2.0
"""Tagged sentences in CoNLL columns."""

from __future__ import annotations

import pytest

from qdqbert.tasks import DataError
from qdqbert.tasks.conll_data import read_conll


def test_two_columns_and_blank_lines_of_any_kind(write):
    path = write("a.conll", "\ufeffAlice\tB-person\r\nSmith\tI-person\r\n\t\r\n\r\nred\tO\r\n \r\n")

    first, second = read_conll(path)

    assert (first.words, first.tags, first.line) == (("Alice", "Smith"), ("B-person", "I-person"), 1)
    assert (second.words, second.tags, second.line) == (("red",), ("O",), 5)


def test_four_columns_of_conll_2003_and_its_document_marks(write):
    path = write(
        "a.txt",
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n-DOCSTART- -X- -X- O\nred JJ O O",
    )

    sentences = read_conll(path)

    assert [(s.words, s.tags) for s in sentences] == [
        (("EU", "rejects"), ("B-ORG", "O")),
        (("red",), ("O",)),
    ]


def test_words_keep_spaces_that_are_no_separators(write):
    (sentence,) = read_conll(write("a.conll", "a\u00a0b\tO\nc d\tO\n\u2028\u3000x\tO\n"))

    assert sentence.words == ("a\u00a0b", "c d", "\u2028\u3000x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tO\nb\n", r"a\.conll:2: expected 2 columns as above, found 1: 'b'"),
        ("a\tx\tO\nb\tO\n", r"a\.conll:2: expected 3 columns as above, found 2"),
        ("word\n", r"a\.conll:1: expected a word and its tag, found 1"),
        ("\tO\n", r"a\.conll:1: expected a word in the first column"),
        (
            "a\tperson\n",
            r"a\.conll:1: expected O or a tag such as B-person in the last column, found 'person'",
        ),
        ("a\tB-\n", r"found 'B-'"),
        ("a\tB-person,B-group\nb\t\n", r"a\.conll:2: expected O or a tag"),
        (b"a\tO\n\xff\tO\n", r"a\.conll:2: expected UTF-8"),
        ("\n \n", r"a\.conll: expected at least one sentence"),
    ],
)
def test_defect_is_named_with_file_and_line(write, content, message):
    with pytest.raises(DataError, match=message):
        read_conll(write("a.conll", content))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "sentences", "entities"),
    [
        ("wnut17train.conll", 3394, 1975),
        ("emerging.dev.conll", 1009, 836),
        ("emerging.test.annotated", 1287, 1079),
    ],
)
def test_wnut_has_the_published_sizes(shared, name, sentences, entities):
    found = read_conll(shared("data", "ner", "wnut17", name))

    assert len(found) == sentences
    assert sum(tag.startswith("B-") for s in found for tag in s.tags) == entities

# SPDX-License-Identifier: Apache-2.0
"""Texts and pairs as a model takes them, one by one and many at once."""

from __future__ import annotations

import itertools

import pytest

from qdqbert.tasks.encoding import encode_text, encode_texts, kept_of_pair
from qdqbert.tasks.task import as_paths


def test_longer_text_of_a_pair_loses_first_and_of_equal_ones_the_second():
    for first, second, room in itertools.product(range(12), range(12), range(1, 14)):
        left = [first, second]
        while sum(left) > room:
            left[left[0] <= left[1]] -= 1
        assert kept_of_pair(first, second, room) == tuple(left)


def test_many_texts_are_encoded_as_one_by_one(tokenizer):
    # More than one call of the library takes, singles and pairs mixed.
    texts = [
        (f"text {number} " * (number % 5), None if number % 3 else f"pair {number}") for number in range(1100)
    ]

    found = list(encode_texts(iter(texts), tokenizer, 9))

    for (text, pair), encoded in zip(texts, found, strict=True):
        alone = encode_text(text, pair, tokenizer, 9)
        assert encoded.input_ids.tolist() == alone.input_ids.tolist()
        assert encoded.token_type_ids.tolist() == alone.token_type_ids.tolist()
    assert max(map(len, found)) == 9


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a file, found a folder"):
        as_paths([tmp_path])

# SPDX-License-Identifier: Apache-2.0
"""The call of a tokenizer, by results worked out by hand from the bundled vocabulary.

``[PAD] [UNK] [CLS] [SEP] [MASK]`` are 0 .. 4; the ids of words are looked up.
"""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import warnings

import numpy as np
import pytest

from qdqbert import UnsupportedError
from qdqbert.tokenization import BertTokenizerFast

pytestmark = pytest.mark.uninstrumented  # Python, and a library that is not ours

CLS, SEP, MASK = 2, 3, 4


def ids(tokenizer, *tokens):
    found = [tokenizer.get_vocab()[token] for token in tokens]
    assert len(set(found)) == len(set(tokens))
    return found


def test_a_text_stands_between_cls_and_sep(tokenizer):
    batch = tokenizer("What is it?")

    words = ids(tokenizer, "what", "is", "it", "?")
    assert batch == {
        "input_ids": [CLS, *words, SEP],
        "token_type_ids": [0] * 6,
        "attention_mask": [1] * 6,
    }


def test_a_pair_has_types_0_and_1(tokenizer):
    batch = tokenizer("it", "is what")

    it, is_, what = ids(tokenizer, "it", "is", "what")
    assert batch.input_ids == [CLS, it, SEP, is_, what, SEP]
    assert batch.token_type_ids == [0, 0, 0, 1, 1, 1]


def test_a_batch_has_a_row_for_each_text_and_is_padded_to_the_longest(tokenizer):
    batch = tokenizer(["it", "it is what"], padding=True)

    it, is_, what = ids(tokenizer, "it", "is", "what")
    assert batch.input_ids == [[CLS, it, SEP, 0, 0], [CLS, it, is_, what, SEP]]
    assert batch.attention_mask == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_arrays_are_int64_and_always_have_a_batch_axis(tokenizer):
    one = tokenizer("it", return_tensors="np")
    two = tokenizer(["it", "it is"], padding="max_length", max_length=7, return_tensors="np")

    assert {key: (value.dtype, value.shape) for key, value in one.items()} == {
        key: (np.dtype(np.int64), (1, 3)) for key in ("input_ids", "token_type_ids", "attention_mask")
    }
    assert two.input_ids.shape == (2, 7)


def test_the_longer_text_of_a_pair_is_cut_first(tokenizer):
    batch = tokenizer("it is what it is", "is what", truncation=True, max_length=7)

    it, is_, what = ids(tokenizer, "it", "is", "what")
    assert batch.input_ids == [CLS, it, is_, SEP, is_, what, SEP]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("only_first", "[CLS] it is [SEP] is what [SEP]"), ("only_second", "[CLS] it is what [SEP] is [SEP]")],
)
def test_only_one_text_of_a_pair_is_cut_if_asked(tokenizer, strategy, expected):
    batch = tokenizer("it is what", "is what", truncation=strategy, max_length=7)

    assert " ".join(batch.tokens()) == expected


def test_what_is_cut_off_comes_as_rows_that_share_the_stride(tokenizer):
    batch = tokenizer(
        ["it", "it is what it is"],
        truncation=True,
        max_length=5,
        stride=1,
        return_overflowing_tokens=True,
    )

    assert [batch.tokens(i)[1:-1] for i in range(3)] == [["it"], ["it", "is", "what"], ["what", "it", "is"]]
    assert batch.overflow_to_sample_mapping == [0, 1, 1]


def test_words_keep_their_numbers_and_characters(tokenizer):
    text = "it  isn't"
    batch = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)

    assert batch.special_tokens_mask == [1, *[0] * (len(batch.input_ids) - 2), 1]
    assert batch.offset_mapping[0] == batch.offset_mapping[-1] == (0, 0)
    joined = [text[start:end] for start, end in batch.offset_mapping[1:-1]]
    assert "".join(joined) == "itisn't"
    assert batch.word_ids()[0] is None
    assert batch.char_to_token(0) == 1
    assert batch.char_to_token(2) is None
    assert batch.token_to_chars(1) == (0, 2)
    assert batch.token_to_chars(0) is None
    assert batch.word_to_chars(1) == (4, 7)
    assert batch.word_to_chars(3) == (8, 9)


def test_negative_token_indices_count_from_the_end(tokenizer):
    batch = tokenizer("it is")

    assert batch.token_to_chars(-2) == batch.token_to_chars(2) == (3, 5)
    assert batch.token_to_word(-2) == 1


def test_words_that_are_split_already_stay_words(tokenizer):
    batch = tokenizer([["it", "isn't"], ["what"]], is_split_into_words=True)

    assert set(batch.word_ids(0)) == {None, 0, 1}
    assert batch.sequence_ids(1) == [None, 0, None]


def test_decoding_gives_the_text_back(tokenizer):
    batch = tokenizer("What is it, is it?")

    assert tokenizer.decode(batch.input_ids) == "[CLS] what is it, is it? [SEP]"
    assert tokenizer.decode(np.array(batch.input_ids), skip_special_tokens=True) == "what is it, is it?"
    assert tokenizer.batch_decode([[MASK], []]) == ["[MASK]", ""]


def test_unknown_tokens_get_the_unknown_id_and_unknown_ids_no_token(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["[MASK]", "no such token"]) == [MASK, 1]
    assert tokenizer.convert_tokens_to_ids("[SEP]") == SEP
    assert tokenizer.convert_tokens_to_ids(None) is None
    assert tokenizer.convert_ids_to_tokens(np.int64(MASK)) == "[MASK]"
    assert tokenizer.convert_ids_to_tokens([CLS, 10**6, SEP], skip_special_tokens=True) == [None]
    with pytest.raises(OverflowError):
        tokenizer.convert_ids_to_tokens(-1)


def test_padding_encodings_made_one_by_one(tokenizer):
    rows = [tokenizer("it"), tokenizer("it is what", return_special_tokens_mask=True)]
    del rows[1]["special_tokens_mask"]

    batch = tokenizer.pad(rows, pad_to_multiple_of=4, return_tensors="np")

    assert batch.input_ids.shape == (2, 8)
    assert batch.attention_mask.sum(axis=1).tolist() == [3, 5]
    assert len(rows[0].input_ids) == 3


def test_an_empty_batch_is_an_empty_batch(tokenizer):
    batch = tokenizer([])

    assert batch == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    arrays = tokenizer([], padding=True, return_tensors="np")
    assert arrays.input_ids.shape == (0, 0)
    assert arrays.input_ids.dtype == np.int64


def test_empty_and_odd_texts(tokenizer):
    assert tokenizer("").input_ids == [CLS, SEP]
    assert tokenizer("\x00\u200b \t").input_ids == [CLS, SEP]
    assert tokenizer("é" * 200).input_ids == [CLS, 1, SEP]


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"text": None}, ValueError, "text: expected a text"),
        ({"text": 5}, ValueError, "text: expected a string"),
        ({"text": ["a", 5]}, TypeError, r"text\[1\]: expected a string, got 5"),
        ({"text": "a", "text_pair": 5}, ValueError, "text_pair: expected a string"),
        ({"text": ["a"], "text_pair": "b"}, TypeError, "text_pair: expected a batch of 1"),
        ({"text": ["a"], "text_pair": ["b", "c"]}, ValueError, "text_pair: expected 1 texts as text, got 2"),
        ({"text": ["a"], "text_pair": [5]}, ValueError, "text_pair: expected a string"),
        ({"text": ["a", "b"], "text_pair": ["c", 5]}, TypeError, r"text_pair\[1\]: expected a string"),
        ({"text": "a", "is_split_into_words": True}, TypeError, r"text\[0\]: expected a list of strings"),
        ({"text": "a", "padding": "long"}, ValueError, "padding: expected True, False or one of 'longest'"),
        ({"text": "a", "truncation": "left"}, ValueError, "truncation: expected True, False or one of"),
        (
            {"text": "a", "truncation": True, "max_length": 1},
            ValueError,
            "max_length: 1 leaves no room for 2",
        ),
        ({"text": "a", "max_length": -1}, ValueError, "max_length: expected at least 0"),
        ({"text": "a", "max_length": 1.5}, TypeError, "max_length: expected an integer"),
        ({"text": "a", "stride": -1}, ValueError, "stride: expected at least 0"),
        (
            {"text": "a", "truncation": True, "max_length": 4, "stride": 2},
            ValueError,
            "stride: expected less than the 2 tokens",
        ),
        ({"text": "a", "pad_to_multiple_of": 0}, ValueError, "pad_to_multiple_of: expected at least 1"),
        (
            {"text": "a", "truncation": True, "padding": True, "max_length": 9, "pad_to_multiple_of": 8},
            ValueError,
            "pad_to_multiple_of: texts are cut at 9 tokens",
        ),
        ({"text": "it is", "truncation": "only_second", "max_length": 3}, ValueError, "Second sequence"),
        ({"text": "a", "return_tensors": "pt"}, UnsupportedError, "return_tensors: 'pt' needs PyTorch"),
        ({"text": "a", "return_tensors": "numpy"}, ValueError, "return_tensors: expected None or 'np'"),
        ({"text": "a", "text_target": "b"}, UnsupportedError, "text_target"),
        ({"text": "a", "max_len": 5}, TypeError, "unexpected keyword argument 'max_len'"),
    ],
)
def test_a_wrong_argument_is_named_and_changes_nothing(tokenizer, keywords, error, message):
    before = tokenizer("it is what")

    with pytest.raises(error, match=message):
        tokenizer(**keywords)

    assert tokenizer("it is what") == before


def test_half_a_surrogate_pair_is_no_text(tokenizer):
    try:
        assert len(tokenizer(["a", "b\ud800"]).input_ids) == 2  # older libraries take it
    except ValueError as error:
        assert "text[1]: holds half of a surrogate pair" in str(error)  # noqa: PT017


def test_a_text_longer_than_the_model_takes_is_warned_of_once(tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="qdqbert"):
        tokenizer("it " * 63)
        tokenizer("it " * 63)
        tokenizer("it " * 63, max_length=64, truncation=True)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "65 > 64" in caplog.text


def test_max_length_without_truncation_cuts_with_a_warning(tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="qdqbert"):
        assert len(tokenizer("it is what", max_length=4).input_ids) == 4

    assert "truncation=True says so" in caplog.text


def test_warnings_point_at_the_caller(tokenizer):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer("it", padding=True, max_length=9)

    assert [(w.category, w.filename) for w in caught] == [(UserWarning, __file__)]


def test_sides(tokenizer):
    tokenizer.padding_side = tokenizer.truncation_side = "left"

    assert tokenizer("it", padding="max_length", max_length=5).input_ids[:2] == [0, 0]
    assert tokenizer("it is what", truncation=True, max_length=4).tokens() == ["[CLS]", "is", "what", "[SEP]"]
    with pytest.raises(ValueError, match="padding_side: expected 'right' or 'left', got 'up'"):
        tokenizer.padding_side = "up"


def test_a_copy_and_a_pickle_do_the_same_and_are_independent(tokenizer):
    others = [copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))]
    for other in others:
        assert repr(other) == repr(tokenizer)
        assert other("What is it?") == tokenizer("What is it?")
        other.add_tokens("what is")
    assert len(tokenizer) == 4000

    batch = tokenizer("it is", return_tensors="np")
    again = pickle.loads(pickle.dumps(batch))
    assert again.tokens() == batch.tokens()
    assert (copy.deepcopy(batch).input_ids == batch.input_ids).all()


def test_threads_with_different_options_share_a_tokenizer(tokenizer):
    wrong = []

    def work(length):
        for _ in range(50):
            rows = tokenizer(["it is what it is"] * 8, truncation=True, max_length=length).input_ids
            if {len(row) for row in rows} != {length}:
                wrong.append(length)

    threads = [threading.Thread(target=work, args=(length,)) for length in (3, 4, 5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


def test_batches_say_what_they_do_not_have(tokenizer):
    batch = tokenizer("it")

    with pytest.raises(AttributeError, match="no attribute or key 'offset_mapping'"):
        batch.offset_mapping  # noqa: B018
    made = type(batch)({"input_ids": [[1], [2]]})
    assert made[0:1] == {"input_ids": [[1]]}
    assert not made.is_fast
    with pytest.raises(ValueError, match="word_ids: this batch was made without a tokenizer"):
        made.word_ids()
    with pytest.raises(KeyError, match="expected a string"):
        made[0]


def test_a_failed_conversion_leaves_the_lists(tokenizer):
    batch = type(tokenizer("it"))({"input_ids": [[1, 2]], "labels": [["a"], [[1], [2, 3]]]})

    with pytest.raises(ValueError, match="labels: cannot become an array"):
        batch.convert_to_tensors("np")

    assert batch.input_ids == [[1, 2]]


def test_moving_to_where_the_model_runs_is_nothing(tokenizer):
    batch = tokenizer("it", return_tensors="np")

    assert batch.to("cpu") is batch
    with pytest.raises(UnsupportedError, match="device"):
        batch.to("cuda")


def test_a_tokenizer_is_true_and_repr_names_it(tokenizer):
    assert tokenizer
    assert repr(tokenizer).startswith("BertTokenizerFast(name_or_path=")
    assert isinstance(tokenizer, BertTokenizerFast)

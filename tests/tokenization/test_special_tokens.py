# SPDX-License-Identifier: Apache-2.0
"""Roles of tokens, and tokens added to a vocabulary."""

from __future__ import annotations

import logging

import pytest
from tokenizers import AddedToken

pytestmark = pytest.mark.uninstrumented  # Python, and a library that is not ours


def test_roles_and_their_ids(tokenizer):
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", 0)
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("[MASK]", 4)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == (None, None)
    assert tokenizer.special_tokens_map == {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    assert tokenizer.all_special_ids == [1, 3, 0, 2, 4]


def test_a_role_can_be_given_to_another_token(tokenizer):
    tokenizer.pad_token = tokenizer.sep_token
    tokenizer.eos_token_id = 4

    assert tokenizer("it", padding="max_length", max_length=5).input_ids[-1] == tokenizer.sep_token_id
    assert tokenizer.eos_token == "[MASK]"
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="padding: the tokenizer has no padding token"):
        tokenizer("it", padding=True)
    with pytest.raises(ValueError, match="cls_token: expected a string or an AddedToken, got 5"):
        tokenizer.cls_token = 5


def test_asking_for_a_missing_role_is_logged_if_asked(tokenizer, caplog):
    with caplog.at_level(logging.ERROR, logger="qdqbert"):
        assert tokenizer.eos_token is None
        tokenizer.verbose = True
        assert tokenizer.eos_token is None

    assert len(caplog.records) == 1


def test_added_tokens_are_found_before_a_text_is_split(tokenizer):
    assert tokenizer.add_tokens(["whatisit"]) == 1
    assert tokenizer.add_tokens("whatisit") == 0
    assert tokenizer.add_tokens([]) == 0

    assert tokenizer.tokenize("it whatisit") == ["it", "whatisit"]
    assert tokenizer.convert_tokens_to_ids("whatisit") == 4000
    assert tokenizer.vocab_size == 4000
    assert len(tokenizer) == 4001
    assert tokenizer.get_added_vocab()["whatisit"] == 4000
    with pytest.raises(TypeError, match="new_tokens: expected strings"):
        tokenizer.add_tokens(["fine", 5])
    assert len(tokenizer) == 4001


def test_added_special_tokens_are_left_out_when_decoding(tokenizer):
    added = tokenizer.add_special_tokens(
        {"bos_token": "[BOS]", "additional_special_tokens": ["<a>", AddedToken("<b>", lstrip=True)]}
    )

    assert added == 3
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("[BOS]", 4000)
    assert tokenizer.additional_special_tokens == ["<a>", "<b>"]
    ids = tokenizer("[BOS] it <a> is <b>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "it is"
    assert tokenizer.add_special_tokens({}) == 0


def test_additional_special_tokens_are_replaced_or_extended(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"]})
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<a>", "<b>"]}, replace_additional_special_tokens=False
    )
    assert tokenizer.additional_special_tokens == ["<a>", "<b>"]

    tokenizer.add_special_tokens({"additional_special_tokens": ["<c>"]})

    assert tokenizer.additional_special_tokens == ["<c>"]
    assert tokenizer.additional_special_tokens_ids == [4002]
    assert tokenizer.convert_tokens_to_ids("<a>") == 4000


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"bos_token": "[B]", "start_token": "[S]"}, "'start_token' is no role; roles are bos_token"),
        ({"bos_token": "[B]", "eos_token": 5}, "eos_token: expected a string or an AddedToken, got 5"),
        ({"bos_token": ["[B]"]}, "bos_token: expected a string"),
        ({"additional_special_tokens": "<a>"}, "additional_special_tokens: expected a list"),
    ],
)
def test_a_wrong_role_is_named_and_nothing_is_added(tokenizer, roles, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.add_special_tokens(roles)

    assert len(tokenizer) == 4000
    assert tokenizer.bos_token is None


def test_masks_and_types_of_ids(tokenizer):
    assert tokenizer.build_inputs_with_special_tokens([9], [8, 7]) == [2, 9, 3, 8, 7, 3]
    assert tokenizer.create_token_type_ids_from_sequences([9], [8, 7]) == [0, 0, 0, 1, 1, 1]
    assert tokenizer.get_special_tokens_mask([9], [8, 7]) == [1, 0, 1, 0, 0, 1]
    assert tokenizer.get_special_tokens_mask([2, 9, 3, 4], already_has_special_tokens=True) == [1, 0, 1, 1]
    assert tokenizer.num_special_tokens_to_add() == 2
    assert tokenizer.num_special_tokens_to_add(pair=True) == 3
    assert tokenizer.max_len_sentences_pair == 61

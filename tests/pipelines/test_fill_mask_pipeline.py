# SPDX-License-Identifier: Apache-2.0
"""Words for masks, against the model called directly."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from qdqbert import pipelines
from qdqbert.errors import ShapeError
from qdqbert.pipelines import PipelineException


def softmax(logits):
    powers = np.exp(np.float64(logits) - np.max(logits))
    return powers / powers.sum()


def near(value):
    return pytest.approx(value, rel=1e-5)


@pytest.fixture
def fill(tiny, tokenizer):
    return pipelines.FillMaskPipeline(tiny("QDQBertForMaskedLM"), tokenizer)


def test_a_mask_is_filled_with_the_likeliest_words(fill, tokenizer):
    ids = tokenizer("the [MASK] is", return_tensors="np")
    shares = softmax(fill.model(**ids).logits[0, 2])

    proposals = fill("the [MASK] is", top_k=3)

    order = np.argsort(-shares)[:3]
    assert [each["token"] for each in proposals] == order.tolist()
    assert [each["score"] for each in proposals] == near(shares[order])
    for each in proposals:
        assert each["token_str"] == tokenizer.decode([each["token"]])
        assert each["sequence"] == tokenizer.decode(
            [*tokenizer.encode("the", add_special_tokens=False), each["token"], *tokenizer.encode("is")],
            skip_special_tokens=True,
        )


def test_several_masks_have_a_list_each_and_the_others_stay_visible(fill):
    first, second = fill("the [MASK] is [MASK]", top_k=2)

    assert len(first) == len(second) == 2
    assert all(each["sequence"].endswith("[MASK] [SEP]") for each in first)
    assert all(each["sequence"].startswith("[CLS] the [MASK]") for each in second)


def test_only_targets_are_scored_with_their_share_of_all(fill, tokenizer):
    every = {each["token"]: each["score"] for each in fill("the [MASK] is", top_k=4000)}
    assert len(every) == 4000

    proposals = fill("the [MASK] is", targets=["what", "king"])

    assert {each["token_str"] for each in proposals} == {"what", "king"}
    assert all(each["score"] == every[each["token"]] for each in proposals)


def test_a_target_that_is_no_word_is_replaced_with_a_warning(fill, tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="qdqbert"):
        (proposal,) = fill("the [MASK] is", targets=["unaffordable"])

    assert proposal["token"] == tokenizer.encode("unaffordable", add_special_tokens=False)[0]
    assert len([record for record in caplog.records if "unaffordable" in record.getMessage()]) == 1


def test_a_list_of_one_text_gives_the_result_alone(fill):
    assert fill(["the [MASK] is"]) == fill("the [MASK] is")
    assert fill(["the [MASK] is", "[MASK]"]) == [fill("the [MASK] is"), fill("[MASK]")]


def test_masks_that_cannot_be_filled(fill, tiny, tokenizer):
    with pytest.raises(PipelineException, match=r"inputs: no mask_token \(\[MASK\]\) in 'the'"):
        fill("the")
    with pytest.raises(ValueError, match="targets: expected at least one word"):
        fill("[MASK]", targets=[""])
    with pytest.raises(TypeError, match="targets: expected strings"):
        fill("[MASK]", targets=[5])
    with pytest.raises(ValueError, match="top_k: expected at least 1"):
        fill("[MASK]", top_k=0)
    tokenizer.mask_token = None
    with pytest.raises(PipelineException, match="tokenizer: fill-mask needs a mask_token"):
        pipelines.FillMaskPipeline(fill.model, tokenizer)


def test_a_text_that_is_too_long_is_refused_with_the_argument_that_cuts_it(fill):
    with pytest.raises(ShapeError, match=r"64 positions; tokenizer_kwargs=\{'truncation': True\} cuts it"):
        fill("the [MASK] is" + " what" * 90)
    assert len(fill("the [MASK] is" + " what" * 90, tokenizer_kwargs={"truncation": True})) == 5

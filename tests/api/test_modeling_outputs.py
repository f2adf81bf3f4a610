# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from qdqbert.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)

START, END = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)


def output() -> QuestionAnsweringModelOutput:
    return QuestionAnsweringModelOutput(start_logits=START, end_logits=END)


def test_attribute_key_and_index_are_one_array() -> None:
    out = output()
    assert out.start_logits is out["start_logits"] is out[0]
    assert out.end_logits is out[1] is out[-1]


def test_fields_that_are_none_have_no_key_and_no_index() -> None:
    out = output()
    assert out.loss is None
    assert list(out.keys()) == ["start_logits", "end_logits"]
    assert len(out.to_tuple()) == len(out) == 2
    assert out[:1] == (START,)
    with pytest.raises(KeyError):
        out["loss"]
    with pytest.raises(IndexError):
        out[2]


def test_iterating_gives_keys_and_to_tuple_gives_values() -> None:
    first, second = output()
    assert (first, second) == ("start_logits", "end_logits")
    start, end = output().to_tuple()
    assert start is START
    assert end is END


@pytest.mark.parametrize(
    "change",
    [
        lambda out: out.pop("end_logits"),
        lambda out: out.update(end_logits=START),
        lambda out: out.setdefault("loss", 1),
        lambda out: out.popitem(),
        lambda out: out.clear(),
        lambda out: out.__delitem__("end_logits"),
    ],
)
def test_fields_cannot_be_taken_away(change: object) -> None:
    out = output()
    with pytest.raises(TypeError, match="You cannot use"):
        change(out)  # type: ignore[operator]
    assert len(out) == 2


def test_setting_one_way_shows_the_other_way() -> None:
    out = output()
    out.start_logits = END
    assert out["start_logits"] is END
    out["end_logits"] = START
    assert out.end_logits is START


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda out: pickle.loads(pickle.dumps(out))])
def test_copies_and_pickles(duplicate: object) -> None:
    again = duplicate(output())  # type: ignore[operator]
    assert type(again) is QuestionAnsweringModelOutput
    np.testing.assert_array_equal(again.end_logits, END)
    assert list(again) == ["start_logits", "end_logits"]


def test_field_order_is_the_originals() -> None:
    assert list(BaseModelOutputWithPoolingAndCrossAttentions.__dataclass_fields__) == [
        "last_hidden_state",
        "pooler_output",
        "hidden_states",
        "past_key_values",
        "attentions",
        "cross_attentions",
    ]
    assert list(SequenceClassifierOutput.__dataclass_fields__) == [
        "loss",
        "logits",
        "hidden_states",
        "attentions",
    ]


def test_the_text_names_every_field_as_that_of_transformers_does() -> None:
    output = SequenceClassifierOutput(logits=np.zeros((1, 2), np.float32))
    assert repr(output) == (
        "SequenceClassifierOutput(loss=None, logits=array([[0., 0.]], dtype=float32), hidden_states=None, "
        "attentions=None)"
    )

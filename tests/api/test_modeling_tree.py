# SPDX-License-Identifier: Apache-2.0
"""The modules inside a model: what can be called, and that what would not be computed is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tiny_model
from qdqbert import QDQBertForSequenceClassification, QDQBertModel, UnsupportedError
from qdqbert.nn import Linear, TensorQuantizer
from qdqbert.tensor_quant import QuantDescriptor


def make(kind: type[Any] = QDQBertForSequenceClassification) -> Any:
    return kind(tiny_model.config(), seed=4)


def new_quantizer(model: Any) -> None:
    model.bert.encoder.layer[0].attention.self.query._input_quantizer = TensorQuantizer(
        QuantDescriptor(num_bits=4)
    )


def fewer_layers(model: Any) -> None:
    model.bert.encoder.layer = model.bert.encoder.layer[:1]


def new_head(model: Any) -> None:
    model.classifier = Linear(24, 5)


def other_base(model: Any) -> None:
    model.bert = make(QDQBertModel)


def added_again(model: Any) -> None:
    model.bert.encoder.layer.add_module("0", model.bert.encoder.layer[1])


def no_pooler(model: Any) -> None:
    del model.bert.pooler


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (new_quantizer, "_input_quantizer"),
        (fewer_layers, "layer"),
        (new_head, "classifier"),
        (other_base, "bert"),
        (added_again, "0"),
        (no_pooler, "pooler"),
    ],
)
def test_a_part_that_the_model_would_not_compute_is_refused(change: Callable[[Any], None], name: str) -> None:
    model, batch = make(), tiny_model.batch()
    modules, logits = dict(model.named_modules()), model(**batch).logits
    with pytest.raises(UnsupportedError, match=f"^{name}: a part of a model cannot be"):
        change(model)
    assert dict(model.named_modules()) == modules
    np.testing.assert_array_equal(model(**batch).logits, logits)


def test_children_of_ones_own_can_come_and_go() -> None:
    class Mine(QDQBertForSequenceClassification):
        def __init__(self, config: Any, **options: Any) -> None:
            super().__init__(config, **options)
            self.extra = Linear(24, 5)

    model = Mine(tiny_model.config(), seed=4)
    model.extra = Linear(24, 7)
    assert model.state_dict()["extra.weight"].shape == (7, 24)
    del model.extra
    assert "extra.weight" not in model.state_dict()


def test_a_part_may_be_put_where_it_is() -> None:
    model = make()
    model.classifier = model.classifier
    model.bert.add_module("pooler", model.bert.pooler)


# ---- calls ----------------------------------------------------------------------------------------------


def test_the_table_of_words_gives_inputs_embeds() -> None:
    model, batch = make(), tiny_model.batch()
    ids = batch.pop("input_ids")
    vectors = model.get_input_embeddings()(ids)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.array(model.get_input_embeddings().weight)[ids])
    np.testing.assert_array_equal(
        model(inputs_embeds=vectors, **batch).logits, model(input_ids=ids, **batch).logits
    )
    vectors[:] = 0  # a copy: the table stays as it was
    assert np.array(model.get_input_embeddings().weight).any()


@pytest.mark.parametrize("ids", [[[3, 53]], [[3, -1]]])
def test_a_word_that_is_not_there_is_named_with_its_place(ids: list[list[int]]) -> None:
    with pytest.raises(IndexError, match=rf"input\[0, 1\] is {ids[0][1]}, expected 0 .. 52"):
        make().get_input_embeddings()(ids)


@pytest.mark.parametrize("ids", [[[0.5]], None, "words"])
def test_what_is_no_index_is_refused(ids: Any) -> None:
    with pytest.raises(TypeError, match="input: expected integers"):
        make().get_input_embeddings()(ids)


def test_a_part_that_cannot_be_called_says_where_its_result_is() -> None:
    model = make()
    with pytest.raises(UnsupportedError, match="QDQBertLayer has no forward of its own"):
        model.bert.encoder.layer[0](np.zeros((1, 3, 24), np.float32))

# SPDX-License-Identifier: Apache-2.0
"""Small programs of users of tokenizers and pipelines: see test_typed_models.py."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, assert_type

import pytest

import qdqbert
from qdqbert import pipelines


@pytest.fixture
def folder() -> Path:
    with as_file(files("qdqbert") / "demo" / "topics-tiny") as path:
        return path


def test_tokenizer(folder: Path) -> None:
    tokenizer = qdqbert.AutoTokenizer.from_pretrained(folder)
    assert_type(tokenizer, qdqbert.BertTokenizerFast)
    batch = tokenizer(["Who built it?", "When?"], padding=True)
    assert_type(batch, qdqbert.BatchEncoding)
    assert_type(tokenizer.pad_token, str | None)
    assert_type(tokenizer.pad_token_id, int | None)
    model = qdqbert.AutoModelForSequenceClassification.from_pretrained(folder)
    assert model(**batch).logits.shape == (2, model.config.num_labels)
    assert tokenizer.decode(tokenizer("When?")["input_ids"], skip_special_tokens=True) == "when?"


def test_pipeline_by_name(folder: Path) -> None:
    classify = qdqbert.pipeline("text-classification", folder)
    assert_type(classify, pipelines.TextClassificationPipeline)
    result: Any = classify("Who wrote the first novel?", top_k=1)
    assert 0 < result[0]["score"] <= 1


def test_pipeline_of_a_model(folder: Path) -> None:
    model = qdqbert.QDQBertForSequenceClassification.from_pretrained(folder)
    tokenizer = qdqbert.BertTokenizerFast.from_pretrained(folder)
    rows: Any = pipelines.TextClassificationPipeline(model, tokenizer)(["When?", "Where?"])
    assert len(rows) == 2

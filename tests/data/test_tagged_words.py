# SPDX-License-Identifier: Apache-2.0
"""Tags stand at the first wordpiece of their word, once, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.data import read
from qdqbert.tasks import NER, DataError

pytestmark = pytest.mark.uninstrumented

TEXT = "Quantization\tB-topic\nof\tO\nNew\tB-place\nYork\tI-place\n\nit\tO\n.\tO\n"
TAGS = ("B-place", "B-topic", "I-place", "O")


def test_tags_are_collected_and_sorted(tokenizer, config, write):
    data = read("ner", write("a.conll", TEXT), tokenizer, config())

    assert data.id2label == dict(enumerate(TAGS))
    assert (data.task, data.model_class, data.num_items) == ("ner", "QDQBertForTokenClassification", 2)


def test_tags_are_numbered_as_the_head_has_them(tokenizer, config, write):
    names = ("O", *TAGS[:3], "B-person")

    data = read("ner", write("a.conll", TEXT), tokenizer, config(*names))

    labels = data.dataset[0]["labels"]
    assert [names[label] for label in labels[labels >= 0]] == ["B-topic", "O", "B-place", "I-place"]


def test_only_first_wordpieces_have_labels(tokenizer, config, write):
    item = read("ner", write("a.conll", TEXT), tokenizer, config()).dataset[0]

    tokens = tokenizer.convert_ids_to_tokens(item["input_ids"].tolist())
    assert len(item["labels"]) == len(tokens) > 6
    for token, label in zip(tokens, item["labels"], strict=True):
        assert (label == -100) == (token.startswith("##") or token in ("[CLS]", "[SEP]"))


def test_every_word_of_a_long_sentence_is_labelled_in_one_window(tokenizer, config, write):
    words = ["networks", "it", "quantization", "of"] * 20
    tags = [TAGS[(index * 5) % 4] for index in range(80)]
    content = "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
    file = write("a.conll", content)

    data = read("ner", file, tokenizer, config(), max_seq_length=24, stride=9)

    labels = np.concatenate([item["labels"] for item in data.dataset])
    assert data.num_items > 5
    assert sorted(labels[labels >= 0].tolist()) == sorted(TAGS.index(tag) for tag in tags)
    windows = NER.read(file, tokenizer, config(*TAGS), max_length=24, stride=9).windows(0)
    assert [item["input_ids"].tolist() for item in data.dataset] == [
        window.text.input_ids.tolist() for window in windows
    ]


def test_batches_are_what_the_head_takes(tokenizer, config, write):
    file = write("a.conll", TEXT)
    data = read("ner", file, tokenizer, config())

    batch = data.collate_fn(list(data.dataset))

    assert {key: values.shape for key, values in batch.items()} == dict.fromkeys(
        ("input_ids", "token_type_ids", "attention_mask", "labels"), batch["input_ids"].shape
    )
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    padded = read("ner", file, tokenizer, config(), max_seq_length=30, pad_to_max_length=True)
    assert padded.collate_fn(list(padded.dataset))["labels"].shape == (2, 30)


def test_only_so_many_samples_are_taken_and_tags_are_those_of_all(tokenizer, config, write):
    data = read("ner", write("a.conll", "it\tO\n\n" + TEXT), tokenizer, config(), max_train_samples=1)

    assert data.num_items == 1
    assert data.id2label == dict(enumerate(TAGS))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (TEXT.replace("I-place", "I-palce"), r"a\.conll:4: tag: .*found 'I-palce'; near: I-place"),
        ("a\tB-x\nb\n", r"a\.conll:2: expected 2 columns"),
        ("", r"a\.conll: expected at least one sentence"),
    ],
)
def test_malformed_rows_are_named_by_file_and_line(tokenizer, config, write, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read("ner", write("a.conll", content), tokenizer, config(*TAGS))


def test_stride_out_of_range_is_named(tokenizer, config, write):
    with pytest.raises(ValueError, match=r"stride: expected 1 \.\. 22"):
        read("ner", write("a.conll", TEXT), tokenizer, config(), max_seq_length=24, stride=23)


@pytest.mark.shared
def test_training_sentences_of_wnut17(shared, config):
    from qdqbert import AutoConfig
    from qdqbert.tokenization import load_tokenizer

    folder = shared("checkpoints", "minilm-wnut17")
    file = shared("data", "ner", "wnut17", "wnut17train.conll")

    data = read("ner", file, load_tokenizer(folder), AutoConfig.from_pretrained(folder))

    assert data.num_items == 3_394
    labels = np.concatenate([data.dataset[index]["labels"] for index in range(data.num_items)])
    begins = [index for index, name in data.id2label.items() if name.startswith("B-")]
    assert len(begins) == 6
    # 1,975 entities, as Derczynski et al., 2017, count them.
    assert int(np.isin(labels, begins).sum()) == 1_975

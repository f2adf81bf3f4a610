# SPDX-License-Identifier: Apache-2.0
"""Blocks of text hold the whole text, end where they should, and stream."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.data import BatchLoader, TextStream, read
from qdqbert.tasks import CausalLM, DataError, MaskedLM
from qdqbert.tasks.corpus import read_corpus

pytestmark = pytest.mark.uninstrumented

TEXT = "\n".join(
    " ".join(f"word{(line * 7 + place) % 13} it" for place in range(line % 9)) for line in range(60)
)


def pieces_of(items):
    return np.concatenate([item["input_ids"][item["special_tokens_mask"] == 0] for item in items])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("boundary", ["file", "document", "line"])
@pytest.mark.parametrize(("task", "fields"), [("mlm", {}), ("clm", {"is_decoder": True})])
def test_blocks_are_the_text(tokenizer, config, write, task, fields, boundary, streaming):
    files = [write("a.txt", TEXT), write("b.txt", "another file\n")]

    data = read(
        task, files, tokenizer, config(**fields), max_seq_length=12, boundary=boundary, streaming=streaming
    )

    items = list(data.dataset)
    corpus = read_corpus(files, tokenizer.backend_tokenizer)
    assert pieces_of(items).tolist() == corpus.pieces.tolist()
    assert max(len(item["input_ids"]) for item in items) == 12
    assert data.num_items == (None if streaming else len(items))


@pytest.mark.parametrize(
    ("task", "evaluated", "fields"), [("mlm", MaskedLM, {}), ("clm", CausalLM, {"is_decoder": True})]
)
def test_blocks_of_one_file_are_the_windows_of_the_evaluation(
    tokenizer, config, write, task, evaluated, fields
):
    file = write("a.txt", TEXT)
    # A window of the evaluation predicts one wordpiece more than it reads.
    window = 12 if task == "mlm" else 11

    items = list(read(task, file, tokenizer, config(**fields), max_seq_length=12).dataset)
    scored = evaluated.read(file, tokenizer, config(vocab_size=4000, **fields), max_length=window)

    assert len(items) == len(scored)
    for index, item in enumerate(items):
        feature = scored._features(index)[0]
        if task == "mlm":
            restored = feature.text.input_ids.copy()
            restored[feature.positions] = feature.targets
            assert item["input_ids"].tolist() == restored.tolist()
        else:
            assert item["input_ids"][1:].tolist() == feature.targets.tolist()
            assert item["input_ids"][0] == feature.text.input_ids[0]


def test_blocks_end_with_documents_and_lines(tokenizer, config, write):
    file = write("a.txt", "it is a\nof the\n\n\nthe of it\na\n  \nis\n")

    def texts(boundary):
        items = read("mlm", file, tokenizer, config(), max_seq_length=6, boundary=boundary).dataset
        return [tokenizer.decode(item["input_ids"], skip_special_tokens=True) for item in items]

    assert texts("file") == ["it is a of", "the the of it", "a is"]
    assert texts("document") == ["it is a of", "the", "the of it a", "is"]
    assert texts("line") == ["it is a", "of the", "the of it", "a", "is"]


def test_stream_can_be_read_again_and_reads_no_more_than_it_is_asked_for(tokenizer, write, monkeypatch):
    from qdqbert.data import language_modeling

    lines = []
    original = language_modeling.encoded_lines

    def watched(file, tokenizer):
        for line in original(file, tokenizer):
            lines.append(line)
            yield line

    monkeypatch.setattr(language_modeling, "encoded_lines", watched)
    stream = TextStream([write("a.txt", "the of it\n" * 5000)], tokenizer.backend_tokenizer, 12)

    iterator = iter(stream)
    next(iterator)

    # Ten wordpieces are three lines and a third.
    assert len(lines) == 4
    assert [item["input_ids"].tolist() for item in stream] == [item["input_ids"].tolist() for item in stream]


def test_batches_of_a_stream_are_those_of_the_text_in_memory_but_for_the_order(tokenizer, config, write):
    file = write("a.txt", TEXT)
    batches = {}
    for streaming in (False, True):
        data = read("clm", file, tokenizer, config(is_decoder=True), max_seq_length=12, streaming=streaming)
        loader = BatchLoader(data.dataset, 4, data.collate_fn, shuffle=True, buffer_size=8)
        batches[streaming] = list(loader.batches(1))
        assert [batch["labels"].tolist() for batch in loader.batches(1, 2)] == [
            batch["labels"].tolist() for batch in batches[streaming][2:]
        ]

    rows = [
        sorted(row for batch in batches[key] for row in batch["labels"].tolist()) for key in (False, True)
    ]
    assert rows[0] == rows[1]


def test_collator_is_told_what_to_hide(tokenizer, config, write):
    data = read("mlm", write("a.txt", TEXT), tokenizer, config(), whole_words=True, mask_probability=0.3)

    assert (data.collate_fn.whole_word, data.collate_fn.mlm_probability) == (True, 0.3)
    assert data.model_class == "QDQBertForMaskedLM"
    with pytest.raises(ValueError, match="mlm_probability: expected"):
        read("mlm", write("a.txt", TEXT), tokenizer, config(), mask_probability=0)


def test_batches_are_padded_to_the_longest_input_if_asked(tokenizer, config, write):
    data = read("mlm", write("a.txt", "it\n"), tokenizer, config(), max_seq_length=24, pad_to_max_length=True)

    batch = data.collate_fn(list(data.dataset), rng=np.random.default_rng(0))

    assert batch["input_ids"].shape == (1, 24)
    assert "special_tokens_mask" not in batch


@pytest.mark.parametrize("streaming", [False, True])
def test_only_so_many_blocks_are_taken(tokenizer, config, write, streaming):
    data = read(
        "mlm",
        write("a.txt", TEXT),
        tokenizer,
        config(),
        max_seq_length=12,
        max_train_samples=3,
        streaming=streaming,
    )

    assert len(list(data.dataset)) == 3


def test_model_that_looks_ahead_is_refused(tokenizer, config, write):
    with pytest.raises(ValueError, match=r"config\.is_decoder: expected true"):
        read("clm", write("a.txt", TEXT), tokenizer, config())


def test_unknown_boundary_is_named(tokenizer, config, write):
    with pytest.raises(ValueError, match="boundary: expected one of file, document, line, got 'page'"):
        read("mlm", write("a.txt", TEXT), tokenizer, config(), boundary="page")


def test_missing_file_of_a_stream_is_known_at_once(tokenizer, config, tmp_path):
    with pytest.raises(DataError, match=r"missing\.txt: cannot be read"):
        read("mlm", tmp_path / "missing.txt", tokenizer, config(), streaming=True)


@pytest.mark.parametrize("content", ["", "\n\n \n", "\u200b\n"])
def test_file_without_text_is_refused(tokenizer, config, write, content):
    file = write("a.txt", content)

    with pytest.raises(DataError, match=r"a\.txt: expected text, found none"):
        read("mlm", file, tokenizer, config())
    with pytest.raises(DataError, match=r"a\.txt: expected text, found none"):
        list(read("mlm", file, tokenizer, config(), streaming=True).dataset)


@pytest.mark.shared
def test_text_of_wikitext_fills_blocks(shared, tokenizer, config):
    file = shared("data", "lm", "wikitext-2", "valid.txt")

    data = read("mlm", file, tokenizer, config(), max_seq_length=128)

    pieces = read_corpus([file], tokenizer.backend_tokenizer).pieces
    assert data.num_items == -(-len(pieces) // 126)
    assert (data.dataset.lengths[:-1] == 128).all()
    assert data.dataset.nbytes == 6 * int(data.dataset.lengths.sum()) + 8 * (data.num_items + 1)

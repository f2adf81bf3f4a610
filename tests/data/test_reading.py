# SPDX-License-Identifier: Apache-2.0
"""`read` finds the task, checks options and files first, and leaves the rest to the task."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

import qdqbert
from qdqbert.data import read, reading_options
from qdqbert.tasks import DataError
from qdqbert.tasks.table import TASKS

ROWS = "text,label\none two,a\nthree,b\n"


def test_package_offers_its_public_names():
    for name in qdqbert.data.__all__:
        assert getattr(qdqbert.data, name) is not None
    assert dir(qdqbert.data) == sorted(qdqbert.data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Batchloader'"):
        _ = qdqbert.data.Batchloader


@pytest.mark.parametrize("entry", TASKS, ids=lambda entry: entry.name)
def test_every_task_can_be_read_for_training(entry):
    for name in (entry.name, *entry.aliases):
        assert isinstance(reading_options(name), dict)


def test_unknown_tasks_and_options_are_named(tokenizer, config, write):
    with pytest.raises(ValueError, match=r"task: expected one of squad, .* found 'qnli'"):
        read("qnli", write("a.csv", ROWS), tokenizer, config())
    with pytest.raises(
        TypeError, match="doc_stride: not an option of classification; those are max_seq_length"
    ):
        read("csv", write("a.csv", ROWS), tokenizer, config(), doc_stride=3)


@pytest.mark.parametrize("name", ["squad", "csv", "sst2", "stsb"])
def test_folders_and_missing_files_are_refused(tokenizer, config, tmp_path, name):
    with pytest.raises(DataError, match=f"{tmp_path}: expected a file, found a folder"):
        read(name, tmp_path, tokenizer, config())
    with pytest.raises(DataError, match=r"missing\.csv: (cannot be read: No such file|expected)"):
        read(name, [tmp_path / "missing.csv"], tokenizer, config())
    with pytest.raises(ValueError, match="paths: expected at least one file"):
        read(name, [], tokenizer, config())


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"max_seq_length": 3}, ValueError, "max_seq_length: expected at least 4, got 3"),
        ({"max_seq_length": 8.0}, TypeError, "max_seq_length: expected an integer, got float"),
        ({"max_seq_length": 1000}, ValueError, r"max_length: expected 4 \.\. 512"),
        ({"max_train_samples": 0}, ValueError, "max_train_samples: expected at least 1, got 0"),
        ({"max_train_samples": True}, TypeError, "max_train_samples: expected an integer, got bool"),
    ],
)
def test_limits_out_of_range_are_named(tokenizer, config, write, options, error, sentence):
    with pytest.raises(error, match=sentence):
        read("csv", write("a.csv", ROWS), tokenizer, config(), **options)


def test_bare_tokenizer_gives_the_same_batches_and_stays_as_it_was(tokenizer, config, write):
    bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    before = bare.to_str()
    file = write("a.csv", ROWS)

    for given in (bare, tokenizer):
        data = read("csv", file, given, config())
        batch = data.collate_fn(list(data.dataset))
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert bare.to_str() == before

# SPDX-License-Identifier: Apache-2.0
"""GLUE's files for training: the inputs of the evaluation, labels in the order of the model's head."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.data import read
from qdqbert.tasks import MRPC, RTE, SST2, STSB, CoLA, DataError

pytestmark = pytest.mark.uninstrumented

SENTENCES = 'sentence\tlabel\nsay "hi" \\ now\t1\na dull film\t0\nsplendid\t1\n'
ACCEPTABLE = "gj04\t1\t\tThey drank.\ngj04\t0\t*\tDrank they it.\n"
ENTAILED = "index\tsentence1\tsentence2\tlabel\n0\ta b\tc\tnot_entailment\n1\td\te f\tentailment\n"
ALIKE = "Quality\t#1 String\t#2 String\n1\tone two\tthree\n0\tfour\tfive\n"
SCORED = "sentence1\tsentence2\tscore\na b\tc\t4.2\nd\te\t0\n"
FILES = {
    "sst2": (SST2, "train.tsv", SENTENCES, [1, 0, 1]),
    "cola": (CoLA, "train.tsv", ACCEPTABLE, [1, 0]),
    "rte": (RTE, "train.tsv", ENTAILED, [1, 0]),
    "mrpc": (MRPC, "train.tsv", ALIKE, [1, 0]),
    "stsb": (STSB, "train.tsv", SCORED, [4.2, 0.0]),
}


@pytest.mark.parametrize("name", FILES)
def test_items_are_the_inputs_of_the_evaluation_with_their_labels(tokenizer, config, write, name):
    task, file, content, labels = FILES[name]
    path = write(file, content)
    head = config("LABEL_0") if name == "stsb" else config()

    data = read(name, path, tokenizer, head)

    evaluated = task.read(path, tokenizer, head)
    assert len(data.dataset) == data.num_items == len(labels)
    for index, item in enumerate(data.dataset):
        inputs = evaluated._batch([index])
        assert item["input_ids"].tolist() == inputs["input_ids"][0].tolist()
        assert item["token_type_ids"].tolist() == inputs["token_type_ids"][0].tolist()
    batch = data.collate_fn(list(data.dataset))
    assert batch["labels"].tolist() == np.array(labels, batch["labels"].dtype).tolist()
    assert batch["labels"].dtype == (np.float32 if name == "stsb" else np.int64)
    assert data.task == task.name
    assert data.problem_type == ("regression" if name == "stsb" else "single_label_classification")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("sst2", {0: "negative", 1: "positive"}),
        ("cola", {0: "unacceptable", 1: "acceptable"}),
        ("rte", {0: "entailment", 1: "not_entailment"}),
        ("mrpc", {0: "not_equivalent", 1: "equivalent"}),
        ("stsb", {0: "LABEL_0"}),
    ],
)
def test_head_that_is_still_to_be_made_gets_the_official_names(tokenizer, config, write, name, names):
    # A base model says two placeholders, or as many as its former head had.
    for head in (config(), config(*(f"LABEL_{index}" for index in range(7)))):
        data = read(name, write(*FILES[name][1:3]), tokenizer, head)

        assert data.id2label == names
        assert data.num_labels == len(names)
        assert data.label2id == {text: index for index, text in names.items()}


def test_labels_follow_the_order_of_a_head_with_names(tokenizer, config, write):
    data = read("sst2", write("a.tsv", SENTENCES), tokenizer, config("POSITIVE", "NEGATIVE"))

    assert [int(item["labels"]) for item in data.dataset] == [0, 1, 0]
    assert data.id2label == {0: "POSITIVE", 1: "NEGATIVE"}


@pytest.mark.parametrize(("name", "names"), [("sst2", ("yes", "no")), ("stsb", ("yes", "no"))])
def test_head_with_other_names_is_refused(tokenizer, config, write, name, names):
    with pytest.raises(ValueError, match=r"config\.(id2label|num_labels): expected"):
        read(name, write(*FILES[name][1:3]), tokenizer, config(*names))


def test_inputs_are_cut_and_batches_padded_as_asked(tokenizer, config, write):
    content = (
        "sentence1\tsentence2\tlabel\n" + "one two three four five six\tseven eight nine\tentailment\n" * 3
    )
    file = write("a.tsv", content)

    cut = read("rte", file, tokenizer, config(), max_seq_length=8)
    padded = read("rte", file, tokenizer, config(), max_seq_length=40, pad_to_max_length=True)

    assert cut.dataset.lengths.tolist() == [8, 8, 8]
    assert padded.collate_fn([padded.dataset[0]])["input_ids"].shape == (1, 40)


def test_only_so_many_samples_are_taken(tokenizer, config, write):
    data = read("sst2", write("a.tsv", SENTENCES), tokenizer, config(), max_train_samples=2)

    assert [int(item["labels"]) for item in data.dataset] == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("sst2", "sentence\tlabel\ngood\t1\nbad\tx\n", ":3: label: expected negative or positive"),
        ("sst2", "sentence\tlabel\ngood\n", ":2: expected 2 columns"),
        ("sst2", "sentence\tlabel\n", ": expected at least one sentence, found none"),
        ("sst2", "", ": expected at least one sentence, found none"),
        ("sst2", "words\tlabel\ngood\t1\n", ":2: expected a column 'sentence'"),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\tnan\n", ":2: score: expected a number from 0 to 5"),
        ("cola", "gj04\t1\tThey drank.\n", ":1: expected 4 columns"),
    ],
)
def test_malformed_rows_are_named_by_file_and_line(tokenizer, config, write, name, content, place):
    path = write("a.tsv", content)

    with pytest.raises(DataError) as caught:
        read(name, path, tokenizer, config())
    assert str(caught.value).startswith(f"{path}{place}")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "folder", "count", "positive"),
    [("sst2", "SST-2", 67_349, 37_569), ("cola", "CoLA", 8_551, 6_023), ("rte", "RTE", 2_490, 1_241)],
)
def test_training_files_of_glue(shared, tokenizer, config, name, folder, count, positive):
    data = read(name, shared("data", "glue", folder, "train.tsv"), tokenizer, config(), max_seq_length=128)

    assert data.num_items == count
    assert sum(int(item["labels"]) for item in data.dataset) == positive


@pytest.mark.shared
def test_training_file_of_stsb(shared, tokenizer, config):
    data = read("stsb", shared("data", "glue", "STS-B", "train.tsv"), tokenizer, config())

    assert data.num_items == 5_749
    assert sum(float(item["labels"]) for item in data.dataset) == pytest.approx(5_749 * 2.701, rel=1e-3)

# SPDX-License-Identifier: Apache-2.0
"""Next sentence: pairs, shuffling, and a score known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from constructed_models import config, mood, mood_reader
from qdqbert.tasks import DataError, NextSentence
from qdqbert.tasks.encoding import TextExample
from qdqbert.tasks.next_sentence import read_pairs, shuffle_half

FIRSTS = ("good", "bad", "red", "good red", "bad blue", "green", "good .", "red red", "blue")
SECONDS = (
    *("good .", "bad", "good good", "red", "bad bad", "good red", "bad .", "green green", "good blue"),
)


def pairs_file(write):
    return write("a.txt", "".join(f"{a} \t {b}\n" for a, b in zip(FIRSTS, SECONDS, strict=True)))


def test_half_gets_the_second_sentence_of_another_pair():
    for count in (4, 5, 9, 100, 101):
        pairs = [TextExample(f"a{i}", "follows", f"b{i}", i) for i in range(count)]
        for seed in range(5):
            examples, labels = shuffle_half(pairs, seed)

            assert labels.sum() == count // 2
            for index, (example, label) in enumerate(zip(examples, labels, strict=True)):
                assert example.text == f"a{index}"
                assert (example.text_pair != f"b{index}") == bool(label)
            moved = sorted(e.text_pair for e, y in zip(examples, labels, strict=True) if y)
            assert moved == sorted(f"b{i}" for i in np.flatnonzero(labels))


def test_pairs_that_are_alike_never_pass_for_random():
    # Every other pair ends in the same sentence: some rotations would give it back.
    pairs = [TextExample(f"a{i}", "follows", "same" if i % 3 == 0 else f"b{i}", i) for i in range(40)]

    for seed in range(10):
        examples, labels = shuffle_half(pairs, seed)
        for before, after, label in zip(pairs, examples, labels, strict=True):
            assert (before.text_pair != after.text_pair) == bool(label)


def test_same_seed_same_task(write, words):
    path = pairs_file(write)

    tasks = [NextSentence.read(path, words, config(), task_seed=seed) for seed in (3, 3, 4)]

    first, again, other = (task.examples for task in tasks)
    assert first == again
    assert first != other


def test_score_is_that_of_the_words(write, words):
    model = mood_reader("cls.seq_relationship", "QDQBertForNextSentencePrediction", [1.0, -1.0])
    task = NextSentence.read(pairs_file(write), words, config(), task_seed=2)

    result = task.evaluate(model)

    said = [0 if mood(e.text, e.text_pair) >= 0 else 1 for e in task.examples]
    assert result.predictions.tolist() == said
    correct = int((task.labels == np.array(said)).sum())
    assert 0 < correct < 9
    assert result.metrics == {
        "accuracy": pytest.approx(100 * correct / 9),
        "correct": correct,
        "total": 9,
    }
    assert {task.expected(i) for i in range(9)} == {"follows", "random"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\nc\n", r"a\.txt:2: expected two sentences with a tab between them, found 1"),
        ("a\tb\nc\t \n", r"a\.txt:2: .* found 1"),
        ("a\tb\tc\n", r"a\.txt:1: .* found 3"),
        ("\n", r"a\.txt: expected at least one pair"),
        (b"a\t\xff\n", r"a\.txt:1: expected UTF-8"),
    ],
)
def test_defect_is_named_with_file_and_line(write, content, message):
    with pytest.raises(DataError, match=message):
        read_pairs(write("a.txt", content))


def test_what_cannot_be_shuffled_is_refused(write, words):
    with pytest.raises(DataError, match="at least four pairs to shuffle half of them, found 3"):
        NextSentence.read(write("a.txt", "a\tb\n" * 3), words, config())
    with pytest.raises(DataError, match="too many second sentences are alike"):
        NextSentence.read(write("a.txt", "a\tb\n" * 8), words, config())
    with pytest.raises(ValueError, match="task_seed: expected at least 0"):
        NextSentence.read(write("a.txt", "a\tb\n" * 8), words, config(), task_seed=-1)


@pytest.mark.shared
def test_pairs_of_discoeval_are_read_whole(shared):
    assert len(read_pairs(shared("data", "nsp", "discoeval-wiki", "valid.txt"))) == 4000

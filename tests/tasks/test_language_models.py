# SPDX-License-Identifier: Apache-2.0
"""Causal and masked language modelling: windows, what is hidden, and scores known by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from constructed_models import ID, SCALE, V, config, successor_model, unigram_model
from qdqbert.tasks import CausalLM, DataError, MaskedLM
from qdqbert.tasks.corpus import read_corpus
from qdqbert.tasks.masked_lm import choose_pieces
from qdqbert.tasks.token_losses import token_losses

CYCLE = {"red": "green", "green": "blue", "blue": "red"}
DECODER = {"is_decoder": True}


# ---- the corpus --------------------------------------------------------------------------------


def test_corpus_joins_lines_and_knows_where_words_go_on(write, words):
    path = write("a.txt", " \r\nred redish .\r\n\n  blue\u2028good\n")

    corpus = read_corpus([path, path], words)

    once = ["red", "red", "##ish", ".", "blue", "good"]
    assert corpus.pieces.tolist() == [ID[word] for word in once * 2]
    assert corpus.is_inside_word.tolist() == [False, False, True, False, False, False] * 2


def test_corpus_without_text_is_refused(write, words):
    with pytest.raises(DataError, match=r"b\.txt: expected text, found none"):
        read_corpus([write("a.txt", "red"), write("b.txt", " \n")], words)
    with pytest.raises(DataError, match=r"c\.txt:2: expected UTF-8"):
        read_corpus([write("c.txt", b"red\n\xff\n")], words)


# ---- losses ------------------------------------------------------------------------------------


def test_losses_are_negative_log_likelihoods():
    generator = np.random.default_rng(1)
    for rows in (1, 63, 64, 65, 131):
        logits = (30 * generator.standard_normal((rows, 11))).astype(np.float32)
        targets = generator.integers(0, 11, rows)

        losses = token_losses(logits, targets)

        # Sums in float64, of 11 terms of at most 1: a few eps of the largest logit.
        expected = [
            -math.log(math.exp(row[t] - row.max()) / sum(math.exp(x - row.max()) for x in row))
            if row.max() - row[t] < 700
            else row.max() - row[t]
            for row, t in zip(logits.astype(float), targets, strict=True)
        ]
        assert losses == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert (losses >= 0).all()


def test_losses_of_large_logits_neither_overflow_nor_vanish():
    logits = np.array([[3e38, -3e38], [-3e38, 0.0]], np.float32)

    assert token_losses(logits, np.array([0, 1])).tolist() == [0.0, 0.0]
    assert token_losses(logits[:1], np.array([1]))[0] == pytest.approx(6e38, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_losses_of_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="logits: expected finite numbers"):
        token_losses(np.array([[bad, 0.0]], np.float32), np.array([1]))


# ---- causal ------------------------------------------------------------------------------------


def causal(write, words, text, **options):
    return CausalLM.read(write("a.txt", text), words, config(**DECODER), **options)


def test_perplexity_of_a_model_that_does_not_look_is_that_of_its_distribution(write, words):
    # 6 red of 0.5, 3 green of 0.25, 3 blue of 0.25: exp of the mean of -log.
    task = causal(write, words, "red green red blue red green\nred blue red green red blue")

    result = task.evaluate(
        unigram_model("QDQBertLMHeadModel", {"red": 0.5, "green": 0.25, "blue": 0.25}, **DECODER)
    )

    # float32 logits of about 1: the loss is right to a few 1e-7.
    expected = math.exp((6 * math.log(2) + 6 * math.log(4)) / 12)
    assert result.value == pytest.approx(expected, rel=1e-6)
    assert result["loss"].value == pytest.approx(math.log(expected), rel=1e-6)
    assert result.metrics["wordpieces"] == 12
    assert not result.figures[0].higher_is_better


def test_each_wordpiece_is_predicted_from_the_one_before_it(write, words):
    # Every word but a window's first is the one expected: probability e^s / (e^s + V - 1), s = 2 SCALE / 2.
    # After [CLS] the model expects [CLS], so "red" there has probability 1 / (e^s + V - 1).
    count = 24
    task = causal(write, words, " ".join(["red", "green", "blue"] * 8))
    model = successor_model("QDQBertLMHeadModel", CYCLE, sharpness=0.5, **DECODER)

    result = task.evaluate(model)

    s = SCALE
    total = math.log(math.exp(s) + V - 1)
    losses = total + (count - 1) * (total - s)
    assert len(task) == 1
    assert result.value == pytest.approx(math.exp(losses / count), rel=1e-5)
    wrong_way = successor_model(
        "QDQBertLMHeadModel", {after: word for word, after in CYCLE.items()}, sharpness=0.5, **DECODER
    )
    assert task.evaluate(wrong_way).value == pytest.approx(math.exp(total), rel=1e-5)


@pytest.mark.parametrize("max_length", [4, 5, 24])
@pytest.mark.parametrize("stride", [1, 3, 4, None])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 23, 24, 25, 47, 48, 49, 101])
def test_every_wordpiece_counts_once(write, words, max_length, stride, count):
    generator = np.random.default_rng(count)
    text = [("red", "green", "blue", "good")[i] for i in generator.integers(0, 4, count)]
    task = causal(write, words, " ".join(text), max_length=max_length, stride=stride)

    counted = []
    for index in range(len(task)):
        (window,) = task._features(index)
        assert len(window.text) == len(window.targets) <= max_length
        assert window.text.input_ids[0] == ID["[CLS]"]
        assert window.text.input_ids[1:].tolist() == window.targets[:-1].tolist()
        assert window.first < len(window.targets)
        counted += window.targets[window.first :].tolist()

    assert counted == [ID[word] for word in text]


def test_overlapping_windows_see_more(write, words):
    # Of windows of 4 with a stride of 2, the first of a window is never counted but in the first window.
    task = causal(write, words, " ".join(["red", "green", "blue"] * 8), max_length=4, stride=2)
    apart = causal(write, words, " ".join(["red", "green", "blue"] * 8), max_length=4)
    model = successor_model("QDQBertLMHeadModel", CYCLE, sharpness=0.5, **DECODER)

    s = SCALE
    total = math.log(math.exp(s) + V - 1)
    assert task.evaluate(model)["loss"].value == pytest.approx(total - s * 23 / 24, rel=1e-5)
    assert apart.evaluate(model)["loss"].value == pytest.approx(total - s * 18 / 24, rel=1e-5)


def test_selected_windows_are_those_of_the_whole(write, words):
    task = causal(write, words, " ".join(["red", "green", "good"] * 11), max_length=5)
    model = successor_model("QDQBertLMHeadModel", CYCLE, **DECODER)
    whole = task.evaluate(model).predictions

    part = task.select([5, 2]).select([1, 0, 1])

    assert np.array_equal(part.evaluate(model).predictions, whole[[2, 5, 2]])
    assert part.text_of(1) == task.text_of(5)


def test_models_that_see_the_future_are_refused(write, words):
    path = write("a.txt", "red")

    with pytest.raises(ValueError, match=r"config\.is_decoder: expected true, found false: .*masked-lm"):
        CausalLM.read(path, words, config())
    with pytest.raises(ValueError, match=r"stride: expected 1 \.\. 24 \(max_length\), found 25"):
        CausalLM.read(path, words, config(**DECODER), stride=25)
    with pytest.raises(ValueError, match=r"logits: expected shape \(1, 1, 16\)"):
        CausalLM.read(path, words, config(**DECODER)).evaluate(
            lambda **inputs: SimpleNamespace(logits=np.zeros((1, 1, V - 1), np.float32))
        )


# ---- masked ------------------------------------------------------------------------------------


def masked(write, words, text, **options):
    return MaskedLM.read(write("a.txt", text), words, config(), **options)


def long_text(count, seed=0):
    generator = np.random.default_rng(seed)
    return " ".join(("red", "green", "blue", "good", "redish")[i] for i in generator.integers(0, 5, count))


def test_accuracy_is_the_share_of_what_the_model_expects(write, words):
    task = masked(write, words, long_text(400), mask_probability=0.3)
    model = successor_model("QDQBertForMaskedLM", {"[MASK]": "red"})

    result = task.evaluate(model)

    # The model reads what stands there, and "red" for [MASK].
    right = total = 0
    loss = 0.0
    s, rest = 2 * SCALE, math.log(math.exp(2 * SCALE) + V - 1)
    for index in range(len(task)):
        (window,) = task._features(index)
        seen = window.text.input_ids[window.positions]
        hit = np.where(seen == ID["[MASK]"], ID["red"], seen) == window.targets
        right, total = right + int(hit.sum()), total + len(hit)
        loss += rest * len(hit) - s * int(hit.sum())
    assert 0 < right < total
    assert result.metrics["correct"] == right
    assert result.metrics["total"] == total
    assert result.value == pytest.approx(100 * right / total)
    assert result["loss"].value == pytest.approx(loss / total, rel=1e-5)
    assert result.figures[0].higher_is_better
    assert not result["loss"].higher_is_better


def test_eight_ninths_of_the_changed_are_masks(write, words):
    # 80 % [MASK], 10 % any wordpiece (here 1 in V is the same by chance), 10 % kept: four binomial standard
    # errors of about 3,000 draws.
    task = masked(write, words, long_text(2600), mask_probability=1.0)

    seen, targets = [], []
    for index in range(len(task)):
        (window,) = task._features(index)
        seen += window.text.input_ids[window.positions].tolist()
        targets += window.targets.tolist()

    masks = np.array(seen) == ID["[MASK]"]
    kept = (np.array(seen) == np.array(targets)) & ~masks
    count = len(seen)
    assert masks.mean() == pytest.approx(0.8 + 0.1 / V, abs=4 * math.sqrt(0.16 / count))
    assert kept.mean() == pytest.approx(0.1 + 0.1 / V, abs=4 * math.sqrt(0.09 / count))


def test_only_the_chosen_wordpieces_are_touched(write, words):
    task = masked(write, words, long_text(100))
    corpus = read_corpus([write("a.txt", long_text(100))], words).pieces

    for index in range(len(task)):
        (window,) = task._features(index)
        ids = window.text.input_ids.copy()
        ids[window.positions] = window.targets
        assert ids[0] == ID["[CLS]"]
        assert ids[-1] == ID["[SEP]"]
        assert ids[1:-1].tolist() == corpus[index * 22 : (index + 1) * 22].tolist()


def test_what_is_hidden_depends_on_the_seed_and_the_window_alone(write, words):
    first, again, other = (masked(write, words, long_text(200), task_seed=seed) for seed in (0, 0, 1))

    def ids(task, index):
        return task._features(index)[0].text.input_ids.tolist()

    assert [ids(first, i) for i in range(len(first))] == [ids(again, i) for i in range(len(again))]
    assert [ids(first, i) for i in range(len(first))] != [ids(other, i) for i in range(len(other))]
    part = first.select([7, 3]).select([1])
    assert ids(part, 0) == ids(first, 3)
    assert first.text_of(3) == part.text_of(0)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 22, 100])
@pytest.mark.parametrize("share", [0.01, 0.15, 0.5, 1.0])
def test_wordpieces_alone_are_chosen_to_the_number(count, share):
    chosen = choose_pieces(np.zeros(count, np.bool_), share, np.random.default_rng(count))

    assert len(chosen) == max(1, round(share * count))
    assert np.array_equal(chosen, np.unique(chosen))
    assert chosen.min() >= 0
    assert chosen.max() < count


@pytest.mark.parametrize("seed", range(20))
def test_whole_words_are_chosen_whole(seed):
    generator = np.random.default_rng(seed)
    inside = generator.random(61) < 0.5  # a window may begin inside a word
    word = np.cumsum(~inside | (np.arange(61) == 0))

    chosen = choose_pieces(inside, 0.15, generator)

    for number in np.unique(word[chosen]):
        assert set(np.flatnonzero(word == number)) <= set(chosen.tolist())
    assert 1 <= len(chosen) <= max(round(0.15 * 61), np.bincount(word).max())


def test_a_window_of_one_long_word_is_hidden_whole():
    assert choose_pieces(np.array([False, True, True]), 0.15, np.random.default_rng(0)).tolist() == [0, 1, 2]


def test_whole_words_reach_the_windows(write, words):
    task = masked(write, words, "redish " * 60, whole_words=True)

    for index in range(len(task)):
        (window,) = task._features(index)
        assert sorted(window.targets.tolist()) == sorted(
            [ID["red"], ID["##ish"]] * (len(window.targets) // 2)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_probability": 0.0}, r"mask_probability: expected \(0, 1\], found 0\.0"),
        ({"mask_probability": math.nan}, "mask_probability: expected"),
        ({"task_seed": -1}, "task_seed: expected at least 0"),
        ({"max_length": 3}, r"max_length: expected 4 \.\. 24"),
    ],
)
def test_options_out_of_range_are_refused(write, words, options, message):
    with pytest.raises(ValueError, match=message):
        masked(write, words, "red", **options)


def test_vocabulary_without_mask_is_refused(write, tmp_path):
    from qdqbert import CheckpointError
    from qdqbert.tokenization import load_tokenizer

    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\n")

    with pytest.raises(CheckpointError, match=r"no \[MASK\]"):
        masked(write, load_tokenizer(tmp_path), "red")

# SPDX-License-Identifier: Apache-2.0
"""Beam search against exhaustive search, and its bookkeeping."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from qdqbert.generation.beam_search import BeamHypotheses, BeamSearch

END = 0
VOCABULARY = 4


def log_probabilities(rng: np.random.Generator) -> dict[tuple[int, ...], np.ndarray]:
    """A language of three tokens: what may follow each sequence, the end token included."""
    table = {}
    for length in range(4):
        for sequence in itertools.product(range(1, VOCABULARY), repeat=length):
            scores = rng.standard_normal(VOCABULARY) * 2
            table[sequence] = scores - np.log(np.exp(scores).sum())
    return table


def search(
    table: dict[tuple[int, ...], np.ndarray], beams: int, count: int, longest: int, **options: Any
) -> tuple[list[list[int]], np.ndarray]:
    """Run beam search over the table, as the loop of `generate` does."""
    settings = {"length_penalty": 1.0, "early_stopping": "never", **options}
    state = BeamSearch(
        1,
        beams,
        prompt_length=1,
        max_length=1 + longest,
        eos_token_ids=[END],
        pad_token_id=9,
        **settings,
    )
    ids = np.full((beams, 1), 7)
    totals = np.array([0.0] + [-1e9] * (beams - 1))
    while not state.is_done and ids.shape[1] < 1 + longest:
        rows = np.array([table.get(tuple(row[1:]), np.full(VOCABULARY, -1e3)) for row in ids])
        candidates = (rows + totals[:, None]).reshape(1, -1)
        best = np.argsort(-candidates, axis=1, kind="stable")[:, : 2 * beams]
        values = np.take_along_axis(candidates, best, axis=1)
        totals, tokens, origins = state.advance(ids, values, best % VOCABULARY, best // VOCABULARY)
        ids = np.concatenate([ids[origins], tokens[:, None]], axis=1)
    sequences, scores, _ = state.finish(ids, totals, count)
    return [[int(t) for t in row[1:] if t != 9] for row in sequences], scores


def every_sequence(
    table: dict[tuple[int, ...], np.ndarray], longest: int, penalty: float
) -> list[tuple[float, list[int]]]:
    """All sequences and their scores, best first: ended ones, and those of full length."""
    found = []
    for length in range(longest + 1):
        for sequence in itertools.product(range(1, VOCABULARY), repeat=length):
            total = sum(table[sequence[:i]][token] for i, token in enumerate(sequence))
            if length == longest:
                found.append((total / length**penalty, list(sequence)))
            else:
                ended = total + table[sequence][END]
                found.append((ended / (length + 1) ** penalty, [*sequence, END]))
    return sorted(found, key=lambda pair: -pair[0])


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("seed", range(5))
def test_enough_beams_find_what_exhaustive_search_finds(seed: int, penalty: float) -> None:
    table = log_probabilities(np.random.default_rng(seed))
    longest = 3
    beams = 27  # as many as there are sequences of full length, so nothing is ever dropped
    found, scores = search(table, beams, 3, longest, length_penalty=penalty)
    expected = every_sequence(table, longest, penalty)[:3]
    assert found == [sequence for _, sequence in expected]
    np.testing.assert_allclose(scores, [score for score, _ in expected], rtol=1e-6)


def test_a_hypothesis_is_worth_its_probability_over_its_length() -> None:
    kept = BeamHypotheses(2, 2.0, False, 10)
    kept.add(np.arange(3), np.arange(3), -8.0, 2)
    assert kept.kept[0].score == -2.0
    assert kept.worst_score == -2.0
    kept.add(np.arange(4), np.arange(4), -9.0, 3)
    kept.add(np.arange(5), np.arange(5), -8.0, 4)  # the worst of three goes
    assert sorted(h.score for h in kept.kept) == [-1.0, -0.5]
    kept.add(np.arange(2), np.arange(2), -8.0, 1)
    assert len(kept.kept) == 2
    assert [h.score for h in kept.best(2)] == [-0.5, -1.0]


@pytest.mark.parametrize(
    ("early_stopping", "penalty", "best", "is_done"),
    [
        (True, 1.0, -0.1, True),  # enough have ended
        (False, 1.0, -1.0, False),  # -1 / 2 beats the worst, -1
        (False, 1.0, -2.5, True),  # -2.5 / 2 does not
        ("never", 1.0, -2.5, False),  # but -2.5 / 10 would
        ("never", 1.0, -11.0, True),
        ("never", -1.0, -0.4, False),  # a negative penalty favours short ones: -0.4 * 2 beats -1
        ("never", -1.0, -0.6, True),
    ],
)
def test_when_a_text_is_done(early_stopping: bool | str, penalty: float, best: float, is_done: bool) -> None:
    kept = BeamHypotheses(2, penalty, early_stopping, 10)
    assert not kept.is_done(best, 2)
    for score in (-0.5, -1.0):
        kept.add(np.arange(3), np.arange(3), score, 1)
    assert kept.is_done(best, 2) is is_done


def test_ends_outside_the_best_beams_are_not_kept() -> None:
    state = BeamSearch(
        1, 2, prompt_length=1, max_length=9, length_penalty=1.0, early_stopping=False, eos_token_ids=[END],
        pad_token_id=9,
    )  # fmt: skip
    ids = np.array([[7], [7]])
    state.advance(ids, np.array([[-1.0, -2, -3, -4]]), np.array([[1, 2, END, 3]]), np.zeros((1, 4), int))
    assert state.texts[0].kept == []
    scores, tokens, rows = state.advance(
        np.array([[7, 1], [7, 2]]),
        np.array([[-1.0, -2, -3, -4]]),
        np.array([[END, 1, 2, 3]]),
        np.array([[1, 0, 1, 0]]),
    )
    assert state.texts[0].kept[0].tokens.tolist() == [7, 2]
    assert state.texts[0].kept[0].beams.tolist() == [0, 1]
    assert (scores.tolist(), tokens.tolist(), rows.tolist()) == ([-2.0, -3.0], [1, 2], [0, 1])


def test_texts_that_are_done_go_on_with_padding() -> None:
    state = BeamSearch(
        2, 2, prompt_length=1, max_length=9, length_penalty=1.0, early_stopping=True, eos_token_ids=[END, 5],
        pad_token_id=9,
    )  # fmt: skip
    ids = np.array([[7], [7], [8], [8]])
    tokens = np.array([[END, 5, 1, 2, 3, 4], [1, 2, 3, 4, 1, 2]])
    values = np.array([[-1.0, -2, -3, -4, -5, -6]] * 2)
    state.advance(ids, values, tokens, np.zeros((2, 6), int))
    assert state.done == [True, False]
    _, chosen, _ = state.advance(
        np.array([[7, 1], [7, 2], [8, 1], [8, 2]]), values, tokens, np.zeros((2, 6), int)
    )
    assert chosen.tolist() == [9, 9, 1, 2]
    sequences, _, indices = state.finish(
        np.array([[0] * 3, [0] * 3, [8, 1, 1], [8, 1, 2]]), np.array([0.0, 0, -3, -4]), 1
    )
    # The first end token is written, then padding up to the longest.
    assert sequences.tolist() == [[7, END, 9, 9], [8, 1, 1, END]]
    assert indices.tolist() == [[0, -1, -1, -1], [2, 2, -1, -1]]

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from qdqbert.generation.sampling import draw, draw_distinct, streams_of

PROBABILITIES = np.array([0.5, 0.25, 0.125, 0.125, 0.0])
with np.errstate(divide="ignore"):
    SCORES = np.log(PROBABILITIES)
DRAWS = 20_000


def test_tokens_come_as_often_as_their_probability_says() -> None:
    tokens = draw(np.tile(SCORES, (DRAWS, 1)), streams_of(0, DRAWS))
    shares = np.bincount(tokens, minlength=5) / DRAWS
    # Five standard deviations of a share of DRAWS draws; a correct sampler fails once in a million seeds.
    assert (np.abs(shares - PROBABILITIES) <= 5 * np.sqrt(PROBABILITIES / DRAWS)).all()
    assert shares[4] == 0


def test_distinct_tokens_come_in_the_order_of_draws_without_return() -> None:
    pairs = draw_distinct(np.tile(SCORES, (DRAWS, 1)), 2, streams_of(1, DRAWS))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    for first in range(4):
        for second in range(4):
            share = float(((pairs[:, 0] == first) & (pairs[:, 1] == second)).mean())
            left = PROBABILITIES[second] / (1 - PROBABILITIES[first])
            expected = 0 if first == second else PROBABILITIES[first] * left
            assert abs(share - expected) <= 5 * np.sqrt(max(expected, 1e-9) / DRAWS), (first, second)


def test_a_row_draws_the_same_in_any_batch() -> None:
    scores = np.random.default_rng(0).standard_normal((6, 50))
    together = draw(scores, streams_of(3, 6))
    np.testing.assert_array_equal(draw(scores[:2], streams_of(3, 2)), together[:2])


def test_streams_may_be_given_one_for_each_row() -> None:
    scores = np.random.default_rng(0).standard_normal((6, 50))
    chosen = [streams_of(3, 6)[i] for i in (4, 0, 4)]
    found = draw(scores[[4, 0, 4]], streams_of(chosen, 3))
    np.testing.assert_array_equal(found, draw(scores, streams_of(3, 6))[[4, 0, 4]])
    with pytest.raises(ValueError, match="seed: expected one generator for each of 2 rows, got 3"):
        streams_of(chosen, 2)
    with pytest.raises(TypeError, match="seed: expected an integer, got list"):
        streams_of([1, 2], 2)  # type: ignore[list-item]


def test_seeds_repeat_and_generators_go_on() -> None:
    scores = np.zeros((4, 1000))
    np.testing.assert_array_equal(draw(scores, streams_of(5, 4)), draw(scores, streams_of(np.int64(5), 4)))
    assert not np.array_equal(draw(scores, streams_of(5, 4)), draw(scores, streams_of(6, 4)))
    assert not np.array_equal(draw(scores, streams_of(None, 4)), draw(scores, streams_of(None, 4)))
    generator = np.random.default_rng(5)
    first, second = streams_of(generator, 4), streams_of(generator, 4)
    assert not np.array_equal(draw(scores, first), draw(scores, second))


@pytest.mark.parametrize("seed", ["1", 1.0, True])
def test_what_is_no_seed_is_refused(seed: object) -> None:
    with pytest.raises(TypeError, match="seed: expected an integer"):
        streams_of(seed, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed: expected at least 0, got -1"):
        streams_of(-1, 1)


def test_rows_without_a_choice_are_refused() -> None:
    scores = np.array([[0.0, -np.inf], [-np.inf, -np.inf]])
    with pytest.raises(ValueError, match="row 1: 0 tokens may follow and 1 are needed"):
        draw(scores, streams_of(0, 2))
    with pytest.raises(ValueError, match="row 0: 1 tokens may follow and 2 are needed"):
        draw_distinct(scores, 2, streams_of(0, 2))


def test_a_draw_next_to_one_still_finds_a_token() -> None:
    class AlmostOne:
        def random(self) -> float:
            return float(np.nextafter(1.0, 0.0))

    scores = np.array([[0.0, 0.0, -np.inf, -np.inf]])
    assert draw(scores, [AlmostOne()])[0] == 1  # type: ignore[list-item]

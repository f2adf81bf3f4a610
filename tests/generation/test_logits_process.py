# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from qdqbert.generation import GenerationConfig
from qdqbert.generation.logits_process import (
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    log_softmax,
    processors_of,
    softmax,
    warpers_of,
)

INF = np.inf


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int64)


def test_softmax_survives_large_scores_and_ruled_out_tokens() -> None:
    scores = np.array([[1000.0, 999.0, -INF], [-1e4, -1e4, -1e4]])
    expected = np.array([[1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0], [1 / 3] * 3])
    np.testing.assert_allclose(softmax(scores), expected, rtol=1e-15)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(log_softmax(scores), np.log(expected), rtol=1e-15)


def test_repetition_makes_positive_scores_smaller_and_negative_ones_more_negative() -> None:
    scores = np.array([[2.0, -2.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    result = RepetitionPenaltyLogitsProcessor(2.0)(ids([0, 1, 0], [2, 2, 3]), scores)
    # A token that is there twice is penalized once.
    assert result.tolist() == [[1.0, -4.0, 3.0, 0.0], [1.0, 1.0, 0.5, 0.5]]


def test_repetition_leaves_its_arguments_alone() -> None:
    scores = np.ones((1, 3))
    RepetitionPenaltyLogitsProcessor(3.0)(ids([1]), scores)
    assert (scores == 1).all()


@pytest.mark.parametrize(
    ("size", "sequence", "banned"),
    [
        (1, [3, 1, 3], {1, 3}),
        (2, [1, 2, 4, 1], {2}),
        (2, [1, 2, 1, 3, 1], {2, 3}),
        (3, [1, 2, 3, 0, 1, 2], {3}),
        (3, [1, 2], set()),  # too short for any run
        (3, [1, 2, 3], set()),  # the run itself does not end where it begins
        (2, [4, 4], {4}),
    ],
)
def test_runs_are_not_completed_twice(size: int, sequence: list[int], banned: set[int]) -> None:
    result = NoRepeatNGramLogitsProcessor(size)(ids(sequence), np.zeros((1, 5)))
    assert set(np.flatnonzero(np.isneginf(result[0]))) == banned


def test_rows_are_looked_at_one_by_one() -> None:
    result = NoRepeatNGramLogitsProcessor(2)(ids([1, 2, 1], [1, 3, 1]), np.zeros((2, 4)))
    assert np.isneginf(result).tolist() == [[False, False, True, False], [False, False, False, True]]


def test_no_end_before_the_shortest_length() -> None:
    processor, scores = MinLengthLogitsProcessor(3, [1, 2]), np.zeros((1, 4))
    assert processor(ids([0, 0]), scores).tolist() == [[0, -INF, -INF, 0]]
    assert processor(ids([0, 0, 0]), scores).tolist() == [[0, 0, 0, 0]]


def test_temperature_divides() -> None:
    assert TemperatureLogitsWarper(0.5)(ids([0]), np.array([[1.0, -2.0]])).tolist() == [[2.0, -4.0]]


def test_top_k_keeps_equal_scores_together() -> None:
    scores = np.array([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert TopKLogitsWarper(2)(ids([0]), scores).tolist() == [[-INF, 3.0, 2.0, 2.0, -INF]]
    assert TopKLogitsWarper(1, min_tokens_to_keep=2)(ids([0]), scores)[0, 2] == 2.0
    np.testing.assert_array_equal(TopKLogitsWarper(99)(ids([0]), scores), scores)


def test_top_p_keeps_the_fewest_tokens_with_the_share() -> None:
    probabilities = np.array([[0.1, 0.5, 0.15, 0.25]])
    scores = np.log(probabilities)
    for share, kept in ((0.4, [1]), (0.6, [1, 3]), (0.8, [1, 2, 3]), (0.95, [0, 1, 2, 3]), (0.0, [1])):
        result = TopPLogitsWarper(share)(ids([0]), scores)
        assert np.flatnonzero(np.isfinite(result[0])).tolist() == kept, share
    assert np.isfinite(TopPLogitsWarper(0.1, min_tokens_to_keep=2)(ids([0]), scores)).sum() == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: RepetitionPenaltyLogitsProcessor(0.0),
        lambda: RepetitionPenaltyLogitsProcessor(float("nan")),
        lambda: NoRepeatNGramLogitsProcessor(0),
        lambda: TemperatureLogitsWarper(0.0),
        lambda: TopKLogitsWarper(0),
        lambda: TopPLogitsWarper(1.5),
    ],
)
def test_values_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]


def kinds(processors: object) -> list[str]:
    return [type(each).__name__ for each in processors]  # type: ignore[attr-defined]


def test_only_what_is_asked_for_is_applied_in_the_originals_order() -> None:
    assert processors_of(GenerationConfig(eos_token_id=2), 3) == []
    config = GenerationConfig(
        repetition_penalty=1.2, no_repeat_ngram_size=2, min_new_tokens=4, min_length=5, eos_token_id=2
    )
    assert kinds(processors_of(config, 3)) == [
        "RepetitionPenaltyLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "MinLengthLogitsProcessor",
    ]
    assert processors_of(config, 3)[-1].min_length == 7  # type: ignore[attr-defined]
    assert "MinLengthLogitsProcessor" not in kinds(processors_of(GenerationConfig(min_length=5), 3))
    config = GenerationConfig(temperature=0.5, top_k=5, top_p=0.5, do_sample=True)
    assert kinds(warpers_of(config)) == ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"]
    assert kinds(warpers_of(GenerationConfig(top_k=0))) == []


def test_a_beam_keeps_a_token_more_than_those_that_end_it() -> None:
    for ends, kept in ((None, 2), (7, 2), ([7, 8, 9], 4)):
        warper = warpers_of(GenerationConfig(top_k=1, num_beams=3, eos_token_id=ends))[0]
        assert warper.top_k == kept  # type: ignore[attr-defined]

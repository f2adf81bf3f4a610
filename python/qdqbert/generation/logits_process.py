# SPDX-License-Identifier: Apache-2.0
"""What is done to the scores of the next token before one is chosen.

A processor is called with the sequences so far and the scores of every token that may follow; it returns
scores of the same shape, minus infinity for what is ruled out, and leaves its arguments alone.  Names, order
and arithmetic are those of transformers 4.39.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.generation.configuration import GenerationConfig

__all__ = [
    "LogitsProcessor",
    "MinLengthLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "log_softmax",
    "processors_of",
    "softmax",
    "warpers_of",
]

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[Any]
LogitsProcessor = Callable[[Ids, Scores], Scores]


def log_softmax(scores: Scores) -> Scores:
    """Return the logarithm of `softmax` over the last axis.

    Parameters
    ----------
    scores : ndarray, shape (..., vocabulary), floating point
    """
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def softmax(scores: Scores) -> Scores:
    """Return probabilities over the last axis.

    Parameters
    ----------
    scores : ndarray, shape (..., vocabulary), floating point
    """
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


class RepetitionPenaltyLogitsProcessor:
    """Make tokens that are there already less likely.

    Parameters
    ----------
    penalty : float
        Above 0.  Positive scores are divided by it, negative ones multiplied; above 1 discourages.

    References
    ----------
    Keskar et al., 2019, "CTRL: A Conditional Transformer Language Model", section 4.1.
    """

    def __init__(self, penalty: float) -> None:
        if not penalty > 0:
            raise ValueError(f"penalty: expected a number above 0, got {penalty!r}")
        self.penalty = penalty

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Return the changed scores; see the module's text."""
        found = np.take_along_axis(scores, input_ids, axis=1)
        result = scores.copy()
        np.put_along_axis(
            result, input_ids, np.where(found < 0, found * self.penalty, found / self.penalty), axis=1
        )
        return result


class NoRepeatNGramLogitsProcessor:
    """Rule out tokens that would complete a run of tokens which the sequence has already.

    Parameters
    ----------
    ngram_size : int
        Length of the runs, at least 1.
    """

    def __init__(self, ngram_size: int) -> None:
        if ngram_size < 1:
            raise ValueError(f"ngram_size: expected at least 1, got {ngram_size!r}")
        self.ngram_size = ngram_size

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Return the changed scores; see the module's text."""
        size, length = self.ngram_size, input_ids.shape[1]
        if length < size:
            return scores
        result = scores.copy()
        # (rows, runs, size); what is compared are all but their last tokens.
        runs = np.lib.stride_tricks.sliding_window_view(input_ids, size, axis=1)
        ending = input_ids[:, length - size + 1 :]
        repeated = (runs[:, :, :-1] == ending[:, None, :]).all(axis=-1)
        rows, places = np.nonzero(repeated)
        result[rows, runs[rows, places, -1]] = -np.inf
        return result


class MinLengthLogitsProcessor:
    """Rule out the end of a sequence until it is long enough.

    Parameters
    ----------
    min_length : int
        Tokens, the prompt's included.
    eos_token_ids : sequence of int
    """

    def __init__(self, min_length: int, eos_token_ids: Sequence[int]) -> None:
        self.min_length = min_length
        self.eos_token_ids: list[int] = list(eos_token_ids)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Return the changed scores; see the module's text."""
        if input_ids.shape[1] >= self.min_length:
            return scores
        result = scores.copy()
        result[:, self.eos_token_ids] = -np.inf
        return result


class TemperatureLogitsWarper:
    """Divide scores, so that choices are bolder or more timid.

    Parameters
    ----------
    temperature : float
        Above 0; below 1 sharpens.
    """

    def __init__(self, temperature: float) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature!r}")
        self.temperature = temperature

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Return the changed scores; see the module's text."""
        return np.asarray(scores / self.temperature)


class TopKLogitsWarper:
    """Keep the tokens with the highest scores; equal scores stay together.

    Parameters
    ----------
    top_k : int
        At least 1.
    min_tokens_to_keep : int
    """

    def __init__(self, top_k: int, min_tokens_to_keep: int = 1) -> None:
        if top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {top_k!r}")
        self.top_k: int = max(top_k, min_tokens_to_keep)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Return the changed scores; see the module's text."""
        kept = min(self.top_k, scores.shape[1])
        lowest = np.partition(scores, -kept, axis=1)[:, -kept, None]
        return np.where(scores < lowest, -np.inf, scores)


class TopPLogitsWarper:
    """Keep the fewest tokens that have a share of the probability together.

    Parameters
    ----------
    top_p : float
        The share, in [0, 1].
    min_tokens_to_keep : int

    References
    ----------
    Holtzman et al., 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """

    def __init__(self, top_p: float, min_tokens_to_keep: int = 1) -> None:
        if not 0 <= top_p <= 1:
            raise ValueError(f"top_p: expected a number in [0, 1], got {top_p!r}")
        self.top_p = top_p
        self.min_tokens_to_keep = min_tokens_to_keep

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Return the changed scores; see the module's text."""
        order = np.argsort(scores, axis=1, kind="stable")
        ascending = np.take_along_axis(scores, order, axis=1)
        removed = softmax(ascending).cumsum(axis=1) <= 1 - self.top_p
        removed[:, -self.min_tokens_to_keep :] = False
        result = scores.copy()
        np.put_along_axis(result, order, np.where(removed, -np.inf, ascending), axis=1)
        return result


def processors_of(config: GenerationConfig, prompt_length: int) -> list[LogitsProcessor]:
    """Return the processors that `config` asks for, in the order in which they are applied.

    Parameters
    ----------
    config : GenerationConfig
        Validated.
    prompt_length : int
        Tokens before the first that is generated.
    """
    processors: list[LogitsProcessor] = []
    if config.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size > 0:
        processors.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    shortest = max(config.min_length, prompt_length + (config.min_new_tokens or 0))
    if config.eos_token_ids and shortest > prompt_length:
        processors.append(MinLengthLogitsProcessor(shortest, config.eos_token_ids))
    return processors


def warpers_of(config: GenerationConfig) -> list[LogitsProcessor]:
    """Return what sampling does to scores on top of `processors_of`, in order.

    Parameters
    ----------
    config : GenerationConfig
        Validated.
    """
    # A beam must be able to go on: one token more than those that end it.
    kept = 1
    if config.num_beams > 1:
        kept = len(config.eos_token_ids) + 1 if isinstance(config.eos_token_id, list) else 2
    warpers: list[LogitsProcessor] = []
    if config.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k > 0:
        warpers.append(TopKLogitsWarper(config.top_k, kept))
    if config.top_p < 1.0:
        warpers.append(TopPLogitsWarper(config.top_p, kept))
    return warpers

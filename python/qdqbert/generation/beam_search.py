# SPDX-License-Identifier: Apache-2.0
"""The bookkeeping of beam search: which beams go on, which have ended, and when a text is done.

The rules are those of transformers 4.39: candidates that end a sequence count only among the best
`num_beams`; a finished hypothesis is worth its summed log-probability over its generated length to the power
of `length_penalty`; `early_stopping` says when the best open beam may still matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BeamHypotheses", "BeamSearch", "Hypothesis"]

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[Any]


class Hypothesis(NamedTuple):
    """A sequence that has ended.

    Attributes
    ----------
    score : float
        After the length penalty.
    tokens : ndarray, shape (length,), int64
        Prompt included, end token excluded.
    beams : ndarray, shape (steps,), int64
        Row of the batch of beams that each generated token came from.
    """

    score: float
    tokens: Ids
    beams: Ids


class BeamHypotheses:
    """The best sequences of one text that have ended.

    Parameters
    ----------
    num_beams : int
        How many are kept.
    length_penalty : float
        Exponent of the length; positive values favour long sequences, as log-probabilities are negative.
    early_stopping : {True, False, "never"}
        True: done as soon as `num_beams` have ended.  False: done when the best open beam, at its present
        length, could not replace the worst of them.  ``"never"``: when it could not at any length.
    longest : int
        Most tokens that can be generated.
    """

    def __init__(
        self, num_beams: int, length_penalty: float, early_stopping: bool | str, longest: int
    ) -> None:
        self.num_beams = num_beams
        self.length_penalty = length_penalty
        self.early_stopping = early_stopping
        self.longest = longest
        self.kept: list[Hypothesis] = []

    @property
    def worst_score(self) -> float:
        """Lowest score that is kept; infinity while there is none."""
        return min((hypothesis.score for hypothesis in self.kept), default=float("inf"))

    def add(self, tokens: Ids, beams: Ids, log_probability: float, length: int) -> None:
        """Keep a sequence if it is among the best.

        Parameters
        ----------
        tokens, beams : ndarray
            See `Hypothesis`.
        log_probability : float
            Sum over the generated tokens.
        length : int
            Generated tokens, at least 1.
        """
        score = log_probability / float(length) ** self.length_penalty
        if len(self.kept) < self.num_beams or score > self.worst_score:
            self.kept.append(Hypothesis(score, tokens, beams))
            if len(self.kept) > self.num_beams:
                worst = min(range(len(self.kept)), key=lambda index: self.kept[index].score)
                del self.kept[worst]

    def is_done(self, best_log_probability: float, length: int) -> bool:
        """Whether no open beam can change the result.

        Parameters
        ----------
        best_log_probability : float
            Of the best candidate.
        length : int
            Tokens generated so far.
        """
        if len(self.kept) < self.num_beams:
            return False
        if self.early_stopping is True:
            return True
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = self.longest
        return bool(self.worst_score >= best_log_probability / float(length) ** self.length_penalty)

    def best(self, count: int) -> list[Hypothesis]:
        """Return the `count` best, best first; of equal ones, the latest first.

        Parameters
        ----------
        count : int
            Of at least 0.
        """
        ranked = sorted(self.kept, key=lambda hypothesis: hypothesis.score)
        return ranked[::-1][:count]


class BeamSearch:
    """Beams of a batch of texts; rows ``i * num_beams`` to ``(i + 1) * num_beams - 1`` belong to text i.

    Parameters
    ----------
    batch : int
        Texts.
    num_beams : int
    prompt_length, max_length : int
        Tokens before the first that is generated, and most tokens of a sequence.
    length_penalty, early_stopping
        See `BeamHypotheses`.
    eos_token_ids : sequence of int
        Tokens that end a sequence; the first one is written at its end.
    pad_token_id : int or None
        What texts that are done go on with, and what short sequences are filled with.
    """

    def __init__(
        self,
        batch: int,
        num_beams: int,
        *,
        prompt_length: int,
        max_length: int,
        length_penalty: float,
        early_stopping: bool | str,
        eos_token_ids: Sequence[int],
        pad_token_id: int | None,
    ) -> None:
        self.num_beams = num_beams
        self.prompt_length = prompt_length
        self.max_length = max_length
        self.eos_token_ids: list[int] = list(eos_token_ids)
        self.pad_token_id = pad_token_id
        longest = max_length - prompt_length
        self.texts: list[BeamHypotheses] = [
            BeamHypotheses(num_beams, length_penalty, early_stopping, longest) for _ in range(batch)
        ]
        self.done: list[bool] = [False] * batch
        # (rows, steps so far): the row that each token of each beam came from.
        self.history: Ids = np.zeros((batch * num_beams, 0), np.int64)

    def advance(self, ids: Ids, candidates: Scores, tokens: Ids, beams: Ids) -> tuple[Scores, Ids, Ids]:
        """Choose the beams of the next step among candidates.

        Parameters
        ----------
        ids : ndarray, shape (batch * num_beams, length), int64
            Sequences so far.
        candidates : ndarray, shape (batch, count)
            Summed log-probabilities, best first; at least `num_beams` of them must not end the sequence.
        tokens, beams : ndarray, shape (batch, count), int64
            The token of each candidate, and the beam of its text that it continues.

        Returns
        -------
        scores, tokens, rows : ndarray, shape (batch * num_beams,)
            Of the next step; `rows` are the rows of `ids` that go on.
        """
        batch = len(self.texts)
        scores = np.zeros((batch, self.num_beams))
        chosen = np.zeros((batch, self.num_beams), np.int64)
        rows = np.zeros((batch, self.num_beams), np.int64)
        length = ids.shape[1] + 1 - self.prompt_length
        for text in range(batch):
            if self.done[text]:
                assert self.pad_token_id is not None
                chosen[text] = self.pad_token_id
                continue
            found = 0
            for rank in range(candidates.shape[1]):
                row = text * self.num_beams + int(beams[text, rank])
                token, score = int(tokens[text, rank]), float(candidates[text, rank])
                if token in self.eos_token_ids:
                    if rank < self.num_beams:
                        path = np.append(self.history[row], row)
                        self.texts[text].add(ids[row].copy(), path, score, length)
                    continue
                scores[text, found], chosen[text, found], rows[text, found] = score, token, row
                found += 1
                if found == self.num_beams:
                    break
            assert found == self.num_beams, "too few candidates that go on"
            self.done[text] = self.texts[text].is_done(float(candidates[text].max()), length)
        flat = rows.reshape(-1)
        self.history = np.concatenate([self.history[flat], flat[:, None]], axis=1)
        return scores.reshape(-1), chosen.reshape(-1), flat

    @property
    def is_done(self) -> bool:
        """Whether every text is."""
        return all(self.done)

    def finish(self, ids: Ids, scores: Scores, count: int) -> tuple[Ids, Scores, Ids]:
        """Close the open beams and return the best sequences.

        Parameters
        ----------
        ids : ndarray, shape (batch * num_beams, length), int64
        scores : ndarray, shape (batch * num_beams,)
            Summed log-probabilities of the open beams.
        count : int
            Sequences of each text, at most `num_beams`.

        Returns
        -------
        sequences : ndarray, shape (batch * count, longest), int64
            With the end token where it fits, then padding.
        scores : ndarray, shape (batch * count,), float32
        beam_indices : ndarray, shape (batch * count, longest), int64
            Row that each generated token came from; -1 after the last.
        """
        length = ids.shape[1] - self.prompt_length
        for text, hypotheses in enumerate(self.texts):
            if self.done[text]:
                continue
            for row in range(text * self.num_beams, (text + 1) * self.num_beams):
                hypotheses.add(ids[row], self.history[row], float(scores[row]), length)
        best = [hypothesis for hypotheses in self.texts for hypothesis in hypotheses.best(count)]
        lengths = [len(hypothesis.tokens) for hypothesis in best]
        width = min(max(lengths) + 1, self.max_length)
        fill = -1 if self.pad_token_id is None else self.pad_token_id
        sequences = np.full((len(best), width), fill, np.int64)
        beam_indices = np.full((len(best), width), -1, np.int64)
        for row, hypothesis in enumerate(best):
            sequences[row, : lengths[row]] = hypothesis.tokens
            beam_indices[row, : len(hypothesis.beams)] = hypothesis.beams
            if lengths[row] < width:
                sequences[row, lengths[row]] = self.eos_token_ids[0]
        with np.errstate(over="ignore"):  # minus infinity after an extreme penalty, as in the original
            final = np.array([hypothesis.score for hypothesis in best], np.float32)
        return sequences, final, beam_indices

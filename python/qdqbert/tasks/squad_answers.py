# SPDX-License-Identifier: Apache-2.0
"""From start and end logits to answers: run_squad's n-best search and its way back to the original text.

For each question the best `n_best_size` starts and ends of every window are combined; a pair stands if both
lie in the paragraph, the start is at home in this window (max-context rule), and the length fits.  Pairs are
ranked by start + end, in float64 as the original's Python floats; equal sums keep the order of window, start
rank, end rank. The text of a pair is cut from the original words, because wordpieces have lost case and
accents: `original_text`.

Reference: the run_squad program of Devlin et al., 2019, and `compute_predictions_logits` of transformers
4.39, whose results (texts, order, probabilities) these are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.squad_features import SquadFeature, SquadOptions

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Answer", "AnswerFinder", "Candidate", "original_text"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry of the n-best list.

    Attributes
    ----------
    text : str
        Empty for "no answer".
    start_logit, end_logit : float
    probability : float
        Softmax over the list of start_logit + end_logit.
    """

    text: str
    start_logit: float
    end_logit: float
    probability: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered to one question.

    Attributes
    ----------
    text : str
        Empty for "no answer".
    n_best : tuple of Candidate
        Best first; a single one where the list was not asked for.
    null_odds : float or None
        Score of "no answer" minus the score of the best answer; None without `version_2_with_negative`.
    """

    text: str
    n_best: tuple[Candidate, ...]
    null_odds: float | None = None


class AnswerFinder:
    """Finds answers in the logits of a question's windows.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        The one that made the features: its normalizer says how words were changed on the way to wordpieces.
    options : SquadOptions
    keep_n_best : bool
        Whether the whole n-best list is wanted; the answer itself is the same and cheaper without.
    """

    def __init__(self, tokenizer: Tokenizer, options: SquadOptions, *, keep_n_best: bool = True) -> None:
        self._options = options
        self._keep_n_best = keep_n_best
        self._plain = _plain_text(tokenizer)

    def find(
        self,
        features: Sequence[SquadFeature],
        start_logits: Sequence[npt.NDArray[np.float32]],
        end_logits: Sequence[npt.NDArray[np.float32]],
    ) -> Answer:
        """Answer one question.

        Parameters
        ----------
        features : sequence of SquadFeature
            All windows of the question, in order.
        start_logits, end_logits : sequences of ndarray (T,) float
            One each for every window, of its length or longer (what lies behind is not looked at).

        Returns
        -------
        Answer

        Raises
        ------
        ValueError
            If the number of arrays or the length of one does not fit its window.
        """
        if not len(features) == len(start_logits) == len(end_logits):
            raise ValueError(
                f"start_logits, end_logits: expected {len(features)} arrays, one for each window, found "
                f"{len(start_logits)} and {len(end_logits)}"
            )
        spans = [
            _spans(feature, start, end, self._options)
            for feature, start, end in zip(features, start_logits, end_logits, strict=True)
        ]
        windows = np.concatenate([np.full(len(s[0]), i) for i, s in enumerate(spans)])
        starts, ends, start_scores, end_scores = (np.concatenate([s[k] for s in spans]) for k in range(4))
        order = np.argsort(-(start_scores + end_scores), kind="stable")
        null = _best_null(start_logits, end_logits) if self._options.version_2_with_negative else None

        entries: list[Candidate] = []
        seen: set[str] = set()
        null_is_listed = null is None
        for k in order:
            score = (float(start_scores[k]), float(end_scores[k]))
            # "No answer" takes part in the ranking, behind spans of an equal score.
            if (
                not null_is_listed
                and null is not None
                and sum(null) > sum(score)
                and not self._is_full(entries)
            ):
                entries.append(Candidate("", *null))
                null_is_listed = True
            if self._is_full(entries):
                break
            text = self._span_text(features[int(windows[k])], int(starts[k]), int(ends[k]))
            if text in seen:
                continue
            seen.add(text)
            entries.append(Candidate(text, *score))
        return self._decide(entries, null)

    def _is_full(self, entries: list[Candidate]) -> bool:
        if self._keep_n_best:
            return len(entries) >= self._options.n_best_size
        return any(entry.text for entry in entries) or (
            bool(entries) and not self._options.version_2_with_negative
        )

    def _decide(self, entries: list[Candidate], null: tuple[float, float] | None) -> Answer:
        """Complete the list as the original does, and choose."""
        if null is not None:
            if not any(entry.text == "" for entry in entries):
                entries.append(Candidate("", *null))
            if len(entries) == 1:
                entries.insert(0, Candidate("empty", 0.0, 0.0))
        if not entries:
            entries.append(Candidate("empty", 0.0, 0.0))
        n_best = _with_probabilities(entries)
        if null is None:
            return Answer(n_best[0].text, n_best)
        best = next((entry for entry in n_best if entry.text), None)
        if best is None:
            return Answer("", n_best, math.inf)
        odds = sum(null) - best.start_logit - best.end_logit
        return Answer("" if odds > self._options.null_score_diff_threshold else best.text, n_best, odds)

    def _span_text(self, feature: SquadFeature, start: int, end: int) -> str:
        """Original text of positions start .. end of a window."""
        document = feature.document
        first = feature.window_start + start - feature.offset
        last = feature.window_start + end - feature.offset
        pieces = " ".join(document.pieces[first : last + 1]).replace(" ##", "")
        words = document.words[document.word_of_piece[first] : document.word_of_piece[last] + 1]
        return original_text(pieces, " ".join(words), self._plain)


def original_text(answer: str, original: str, plain: Callable[[str], str]) -> str:
    """Cut from the original text what stands for an answer made of wordpieces.

    ``steve smith`` within ``Steve Smith's`` is ``Steve Smith``: the answer is searched in the normalised
    original, and its ends are carried over by counting characters that are not spaces.

    Parameters
    ----------
    answer : str
        Wordpieces joined to words, single spaces.  If its first wordpiece continues a word it keeps its
        ``##``, is then not found, and the whole words are the answer, as in the original.
    original : str
        The words that the wordpieces were made of.
    plain : callable
        Normalises `original` and splits off punctuation, as it was done before wordpieces were made.

    Returns
    -------
    str
        `original` whole where the answer cannot be found in it or normalisation changed the number of
        characters.

    Examples
    --------
    >>> original_text("steve smith", "Steve Smith's", lambda text: text.lower().replace("'", " ' "))
    'Steve Smith'
    """
    normalised = plain(original)
    start = normalised.find(answer)
    if start == -1 or not answer or answer[0] == " " or answer[-1] == " ":
        return original
    positions = [index for index, character in enumerate(original) if character != " "]
    if len(positions) != len(normalised) - normalised.count(" "):
        return original
    first = start - normalised.count(" ", 0, start)
    last = first + len(answer) - answer.count(" ") - 1
    return original[positions[first] : positions[last] + 1]


def _plain_text(tokenizer: Tokenizer) -> Callable[[str], str]:
    """Normalisation and splitting of a tokenizer, without its vocabulary."""
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer

    def plain(text: str) -> str:
        if normalizer is not None:
            text = normalizer.normalize_str(text)
        if splitter is None:
            return " ".join(text.split())
        return " ".join(word for word, _ in splitter.pre_tokenize_str(text))

    return plain


def _spans(
    feature: SquadFeature,
    start_logits: npt.NDArray[np.float32],
    end_logits: npt.NDArray[np.float32],
    options: SquadOptions,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Admissible (start, end) positions of a window in rank order, and their logits."""
    length = len(feature.input_ids)
    for name, logits in (("start_logits", start_logits), ("end_logits", end_logits)):
        if logits.ndim != 1 or len(logits) < length:
            raise ValueError(
                f"{name}: expected at least {length} values, one for each token, found shape {logits.shape}"
            )
    starts = _best(start_logits[:length], options.n_best_size)
    ends = _best(end_logits[:length], options.n_best_size)
    first, count = feature.offset, len(feature.is_max_context)
    may_start = (starts >= first) & (starts < first + count)
    may_start[may_start] = feature.is_max_context[starts[may_start] - first]
    may_end = (ends >= first) & (ends < first + count)
    distance = ends[None, :] - starts[:, None]
    fits = may_start[:, None] & may_end[None, :] & (distance >= 0) & (distance < options.max_answer_length)
    row, column = np.nonzero(fits)
    start, end = starts[row], ends[column]
    return start, end, start_logits[start].astype(np.float64), end_logits[end].astype(np.float64)


def _best(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Positions of the `count` largest values, best first, equal ones by position."""
    return np.argsort(-logits, kind="stable")[:count]


def _best_null(
    start_logits: Sequence[npt.NDArray[np.float32]], end_logits: Sequence[npt.NDArray[np.float32]]
) -> tuple[float, float]:
    """Logits of [CLS] in the window where their sum is smallest, the first such window."""
    pairs = [(float(start[0]), float(end[0])) for start, end in zip(start_logits, end_logits, strict=True)]
    return min(pairs, key=sum)


def _with_probabilities(entries: Sequence[Candidate]) -> tuple[Candidate, ...]:
    sums = [entry.start_logit + entry.end_logit for entry in entries]
    largest = max(sums)
    weights = [math.exp(value - largest) for value in sums]
    total = sum(weights)
    return tuple(
        Candidate(entry.text, entry.start_logit, entry.end_logit, weight / total)
        for entry, weight in zip(entries, weights, strict=True)
    )

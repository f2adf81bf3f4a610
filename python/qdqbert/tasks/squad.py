# SPDX-License-Identifier: Apache-2.0
"""Extractive question answering on SQuAD: predict, evaluate, and take calibration batches.

Everything streams: a bounded number of questions is turned into windows, run in batches of similar length,
answered, and forgotten, so memory does not grow with the data set.  A model is anything that is called as
``model(input_ids=..., attention_mask=..., token_type_ids=...)`` with (B, T) int64 arrays and returns an
object with `start_logits` and `end_logits` (B, T).

The parts have modules of their own: `squad_data` (files), `squad_features` (windows), `squad_answers` (n-best
search), `squad_metrics` (scores).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdqbert.serialization.atomic import write_text
from qdqbert.tasks.batching import MAX_BATCH_TOKENS, batch_inputs, by_length, chunks, progress_bar
from qdqbert.tasks.squad_answers import Answer, AnswerFinder
from qdqbert.tasks.squad_data import SquadDataset, SquadExample, read_predictions, read_squad
from qdqbert.tasks.squad_features import SquadFeature, SquadOptions, features_of
from qdqbert.tasks.squad_metrics import question_scores, score_v1, score_v2

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = [
    "SquadDataset",
    "SquadExample",
    "SquadOptions",
    "SquadPredictions",
    "SquadResult",
    "calibration_batches",
    "evaluate",
    "iterate_answers",
    "predict",
    "read_predictions",
    "read_squad",
]

# Questions in memory at a time: enough that sorting by length leaves almost no padding.
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class SquadPredictions:
    """Answers to the questions of a data set.

    Attributes
    ----------
    answers : dict of question id to Answer
    version_2 : bool
        Whether "no answer" was allowed.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    version_2: bool = False

    def texts(self) -> dict[str, str]:
        """Predictions as the official scorers take them."""
        return {question: answer.text for question, answer in self.answers.items()}

    def null_odds(self) -> dict[str, float]:
        """Score of "no answer" minus that of the best answer, for questions where it is known."""
        return {q: answer.null_odds for q, answer in self.answers.items() if answer.null_odds is not None}

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write `predictions.json`, `nbest_predictions.json` and, with `version_2`, `null_odds.json`.

        Each file is complete or not there: it is written beside its place and moved.

        Parameters
        ----------
        folder : path
            Is made if missing.

        Returns
        -------
        list of Path
            The files written.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        n_best = {
            question: [
                {
                    "text": entry.text,
                    "probability": entry.probability,
                    "start_logit": entry.start_logit,
                    "end_logit": entry.end_logit,
                }
                for entry in answer.n_best
            ]
            for question, answer in self.answers.items()
        }
        files: list[tuple[str, Any]] = [
            ("predictions.json", self.texts()),
            ("nbest_predictions.json", n_best),
        ]
        if self.version_2:
            files.append(("null_odds.json", self.null_odds()))
        for name, content in files:
            write_text(root / name, json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n")
        return [root / name for name, _ in files]


@dataclass(frozen=True, slots=True)
class SquadResult:
    """Score of a model.

    Attributes
    ----------
    exact_match, f1 : float
        Percent.
    metrics : dict of str to float
        Everything that the official scorer of this version prints.
    predictions : SquadPredictions
    question_f1 : ndarray (questions,) float64
        F1 of each question in percent, in the order of the data set: what a paired comparison needs.
    features : int
        Windows that were computed.
    """

    exact_match: float
    f1: float
    metrics: dict[str, float]
    predictions: SquadPredictions
    question_f1: npt.NDArray[np.float64]
    features: int


def iterate_answers(
    model: Any,
    examples: Sequence[SquadExample],
    tokenizer: Tokenizer,
    options: SquadOptions | None = None,
    *,
    keep_n_best: bool = True,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    progress: bool | None = None,
) -> Iterator[tuple[SquadExample, Answer, int]]:
    """Answer questions one after the other.

    Parameters
    ----------
    model : callable
        See the module's text.
    examples : sequence of SquadExample
    tokenizer : tokenizers.Tokenizer
    options : SquadOptions, optional
        Default ``SquadOptions()``.
    keep_n_best : bool
        Whether answers carry the whole n-best list.
    max_batch_tokens : int
        Most tokens, padding included, of one call of the model; >= 1.
    progress : bool, optional
        Whether to show a bar on stderr; by default on a terminal only.

    Yields
    ------
    (SquadExample, Answer, int)
        In the order of `examples`; the number is that of the question's windows.

    Raises
    ------
    ValueError
        If the model's logits do not have one value for each token.
    """
    options = options or SquadOptions()
    finder = AnswerFinder(tokenizer, options, keep_n_best=keep_n_best)
    advance = progress_bar(len(examples), "question", "SQuAD", show=progress)
    try:
        for chunk in chunks(features_of(examples, tokenizer, options), _CHUNK):
            features = [feature for windows in chunk for feature in windows]
            starts, ends = _logits(model, features, max_batch_tokens, tokenizer)
            first = 0
            for windows in chunk:
                part = slice(first, first + len(windows))
                first += len(windows)
                yield windows[0].example, finder.find(windows, starts[part], ends[part]), len(windows)
            advance(len(chunk))
    finally:
        advance(0)


def predict(
    model: Any,
    examples: Sequence[SquadExample],
    tokenizer: Tokenizer,
    options: SquadOptions | None = None,
    *,
    keep_n_best: bool = True,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    progress: bool | None = None,
) -> SquadPredictions:
    """Answer all questions.

    Parameters
    ----------
    model, examples, tokenizer, options, keep_n_best, max_batch_tokens, progress
        As in `iterate_answers`, errors too.

    Returns
    -------
    SquadPredictions
    """
    options = options or SquadOptions()
    answered = iterate_answers(
        model,
        examples,
        tokenizer,
        options,
        keep_n_best=keep_n_best,
        max_batch_tokens=max_batch_tokens,
        progress=progress,
    )
    answers = {example.id: answer for example, answer, _ in answered}
    return SquadPredictions(answers, options.version_2_with_negative)


def evaluate(
    model: Any,
    dataset: SquadDataset,
    tokenizer: Tokenizer,
    options: SquadOptions | None = None,
    *,
    keep_n_best: bool = False,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    progress: bool | None = None,
) -> SquadResult:
    """Answer the questions of a data set and score the answers by the rules of its version.

    Parameters
    ----------
    model, tokenizer, max_batch_tokens, progress
        As in `iterate_answers`.
    dataset : SquadDataset
    options : SquadOptions, optional
        By default run_squad's, with `version_2_with_negative` as the data set has it.
    keep_n_best : bool
        Whether the predictions carry whole n-best lists; scores do not need them.

    Returns
    -------
    SquadResult

    Raises
    ------
    ValueError
        If a question has no gold answer and the data set is v1.1, or the logits do not fit.
    """
    options = options or SquadOptions(version_2_with_negative=dataset.version_2)
    predictions = SquadPredictions({}, options.version_2_with_negative)
    features = 0
    for example, answer, windows in iterate_answers(
        model,
        dataset.examples,
        tokenizer,
        options,
        keep_n_best=keep_n_best,
        max_batch_tokens=max_batch_tokens,
        progress=progress,
    ):
        predictions.answers[example.id] = answer
        features += windows
    gold, texts = dataset.answers(), predictions.texts()
    scores = question_scores(gold, texts, version_2=dataset.version_2)
    if dataset.version_2:
        metrics = score_v2(gold, texts, predictions.null_odds() or None)
    else:
        metrics = score_v1(gold, texts)
    return SquadResult(
        metrics["exact"] if dataset.version_2 else metrics["exact_match"],
        metrics["f1"],
        metrics,
        predictions,
        np.array([100.0 * f for _, f in scores.values()]),
        features,
    )


def calibration_batches(
    examples: Sequence[SquadExample],
    tokenizer: Tokenizer,
    options: SquadOptions | None = None,
    *,
    samples: int = 128,
    seed: int = 13,
    batch_size: int = 1,
) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
    """Model inputs for calibration: the first window of each of some random questions.

    The questions are ``random.Random(seed).sample(examples, samples)``, in that order.  This is the protocol
    by which other quantizers were measured on the same checkpoints, so results compare.

    Parameters
    ----------
    examples : sequence of SquadExample
    tokenizer : tokenizers.Tokenizer
    options : SquadOptions, optional
        Default ``SquadOptions()``.
    samples : int
        Questions, >= 1; all of them, shuffled, if there are fewer.
    seed : int
    batch_size : int
        Questions of a batch, >= 1; 1 leaves nothing to pad.

    Yields
    ------
    dict of ndarray (B, T) int64
        `input_ids`, `attention_mask`, `token_type_ids`.

    Raises
    ------
    ValueError
        If `samples` or `batch_size` is not positive, or `examples` is empty.
    """
    if samples < 1 or batch_size < 1 or not examples:
        raise ValueError(
            f"samples, batch_size, examples: expected at least 1 of each, "
            f"found {samples}, {batch_size}, {len(examples)}"
        )
    chosen = random.Random(seed).sample(examples, min(samples, len(examples)))
    first_windows = (windows[0] for windows in features_of(chosen, tokenizer, options or SquadOptions()))
    for batch in chunks(first_windows, batch_size):
        yield _inputs(batch, tokenizer)


def _inputs(features: Sequence[SquadFeature], tokenizer: Tokenizer) -> dict[str, npt.NDArray[np.int64]]:
    pad = tokenizer.token_to_id("[PAD]")
    return batch_inputs([f.input_ids for f in features], [f.token_type_ids for f in features], pad or 0)


def _logits(
    model: Any, features: Sequence[SquadFeature], max_batch_tokens: int, tokenizer: Tokenizer
) -> tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]]:
    """Unpadded start and end logits of every window."""
    logits: list[list[npt.NDArray[np.float32]]] = [
        [np.empty(0, np.float32)] * len(features) for _ in range(2)
    ]
    for batch in by_length([len(feature.input_ids) for feature in features], max_batch_tokens):
        inputs = _inputs([features[index] for index in batch], tokenizer)
        out = model(**inputs)
        for side, name in enumerate(("start_logits", "end_logits")):
            values = np.asarray(getattr(out, name))
            if values.shape != inputs["input_ids"].shape:
                raise ValueError(
                    f"{name}: expected shape {inputs['input_ids'].shape} as the input_ids, "
                    f"found {values.shape}"
                )
            for row, index in enumerate(batch):
                logits[side][index] = values[row, : len(features[index].input_ids)].copy()
    return logits[0], logits[1]

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.seeds import require_seed
from qdqbert.serialization.atomic import write_text
from qdqbert.tasks.batching import MAX_BATCH_TOKENS, batch_inputs, by_length, chunks, progress_bar
from qdqbert.tasks.encoding import bare_tokenizer
from qdqbert.tasks.metrics import Mean, Ratio
from qdqbert.tasks.squad_answers import Answer, AnswerFinder
from qdqbert.tasks.squad_data import (
    SquadDataset,
    SquadExample,
    join_squad,
    read_predictions,
    read_squad,
)
from qdqbert.tasks.squad_features import SquadFeature, SquadOptions, features_of
from qdqbert.tasks.squad_metrics import question_scores, score_v1, score_v2
from qdqbert.tasks.task import Figure, Inputs, Scored, Task, as_paths, longest_input

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = [
    "LONGEST_WINDOW",
    "SQuAD",
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

# Wordpieces of a window where nothing else is asked for, as in run_squad.
LONGEST_WINDOW = 384

_NO_ANSWER = "(no answer)"


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
    question_f1, question_exact : ndarray (questions,) float64
        F1 and exact match of each question in percent, in the order of the data set: what a paired comparison
        needs.
    features : int
        Windows that were computed.
    """

    exact_match: float
    f1: float
    metrics: dict[str, float]
    predictions: SquadPredictions
    question_f1: npt.NDArray[np.float64]
    question_exact: npt.NDArray[np.float64]
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
        np.array([100.0 * exact for exact, _ in scores.values()]),
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
    require_seed("seed", seed)
    chosen = random.Random(seed).sample(examples, min(samples, len(examples)))
    first_windows = (windows[0] for windows in features_of(chosen, tokenizer, options or SquadOptions()))
    for batch in chunks(first_windows, batch_size):
        yield _inputs(batch, tokenizer)


class SQuAD(Task):
    """Questions about paragraphs, for a question answering head.

    Parameters
    ----------
    dataset : SquadDataset
    tokenizer : tokenizers.Tokenizer
    options : SquadOptions
    """

    name = "squad"
    model_class = "QDQBertForQuestionAnswering"
    metric = "F1"
    item = "question"

    def __init__(self, dataset: SquadDataset, tokenizer: Tokenizer, options: SquadOptions) -> None:
        self.dataset: SquadDataset = dataset
        self._tokenizer, self._options = tokenizer, options

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
        doc_stride: int = 128,
        max_query_length: int = 64,
        max_answer_length: int = 30,
        n_best_size: int = 20,
        null_score_diff_threshold: float = 0.0,
    ) -> Self:
        """Read SQuAD files, v1.1 or v2.0.

        Parameters
        ----------
        paths : path or sequence of paths
            See `read_squad`; the rules of v2.0 apply if they do for one of them.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
        max_length : int, optional
            Wordpieces of a window; 4 .. the model's positions; by default 384, or the positions if they are
            fewer.
        doc_stride, max_query_length, max_answer_length, n_best_size, null_score_diff_threshold
            See `SquadOptions`.

        Raises
        ------
        DataError
            If a file is missing or malformed, or a question's id appears twice.
        ValueError
            If an option is out of its range.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config, default=LONGEST_WINDOW)
        dataset = join_squad([read_squad(file) for file in as_paths(paths)])
        options = SquadOptions(
            max_seq_length=longest,
            doc_stride=doc_stride,
            max_query_length=max_query_length,
            max_answer_length=max_answer_length,
            n_best_size=n_best_size,
            version_2_with_negative=dataset.version_2,
            null_score_diff_threshold=null_score_diff_threshold,
        )
        return cls(dataset, tokenizer, options)

    def __len__(self) -> int:
        return len(self.dataset.examples)

    def _select(self, indices: Sequence[int]) -> Self:
        examples = tuple(self.dataset.examples[index] for index in indices)
        return type(self)(replace(self.dataset, examples=examples), self._tokenizer, self._options)

    def _batch(self, indices: Sequence[int]) -> Inputs:
        chosen = [self.dataset.examples[index] for index in indices]
        return _inputs(
            [windows[0] for windows in features_of(chosen, self._tokenizer, self._options)], self._tokenizer
        )

    def _score(self, model: Any, max_batch_tokens: int, progress: bool | None) -> Scored:
        result = evaluate(
            model,
            self.dataset,
            self._tokenizer,
            self._options,
            keep_n_best=True,
            max_batch_tokens=max_batch_tokens,
            progress=progress,
        )
        figures = [
            Figure("F1", Mean(result.question_f1 / 100.0)),
            Figure("EM", Mean(result.question_exact / 100.0)),
        ]
        has_answer = np.array([bool(example.answers) for example in self.dataset.examples])
        for name, is_part in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if self.dataset.version_2 and is_part.any():
                figures += [
                    Figure(f"{name}_{kind}", Ratio(scores / 100.0 * is_part, is_part), is_detail=True)
                    for kind, scores in (("exact", result.question_exact), ("f1", result.question_f1))
                ]
        return tuple(figures), dict(result.metrics), result.predictions

    def _text(self, index: int) -> str:
        return self.dataset.examples[index].question

    def _expected(self, index: int) -> str:
        answers = self.dataset.examples[index].answers
        return answers[0][0] if answers else _NO_ANSWER

    def _answer(self, predictions: Any, index: int) -> str:
        answer: Answer = predictions.answers[self.dataset.examples[index].id]
        return answer.text or _NO_ANSWER


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

# SPDX-License-Identifier: Apache-2.0
"""``question-answering``: the span of a text that answers a question, however long the text.

A text that does not fit is read in windows that overlap.  In each window the starts and ends that lie in
the text get probabilities, a span's score is the product of two, and the best spans of all windows are the
answers.  This is transformers' rule; run_squad's, which `qdqbert.tasks.squad` follows, ranks by sums of
logits.  They agree on the best span of one window and can differ between windows, whose probabilities add up
to 1 each.

Three defects of the original are not here: `max_question_len` is obeyed, a tokenizer that pads on the left
does not let questions answer themselves, and where a window has fewer spans than are asked for, no spans that
end before they start are made up.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from qdqbert.pipelines.base import Options, Pipeline, Row
from qdqbert.pipelines.scores import best

__all__ = ["QuestionAnsweringOptions", "QuestionAnsweringPipeline"]

_DEFAULT_LENGTH = 384
_DEFAULT_STRIDE = 128
# What stands for minus infinity, as in the original.
_EXCLUDED = np.float32(-10000.0)


@dataclasses.dataclass(frozen=True, slots=True)
class QuestionAnsweringOptions(Options):
    """Options of ``question-answering``.

    Attributes
    ----------
    top_k : int
        Answers to a question, best first; with one the result is a dictionary, with more a list.
    doc_stride : int, optional
        Tokens that neighbouring windows share; by default 128, or half a window if that is less.
    max_answer_len : int
        Longest answer in tokens.
    max_seq_len : int, optional
        Tokens of a window, with the question; by default 384, or what the model takes if that is less.
    max_question_len : int
        Tokens kept of a question.
    handle_impossible_answer : bool
        Whether "no answer", the empty string, may be an answer.
    align_to_words : bool
        Whether answers are widened to whole words.
    topk : int, optional
        Deprecated in transformers: `top_k`.
    """

    top_k: int = 1
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    max_question_len: int = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    topk: int | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("top_k", 1),
            ("doc_stride", 0),
            ("max_answer_len", 1),
            ("max_seq_len", 1),
            ("max_question_len", 1),
            ("topk", 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("doc_stride", "max_seq_len", "topk"):
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: expected an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")


class _Question(NamedTuple):
    question: str
    context: str


class QuestionAnsweringPipeline(Pipeline[QuestionAnsweringOptions]):
    """Answer questions about texts.

    Parameters
    ----------
    model : QDQBertForQuestionAnswering
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`.
    **options
        `QuestionAnsweringOptions`.

    Examples
    --------
    >>> answer = pipeline("question-answering", folder)                        # doctest: +SKIP
    >>> answer(question="Where?", context="It was in Rome.")                   # doctest: +SKIP
    {'score': 0.71, 'start': 10, 'end': 14, 'answer': 'Rome'}
    """

    task = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    options_class: ClassVar[type[Options]] = QuestionAnsweringOptions

    def __call__(
        self,
        *args: Any,
        question: Any = None,
        context: Any = None,
        batch_size: int | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> Any:
        """Answer questions.

        Parameters
        ----------
        *args : dict, list or iterator of dict, or question and context
            Dictionaries have ``question`` and ``context``.
        question, context : str, or list of str
            Instead; one context may go with several questions.
        batch_size, progress, **options
            For this call.

        Returns
        -------
        {"score": float, "start": int, "end": int, "answer": str}, or a list of them
            `start` and `end` count characters of the context.  A list for ``top_k > 1``, and an empty one
            where no span is left; for several questions a list of results, for an iterator an iterator.

        Raises
        ------
        KeyError
            If a dictionary lacks one of its keys.
        ValueError
            If a question or a context is empty, or their numbers differ.
        """
        inputs = _gather(args, question, context)
        if isinstance(inputs, list) and len(inputs) == 1:
            inputs = inputs[0]
        return super().__call__(inputs, batch_size=batch_size, progress=progress, **options)

    def _checked(self, options: QuestionAnsweringOptions) -> QuestionAnsweringOptions:
        if options.topk is not None:
            warnings.warn("topk is deprecated: use top_k", UserWarning, stacklevel=3)
            options = dataclasses.replace(options, top_k=options.topk, topk=None)
        length = self._window_length(options)
        if options.doc_stride is not None and options.doc_stride > length:
            raise ValueError(f"doc_stride: expected at most max_seq_len, {length}, got {options.doc_stride}")
        return options

    def _window_length(self, options: QuestionAnsweringOptions) -> int:
        return min(self.max_length, _DEFAULT_LENGTH) if options.max_seq_len is None else options.max_seq_len

    def _rows(self, item: Any, options: QuestionAnsweringOptions) -> list[Row]:
        asked = _normalized(item)
        question = self.tokenizer(
            asked.question,
            add_special_tokens=False,
            truncation=True,
            max_length=options.max_question_len,
            return_offsets_mapping=True,
        )
        length = self._window_length(options)
        stride = min(length // 2, _DEFAULT_STRIDE) if options.doc_stride is None else options.doc_stride
        kept = asked.question[: max((end for _, end in question.offset_mapping), default=0)]
        return self._encode(
            kept,
            asked.context,
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
        )

    def _take(
        self, outputs: Any, index: int, row: Row, options: QuestionAnsweringOptions
    ) -> npt.NDArray[np.float32]:
        length = len(row.input_ids)
        return np.stack([outputs.start_logits[index, :length], outputs.end_logits[index, :length]])

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: QuestionAnsweringOptions,
        given: frozenset[str],
    ) -> Any:
        context = _normalized(item).context
        answers: list[dict[str, Any]] = []
        null_score = 1e6
        for row, logits in zip(rows, taken, strict=True):
            may_answer = np.array([sequence == 1 for sequence in row.encoding.sequence_ids])
            start, end = (_probabilities(side, may_answer) for side in logits)
            null_score = min(null_score, float(start[0] * end[0]))
            for first, last, score in _spans(start, end, may_answer, options):
                begin, stop = self._characters(row, first, last, options.align_to_words)
                answers.append({"score": score, "start": begin, "end": stop, "answer": context[begin:stop]})
        if options.handle_impossible_answer:
            answers.append({"score": null_score, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: -answer["score"])[: options.top_k]
        return answers[0] if len(answers) == 1 else answers

    def _characters(self, row: Row, first: int, last: int, align: bool) -> tuple[int, int]:
        """Return where the span of tokens first .. last begins and stops in the context."""
        encoding = row.encoding
        ends = [encoding.token_to_word(token) for token in (first, last)]
        words = [encoding.word_to_chars(word, 1) for word in ends if word is not None] if align else []
        if len(words) == 2 and words[0] is not None and words[1] is not None:
            return int(words[0][0]), int(words[1][1])
        return int(encoding.offsets[first][0]), int(encoding.offsets[last][1])


def _probabilities(
    logits: npt.NDArray[np.float32], may_answer: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Softmax over the text and [CLS], which stands for "no answer"."""
    counted = may_answer.copy()
    counted[0] = True
    powers = np.where(counted, logits, _EXCLUDED)
    powers = np.exp(powers - powers.max())
    shares: npt.NDArray[np.float32] = powers / powers.sum()
    return shares


def _spans(
    start: npt.NDArray[np.float32],
    end: npt.NDArray[np.float32],
    may_answer: npt.NDArray[np.bool_],
    options: QuestionAnsweringOptions,
) -> Iterator[tuple[int, int, float]]:
    """Yield the best spans of a window, first and last token and score."""
    start, end = start.copy(), end.copy()
    start[0] = end[0] = 0.0
    scores = np.tril(np.triu(np.outer(start, end)), options.max_answer_len - 1)
    for index in best(scores.ravel(), options.top_k):
        first, last = divmod(int(index), len(end))
        # Where there are fewer spans than asked for, the rest are none.
        is_span = 0 <= last - first < options.max_answer_len
        if is_span and may_answer[first] and may_answer[last]:
            yield first, last, float(scores[first, last])


def _gather(args: tuple[Any, ...], question: Any, context: Any) -> Any:
    """Bring the ways to ask into one: a dictionary, a list of them, or an iterator."""
    if args:
        if question is not None or context is not None:
            raise ValueError("question, context: given twice, by name and by position")
        if len(args) == 2 and all(isinstance(arg, str) for arg in args):
            return _normalized({"question": args[0], "context": args[1]})
        inputs = args[0] if len(args) == 1 else list(args)
        if isinstance(inputs, Iterator):
            return inputs
        if isinstance(inputs, list | tuple) and not isinstance(inputs, _Question):
            return [_normalized(item) for item in inputs]
        return _normalized(inputs)
    if question is None or context is None:
        raise ValueError("question, context: expected both, or dictionaries with both")
    if isinstance(question, list) and isinstance(context, str):
        context = [context] * len(question)
    if isinstance(question, list) and isinstance(context, list):
        if len(question) != len(context):
            raise ValueError(f"context: expected {len(question)} texts as question, got {len(context)}")
        pairs = zip(question, context, strict=True)
        return [_normalized({"question": asked, "context": text}) for asked, text in pairs]
    return _normalized({"question": question, "context": context})


def _normalized(item: Any) -> _Question:
    if isinstance(item, _Question):
        return item
    if not isinstance(item, Mapping):
        raise ValueError(f"inputs: expected {{'question': ..., 'context': ...}}, got {item!r:.60}")
    for key in ("question", "context"):
        if key not in item:
            raise KeyError(f"inputs: expected the keys 'question' and 'context', got {', '.join(item)}")
        if not isinstance(item[key], str) or not item[key]:
            raise ValueError(f"{key}: expected a text that is not empty, got {item[key]!r:.60}")
    return _Question(item["question"], item["context"])

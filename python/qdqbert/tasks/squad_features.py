# SPDX-License-Identifier: Apache-2.0
"""From a question and its paragraph to the windows that a model reads.

This is the scheme of the original BERT run_squad:

- the paragraph is split at white space into words, and each word into wordpieces;
- a window is ``[CLS] question [SEP] part of the paragraph [SEP]``; the question is cut at `max_query_length`
  wordpieces, the paragraph never loses any: windows start every `doc_stride` wordpieces until one reaches its
  end;
- a wordpiece that stands in several windows may start an answer only in the window where it has the most
context
  on its poorer side (ties, which 0.01 * window length breaks, go to the earlier window): the max-context
  rule.

Windows hold positions, not texts.  The paragraph, with its words and wordpieces, is one `Document` that its
questions and windows share, so a feature costs a few hundred bytes beside its ids.

Reference: Devlin et al., 2019, "BERT", section 4.2, and the program published with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.batching import chunks
from qdqbert.tasks.squad_data import SquadExample
from qdqbert.tokenization import special_token_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Document", "SquadFeature", "SquadOptions", "features_of", "split_words"]

# What run_squad calls white space; other Unicode spaces stay inside words.
_SPACES = str.maketrans(dict.fromkeys("\t\r\n\u202f", " "))
_WORD = re.compile("[^ ]+")

# Questions in memory at a time: enough that one call of the library is worth its threads.
_QUESTIONS = 256

_SPECIAL_TOKENS = 3  # [CLS] question [SEP] paragraph [SEP]


@dataclass(frozen=True, slots=True)
class SquadOptions:
    """How questions become windows and logits become answers; the defaults are run_squad's.

    Attributes
    ----------
    max_seq_length : int
        Wordpieces of a window, with the three special tokens; > max_query_length + 3.
    doc_stride : int
        Wordpieces between the starts of neighbouring windows; >= 1.
    max_query_length : int
        Wordpieces kept of a question; >= 1.
    n_best_size : int
        Best starts and best ends that are combined, and answers that are kept; >= 1.
    max_answer_length : int
        Longest answer in wordpieces; >= 1.
    version_2_with_negative : bool
        Whether "no answer" may be the answer.
    null_score_diff_threshold : float
        "No answer" is given where its score exceeds the best answer's by more than this.
    """

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64
    n_best_size: int = 20
    max_answer_length: int = 30
    version_2_with_negative: bool = False
    null_score_diff_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("doc_stride", "max_query_length", "n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        least = self.max_query_length + _SPECIAL_TOKENS + 1
        if self.max_seq_length < least:
            raise ValueError(
                f"max_seq_length: expected at least {least} (max_query_length {self.max_query_length}, three "
                f"special tokens, one of the paragraph), found {self.max_seq_length}"
            )


@dataclass(frozen=True, slots=True)
class Document:
    """A paragraph as words and wordpieces.

    Attributes
    ----------
    words : list of str
        The text split at white space.
    pieces : list of str
        Wordpieces, continuations with ``##``; P of them.
    ids : ndarray (P,) int64
        Their ids.
    word_of_piece : ndarray (P,) int64
        Index in `words`.
    spans : ndarray (P, 2) int64
        Characters of the paragraph, first and one past the last, that each wordpiece comes from.
    """

    words: list[str]
    pieces: list[str]
    ids: npt.NDArray[np.int64]
    word_of_piece: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SquadFeature:
    """One window of one question.

    Attributes
    ----------
    example : SquadExample
    document : Document
    input_ids : ndarray (T,) int64
        ``[CLS] question [SEP] window [SEP]``, unpadded.
    window_start : int
        First wordpiece of the window in `document`; W wordpieces follow each other.
    offset : int
        Position of that wordpiece in `input_ids`; token types are 0 before it and 1 from it on.
    is_max_context : ndarray (W,) bool
        Whether this is the window in which the wordpiece may start an answer.
    """

    example: SquadExample
    document: Document
    input_ids: npt.NDArray[np.int64]
    window_start: int
    offset: int
    is_max_context: npt.NDArray[np.bool_]

    @property
    def token_type_ids(self) -> npt.NDArray[np.int64]:
        """Zeros up to the paragraph, then ones; (T,) int64."""
        return (np.arange(len(self.input_ids)) >= self.offset).astype(np.int64)


def split_words(text: str) -> list[str]:
    r"""Split at space, tab, line feed, carriage return and narrow no-break space, as run_squad does.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str
        Without empty words.

    Examples
    --------
    >>> split_words(" two\twords ")
    ['two', 'words']
    """
    return _WORD.findall(text.translate(_SPACES))


def features_of(
    examples: Iterable[SquadExample], tokenizer: Tokenizer, options: SquadOptions
) -> Iterator[list[SquadFeature]]:
    """Windows of each question, in order; a bounded number of questions and paragraphs is in memory.

    Parameters
    ----------
    examples : iterable of SquadExample
        Questions about one paragraph should follow each other: its wordpieces are then made once.
    tokenizer : tokenizers.Tokenizer
    options : SquadOptions

    Yields
    ------
    list of SquadFeature
        The windows of one question, at least one.

    Raises
    ------
    CheckpointError
        If the vocabulary lacks [CLS] or [SEP].
    """
    cls = special_token_id(tokenizer, "[CLS]")
    sep = special_token_id(tokenizer, "[SEP]")
    documents: dict[str, Document] = {}
    for chunk in chunks(examples, _QUESTIONS):
        # A paragraph whose questions began in the chunk before is not made again.
        known = {example.context: documents.get(example.context) for example in chunk}
        new = [context for context, document in known.items() if document is None]
        made = dict(zip(new, _documents(new, tokenizer), strict=True))
        documents = {context: document or made[context] for context, document in known.items()}
        questions = tokenizer.encode_batch([example.question for example in chunk], add_special_tokens=False)
        for example, question in zip(chunk, questions, strict=True):
            head = [cls, *question.ids[: options.max_query_length], sep]
            yield _windows(example, documents[example.context], head, sep, options)


def _documents(contexts: list[str], tokenizer: Tokenizer) -> list[Document]:
    # The spaces of `_SPACES` are single characters, so words stand where they stood.
    matches = [list(_WORD.finditer(context.translate(_SPACES))) for context in contexts]
    words = [[match.group() for match in found] for found in matches]
    encodings = tokenizer.encode_batch(words, is_pretokenized=True, add_special_tokens=False)
    documents = []
    for found, of_context, encoding in zip(matches, words, encodings, strict=True):
        word_of_piece = np.array(encoding.word_ids, dtype=np.int64)
        starts = np.array([match.start() for match in found], dtype=np.int64)
        spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        documents.append(
            Document(
                of_context,
                encoding.tokens,
                np.array(encoding.ids, dtype=np.int64),
                word_of_piece,
                spans + starts[word_of_piece][:, None],
            )
        )
    return documents


def _windows(
    example: SquadExample, document: Document, head: list[int], sep: int, options: SquadOptions
) -> list[SquadFeature]:
    count = len(document.ids)
    room = options.max_seq_length - len(head) - 1
    starts = [0]
    while starts[-1] + room < count:
        starts.append(starts[-1] + min(options.doc_stride, room))
    lengths = [min(room, count - start) for start in starts]
    best = _best_window(count, starts, lengths)
    return [
        SquadFeature(
            example,
            document,
            np.concatenate([head, document.ids[start : start + length], [sep]]).astype(np.int64),
            start,
            len(head),
            best[start : start + length] == index,
        )
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


def _best_window(count: int, starts: list[int], lengths: list[int]) -> npt.NDArray[np.int64]:
    """Index of the window of the largest min(left, right) + 0.01 * length, for each wordpiece."""
    best = np.zeros(count, dtype=np.int64)
    best_score = np.full(count, -np.inf)
    for index, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        position = np.arange(length)
        score = np.minimum(position, length - 1 - position) + 0.01 * length
        part = slice(start, start + length)
        better = score > best_score[part]
        best[part][better] = index
        best_score[part][better] = score[better]
    return best

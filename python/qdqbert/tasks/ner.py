# SPDX-License-Identifier: Apache-2.0
"""Named entity recognition, as in WNUT-17 and CoNLL-2003: precision, recall and F1 of entities.

A word's tag is the largest logit at its first wordpiece; the other wordpieces are read and not looked at.  A
sentence of more wordpieces than an input takes becomes overlapping windows, and a word is tagged in the
window that shows most on the shorter side of it, so no word is cut off.  A word without wordpieces (a lone
control character) is tagged O.

References
----------
Derczynski et al., 2017, "Results of the WNUT2017 Shared Task on Novel and Emerging Entity Recognition";
Devlin et al., 2019, "BERT", section 5.3 (the tag of the first wordpiece).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.conll_data import TaggedSentence, read_conll
from qdqbert.tasks.data_error import DataError
from qdqbert.tasks.encoding import EncodedText, bare_tokenizer, padded
from qdqbert.tasks.metrics import EntityStatistic, count_entities
from qdqbert.tasks.task import FeatureTask, Figure, Inputs, Scored, as_paths, longest_input
from qdqbert.tokenization import special_token_id

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["NER", "SentenceWindow", "check_tags", "window_step"]

_MODES = ("default", "strict")


@dataclass(frozen=True, slots=True)
class SentenceWindow:
    """A part of a sentence, as one input of the model.

    Attributes
    ----------
    text : EncodedText
    positions : ndarray (W,) int64
        Where in the input the first wordpieces stand of the words that are tagged here.
    words : ndarray (W,) int64
        Those words' places in the sentence.
    """

    text: EncodedText
    positions: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]


class NER(FeatureTask[SentenceWindow, npt.NDArray[np.int64]]):
    """Sentences with a tag for each word, for a token classification head.

    Parameters
    ----------
    sentences : sequence of TaggedSentence
    tokenizer : tokenizers.Tokenizer
    tags : mapping of int to str
        The model's classes; one is ``"O"``.
    max_length : int
        Wordpieces of an input, special tokens included; >= 4.
    stride : int
        Wordpieces from one window of a long sentence to the next; 1 .. `max_length` - 2.
    mode : {"default", "strict"}
        What counts as an entity, see `qdqbert.tasks.metrics.entities`.
    """

    name = "ner"
    model_class = "QDQBertForTokenClassification"
    metric = "F1"
    item = "sentence"

    def __init__(
        self,
        sentences: Sequence[TaggedSentence],
        tokenizer: Tokenizer,
        tags: Mapping[int, str],
        *,
        max_length: int,
        stride: int,
        mode: str = "default",
    ) -> None:
        self.sentences = sentences
        self._tokenizer, self._tags = tokenizer, dict(tags)
        self._max_length, self._stride, self._mode = max_length, stride, mode

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
        stride: int | None = None,
        entity_mode: str = "default",
    ) -> Self:
        """Read files of tagged sentences.

        Parameters
        ----------
        paths : path or sequence of paths
            CoNLL columns, see `read_conll`.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
            Its `id2label` names the tags.
        max_length : int, optional
            Wordpieces of an input, special tokens included; 4 .. the model's positions, which is the default.
        stride : int, optional
            Wordpieces from one window of a long sentence to the next; by default half of what a window holds.
        entity_mode : {"default", "strict"}
            seqeval's default mode, or its strict mode with the scheme IOB2.

        Raises
        ------
        DataError
            If a file is missing or malformed, or holds a tag that the model does not know; with file and
            line.
        ValueError
            If the model has no tag O, or an option is out of its range.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config)
        step = window_step(stride, longest)
        if entity_mode not in _MODES:
            raise ValueError(f"entity_mode: expected one of {', '.join(_MODES)}, found {entity_mode!r}")
        known = set(config.id2label.values())
        if "O" not in known:
            raise ValueError(
                f"config.id2label: expected tags with O among them, found {', '.join(sorted(known)[:4])}, ..."
            )
        sentences: list[TaggedSentence] = []
        for file in as_paths(paths):
            found = read_conll(file)
            for sentence in found:
                check_tags(f"{file}", sentence, known)
            sentences += found
        return cls(sentences, tokenizer, config.id2label, max_length=longest, stride=step, mode=entity_mode)

    def __len__(self) -> int:
        return len(self.sentences)

    def _select(self, indices: Sequence[int]) -> Self:
        return type(self)(
            [self.sentences[index] for index in indices],
            self._tokenizer,
            self._tags,
            max_length=self._max_length,
            stride=self._stride,
            mode=self._mode,
        )

    def windows(self, index: int) -> list[SentenceWindow]:
        """Return the inputs of a sentence.

        Parameters
        ----------
        index : int

        Returns
        -------
        list of SentenceWindow
            At least one; every word that has a wordpiece is tagged in exactly one.
        """
        encoding = self._tokenizer.encode(
            list(self.sentences[index].words), is_pretokenized=True, add_special_tokens=False
        )
        pieces, word_of = encoding.ids, encoding.word_ids
        firsts = [i for i, word in enumerate(word_of) if i == 0 or word != word_of[i - 1]]
        room = self._max_length - 2
        starts = list(range(0, max(1, len(pieces) - room + self._stride), self._stride))
        spans = [(start, min(start + room, len(pieces))) for start in starts]
        tagged_in = [_window_of(first, spans) for first in firsts]
        cls, sep = (special_token_id(self._tokenizer, token) for token in ("[CLS]", "[SEP]"))
        windows = []
        for number, (begin, end) in enumerate(spans):
            ids = np.array([cls, *pieces[begin:end], sep], dtype=np.int64)
            mine = [first for first, window in zip(firsts, tagged_in, strict=True) if window == number]
            windows.append(
                SentenceWindow(
                    EncodedText(ids, np.zeros_like(ids)),
                    np.array([first - begin + 1 for first in mine], dtype=np.int64),
                    np.array([word_of[first] for first in mine], dtype=np.int64),
                )
            )
        return windows

    def _features(self, index: int) -> list[SentenceWindow]:
        return self.windows(index)

    def _size(self, feature: SentenceWindow) -> int:
        return len(feature.text)

    def _inputs(self, features: Sequence[SentenceWindow]) -> Inputs:
        return padded([feature.text for feature in features], self._tokenizer)

    def _outputs(self, out: Any, features: Sequence[SentenceWindow]) -> Sequence[npt.NDArray[np.int64]]:
        """Word and class, (W, 2), of the words tagged in each window."""
        logits = np.asarray(out.logits)
        longest = max(len(feature.text) for feature in features)
        if logits.shape != (len(features), longest, len(self._tags)):
            raise ValueError(
                f"logits: expected shape {(len(features), longest, len(self._tags))} (one value for each tag "
                f"and token), found {logits.shape}"
            )
        results = []
        for row, feature in zip(logits, features, strict=True):
            chosen = row[feature.positions]
            if np.isnan(chosen).any():
                raise ValueError("logits: expected numbers, found NaN")
            results.append(np.stack([feature.words, chosen.argmax(axis=1)], axis=1))
        return results

    def _figures(self, outputs: Sequence[Sequence[npt.NDArray[np.int64]]]) -> Scored:
        predicted = []
        for sentence, windows in zip(self.sentences, outputs, strict=True):
            tags = ["O"] * len(sentence.words)
            for word, tag in np.concatenate(windows).tolist():
                tags[word] = self._tags[tag]
            predicted.append(tuple(tags))
        counts = count_entities([sentence.tags for sentence in self.sentences], predicted, mode=self._mode)
        figures = [
            Figure("F1", EntityStatistic(counts, "f1")),
            Figure("precision", EntityStatistic(counts, "precision")),
            Figure("recall", EntityStatistic(counts, "recall")),
        ]
        figures += [
            Figure(f"F1 of {kind}", EntityStatistic(counts, "f1", kind=kind), is_detail=True)
            for kind in counts.kinds
        ]
        total = counts.scores()
        entities: dict[str, float] = {
            "gold entities": total.gold,
            "predicted entities": total.predicted,
            "right entities": total.right,
        }
        return tuple(figures), entities, predicted

    def _text(self, index: int) -> str:
        return " ".join(self.sentences[index].words)

    def _expected(self, index: int) -> str:
        return _tagged_words(self.sentences[index].words, self.sentences[index].tags)

    def _answer(self, predictions: Any, index: int) -> str:
        return _tagged_words(self.sentences[index].words, predictions[index])


def window_step(stride: int | None, max_length: int) -> int:
    """Wordpieces from one window of a long sentence to the next.

    Parameters
    ----------
    stride : int or None
        None: half of what a window holds.
    max_length : int
        Wordpieces of a window, with the two special tokens.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If `stride` is not in 1 .. `max_length` - 2.
    """
    room = max_length - 2
    step = max(1, room // 2) if stride is None else stride
    if not 1 <= step <= room:
        raise ValueError(f"stride: expected 1 .. {room} (max_length - 2), found {step}")
    return step


def check_tags(file: str, sentence: TaggedSentence, known: set[str]) -> None:
    """Refuse a sentence with a tag that a model does not know.

    Parameters
    ----------
    file : str
        For messages.
    sentence : TaggedSentence
    known : set of str

    Raises
    ------
    DataError
        With file, line, and near misses.
    """
    for word, tag in enumerate(sentence.tags):
        if tag not in known:
            near = difflib.get_close_matches(tag, known, n=3)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise DataError(
                f"{file}:{sentence.line + word}: tag: expected one of the model's {len(known)}, "
                f"found {tag!r:.40}{hint}"
            )


def _window_of(piece: int, spans: Sequence[tuple[int, int]]) -> int:
    """Window in which the shorter of the two sides of a wordpiece is longest; the first of equals."""
    best, widest = 0, -1
    for number, (begin, end) in enumerate(spans):
        context = min(piece - begin, end - 1 - piece)
        if context > widest:
            best, widest = number, context
    return best


def _tagged_words(words: Sequence[str], tags: Sequence[str]) -> str:
    tagged = [f"{word} ({tag})" for word, tag in zip(words, tags, strict=True) if tag != "O"]
    return ", ".join(tagged) or "(none)"

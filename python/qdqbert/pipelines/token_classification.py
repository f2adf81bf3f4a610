# SPDX-License-Identifier: Apache-2.0
"""``token-classification`` (``ner``): labels of tokens, or the entities that they make up.

Results are transformers', with one defect less: whether a wordpiece continues a word is asked of the
tokenizer, not guessed from the lengths of the piece and of its characters, which differ for decomposed
accents.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.pipelines.base import Options, Pipeline, Row
from qdqbert.pipelines.scores import softmax

__all__ = ["TokenClassificationOptions", "TokenClassificationPipeline"]

_STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclasses.dataclass(frozen=True, slots=True)
class TokenClassificationOptions(Options):
    """Options of ``token-classification``.

    Attributes
    ----------
    aggregation_strategy : {"none", "simple", "first", "average", "max"}
        none: a result for each token.  simple: neighbouring tokens of one label make an entity, a ``B-``
        begins another.  The others give all tokens of a word one label first: that of its first token, of
        the mean of their scores, or of the token with the highest score.
    ignore_labels : list of str
        Labels that are left out.
    stride : int, optional
        Cut a text longer than the model takes into windows that share so many tokens, instead of cutting it
        off.  Needs an aggregation.
    grouped_entities, ignore_subwords : bool, optional
        Deprecated in transformers: both are ``"first"``, the first alone is ``"simple"``.
    """

    aggregation_strategy: str = "none"
    ignore_labels: Sequence[str] = ("O",)
    stride: int | None = None
    grouped_entities: bool | None = None
    ignore_subwords: bool | None = None

    def __post_init__(self) -> None:
        if self.aggregation_strategy not in _STRATEGIES:
            raise ValueError(
                f"aggregation_strategy: expected one of {', '.join(_STRATEGIES)}, got "
                f"{self.aggregation_strategy!r}"
            )
        if isinstance(self.ignore_labels, str):
            raise TypeError(f"ignore_labels: expected a list of labels, got {self.ignore_labels!r}")
        if self.stride is not None and (isinstance(self.stride, bool) or not isinstance(self.stride, int)):
            raise TypeError(f"stride: expected an integer, got {self.stride!r}")
        if self.stride is not None and self.stride < 0:
            raise ValueError(f"stride: expected at least 0, got {self.stride}")


@dataclasses.dataclass(slots=True)
class _Piece:
    """A token, or a word, with its label."""

    label: str
    score: np.floating[Any]
    word: str
    start: int
    end: int
    index: int


class TokenClassificationPipeline(Pipeline[TokenClassificationOptions]):
    """Label tokens, or find entities.

    Parameters
    ----------
    model : QDQBertForTokenClassification
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`.
    **options
        `TokenClassificationOptions`.

    Examples
    --------
    >>> find = pipeline("ner", folder, aggregation_strategy="first")           # doctest: +SKIP
    >>> find("Ada Lovelace lived in London")                                   # doctest: +SKIP
    [{'entity_group': 'person', 'score': 0.97, 'word': 'ada lovelace', 'start': 0, 'end': 12}, ...]
    """

    task = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    options_class: ClassVar[type[Options]] = TokenClassificationOptions

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Label the tokens of texts.

        Parameters
        ----------
        inputs : str, a list or an iterator of them
        **options
            For this call.

        Returns
        -------
        list of dict, or a list or iterator of such lists
            Without aggregation ``entity``, ``score``, ``index`` (of the token), ``word`` (the token),
            ``start`` and ``end`` (characters); with it ``entity_group``, ``score``, ``word``, ``start``,
            ``end``.
        """
        return super().__call__(inputs, **options)

    def _checked(self, options: TokenClassificationOptions) -> TokenClassificationOptions:
        grouped, ignore = options.grouped_entities, options.ignore_subwords
        if grouped is not None or ignore is not None:
            strategy = ("first" if ignore else "simple") if grouped else "none"
            warnings.warn(
                "grouped_entities and ignore_subwords are deprecated: they mean "
                f"aggregation_strategy={strategy!r}",
                UserWarning,
                stacklevel=3,
            )
            options = dataclasses.replace(
                options, aggregation_strategy=strategy, grouped_entities=None, ignore_subwords=None
            )
        if options.stride is None:
            return options
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        if options.stride >= room:
            raise ValueError(
                f"stride: expected less than the {room} tokens that the model takes of a text, got "
                f"{options.stride}"
            )
        if options.aggregation_strategy == "none":
            raise ValueError("stride: windows overlap, which needs an aggregation_strategy other than 'none'")
        return options

    def _rows(self, item: Any, options: TokenClassificationOptions) -> list[Row]:
        if not isinstance(item, str):
            raise ValueError(f"inputs: expected a text, got {item!r:.60}")
        return self._encode(
            item,
            truncation=True,
            return_overflowing_tokens=options.stride is not None,
            stride=options.stride or 0,
        )

    def _take(
        self, outputs: Any, index: int, row: Row, options: TokenClassificationOptions
    ) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = outputs.logits[index, : len(row.input_ids)].copy()
        return logits

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: TokenClassificationOptions,
        given: frozenset[str],
    ) -> list[dict[str, Any]]:
        strategy = options.aggregation_strategy
        results: list[dict[str, Any]] = []
        for row, logits in zip(rows, taken, strict=True):
            words = self._words(item, row, softmax(logits), strategy)
            if strategy == "none":
                found = [
                    {
                        "entity": piece.label,
                        "score": float(piece.score),
                        "index": piece.index,
                        "word": piece.word,
                        "start": piece.start,
                        "end": piece.end,
                    }
                    for piece in words
                ]
            else:
                found = [self._entity(group) for group in _groups(words)]
            label = "entity" if strategy == "none" else "entity_group"
            results += [result for result in found if result[label] not in options.ignore_labels]
        return _without_overlaps(results) if len(rows) > 1 else results

    def _words(self, text: str, row: Row, scores: npt.NDArray[np.float32], strategy: str) -> list[_Piece]:
        """Tokens with their labels, or words for the strategies that label words."""
        encoding = row.encoding
        groups: list[list[int]] = []
        previous = None
        for index, word in enumerate(encoding.word_ids):
            if encoding.special_tokens_mask[index]:
                continue
            if groups and word is not None and word == previous and strategy not in ("none", "simple"):
                groups[-1].append(index)
            else:
                groups.append([index])
            previous = word
        pieces = []
        for group in groups:
            label, score = _label_of(scores[group], strategy)
            tokens = [self._token(text, row, index) for index in group]
            is_word = strategy not in ("none", "simple")
            pieces.append(
                _Piece(
                    self._label(label),
                    score,
                    self.tokenizer.convert_tokens_to_string(tokens) if is_word else tokens[0],
                    encoding.offsets[group[0]][0],
                    encoding.offsets[group[-1]][1],
                    group[0],
                )
            )
        return pieces

    def _token(self, text: str, row: Row, index: int) -> str:
        """Return a token, or the characters of one that the vocabulary lacks."""
        if row.input_ids[index] == self.tokenizer.unk_token_id:
            start, end = row.encoding.offsets[index]
            return text[start:end]
        return str(row.encoding.tokens[index])

    def _entity(self, group: Sequence[_Piece]) -> dict[str, Any]:
        return {
            "entity_group": group[0].label.split("-", 1)[-1],
            "score": float(np.mean([piece.score for piece in group])),
            "word": self.tokenizer.convert_tokens_to_string([piece.word for piece in group]),
            "start": group[0].start,
            "end": group[-1].end,
        }


def _label_of(scores: npt.NDArray[np.float32], strategy: str) -> tuple[int, np.floating[Any]]:
    """Label and score of the tokens of a word."""
    if strategy == "average":
        of_word = scores.mean(axis=0)
    elif strategy == "max":
        of_word = scores[scores.max(axis=1).argmax()]
    else:
        of_word = scores[0]
    label = int(of_word.argmax())
    return label, of_word[label]


def _groups(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Neighbours of one label, cut at each ``B-``."""
    groups: list[list[_Piece]] = []
    for piece in pieces:
        begins = piece.label.startswith("B-")
        if groups and not begins and _bare(piece.label) == _bare(groups[-1][-1].label):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _bare(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that overlap, keep the longest, of equally long ones the one with the best score."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        last = kept[-1] if kept else None
        if last is None or not last["start"] <= entity["start"] < last["end"]:
            kept.append(entity)
        elif (entity["end"] - entity["start"], entity["score"]) > (
            last["end"] - last["start"],
            last["score"],
        ):
            kept[-1] = entity
    return kept

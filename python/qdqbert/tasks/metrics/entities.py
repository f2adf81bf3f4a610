# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1 of named entities, from one tag a word.

An entity is right if its type, its first and its last word are.  What counts as an entity is decided in one
of two ways, each exactly as in seqeval (which follows conlleval in the first):

default
    Lenient.  Prefixes B, I, E, S (IOB1, IOB2, IOE, IOBES mixed as they come): an ``I-x`` that follows no open
    entity of type x opens one.
strict
    IOB2.  Only ``B-x`` opens an entity, and the ``I-x`` that follow it directly belong to it; other ``I-x``
    belong to nothing.

References
----------
Tjong Kim Sang and De Meulder, 2003, "Introduction to the CoNLL-2003 Shared Task"; seqeval 1.2.2,
https://github.com/chakki-works/seqeval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.metrics.statistic import Floats, Statistic, divide

__all__ = [
    "Entity",
    "EntityCounts",
    "EntityScores",
    "EntityStatistic",
    "count_entities",
    "entities_of",
    "entity_scores",
]

_MODES = ("default", "strict")
_AVERAGES = ("micro", "macro", "weighted")
_PREFIXES = {"default": "OBIES", "strict": "OBI"}
Tags = Sequence[str]


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """A named entity.

    Attributes
    ----------
    start, end : int
        First word and the one after the last.
    kind : str
        Type, e.g. ``"person"``; ``"_"`` where tags name none.
    """

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class EntityScores:
    """Scores of one type, or of all.

    Attributes
    ----------
    precision, recall, f1 : float
        In [0, 1]; 0 where nothing was predicted or is there.
    gold, predicted, right : int
        Entities.
    """

    precision: float
    recall: float
    f1: float
    gold: int
    predicted: int
    right: int


@dataclass(frozen=True, slots=True)
class EntityCounts:
    """Entities by sentence and type.

    Attributes
    ----------
    kinds : tuple of str
        The K types that occur, sorted.
    right, predicted, gold : ndarray (sentences, K) int64
    """

    kinds: tuple[str, ...]
    right: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    gold: npt.NDArray[np.int64]

    def scores(self, kind: str | None = None) -> EntityScores:
        """Scores of one type, or of all types together (micro average).

        Parameters
        ----------
        kind : str, optional
            One of `kinds`.

        Returns
        -------
        EntityScores

        Raises
        ------
        ValueError
            If there is no such type.
        """
        columns = slice(None) if kind is None else [self.kinds.index(kind)]
        right, predicted, gold = (
            int(values[:, columns].sum()) for values in (self.right, self.predicted, self.gold)
        )
        values = np.array([[right, right, 2 * right], [predicted, gold, predicted + gold]], dtype=np.float64)
        precision, recall, f1 = divide(values[0], values[1]).tolist()
        return EntityScores(precision, recall, f1, gold, predicted, right)


def entity_scores(
    gold: Sequence[Tags], predicted: Sequence[Tags], *, mode: str = "default"
) -> dict[str | None, EntityScores]:
    """Precision, recall and F1 of the entities of tagged sentences.

    Parameters
    ----------
    gold, predicted : sequence of sequences of str
        Tags of each sentence's words: ``"O"``, ``"B-person"``, ``"I-person"``, ...
    mode : {"default", "strict"}
        See the module's text.

    Returns
    -------
    dict of str to EntityScores
        By type, sorted; all types together (micro average) under None, first.

    Raises
    ------
    ValueError
        If `mode` is unknown, the sentences are none or differ in number or length, or a tag has another
        prefix than O, B, I (and E, S in the default mode).

    Examples
    --------
    >>> scores = entity_scores([["B-person", "I-person", "O"]], [["B-person", "O", "O"]])
    >>> scores[None].f1
    0.0
    """
    counts = count_entities(gold, predicted, mode=mode)
    keys: list[str | None] = [None, *counts.kinds]
    return {kind: counts.scores(kind) for kind in keys}


def count_entities(gold: Sequence[Tags], predicted: Sequence[Tags], *, mode: str = "default") -> EntityCounts:
    """Count entities by sentence and type.

    Parameters
    ----------
    gold, predicted, mode
        As in `entity_scores`, errors too.

    Returns
    -------
    EntityCounts
    """
    if len(gold) != len(predicted) or not gold:
        raise ValueError(
            f"gold, predicted: expected as many sentences, at least one, found {len(gold)}, {len(predicted)}"
        )
    spans: list[tuple[set[Entity], set[Entity]]] = []
    for index, (first, second) in enumerate(zip(gold, predicted, strict=True)):
        if len(first) != len(second):
            raise ValueError(
                f"predicted[{index}]: expected {len(first)} tags, one a word, found {len(second)}"
            )
        spans.append((set(entities_of(first, mode=mode)), set(entities_of(second, mode=mode))))
    kinds = tuple(sorted({entity.kind for pair in spans for part in pair for entity in part}))
    column = {kind: index for index, kind in enumerate(kinds)}
    table = np.zeros((3, len(spans), len(kinds)), dtype=np.int64)
    for row, (first_set, second_set) in enumerate(spans):
        for layer, part in enumerate((first_set & second_set, second_set, first_set)):
            for entity in part:
                table[layer, row, column[entity.kind]] += 1
    return EntityCounts(kinds, table[0], table[1], table[2])


def entities_of(tags: Tags, *, mode: str = "default") -> list[Entity]:
    """Entities of one sentence.

    Parameters
    ----------
    tags : sequence of str
    mode : {"default", "strict"}

    Returns
    -------
    list of Entity
        In order; they do not overlap.

    Raises
    ------
    ValueError
        If `mode` is unknown, or a tag has a prefix that it does not know; with the tag and its place.

    Examples
    --------
    >>> entities_of(["O", "I-group", "I-group", "B-group"])
    [Entity(start=1, end=3, kind='group'), Entity(start=3, end=4, kind='group')]
    >>> entities_of(["O", "I-group", "I-group", "B-group"], mode="strict")
    [Entity(start=3, end=4, kind='group')]
    """
    if mode not in _MODES:
        raise ValueError(f"mode: expected one of {', '.join(_MODES)}, found {mode!r}")
    found: list[Entity] = []
    start: int | None = None
    before, kind_before = "O", ""
    for index, tag in enumerate(tags):
        prefix, kind = _split(tag, index, mode)
        continues = (
            prefix in ("I", "E") and before in ("B", "I") and kind == kind_before and start is not None
        )
        if start is not None and not continues:
            found.append(Entity(start, index, kind_before))
            start = None
        if start is None and _opens(prefix, mode):
            start = index
        before, kind_before = prefix, kind
    if start is not None:
        found.append(Entity(start, len(tags), kind_before))
    return found


def _opens(prefix: str, mode: str) -> bool:
    return prefix == "B" if mode == "strict" else prefix != "O"


def _split(tag: str, index: int, mode: str) -> tuple[str, str]:
    """Prefix and type of a tag, cut where seqeval cuts in each mode."""
    prefix, rest = tag[:1], tag[1:]
    if prefix not in _PREFIXES[mode] or not prefix or (rest and not rest.startswith("-")):
        allowed = ", ".join(f"{letter}-..." for letter in _PREFIXES[mode][1:])
        raise ValueError(f"tags: expected O, {allowed}, found {tag!r} at word {index}")
    return prefix, (rest[1:] if mode == "default" else rest.strip("-")) or "_"


class EntityStatistic(Statistic):
    """Precision, recall or F1 of entities over sentences.

    Parameters
    ----------
    counts : EntityCounts
    score : {"precision", "recall", "f1"}
    average : {"micro", "macro", "weighted"}
        Over types: all entities together, the mean over types that occur, or that mean by their share of the
        gold entities.
    kind : str, optional
        Score of this type alone.

    Raises
    ------
    ValueError
        If `score` or `average` is unknown, or there is no such type.
    """

    def __init__(
        self, counts: EntityCounts, score: str = "f1", *, average: str = "micro", kind: str | None = None
    ) -> None:
        if score not in ("precision", "recall", "f1"):
            raise ValueError(f"score: expected precision, recall or f1, found {score!r}")
        if average not in _AVERAGES:
            raise ValueError(f"average: expected one of {', '.join(_AVERAGES)}, found {average!r}")
        columns = slice(None) if kind is None else [counts.kinds.index(kind)]
        parts = [values[:, columns] for values in (counts.right, counts.predicted, counts.gold)]
        if average == "micro":
            parts = [values.sum(axis=1, keepdims=True) for values in parts]
        self.size: int = len(counts.right)
        self._score, self._average = score, average
        self._columns = np.concatenate(parts, axis=1).astype(np.float64)

    def __call__(self, counts: Floats) -> Floats:
        """Score over the counted sentences."""
        right, predicted, gold = np.split(counts @ self._columns, 3, axis=1)
        if self._score == "f1":
            scores = divide(2 * right, predicted + gold)
        else:
            scores = divide(right, predicted if self._score == "precision" else gold)
        if self._average == "weighted":
            return divide((scores * gold).sum(axis=1), gold.sum(axis=1))
        # Of the micro average there is one column; of the macro average those types that occur.
        occurs = ((predicted + gold) > 0).astype(np.float64)
        return divide((scores * occurs).sum(axis=1), occurs.sum(axis=1))

# SPDX-License-Identifier: Apache-2.0
"""Tables of a model in which equal layers share their rows.

Neighbouring rows that share the beginning of their dotted names are a block; blocks of one list of layers
that say the same, names of layers aside, are shown once, with their number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["LayerBlock", "folded", "split_name"]


class _Row(Protocol):
    """What a row must tell."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...


Row = TypeVar("Row", bound=_Row)


@dataclasses.dataclass(frozen=True)
class LayerBlock(Generic[Row]):
    """Neighbouring rows that share the beginning of their name; equal blocks of a list are one.

    Attributes
    ----------
    title : str
        What they share, such as ``"bert.encoder.layer.0-11"``; empty for a row alone.
    count : int
        Number of equal blocks.
    rows : tuple of (str, row)
        The rest of the name, and the row; of the first block if there are several.
    """

    title: str
    count: int
    rows: tuple[tuple[str, Row], ...]


def split_name(name: str, lists: Sequence[str]) -> tuple[str, str]:
    """Cut a dotted name into what heads its block, and the rest.

    Parameters
    ----------
    name : str
    lists : sequence of str
        Dotted names of the lists of layers.

    Returns
    -------
    (str, str)

    Examples
    --------
    >>> split_name("bert.encoder.layer.3.output.dense", ["bert.encoder.layer"])
    ('bert.encoder.layer.3', 'output.dense')
    >>> split_name("bert.pooler.dense", ["bert.encoder.layer"])
    ('bert.pooler', 'dense')
    """
    for path in lists:
        start = f"{path}." if path else ""
        index, dot, rest = name[len(start) :].partition(".")
        if name.startswith(start) and index.isdecimal() and dot:
            return f"{start}{index}", rest
    head, _, label = name.rpartition(".")
    return head, label


def folded(rows: Iterable[Row], lists: Sequence[str], fact: Callable[[Row], Any]) -> list[LayerBlock[Row]]:
    """Return the rows as they are shown: grouped, and equal layers once.

    Parameters
    ----------
    rows : iterable of rows with a `name` and a `kind`
        In the order of computation.
    lists : sequence of str
        Dotted names of the lists of layers.
    fact : callable (row) -> object with ``==``
        What a row says that must be the same in layers that share their rows.

    Returns
    -------
    list of LayerBlock
    """
    shown: list[LayerBlock[Row]] = []
    for block in _single_blocks(rows, lists):
        last = shown[-1] if shown else None
        if last is not None and _follows(last, block, fact):
            title = _numbered(last.title.rpartition(".")[0], _first(last), _first(last) + last.count)
            shown[-1] = LayerBlock(title, last.count + 1, last.rows)
        else:
            shown.append(block)
    return shown


def _single_blocks(rows: Iterable[Row], lists: Sequence[str]) -> Iterator[LayerBlock[Row]]:
    gathered: list[tuple[str, Row]] = []
    title: str | None = None
    for row in rows:
        head, label = split_name(row.name, lists)
        if title is not None and head != title:
            yield _block(title, gathered)
            gathered = []
        title = head
        gathered.append((label, row))
    if title is not None:
        yield _block(title, gathered)


def _block(title: str, rows: list[tuple[str, Row]]) -> LayerBlock[Row]:
    if len(rows) == 1:
        return LayerBlock("", 1, ((rows[0][1].name or rows[0][1].kind, rows[0][1]),))
    return LayerBlock(title, 1, tuple(rows))


def _first(block: LayerBlock[Any]) -> int:
    """Return the number of the first layer that a block stands for; -1 for one that is no layer."""
    number = block.title.rpartition(".")[2].partition("-")[0]
    return int(number) if number.isdecimal() else -1


def _numbered(path: str, first: int, last: int) -> str:
    return f"{path}.{first}-{last}" if path else f"{first}-{last}"


def _follows(block: LayerBlock[Row], other: LayerBlock[Row], fact: Callable[[Row], Any]) -> bool:
    """Whether two blocks are neighbours in one list and say the same."""
    if not block.title or not other.title or _first(block) < 0:
        return False
    same_list = block.title.rpartition(".")[0] == other.title.rpartition(".")[0]
    if not same_list or _first(other) != _first(block) + block.count:
        return False
    facts = [[(label, fact(row)) for label, row in each.rows] for each in (block, other)]
    return bool(facts[0] == facts[1])

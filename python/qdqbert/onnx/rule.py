# SPDX-License-Identifier: Apache-2.0
"""What a rule about an ONNX file is; the table of them is in `qdqbert.onnx.rules`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from qdqbert.onnx.graph_view import GraphView

__all__ = ["Effect", "Finding", "Rule"]

Effect = Literal["refused", "wrong", "slow"]
"""What a violation leads to: the file is not taken, it computes something else, or not in 8 bits."""


class Finding(NamedTuple):
    """One place where a rule does not hold.

    Attributes
    ----------
    node : str
        Name of the node, tensor, input or output.
    found : str
        What is there, as the end of a sentence.
    """

    node: str
    found: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What must hold.

    Attributes
    ----------
    id : str
        Name for people and scripts; it does not change.
    says : str
        The rule as a sentence.
    effect : {"refused", "wrong", "slow"}
        What a violation leads to.
    cure : str
        What to do.
    source : str
        Where the rule is from.
    find : callable (GraphView) -> iterator of Finding
        The places of one graph where it does not hold.
    """

    id: str
    says: str
    effect: Effect
    cure: str
    source: str
    find: Callable[[GraphView], Iterator[Finding]]

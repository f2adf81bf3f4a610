# SPDX-License-Identifier: Apache-2.0
"""Globs over dotted names, as rules for quantizers and the freezing of parameters take them."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence

from qdqbert.errors import RuleError

__all__ = ["matching_any", "matching_names", "nothing_matches"]


def matching_names(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that a glob matches whole; ``*`` also crosses dots.

    Parameters
    ----------
    pattern : str
    names : sequence of str
    """
    matches = re.compile(fnmatch.translate(pattern)).match
    return [name for name in names if matches(name)]


def matching_any(patterns: Sequence[str], names: Sequence[str], what: str) -> set[str]:
    """Return the names that some of the globs match.

    Parameters
    ----------
    patterns, names : sequences of str
    what : str
        What has the names, such as "parameter".

    Raises
    ------
    TypeError
        If a pattern is no string.
    RuleError
        If one matches nothing; with the nearest names.
    """
    found: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"patterns: expected strings, got {pattern!r}")
        matched = matching_names(pattern, names)
        if not matched:
            raise RuleError(nothing_matches(pattern, names, what))
        found.update(matched)
    return found


def nothing_matches(pattern: str, names: Sequence[str], what: str) -> str:
    """Say that a glob matches nothing, and what comes near.

    Parameters
    ----------
    pattern : str
    names : sequence of str
    what : str
        As in `matching_any`.
    """
    if not names:
        return f"{pattern!r} matches no {what}: the model has none"
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
    return f"{pattern!r} matches no {what}; the nearest names are {', '.join(near)}"

# SPDX-License-Identifier: Apache-2.0
"""The sessions of one model: made when needed, kept, grown.

A session is the workspace of one call at a time.  The pool hands out one that is free and large enough, so a
model may be called from several threads, and repeated calls of one size allocate nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

from qdqbert._core import Model, Session

__all__ = ["SessionPool"]


class Limits(NamedTuple):
    """What a session has room for."""

    max_sequences: int
    max_length: int
    max_tokens: int
    keep_probabilities: bool

    def covers(self, other: Limits) -> bool:
        """Whether a call that needs `other` fits."""
        return all(mine >= wanted for mine, wanted in zip(self, other, strict=True))

    def grown_from(self, old: Limits) -> Limits:
        """Room for calls like `old` too, so that calls of two shapes in turn do not make a session each time.

        Probabilities take tokens * length: where the combination would double what either shape takes, the
        room is for this call alone.
        """
        both = Limits(
            max(old.max_sequences, self.max_sequences),
            max(old.max_length, self.max_length),
            max(old.max_tokens, self.max_tokens),
            self.keep_probabilities,
        )
        area = both.max_tokens * both.max_length
        larger = max(old.max_tokens * old.max_length, self.max_tokens * self.max_length)
        return self if self.keep_probabilities and area > 2 * larger else both


class SessionPool:
    """Sessions of `model` that no call is using.

    Parameters
    ----------
    model : _core.Model
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._free: list[tuple[Limits, Session]] = []

    @contextlib.contextmanager
    def session(self, batch: int, length: int, keep_probabilities: bool) -> Iterator[Session]:
        """Lend a session with room for `batch` sequences of `length` tokens.

        Raises
        ------
        MemoryError
            If there is not enough memory for it.
        ValueError
            If `length` exceeds the model's positions.
        """
        needed = Limits(batch, length, batch * length, keep_probabilities)
        limits, session = self._take(needed)
        try:
            yield session
        finally:
            with self._lock:
                self._free.append((limits, session))

    def _take(self, needed: Limits) -> tuple[Limits, Session]:
        with self._lock:
            for index, (limits, _) in enumerate(self._free):
                if limits.covers(needed):
                    return self._free.pop(index)
            grown = needed
            if self._free:
                grown = needed.grown_from(self._free.pop(0)[0])
        return grown, Session(
            self._model,
            max_sequences=grown.max_sequences,
            max_length=grown.max_length,
            max_tokens=grown.max_tokens,
            keep_probabilities=grown.keep_probabilities,
        )

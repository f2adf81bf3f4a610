# SPDX-License-Identifier: Apache-2.0
"""The sessions of one model: made when needed, kept, grown.

A session is the workspace of one call at a time.  The pool hands out one that is free and large enough, so a
model may be called from several threads, and repeated calls of one size allocate nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from qdqbert._core import Model, Session
from qdqbert.forks import ForkLock

__all__ = ["SessionPool"]

# A cache grows by a token a call; room for it grows by so many.
_PAST_STEP = 64


class Limits(NamedTuple):
    """What a session has room for."""

    max_sequences: int
    max_length: int
    max_tokens: int
    keep_probabilities: bool
    max_past: int = 0
    max_encoder_length: int = 0

    def covers(self, other: Limits) -> bool:
        """Whether a call that needs `other` fits."""
        return all(mine >= wanted for mine, wanted in zip(self, other, strict=True))

    def grown_from(self, old: Limits) -> Limits:
        """Room for calls like `old` too, so that calls of two shapes in turn do not make a session each time.

        Probabilities take tokens * keys: where the combination would double what either shape takes, the room
        is for this call alone.
        """
        both = Limits(
            max(old.max_sequences, self.max_sequences),
            max(old.max_length, self.max_length),
            max(old.max_tokens, self.max_tokens),
            self.keep_probabilities,
            max(old.max_past, self.max_past),
            max(old.max_encoder_length, self.max_encoder_length),
        )
        larger = max(old._probabilities(), self._probabilities())
        return self if self.keep_probabilities and both._probabilities() > 2 * larger else both

    def _probabilities(self) -> int:
        return self.max_tokens * (self.max_length + self.max_past + self.max_encoder_length)


class SessionPool:
    """Sessions of `model` that no call is using.

    Parameters
    ----------
    model : _core.Model
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = ForkLock()
        self._free: list[tuple[Limits, Session]] = []

    @contextlib.contextmanager
    def session(
        self, batch: int, length: int, keep_probabilities: bool, *, past: int = 0, encoder_length: int = 0
    ) -> Iterator[Session]:
        """Lend a session.

        Parameters
        ----------
        batch, length : int
            Sequences, and tokens of each.
        keep_probabilities : bool
            Whether attention probabilities are handed out, masked or dequantized.
        past : int
            Keys of earlier calls in a sequence.
        encoder_length : int
            Encoder states of a sequence.

        Raises
        ------
        MemoryError
            If there is not enough memory for it.
        ValueError
            If `length` exceeds the model's positions.
        """
        room = -(-past // _PAST_STEP) * _PAST_STEP
        needed = Limits(batch, length, batch * length, keep_probabilities, past, encoder_length)
        limits, session = self._take(needed, needed._replace(max_past=room))
        try:
            yield session
        finally:
            with self._lock:
                self._free.append((limits, session))

    def _take(self, needed: Limits, roomy: Limits) -> tuple[Limits, Session]:
        """Return a free session that covers `needed`, or make one with the room of `roomy`."""
        with self._lock:
            for index, (limits, _) in enumerate(self._free):
                if limits.covers(needed):
                    return self._free.pop(index)
            grown = roomy
            if self._free:
                grown = roomy.grown_from(self._free.pop(0)[0])
        return grown, Session(
            self._model,
            max_sequences=grown.max_sequences,
            max_length=grown.max_length,
            max_tokens=grown.max_tokens,
            keep_probabilities=grown.keep_probabilities,
            max_past=grown.max_past,
            max_encoder_length=grown.max_encoder_length,
        )

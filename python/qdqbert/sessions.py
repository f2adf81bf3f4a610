# SPDX-License-Identifier: Apache-2.0
"""The sessions of one model: made when needed, kept, grown.

A session is the workspace of one call at a time.  The pool hands out one that is free and large enough, so a
model may be called from several threads, and repeated calls of one size allocate nothing.  A call that is
recorded for training keeps its session until it has been walked back or dropped.
"""

from __future__ import annotations

import collections
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
    trains: bool = False
    recomputes: bool = False
    bf16_products: bool = False

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
            self.trains,
            self.recomputes,
            self.bf16_products,
        )
        larger = max(old._probabilities(), self._probabilities())
        return self if self.keep_probabilities and both._probabilities() > 2 * larger else both

    def kind(self) -> tuple[bool, bool, bool]:
        """Return what sessions must have in common: none serves calls of another kind."""
        return self.trains, self.recomputes, self.bf16_products

    def _probabilities(self) -> int:
        return self.max_tokens * (self.max_length + self.max_past + self.max_encoder_length)


class Loan:
    """A session that nobody else uses until it is given back, at the latest when the loan is dropped.

    Parameters
    ----------
    pool : SessionPool
    limits : Limits
    session : _core.Session
    """

    def __init__(self, pool: SessionPool, limits: Limits, session: Session) -> None:
        self.session = session
        self._pool: SessionPool | None = pool
        self._limits = limits

    def give_back(self) -> None:
        """Let the pool lend the session again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool._returned.append((self._limits, self.session))

    def __del__(self) -> None:
        self.give_back()


class SessionPool:
    """Sessions of `model` that no call is using.

    Parameters
    ----------
    model : _core.Model
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = ForkLock()
        # By kind: sessions that keep what backward needs are not for calls that have none, nor the reverse.
        self._free: dict[tuple[bool, bool, bool], list[tuple[Limits, Session]]] = {}
        # Appended to without the lock: a loan may be dropped, by the garbage collector, inside it.
        self._returned: collections.deque[tuple[Limits, Session]] = collections.deque()

    @contextlib.contextmanager
    def session(
        self, batch: int, length: int, keep_probabilities: bool, *, past: int = 0, encoder_length: int = 0
    ) -> Iterator[Session]:
        """Lend a session for one call.

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
        loan = self._lend(Limits(batch, length, batch * length, keep_probabilities, past, encoder_length))
        try:
            yield loan.session
        finally:
            loan.give_back()

    def training_session(
        self,
        batch: int,
        length: int,
        keep_probabilities: bool,
        *,
        encoder_length: int = 0,
        recomputes: bool = False,
        bf16_products: bool = False,
    ) -> Loan:
        """Lend a session that keeps what backward needs.

        Parameters
        ----------
        batch, length, keep_probabilities, encoder_length
            As in `session`.
        recomputes : bool
            Whether it keeps little, and backward computes the rest again.
        bf16_products : bool
            Whether products of linear layers round their operands to bfloat16.

        Raises
        ------
        UnsupportedError
            If the device has no such products.
        MemoryError
            If there is not enough memory for it.
        ValueError
            If `length` exceeds the model's positions.
        """
        limits = Limits(
            batch,
            length,
            batch * length,
            keep_probabilities,
            max_encoder_length=encoder_length,
            trains=True,
            recomputes=recomputes,
            bf16_products=bf16_products,
        )
        return self._lend(limits)

    def _lend(self, needed: Limits) -> Loan:
        """Return a free session that covers `needed`, or make one with room for a longer cache too."""
        room = needed._replace(max_past=-(-needed.max_past // _PAST_STEP) * _PAST_STEP)
        with self._lock:
            while self._returned:
                limits, session = self._returned.popleft()
                self._free.setdefault(limits.kind(), []).append((limits, session))
            free = self._free.setdefault(needed.kind(), [])
            for index, (limits, session) in enumerate(free):
                if limits.covers(needed):
                    del free[index]
                    return Loan(self, limits, session)
            if free:
                room = room.grown_from(free.pop(0)[0])
        session = Session(
            self._model,
            max_sequences=room.max_sequences,
            max_length=room.max_length,
            max_tokens=room.max_tokens,
            keep_probabilities=room.keep_probabilities,
            max_past=room.max_past,
            max_encoder_length=room.max_encoder_length,
            trains=room.trains,
            recomputes=room.recomputes,
            bf16_products=room.bf16_products,
        )
        return Loan(self, room, session)

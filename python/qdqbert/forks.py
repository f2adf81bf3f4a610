# SPDX-License-Identifier: Apache-2.0
"""Locks that a forked child finds free.

A child has the thread that forked and no other.  A lock that another thread held at that moment would stay
locked in it for ever, and so would what the thread was using: the `tokenizers` library has locks of its own.
So before a fork these locks are taken, one after the other: then no thread is inside any of them, and both
processes go on.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

__all__ = ["ForkLock"]


class ForkLock:
    """A mutex, as ``with lock:``, that no other thread holds while this process forks.

    Nothing that waits for another ForkLock, makes one or forks belongs inside.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._owner: int | None = None
        _forks.add(self)

    def __enter__(self) -> None:
        self._mutex.acquire()
        self._owner = threading.get_ident()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._owner = None
        self._mutex.release()

    def hold(self) -> bool:
        """Take it for a fork; False if the forking thread, in a signal handler, has it already."""
        if self._owner == threading.get_ident():
            return False
        self.__enter__()
        return True

    def let_go(self) -> None:
        """Give back what `hold` took."""
        self.__exit__(None, None, None)


class _Forks:
    """Every lock of this process, and those that are held for a fork under way."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()  # guards both; held during a fork
        self._locks: weakref.WeakSet[ForkLock] = weakref.WeakSet()
        self._held: list[list[ForkLock]] = []  # of one fork, and of those in a signal handler inside

    def add(self, lock: ForkLock) -> None:
        with self._mutex:
            self._locks.add(lock)

    def before(self) -> None:
        self._mutex.acquire()
        held: list[ForkLock] = []
        self._held.append(held)
        for lock in list(self._locks):
            if lock.hold():
                held.append(lock)

    def after(self) -> None:
        for lock in self._held.pop():
            lock.let_go()
        self._mutex.release()


_forks = _Forks()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_forks.before, after_in_parent=_forks.after, after_in_child=_forks.after)

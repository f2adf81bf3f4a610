# SPDX-License-Identifier: Apache-2.0
"""The exceptions that qdqbert raises on purpose.

Every class is also one of Python's own, so that code written for the originals keeps catching what it
caught: a wrong shape is a ``ValueError``, a wrong state a ``RuntimeError``. Plain ``ValueError``,
``TypeError``, ``IndexError`` and ``MemoryError`` are raised where they say enough.
"""

__all__ = [
    "BackendError",
    "CheckpointError",
    "Error",
    "NonFiniteError",
    "OutOfScopeError",
    "RuleError",
    "ShapeError",
    "StateError",
    "UnsupportedError",
]


class Error(Exception):
    """Base of every exception class defined by qdqbert."""


class ShapeError(Error, ValueError, RuntimeError):
    """A tensor has the wrong rank or dimensions; PyTorch says so with a RuntimeError."""


class StateError(Error, RuntimeError):
    """An object is not in a state that allows the call."""


class UnsupportedError(Error, NotImplementedError):
    """Well-formed, but not built, or not buildable on this machine."""


class OutOfScopeError(UnsupportedError, ImportError):
    """A name of the original toolkit that BERT has no place for; an ImportError for ``from ... import``."""


class BackendError(Error, RuntimeError):
    """The machine refused: threads, device or a system call."""


class CheckpointError(Error, RuntimeError, ValueError):
    """A checkpoint or configuration is missing, damaged, or of another kind than was asked for."""


class NonFiniteError(Error, FloatingPointError):
    """A loss or gradients of training are NaN or infinite; the message has step, batch and place."""


class RuleError(Error, KeyError):
    """A rule matches no quantizer; the message has the nearest names."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a sentence should read as one.
        return str(self.args[0]) if self.args else ""

# SPDX-License-Identifier: Apache-2.0
"""Passes of data through a model: errors say which batch, and a bar says how far."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qdqbert.errors import ShapeError, StateError
from qdqbert.module import Module

__all__ = ["evaluating", "progress_bar", "require_batches", "run_batch"]


def require_batches(batches: Any) -> None:
    """Refuse one batch where several are expected.

    Parameters
    ----------
    batches : iterable

    Raises
    ------
    TypeError
        If it is a mapping, whose keys would be taken for batches.
    """
    if isinstance(batches, Mapping):
        raise TypeError("batches: expected batches, got one (a dict of arguments); put it into a list")


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Return a context in which calls of a model are not recorded and drop nothing, whatever its mode.

    Parameters
    ----------
    model : Module, or any callable
        Whose parts keep their modes: that of the module that is called decides.
    """
    if not getattr(model, "training", False):
        yield
        return
    model.training = False
    try:
        yield
    finally:
        model.training = True


def run_batch(model: Module, index: int, batch: Any) -> Any:
    """Run a model, in evaluation mode, on one batch of several.

    Parameters
    ----------
    model : Module
    index : int
        Number of the batch, for messages.
    batch : mapping or object
        The model's arguments by name, or its first one.

    Raises
    ------
    Exception
        What the model raises for bad arguments, with the batch's number before it.
    """
    try:
        with evaluating(model):
            return model(**batch) if isinstance(batch, Mapping) else model(batch)
    except (ValueError, TypeError, IndexError, StateError) as error:
        if type(error) in (ValueError, TypeError, IndexError, StateError, ShapeError):
            raise type(error)(f"batch {index}: {error}") from error
        raise


@contextlib.contextmanager
def progress_bar(
    progress: bool | None, total: int | None, text: str, unit: str = "batch"
) -> Iterator[Callable[[], Any]]:
    """Give a callable that advances a progress bar on stderr, or does nothing.

    Parameters
    ----------
    progress : bool, optional
        Whether there is a bar; by default only if the standard error is a terminal.
    total : int or None
        Number of steps, if known.
    text : str
        What goes on.
    unit : str
        Name of a step.
    """
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        yield lambda: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=text, unit=unit) as bar:
        yield bar.update

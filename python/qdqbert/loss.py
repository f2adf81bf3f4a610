# SPDX-License-Identifier: Apache-2.0
"""`Loss`: the number that training makes small, and the way back to the forward that it comes from.

A loss is linear in its *terms*: one for each loss function of a recorded forward.  Arithmetic with numbers
and other losses scales and collects terms; `Loss.backward` walks each forward back once, with the sum of what
its terms say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from qdqbert.errors import StateError
from qdqbert.recording import OutputGradients, Recording

__all__ = ["Loss", "Term", "require_loss"]


class Term(NamedTuple):
    """A part of a loss that comes from one forward.

    Attributes
    ----------
    recording : Recording
    part : int
        Which of its parts, see `Recording.keep`.
    factor : float
        By which the part is multiplied.
    """

    recording: Recording
    part: int
    factor: float = 1.0


class Loss(np.float32):
    """A float32 number with a `backward`, as models return it when they are given labels.

    It behaves like any NumPy scalar.  What ``+``, ``-``, ``*`` and ``/`` make of it and numbers, or of two
    losses, is a loss again: ``(out.loss / 4).backward()`` accumulates a quarter.

    Parameters
    ----------
    value : float
    terms : tuple of Term
        Of the recorded forwards that it comes from; empty if it comes from none.

    Examples
    --------
    >>> (Loss(3.0) / 2 + 1).item()
    2.5
    """

    # Above every scalar of NumPy, so that ``np.float64(2) * loss`` asks the loss.
    __array_priority__: ClassVar[float] = 1000.0  # pyright: ignore[reportIncompatibleMethodOverride]
    _terms: tuple[Term, ...]

    def __new__(cls, value: Any, terms: tuple[Term, ...] = ()) -> Self:
        """Make the number."""
        loss = super().__new__(cls, value)
        loss._terms = terms
        return loss

    @classmethod
    def of(
        cls,
        value: float,
        recording: Recording | None,
        gradients_of: Callable[[float], OutputGradients],
    ) -> Self:
        """Return a loss with one term, or with none if its forward was not recorded.

        Parameters
        ----------
        value : float
        recording : Recording or None
        gradients_of : callable (float) -> OutputGradients
        """
        return cls(value, () if recording is None else (Term(recording, recording.keep(gradients_of)),))

    def backward(self) -> None:
        """Add the gradients of this number to those of the parameters that it was computed with.

        They are in `Parameter.grad`, where an optimizer finds them.  The forwards behind the loss are walked
        back, which can be done once.

        Raises
        ------
        StateError
            If it comes from no recorded forward, a forward has been walked back already, or the model has
            changed since.
        UnsupportedError
            If a quantizer of the model has no gradient; it is named.
        KeyboardInterrupt
            Within a tenth of a second.  Gradients are then a part of a sum, to be dropped by
            ``model.zero_grad()``.
        """
        if not self._terms:
            raise StateError(
                "backward: this loss comes from no recorded forward: call model.train() before the forward; "
                "and what NumPy computes from a loss has no way back, only + - * / do"
            )
        gradients: dict[Recording, OutputGradients] = {}
        for recording in dict.fromkeys(term.recording for term in self._terms):
            recording.require_usable()
        for recording, part, factor in self._terms:
            more = recording.gradients_of(part, factor)
            gradients[recording] = gradients[recording] + more if recording in gradients else more
        for recording, whole in gradients.items():
            recording.backward(whole)

    def detach(self) -> np.float32:
        """Return the number alone, which keeps no forward in memory."""
        return np.float32(self)

    def __reduce__(self) -> Any:
        """Copy and pickle as the number alone: its forward belongs to the model."""
        return np.float32, (float(self),)

    def __copy__(self) -> Any:
        return self.detach()

    def __deepcopy__(self, memo: Mapping[int, Any] | None) -> Any:
        return self.detach()

    # ---- arithmetic ----------------------------------------------------------------------------------------

    def _combined(self, value: Any, factor: float, other: Any = 0.0, other_factor: float = 0.0) -> Self:
        """Return a loss of this value whose gradient is that of ``factor * self + other_factor * other``."""
        terms = _scaled(self, factor) + _scaled(other, other_factor)
        return type(self)(value, terms)

    def __neg__(self) -> Any:
        return self._combined(-self.detach(), -1.0)

    def __pos__(self) -> Any:
        return self

    def __add__(self, other: Any) -> Any:
        if not _is_number(other):
            return self.detach() + other
        return self._combined(self.detach() + np.float32(other), 1.0, other, 1.0)

    def __radd__(self, other: Any) -> Any:
        return self + other

    def __sub__(self, other: Any) -> Any:
        if not _is_number(other):
            return self.detach() - other
        return self._combined(self.detach() - np.float32(other), 1.0, other, -1.0)

    def __rsub__(self, other: Any) -> Any:
        if not _is_number(other):
            return other - self.detach()
        return self._combined(np.float32(other) - self.detach(), -1.0, other, 1.0)

    def __mul__(self, other: Any) -> Any:
        if not _is_number(other):
            return self.detach() * other
        return self._combined(self.detach() * np.float32(other), float(other), other, float(self))

    def __rmul__(self, other: Any) -> Any:
        return self * other

    def __truediv__(self, other: Any) -> Any:
        if not _is_number(other):
            return self.detach() / other
        value, by = self.detach() / np.float32(other), float(other)
        slope = 1.0 / by if by else math.nan
        return self._combined(value, slope, other, -float(self) * slope * slope)

    def __rtruediv__(self, other: Any) -> Any:
        if not _is_number(other):
            return other / self.detach()
        value, by = np.float32(other) / self.detach(), float(self)
        slope = 1.0 / by if by else math.nan
        return self._combined(value, -float(other) * slope * slope, other, slope)


def require_loss(source: str, value: Any) -> Loss:
    """Return a loss that can be walked back.

    Parameters
    ----------
    source : str
        Where it is from, for messages.
    value : object

    Raises
    ------
    TypeError
        If it is something else, such as what NumPy computed from a loss.
    """
    if not isinstance(value, Loss):
        raise TypeError(
            f"{source}: expected a Loss, as models and + - * / of losses give it, "
            f"got {type(value).__name__}, which has no way back to the model"
        )
    return value


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, int | float | np.integer | np.floating)


def _scaled(value: Any, factor: float) -> tuple[Term, ...]:
    """Return the terms of a multiple of a loss; a number has none."""
    if not isinstance(value, Loss):
        return ()
    return tuple(term._replace(factor=term.factor * factor) for term in value._terms)

# SPDX-License-Identifier: Apache-2.0
"""What `Module.named_parameters` yields: a view of a parameter, its gradient, and whether it is trained.

The flags do not live in the view, which is made anew on each call, but in the `ParameterState` of the slot
behind it; so every view of a parameter, under every name it has, agrees.  Training reads them there.  The
numbers are where the view's `Place` says: in a model of the C core, in a quantizer of it, or in an array.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.copies import VERSION, restore
from qdqbert.errors import ShapeError, StateError

__all__ = ["ArrayPlace", "BoundPlace", "ModelPlace", "Parameter", "ParameterState", "Place"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(slots=True, eq=False)
class ParameterState:
    """What is known about a parameter beside its numbers.

    Attributes
    ----------
    requires_grad : bool
        Whether training computes its gradient and changes it.
    name : str
        Dotted name in its model; empty if it is in none.
    has_gradient : bool
        Whether its gradient has been set, by backward or by hand, since it was last dropped.
    gradient : ndarray, optional
        Of a parameter that is in no model.
    """

    requires_grad: bool = True
    name: str = ""
    has_gradient: bool = False
    gradient: Array | None = None


class Place:
    """Where the numbers of a parameter and its gradient are."""

    def read(self) -> Array:
        """Return the numbers as they are now."""
        raise NotImplementedError

    def write(self, value: Array) -> None:
        """Replace the numbers.

        Parameters
        ----------
        value : ndarray, of the parameter's shape
        """
        raise NotImplementedError

    def gradient(self) -> Array | None:
        """Return the gradient, a view where there can be one, or None where there is no room for it."""
        raise NotImplementedError

    def write_gradient(self, value: Array) -> None:
        """Replace the gradient.

        Parameters
        ----------
        value : ndarray, of the parameter's shape
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, slots=True)
class ModelPlace(Place):
    """A parameter of a C model.

    Attributes
    ----------
    model : _core.Model
    index : int
        Place in the list of ``model.parameters()``.
    is_present : callable () -> bool
        Whether the model that users hold still computes with this C model.
    is_frozen : bool
        Whether it keeps weights as codes, and cannot be trained.
    """

    model: _core.Model
    index: int
    is_present: Callable[[], bool]
    is_frozen: bool = False

    def read(self) -> Array:
        """Return a view of the numbers."""
        view = self.model.parameters()[self.index][1]
        assert view is not None  # a weight of codes has no place
        return view

    def write(self, value: Array) -> None:
        """Replace the numbers.

        Parameters
        ----------
        value : ndarray, of the parameter's shape
        """
        with _core.Change((self.model,)):
            self.model.parameter_write(self.index)[...] = value

    def gradient(self) -> Array | None:
        """Return a view of the gradient; None while nothing trains the model."""
        return self.model.gradient(self.index)

    def write_gradient(self, value: Array) -> None:
        """Replace the gradient.

        Parameters
        ----------
        value : ndarray, of the parameter's shape
        """
        gradient = self.model.gradient(self.index)
        if gradient is None:
            raise StateError(
                "grad: there is no room for gradients before the first forward in training mode, and for "
                "parameters that are not trained"
            )
        gradient[...] = value


@dataclasses.dataclass(frozen=True, slots=True)
class BoundPlace(Place):
    """The lower (0) or upper (1) learned bound of a quantizer.

    Attributes
    ----------
    source : callable () -> _core.Quantizer
        The present quantizer.
    which : int
    """

    source: Callable[[], _core.Quantizer]
    which: int

    def read(self) -> Array:
        """Return the bound."""
        return np.array(self.source().clip()[self.which], dtype=np.float32)

    def write(self, value: Array) -> None:
        """Replace the bound.

        Parameters
        ----------
        value : ndarray, of the parameter's shape
        """
        bounds = list(self.source().clip())
        bounds[self.which] = float(value)
        self.source().set_clip(*bounds)

    def gradient(self) -> Array:
        """Return a copy of the gradient."""
        return np.array(self.source().clip_gradient()[self.which], dtype=np.float32)

    def write_gradient(self, value: Array) -> None:
        """Replace the gradient.

        Parameters
        ----------
        value : ndarray, of the parameter's shape
        """
        gradients = list(self.source().clip_gradient())
        gradients[self.which] = float(value)
        self.source().set_clip_gradient(*gradients)


@dataclasses.dataclass(frozen=True, slots=True)
class ArrayPlace(Place):
    """A parameter that is in no model; only its owner sets its gradient.

    Attributes
    ----------
    values : callable () -> ndarray
    set_values : callable (ndarray) -> None
    state : ParameterState
        Keeps the gradient.
    """

    values: Callable[[], Array | None]
    set_values: Callable[[Array], None]
    state: ParameterState

    def read(self) -> Array:
        """Return the numbers."""
        values = self.values()
        assert values is not None  # parameters always exist
        return np.asarray(values)

    def write(self, value: Array) -> None:
        """Replace the numbers.

        Parameters
        ----------
        value : ndarray, of the parameter's shape
        """
        self.set_values(value)

    def gradient(self) -> Array | None:
        """Return the gradient."""
        return self.state.gradient

    def write_gradient(self, value: Array) -> None:
        """Replace the gradient.

        Parameters
        ----------
        value : ndarray, of the parameter's shape
        """
        self.state.gradient = np.array(value)


class Parameter(np.ndarray[Any, np.dtype[np.float32]]):
    """Read-only view of a parameter, with the `requires_grad` of PyTorch's.

    What is computed from a parameter, cut out of it or copied from it is an array without the flag; but
    ``copy.deepcopy`` and ``pickle`` give a parameter of its own, with numbers that may be changed, and
    ``copy.copy`` another view of this one.

    Parameters
    ----------
    values : ndarray, float32
        Viewed, not copied.
    state : ParameterState
        Shared by all views of the parameter.
    place : Place, optional
        Where the numbers are; None: in `values` alone.

    Examples
    --------
    >>> from qdqbert.nn import QuantLinear
    >>> linear = QuantLinear(3, 2)
    >>> linear.weight.requires_grad = False
    >>> [name for name, parameter in linear.named_parameters() if parameter.requires_grad]
    ['bias']
    """

    _state: ParameterState | None
    _place: Place | None

    def __new__(
        cls, values: npt.NDArray[np.float32], state: ParameterState, place: Place | None = None
    ) -> Self:
        """View `values`."""
        view = values.view(cls)
        view.flags.writeable = False
        view._state = state
        view._place = place
        return view

    def __array_finalize__(self, source: npt.NDArray[Any] | None) -> None:
        # Called for every array that NumPy derives from this one, none of which is the parameter.
        self._state = None
        self._place = None

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:  # which cannot be written to, and NumPy says so
            kwargs["out"] = tuple(_plain(each) for each in kwargs["out"])
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __copy__(self) -> Any:
        """Return another view of the same parameter."""
        if self._state is None:
            return np.asarray(self).copy()
        return type(self)(np.asarray(self), self._state, self._place)

    def __deepcopy__(self, memo: dict[int, Any] | None) -> Any:
        """Return a parameter of its own, that belongs to no module."""
        if self._state is None:
            return np.asarray(self).copy()
        return self._restored({"values": np.array(self), "requires_grad": self.requires_grad})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Take the parameter apart for ``pickle``; see `qdqbert.copies`."""
        values = np.asarray(self)
        if self._state is None:
            return values.__reduce_ex__(protocol)
        return restore, (type(self), VERSION, {"values": values, "requires_grad": self.requires_grad})

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make a parameter of its values and flag."""
        restored = cls(state["values"], ParameterState(state["requires_grad"]))
        restored.flags.writeable = True
        return restored

    @property
    def state(self) -> ParameterState:
        """What all views of this parameter share.

        Raises
        ------
        StateError
            If this array was derived from a parameter and is none.
        """
        if self._state is None:
            raise StateError("this array was computed, copied or cut out of a parameter and is none itself")
        return self._state

    @property
    def requires_grad(self) -> bool:
        """Whether training computes the gradient of this parameter and changes it; settable.

        Raises
        ------
        StateError
            If this array was derived from a parameter and is none.
        TypeError
            If it is set to something else than a bool.
        """
        return self.state.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def place(self) -> Place:
        """Where the numbers of this parameter and its gradient are.

        Raises
        ------
        StateError
            If this array was derived from a parameter and is none.
        """
        state = self.state
        if self._place is not None:
            return self._place
        return ArrayPlace(lambda: self, lambda value: np.copyto(self, value), state)

    @property
    def grad(self) -> Array | None:
        """Gradient, float32, of the parameter's shape, to which backward adds; None while there is none.

        It can be changed in place; set it to an array to replace it, or to None to drop it, after which
        optimizers pass the parameter over.  ``model.zero_grad()`` drops all of a model.

        Raises
        ------
        StateError
            If this array was derived from a parameter and is none, or is set before there is room for it.
        TypeError, ShapeError
            If it is set to something else than None or an array of its shape.
        """
        return self.place.gradient() if self.state.has_gradient else None

    @grad.setter
    def grad(self, value: npt.ArrayLike | None) -> None:
        state, place = self.state, self.place
        if value is None:
            if state.has_gradient and place.gradient() is not None:
                place.write_gradient(np.zeros(self.shape, np.float32))  # to which backward will add
            state.has_gradient = False
            return
        gradient = np.asarray(value)
        if gradient.dtype.kind not in "fiu":
            raise TypeError(f"grad: expected numbers, got {gradient.dtype}")
        if gradient.shape != self.shape:
            raise ShapeError(f"grad: expected shape {self.shape}, got {gradient.shape}")
        place.write_gradient(gradient.astype(np.float32, copy=False))
        state.has_gradient = True

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` and return this parameter.

        Parameters
        ----------
        requires_grad : bool

        Returns
        -------
        Parameter

        Raises
        ------
        StateError
            If this array was derived from a parameter and is none.
        TypeError
            If `requires_grad` is no bool.
        """
        if not isinstance(requires_grad, bool):
            raise TypeError(f"requires_grad: expected bool, got {type(requires_grad).__name__}")
        self.state.requires_grad = requires_grad
        return self


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, Parameter) else value

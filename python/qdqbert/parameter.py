# SPDX-License-Identifier: Apache-2.0
"""What `Module.named_parameters` yields: a read-only view of a parameter, and whether training may change it.

The flag does not live in the view, which is made anew on each call, but in the `ParameterState` of the slot
behind it; so every view of a parameter, under every name it has, agrees.  Training reads the flag there.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.copies import VERSION, restore
from qdqbert.errors import StateError

__all__ = ["Parameter", "ParameterState"]


@dataclasses.dataclass(slots=True, eq=False)
class ParameterState:
    """What is known about a parameter beside its numbers.

    Attributes
    ----------
    requires_grad : bool
        Whether training computes its gradient and changes it.
    """

    requires_grad: bool = True


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

    Examples
    --------
    >>> from qdqbert.nn import QuantLinear
    >>> linear = QuantLinear(3, 2)
    >>> linear.weight.requires_grad = False
    >>> [name for name, parameter in linear.named_parameters() if parameter.requires_grad]
    ['bias']
    """

    _state: ParameterState | None

    def __new__(cls, values: npt.NDArray[np.float32], state: ParameterState) -> Self:
        """View `values`."""
        view = values.view(cls)
        view.flags.writeable = False
        view._state = state
        return view

    def __array_finalize__(self, source: npt.NDArray[Any] | None) -> None:
        # Called for every array that NumPy derives from this one, none of which is the parameter.
        self._state = None

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:  # which cannot be written to, and NumPy says so
            kwargs["out"] = tuple(_plain(each) for each in kwargs["out"])
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __copy__(self) -> Any:
        """Return another view of the same parameter."""
        return np.asarray(self).copy() if self._state is None else type(self)(np.asarray(self), self._state)

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

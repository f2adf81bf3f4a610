# SPDX-License-Identifier: Apache-2.0
"""Copies of objects whose state lives in the C core: ``copy.deepcopy`` and ``pickle``.

Both make a new object by the public constructor of its class and give it the state of the old one.  The
state is what `Copyable._copy_state` returns: a dictionary of plain values, NumPy arrays, and objects that
have a state themselves.  A pickle holds, for each object::

    restore(class, 1, {"weight": ndarray, ...})         1 is `VERSION`, the number of this format
    carry(object, {"attributes": {...}, ...})           what users have put on it, see below

so that it does not depend on how the package keeps its state, but for the names of the classes and the keys
that their ``_copy_state`` documents.  A file of a newer format is refused.

Attributes and children that somebody has added to an object, and those of a class derived from one of this
package's, are carried along: the derived class's own ``__init__`` is not run again, as PyTorch does not.

Pickles run code when they are read, these like all: open only files that you trust, and save models for
others with `save_pretrained`.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

from qdqbert.errors import CheckpointError

__all__ = ["VERSION", "Copyable", "carry", "constructed", "restore"]

VERSION = 1


class Copyable:
    """An object that is copied and pickled through its constructor and a state.

    Subclasses define `_copy_state` and `_restored`, and list in `_machinery` the attributes and children that
    these two take care of; all others are carried from the object to its copy.
    """

    _machinery: ClassVar[frozenset[str]] = frozenset()

    def _copy_state(self) -> dict[str, Any]:
        """Return what `_restored` makes the object from.

        The value of ``"parameters"`` may hold views, which are not copied before `_restored` copies them.
        """
        raise NotImplementedError

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make an object from its state.

        Parameters
        ----------
        state : dict
            From `_copy_state`.
        """
        raise NotImplementedError

    def _carried(self) -> dict[str, Any]:
        """Return what users have put on the object."""
        own = self._machinery
        modules = vars(self).get("_modules", {})
        return {
            "attributes": {name: value for name, value in vars(self).items() if name not in own},
            "children": {name: module for name, module in modules.items() if name not in own},
        }

    def _carry(self, carried: dict[str, Any]) -> None:
        """Put what `_carried` returned on the object.

        Parameters
        ----------
        carried : dict
        """
        vars(self).update(carried["attributes"])
        if carried["children"]:
            vars(self)["_modules"].update(carried["children"])

    def _note_copy(self, copied: Any, memo: dict[int, Any]) -> None:
        """Enter parts of the object in the memo of ``copy.deepcopy``, with their copies.

        Parameters
        ----------
        copied : Copyable
        memo : dict
        """

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the object apart for ``pickle``; see the module's text."""
        made = (type(self), VERSION, self._copy_state())
        return restore, made, self._carried(), None, None, carry

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an independent object of the same state."""
        state = self._copy_state()
        views = state.pop("parameters", None)
        state = copy.deepcopy(state, memo)
        if views is not None:
            state["parameters"] = views
        copied: Self = restore(type(self), VERSION, state)
        memo[id(self)] = copied
        self._note_copy(copied, memo)
        copied._carry(copy.deepcopy(self._carried(), memo))
        return copied

    def __copy__(self) -> Self:
        """Refuse: two objects cannot share half of a state.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"{type(self).__name__}: a shallow copy would share a part of its state with the original; "
            "use copy.deepcopy"
        )


def restore(kind: Any, version: int, state: dict[str, Any]) -> Any:
    """Make an object of a state; pickles call this.

    Parameters
    ----------
    kind : type
    version : int
        Of the format.
    state : dict

    Raises
    ------
    CheckpointError
        If the format is another one, or the state is none of the class.
    """
    if version != VERSION:
        raise CheckpointError(
            f"pickle of {kind.__name__}: format {version!r}, and this version of qdqbert reads {VERSION}"
        )
    try:
        return kind._restored(state)
    except KeyError as error:
        raise CheckpointError(f"pickle of {kind.__name__}: the state has no {error}") from error


def carry(restored: Copyable, carried: dict[str, Any]) -> None:
    """Put what users had added on a restored object; pickles call this.

    Parameters
    ----------
    restored : Copyable
    carried : dict
    """
    restored._carry(carried)


def constructed(kind: type[Any], *arguments: Any, **keywords: Any) -> Any:
    """Return a new object of a class, made by the constructor of this package's class alone.

    Parameters
    ----------
    kind : type
        A class of this package, or one derived from it, whose own ``__init__`` is not run.
    *arguments, **keywords
        Of that constructor.
    """
    package = __name__.partition(".")[0]
    own = next(each for each in kind.__mro__ if each.__module__.partition(".")[0] == package)
    made: Any = object.__new__(kind)
    own.__init__(made, *arguments, **keywords)  # type: ignore[misc]
    return made

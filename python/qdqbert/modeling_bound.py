# SPDX-License-Identifier: Apache-2.0
"""One C model with all that is looked up in it by name, and what the weights of a frozen one are.

A weight that a frozen model keeps as codes has no floats to show.  Whoever reads it gets what the model
multiplies: ``code / scale``, computed when it is asked for; nobody can write it.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from qdqbert._core import Model, Quantizer
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.errors import StateError
from qdqbert.module import Slot
from qdqbert.parameter import ParameterState
from qdqbert.sessions import SessionPool

__all__ = ["FROM_FILE", "FROZEN", "THAW", "Bound", "difference_of", "snapshot"]

# What to do about it.
THAW = "load the checkpoint again, with from_pretrained(..., thaw=True) if it is one of int8 codes"
# What follows the name of a tensor that cannot be written, and a colon.
FROZEN = f"cannot be changed, because the model is frozen and has its int8 codes alone; {THAW}"
FROM_FILE = f"cannot be changed, because the model is frozen and reads it from a mapped file; {THAW}"


class Bound(NamedTuple):
    """One C model, its parameters (place and view) and quantizers by name, its sessions, and its origin.

    Attributes
    ----------
    model : _core.Model
    parameters : dict of str to (int, ndarray)
        Place in the model and read-only view; without the weights that are kept as codes.
    quantizers : dict of str to _core.Quantizer
    sessions : SessionPool
    config : QDQBertConfig
        As it was when the C model was made; what a user wrote into his own since changes no size.
    codes : dict of str to (int, tuple of int)
        Place and shape of the weights that are kept as codes.
    lent : dict of str to ndarray
        Parameters whose numbers are in a mapped file.
    """

    model: Model
    parameters: dict[str, tuple[int, npt.NDArray[np.float32]]]
    quantizers: dict[str, Quantizer]
    sessions: SessionPool
    config: QDQBertConfig
    codes: dict[str, tuple[int, tuple[int, ...]]]
    lent: dict[str, npt.NDArray[np.float32]]

    @classmethod
    def to(
        cls, model: Model, config: QDQBertConfig, lent: dict[str, npt.NDArray[np.float32]] | None = None
    ) -> Bound:
        """Look everything of a model up.

        Parameters
        ----------
        model : _core.Model
        config : QDQBertConfig
            That it was made from; copied.
        lent : dict of str to ndarray, optional
            What it was lent.
        """
        listed = list(enumerate(model.parameters()))
        parameters = {name: (index, view) for index, (name, view) in listed if view is not None}
        codes: dict[str, tuple[int, tuple[int, ...]]] = {}
        if len(parameters) < len(listed):
            storages = model.storages()
            codes = {name: (index, storages[index][1]) for index, (name, view) in listed if view is None}
        return cls(
            model,
            parameters,
            dict(model.quantizers()),
            SessionPool(model),
            snapshot(config),
            codes,
            dict(lent or {}),
        )

    def read_codes(self, name: str) -> npt.NDArray[np.int8]:
        """Return the codes of a weight, whether it is kept as codes or as floats.

        Parameters
        ----------
        name : str
            Dotted name in the model.
        """
        index = self.codes[name][0] if name in self.codes else self.parameters[name][0]
        return self.model.read_codes(index)

    def slot_of_codes(self, name: str, state: ParameterState) -> Slot:
        """Return the slot of a weight that is kept as codes: no parameter, since nothing can change it.

        Parameters
        ----------
        name : str
            Dotted name in the model.
        state : ParameterState
        """
        model, (index, shape) = self.model, self.codes[name]
        quantizer = self.quantizers[f"{name.removesuffix('.weight')}._weight_quantizer"]

        def read() -> npt.NDArray[np.float32]:
            values = model.values_of_codes(index, model.read_codes(index))
            values.flags.writeable = False
            return values

        def refuse(value: Any) -> NoReturn:
            raise StateError(f"{name}: {FROZEN}")

        def difference(value: npt.NDArray[np.float32]) -> str:
            # What its code stands for is another number for every code of a row.
            return difference_of(quantizer.forward(value), read(), "other codes than it has", FROZEN)

        return Slot(
            read=read,
            write=refuse,
            shape=shape,
            is_parameter=False,
            owner=model,
            state=state,
            refusal=FROZEN,
            difference=difference,
        )


def difference_of(
    value: npt.NDArray[np.float32], present: npt.NDArray[np.float32], what: str, refusal: str
) -> str:
    """Return how many numbers differ, the first place, and why that cannot be; empty if none does.

    Parameters
    ----------
    value, present : ndarray, float32, of one shape
    what : str
        What a number that differs stands for.
    refusal : str
    """
    differing = np.argwhere((value != present) & ~(np.isnan(value) & np.isnan(present)))
    if not len(differing):
        return ""
    place = tuple(int(each) for each in differing[0])
    return f"{len(differing)} of {value.size} numbers are {what}, the first at {place}; it {refusal}"


def snapshot(config: QDQBertConfig) -> QDQBertConfig:
    """Return a copy of a configuration whose sizes do not follow it.

    Parameters
    ----------
    config : QDQBertConfig
    """
    copied = copy.copy(config)
    copied.id2label = dict(config.id2label)
    copied.pruned_heads = {layer: list(heads) for layer, heads in config.pruned_heads.items()}
    return copied

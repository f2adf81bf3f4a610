# SPDX-License-Identifier: Apache-2.0
"""Freezing a model: its integer linear layers keep their weights as int8 codes, and the floats go.

A C model is not changed for that.  As for a change of sizes (`qdqbert.surgery`), another one is made, which
has no room for the floats, is given the codes, and takes the place of the old one in one assignment: a
failure leaves everything as it was, and a forward of another thread ends on the model that it began on.
The old floats are given back when nobody holds them any more: a forward, an optimizer, a view of a parameter.

A checkpoint of codes is loaded by the same steps, with the codes of the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array
from qdqbert.errors import StateError
from qdqbert.modeling_bound import Bound
from qdqbert.modeling_engine import Engine
from qdqbert.surgery import copy_quantizer
from qdqbert.text_table import format_bytes

__all__ = ["FreezeReport", "freeze_engine"]

# Where the codes of a weight are: in memory, or (descriptor, byte) in an open file.
Codes = npt.NDArray[np.int8] | tuple[int, int]

_SUFFIX = ".weight"


@dataclasses.dataclass(frozen=True)
class FreezeReport:
    """What `freeze` did.

    Attributes
    ----------
    frozen : tuple of str
        Dotted names of the weights that are int8 codes now.
    kept : dict of str to str
        The other weights of layers with quantizers, which stay float32, and why.
    float_bytes : int
        Of all parameters as float32.
    frozen_bytes : int
        What they take now: packed codes with their scales, and what stays float32.
    mapped_bytes : int
        Of the floats that are in a mapped file instead, of which memory holds what was read.
    """

    frozen: tuple[str, ...]
    kept: dict[str, str]
    float_bytes: int
    frozen_bytes: int
    mapped_bytes: int = 0

    def __str__(self) -> str:
        count = len(self.frozen)
        lines = [
            f"{count} weight{'' if count == 1 else 's'} kept as int8 codes: "
            f"{format_bytes(self.frozen_bytes)} instead of {format_bytes(self.float_bytes)}"
        ]
        if self.mapped_bytes:
            lines[0] += f", and {format_bytes(self.mapped_bytes)} in a mapped file"
        lines += [f"{name} stays float32: {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines)

    __repr__ = __str__


def report_of(bound: Bound) -> FreezeReport:
    """Say what of a model is frozen.

    Parameters
    ----------
    bound : Bound
    """
    names = [name for name, _ in bound.model.parameters()]
    kept, float_bytes, frozen_bytes, mapped_bytes = {}, 0, 0, 0
    for name, (storage, shape, own, packed, reason) in zip(names, bound.model.storages(), strict=True):
        size = 4 * math.prod(shape)
        float_bytes += size
        frozen_bytes += own + (packed if storage == "codes" else 0)
        mapped_bytes += size if storage == "lent" else 0
        if storage != "codes" and _has_quantizer(bound, name):
            kept[name] = reason or "it could be codes: freeze again"
    return FreezeReport(tuple(bound.codes), kept, float_bytes, frozen_bytes, mapped_bytes)


def freezable(bound: Bound) -> tuple[list[str], dict[str, str]]:
    """Return the weights whose codes are all that products need, and why those of the others are not.

    Parameters
    ----------
    bound : Bound
    """
    names = [name for name, _ in bound.model.parameters()]
    chosen, reasons = [], {}
    for name, (_, _, _, _, reason) in zip(names, bound.model.storages(), strict=True):
        if reason is None:
            chosen.append(name)
        elif _has_quantizer(bound, name):
            reasons[name] = reason
    return chosen, reasons


def _has_quantizer(bound: Bound, name: str) -> bool:
    return name.endswith(_SUFFIX) and f"{name.removesuffix(_SUFFIX)}._weight_quantizer" in bound.quantizers


def freeze_engine(
    engine: Engine,
    codes: Mapping[str, Codes] | None = None,
    lent: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> FreezeReport:
    """Put a C model that keeps weights as codes behind a model.

    Parameters
    ----------
    engine : Engine
    codes : mapping of str to ndarray, int8, or (int, int), optional
        Of the weights, in memory, or (descriptor, byte) in an open file; if left out, those that the present
        weights have, of all layers that multiply codes.
    lent : mapping of str to ndarray, optional
        Parameters that are read where they lie, instead of those of the present model.

    Returns
    -------
    FreezeReport

    Raises
    ------
    StateError
        If no layer multiplies codes, one of `codes` does not, or another thread changes the model meanwhile.
    ValueError
        If a weight has a NaN or an infinity, or a code is none of its quantizer's.
    EOFError, OSError
        If a file of codes ends before, or cannot be read.
    MemoryError
        If there is not enough memory for the codes beside the present model.
    """
    old = engine.handles.bound
    epoch = old.model.epoch()
    if codes is None:
        chosen, reasons = freezable(old)
        if not chosen:
            why = next((f": {name}: {reason}" for name, reason in reasons.items()), "")
            raise StateError(f"freeze: no linear layer multiplies int8 codes{why}; see execution_sites()")
    else:
        chosen = list(codes)
    floats = {name: array for name, array in {**old.lent, **(lent or {})}.items() if name not in chosen}
    new = _made(engine, old, chosen, codes, floats)
    with engine.handles.turning:
        if engine.handles.bound is not old or old.model.epoch() != epoch:
            raise StateError(
                "freeze: another thread changed the model in the meantime: nothing was done; call again"
            )
        engine.handles.bound = new
    engine.forget_recorded()  # which holds the old model
    return report_of(new)


def _made(
    engine: Engine,
    old: Bound,
    chosen: list[str],
    codes: Mapping[str, Codes] | None,
    lent: dict[str, Array],
) -> Bound:
    new = Bound.to(engine.make_core(old.config, chosen, lent), old.config, lent)
    for name, (index, _) in new.parameters.items():
        if name not in lent:
            new.model.parameter_write(index)[...] = old.parameters[name][1]
    for name, quantizer in new.quantizers.items():
        copy_quantizer(old.quantizers[name], quantizer)
        module = engine.handles.modules.get(name)
        quantizer.set_observer(getattr(getattr(module, "_observing", None), "_observer", None))
        weight = f"{name.removesuffix('._weight_quantizer')}{_SUFFIX}"
        if weight in new.codes and name.endswith("._weight_quantizer") and quantizer.amax() is None:
            quantizer.set_amax(_range_of(engine, old, weight, quantizer))
    if codes is None:  # one after the other, so that only one is there beside floats and packed codes
        for name, (index, _) in new.codes.items():
            new.model.write_codes(index, old.read_codes(name))
    else:
        new.model.write_all_codes([(index, codes[name]) for name, (index, _) in new.codes.items()])
    new.model.seal()
    return new


def _range_of(engine: Engine, old: Bound, name: str, quantizer: Any) -> Array:
    """Return the range of a weight that has none of its own: that which each forward would find."""
    if name not in old.parameters:
        raise StateError(f"{name}: its quantizer has no amax, without which codes mean nothing")
    axis = quantizer.options()["axis"]
    kept = () if axis is None else tuple(axis)
    amax = _core.reduce_amax(engine.core.device, old.parameters[name][1], kept)
    return amax if kept else amax.reshape(())

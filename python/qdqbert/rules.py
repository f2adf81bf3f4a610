# SPDX-License-Identifier: Apache-2.0
"""Switch quantizers by name: an ordered list of patterns, of which later ones win.

A pattern is a glob over whole dotted names (``*`` also crosses dots, ``[0-3]`` and ``?`` work), so nothing is
switched because a name happens to contain another.  A rule that matches nothing is an error: silence would
mean a measurement of something else.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from qdqbert._core import STAGE_CALIB, STAGE_DISABLED, STAGE_QUANT, Change, Quantizer, Undoing
from qdqbert.arrays import Array
from qdqbert.errors import RuleError, ShapeError, StateError
from qdqbert.modeling_bound import THAW
from qdqbert.module import Module
from qdqbert.name_globs import matching_names, nothing_matches
from qdqbert.nn import TensorQuantizer

__all__ = ["Changes", "QuantizerState", "named_quantizers", "quantizers"]

# How long the end of a block waits for forwards of other threads, and how often it looks, in seconds.
_PATIENCE = 30.0
_PAUSE = 0.001

_STATES = ("on", "off", "calib")
_OPTIONS = ("num_bits", "unsigned", "narrow_range", "scale_amax")
_ATTRIBUTES = ("state", "amax", *_OPTIONS)


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizerState:
    """What rules can change about one quantizer.

    Attributes
    ----------
    stages : int
        The ``STAGE_*`` bits.
    options : dict
        Number format, axis and flags.
    amax : ndarray or None
        Range; None while it is dynamic.
    """

    stages: int
    options: dict[str, Any]
    amax: Array | None

    @classmethod
    def of(cls, quantizer: TensorQuantizer) -> QuantizerState:
        """Return the present state.

        Parameters
        ----------
        quantizer : TensorQuantizer
        """
        handle = quantizer._handle
        return cls(handle.stages, handle.options(), handle.amax())

    def apply(self, quantizer: TensorQuantizer) -> None:
        """Put the quantizer into this state.

        Parameters
        ----------
        quantizer : TensorQuantizer
        """
        handle = quantizer._handle
        handle.set_options(self.options)
        handle.set_amax(self.amax)
        handle.stages = self.stages

    @property
    def state(self) -> str:
        """``"off"``, ``"on"``, ``"calib"`` or ``"calib+quant"``; ``"idle"`` if neither stage is on."""
        if self.stages & STAGE_DISABLED:
            return "off"
        calib, quant = bool(self.stages & STAGE_CALIB), bool(self.stages & STAGE_QUANT)
        return {(False, True): "on", (True, False): "calib", (True, True): "calib+quant"}.get(
            (calib, quant), "idle"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantizerState):
            return NotImplemented
        if (self.amax is None) != (other.amax is None):
            return False
        same_range = self.amax is None or (
            other.amax is not None
            and self.amax.shape == other.amax.shape
            and np.array_equal(self.amax, other.amax, equal_nan=True)
        )
        return self.stages == other.stages and self.options == other.options and same_range

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        bits = self.options["num_bits"]
        if self.amax is None:
            amax = "dynamic"
        elif self.amax.size == 1:
            amax = f"{self.amax.item():.4g}"
        else:
            amax = f"{self.amax.size} values"
        return f"<{self.state}, {bits} bits, amax {amax}>"


class Changes(Undoing, Mapping[str, tuple[QuantizerState, QuantizerState]]):
    """What a call of `quantizers` changed: name -> (before, after).  A context manager that restores on exit.

    Leaving the block waits for forwards of other threads to end, and restores although Ctrl-C is pressed.

    Parameters
    ----------
    entries : list of (str, TensorQuantizer, QuantizerState, QuantizerState)
    """

    def __new__(cls, entries: list[tuple[str, TensorQuantizer, QuantizerState, QuantizerState]]) -> Self:
        """Take the arguments of `__init__`, which the base does not know."""
        return super().__new__(cls)

    def __init__(self, entries: list[tuple[str, TensorQuantizer, QuantizerState, QuantizerState]]) -> None:
        self._entries = entries
        self._deadline: float | None = None
        self._by_name = {name: (before, after) for name, _, before, after in entries}

    def __getitem__(self, name: str) -> tuple[QuantizerState, QuantizerState]:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def restore(self) -> None:
        """Put every quantizer that was changed back into the state before the call.

        If its weight has lost rows since, by pruning, the range is the one that was cut with them.

        Raises
        ------
        StateError
            If a forward runs on the model at this moment; then nothing is put back.
        """
        with changing_quantizers(quantizer for _, quantizer, _, _ in self._entries):
            for _, quantizer, before, _ in self._entries:
                state = before
                try:
                    quantizer._require_fit(before.amax)
                except ShapeError:
                    state = dataclasses.replace(before, amax=quantizer._handle.amax())
                state.apply(quantizer)

    def undo(self) -> None:
        """Do what leaving the block does: `restore`, as soon as no forward runs on the model.

        Raises
        ------
        StateError
            If there was no such moment in half a minute; then nothing is put back.
        """
        if self._deadline is None:  # an interrupt does not make it later
            self._deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.restore()
            except StateError as error:
                if _frozen_one(quantizer._handle for _, quantizer, _, _ in self._entries) is not None:
                    self._deadline = None
                    raise
                if time.monotonic() >= self._deadline:
                    self._deadline = None
                    raise StateError(
                        f"{error}; forwards of other threads left no moment in {_PATIENCE:g} s to restore "
                        f"{len(self._entries)} quantizers; `restore` does it once they have ended"
                    ) from error
                time.sleep(_PAUSE)
            else:
                self._deadline = None
                return

    def __reduce__(self) -> Any:
        """Refuse to be copied: a copy would restore nothing.

        Raises
        ------
        StateError
            Always.
        """
        raise StateError(
            "Changes: belongs to the model that was changed and cannot be copied or pickled; copy the model"
        )

    def __repr__(self) -> str:
        lines = [f"{len(self)} quantizers changed"]
        lines += [f"  {name}: {before!r} -> {after!r}" for name, (before, after) in self.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from qdqbert.notebook import changes_html

        return changes_html(self)


def changing_quantizers(quantizers: Iterable[TensorQuantizer]) -> Change:
    """Return a context in which no forward sees a part of what is changed, so that it can be undone.

    Parameters
    ----------
    quantizers : iterable of TensorQuantizer

    Raises
    ------
    StateError
        If a forward runs on one of their models at this moment, or one belongs to a weight that is frozen.
    """
    handles = tuple(quantizer._handle for quantizer in quantizers)
    name = _frozen_one(handles)
    if name is not None:
        raise StateError(f"{name}: cannot be changed, because the weight of its layer is frozen; {THAW}")
    return Change(handles)


def _frozen_one(handles: Iterable[Quantizer]) -> str | None:
    """Return the name of a quantizer that nobody can change any more."""
    return next((handle.frozen_name for handle in handles if handle.frozen_name is not None), None)


def named_quantizers(model: Module) -> list[tuple[str, TensorQuantizer]]:
    """Return (dotted name, quantizer) of every quantizer, in the order of `Module.named_modules`.

    Parameters
    ----------
    model : Module
    """
    return [(name, module) for name, module in model.named_modules() if isinstance(module, TensorQuantizer)]


def quantizers(
    model: Module, rules: Mapping[str, Any] | Iterable[tuple[str, Any]], *, allow_unmatched: bool = False
) -> Changes:
    """Switch or change quantizers by name.

    Parameters
    ----------
    model : Module
    rules : mapping or list of (pattern, setting)
        Patterns are globs over whole dotted names.  A setting is ``"off"``, ``"on"`` (quantizes, does not
        collect), ``"calib"`` (collects, does not quantize), or a dict with any of ``state`` (one of the
        three), ``num_bits``, ``unsigned``, ``narrow_range``, ``scale_amax`` and ``amax`` (None: dynamic).
        Later rules win, attribute by attribute.
    allow_unmatched : bool
        Ignore rules that match nothing.

    Returns
    -------
    Changes
        What changed, by name; as a context manager it restores on exit, also after an exception.  Ctrl-C
        leaves either everything as it was or, outside of a block, everything changed.

    Raises
    ------
    RuleError
        If a rule matches no quantizer; a KeyError, with the nearest names.
    TypeError, ValueError
        If a setting cannot be; the rule is named.  Nothing is changed then.
    StateError
        If a forward runs on the model at this moment.  Nothing is changed then.

    Examples
    --------
    >>> import qdqbert
    >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
    >>> model = qdqbert.QDQBertModel(config)
    >>> with quantizers(model, {"*": "off", "*.layer.0.*": "on"}) as changes:
    ...     output = model([[5, 6, 7]])  # only the first layer is quantized
    >>> len(changes)
    220
    """
    entries = named_quantizers(model)
    names = [name for name, _ in entries]
    wanted: dict[str, dict[str, Any]] = {}
    for pattern, setting in list(rules.items() if isinstance(rules, Mapping) else rules):
        if not isinstance(pattern, str):
            raise TypeError(f"rules: expected patterns, got {pattern!r}")
        attributes = _attributes(pattern, setting)
        matched = matching_names(pattern, names)
        if not matched and not allow_unmatched:
            raise RuleError(f"rules: {nothing_matches(pattern, names, 'quantizer')}")
        for name in matched:
            wanted.setdefault(name, {}).update(attributes)
    touched: list[tuple[str, TensorQuantizer, QuantizerState, QuantizerState]] = []
    attempt = Changes(touched)
    chosen = [(name, quantizer) for name, quantizer in entries if name in wanted]
    try:
        with changing_quantizers(quantizer for _, quantizer in chosen):
            try:
                for name, quantizer in chosen:
                    before = QuantizerState.of(quantizer)
                    touched.append((name, quantizer, before, before))
                    _apply(name, quantizer, before, wanted[name])
            except BaseException:
                # Before a forward can see a part.  One call of C, which no interrupt keeps from beginning.
                attempt.__exit__(None, None, None)
                touched.clear()
                raise
        after = [(*entry[:3], QuantizerState.of(entry[1])) for entry in touched]
        return Changes([entry for entry in after if entry[3] != entry[2]])
    except BaseException:
        attempt.__exit__(None, None, None)
        raise


def _apply(name: str, quantizer: TensorQuantizer, before: QuantizerState, attributes: dict[str, Any]) -> None:
    try:
        state = _changed(before, attributes)
        quantizer._require_fit(state.amax)
        if state.stages & STAGE_CALIB:
            quantizer._require_calibrator()
        state.apply(quantizer)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def _attributes(pattern: str, setting: Any) -> dict[str, Any]:
    attributes = {"state": setting} if isinstance(setting, str) else setting
    if not isinstance(attributes, Mapping):
        raise TypeError(f"rules[{pattern!r}]: expected 'on', 'off', 'calib' or a dict, got {setting!r}")
    unknown = [key for key in attributes if key not in _ATTRIBUTES]
    if unknown:
        raise TypeError(
            f"rules[{pattern!r}]: unknown attribute {unknown[0]!r}; known are {', '.join(_ATTRIBUTES)}"
        )
    if "state" in attributes and attributes["state"] not in _STATES:
        raise ValueError(f"rules[{pattern!r}]: expected 'on', 'off' or 'calib', got {attributes['state']!r}")
    return dict(attributes)


def _changed(before: QuantizerState, attributes: dict[str, Any]) -> QuantizerState:
    stages = before.stages
    match attributes.get("state"):
        case "off":
            stages |= STAGE_DISABLED
        case "on":
            stages = stages & ~(STAGE_DISABLED | STAGE_CALIB) | STAGE_QUANT
        case "calib":
            stages = stages & ~(STAGE_DISABLED | STAGE_QUANT) | STAGE_CALIB
    options = before.options | {key: attributes[key] for key in _OPTIONS if key in attributes}
    amax = before.amax
    if "amax" in attributes:
        value = attributes["amax"]
        amax = None if value is None else np.array(value, dtype=np.float32)
    return QuantizerState(stages, options, amax)

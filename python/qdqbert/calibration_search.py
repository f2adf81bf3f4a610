# SPDX-License-Identifier: Apache-2.0
"""The mix of calibration methods whose logits are nearest to float's: the search, and what it reports.

No single method suits every tensor: a percentile cuts outliers that residual adds live on, and a maximum
wastes on them the codes of everything else.  Which method suits which kind of site can be seen without
labels, because the error of the logits falls and rises with it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qdqbert._core import STAGE_DISABLED
from qdqbert.arrays import Array
from qdqbert.errors import StateError
from qdqbert.forward_passes import progress_bar
from qdqbert.logit_error import LogitError
from qdqbert.rules import Changes, QuantizerState, changing_quantizers
from qdqbert.text_table import format_table

if TYPE_CHECKING:
    from qdqbert.calibration import Calibration

__all__ = ["METHODS_TRIED", "MIX", "MIX_BY_SITE", "CalibrationSearch", "kind_of", "method_options", "search"]

METHODS_TRIED = (
    "max",
    *("percentile-99.9", "percentile-99.99", "percentile-99.999", "percentile-99.9999"),
    *("mse", "entropy"),
)
MIX = "mix"
MIX_BY_SITE = "mix-by-site"
_LEAST_GAIN = 0.01  # of a turn of the refinement, as a share of the error before it

Ranges = Mapping[str, Array]


def method_options(method: str) -> dict[str, Any]:
    """Return the arguments of `Calibration.ranges` for a method that is named in one word.

    Parameters
    ----------
    method : str
        ``"max"``, ``"mse"``, ``"entropy"``, or ``"percentile-P"`` with P in (0, 100].

    Raises
    ------
    ValueError
        If it is none of them.

    Examples
    --------
    >>> method_options("percentile-99.9")
    {'method': 'percentile', 'percentile': 99.9}
    """
    if method in ("max", "mse", "entropy"):
        return {"method": method}
    name, _, value = method.partition("-") if isinstance(method, str) else ("", "", "")
    try:
        percentile = float(value) if name == "percentile" else 0.0
    except ValueError:
        percentile = 0.0
    if not 0.0 < percentile <= 100.0:
        raise ValueError(
            f"method: expected max, mse, entropy or percentile-P with P in (0, 100], got {method!r}"
        )
    return {"method": name, "percentile": percentile}


def kind_of(name: str) -> str:
    """Return a quantizer's place in a layer, the same in all layers.

    Parameters
    ----------
    name : str
        Dotted name; what comes after the last number in it, or all if there is none.

    Examples
    --------
    >>> kind_of("bert.encoder.layer.3.output.dense._input_quantizer")
    'output.dense._input_quantizer'
    """
    return re.sub(r"^(.*\.)?\d+\.", "", name)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CalibrationSearch:
    """What `Calibration.search` found; ``print`` shows it as a table.

    Attributes
    ----------
    measure : str
        What an error is, see `LogitError.name`.
    errors : dict of str to float
        Logit error with every site on: of each method everywhere, of the mix by kind (``"mix"``), and of the
        one that was refined (``"mix-by-site"``), if it was.
    best : str
        The one with the least error, the earlier of equals: what the model was given.
    candidates : dict of str to dict of str to str
        What the entries of `errors` are: the method of each site, by its dotted name.
    kinds : dict of str to str
        The method of each kind of site in the mix by kind.
    alone : dict of str to dict of str to float
        Logit error by kind and method, with this kind alone quantized.
    refined_from : str or None
        The candidate that sites were refined in: the best of those before; None without refinement.
    refined : dict of str to str
        Sites to which the refinement gave another method than they had there, and which.
    passes : int
        How often the batches went through the model.
    load : callable
        Loads the ranges of a method for each site, given by name; what `apply` calls.
    """

    measure: str
    errors: dict[str, float]
    best: str
    candidates: dict[str, dict[str, str]]
    kinds: dict[str, str]
    alone: dict[str, dict[str, float]]
    refined_from: str | None
    refined: dict[str, str]
    passes: int
    load: Callable[[Mapping[str, str]], None]

    @property
    def sites(self) -> dict[str, str]:
        """The method that each site got, by its dotted name."""
        return self.candidates[self.best]

    def apply(self, candidate: str | None = None) -> None:
        """Load the ranges of a candidate into the model.

        Parameters
        ----------
        candidate : str, optional
            One of `errors`; the best by default.

        Raises
        ------
        ValueError
            If there is no such candidate.
        StateError
            If a forward runs on the model at this moment.  The model is then as it was.
        """
        chosen = self.best if candidate is None else candidate
        if chosen not in self.candidates:
            raise ValueError(f"candidate: expected one of {', '.join(self.candidates)}, got {candidate!r}")
        self.load(self.candidates[chosen])

    def as_dict(self) -> dict[str, Any]:
        """Return everything in plain Python types, as `json` takes them; an infinite error is None."""
        return {
            "measure": self.measure,
            "passes": self.passes,
            "errors": _finite(self.errors),
            "best": self.best,
            "kinds": self.kinds,
            "alone": {kind: _finite(errors) for kind, errors in self.alone.items()},
            "refined_from": self.refined_from,
            "refined": self.refined,
            "sites": self.sites,
        }

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Return (header, rows) of the tables that are shown: candidates, kinds, sites that differ."""
        marks = {self.best: "loaded"}
        tables = [
            (
                ["all sites on", "logit error", ""],
                [[name, _text(error), marks.get(name, "")] for name, error in self.errors.items()],
            ),
            (
                ["kind of site", "method", "logit error alone", "the worst"],
                [
                    [kind, method, _text(self.alone[kind][method]), _text(max(self.alone[kind].values()))]
                    for kind, method in self.kinds.items()
                ],
            ),
        ]
        if self.refined:
            rows = [[site, method] for site, method in self.refined.items()]
            tables.append(([f"site refined in {self.refined_from}", "method"], rows))
        return tables

    def __str__(self) -> str:
        left = ((0, 2), (0, 1), (0, 1))
        blocks = [
            "\n".join(format_table(header, rows, left=columns))
            for (header, rows), columns in zip(self.tables(), left, strict=False)
        ]
        return "\n\n".join([*blocks, f"logit error: {self.measure}; {self.passes} passes"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from qdqbert.notebook import search_html

        return search_html(self)


def search(
    calibration: Calibration,
    batches: Iterable[Any],
    methods: Sequence[str],
    sites: int,
    rounds: int,
    weights: str | None,
    progress: bool | None,
) -> CalibrationSearch:
    """Search for the best mix and load it; see `Calibration.search`.

    Parameters
    ----------
    calibration : Calibration
    batches : iterable
    methods : sequence of str
    sites, rounds : int
    weights : str or None
    progress : bool, optional
    """
    for name, value, least in (("sites", sites, 0), ("rounds", rounds, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods: expected a list of at least one, got {methods!r}")
    ranges = {method: calibration.ranges(**method_options(method)) for method in methods}
    logit_error = LogitError(calibration.model, batches)
    trials = _Trials(calibration, logit_error, ranges)
    before = [(name, quantizer, QuantizerState.of(quantizer)) for name, quantizer in calibration._all]
    with Changes([(name, quantizer, state, state) for name, quantizer, state in before]):
        calibration._load(trials.loaded, weights)
        total = trials.most_passes(sites, rounds)
        with progress_bar(progress, total, "searching methods", unit="pass") as advance:
            trials.advance = advance
            found = trials.run(sites, rounds)
    calibration._load(trials.ranges_of(found.sites), weights)
    return dataclasses.replace(found, load=_Loading(calibration, ranges, weights))


@dataclasses.dataclass(frozen=True)
class _Loading:
    """What a report does to load methods; it can be copied and pickled with its calibration."""

    calibration: Calibration
    ranges: dict[str, dict[str, Array]]
    weights: str | None

    def __call__(self, chosen: Mapping[str, str]) -> None:
        self.calibration._load(_ranges_of(self.ranges, chosen), self.weights)


def _ranges_of(ranges: Mapping[str, Ranges], chosen: Mapping[str, str]) -> dict[str, Array]:
    """Return the ranges of sites by methods."""
    return {name: ranges[method][name] for name, method in chosen.items()}


class _Trials:
    """A model whose quantizers are switched between settings, and the error of every setting seen so far."""

    def __init__(
        self, calibration: Calibration, logit_error: LogitError, ranges: dict[str, dict[str, Array]]
    ) -> None:
        self.advance: Callable[[], Any] = lambda: None
        self._logit_error = logit_error
        self._ranges = ranges
        # What the user has switched off takes no part.
        self._quantizers = {
            name: quantizer
            for name, quantizer in calibration._all
            if not quantizer._handle.stages & STAGE_DISABLED
        }
        self._sites = [name for name, _ in calibration._inputs if name in self._quantizers]
        if not self._sites:
            raise StateError("search: every input quantizer of the calibration is off by now")
        self._on = set(self._quantizers)
        # What is to be loaded when the trials begin.
        self.loaded = self.ranges_of(dict.fromkeys(self._sites, next(iter(ranges))))
        self._errors: dict[tuple[Any, ...], float] = {}

    def most_passes(self, sites: int, rounds: int) -> int:
        """Return the number of steps of the progress bar."""
        kinds = len(set(map(kind_of, self._sites)))
        refining = len(self._sites) + rounds * min(sites, len(self._sites)) * len(self._ranges)
        return len(self._ranges) * (kinds + 1) + 1 + (refining if sites else 0)

    def ranges_of(self, chosen: Mapping[str, str]) -> dict[str, Array]:
        """Return the ranges of sites by methods."""
        return _ranges_of(self._ranges, chosen)

    def error(self, chosen: Mapping[str, str], on: Collection[str] | None = None) -> float:
        """Return the error with these methods, and these quantizers on, or all."""
        self.advance()
        return self._error(self.ranges_of(chosen), set(self._quantizers if on is None else on))

    def _error(self, ranges: Ranges, on: set[str]) -> float:
        # Methods often agree on a range, and then nothing needs to run.
        key = tuple(
            (name, ranges[name].tobytes() if name in ranges else b"")
            for name in self._quantizers
            if name in on
        )
        if key not in self._errors:
            self._switch(ranges, on)
            self._errors[key] = self._logit_error.measure()
        return self._errors[key]

    def _switch(self, ranges: Ranges, on: set[str]) -> None:
        """Touch only what differs: a weight quantizer that is switched costs its layer a packing."""
        moved = [name for name in self._quantizers if (name in on) != (name in self._on)]
        other = [name for name in on & ranges.keys() if self.loaded[name] is not ranges[name]]
        with changing_quantizers(self._quantizers[name] for name in {*moved, *other}):
            for name in moved:
                handle = self._quantizers[name]._handle
                handle.stages = handle.stages ^ STAGE_DISABLED
            for name in other:
                self._quantizers[name]._handle.set_amax(ranges[name])
                self.loaded[name] = ranges[name]
        self._on = set(on)

    def run(self, sites: int, rounds: int) -> CalibrationSearch:
        """Mix by kind, then by site, starting from the best so far."""
        kinds: dict[str, list[str]] = {}
        for name in self._sites:
            kinds.setdefault(kind_of(name), []).append(name)
        methods = list(self._ranges)
        alone = {
            kind: {method: self.error(dict.fromkeys(names, method), names) for method in methods}
            for kind, names in kinds.items()
        }
        mix = {kind: _least(errors) for kind, errors in alone.items()}
        candidates = {method: dict.fromkeys(self._sites, method) for method in methods}
        candidates[MIX] = {name: mix[kind_of(name)] for name in self._sites}
        errors = {name: self.error(chosen) for name, chosen in candidates.items()}
        refined_from, refined = None, {}
        if sites:
            refined_from = _least(errors)
            start = candidates[refined_from]
            candidates[MIX_BY_SITE] = self._refine(start, sites, rounds)
            errors[MIX_BY_SITE] = self._error(self.ranges_of(candidates[MIX_BY_SITE]), set(self._quantizers))
            refined = {name: m for name, m in candidates[MIX_BY_SITE].items() if m != start[name]}
        return CalibrationSearch(
            measure=self._logit_error.name,
            errors=errors,
            best=_least(errors),
            candidates=candidates,
            kinds=mix,
            alone=alone,
            refined_from=refined_from,
            refined=refined,
            passes=1 + len(self._errors),
            load=_no_loading,
        )

    def _refine(self, start: Mapping[str, str], sites: int, rounds: int) -> dict[str, str]:
        """Give the sites that cost most another method, one by one, as long as that helps."""
        chosen = dict(start)
        everything = set(self._quantizers)
        without = {name: self.error(chosen, everything - {name}) for name in self._sites}
        costly = sorted(without, key=without.__getitem__)[:sites]
        error = self._error(self.ranges_of(chosen), everything)
        for _ in range(rounds):
            before = error
            for name in costly:
                errors = {method: self.error(chosen | {name: method}) for method in self._ranges}
                best = _least(errors)
                if errors[best] < error:
                    error, chosen[name] = errors[best], best
            if error > (1 - _LEAST_GAIN) * before:
                break
        return chosen


def _no_loading(chosen: Mapping[str, str]) -> None:
    """Stand in for `_Loading` while the search goes on."""


def _least(errors: Mapping[str, float]) -> str:
    """Return the name with the least error, the earlier of equals."""
    return min(errors, key=errors.__getitem__)


def _finite(errors: Mapping[str, float]) -> dict[str, float | None]:
    return {name: error if math.isfinite(error) else None for name, error in errors.items()}


def _text(error: float) -> str:
    return f"{error:.3g}"

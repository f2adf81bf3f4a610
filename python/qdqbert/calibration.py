# SPDX-License-Identifier: Apache-2.0
"""Calibration of a model: run data, collect statistics of every activation, choose ranges.

One pass over the data serves every method, because what is kept are histograms with the exact largest
magnitude beside them.  Memory does not depend on the number of batches.

Order and splits.  Maxima are exact in any order.  Histograms follow the original's rule: the first batch
fixes the width of the bins, so another first batch gives another histogram (the same counts in other bins).
With ``passes=2`` a first pass finds the largest magnitudes and a second one counts into bins that depend on
nothing else: then any order and any split of the data into batches gives the same bits.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from qdqbert._core import STAGE_CALIB, STAGE_DISABLED, STAGE_QUANT
from qdqbert.arrays import Array
from qdqbert.calib import HistogramCalibrator, MaxCalibrator, calibrate_weights
from qdqbert.copies import Copyable, constructed
from qdqbert.errors import CheckpointError, StateError
from qdqbert.forward_passes import progress_bar, require_batches, run_batch
from qdqbert.module import Module
from qdqbert.nn import TensorQuantizer
from qdqbert.quantization_settings import note_method
from qdqbert.rules import QuantizerState, changing_quantizers, named_quantizers
from qdqbert.serialization.atomic import replacing
from qdqbert.serialization.statistics_file import FORMAT, read_statistics

if TYPE_CHECKING:
    from qdqbert.calibration_search import CalibrationSearch

__all__ = ["Calibration", "calibrate"]

METHODS = ("max", "percentile", "mse", "entropy")
_WEIGHT_METHODS = ("max", "percentile", "mse", None)
_CHECKPOINT_EVERY = 16  # batches


class Calibration(Copyable):
    """Statistics of the activations of one model, and the ranges that follow from them.

    Parameters
    ----------
    model : Module
        With quantizers named ``..._input_quantizer``.  Those that are disabled take no part.
    statistics : {"histogram", "max"}
        Histograms serve every method; maxima only ``"max"``, a little faster.
    passes : {1, 2}
        2: the caller shows the same data twice; see the module's text.
    num_bins : int
        Of the histograms, at least 1.

    Raises
    ------
    StateError
        If the model has no enabled input quantizer.
    ValueError
        If an argument is out of range.

    Notes
    -----
    `collect` may be called any number of times.  While it runs, input quantizers collect and nothing
    quantizes; when it ends, for whatever reason, every quantizer is back in its state, and the statistics
    hold whole batches only.
    """

    _machinery = frozenset(
        ("model", "statistics", "passes", "num_bins", "_all", "_calibrators", "_fixed", "_inputs")
    ) | {"_is_collecting", "_pass", "_progress"}

    def __init__(
        self, model: Module, *, statistics: str = "histogram", passes: int = 1, num_bins: int = 2048
    ) -> None:
        if statistics not in ("histogram", "max"):
            raise ValueError(f"statistics: expected 'histogram' or 'max', got {statistics!r}")
        if passes not in (1, 2):
            raise ValueError(f"passes: expected 1 or 2, got {passes!r}")
        if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 1:
            raise ValueError(f"num_bins: expected an integer of at least 1, got {num_bins!r}")
        self.model = model
        self.statistics = statistics
        self.passes = 1 if statistics == "max" else passes
        self.num_bins = num_bins
        self._pass = 1
        self._is_collecting = False
        self._all = named_quantizers(model)
        self._inputs = [
            (name, quantizer)
            for name, quantizer in self._all
            if name.endswith("_input_quantizer") and not quantizer._handle.stages & STAGE_DISABLED
        ]
        if not self._inputs:
            raise StateError(
                "calibrate: the model has no enabled quantizer whose name ends in '_input_quantizer'"
            )
        self._fixed: dict[str, float] = {}  # largest magnitudes of the first of two passes
        self._calibrators = {name: self._calibrator(name, quantizer) for name, quantizer in self._inputs}
        self.batches_done = 0

    def _calibrator(self, name: str, quantizer: TensorQuantizer) -> MaxCalibrator | HistogramCalibrator:
        """Make the calibrator of one quantizer for the present pass."""
        bits, axis, unsigned = quantizer.num_bits, quantizer.axis, quantizer.unsigned
        device = quantizer._device
        is_first_of_two = self.passes == 2 and self._pass == 1
        if axis is not None or self.statistics == "max" or is_first_of_two:
            return MaxCalibrator(bits, axis, unsigned, device=device)
        return HistogramCalibrator(
            bits, None, unsigned, num_bins=self.num_bins, fixed_range=self._fixed.get(name), device=device
        )

    @property
    def batches_done(self) -> int:
        """Number of batches of the present pass that the statistics hold; `collect` skips as many."""
        done, elements = self._progress
        return done + (self._elements() > elements)

    @batches_done.setter
    def batches_done(self, value: int) -> None:
        # With the elements counted so far: Ctrl-C may come when the core has counted a batch for good and
        # before that can be noted here, and such a batch must not be counted again.
        self._progress = value, self._elements()

    def _elements(self) -> int:
        """Count what a histogram holds, which grows with every batch; 0 if there are only maxima.

        Those may see a batch twice.
        """
        for calibrator in self._calibrators.values():
            if isinstance(calibrator, HistogramCalibrator):
                histogram = calibrator.histogram()
                return 0 if histogram is None else int(histogram[0].sum())
        return 0

    @property
    def is_complete(self) -> bool:
        """Whether every pass has begun, so that `apply` has what it needs once the data were shown."""
        return self._pass == self.passes

    def next_pass(self) -> None:
        """Turn from the first pass of two, which found the largest magnitudes, to the second.

        Raises
        ------
        StateError
            If there is no further pass, or nothing was collected yet.
        """
        if self._pass >= self.passes:
            raise StateError(f"next_pass: this is pass {self._pass} of {self.passes}")
        largest = {}
        for name, calibrator in self._calibrators.items():
            amax = calibrator.compute_amax()  # type: ignore[call-arg]
            if amax is None:
                raise StateError(f"{name}: no data were collected in the first pass")
            # A tensor of zeros needs a range too; any will do.
            largest[name] = float(np.max(amax)) or 1.0
        self._pass, self._fixed = 2, largest
        self._calibrators = {name: self._calibrator(name, quantizer) for name, quantizer in self._inputs}
        self.batches_done = 0

    # ---- collecting ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _collecting(self) -> Iterator[None]:
        before = [(quantizer, quantizer._handle.stages) for _, quantizer in self._all]
        owned = [(quantizer, quantizer._calibrator) for _, quantizer in self._inputs]
        self._is_collecting = True
        try:
            for _, quantizer in self._all:
                quantizer._handle.stages &= ~(STAGE_QUANT | STAGE_CALIB)
            for name, quantizer in self._inputs:
                quantizer._calibrator = self._calibrators[name]
                quantizer._handle.stages |= STAGE_CALIB
            yield
        finally:
            self._is_collecting = False
            for quantizer, stages in before:
                quantizer._handle.stages = stages
            for quantizer, calibrator in owned:
                quantizer._calibrator = calibrator

    def collect(
        self,
        batches: Iterable[Any],
        *,
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = _CHECKPOINT_EVERY,
    ) -> Self:
        """Run batches through the model and count what the quantizers see.

        Parameters
        ----------
        batches : iterable
            Of dicts with the model's arguments, or of `input_ids` alone.  The first `batches_done` of them
            are skipped, so a resumed calibration is given the same data again.
        progress : bool, optional
            Show a bar; by default only if the standard error is a terminal.
        checkpoint : path, optional
            File that keeps the statistics: written every `checkpoint_every` batches, at the end, and when
            anything stops the run, Ctrl-C included.
        checkpoint_every : int
            At least 1.

        Returns
        -------
        Calibration
            This one.

        Raises
        ------
        ValueError
            If an activation is NaN or infinite; with the batch and the quantizer.  What the model raises for
            a bad batch is raised with the batch's number before it.
        TypeError
            If `batches` is one batch.
        KeyboardInterrupt
            After at most a tenth of a second; whole batches stay counted.
        """
        if checkpoint_every < 1:
            raise ValueError(f"checkpoint_every: expected at least 1, got {checkpoint_every}")
        require_batches(batches)
        total = len(batches) if isinstance(batches, Sized) else None
        self.batches_done = self.batches_done  # note what an interrupt left open
        try:
            text = f"calibrating, pass {self._pass} of {self.passes}"
            with self._collecting(), progress_bar(progress, total, text) as advance:
                for index, batch in enumerate(batches):
                    if index >= self.batches_done:
                        run_batch(self.model, index, batch)
                        self.batches_done = index + 1
                        if checkpoint is not None and self.batches_done % checkpoint_every == 0:
                            self.save(checkpoint)
                    advance()
        finally:
            if checkpoint is not None:
                self.save(checkpoint)
        return self

    # ---- ranges --------------------------------------------------------------------------------------------

    def ranges(self, method: str = "percentile", **options: Any) -> dict[str, Array]:
        """Return the range of every input quantizer, without changing the model.

        Parameters
        ----------
        method : {"max", "percentile", "mse", "entropy"}
        **options
            ``percentile`` in [0, 100] (default 99.99), ``stride`` and ``start_bin``; see
            `HistogramCalibrator.compute_amax`.

        Raises
        ------
        StateError
            If a quantizer saw no data, or only maxima were collected and `method` needs a histogram; it is
            named.
        ValueError
            If `method` or an option is unknown or out of range.
        """
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        if self._pass < self.passes and method != "max":
            raise StateError(f"method {method!r} needs the second pass; call next_pass() and collect again")
        found: dict[tuple[Any, ...], Array] = {}
        ranges = {}
        for name, calibrator in self._calibrators.items():
            if not calibrator._observer.has_data:
                raise StateError(f"{name}: no data were collected, so there is no range to load")
            ranges[name] = self._range(name, calibrator, method, options, found)
        return ranges

    def _range(
        self,
        name: str,
        calibrator: MaxCalibrator | HistogramCalibrator,
        method: str,
        options: dict[str, Any],
        found: dict[tuple[Any, ...], Array],
    ) -> Array:
        if method == "max" or (isinstance(calibrator, MaxCalibrator) and calibrator._axis is not None):
            return np.asarray(calibrator._observer.amax())
        if isinstance(calibrator, MaxCalibrator):
            raise StateError(
                f"{name}: only maxima were collected; method {method!r} needs statistics='histogram'"
            )
        histogram = calibrator.histogram()
        assert histogram is not None
        # Query, key, value and residual of one tensor have one histogram: search it once.
        key = (histogram[0].tobytes(), histogram[1].tobytes(), calibrator._num_bits, calibrator._unsigned)
        if key not in found:
            amax = calibrator.compute_amax(method, **options)
            assert amax is not None
            found[key] = amax
        return found[key]

    def apply(self, method: str = "percentile", *, weights: str | None = "max", **options: Any) -> Self:
        """Load ranges into the model and switch its quantizers to quantizing.

        Parameters
        ----------
        method : {"max", "percentile", "mse", "entropy"}
            For activations.
        weights : {"max", "percentile", "mse"} or None
            For weights, per row or per tensor as their quantizers say; None leaves them as they are.
        **options
            See `ranges`.

        Returns
        -------
        Calibration
            This one; another method may be applied at any time, without new data.

        Raises
        ------
        StateError, ValueError
            See `ranges`; also a weight that is NaN or infinite, and a forward that runs on the model at this
            moment.  The model is then as it was.
        """
        _require_weight_method(weights)
        percentile = options.get("percentile", 99.99)
        others = "".join(f" {key}={value}" for key, value in options.items() if key != "percentile")
        text = f"percentile {percentile}" if method == "percentile" else method
        self._load(self.ranges(method, **options), weights, percentile, method=text + others)
        return self

    def _load(
        self,
        ranges: Mapping[str, Array],
        weights: str | None,
        percentile: float = 99.99,
        *,
        method: str = "search",
    ) -> None:
        """Give every quantizer its range and switch it to quantizing, or leave all as they are.

        What `method` says is noted in the model, for ``config.json`` and exported files.
        """
        before = [(quantizer, QuantizerState.of(quantizer)) for _, quantizer in self._all]
        with changing_quantizers(quantizer for quantizer, _ in before):
            try:
                if weights is not None:
                    _calibrate_weights(self.model, weights, percentile)
                for name, quantizer in self._inputs:
                    if name not in ranges:
                        continue
                    quantizer._handle.set_amax(ranges[name])
                    quantizer._handle.stages = quantizer._handle.stages & ~STAGE_CALIB | STAGE_QUANT
            except BaseException:
                for quantizer, state in before:
                    state.apply(quantizer)
                raise
        note_method(self.model, method, weights, percentile)

    def search(
        self,
        batches: Iterable[Any],
        *,
        methods: Sequence[str] | None = None,
        sites: int = 16,
        rounds: int = 2,
        weights: str | None = "max",
        progress: bool | None = None,
    ) -> CalibrationSearch:
        """Try methods at every kind of site, and load for each the one whose logits are nearest to float's.

        A kind of site is a quantizer's place in a layer, in all layers at once.  Each kind takes the method
        with the least logit error when it alone is quantized.  Then, with everything on, the sites whose
        quantization costs most each take the method with the least error there.  What is loaded is never
        worse on `batches` than the best of the methods alone.

        Parameters
        ----------
        batches : iterable
            Of dicts with the model's arguments, or of `input_ids` alone; no labels are needed.  A hundred
            texts like those that the model is for; see `LogitError` for what is compared.
        methods : sequence of str, optional
            ``"max"``, ``"mse"``, ``"entropy"``, ``"percentile-P"`` with P in (0, 100]; by default all, with P
            of 99.9, 99.99, 99.999 and 99.9999.  Of equals the earlier one is taken.
        sites : int
            How many are refined one by one; 0 leaves it at the kinds.
        rounds : int
            Most turns of that, at least 1; it ends earlier when a turn gains less than 1 %.
        weights : {"max", "percentile", "mse"} or None
            As in `apply`.
        progress : bool, optional
            Show a bar; by default only on a terminal.

        Returns
        -------
        CalibrationSearch
            What each site got, and the errors; ``print`` shows a table.

        Raises
        ------
        StateError
            See `ranges`; also if another thread's forward runs on the model when quantizers are switched.
        ValueError, TypeError
            If an argument cannot be, a batch does not fit, or the answers in float are not finite.
        KeyboardInterrupt
            After at most a tenth of a second.  Whatever is raised, the model is as it was.

        Notes
        -----
        The cost is passes over `batches`: one in float, then methods x (kinds + 1) + 1 for the kinds, and
        activations + `rounds` x `sites` x methods for the sites.  BERT has 14 kinds and as many activations
        in each layer: with 7 methods about 110 passes for the kinds, and with 12 layers up to 390 more for
        the sites; a setting that was seen before is not run again.  Until it returns the model is in a state
        of trial, and nobody else should use it.
        """
        from qdqbert.calibration_search import METHODS_TRIED, search

        chosen = METHODS_TRIED if methods is None else methods
        _require_weight_method(weights)
        return search(self, batches, chosen, sites, rounds, weights, progress)

    # ---- copies --------------------------------------------------------------------------------------------

    def _copy_state(self) -> dict[str, Any]:
        """Return the model, the arguments of the constructor, and the statistics of every input quantizer.

        Raises
        ------
        StateError
            If `collect` is running: the model is then in a state that only this calibration can end.
        """
        if self._is_collecting:
            raise StateError(
                "Calibration: is collecting and cannot be copied or pickled now; wait until collect() returns"
            )
        return {
            "model": self.model,
            "statistics": self.statistics,
            "passes": self.passes,
            "num_bins": self.num_bins,
            "pass": self._pass,
            "fixed_ranges": self._fixed,
            "calibrators": self._calibrators,
            "progress": self._progress,
        }

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Make a calibration of the same quantizers, whether they are still enabled or not."""
        model, calibrators = state["model"], state["calibrators"]
        before = [(quantizer, quantizer._handle.stages) for _, quantizer in named_quantizers(model)]
        try:
            for name, quantizer in named_quantizers(model):
                quantizer.enable() if name in calibrators else quantizer.disable()
            options = {name: state[name] for name in ("statistics", "passes", "num_bins")}
            self: Self = constructed(cls, model, **options)
        finally:
            for quantizer, stages in before:
                quantizer._handle.stages = stages
        self._pass, self._fixed, self._calibrators = state["pass"], state["fixed_ranges"], calibrators
        self._progress = state["progress"]
        return self

    # ---- files ---------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics to a file, replacing an old one at once.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        OSError
            If it cannot be written; an old file is as it was.
        """
        header = {
            "format": FORMAT,
            "statistics": self.statistics,
            "passes": self.passes,
            "pass": self._pass,
            "num_bins": self.num_bins,
            "batches_done": self.batches_done,
            "quantizers": [name for name, _ in self._inputs],
        }
        arrays: dict[str, Array] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
        for name, calibrator in self._calibrators.items():
            if calibrator._observer.has_data:
                arrays[f"{name}/amax"] = np.asarray(calibrator._observer.amax())
                if isinstance(calibrator, HistogramCalibrator):
                    arrays[f"{name}/counts"], arrays[f"{name}/edges"] = calibrator._observer.histogram()
            if name in self._fixed:
                arrays[f"{name}/fixed_range"] = np.array(self._fixed[name], np.float32)
        memory = io.BytesIO()
        np.savez(memory, **arrays)  # type: ignore[arg-type]
        with replacing(Path(path)) as file:
            file.write(memory.getbuffer())

    @classmethod
    def load(cls, model: Module, path: str | os.PathLike[str]) -> Self:
        """Continue from a file that `save` wrote.

        Parameters
        ----------
        model : Module
            The model, or one with the same quantizers enabled.
        path : str or path

        Raises
        ------
        CheckpointError
            If the file is missing, is damaged, or belongs to another model.
        """
        header, contents = read_statistics(path)
        try:
            self = cls(
                model,
                statistics=header["statistics"],
                passes=header["passes"],
                num_bins=header["num_bins"],
            )
            names = [name for name, _ in self._inputs]
            if header["quantizers"] != names:
                raise CheckpointError(
                    f"{path}: was collected for {len(header['quantizers'])} quantizers, the model has "
                    f"{len(names)} enabled ones, and their names differ"
                )
            self._pass = header["pass"]
            for name, quantizer in self._inputs:
                self._restore(name, quantizer, contents)
            self.batches_done = header["batches_done"]
        except (KeyError, TypeError, ValueError, AttributeError, MemoryError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path}: not the statistics of a calibration: {error!r}") from error
        return self

    def _restore(self, name: str, quantizer: TensorQuantizer, contents: Mapping[str, Array]) -> None:
        if f"{name}/fixed_range" in contents:
            self._fixed[name] = float(contents[f"{name}/fixed_range"])
        calibrator = self._calibrators[name] = self._calibrator(name, quantizer)
        if f"{name}/amax" not in contents:
            return
        if isinstance(calibrator, HistogramCalibrator):
            calibrator._observer.set_histogram(contents[f"{name}/counts"], contents[f"{name}/edges"])
        calibrator._observer.set_amax(contents[f"{name}/amax"])

    def __repr__(self) -> str:
        return (
            f"Calibration({len(self._inputs)} quantizers, statistics={self.statistics!r}, "
            f"pass {self._pass} of {self.passes}, {self.batches_done} batches)"
        )

    def _repr_html_(self) -> str:
        from qdqbert.notebook import calibration_html

        return calibration_html(self)


def calibrate(
    model: Module,
    batches: Iterable[Any],
    *,
    method: str = "percentile",
    percentile: float = 99.99,
    weights: str | None = "max",
    passes: int = 1,
    num_bins: int = 2048,
    statistics: str | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume_from: str | os.PathLike[str] | None = None,
) -> Calibration:
    """Calibrate a model: collect statistics, choose every range, and start quantizing.

    Parameters
    ----------
    model : Module
        Changed in place; on failure it is as it was.
    batches : iterable
        Of dicts with the model's arguments.  With ``passes=2`` it must be possible to go through it twice.
    method : {"max", "percentile", "mse", "entropy"}
        How the ranges of activations are chosen.
    percentile : float
        In [0, 100]; for the method of that name.
    weights : {"max", "percentile", "mse"} or None
        How those of weights are; None leaves them as they are.
    passes : {1, 2}
        2: independent of the order and the split of the data, for twice the time.
    num_bins : int
        Of the histograms.
    statistics : {"histogram", "max"}, optional
        What is kept; by default histograms, or maxima if `method` is ``"max"``.
    progress : bool, optional
        Show a bar; by default only on a terminal.
    checkpoint : path, optional
        File that keeps the statistics while the run goes on.
    resume_from : path, optional
        File of an earlier run over the same batches; those that it has are skipped.

    Returns
    -------
    Calibration
        Its `Calibration.apply` chooses by another method without new data.

    Raises
    ------
    ValueError
        If an argument is out of range, or an activation or weight is NaN or infinite (with batch and name).
    StateError
        If there is nothing to calibrate, or there were no batches.
    CheckpointError
        If `resume_from` cannot be used.
    KeyboardInterrupt
        After at most a tenth of a second; the model is as it was, and `checkpoint` has what was collected.

    Examples
    --------
    >>> import qdqbert
    >>> config = qdqbert.QDQBertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2)
    >>> batches = [{"input_ids": [[5, 6, 7]]}, {"input_ids": [[8, 7, 6], [5, 4, 3]]}]
    >>> calibration = calibrate(qdqbert.QDQBertModel(config), batches, percentile=99.9)
    >>> calibration.apply("entropy")  # the same data, another choice
    Calibration(168 quantizers, statistics='histogram', pass 1 of 1, 2 batches)
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(percentile, int | float) or not 0 <= percentile <= 100 or math.isnan(percentile):
        raise ValueError(f"percentile: expected a number in [0, 100], got {percentile!r}")
    _require_weight_method(weights)
    if passes == 2 and iter(batches) is batches:
        raise ValueError(
            "batches: passes=2 goes through them twice; give a list or another iterable, not an iterator"
        )
    if resume_from is not None:
        calibration = Calibration.load(model, resume_from)
        if calibration.statistics == "max" and (method != "max" or passes == 2):
            raise CheckpointError(f"{resume_from}: holds maxima only; method {method!r} needs histograms")
        if calibration.statistics != "max" and calibration.passes != passes:
            raise CheckpointError(
                f"{resume_from}: is of a run with passes={calibration.passes}, not {passes}"
            )
        if calibration.statistics != "max" and calibration.num_bins != num_bins:
            raise CheckpointError(
                f"{resume_from}: is of a run with num_bins={calibration.num_bins}, not {num_bins}"
            )
        if statistics not in (None, calibration.statistics):
            raise CheckpointError(
                f"{resume_from}: holds statistics={calibration.statistics!r}, not {statistics!r}"
            )
    else:
        kept = statistics or ("max" if method == "max" and passes == 1 else "histogram")
        calibration = Calibration(model, statistics=kept, passes=passes, num_bins=num_bins)
    calibration.collect(batches, progress=progress, checkpoint=checkpoint)
    if not calibration.is_complete:
        calibration.next_pass()
        calibration.collect(batches, progress=progress, checkpoint=checkpoint)
    options = {"percentile": percentile} if method == "percentile" else {}
    return calibration.apply(method, weights=weights, **options)


def _require_weight_method(weights: str | None) -> None:
    if weights not in _WEIGHT_METHODS:
        raise ValueError(f"weights: expected 'max', 'percentile', 'mse' or None, got {weights!r}")


def _calibrate_weights(model: Module, method: str, percentile: float) -> None:
    """Ranges of weights that follow each quantizer's axis, where it is enabled."""
    for name, module in model.named_modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if not isinstance(quantizer, TensorQuantizer) or quantizer._handle.stages & STAGE_DISABLED:
            continue
        try:
            if method == "max":
                calibrator = MaxCalibrator(
                    quantizer.num_bits, quantizer.axis, quantizer.unsigned, device=quantizer._device
                )
                calibrator.collect(module.weight)
                quantizer._handle.set_amax(calibrator._observer.amax())
            else:
                quantizer._handle.set_amax(None)
                calibrate_weights(
                    module, method, perchannel=quantizer.axis is not None, percentile=percentile
                )
        except ValueError as error:
            raise ValueError(f"{name}.weight: {str(error).removeprefix('weight: ')}") from error
        quantizer._handle.stages = quantizer._handle.stages & ~STAGE_CALIB | STAGE_QUANT

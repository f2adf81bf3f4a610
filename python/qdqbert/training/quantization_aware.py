# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training: which quantizers are on from which step, and what becomes of their ranges.

The recipe of the original toolkit: calibrate, then fine-tune for about a tenth of the original schedule,
beginning at 1 % of the original learning rate, with a cosine that falls to 1 % of that, and leave the ranges
alone::

    qdqbert.calibrate(model, batches, method="percentile", percentile=99.99)
    arguments = qdqbert.TrainingArguments(
        "out",
        learning_rate=0.01 * original_learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.01},
    )
    trainer = qdqbert.Trainer(model, arguments, train_dataset=data, callbacks=[QuantizationAware()])

Gradients go straight through a quantizer where it does not saturate, and are zero where it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qdqbert._core import STAGE_CALIB, STAGE_CLIP, STAGE_DISABLED, STAGE_QUANT
from qdqbert.arrays import Array
from qdqbert.calib import MaxCalibrator
from qdqbert.calib.calibrator import Calibrator
from qdqbert.errors import StateError
from qdqbert.nn import TensorQuantizer
from qdqbert.rules import changing_quantizers, named_quantizers
from qdqbert.training.arguments import TrainingArguments
from qdqbert.training.callback import TrainerCallback
from qdqbert.training.trainer_state import TrainerControl, TrainerState

__all__ = ["QuantizationAware"]

_RANGES = ("frozen", "moving", "learned")
_WEIGHT_RANGES = ("frozen", "max")


class QuantizationAware(TrainerCallback):
    """Train with the quantizers that are on in the model.

    Parameters
    ----------
    start_step : int
        Steps of training in float before quantizing begins, at least 0 and less than the run has.
    amax : {"frozen", "moving", "learned"}
        Ranges of activations.  ``"frozen"``: those that calibration found, as the toolkit advises.
        ``"moving"``: after every step each range moves towards the largest magnitude that the step saw, also
        during the steps in float; a quantizer without a range takes it over at once.  ``"learned"``: bounds
        that the optimizer trains, for models whose descriptors have ``learn_amax``; they begin at the
        calibrated ranges.
    weights : {"frozen", "max"}
        Ranges of weights.  ``"frozen"``: as they are, as in the original, where weights that grow beyond them
        saturate.  ``"max"``: the largest magnitude of the weights after every step, which is what the
        original's ``--recalibrate-weights`` does once.
    momentum : float
        For ``"moving"``: share of a range that stays in a step, in [0, 1).

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.

    Notes
    -----
    A step quantizes with the ranges that the step before it left.  Evaluations and checkpoints between steps
    see the quantizers on or off, and with the ranges, as the next step will use them.
    """

    def __init__(
        self,
        start_step: int = 0,
        amax: str = "frozen",
        *,
        weights: str = "frozen",
        momentum: float = 0.99,
    ) -> None:
        if isinstance(start_step, bool) or not isinstance(start_step, int):
            raise TypeError(f"start_step: expected an integer, got {start_step!r}")
        if start_step < 0:
            raise ValueError(f"start_step: expected at least 0, got {start_step}")
        if amax not in _RANGES:
            raise ValueError(f"amax: expected one of {', '.join(_RANGES)}, got {amax!r}")
        if weights not in _WEIGHT_RANGES:
            raise ValueError(f"weights: expected one of {', '.join(_WEIGHT_RANGES)}, got {weights!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum!r}")
        self.start_step: int = start_step
        self.amax: str = amax
        self.weights: str = weights
        self.momentum: float = momentum
        self._names: list[str] | None = None  # of the quantizers that are trained with
        self._inputs: list[tuple[str, TensorQuantizer]] = []
        self._weights: list[tuple[str, TensorQuantizer, Any]] = []
        self._observers: dict[str, MaxCalibrator] = {}
        self._owned: dict[str, Calibrator | None] = {}

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"quantizers": self._names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self._names = list(state["quantizers"])

    def on_train_begin(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.start_step >= state.max_steps:
            raise ValueError(
                f"start_step: expected less than the {state.max_steps} steps of the run, got "
                f"{self.start_step}; nothing would be quantized"
            )
        model = kwargs["model"]
        named = dict(named_quantizers(model))
        if state.global_step == 0 or self._names is None:
            self._names = [name for name, each in named.items() if not each._handle.stages & STAGE_DISABLED]
        missing = [name for name in self._names if name not in named]
        if missing:
            raise StateError(
                f"QuantizationAware: the model has no quantizer {missing[0]}, the checkpoint has"
            )
        chosen = [(name, named[name]) for name in self._names]
        self._inputs = [(name, each) for name, each in chosen if not name.endswith("_weight_quantizer")]
        self._weights = [
            (name, each, model.get_submodule(name.rpartition(".")[0]))
            for name, each in chosen
            if name.endswith("_weight_quantizer")
        ]
        self._require_ready()
        with changing_quantizers(each for _, each in chosen):
            for _, quantizer in chosen:
                quantizer._handle.stages &= ~(STAGE_DISABLED | STAGE_CALIB)
            if self.amax == "learned" and state.global_step == 0:
                for _, quantizer in self._inputs:
                    if quantizer._handle.amax() is not None:
                        quantizer.init_learn_amax()
            if self.amax == "moving":
                self._install_observers()
            if self.weights == "max":
                self._refresh_weights()
            self._switch(state.global_step)

    def on_step_begin(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._observers:
            with changing_quantizers(each for _, each in self._inputs):
                for name, quantizer in self._inputs:
                    self._observers[name].reset()
                    quantizer._handle.stages |= STAGE_CALIB

    def on_step_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        begins = state.global_step == self.start_step
        if not (self._observers or self.weights == "max" or begins):
            return
        with changing_quantizers(self._all()):
            for name, quantizer in self._inputs if self._observers else ():
                quantizer._handle.stages &= ~STAGE_CALIB
                self._move(quantizer, self._observers[name].compute_amax())
            if self.weights == "max":
                self._refresh_weights()
            if begins:
                self._switch(state.global_step)

    def on_train_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._remove_observers()

    def on_train_abort(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._remove_observers()

    def _all(self) -> list[TensorQuantizer]:
        return [*(each for _, each in self._inputs), *(each for _, each, _ in self._weights)]

    # ---- ranges --------------------------------------------------------------------------------------------

    def _require_ready(self) -> None:
        """Refuse a model that cannot be trained so, before anything is changed."""
        if not self._inputs and not self._weights:
            raise StateError(
                "QuantizationAware: every quantizer of the model is off; switch on what to train"
            )
        for name, quantizer in self._inputs:
            if quantizer._learn_amax != (self.amax == "learned"):
                expected = "has no learned range" if self.amax == "learned" else "learns its range"
                hint = (
                    "build the model with QuantDescriptor(learn_amax=True)"
                    if self.amax == "learned"
                    else "say amax='learned'"
                )
                raise StateError(f"QuantizationAware(amax={self.amax!r}): {name} {expected}; {hint}")
            if self.amax == "frozen" and quantizer._handle.amax() is None:
                raise StateError(
                    f"QuantizationAware: {name} has no range yet; call qdqbert.calibrate first, or say "
                    "amax='moving'"
                )
        for name, quantizer, _ in self._weights:
            if self.weights == "frozen" and quantizer._handle.amax() is None:
                raise StateError(
                    f"QuantizationAware: {name} has no range yet; call qdqbert.calibrate first, or say "
                    "weights='max'"
                )

    def _switch(self, step: int) -> None:
        """Quantize, or not yet."""
        quantizes = step >= self.start_step
        for quantizer in self._all():
            stages = quantizer._handle.stages
            if quantizer._learn_amax:  # before it begins, values are not clipped either
                stages = stages | STAGE_CLIP if quantizes else stages & ~STAGE_CLIP
            quantizer._handle.stages = stages | STAGE_QUANT if quantizes else stages & ~STAGE_QUANT

    def _install_observers(self) -> None:
        for name, quantizer in self._inputs:
            self._owned[name] = quantizer._calibrator
            self._observers[name] = MaxCalibrator(
                quantizer.num_bits, quantizer.axis, quantizer.unsigned, device=quantizer._device
            )
            quantizer._calibrator = self._observers[name]

    def _remove_observers(self) -> None:
        if not self._observers:
            return
        with changing_quantizers(each for _, each in self._inputs):
            for name, quantizer in self._inputs:
                quantizer._handle.stages &= ~STAGE_CALIB
                quantizer._calibrator = self._owned[name]
        self._observers, self._owned = {}, {}

    def _move(self, quantizer: TensorQuantizer, seen: Array | None) -> None:
        """Move a range towards what a step saw."""
        old = quantizer._handle.amax()
        if seen is None:
            return
        if old is not None and np.isfinite(old).all():
            share = np.float32(1.0 - self.momentum)
            seen = np.asarray(old + share * (seen.reshape(old.shape) - old), np.float32)
        quantizer._handle.set_amax(seen)

    def _refresh_weights(self) -> None:
        for name, quantizer, module in self._weights:
            calibrator = MaxCalibrator(
                quantizer.num_bits, quantizer.axis, quantizer.unsigned, device=quantizer._device
            )
            try:
                calibrator.collect(module.weight)
            except ValueError as error:
                text = str(error).removeprefix("weight: ")
                raise ValueError(f"{name.removesuffix('._weight_quantizer')}.weight: {text}") from error
            quantizer._handle.set_amax(calibrator._observer.amax())

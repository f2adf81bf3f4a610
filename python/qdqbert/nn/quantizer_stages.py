# SPDX-License-Identifier: Apache-2.0
"""What a quantizer does when it is called: its stages, the calibrator of one of them, and their old names.

The state is in the C quantizer; this is the part of `qdqbert.nn.TensorQuantizer` that switches it.
Attributes with an underscore are those of the original that scripts read and set (``quantizer._disabled =
True``, ``if quantizer._calibrator is not None``).  Here they are views of the same state: setting one has
the original's effect, or is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from qdqbert import _core, calib
from qdqbert.errors import StateError
from qdqbert.module import Module
from qdqbert.quant_descriptor import QuantDescriptor

__all__ = ["QuantizerStages"]


def _stage_flag(stage: int, text: str) -> property:
    """Property that reads and sets one stage as it is, for stages that need nothing else."""

    def read(self: QuantizerStages) -> bool:
        return self._has_stage(stage)

    def write(self: QuantizerStages, value: bool) -> None:
        self._switch(stage, bool(value))

    return property(read, write, doc=text)


class QuantizerStages(Module):
    """Switches of a quantizer."""

    _source: Callable[[], _core.Quantizer]
    _descriptor: QuantDescriptor
    _observing: calib.Calibrator | None
    _name: str | None

    @property
    def _handle(self) -> _core.Quantizer:
        return self._source()

    def _switch(self, stage: int, on: bool) -> None:
        self._handle.stages = self._handle.stages | stage if on else self._handle.stages & ~stage

    def _has_stage(self, stage: int) -> bool:
        return bool(self._handle.stages & stage)

    def _prefix(self) -> str:
        return f"{self._name}: " if self._name else ""

    # ---- the whole -----------------------------------------------------------------------------------------

    def disable(self) -> None:
        """Make the quantizer the identity; the other stages are remembered."""
        self._switch(_core.STAGE_DISABLED, True)

    def enable(self) -> None:
        """Undo `disable`."""
        self._switch(_core.STAGE_DISABLED, False)

    _disabled = _stage_flag(_core.STAGE_DISABLED, "Whether the quantizer is the identity; settable.")

    # ---- quantization --------------------------------------------------------------------------------------

    def enable_quant(self) -> None:
        """Quantize in `forward`."""
        self._switch(_core.STAGE_QUANT, True)

    def disable_quant(self) -> None:
        """Do not quantize in `forward`."""
        self._switch(_core.STAGE_QUANT, False)

    _if_quant = _stage_flag(_core.STAGE_QUANT, "Whether `forward` quantizes; settable.")

    # ---- clipping ------------------------------------------------------------------------------------------

    def enable_clip(self) -> None:
        """Clip to the learned bounds in `forward`, and let training change them.

        Raises
        ------
        ValueError
            If the descriptor has no ``learn_amax``.
        """
        if not self._descriptor.learn_amax:
            raise ValueError("learn_amax is False. Cannot enable clip.")
        self._switch(_core.STAGE_CLIP, True)
        self.clip.requires_grad_(True)

    def disable_clip(self) -> None:
        """Do not clip in `forward`, and leave the bounds alone in training.

        A learned range still saturates when quantizing.

        Raises
        ------
        AttributeError
            If the descriptor has no ``learn_amax``: there is nothing to clip with.
        """
        bounds = self.clip  # raises if there are none
        self._switch(_core.STAGE_CLIP, False)
        bounds.requires_grad_(False)

    @property
    def _if_clip(self) -> bool:
        """Whether `forward` clips; settable."""
        return self._has_stage(_core.STAGE_CLIP)

    @_if_clip.setter
    def _if_clip(self, value: bool) -> None:
        if value and not self._descriptor.learn_amax:
            raise ValueError("learn_amax is False. Cannot enable clip.")
        self._switch(_core.STAGE_CLIP, bool(value))

    # ---- calibration ---------------------------------------------------------------------------------------

    def enable_calib(self) -> None:
        """Show every tensor to the calibrator in `forward`.

        Raises
        ------
        ValueError
            If the quantizer has no calibrator.
        """
        self._require_calibrator()
        self._switch(_core.STAGE_CALIB, True)

    def disable_calib(self) -> None:
        """Do not show tensors to the calibrator."""
        self._switch(_core.STAGE_CALIB, False)

    @property
    def _if_calib(self) -> bool:
        """Whether `forward` shows tensors to the calibrator; settable."""
        return self._has_stage(_core.STAGE_CALIB)

    @_if_calib.setter
    def _if_calib(self, value: bool) -> None:
        if value:
            self._require_calibrator()
        self._switch(_core.STAGE_CALIB, bool(value))

    @property
    def _calibrator(self) -> calib.Calibrator | None:
        """Calibrator that is shown every tensor while calibrating; settable, also to None."""
        return self._observing

    @_calibrator.setter
    def _calibrator(self, value: calib.Calibrator | None) -> None:
        if value is not None and not isinstance(value, calib.Calibrator):
            raise TypeError(
                f"{self._prefix()}_calibrator: expected a calibrator of qdqbert.calib or None, "
                f"got {type(value).__name__}"
            )
        if value is None and self._has_stage(_core.STAGE_CALIB):
            raise StateError(
                f"{self._prefix()}_calibrator: None, but calibration is on; disable_calib() first"
            )
        self._handle.set_observer(None if value is None else value._observer)
        self._observing = value

    def _require_calibrator(self) -> None:
        if self._observing is None:
            raise ValueError(f"Calibrator was not created, cannot enable calibration.{self._at()}")

    def _at(self) -> str:
        return f" Quantizer: {self._name}" if self._name else ""

# SPDX-License-Identifier: Apache-2.0
"""The state of a quantizer in the C core as plain values, for copies and pickles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdqbert import _core

__all__ = ["handle_state", "set_handle_state"]


def handle_state(handle: _core.Quantizer) -> dict[str, Any]:
    """Return what a quantizer is set to.

    Parameters
    ----------
    handle : _core.Quantizer

    Returns
    -------
    dict
        ``options`` (number format, axis and flags), ``amax`` and ``pre_quant_scale`` (float32 arrays or
        None), ``clip`` (the two learned bounds) and ``stages`` (the sum of ``_core.STAGE_*``).
    """
    return {
        "options": handle.options(),
        "amax": handle.amax(),
        "pre_quant_scale": handle.pre_quant_scale(),
        "clip": handle.clip(),
        "stages": handle.stages,
    }


def set_handle_state(handle: _core.Quantizer, state: Mapping[str, Any]) -> None:
    """Set a quantizer to what `handle_state` returned.

    Parameters
    ----------
    handle : _core.Quantizer
    state : mapping
        Other keys are passed over.
    """
    handle.set_options(state["options"])
    handle.set_amax(state["amax"])
    handle.set_pre_quant_scale(state["pre_quant_scale"])
    handle.set_clip(*state["clip"])
    handle.stages = state["stages"]

# SPDX-License-Identifier: Apache-2.0
"""What would let a quantizer's product run on int8 codes: a sentence, and the rule that does it.

The conditions are C's (``qb_quantizer_integer_reason``, ``qb_quantizer_weight_reason``), which names
the first that is not met; here are the changes that meet all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from qdqbert.nn import TensorQuantizer

__all__ = ["hint_for_ranges", "remedy_of"]


def remedy_of(name: str, quantizer: TensorQuantizer, is_weight: bool) -> tuple[str, dict[str, Any] | None]:
    """Say what would let a quantizer's product run on int8 codes.

    Parameters
    ----------
    name : str
        Its dotted name.
    quantizer : TensorQuantizer
    is_weight : bool
        Whether it is a weight's, which may have a range for each row.

    Returns
    -------
    (str, dict or None)
        A sentence, and rules for `qdqbert.quantizers` that do all of it; None if rules cannot.
    """
    steps: list[str] = []
    setting: dict[str, Any] = {}
    is_one_rule = True
    if quantizer._disabled or not quantizer._if_quant:
        steps.append("switch it on")
        setting["state"] = "on"
    bits, most = quantizer.num_bits, 8 - quantizer.unsigned
    if isinstance(bits, tuple) or not 2 <= bits + quantizer.unsigned <= 8:
        steps.append(f"give it {most} bits")
        setting["num_bits"] = most
    # What only the descriptor says that the model is made with; one without fake_quant makes no model.
    descriptor = []
    if quantizer._learn_amax:
        descriptor.append("learn_amax=False")
    if quantizer.pre_quant_scale is not None:
        steps.append("multiply the weight with its pre_quant_scale and load the model without one")
        is_one_rule = False
    step, amax, axis = _range_step(quantizer, is_weight)
    if step:
        steps.append(step)
        setting["amax"] = amax
    if axis and not quantizer._learn_amax:
        descriptor.append(axis)
    if descriptor:
        steps.append(f"make the model with a QuantDescriptor of {', '.join(descriptor)}")
        is_one_rule = False
    return ", ".join(steps), {name: setting} if setting and is_one_rule else None


def _range_step(quantizer: TensorQuantizer, is_weight: bool) -> tuple[str, Any, str]:
    """Return a step to a range that codes can have, that range, and what a descriptor must say."""
    amax = quantizer._handle.amax()
    axis = quantizer.axis
    axes = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
    fits_axes = not axes or (is_weight and all(each not in (1, -1) for each in axes))
    wanted = "axis=(0,) or None" if is_weight else "axis=None"
    if amax is None:
        return "", None, "" if fits_axes else wanted
    if not np.all(np.isfinite(amax)):
        return "calibrate it anew", None, "" if fits_axes else wanted
    is_per_row = is_weight and amax.ndim == 2 and amax.shape[1] == 1
    if amax.size == 1 or is_per_row:
        return "", None, ""
    return "give it one range, that of all slices", float(amax.max()), ""


def hint_for_ranges(states: Iterable[str]) -> str:
    """Say what would make an integer product faster; empty if nothing would.

    Parameters
    ----------
    states : iterable of str
        Of its quantizers, see `QuantizerFacts`.
    """
    found = set(states)
    if "collecting" in found:
        return "a quantizer collects statistics in every forward: disable_calib() ends that"
    if "dynamic" in found:
        return "a range is computed from every batch, one more pass: qdqbert.calibrate fixes it"
    return ""

# SPDX-License-Identifier: Apache-2.0
"""The quantization flags of the original SQuAD example, each doing what its help says.

The original's own slips are mended: ``--calibrator mse`` uses mse, ``--clip-gelu`` also works on a model that
is calibrated in the same run, ``--recalibrate-weights`` takes every axis, ``--disable-dropout`` exists.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from qdqbert.cli.report import UsageError
from qdqbert.cli.training_flags import add_flag

__all__ = [
    "add_quantization_flags",
    "calibration_options",
    "check_quantization_flags",
    "clip_gelu",
    "configure_quantizers",
    "descriptors",
    "fuse_qkv",
    "recalibrate_weights",
]

_LAYER = r"layer\.\d+\."


def add_quantization_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("quantization", "as in the original SQuAD example")
    add_flag(group, "wprec", "bits of weights (8)", type=int, metavar="N")
    add_flag(group, "aprec", "bits of activations (8)", type=int, metavar="N")
    add_flag(group, "quant_per_tensor", "one range for a whole weight, not one a row", action="store_true")
    add_flag(group, "quant_disable", "switch all quantizers off", action="store_true")
    add_flag(group, "quant_disable_embeddings", "switch quantizers of embeddings off", action="store_true")
    add_flag(
        group,
        "quant_disable_keyword",
        "switch off the quantizers whose layer or own name matches one of these regular expressions",
        nargs="+",
        metavar="RE",
        default=[],
    )
    add_flag(
        group,
        "quant_disable_layer_module",
        f"the same for {_LAYER}RE, such as output.dense",
        metavar="RE",
    )
    add_flag(
        group,
        "quant_enable_layer_module",
        f"switch on those that match {_LAYER}RE, after all others were switched off",
        metavar="RE",
    )
    add_flag(
        group,
        "calibrator",
        "how ranges of activations are chosen: max (the default), percentile, mse or entropy",
        choices=("max", "percentile", "mse", "entropy"),
    )
    add_flag(group, "percentile", "for --calibrator percentile, in (0, 100]", type=float, metavar="P")
    add_flag(
        group,
        "fuse_qkv",
        "one range for query, key and value of each self-attention, as a kernel that computes them at once "
        "needs it; with --quant-per-tensor one for their weights too",
        action="store_true",
    )
    add_flag(group, "clip_gelu", "largest range of what GELU gives", type=float, metavar="N")
    add_flag(
        group,
        "recalibrate_weights",
        "set the ranges of weights to their largest magnitudes as they are now",
        action="store_true",
    )
    add_flag(group, "disable_dropout", "train without dropout", action="store_true")


def check_quantization_flags(arguments: argparse.Namespace) -> None:
    """Refuse values that do not go together, before anything is read.

    Parameters
    ----------
    arguments : Namespace

    Raises
    ------
    UsageError
        If they do not.
    """
    for name in ("wprec", "aprec"):
        bits = getattr(arguments, name)
        if bits is not None and not 2 <= bits <= 16:
            raise UsageError(f"--{name}: expected 2 .. 16 bits, found {bits}")
    if arguments.calibrator == "percentile" and arguments.percentile is None:
        raise UsageError("--calibrator percentile: needs --percentile P")
    if arguments.percentile is not None and not 0 < arguments.percentile <= 100:
        raise UsageError(f"--percentile: expected a number in (0, 100], found {arguments.percentile:g}")
    if arguments.percentile is not None and arguments.calibrator not in ("percentile", None):
        raise UsageError(f"--percentile: is for --calibrator percentile, not {arguments.calibrator}")
    if arguments.clip_gelu is not None and not arguments.clip_gelu > 0:
        raise UsageError(f"--clip-gelu: expected a positive number, found {arguments.clip_gelu:g}")
    for name in ("quant_disable_keyword", "quant_disable_layer_module", "quant_enable_layer_module"):
        given = getattr(arguments, name)
        for pattern in given if isinstance(given, list) else [given] if given is not None else []:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"--{name.replace('_', '-')}: {pattern!r}: {error}") from None


def descriptors(arguments: argparse.Namespace, *, learns: bool = False) -> tuple[Any, Any] | None:
    """Descriptors of activations and weights that the flags ask for; None if they ask for the usual ones.

    Parameters
    ----------
    arguments : Namespace
    learns : bool
        Whether ranges of activations are learned.

    Returns
    -------
    (QuantDescriptor, QuantDescriptor) or None
    """
    from qdqbert.tensor_quant import QuantDescriptor

    if arguments.wprec is None and arguments.aprec is None and not arguments.quant_per_tensor and not learns:
        return None
    inputs = QuantDescriptor(arguments.aprec or 8, learn_amax=learns)
    return inputs, QuantDescriptor(arguments.wprec or 8, axis=None if arguments.quant_per_tensor else (0,))


def calibration_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `qdqbert.calibrate` that the flags ask for.

    Parameters
    ----------
    arguments : Namespace
    """
    if arguments.calibrator == "percentile" or (arguments.calibrator is None and arguments.percentile):
        return {"method": "percentile", "percentile": arguments.percentile}
    return {"method": arguments.calibrator or "max"}


def configure_quantizers(model: Any, arguments: argparse.Namespace) -> list[str]:
    """Do what the flags say to a model, in the original's order; calibration comes before.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    arguments : Namespace

    Returns
    -------
    list of str
        What people should know: flags that found nothing to do.

    Raises
    ------
    UsageError
        If a pattern matches nothing.
    """
    notes = switch_quantizers(model, arguments)
    if arguments.recalibrate_weights:
        recalibrate_weights(model)
    if arguments.fuse_qkv:
        notes += fuse_qkv(model, weights=arguments.quant_per_tensor)
    if arguments.clip_gelu is not None:
        notes += clip_gelu(model, arguments.clip_gelu)
    return notes


def switch_quantizers(model: Any, arguments: argparse.Namespace) -> list[str]:
    """Switch quantizers off and on; see `configure_quantizers`.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    arguments : Namespace

    Returns
    -------
    list of str

    Raises
    ------
    UsageError
        If a pattern matches nothing.
    """
    notes = []
    if arguments.quant_disable_embeddings and not _matching(model, "embeddings"):
        notes.append("--quant-disable-embeddings: the embeddings of BERT have no quantizers")
    patterns = [("--quant-disable", "")] if arguments.quant_disable else []
    patterns += [("--quant-disable-keyword", keyword) for keyword in arguments.quant_disable_keyword]
    if arguments.quant_disable_layer_module is not None:
        patterns.append(("--quant-disable-layer-module", _LAYER + arguments.quant_disable_layer_module))
    for flag, pattern in patterns:
        for quantizer in _required(model, flag, pattern):
            quantizer.disable()
    if arguments.quant_enable_layer_module is not None:
        pattern = _LAYER + arguments.quant_enable_layer_module
        for quantizer in _required(model, "--quant-enable-layer-module", pattern):
            quantizer.enable()
    return notes


def recalibrate_weights(model: Any) -> None:
    """Set the range of every weight whose quantizer is on to its largest magnitude, a row or as a whole.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    """
    from qdqbert.calib import MaxCalibrator

    for module in model.modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if quantizer is None or quantizer._disabled:
            continue
        calibrator = MaxCalibrator(quantizer.num_bits, quantizer.axis, quantizer.unsigned)
        calibrator.collect(module.weight)
        quantizer._amax = calibrator.compute_amax()


def fuse_qkv(model: Any, *, weights: bool) -> list[str]:
    """Give query, key and value of each self-attention one range, their largest.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    weights : bool
        Do the same with their weights; for ranges of whole weights.

    Returns
    -------
    list of str
        What was left alone for want of ranges.
    """
    notes = []
    for name, module in model.named_modules():
        if not name.endswith("attention.self") or name.endswith("crossattention.self"):
            continue
        sites = [getattr(module, f"matmul_{which}_input_quantizer") for which in "qkv"]
        groups = [sites]
        if weights:
            groups.append([getattr(module, part).weight_quantizer for part in ("query", "key", "value")])
        for group in groups:
            ranges = [quantizer.amax for quantizer in group]
            if any(amax is None for amax in ranges):
                notes.append(f"--fuse-qkv: {name} has no ranges yet")
                continue
            largest = np.max([np.max(amax) for amax in ranges])
            for quantizer, amax in zip(group, ranges, strict=True):
                quantizer.amax = np.full(amax.shape, largest, np.float32)
    return notes


def clip_gelu(model: Any, largest: float) -> list[str]:
    """Cut the range of what each feed-forward's activation gives.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    largest : float

    Returns
    -------
    list of str
        What was left alone for want of ranges.
    """
    notes = []
    for name, module in model.named_modules():
        if not name.endswith("output.dense") or name.endswith("attention.output.dense"):
            continue
        quantizer = module.input_quantizer
        if quantizer.amax is None:
            notes.append(f"--clip-gelu: {name} has no range yet")
        else:
            quantizer.amax = np.minimum(quantizer.amax, np.float32(largest))
    return notes


def _matching(model: Any, pattern: str) -> list[Any]:
    """Quantizers whose own name, or that of the layer they belong to, matches."""
    return [quantizer for name, quantizer in _named(model) if re.search(pattern, name)]


def _named(model: Any) -> Iterator[tuple[str, Any]]:
    from qdqbert.rules import named_quantizers

    for name, quantizer in named_quantizers(model):
        # Those of a layer are matched by the layer's name, those that stand alone by their own.
        yield re.sub(r"\._(input|weight)_quantizer$", "", name), quantizer


def _required(model: Any, flag: str, pattern: str) -> list[Any]:
    found = _matching(model, pattern)
    if not found:
        names = sorted({name.rpartition(".")[2] for name, _ in _named(model)})
        raise UsageError(f"{flag}: {pattern!r} matches no quantizer; names end in {', '.join(names)}")
    return found

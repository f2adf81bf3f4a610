# SPDX-License-Identifier: Apache-2.0
"""How a model is quantized, as ``config.json`` records it under ``qdqbert_quantization``.

The original stores no such thing: bits, axes and calibrators live in class attributes of ``QuantLinear``, so
a saved folder does not say how it was made.  Here a folder does::

    "qdqbert_quantization": {
        "quant_method": "qdqbert",
        "input": {"num_bits": 8, "calib_method": "histogram"},
        "weight": {"num_bits": 8, "axis": [0]},
        "quantizers": {"bert.encoder.layer.0.attention.output.add_local_input_quantizer": {"disabled": true}},
        "calibration": {"activations": "percentile 99.99", "weights": "max", "ranges_sha256": "9f86d0..."}
    }

``input`` and ``weight`` are the arguments of the two descriptors; ``quantizers`` lists those that deviate
from theirs; ``calibration`` says how `qdqbert.calibrate` or a search chose the ranges, and is left out if it
was done otherwise or a range is another since, which the digest tells.  Without the section the class
attributes of ``QuantLinear`` decide, as in the original.  Where all settings are the package's own defaults
and there are no ranges the section is left out.

The key is not ``quantization_config``, where transformers keeps the settings of its own methods: version 4.39
refuses a folder whose method it does not know, later ones warn; a key that no method has is ignored by all.
Folders of qdqbert 0.1 have their section there and are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from qdqbert._core import STAGE_CLIP, STAGE_DISABLED, STAGE_QUANT, Quantizer
from qdqbert.arrays import digest_of
from qdqbert.errors import CheckpointError
from qdqbert.nn.tensor_quantizer import descriptor_options
from qdqbert.quant_descriptor import (
    QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW,
    QUANT_DESC_8BIT_PER_TENSOR,
    QuantDescriptor,
)

if TYPE_CHECKING:
    from qdqbert.configuration_qdqbert import QDQBertConfig
    from qdqbert.module import Module

__all__ = [
    "SECTION",
    "CalibrationNote",
    "apply_deviations",
    "describe",
    "describe_descriptors",
    "deviations_of",
    "is_float",
    "note_method",
    "note_of",
    "read_descriptors",
    "section_of",
    "store_section",
]

METHOD = "qdqbert"
_BASE_PREFIX = "bert."
SECTION = "qdqbert_quantization"
_FORMER_SECTION = "quantization_config"


class CalibrationNote(NamedTuple):
    """How the ranges of a model were chosen.

    Attributes
    ----------
    activations, weights : str
        Method and its options: ``"percentile 99.99"``, ``"max"``, ``"search"``.
    ranges_sha256 : str
        Of the ranges that it chose.
    """

    activations: str
    weights: str
    ranges_sha256: str

    def fits(self, quantizers: Iterable[tuple[str, Quantizer]]) -> bool:
        """Whether the ranges are still those.

        Parameters
        ----------
        quantizers : iterable of (str, _core.Quantizer)
        """
        return self.ranges_sha256 == _ranges_digest(quantizers)


def note_method(model: Module, activations: str, weights: str | None, percentile: float) -> None:
    """Note in a whole model how its ranges were chosen, just now; in a part of one nothing is noted.

    Parameters
    ----------
    model : Module
    activations : str
        As in `CalibrationNote`.
    weights : str or None
        Method for weights; None: they were left as they are, and nothing is known of the whole.
    percentile : float
        That `weights` means if it is ``"percentile"``.
    """
    from qdqbert.modeling_base import QDQBertPreTrainedModel

    if not isinstance(model, QDQBertPreTrainedModel):
        return
    quantizers, note = model._core_quantizers(), None
    # One that is off keeps a range that was chosen before.
    is_left = any(each.stages & STAGE_DISABLED and each.amax() is not None for _, each in quantizers)
    if weights is not None and not is_left:
        text = f"percentile {percentile}" if weights == "percentile" else weights
        note = CalibrationNote(activations, text, _ranges_digest(quantizers))
    model._engine.calibration = note


def note_of(section: Any) -> CalibrationNote | None:
    """Return what the settings say of a calibration, or None.

    Parameters
    ----------
    section : object
        As `section_of` gives it, and `read_descriptors` takes it.

    Raises
    ------
    CheckpointError
        If it is built otherwise.
    """
    fields = section.get("calibration") if section else None
    if fields is None:
        return None
    names = CalibrationNote._fields
    if not isinstance(fields, Mapping) or not all(isinstance(fields.get(name), str) for name in names):
        raise CheckpointError(f"{SECTION}.calibration: expected {', '.join(names)}, got {fields!r:.120}")
    return CalibrationNote(*(fields[name] for name in names))


def _ranges_digest(quantizers: Iterable[tuple[str, Quantizer]]) -> str:
    """SHA-256 of names, without the base model's prefix, and ranges."""
    named = ((name.removeprefix(_BASE_PREFIX), quantizer.amax()) for name, quantizer in quantizers)
    return digest_of((name, amax) for name, amax in named if amax is not None)


def section_of(config: QDQBertConfig) -> Any:
    """Return the quantization settings of a configuration, or None.

    Parameters
    ----------
    config : QDQBertConfig
    """
    section = getattr(config, SECTION, None)
    return getattr(config, _FORMER_SECTION, None) if section is None else section


def store_section(config: QDQBertConfig, section: dict[str, Any] | None) -> None:
    """Set the quantization settings of a configuration, or take them out of it.

    Parameters
    ----------
    config : QDQBertConfig
    section : dict or None
    """
    for key in (SECTION, _FORMER_SECTION):
        if hasattr(config, key):
            delattr(config, key)
    if section is not None:
        setattr(config, SECTION, section)


def read_descriptors(section: Any) -> tuple[QuantDescriptor, QuantDescriptor] | None:
    """Return the (input, weight) descriptors of the settings, or None if there are none.

    Parameters
    ----------
    section : object
        As `section_of` gives it.

    Raises
    ------
    CheckpointError
        If the section is of another method or cannot be read.
    """
    if section is None:
        return None
    if not isinstance(section, Mapping) or section.get("quant_method") != METHOD:
        found = section.get("quant_method") if isinstance(section, Mapping) else section
        raise CheckpointError(f"quantization settings: expected quant_method {METHOD!r}, got {found!r:.80}")
    return _descriptor(section, "input"), _descriptor(section, "weight")


def _descriptor(section: Mapping[str, Any], key: str) -> QuantDescriptor:
    fields = section.get(key, {})
    if not isinstance(fields, Mapping):
        raise CheckpointError(f"{SECTION}.{key}: expected an object, got {fields!r}")
    arguments: dict[str, Any] = dict(fields)
    for name in ("axis", "num_bits"):
        if isinstance(arguments.get(name), list):
            arguments[name] = tuple(arguments[name])
    try:
        return QuantDescriptor(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{SECTION}.{key}: {error}") from error


def describe(
    quantizers: Iterable[tuple[str, Quantizer]],
    input_desc: QuantDescriptor,
    weight_desc: QuantDescriptor,
    note: CalibrationNote | None = None,
) -> dict[str, Any] | None:
    """Return the section for a model, or None if all settings are the defaults and there are no ranges.

    Parameters
    ----------
    quantizers : iterable of (str, _core.Quantizer)
    input_desc, weight_desc : QuantDescriptor
        What the quantizers were made from.
    note : CalibrationNote, optional
        Kept if it fits.
    """
    quantizers = list(quantizers)
    deviations: dict[str, dict[str, Any]] = {}
    has_ranges = False
    for name, quantizer in quantizers:
        descriptor = weight_desc if name.endswith("_weight_quantizer") else input_desc
        deviation = _deviation(quantizer, descriptor)
        if deviation:
            deviations[name] = deviation
        has_ranges = has_ranges or _has_range(quantizer)
    is_default = (
        input_desc == QUANT_DESC_8BIT_PER_TENSOR and weight_desc == QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW
    )
    if is_default and not deviations and not has_ranges:
        return None
    section = {**describe_descriptors(input_desc, weight_desc), "quantizers": deviations}
    if note is not None and note.fits(quantizers):
        section["calibration"] = note._asdict()
    return section


def describe_descriptors(input_desc: QuantDescriptor, weight_desc: QuantDescriptor) -> dict[str, Any]:
    """Return a section for two descriptors, in which no quantizer deviates from them.

    Parameters
    ----------
    input_desc, weight_desc : QuantDescriptor
    """
    return {
        "quant_method": METHOD,
        "input": _plain_fields(input_desc),
        "weight": _plain_fields(weight_desc),
    }


def is_float(section: dict[str, Any] | None, quantizers: Iterable[tuple[str, Quantizer]]) -> bool:
    """Whether a model is the float model that other software makes of its folder: nothing is lost there.

    So it is with default settings and no ranges, as a model is when its float weights have just been loaded,
    and with every quantizer off and no ranges.

    Parameters
    ----------
    section : dict or None
        As `describe` gives it.
    quantizers : iterable of (str, _core.Quantizer)
    """
    return section is None or all(
        quantizer.stages & STAGE_DISABLED and not _has_range(quantizer) for _, quantizer in quantizers
    )


def _has_range(quantizer: Quantizer) -> bool:
    return (
        quantizer.amax() is not None
        or quantizer.pre_quant_scale() is not None
        or bool(quantizer.options()["learn_amax"])
    )


def _deviation(quantizer: Quantizer, descriptor: QuantDescriptor) -> dict[str, Any]:
    """Return what distinguishes a quantizer from a new one of its descriptor."""
    expected, options = descriptor_options(descriptor), quantizer.options()
    deviation = {key: _plain(value) for key, value in options.items() if not _same(value, expected[key])}
    if quantizer.stages & STAGE_DISABLED:
        deviation["disabled"] = True
    if not quantizer.stages & STAGE_QUANT:
        deviation["quant"] = False
    if descriptor.learn_amax and not quantizer.stages & STAGE_CLIP:
        deviation["clip"] = False
    return deviation


def deviations_of(section: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return what the settings say of single quantizers, by name.

    Parameters
    ----------
    section : object
        As `section_of` gives it, and `read_descriptors` takes it.

    Raises
    ------
    CheckpointError
        If it is built otherwise.
    """
    listed = section.get("quantizers", {}) if section else {}
    if not isinstance(listed, Mapping):
        raise CheckpointError(f"{SECTION}.quantizers: expected an object, got {listed!r}")
    for name, deviation in listed.items():
        if not isinstance(deviation, Mapping):
            raise CheckpointError(f"{SECTION}.quantizers[{name!r}]: expected an object, got {deviation!r}")
    return listed


def apply_deviations(section: Any, quantizers: Iterable[tuple[str, Quantizer]], base_prefix: str) -> None:
    """Set the quantizers that the settings list.

    Parameters
    ----------
    section : object
        As `section_of` gives it.
    quantizers : iterable of (str, _core.Quantizer)
        Of the model.
    base_prefix : str
        ``"bert"``: what names of a model with a head start with, and those of a base model do not.  Settings
        of the one are read by the other, as its tensors are.

    Raises
    ------
    CheckpointError
        If one is not in the model or its settings cannot be read.
    """
    listed = deviations_of(section)
    by_name = dict(quantizers)
    prefix = f"{base_prefix}."
    for name, deviation in listed.items():
        where = f"{SECTION}.quantizers[{name!r}]"
        other = name.removeprefix(prefix) if name.startswith(prefix) else prefix + name
        quantizer = by_name.get(name) or by_name.get(other)
        if quantizer is None or (name not in by_name and other in listed):
            raise CheckpointError(f"{where}: the model has no quantizer of this name")
        options = {key: tuple(v) if isinstance(v, list) else v for key, v in deviation.items()}
        disabled, quant = options.pop("disabled", False), options.pop("quant", True)
        clip = options.pop("clip", True)
        try:
            if options:
                quantizer.set_options(options)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from error
        stages = quantizer.stages & ~(STAGE_DISABLED | STAGE_QUANT)
        stages |= (STAGE_DISABLED if disabled else 0) | (STAGE_QUANT if quant else 0)
        quantizer.stages = stages if clip else stages & ~STAGE_CLIP


def _plain_fields(descriptor: QuantDescriptor) -> dict[str, Any]:
    fields = {key: _plain(value) for key, value in descriptor.dict().items()}
    if fields.get("name") is None:
        fields.pop("name", None)
    return fields


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _same(value: Any, expected: Any) -> bool:
    # Factors come back from C as float32.
    if isinstance(value, float) and isinstance(expected, int | float):
        return abs(value - expected) <= 1e-6 * abs(expected)
    return bool(value == expected)

# SPDX-License-Identifier: Apache-2.0
"""How a model is quantized, as ``config.json`` records it under ``quantization_config``.

The original stores no such thing: bits, axes and calibrators live in class attributes of ``QuantLinear``, so
a saved folder does not say how it was made.  Here a folder does::

    "quantization_config": {
        "quant_method": "qdqbert",
        "input": {"num_bits": 8, "calib_method": "histogram"},
        "weight": {"num_bits": 8, "axis": [0]},
        "quantizers": {"bert.encoder.layer.0.attention.output.add_local_input_quantizer": {"disabled": true}}
    }

``input`` and ``weight`` are the arguments of the two descriptors; ``quantizers`` lists those that deviate
from theirs. Without the section the class attributes of ``QuantLinear`` decide, as in the original.  A model
whose settings are the package's own defaults and that has no ranges is a float model: the section is left
out, so that it opens anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qdqbert._core import STAGE_DISABLED, STAGE_QUANT, Quantizer
from qdqbert.errors import CheckpointError
from qdqbert.nn.tensor_quantizer import descriptor_options
from qdqbert.quant_descriptor import (
    QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW,
    QUANT_DESC_8BIT_PER_TENSOR,
    QuantDescriptor,
)

__all__ = ["METHOD", "apply_deviations", "describe", "read_descriptors"]

METHOD = "qdqbert"


def read_descriptors(section: Any) -> tuple[QuantDescriptor, QuantDescriptor] | None:
    """Return the (input, weight) descriptors of ``quantization_config``, or None if there is no such section.

    Parameters
    ----------
    section : object
        Value of ``quantization_config``.

    Raises
    ------
    CheckpointError
        If the section is of another method or cannot be read.
    """
    if section is None:
        return None
    if not isinstance(section, Mapping) or section.get("quant_method") != METHOD:
        found = section.get("quant_method") if isinstance(section, Mapping) else section
        raise CheckpointError(f"quantization_config: expected quant_method {METHOD!r}, got {found!r}")
    return _descriptor(section, "input"), _descriptor(section, "weight")


def _descriptor(section: Mapping[str, Any], key: str) -> QuantDescriptor:
    fields = section.get(key, {})
    if not isinstance(fields, Mapping):
        raise CheckpointError(f"quantization_config.{key}: expected an object, got {fields!r}")
    arguments: dict[str, Any] = dict(fields)
    for name in ("axis", "num_bits"):
        if isinstance(arguments.get(name), list):
            arguments[name] = tuple(arguments[name])
    try:
        return QuantDescriptor(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"quantization_config.{key}: {error}") from error


def describe(
    quantizers: Iterable[tuple[str, Quantizer]], input_desc: QuantDescriptor, weight_desc: QuantDescriptor
) -> dict[str, Any] | None:
    """Return the section for a model, or None for a float model.

    Parameters
    ----------
    quantizers : iterable of (str, _core.Quantizer)
    input_desc, weight_desc : QuantDescriptor
        What the quantizers were made from.
    """
    deviations: dict[str, dict[str, Any]] = {}
    has_ranges = False
    for name, quantizer in quantizers:
        descriptor = weight_desc if name.endswith("_weight_quantizer") else input_desc
        expected, options = descriptor_options(descriptor), quantizer.options()
        deviation = {key: _plain(value) for key, value in options.items() if not _same(value, expected[key])}
        if quantizer.stages & STAGE_DISABLED:
            deviation["disabled"] = True
        if not quantizer.stages & STAGE_QUANT:
            deviation["quant"] = False
        if deviation:
            deviations[name] = deviation
        has_ranges = has_ranges or quantizer.amax() is not None or options["learn_amax"]
    is_default = (
        input_desc == QUANT_DESC_8BIT_PER_TENSOR and weight_desc == QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW
    )
    if is_default and not has_ranges:
        return None
    return {
        "quant_method": METHOD,
        "input": _plain_fields(input_desc),
        "weight": _plain_fields(weight_desc),
        "quantizers": deviations,
    }


def apply_deviations(section: Any, quantizers: Iterable[tuple[str, Quantizer]]) -> None:
    """Set the quantizers that ``quantization_config`` lists.

    Parameters
    ----------
    section : object
        Value of ``quantization_config``.
    quantizers : iterable of (str, _core.Quantizer)

    Raises
    ------
    CheckpointError
        If one is not in the model or its settings cannot be read.
    """
    listed = section.get("quantizers", {}) if section else {}
    if not isinstance(listed, Mapping):
        raise CheckpointError(f"quantization_config.quantizers: expected an object, got {listed!r}")
    by_name = dict(quantizers)
    for name, deviation in listed.items():
        where = f"quantization_config.quantizers[{name!r}]"
        if name not in by_name:
            raise CheckpointError(f"{where}: the model has no quantizer of this name")
        if not isinstance(deviation, Mapping):
            raise CheckpointError(f"{where}: expected an object, got {deviation!r}")
        options = {key: tuple(v) if isinstance(v, list) else v for key, v in deviation.items()}
        disabled, quant = options.pop("disabled", False), options.pop("quant", True)
        quantizer = by_name[name]
        try:
            if options:
                quantizer.set_options(options)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from error
        stages = quantizer.stages & ~(STAGE_DISABLED | STAGE_QUANT)
        quantizer.stages = stages | (STAGE_DISABLED if disabled else 0) | (STAGE_QUANT if quant else 0)


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

# SPDX-License-Identifier: Apache-2.0
"""``qdqbert info DIR``: what a checkpoint folder holds, without building the model."""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdqbert.cli.report import Report, emphasize
from qdqbert.tasks.table import task_of_architectures
from qdqbert.text_table import format_bytes, format_table

if TYPE_CHECKING:
    from qdqbert.serialization.weight_files import WeightFiles

__all__ = ["add_arguments", "run"]

_FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
)
_LAYER = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.(.+)\._amax$")
_Float = npt.NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder")
    parser.add_argument(
        "--all", action="store_true", help="list every quantizer, not one line for all layers"
    )


def run(arguments: argparse.Namespace) -> Report:
    """Read configuration, headers and ranges."""
    from qdqbert.configuration_qdqbert import QDQBertConfig
    from qdqbert.quantization_settings import deviations_of, read_descriptors, section_of
    from qdqbert.serialization.folder import Source, read_json
    from qdqbert.serialization.weight_files import find_weights

    source = Source(arguments.folder)
    fields = read_json(source.require("config.json"))
    config = QDQBertConfig.from_dict(dict(fields))
    config.validate()
    formats, parameters, ranges = _weights(find_weights(source))
    section = section_of(config) or {}
    read_descriptors(section or None)
    disabled = sorted(name for name, deviation in deviations_of(section).items() if deviation.get("disabled"))
    expected = (34 if config.add_cross_attention else 20) * int(config.num_hidden_layers)
    task = task_of_architectures(fields.get("architectures"))
    data: dict[str, Any] = {
        "folder": arguments.folder,
        "model_type": fields.get("model_type"),
        "architectures": fields.get("architectures"),
        "task": None if task is None else task.name,
        "num_labels": config.num_labels,
        "config": {name: getattr(config, name) for name in _FIELDS},
        "parameters": parameters,
        "formats": formats,
        "files": _files(source.folder),
        "quantizers": {
            "expected": expected,
            "with_range": len(ranges),
            "disabled": disabled,
            "settings": {key: section[key] for key in ("input", "weight") if key in section},
            "ranges": {
                name: {"elements": int(value.size), "min": _number(value.min()), "max": _number(value.max())}
                for name, value in ranges.items()
            },
        },
    }
    return Report(data, _lines(data, ranges, arguments.all))


def _weights(files: WeightFiles) -> tuple[dict[str, dict[str, int]], int, dict[str, _Float]]:
    """Tensors and bytes by number format, parameters in all, and ranges by quantizer."""
    from qdqbert.serialization.stored_tensor import FORMAT_BYTES

    formats: dict[str, dict[str, int]] = defaultdict(lambda: {"tensors": 0, "bytes": 0})
    parameters = 0
    ranges: dict[str, _Float] = {}
    for path in files.paths:
        with files.open(path) as file:
            for name, tensor in file.tensors.items():
                count = math.prod(tensor.shape)
                formats[tensor.number_format]["tensors"] += 1
                formats[tensor.number_format]["bytes"] += count * FORMAT_BYTES[tensor.number_format]
                if name.endswith("._amax"):
                    ranges[name.removesuffix("._amax")] = tensor.read()
                else:
                    parameters += count
    return dict(formats), parameters, ranges


def _files(folder: Path | None) -> dict[str, int]:
    if folder is None:
        return {}
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def _number(value: Any) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None


def _lines(data: dict[str, Any], ranges: dict[str, _Float], all_of_them: bool) -> list[str]:
    config, quantizers = data["config"], data["quantizers"]
    formats = ", ".join(f"{n['tensors']} x {name}" for name, n in data["formats"].items())
    lines = [
        emphasize(data["folder"]),
        f"  {' '.join(data['architectures'] or ['no architecture named'])} (model_type {data['model_type']})",
        f"  {config['num_hidden_layers']} layers, hidden {config['hidden_size']}, "
        f"{config['num_attention_heads']} heads, intermediate {config['intermediate_size']} "
        f"({config['hidden_act']}), {config['vocab_size']} wordpieces, "
        f"{config['max_position_embeddings']} positions",
        f"  {data['parameters']:,} parameters; tensors: {formats}",
        "  files: " + ", ".join(f"{name} {format_bytes(size)}" for name, size in data["files"].items()),
        f"  quantizers: {quantizers['with_range']} of {quantizers['expected']} have a range"
        + (f", {len(quantizers['disabled'])} are off" if quantizers["disabled"] else "")
        + ("" if ranges else " (a float checkpoint; `qdqbert quantize` gives it ranges)"),
    ]
    if 0 < len(quantizers["disabled"]) < quantizers["expected"]:
        lines += [f"    off: {name}" for name in quantizers["disabled"]]
    if not ranges:
        return lines
    groups: dict[str, list[_Float]] = defaultdict(list)
    for name, value in ranges.items():
        place = _LAYER.search(f"{name}._amax")
        groups[name if all_of_them or place is None else f"layer.*.{place[2]}"].append(value)
    rows = [
        [name, str(len(values)), f"{min(v.min() for v in values):.4g}", f"{max(v.max() for v in values):.4g}"]
        for name, values in groups.items()
    ]
    return [*lines, "", *format_table(["quantizer", "count", "least range", "largest range"], rows)]

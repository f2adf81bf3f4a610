# SPDX-License-Identifier: Apache-2.0
"""``qdqbert export DIR FILE``: a checkpoint as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdqbert.cli.checkpoint import open_model
from qdqbert.cli.report import OK, VERIFICATION_FAILED, Report, UsageError, emphasize
from qdqbert.errors import CheckpointError
from qdqbert.text_table import format_bytes, format_table

if TYPE_CHECKING:
    from qdqbert.onnx import Violation
    from qdqbert.onnx.comparison import OutputDifference

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder")
    parser.add_argument("file", metavar="FILE", help="ONNX file to write, such as model.onnx")
    parser.add_argument("--opset", type=int, default=17, metavar="N", help="operator set, 13 or newer (17)")
    parser.add_argument(
        "--weights",
        choices=["float", "int8"],
        default="float",
        help="quantized weights as floats with QuantizeLinear (default), or as their codes: a quarter of the "
        "space",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16"],
        default="fp32",
        help="of parameters and products (fp32)",
    )
    parser.add_argument(
        "--external-data",
        choices=["auto", "yes", "no"],
        default="auto",
        help="large tensors in a second file beside the first (auto: if one file cannot hold them)",
    )
    parser.add_argument(
        "--share-input-quantizers",
        action="store_true",
        help="one pair of nodes for query, key and value where their input quantizers are equal",
    )
    parser.add_argument(
        "--float8",
        choices=["standard", "tensorrt"],
        default="standard",
        help="float8 quantizers as standard operators or as TensorRT's own (standard)",
    )
    parser.add_argument(
        "--cache", action="store_true", help="a decoder takes and returns keys and values of earlier tokens"
    )
    parser.add_argument(
        "--float", action="store_true", dest="as_float", help="leave all quantizers out: the float model"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare the file with TensorRT's rules; status 4 if one is broken",
    )
    parser.add_argument(
        "--compare-with",
        choices=["onnxruntime"],
        help="run the file on random texts and compare it with the model",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="status 4 if an output differs, root mean square, by more than this share of it (default: 0.05, "
        "or a quarter of what quantizing changes if that is more, as codes at ties move others)",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Load, write, check and compare."""
    from qdqbert import nn
    from qdqbert.onnx import check, export
    from qdqbert.onnx.comparison import compare_with_onnxruntime
    from qdqbert.onnx.runtime import require_onnxruntime

    tolerance = arguments.tolerance
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise UsageError(f"--tolerance: expected at least 0, found {tolerance}")
    if tolerance is not None and arguments.compare_with is None:
        raise UsageError("--tolerance: has no effect without --compare-with")
    if arguments.compare_with is not None:
        require_onnxruntime()
    model = open_model(arguments.folder)
    quantizers = [module for module in model.modules() if isinstance(module, nn.TensorQuantizer)]
    if arguments.as_float:
        for quantizer in quantizers:
            quantizer.disable()
    elif all(quantizer.amax is None and not quantizer._disabled for quantizer in quantizers):
        raise CheckpointError(
            f"{arguments.folder}: no quantizer has a range; `qdqbert quantize` gives them some, --float "
            "leaves all of them out"
        )
    written = export(
        model,
        arguments.file,
        opset=arguments.opset,
        weights=arguments.weights,
        precision=arguments.precision,
        external_data={"yes": True, "no": False}.get(arguments.external_data, "auto"),
        share_input_quantizers=arguments.share_input_quantizers,
        float8=arguments.float8,
        use_cache=arguments.cache,
    )
    violations = check(written[0]) if arguments.check else []
    differences = compare_with_onnxruntime(model, written[0]) if arguments.compare_with else []
    is_far = any(each.is_far(tolerance) for each in differences)
    data: dict[str, Any] = {
        "folder": arguments.folder,
        "class": type(model).__name__,
        "opset": arguments.opset,
        "weights": arguments.weights,
        "precision": arguments.precision,
        "files": {str(each): each.stat().st_size for each in written},
        "violations": [each._asdict() for each in violations] if arguments.check else None,
        "compared_with": arguments.compare_with,
        "differences": [each._asdict() for each in differences],
    }
    lines = _lines(data, violations, differences, tolerance)
    return Report(data, lines, VERIFICATION_FAILED if violations or is_far else OK)


def _lines(
    data: dict[str, Any],
    violations: list[Violation],
    differences: list[OutputDifference],
    tolerance: float | None,
) -> list[str]:
    files = ", ".join(f"{Path(name).name} {format_bytes(size)}" for name, size in data["files"].items())
    lines = [
        emphasize(files),
        f"  {data['class']}, opset {data['opset']}, weights {data['weights']}, {data['precision']}",
    ]
    if data["violations"] is not None:
        lines.append(
            f"  {len(violations)} violations of TensorRT's rules; see `qdqbert onnx-check`"
            if violations
            else "  all of TensorRT's rules hold"
        )
    if differences:
        rows = [
            [each.name, f"{each.elements:,}", *(f"{part:.2g}" for part in each[4:]), f"{each.largest:.2g}"]
            for each in differences
        ]
        header = [
            "output",
            "elements",
            "difference",
            "of outputs of",
            "quantizing changes",
            "largest difference",
        ]
        lines += ["", f"{data['compared_with']} against the model:", *format_table(header, rows)]
        lines.append("in root mean square, but for the last")
        far = [each.name for each in differences if each.is_far(tolerance)]
        if far:
            allowed = "0.05 of the output or a quarter of what quantizing changes"
            if tolerance is not None:
                allowed = f"{tolerance:g} of the output"
            lines.append(f"{', '.join(far)}: more than {allowed}")
    return lines

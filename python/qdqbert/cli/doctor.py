# SPDX-License-Identifier: Apache-2.0
"""``qdqbert doctor``: whether this installation is sound, and what it runs.

The last check is the one that matters: a small model is run on every kernel variant that this CPU has, with
one thread and with two, and all logits must be the same to the bit, as the numerics contract says.

``--measure`` tells how fast this machine can multiply, and what share of that the products of BERT reach.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.cli.report import OK, VERIFICATION_FAILED, Report, emphasize
from qdqbert.text_table import format_table

if TYPE_CHECKING:
    from qdqbert.device import Device

__all__ = ["add_arguments", "run"]

_ROOF_S, _PRODUCT_S = 1.0, 0.15  # that each roof and each product is measured
_PACKAGES = ("numpy", "tokenizers", "safetensors", "huggingface-hub", "tqdm", "onnx")
_CONTENTS = (
    "LICENSE",
    "py.typed",
    "_core.pyi",
    "demo/topics-tiny/model.safetensors",
    "demo/topics-tiny/NOTICE",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also measure the peak loop of this machine, and the share of it that products of BERT's shapes "
        "reach, on one thread and on all (about half a minute; wants an idle machine)",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Gather facts and check the bits."""
    from qdqbert import __version__, _core
    from qdqbert.device import default_device

    device = default_device()
    kernels = dict(device.kernels())
    variants = {name: supported for name, supported in _core.variants()}
    missing = [name for name in _CONTENTS if not (_package_folder() / name).is_file()]
    digests = _self_test([name for name, supported in variants.items() if supported])
    is_sound = not missing and len(set(digests.values())) == 1 and _core.__version__ == __version__
    data: dict[str, Any] = {
        "sound": is_sound,
        "qdqbert": {"python": __version__, "core": _core.__version__, "folder": str(_package_folder())},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "isa": device.isa,
        "threads": device.num_threads,
        "cpu_limits": _core.cpu_limits(),
        "variants": variants,
        "kernels": kernels,
        "bf16_refusal": _bf16_refusal(device),
        "blas": _blas(),
        "missing_files": missing,
        "self_test": digests,
    }
    if arguments.measure:
        data["measured"] = _measured(device)
    return Report(data, _lines(data), OK if is_sound else VERIFICATION_FAILED)


def _package_folder() -> Path:
    return Path(__file__).resolve().parent.parent


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model\t")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _blas() -> str | None:
    """Return the file name of the BLAS that lies beside the extension."""
    found = sorted(path.name for path in _package_folder().rglob("*openblas*"))
    if not found:  # an editable installation keeps binaries beside site-packages' other folders
        from qdqbert import _core

        found = sorted(path.name for path in Path(str(_core.__file__)).parent.rglob("*openblas*"))
    return found[0] if found else None


def _bf16_refusal(device: Device) -> str | None:
    """Say why training cannot have bf16 products, which are tried; None: it can."""
    from qdqbert.errors import UnsupportedError

    try:
        device.check_bf16()
    except UnsupportedError as error:
        return str(error)
    return None


def _measured(device: Device) -> dict[str, Any]:
    """Roofs of the products, and rates of BERT's shapes, on one thread and on all."""
    from qdqbert import roof

    threads = sorted({1, device.num_threads})
    roofs = [
        {
            "operands": kind,
            "threads": count,
            "operations_per_s": roof.measure_roof(device, kind, count, _ROOF_S),
        }
        for kind in roof.OPERANDS
        for count in threads
    ]
    rates = {
        name: [
            dataclasses.asdict(rate)
            for rate in roof.measure_products(
                device.isa, threads, rows=roof.BERT_ROWS, products=shapes, seconds=_PRODUCT_S
            )
        ]
        for name, shapes in roof.BERT_PRODUCTS.items()
    }
    return {"roofs": roofs, "products": rates}


def _measured_lines(measured: dict[str, Any]) -> list[str]:
    """Two tables: the roofs, and for each shape rates and shares by operands and threads."""
    units = {"f32": "GF/s", "qs8": "GOP/s"}
    roofs = [
        f"{kind['operands']}, {_threads_text(kind['threads'])}: {kind['operations_per_s'] / 1e9:.0f} "
        f"{units[kind['operands']]}"
        for kind in measured["roofs"]
    ]
    lines = ["", "peak loop  " + "; ".join(roofs)]
    for name, rates in measured["products"].items():
        columns = list(dict.fromkeys((rate["operands"], rate["threads"]) for rate in rates))
        found: dict[tuple[int, int, int], list[str]] = {}
        for rate in rates:
            cells = found.setdefault((rate["rows"], rate["n"], rate["k"]), [])
            cells.append(f"{rate['operations_per_s'] / 1e9:.0f} ({100 * rate['share']:.0f} %)")
        header = [f"{name}: rows, N, K", *(f"{kind}, {_threads_text(count)}" for kind, count in columns)]
        rows = [[", ".join(map(str, shape)), *cells] for shape, cells in found.items()]
        lines += ["", *format_table(header, rows)]
    return [
        *lines,
        "",
        "GF/s and GOP/s in the least time, 1 multiply-add = 2; in parentheses: of the peak loop",
    ]


def _threads_text(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _self_test(isas: list[str]) -> dict[str, str]:
    """Digest of the logits of a small quantized model, by kernel variant and number of threads."""
    from qdqbert import Calibration, Device, QDQBertConfig, QDQBertForQuestionAnswering

    # Sizes that are no multiples of any tile; padding in the middle of a batch; several sequences.
    config = QDQBertConfig(
        vocab_size=101,
        hidden_size=60,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=131,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    generator = np.random.default_rng(7)
    ids = generator.integers(1, 101, size=(3, 37))
    mask = (np.arange(37) < np.array([[37], [11], [1]])).astype(np.int64)
    inputs = {"input_ids": ids, "attention_mask": mask}
    digests = {}
    for isa in isas:
        for threads in (1, 2):
            device = Device(isa=isa, num_threads=threads)
            model = QDQBertForQuestionAnswering(config, device=device, seed=3)
            digest = hashlib.sha256()
            out = model(**inputs)  # dynamic ranges
            digest.update(out.start_logits.tobytes() + out.end_logits.tobytes())
            Calibration(model).collect([inputs], progress=False).apply("mse")
            out = model(**inputs)  # fixed ranges: integer products
            digest.update(out.start_logits.tobytes() + out.end_logits.tobytes())
            digests[f"{isa}, {_threads_text(threads)}"] = digest.hexdigest()[:16]
    return digests


def _limits_text(limits: dict[str, int]) -> str:
    """Say what decides on the number of threads."""
    quota = f"its quota is worth {limits['quota']}" if limits["quota"] else "no quota"
    return (
        f"{limits['online']} CPUs, of which the affinity mask allows {limits['affinity']}; {quota} (cgroup)"
    )


def _lines(data: dict[str, Any]) -> list[str]:
    by_variant: dict[str, list[str]] = {}
    for kernel, variant in data["kernels"].items():
        by_variant.setdefault(variant, []).append(kernel)
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in data["packages"].items())
    lines = [
        f"qdqbert    {data['qdqbert']['python']} (core {data['qdqbert']['core']}), "
        f"{data['qdqbert']['folder']}",
        f"python     {data['python']} ({sys.implementation.name}), {data['system']}",
        f"packages   {versions}",
        f"cpu        {data['cpu']}",
        f"threads    {data['threads']} by default: {_limits_text(data['cpu_limits'])}",
        f"kernels    {data['isa']}; compiled in: "
        + ", ".join(name + ("" if ok else " (not on this CPU)") for name, ok in data["variants"].items()),
        f"blas       {data['blas'] or 'none found (kernels of our own do everything)'}",
    ]
    lines += [f"           {variant}: {', '.join(names)}" for variant, names in by_variant.items()]
    lines.append(f"bf16       {data['bf16_refusal'] or 'products for training'}")
    if data["missing_files"]:
        lines.append(f"files      MISSING: {', '.join(data['missing_files'])}")
    lines += [
        "",
        *format_table(["self-test: logits of", "digest"], list(data["self_test"].items()), left=2),
        "",
    ]
    if "measured" in data:
        lines += [*_measured_lines(data["measured"]), ""]
    same = len(set(data["self_test"].values())) == 1
    verdict = (
        "sound: all kernels give the same bits"
        if data["sound"]
        else "NOT SOUND: "
        + (
            "a part of the package is missing or of another version"
            if same
            else "kernels differ; please report this"
        )
    )
    return [*lines, emphasize(verdict)]

# SPDX-License-Identifier: Apache-2.0
"""``qdqbert doctor``: whether this installation is sound, and what it runs.

The last check is the one that matters: a small model is run on every kernel variant that this CPU has, with
one thread and with two, and all logits must be the same to the bit, as the numerics contract says.
"""

from __future__ import annotations

import argparse
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

_PACKAGES = ("numpy", "tokenizers", "safetensors", "huggingface-hub", "tqdm", "onnx")
_CONTENTS = (
    "LICENSE",
    "py.typed",
    "_core.pyi",
    "demo/topics-tiny/model.safetensors",
    "demo/topics-tiny/NOTICE",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb: none of its own."""


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
        "variants": variants,
        "kernels": kernels,
        "bf16_refusal": _bf16_refusal(device),
        "blas": _blas(),
        "missing_files": missing,
        "self_test": digests,
    }
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
            digests[f"{isa}, {threads} thread{'s' if threads > 1 else ''}"] = digest.hexdigest()[:16]
    return digests


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
        f"kernels    {data['isa']}, {data['threads']} threads; compiled in: "
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

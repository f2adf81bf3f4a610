# SPDX-License-Identifier: Apache-2.0
"""Check what a built wheel and source distribution hold, and that the wheel is manylinux_2_28 by its symbols.

Usage: ``python .ci/check_wheel.py WHEEL SDIST``
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile

LATEST_GLIBC = (2, 28)
WANTED_IN_WHEEL = [
    r"qdqbert/__init__\.py",
    r"qdqbert/py\.typed",
    r"qdqbert/_core\.pyi",
    r"qdqbert/_core\..*\.so",
    r"qdqbert/lib/libscipy_openblas\.so",
    r"qdqbert/LICENSE",
    r"qdqbert/demo/.*model\.safetensors",
    r"qdqbert-[^/]*\.dist-info/licenses/.*LICENSE",
]
WANTED_IN_SDIST = [
    r"pyproject\.toml",
    r"csrc/CMakeLists\.txt",
    r"csrc/core/kernel_list\.inc",
    r"tests/conftest\.py",
]


def require(names: list[str], patterns: list[str], where: str) -> None:
    """Exit with a sentence if a pattern matches no name."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            sys.exit(f"{where} lacks {pattern}")


def main(wheel: str, sdist: str) -> None:
    """Check both archives."""
    with zipfile.ZipFile(wheel) as archive:
        require(archive.namelist(), WANTED_IN_WHEEL, wheel)
    with tarfile.open(sdist) as archive:
        require([name.split("/", 1)[-1] for name in archive.getnames()], WANTED_IN_SDIST, sdist)
    report = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", wheel], capture_output=True, text=True, check=True
    ).stdout
    print(report.strip())
    tags = [(int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)_", report)]
    if not tags or min(tags) > LATEST_GLIBC:
        sys.exit(f"the wheel is not manylinux_{LATEST_GLIBC[0]}_{LATEST_GLIBC[1]}: {json.dumps(tags)}")


if __name__ == "__main__":
    main(*sys.argv[1:])

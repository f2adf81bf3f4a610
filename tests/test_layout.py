# SPDX-License-Identifier: Apache-2.0
"""The project's own rules about where things lie and what may know what (csrc/README.md), as tests."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"

# storey -> what it may include, by first folder of the include path
MAY_INCLUDE = {
    "core": {"core", "qdqbert"},
    "kernels": {"core", "kernels", "qdqbert"},
    "quant": {"core", "quant", "qdqbert"},
    "layers": {"core", "quant", "layers", "qdqbert"},
    "models": {"core", "quant", "layers", "models", "qdqbert"},
    "pyext": {"pyext", "qdqbert"},
}
# what backend-neutral code must not contain
FORBIDDEN_IN_NEUTRAL = re.compile(
    r"\b(malloc|calloc|realloc|free|printf|fprintf|puts|abort|exit|getenv|pthread_create)\s*\("
    r"|#\s*include\s*<(immintrin|arm_neon|cblas|cuda|omp|Python)[^>]*>"
    r"|#\s*pragma\s+omp|#\s*if(n?def)?\s+.*__(AVX|SSE|ARM)"
)
BANNED_STEMS = {"utils", "helpers", "common", "misc", "manager"}
# names that the original toolkit gave to public modules
PUBLIC_NAMES = {"python/qdqbert/utils", "python/qdqbert/nn/modules/_utils.py"}
SOURCE_ENDINGS = (".c", ".h", ".inc", ".cu", ".py", ".pyi", ".cmake", ".sh")


def tracked_files() -> list[Path]:
    """Files that git tracks, or without git every file that is not hidden or built."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0 and listing.stdout:
        return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).exists()]
    skipped = {"build", "dist", "__pycache__"}
    return [
        p
        for p in ROOT.rglob("*")
        if p.is_file()
        and not any(part.startswith(".") or part in skipped for part in p.relative_to(ROOT).parts)
    ]


FILES = tracked_files()
SOURCES = [p for p in FILES if p.suffix in SOURCE_ENDINGS or p.name == "CMakeLists.txt"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_comments(text: str) -> str:
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(\\.|[^"\\\n])*"', " ", text, flags=re.DOTALL)


def c_files(storey: str) -> list[Path]:
    return [p for p in FILES if p.is_relative_to(CSRC / storey) and p.suffix in (".c", ".h", ".inc")]


def test_top_level_is_exactly_what_the_user_chose() -> None:
    allowed = {"csrc", "python", "tests", "benchmarks", "pyproject.toml", "setup.cfg", "README.md"}
    found = {p.relative_to(ROOT).parts[0] for p in FILES}
    assert {name for name in found if not name.startswith(".")} == allowed


@pytest.mark.parametrize("storey", sorted(MAY_INCLUDE))
def test_storeys_include_only_what_lies_below(storey: str) -> None:
    files = c_files(storey)
    assert files, f"csrc/{storey} is empty"
    wrong = []
    for path in files:
        for include in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), flags=re.MULTILINE):
            first = include.split("/")[0]
            local = "/" not in include
            if not local and first not in MAY_INCLUDE[storey]:
                wrong.append(f"{name_of(path)}: {include}")
    assert not wrong


@pytest.mark.parametrize("storey", ["quant", "layers", "models"])
def test_neutral_code_reaches_the_machine_only_through_kernels(storey: str) -> None:
    wrong = [
        f"{name_of(path)}: {match.group(0)}"
        for path in c_files(storey)
        for match in FORBIDDEN_IN_NEUTRAL.finditer(without_comments(path.read_text()))
    ]
    assert not wrong


def test_only_the_device_reads_the_environment() -> None:
    users = {
        name_of(p)
        for storey in MAY_INCLUDE
        for p in c_files(storey)
        if re.search(r"\bgetenv\b", without_comments(p.read_text()))
    }
    assert users == {"csrc/core/device.c"}


def test_numpy_is_confined_to_one_unit() -> None:
    users = {name_of(p) for p in c_files("pyext") if "numpy/" in p.read_text()}
    assert users == {"csrc/pyext/ndarray.c"}


def test_no_file_has_a_name_that_means_nothing() -> None:
    named = {each for p in FILES for each in (p, *p.parents) if each.is_relative_to(ROOT) and each != ROOT}
    meaningless = {name_of(p) for p in named if p.stem.lower().strip("_") in BANNED_STEMS}
    assert meaningless == PUBLIC_NAMES


def test_files_of_tests_have_names_of_their_own() -> None:
    """Pytest imports them by their stem: two of one name cannot be collected together."""
    stems = Counter(
        p.stem
        for p in FILES
        if p.is_relative_to(ROOT / "tests") and p.name.startswith("test_") and p.suffix == ".py"
    )
    assert not [stem for stem, count in stems.items() if count > 1]


def test_every_source_names_its_licence() -> None:
    missing = [
        name_of(p)
        for p in SOURCES
        if p.stat().st_size and "SPDX-License-Identifier: Apache-2.0" not in p.read_text()[:200]
    ]
    assert not missing


def test_files_stay_one_thing() -> None:
    long = {name_of(p): len(p.read_text().splitlines()) for p in SOURCES}
    assert not {name: lines for name, lines in long.items() if lines > 700}


def test_headers_have_guards_named_after_their_path() -> None:
    wrong = []
    for storey in ("core", "quant", "layers", "models", "pyext"):
        for path in c_files(storey):
            if path.suffix == ".h":
                guard = "QB_" + re.sub(r"[/.]", "_", path.relative_to(CSRC).as_posix()).upper()
                if f"#ifndef {guard}\n#define {guard}\n" not in path.read_text():
                    wrong.append(name_of(path))
    assert not wrong


def test_every_kernel_is_tested_by_name() -> None:
    manifest = (CSRC / "core" / "kernel_list.inc").read_text()
    kernels = re.findall(r"^QB_KERNEL\((\w+),", manifest, flags=re.MULTILINE)
    assert len(kernels) > 10
    tests = "\n".join(
        p.read_text() for p in FILES if p.is_relative_to(ROOT / "tests") and p.suffix in (".c", ".h", ".py")
    )
    assert not [kernel for kernel in kernels if not re.search(rf"\b{kernel}\b", tests)]


@pytest.mark.parametrize("storey", ["layers", "quant"])
def test_every_stem_has_a_test(storey: str) -> None:
    tests = "\n".join(p.read_text() for p in FILES if p.is_relative_to(ROOT / "tests" / "c"))
    headers = [p for p in c_files(storey) if p.suffix == ".h"]
    assert headers
    assert not [p.stem for p in headers if not re.search(rf'"{storey}/{p.name}"|\b(test|qb)_{p.stem}', tests)]


def test_nothing_is_left_for_later_or_speaks_of_a_machine() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|(?<![\w.])/(work|home|root|tmp/b-)/")
    this = Path(__file__).resolve()
    wrong = [
        f"{name_of(p)}: {match.group(0)}"
        for p in [*SOURCES, *(f for f in FILES if f.suffix == ".md")]
        if p != this
        for match in pattern.finditer(p.read_text())
    ]
    assert not wrong

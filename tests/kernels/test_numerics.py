# SPDX-License-Identifier: Apache-2.0
"""The coefficients of csrc/kernels/numerics.h against the functions they approximate, in exact arithmetic."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HEADER = ROOT / "csrc" / "kernels" / "numerics.h"


@pytest.fixture(scope="module")
def derivation() -> ModuleType:
    pytest.importorskip("mpmath")
    path = ROOT / "tests" / "reference" / "elementary_coefficients.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_coefficients_are_as_good_as_the_header_says(derivation: ModuleType) -> None:
    exp, numerator, denominator = derivation.header_coefficients(HEADER)
    assert derivation.exp_error(exp) < 2**-28.2
    assert derivation.mills_error(numerator, denominator) < 2**-25.8


def test_coefficients_are_float32(derivation: ModuleType) -> None:
    constants = derivation.read_header(HEADER)
    assert len(constants) > 15
    assert [name for name, value in constants.items() if derivation.to_float32(value) != value] == []


def test_the_mills_ratio_has_no_cancellation(derivation: ModuleType) -> None:
    _, numerator, denominator = derivation.header_coefficients(HEADER)
    assert min([*numerator, *denominator]) > 0

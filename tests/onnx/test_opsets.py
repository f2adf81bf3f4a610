# SPDX-License-Identifier: Apache-2.0
"""What an opset has is what the ``onnx`` package's own schemas say."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from qdqbert import UnsupportedError
from qdqbert.onnx.opsets import FIRST, newest_opset, opset_of

VERSIONS = range(FIRST, newest_opset() + 1)


def has(op: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(op, version, "").deprecated
    except onnx.defs.SchemaError:
        return False


def types_of(op: str, version: int, parameter: str) -> set[str]:
    constraints = onnx.defs.get_schema(op, version, "").type_constraints
    found = next(each for each in constraints if each.type_param_str == parameter)
    return {each.removeprefix("tensor(").removesuffix(")") for each in found.allowed_type_strs}


@pytest.mark.parametrize("version", VERSIONS)
def test_operators_are_those_of_the_schemas(version: int) -> None:
    opset = opset_of(version)

    assert opset.has_layer_normalization == has("LayerNormalization", version)
    assert opset.has_gelu == has("Gelu", version)
    assert opset.has_mish == has("Mish", version)


@pytest.mark.parametrize("version", VERSIONS)
def test_types_of_codes_are_those_of_the_schemas(version: int) -> None:
    opset = opset_of(version)
    codes = types_of("QuantizeLinear", version, "T3" if version >= 23 else "T2")

    assert {"int8", "uint8"} <= codes
    assert opset.has_float8 == ("float8e4m3fn" in codes)
    assert opset.has_int4_int16 == ({"int4", "uint4", "int16", "uint16"} <= codes)


def test_the_format_is_the_oldest_that_has_the_opset() -> None:
    assert [opset_of(version).ir_version for version in (13, 17, 19)] == [7, 8, 9]


@pytest.mark.parametrize("version", [FIRST - 1, newest_opset() + 1, 0, -1])
def test_other_versions_are_refused_with_the_range(version: int) -> None:
    with pytest.raises(UnsupportedError, match=rf"opset: expected 13 .* {newest_opset()} .*got {version}"):
        opset_of(version)


def test_integers_of_numpy_are_integers() -> None:
    assert opset_of(np.int64(17)) == opset_of(17)


@pytest.mark.parametrize("version", [True, 17.0, "17"])
def test_what_is_no_integer_is_refused(version: Any) -> None:
    with pytest.raises(TypeError, match="opset"):
        opset_of(version)

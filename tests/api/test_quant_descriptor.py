# SPDX-License-Identifier: Apache-2.0
"""QuantDescriptor beyond the recorded cases: round trips, copies, hand-written YAML and its errors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from qdqbert import yaml_subset
from qdqbert.nn import TensorQuantizer
from qdqbert.tensor_quant import QuantDescriptor

EVERYTHING: list[dict[str, Any]] = [
    {},
    {"num_bits": (4, 3), "axis": -1},
    {"num_bits": 3, "name": "a: 'quoted' # name", "axis": (0, 2), "amax": [[1.5], [2.25]], "scale_amax": 0.9},
    {"name": "no", "unsigned": True, "narrow_range": True, "calib_method": "histogram"},
    {"name": "line\nbreak \t tab", "fake_quant": False, "amax": 1e-30, "learn_amax": True},
    {"name": "3.5", "amax": np.array(float("inf"))},
]


@pytest.mark.parametrize("fields", EVERYTHING)
def test_every_way_of_copying_gives_an_equal_descriptor(fields: dict[str, Any]) -> None:
    descriptor = QuantDescriptor(**fields)

    assert QuantDescriptor(**descriptor.dict()) == descriptor
    assert QuantDescriptor.from_yaml(descriptor.to_yaml()) == descriptor
    assert copy.deepcopy(descriptor) == descriptor
    assert pickle.loads(pickle.dumps(descriptor)) == descriptor


def test_amax_is_read_only_and_a_copy() -> None:
    given = np.array([1.0, 2.0], np.float32)
    descriptor = QuantDescriptor(amax=given)
    given[0] = 7.0

    assert descriptor.amax.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        descriptor.amax[0] = 3.0


def test_a_descriptor_equals_no_other_object() -> None:
    assert QuantDescriptor() != 8
    assert QuantDescriptor(amax=[1.0]) != QuantDescriptor(amax=1.0)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"num_bits": -1}, ValueError, "num_bits must be > 0, not -1"),
        ({"num_bits": 8.0}, TypeError, "num_bits must be a postive integer or tuple"),
        ({"num_bits": (5, 2)}, TypeError, "num_bits must be a postive integer or tuple"),
        ({"num_bits": True}, TypeError, "num_bits must be a postive integer or tuple"),
        ({"name": 3}, TypeError, "name must be a string or None"),
        ({"axis": 0, "learn_amax": True}, TypeError, "axis is ignored and must be None"),
        ({"axis": "0"}, TypeError, "axis: expected an integer, a sequence of them or None, got '0'"),
        ({"axis": (0, True)}, TypeError, "axis: expected an integer"),
        ({"axis": 1.0}, TypeError, "axis: expected an integer"),
        ({"axis": (0, 0)}, ValueError, r"axis: expected each axis once, got \(0, 0\)"),
        ({"amax": 2}, TypeError, "amax must be float, list or ndarray"),
        ({"amax": "oops"}, TypeError, "amax must be float, list or ndarray"),
        ({"bits": 8}, TypeError, "Unused keys: dict_keys\\(\\['bits'\\]\\)"),
        ({"calib_method": "percentile"}, ValueError, "calib_method: expected one of"),
    ],
)
def test_what_cannot_be_described_is_refused(
    fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        QuantDescriptor(**fields)


@pytest.mark.parametrize("amax", [1.5, [1.5], [[1.5], [2.5]], np.array([1.5, 2.5]), np.array(1.5)])
def test_amax_is_kept_as_float32_in_the_shape_it_has(amax: Any) -> None:
    descriptor = QuantDescriptor(amax=amax)
    assert descriptor.amax is not None
    assert descriptor.amax.dtype == np.float32
    assert descriptor.amax.shape == np.shape(amax)
    np.testing.assert_array_equal(descriptor.amax, np.asarray(amax, np.float32))


def test_zero_bits_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    QuantDescriptor(0)
    assert "num_bits is 0" in caplog.text


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"num_bits": 1}, "num_bits is 1 and signed"), ({"num_bits": 0, "unsigned": True}, "0 and unsigned")],
)
def test_a_format_whose_largest_code_is_zero_is_logged(
    fields: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(**fields, amax=1.0))
    assert text in caplog.text
    assert np.isnan(quantizer(np.ones(3, np.float32))).all()  # as in the original
    caplog.clear()
    QuantDescriptor(num_bits=1, unsigned=True)
    QuantDescriptor(num_bits=2)
    assert not caplog.text


def test_hand_written_yaml_is_read() -> None:
    text = """---
# activations
num_bits: 6   # fewer
"name": 'it''s'
axis: [0, -1,]
amax:
  - [1.5, 2e0]
  - - .5
    - 1_0.0
unsigned: Yes
scale_amax: ~
"""
    assert yaml_subset.load(text) == {
        "num_bits": 6,
        "name": "it's",
        "axis": [0, -1],
        "amax": [[1.5, 2.0], [0.5, 10.0]],
        "unsigned": True,
        "scale_amax": None,
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb\n", "line 2"),
        ("a: [1, 2\n", "line 1"),
        ("a: 'open\n", "line 1"),
        ("a: {b: 1}\n", "line 1"),
        ("a: &anchor 1\n", "line 1"),
        ("a: 1\na: 2\n", "line 2"),
        ("a: 1\n  b: 2\n", "line 2"),
        ("a: [1 2]]\n", "line 1"),
        ("a: |\n  text\n", "line 1"),
    ],
)
def test_yaml_outside_the_subset_names_the_line(text: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        yaml_subset.load(text)


def test_a_field_without_a_yaml_form_is_named() -> None:
    with pytest.raises(TypeError, match="scale_amax"):
        QuantDescriptor(scale_amax=object()).to_yaml()  # type: ignore[arg-type]

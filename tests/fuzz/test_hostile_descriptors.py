# SPDX-License-Identifier: Apache-2.0
"""Text of descriptors that is damaged or made to be slow or deep is refused by a sentence."""

from __future__ import annotations

import os

import numpy as np
import pytest

from qdqbert import yaml_subset
from qdqbert.quant_descriptor import QuantDescriptor

TEXTS = int(os.environ.get("QDQBERT_FUZZ", "2000"))
SEEDS = (
    QuantDescriptor(num_bits=8, axis=(0,), amax=[[1.5], [2.0]], name="a b").to_yaml(),
    "num_bits: !!python/tuple\n- 4\n- 3\nname: 'it''s' # why\nunsigned: yes\naxis: [0, -1]\n",
    'amax: 1e-3\nname: "x\\ty"\ncalib_method: histogram\nscale_amax: .5\nfake_quant: off\n',
)
PIECES = (
    "[",
    "]",
    "{",
    "}",
    "- ",
    ": ",
    "\n",
    "  ",
    "'",
    '"',
    "#",
    "\\",
    "!!python/tuple",
    "1" * 5000,
    "1e999",
    "\x00",
)
PIECES += (
    ".nan",
    "-.inf",
    "~",
    "\ud800",
    "9" * 400,
    "num_bits: ",
    "amax: [",
    "axis: ",
    "\t",
    "\u2028",
    "x: 1\n",
)  # type: ignore[assignment]

# Each takes minutes, or the stack, where a parser copies its rest at every step, backtracks or recurses.
LARGE = {
    "open lists": "axis: " + "[" * 100_000,
    "nested lists": "axis: " + "[" * 5000 + "]" * 5000,
    "nested dashes": "axis:\n" + "- " * 5000 + "1",
    "nested keys": "\n".join(" " * depth + "a:" for depth in range(1000)),
    "equal keys": "a: 1\n" + "\n".join(f"a{index}: 1" for index in range(50_000)) + "\na: 1",
    "spaces": "a" + " " * 200_000 + "x",
    "spaces in a key": "a" + " " * 200_000 + "x: 1\n1",
    "digits and a letter": "amax: " + "1" * 200_000 + "x",
    "underscores": "amax: 1" + "_" * 200_000 + "x",
    "digits": "amax: " + "1" * 200_000,
    "an integer beyond floats": "amax: [1" + "0" * 400 + "]",
    "quotes": "name: '" + "''" * 200_000,
    "backslashes": 'name: "' + "\\\\" * 200_000,
}


@pytest.mark.parametrize("name", LARGE)
def test_large_text_is_refused_at_once(name: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        QuantDescriptor.from_yaml(LARGE[name])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["- 1\n" * 100_000, "[" + "1," * 100_000 + "]"])
def test_large_lists_are_read_at_once(text: str) -> None:
    assert yaml_subset.load(text) == [1] * 100_000


@pytest.mark.parametrize("text", ["[,]", "[1,,2]", "[ , 1]"])
def test_nothing_between_commas_is_null(text: str) -> None:
    assert None in yaml_subset.load(text)  # type: ignore[operator]


def test_a_list_within_the_depth_is_read() -> None:
    assert yaml_subset.load("[" * 31 + "1" + "]" * 31) is not None
    with pytest.raises(ValueError, match="line 1: nested deeper than 32 levels"):
        yaml_subset.load("[" * 33 + "]" * 33)


def test_damaged_text_is_a_descriptor_or_a_value_or_type_error() -> None:
    generator = np.random.default_rng(17)
    refused = 0
    for index in range(TEXTS):
        text = SEEDS[index % len(SEEDS)]
        for _ in range(int(generator.integers(1, 5))):
            begin = int(generator.integers(len(text) + 1))
            end = begin + int(generator.integers(12)) * int(generator.integers(2))
            text = text[:begin] + PIECES[int(generator.integers(len(PIECES)))] + text[end:]
        try:
            descriptor = QuantDescriptor.from_yaml(text)
        except (ValueError, TypeError) as error:
            refused += bool(str(error))
        else:
            str(descriptor)
    assert refused > TEXTS // 3

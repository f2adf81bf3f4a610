# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from qdqbert import CheckpointError
from qdqbert.serialization.key_names import match_names, wrapping_prefix

HEAD = ["bert.x.weight", "bert.LayerNorm.weight", "qa_outputs.weight"]
BASE = ["x.weight", "LayerNorm.weight"]


def match(slots: list[str], *keys: str) -> dict[str, str]:
    return match_names(slots, keys, class_name="C", base_prefix="bert")


def test_equal_names_are_equal() -> None:
    assert match(HEAD, *HEAD) == {name: name for name in HEAD}


def test_the_prefix_is_added_and_stripped() -> None:
    assert match(HEAD, *BASE) == {"bert.x.weight": "x.weight", "bert.LayerNorm.weight": "LayerNorm.weight"}
    assert match(BASE, *HEAD)["x.weight"] == "bert.x.weight"
    assert "weight" not in match(BASE, *HEAD)


def test_gamma_and_beta_are_renamed_at_the_end_only() -> None:
    found = match(HEAD, "bert.LayerNorm.gamma", "bert.gamma.x", "bert.beta_x.weight", "bert.LayerNorm.beta")
    assert found == {
        "bert.LayerNorm.weight": "bert.LayerNorm.gamma",
        "bert.gamma.x": "bert.gamma.x",
        "bert.beta_x.weight": "bert.beta_x.weight",
        "bert.LayerNorm.bias": "bert.LayerNorm.beta",
    }


def test_a_heads_name_that_spells_one_of_the_base_is_not_the_bases() -> None:
    assert "x.weight" not in match(BASE, "x.weight", "bert.y")


def test_keys_of_a_head_in_a_base_checkpoint_are_refused() -> None:
    with pytest.raises(CheckpointError, match="corrupted"):
        match(HEAD, "x.weight", "qa_outputs.weight")


def test_two_keys_for_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"both mean bert\.LayerNorm\.weight"):
        match(HEAD, "bert.LayerNorm.gamma", "bert.LayerNorm.weight")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["module.bert.x", "module.y"], "module."),
        (["_orig_mod.module.bert.x"], "_orig_mod.module."),
        (["module.bert.x", "y"], ""),
        (["modules.x"], ""),
        ([], ""),
    ],
)
def test_a_wrappers_prefix_is_what_every_key_has(keys: list[str], expected: str) -> None:
    assert wrapping_prefix(keys) == expected

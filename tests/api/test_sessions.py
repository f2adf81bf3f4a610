# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.sessions import Limits


@pytest.mark.parametrize("keep", [False, True])
def test_calls_of_two_shapes_in_turn_settle_on_one_session(keep: bool) -> None:
    model: Any = tiny_model.question_answering()
    with qdqbert.quantizers(model, {"*": "off"}):
        shapes = [np.ones((1, 20), int), np.ones((4, 9), int)]
        for ids in shapes:
            model(ids, output_attentions=keep)
        before = model.device.memory_statistics()["allocations"]
        for ids in shapes * 5:
            model(ids, output_attentions=keep)
        assert model.device.memory_statistics()["allocations"] == before


def test_room_grows_to_hold_both_kinds_of_call() -> None:
    assert Limits(4, 9, 36, False).grown_from(Limits(1, 20, 20, True)) == Limits(4, 20, 36, False)
    assert Limits(4, 9, 36, True).grown_from(Limits(1, 20, 20, False)) == Limits(4, 20, 36, True)


def test_room_for_probabilities_does_not_explode() -> None:
    many_short, one_long = Limits(1000, 8, 8000, True), Limits(1, 512, 512, True)
    assert many_short.grown_from(one_long) == many_short
    assert one_long.grown_from(many_short) == one_long


def test_one_shape_covers_another_in_every_respect_or_not_at_all() -> None:
    room = Limits(4, 16, 40, True)
    assert room.covers(Limits(4, 10, 40, False))
    for needed in (Limits(5, 8, 40, False), Limits(2, 17, 34, False), Limits(4, 16, 64, False)):
        assert not room.covers(needed)
    assert not Limits(4, 16, 40, False).covers(Limits(1, 1, 1, True))

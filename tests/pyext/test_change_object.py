# SPDX-License-Identifier: Apache-2.0
"""Change of the extension: when it begins and ends, and what it refuses meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qdqbert import _core
from qdqbert.errors import StateError

OPTIONS: dict[str, Any] = {
    "vocab_size": 13,
    "hidden_size": 6,
    "num_layers": 1,
    "num_heads": 3,
    "intermediate_size": 7,
    "max_positions": 5,
    "type_vocab_size": 2,
    "num_labels": 3,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "add_pooling_layer": False,
    "head": "token_classification",
    "input_quantizer": {},
    "weight_quantizer": {"axis": (0,)},
}


@pytest.fixture
def model() -> _core.Model:
    return _core.Model(_core.Device("ref", 1), **OPTIONS)


def run(model: _core.Model) -> None:
    session = _core.Session(model, max_sequences=1, max_length=3, keep_probabilities=True)
    ids = np.array([[3, 1, 2]])
    rest = (None, None, None, None, None, False, False, None, None, None, None, None, None)
    session.forward(ids, *rest, _core.OUTPUT_LOGITS)


def runs(model: _core.Model) -> bool:
    """Whether a forward of the model is allowed."""
    try:
        run(model)
    except StateError:
        return False
    return True


OWNERS: dict[str, Callable[[_core.Model], Any]] = {
    "a model": lambda model: [model],
    "a quantizer": lambda model: (model.quantizers()[2][1],),
    "several, one twice": lambda model: [model, model, *(each for _, each in model.quantizers())],
}


@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
def test_no_forward_runs_until_the_block_is_left(
    model: _core.Model, owners: Callable[[_core.Model], Any]
) -> None:
    with _core.Change(owners(model)):
        assert not runs(model)
    assert runs(model)


def test_changes_are_made_within(model: _core.Model) -> None:
    with _core.Change([model]):
        model.parameter_write(0)[...] = 3.5
        model.quantizers()[1][1].set_amax(np.float32(2.5))
    assert (model.parameters()[0][1] == 3.5).all()
    assert model.quantizers()[1][1].amax() == np.float32(2.5)


def test_changes_nest(model: _core.Model) -> None:
    with _core.Change([model]):
        with _core.Change([model]):
            assert not runs(model)
        with pytest.raises(StateError, match="being changed"):
            run(model)
    assert runs(model)


def test_an_exception_ends_it(model: _core.Model) -> None:
    with pytest.raises(KeyboardInterrupt), _core.Change([model]):
        raise KeyboardInterrupt
    assert runs(model)


def test_dropping_it_ends_it(model: _core.Model) -> None:
    change = _core.Change([model])
    assert not runs(model)
    del change
    assert runs(model)


def test_leaving_the_block_twice_ends_it_once(model: _core.Model) -> None:
    with _core.Change([model]):
        with _core.Change([model]) as inner:
            pass
        inner.__exit__(None, None, None)
        assert not runs(model)
    assert runs(model)


def test_it_holds_what_it_changes(model: _core.Model) -> None:
    change = _core.Change([model])
    view = model.parameters()[0][1]
    del model
    change.__exit__(None, None, None)
    assert not view.any()


def test_a_wrong_owner_is_named_and_nothing_has_begun(model: _core.Model) -> None:
    with pytest.raises(TypeError, match="owners: expected Model or Quantizer, got str"):
        _core.Change([model, "model"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        _core.Change(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _core.Change()  # type: ignore[call-arg]
    assert runs(model)


def test_a_quantizer_of_its_own_is_not_held() -> None:
    quantizer = _core.Quantizer(_core.Device("ref", 1))
    with _core.Change([quantizer]):
        quantizer.set_amax(np.float32(1.0))
        assert quantizer.forward(np.float32([0.5, 7.0])).tolist() == [np.float32(64 / 127), 1.0]

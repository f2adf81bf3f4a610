# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import RuleError
from qdqbert.rules import QuantizerState, named_quantizers


def states(model: Any) -> dict[str, QuantizerState]:
    return {name: QuantizerState.of(quantizer) for name, quantizer in named_quantizers(model)}


def test_patterns_match_whole_names() -> None:
    model = tiny_model.question_answering()
    changes = qdqbert.quantizers(model, {"*.layer.0.attention.output.add_*": "off"})
    assert list(changes) == [
        "bert.encoder.layer.0.attention.output.add_local_input_quantizer",
        "bert.encoder.layer.0.attention.output.add_residual_input_quantizer",
    ]
    with pytest.raises(RuleError):
        qdqbert.quantizers(model, {"layer.0": "off"})
    with pytest.raises(RuleError):
        qdqbert.quantizers(model, {"*.ADD_*": "off"})


@pytest.mark.parametrize("pattern", ["*.layer.[01].output.dense.*", "*.layer.?.output.dense.*"])
def test_sets_and_single_characters(pattern: str) -> None:
    assert len(qdqbert.quantizers(tiny_model.question_answering(), {pattern: "off"})) == 4


def test_later_rules_win_attribute_by_attribute() -> None:
    model = tiny_model.question_answering()
    qdqbert.quantizers(model, [("*", "off"), ("*", {"num_bits": 5}), ("*.layer.1.*", "on")])
    for name, state in states(model).items():
        assert state.options["num_bits"] == 5
        assert state.state == ("on" if ".layer.1." in name else "off")


def test_the_three_states() -> None:
    model = tiny_model.question_answering()
    quantizer = model.bert.encoder.layer[0].output.add_local_input_quantizer
    name = "*.layer.0.output.add_local_*"
    for state, disabled, quant, calib in (
        ("calib", False, False, True),
        ("on", False, True, False),
        ("off", True, True, False),
        ("calib", False, False, True),
    ):
        qdqbert.quantizers(model, {name: state})
        assert repr(quantizer).endswith(" calib)") == calib
        assert ("disabled" in repr(quantizer)) == disabled
        assert (" quant" in repr(quantizer)) == (quant and not disabled)


def test_only_what_changed_is_returned() -> None:
    model = tiny_model.question_answering()
    assert len(qdqbert.quantizers(model, {"*": "on"})) == 0
    changes = qdqbert.quantizers(model, {"*.matmul_q_*": {"amax": 3.0}})
    assert len(changes) == 2
    before, after = next(iter(changes.values()))
    assert before.amax is None
    assert float(after.amax) == 3.0
    assert "2 quantizers changed" in repr(changes)


def test_the_context_restores_everything_also_after_an_exception() -> None:
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()])
    before, batch = states(model), tiny_model.batch(seed=4)
    logits = model(**batch).start_logits
    rules = {"*": "off", "*_weight_*": {"amax": None}, "*.layer.0.*": {"num_bits": 4, "narrow_range": True}}
    with pytest.raises(ZeroDivisionError), qdqbert.quantizers(model, rules) as changes:  # noqa: PT012
        assert len(changes) == 40
        assert not np.array_equal(model(**batch).start_logits, logits)
        raise ZeroDivisionError
    assert states(model) == before
    np.testing.assert_array_equal(model(**batch).start_logits, logits)


def test_a_rule_that_matches_nothing_names_the_nearest_and_changes_nothing() -> None:
    model = tiny_model.question_answering()
    before = states(model)
    with pytest.raises(KeyError, match="nearest names are") as caught:
        qdqbert.quantizers(model, {"*": "off", "*.layer.0.attention.ouput.add_local_input_quantizer": "on"})
    assert "bert.encoder.layer.0.attention.output.add_local_input_quantizer" in str(caught.value)
    assert states(model) == before
    assert len(qdqbert.quantizers(model, {"nothing": "on", "*": "off"}, allow_unmatched=True)) == 40


@pytest.mark.parametrize(
    ("rules", "kind", "message"),
    [
        ({"*": "of"}, ValueError, "'on', 'off' or 'calib'"),
        ({"*": 3}, TypeError, "a dict, got 3"),
        ({"*": {"bits": 3}}, TypeError, "unknown attribute 'bits'"),
        ({3: "on"}, TypeError, "patterns"),
        ({"*": {"state": "maybe"}}, ValueError, "maybe"),
        ({"*": {"num_bits": 40}}, ValueError, "num_bits"),
        ({"*": {"num_bits": "8"}}, TypeError, "num_bits"),
        ({"*": {"amax": -1.0}}, ValueError, "amax"),
        ({"*": {"num_bits": 4}, "*.layer.1.output.*": {"amax": -1.0}}, ValueError, "layer.1.output"),
    ],
)
def test_a_setting_that_cannot_be_changes_nothing(rules: Any, kind: type[Exception], message: str) -> None:
    model = tiny_model.question_answering()
    before = states(model)
    with pytest.raises(kind, match=message):
        qdqbert.quantizers(model, rules)
    assert states(model) == before


def test_rules_reach_what_runs() -> None:
    model = tiny_model.question_answering()
    batch = tiny_model.batch()
    with qdqbert.quantizers(model, {"*": "off"}):
        exact = model(**batch).start_logits
    errors = []
    for bits in (4, 8, 12):
        with qdqbert.quantizers(model, {"*": {"num_bits": bits}}):
            errors.append(float(np.abs(model(**batch).start_logits - exact).max()))
    assert errors[0] > errors[1] > errors[2] > 0

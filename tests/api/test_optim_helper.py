# SPDX-License-Identifier: Apache-2.0
"""Parameters by name: matching, grouping, freezing, and weights quantized in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.errors import ShapeError
from qdqbert.module import Module
from qdqbert.nn import QuantLinear, TensorQuantizer
from qdqbert.optim import helper
from qdqbert.tensor_quant import QuantDescriptor


@pytest.fixture
def model() -> Any:
    return tiny_model.question_answering(seed=1)


def names_of(model: Any, parameters: Any) -> list[str]:
    """Names of parameters, by the state that all their views share."""
    names = {id(parameter.state): name for name, parameter in model.named_parameters()}
    return [names[id(parameter.state)] for parameter in parameters]


# ---- match -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        (["attention.self.query.weight"], 2),  # one a layer
        (["query", "key"], 8),  # weight and bias of each
        ([r"attention\..*\.weight$"], 2 * 5),  # q, k, v, dense, norm
        ([r"attention\..*\.wei$"], 0),
        ([], 0),
        ([""], None),  # everything
    ],
)
def test_parameters_are_matched_by_regular_expressions(
    model: Any, patterns: list[str], count: int | None
) -> None:
    matched = list(helper.match_parameters(model, patterns))
    assert len(matched) == (len(list(model.parameters())) if count is None else count)


def test_matches_are_those_that_re_finds_in_the_order_of_the_model(model: Any) -> None:
    names = names_of(model, helper.match_parameters(model, [r"layer\.1", "embeddings"]))
    every = [name for name, _ in model.named_parameters()]
    assert names == [name for name in every if "layer.1" in name or "embeddings" in name]


def test_a_parameter_that_matches_twice_is_found_once(model: Any) -> None:
    matched = names_of(model, helper.match_parameters(model, ["query", "weight", r"query\.weight"]))
    assert len(matched) == len(set(matched))
    assert names_of(model, helper.match_parameters(model, ["query", "query"])) == names_of(
        model, helper.match_parameters(model, ["query"])
    )


@pytest.mark.parametrize(
    ("patterns", "error", "text"),
    [
        ("query", TypeError, "got the string 'query'"),
        ([3], TypeError, "expected strings, got 3"),
        (["(query"], ValueError, r"'\(query' is no regular expression"),
    ],
)
def test_patterns_that_cannot_be_are_refused_at_once(
    model: Any, patterns: Any, error: type[Exception], text: str
) -> None:
    for call in (helper.match_parameters, helper.freeze_parameters):
        with pytest.raises(error, match=text):
            call(model, patterns)
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---- group -------------------------------------------------------------------------------------------------


def test_groups_have_their_own_options(model: Any) -> None:
    groups = helper.group_parameters(
        model, [["query.*weight"], ["LayerNorm"]], [0.01, 0.001], [0.02, 0.002], [0.03, 0.003]
    )
    assert [{key: value for key, value in group.items() if key != "params"} for group in groups] == [
        {"lr": 0.01, "momentum": 0.02, "weight_decay": 0.03},
        {"lr": 0.001, "momentum": 0.002, "weight_decay": 0.003},
    ]
    assert [len(group["params"]) for group in groups] == [2, 2 * (1 + 2 * 2)]


def test_groups_without_options_have_parameters_only_and_can_be_read_twice(model: Any) -> None:
    (group,) = helper.group_parameters(model, [["qa_outputs"]])
    assert list(group) == ["params"]
    for _ in range(2):
        assert names_of(model, group["params"]) == ["qa_outputs.weight", "qa_outputs.bias"]


def test_a_parameter_in_two_groups_is_named(model: Any) -> None:
    with pytest.raises(ValueError, match=r"bert\.embeddings\.LayerNorm\.weight is in groups 0 and 1"):
        helper.group_parameters(model, [["embeddings.*weight"], ["LayerNorm"]])


def test_groups_are_checked_before_the_model_is_looked_at() -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="must be list of list of patterns"):
        helper.group_parameters(nothing, [["query"], "key"])  # type: ignore[list-item]
    for option in ("lrs", "momentums", "weight_decays"):
        with pytest.raises(TypeError, match=rf"len\({option}\) must match len\(patterns_list\)"):
            helper.group_parameters(nothing, [["query"], ["key"]], **{option: [0.1]})


# ---- freeze ------------------------------------------------------------------------------------------------


def test_frozen_parameters_want_no_gradient_and_others_do(model: Any) -> None:
    helper.freeze_parameters(model, ["embeddings", r"layer\.0\."])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not ("embeddings" in name or "layer.0." in name)), name


def test_freezing_does_not_change_what_is_computed_or_saved(model: Any) -> None:
    batch = tiny_model.batch()
    before, keys = model(**batch).start_logits, list(model.state_dict())
    helper.freeze_parameters(model, [""])
    np.testing.assert_array_equal(model(**batch).start_logits, before)
    assert list(model.state_dict()) == keys


# ---- quantized in place ------------------------------------------------------------------------------------


def test_weights_become_their_quantized_values(model: Any) -> None:
    linears = {name: m for name, m in model.named_modules() if isinstance(m, QuantLinear)}
    expected = {name: linear.weight_quantizer(linear.weight) for name, linear in linears.items()}
    others = {
        name: np.array(value)
        for name, value in model.named_parameters()
        if name.removesuffix(".weight") not in linears
    }
    helper.quant_weight_inplace(model)
    assert len(linears) == 12
    for name, linear in linears.items():
        np.testing.assert_array_equal(linear.weight, expected[name])
    for name, value in model.named_parameters():
        if name in others:
            np.testing.assert_array_equal(value, others[name])


def test_weights_in_place_do_not_change_what_a_calibrated_model_computes(model: Any) -> None:
    # Static ranges: a quantized weight quantizes to itself.
    qdqbert.calib.calibrate_weights(model, "max")
    qdqbert.calibrate(model, [tiny_model.batch()])
    before = model(**tiny_model.batch()).start_logits
    helper.quant_weight_inplace(model)
    np.testing.assert_array_equal(model(**tiny_model.batch()).start_logits, before)


def test_a_layer_that_fails_is_named_and_no_weight_is_changed() -> None:
    net = Module()
    net.first, net.second = QuantLinear(5, 3, seed=0), QuantLinear(5, 3, seed=1)
    net.second.weight_quantizer.unsigned = True
    before = np.array(net.first.weight)
    with pytest.raises(TypeError, match=r"second\.weight: Negative values"):
        helper.quant_weight_inplace(net)
    np.testing.assert_array_equal(net.first.weight, before)


def test_real_quantization_in_place_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    class Own(Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = np.float32([0.5, -1.0])
            self.weight_quantizer = TensorQuantizer(QuantDescriptor(fake_quant=False, amax=1.0))

    net = Module()
    net.own = Own()
    helper.quant_weight_inplace(net)
    assert "own: In-place real quantization is VERY dangerous" in caplog.text
    assert net.own.weight.tolist() == [64.0, -127.0]


def test_a_range_that_does_not_broadcast_is_named() -> None:
    class Own(Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = np.ones((2, 3), np.float32)
            self.weight_quantizer = TensorQuantizer(QuantDescriptor(amax=[1.0, 2.0]))

    with pytest.raises(ShapeError, match=r"^weight: .*amax"):
        helper.quant_weight_inplace(Own())

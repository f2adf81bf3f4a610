# SPDX-License-Identifier: Apache-2.0
"""AdamW and SGD: groups, steps, state, and what they refuse."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import _core
from qdqbert.errors import RuleError, StateError, UnsupportedError
from qdqbert.nn import QuantLinear
from qdqbert.optim import SGD, AdamW, clip_grad_norm_
from qdqbert.tensor_quant import QuantDescriptor

LABELS = {"start_positions": np.array([1, 2, 3]), "end_positions": np.array([2, 4, 3])}


def training_model(seed: int = 0, **changes: Any) -> Any:
    fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **changes}
    return tiny_model.question_answering(seed, **fields).train()


def walk(model: Any, seed: int = 0) -> None:
    model(**tiny_model.batch(seed=seed), **LABELS).loss.backward()


def numbers(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in model.named_parameters()}


def changed(before: dict[str, np.ndarray], model: Any) -> set[str]:
    return {name for name, value in model.named_parameters() if not np.array_equal(value, before[name])}


# ---- steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [AdamW, lambda params: SGD(params, lr=0.1, momentum=0.9, nesterov=True)])
def test_steps_make_the_loss_small(make: Any) -> None:
    model = training_model()
    optimizer = make(model.parameters())
    losses = []
    for _ in range(30):
        loss = model(**tiny_model.batch(), **LABELS).loss
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 3


def test_parameters_without_a_gradient_are_not_even_decayed() -> None:
    model = qdqbert.QDQBertModel(tiny_model.config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    hidden = model.train()(**tiny_model.batch()).last_hidden_state
    model.backward(np.ones_like(hidden))
    before = numbers(model)
    AdamW(model.parameters(), weight_decay=0.5).step()
    assert set(before) - changed(before, model) == {"pooler.dense.weight", "pooler.dense.bias"}


def test_a_step_before_any_backward_changes_nothing() -> None:
    model = training_model()
    before = numbers(model)
    optimizer = AdamW(model.parameters(), weight_decay=0.5)
    optimizer.step()
    optimizer.zero_grad()
    assert not changed(before, model)
    assert optimizer.state_dict()["state"] == {}


def test_zeros_for_gradients_still_decay_and_none_does_not() -> None:
    model = training_model()
    optimizer = AdamW(model.parameters(), weight_decay=0.5)
    walk(model)
    optimizer.zero_grad(set_to_none=False)
    assert not any(parameter.grad.any() for parameter in model.parameters())
    before = numbers(model)
    optimizer.step()
    assert changed(before, model) == {name for name, value in before.items() if value.any()}
    optimizer.zero_grad()
    before = numbers(model)
    optimizer.step()
    assert not changed(before, model)


def test_frozen_parameters_get_no_gradient_and_stay() -> None:
    model = training_model()
    model.freeze("bert.embeddings.*", "*.layer.0.*")
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = AdamW(model.parameters())
    before = numbers(model)
    walk(model)
    assert {name for name, p in model.named_parameters() if p.grad is None} == frozen
    optimizer.step()
    assert changed(before, model) == set(before) - frozen

    model.unfreeze("*")
    optimizer.zero_grad()
    walk(model)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_was_added_up_before_freezing_is_not_there_after_thawing() -> None:
    model = training_model()
    name = "bert.encoder.layer.0.attention.self.key.weight"
    walk(model)
    once = np.array(dict(model.named_parameters())[name].grad)
    model.freeze(name)
    model(**tiny_model.batch(), **LABELS).loss.backward()
    assert dict(model.named_parameters())[name].grad is None
    model.unfreeze(name)
    walk(model)
    np.testing.assert_array_equal(dict(model.named_parameters())[name].grad, once)


def test_a_glob_that_matches_nothing_is_named_and_nothing_is_frozen() -> None:
    model = training_model()
    with pytest.raises(
        RuleError, match=r"'bert.embedings.*' matches no parameter; the nearest names are bert"
    ):
        model.freeze("*.bias", "bert.embedings.*")
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(TypeError, match="patterns"):
        model.freeze(3)  # type: ignore[arg-type]


def test_parameters_of_two_models_go_into_one_optimizer() -> None:
    models = [training_model(seed) for seed in (0, 1)]
    apart = [training_model(seed) for seed in (0, 1)]
    optimizer = AdamW([parameter for model in models for parameter in model.parameters()])
    for step in range(2):
        (models[0](**tiny_model.batch(seed=step), **LABELS).loss).backward()
        walk(models[1], step)
        optimizer.step()
        optimizer.zero_grad()
    for model in apart:
        alone = AdamW(model.parameters())
        for step in range(2):
            walk(model, step)
            alone.step()
            alone.zero_grad()
    for model, expected in zip(models, apart, strict=True):
        assert not changed(numbers(expected), model)
    names = list(optimizer.state_dict()["state"])
    assert len(names) == len(set(names)) == 2 * len(list(models[0].parameters()))


def test_learned_bounds_take_the_same_steps_as_any_parameter() -> None:
    # A model's parameters are stepped in C, learned bounds in Python: one number with one gradient in both.
    descriptor = QuantDescriptor(learn_amax=True, amax=2.0)
    saved = QuantLinear.default_quant_desc_input
    QuantLinear.set_default_quant_desc_input(descriptor)
    try:
        model = training_model()
    finally:
        QuantLinear.set_default_quant_desc_input(saved)
    bound = "bert.encoder.layer.0.output.dense._input_quantizer.clip.clip_value_max"
    for make in (
        lambda params: AdamW(params, lr=0.01, weight_decay=0.1),
        lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=0.1),
        lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=True),
    ):
        weight = np.full((2, 24), 1.75, np.float32)
        model.load_state_dict({"qa_outputs.weight": weight, bound: np.float32(1.75)}, strict=False)
        parameters = dict(model.named_parameters())
        optimizer = make([parameters["qa_outputs.weight"], parameters[bound]])
        for gradient in (0.3, -0.7, 1e-3):
            walk(model)
            for name in ("qa_outputs.weight", bound):
                dict(model.named_parameters())[name].grad = np.full(parameters[name].shape, gradient)
            optimizer.step()
        after = numbers(model)
        assert after[bound] != np.float32(1.75)
        assert (after["qa_outputs.weight"] == after[bound]).all()


def test_bounds_that_no_longer_clip_are_not_trained() -> None:
    saved = QuantLinear.default_quant_desc_input
    QuantLinear.set_default_quant_desc_input(QuantDescriptor(learn_amax=True, amax=0.25))
    try:
        model = training_model()
    finally:
        QuantLinear.set_default_quant_desc_input(saved)
    quantizer = model.bert.encoder.layer[0].output.dense.input_quantizer
    walk(model)
    assert quantizer.clip.clip_value_max.grad != 0
    model.zero_grad()
    quantizer.disable_clip()
    walk(model)
    assert quantizer.clip.clip_value_max.grad is None
    quantizer.enable_clip()
    assert quantizer.clip.clip_value_max.grad is None


def test_a_parameter_of_ones_own_head_is_stepped_with_the_gradient_that_is_set() -> None:
    head = QuantLinear(3, 2, seed=0)
    before = np.array(head.weight)
    optimizer = SGD(head.parameters(), lr=0.5)
    head.weight.grad = np.ones((2, 3))
    optimizer.step()
    np.testing.assert_array_equal(head.weight, before - np.float32(0.5))
    optimizer.zero_grad()
    assert head.weight.grad is None


def test_a_state_that_was_asked_for_does_not_stop_the_next_step() -> None:
    head = QuantLinear(3, 2, seed=0)
    optimizer = AdamW(head.parameters())
    for _ in range(2):
        head.weight.grad = np.ones((2, 3))
        optimizer.step()
        assert not optimizer.state_dict()["state"]["parameter"]["exp_avg"].flags.writeable


def test_a_closure_is_called_first() -> None:
    model = training_model()

    def closure() -> Any:
        loss = model(**tiny_model.batch(), **LABELS).loss
        loss.backward()
        return loss

    before = numbers(model)
    loss = SGD(model.parameters(), lr=0.1).step(closure)
    assert loss > 0
    assert changed(before, model)


# ---- gradients -------------------------------------------------------------------------------------------


def test_a_gradient_can_be_changed_in_place_replaced_and_dropped() -> None:
    model = training_model()
    weight = model.qa_outputs.weight
    with pytest.raises(StateError, match="no room for gradients before the first forward in training mode"):
        weight.grad = np.ones(weight.shape)
    walk(model)
    expected = np.array(weight.grad) * np.float32(0.5)
    weight.grad *= np.float32(0.5)
    np.testing.assert_array_equal(model.qa_outputs.weight.grad, expected)
    weight.grad = np.ones(weight.shape)
    assert (model.qa_outputs.weight.grad == 1).all()
    weight.grad = None
    assert model.qa_outputs.weight.grad is None
    for value, error in ((np.ones(3), ValueError), (["a"], TypeError)):
        with pytest.raises(error, match="grad: expected"):
            weight.grad = value


def test_long_gradients_become_as_long_as_allowed_and_short_ones_stay() -> None:
    model = training_model()
    walk(model)
    gradients = {name: np.array(p.grad) for name, p in model.named_parameters()}
    length = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients.values()))

    assert clip_grad_norm_(model, 10 * length) == pytest.approx(length, rel=1e-12)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.grad, gradients[name])
    assert clip_grad_norm_(model.parameters(), 0.5) == pytest.approx(length, rel=1e-12)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.grad, gradients[name] * np.float32(0.5 / (length + 1e-6)))
    assert clip_grad_norm_(model, np.inf) == pytest.approx(0.5, rel=1e-5)


def test_only_the_gradients_that_are_given_are_measured_and_scaled() -> None:
    model = training_model()
    walk(model)
    weight, bias = model.qa_outputs.weight, model.qa_outputs.bias
    length, other = float(np.linalg.norm(weight.grad)), np.array(bias.grad)
    assert clip_grad_norm_(weight, length / 2) == pytest.approx(length, rel=1e-6)
    assert np.linalg.norm(weight.grad) == pytest.approx(length / 2, rel=1e-5)
    np.testing.assert_array_equal(bias.grad, other)


def test_gradients_without_end_are_said_or_set_to_nothing() -> None:
    model = training_model()
    walk(model)
    model.qa_outputs.bias.grad = np.array([np.inf, 0.0])
    with pytest.raises(ValueError, match="inf long"):
        clip_grad_norm_(model, 1.0, error_if_nonfinite=True)
    assert model.qa_outputs.weight.grad.any()
    assert clip_grad_norm_(model, 1.0) == np.inf
    assert not model.qa_outputs.weight.grad.any()


@pytest.mark.parametrize(
    ("parameters", "max_norm", "error"),
    [([np.ones(3)], 1.0, TypeError), ([], -1.0, ValueError), ([], np.nan, ValueError), ([], "1", TypeError)],
)
def test_a_limit_that_is_none_is_refused(parameters: Any, max_norm: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"max_norm|parameters\[0\]"):
        clip_grad_norm_(parameters, max_norm)


# ---- groups ----------------------------------------------------------------------------------------------


def test_biases_and_norms_do_not_decay() -> None:
    model = training_model()
    decaying, sparing = model.parameter_groups(weight_decay=0.1, lr=3e-5)
    assert decaying["weight_decay"] == 0.1
    assert sparing["weight_decay"] == 0.0
    assert decaying["lr"] == sparing["lr"] == 3e-5
    names = {parameter.state.name for parameter in sparing["params"]}
    assert names == {n for n, _ in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n}
    assert len(decaying["params"]) + len(names) == len(list(model.parameters()))


def test_groups_hold_what_is_trained_and_follow_globs() -> None:
    model = training_model()
    model.freeze("bert.*")
    groups = model.parameter_groups(no_decay=["*.weight"])
    assert [[p.state.name for p in group["params"]] for group in groups] == [
        ["qa_outputs.bias"],
        ["qa_outputs.weight"],
    ]
    with pytest.raises(RuleError, match="matches no parameter"):
        model.parameter_groups(no_decay=["*.wieght"])


def test_groups_of_the_toolkit_go_into_an_optimizer() -> None:
    model = training_model()
    groups = qdqbert.optim.helper.group_parameters(
        model, [["weight$"], ["bias$"]], lrs=[0.1, 0.0], momentums=[0.9, 0.5]
    )
    optimizer = SGD(groups)
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.5]
    walk(model)
    before = numbers(model)
    optimizer.step()
    assert changed(before, model) == {name for name in before if name.endswith("weight")}


def test_settings_of_a_group_may_change_between_steps() -> None:
    model = training_model()
    optimizer = SGD(model.parameter_groups(), lr=0.1)
    walk(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = numbers(model)
    optimizer.step()
    assert not changed(before, model)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: AdamW(p, lr=-1.0), ValueError, r"param_groups\[0\]\['lr'\]: expected a finite number"),
        (lambda p: AdamW(p, lr=math.nan), ValueError, "'lr'.*got nan"),
        (lambda p: AdamW(p, lr=math.inf), ValueError, "'lr'.*got inf"),
        (lambda p: AdamW(p, lr="1e-3"), TypeError, "'lr'.*expected a number, got str"),
        (lambda p: AdamW(p, betas=(0.9, 1.0)), ValueError, r"betas'\]\[1\].*less than 1, got 1.0"),
        (lambda p: AdamW(p, betas=0.9), TypeError, "betas.*pair"),
        (lambda p: AdamW(p, eps=-1e-8), ValueError, "eps"),
        (lambda p: AdamW(p, weight_decay=-0.1), ValueError, "weight_decay"),
        (lambda p: SGD(p, momentum=-0.1), ValueError, "momentum"),
        (lambda p: SGD(p, nesterov=True), ValueError, "nesterov.*needs a momentum"),
        (lambda p: SGD(p, momentum=0.9, dampening=0.1), UnsupportedError, "dampening"),
        (lambda p: AdamW(iter(())), ValueError, "got no parameters"),
        (lambda p: AdamW(next(iter(p))), TypeError, "expected an iterable of parameters"),
        (lambda p: AdamW([np.ones(3)]), TypeError, r"params\[0\]: expected a Parameter"),
        (lambda p: AdamW([next(iter(p)).T]), TypeError, r"params\[0\]: expected a Parameter"),
        (lambda p: AdamW([*p, *training_model().parameters()][:1] * 2), ValueError, "is there twice"),
        (lambda p: AdamW([{"lr": 1.0}]), TypeError, "expected a dict with 'params'"),
    ],
)
def test_what_an_optimizer_cannot_use_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(training_model().parameters())


def test_a_bad_setting_stops_a_step_before_it_begins() -> None:
    model = training_model()
    optimizer = AdamW(model.parameter_groups())
    walk(model)
    optimizer.param_groups[1]["lr"] = math.nan
    before = numbers(model)
    with pytest.raises(ValueError, match=r"param_groups\[1\]\['lr'\]"):
        optimizer.step()
    assert not changed(before, model)
    assert optimizer.state_dict()["state"] == {}


def test_an_optimizer_of_other_sizes_says_so() -> None:
    model = training_model()
    optimizer = AdamW(model.parameters())
    model.resize_token_embeddings(60)
    walk(model)
    before = numbers(model)
    with pytest.raises(StateError, match="sizes of the model have changed since the optimizer"):
        optimizer.step()
    assert not changed(before, model)
    AdamW(model.parameters()).step()
    assert changed(before, model)


# ---- state -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [AdamW, lambda params: SGD(params, lr=0.1, momentum=0.9)])
def test_an_optimizer_goes_on_from_a_saved_state_with_the_same_bits(make: Any) -> None:
    model = training_model()
    optimizer = make(model.parameter_groups())
    for step in range(2):
        walk(model, step)
        optimizer.step()
        optimizer.zero_grad()
    saved = copy.deepcopy(optimizer.state_dict())
    other = copy.deepcopy(model)
    again = make(other.parameter_groups())
    again.load_state_dict(saved)
    for each, its in ((model, optimizer), (other, again)):
        walk(each, 5)
        its.step()
    assert not changed(numbers(model), other)
    assert again.state_dict()["state"]["qa_outputs.bias"]["step"] == 3


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model = training_model()
    optimizer = AdamW(model.parameter_groups())
    walk(model)
    optimizer.step()
    good = copy.deepcopy(optimizer.state_dict())
    name = "qa_outputs.bias"

    def broken(**changes: Any) -> dict[str, Any]:
        state = copy.deepcopy(good)
        state["state"][name] |= changes
        return state

    cases = [
        ({}, "expected a dict with 'state' and 'param_groups'"),
        ({**good, "param_groups": good["param_groups"][:1]}, "expected 2 parameter groups, got 1"),
        ({**good, "param_groups": good["param_groups"][::-1]}, "other parameters than the optimizer's"),
        ({**good, "state": {"nobody": good["state"][name]}}, "there is no parameter 'nobody'"),
        (broken(step=0), "step: expected an integer of at least 1"),
        (broken(exp_avg=np.zeros(3)), r"exp_avg: expected floats of shape \(2,\)"),
        (broken(other=1), "expected a dict with step, exp_avg, exp_avg_sq"),
    ]
    for state, message in cases:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        after = optimizer.state_dict()["state"]
        np.testing.assert_array_equal(after[name]["exp_avg"], good["state"][name]["exp_avg"])
        assert after[name]["step"] == 1


def test_moments_are_seen_but_not_written_through_the_state() -> None:
    model = training_model()
    optimizer = AdamW(model.parameters())
    walk(model)
    optimizer.step()
    with pytest.raises(ValueError, match="read-only"):
        optimizer.state_dict()["state"]["qa_outputs.bias"]["exp_avg"][0] = 1.0


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_optimizer_says_how_to_copy_it(duplicate: Any) -> None:
    with pytest.raises(StateError, match=r"save its state_dict\(\)"):
        duplicate(AdamW(training_model().parameters()))


def test_an_optimizer_shows_its_settings() -> None:
    text = repr(AdamW(training_model().parameter_groups(), lr=3e-5))
    assert "Parameter Group 1\n    betas: (0.9, 0.999)\n    eps: 1e-08\n    lr: 3e-05" in text


# ---- bits ------------------------------------------------------------------------------------------------


def test_a_run_has_the_same_bits_on_any_number_of_threads_and_every_variant() -> None:
    def run(device: Any) -> tuple[list[bytes], dict[str, np.ndarray]]:
        model = qdqbert.QDQBertForQuestionAnswering(tiny_model.config(), device=device, seed=0).train()
        optimizer = AdamW(model.parameter_groups(), lr=1e-2)
        losses = []
        for step in range(4):
            loss = model(**tiny_model.batch(seed=step), **LABELS, label_smoothing=0.1).loss
            losses.append(np.float32(loss).tobytes())
            loss.backward()
            clip_grad_norm_(model, 0.5)
            optimizer.step()
            optimizer.zero_grad()
        return losses, numbers(model)

    names = [name for name, is_supported in _core.variants() if is_supported]
    assert "ref" in names
    runs = [run(qdqbert.Device(name, threads)) for name in names for threads in (1, 2, 3)]
    for losses, parameters in runs[1:]:
        assert losses == runs[0][0]
        for name, value in parameters.items():
            np.testing.assert_array_equal(value, runs[0][1][name], err_msg=name)

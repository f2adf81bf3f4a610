# SPDX-License-Identifier: Apache-2.0
"""Parameters as users see them: read-only views whose flag belongs to the parameter, not to the view."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.errors import StateError
from qdqbert.nn import Clip, QuantLinear, TensorQuantizer
from qdqbert.parameter import Parameter
from qdqbert.tensor_quant import QuantDescriptor


def test_every_parameter_wants_its_gradient_at_first() -> None:
    model = tiny_model.question_answering()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_flag_is_that_of_the_parameter_under_every_way_to_it() -> None:
    model = tiny_model.question_answering()
    name = "bert.encoder.layer.1.attention.self.key.weight"
    layer = model.get_submodule(name.removesuffix(".weight"))

    layer.weight.requires_grad = False

    assert not dict(model.named_parameters())[name].requires_grad
    assert not layer.weight.requires_grad
    assert not dict(model.bert.named_parameters())[name.removeprefix("bert.")].requires_grad
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [name]


def test_the_usual_loop_freezes_a_part_of_a_model() -> None:
    model = tiny_model.question_answering()
    for parameter in model.bert.parameters():
        parameter.requires_grad = False
    left = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert left == ["qa_outputs.weight", "qa_outputs.bias"]
    assert model.requires_grad_(True) is model
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_tied_parameter_has_one_flag_under_both_its_names() -> None:
    model = qdqbert.QDQBertForMaskedLM(tiny_model.config(), seed=0)
    model.bert.embeddings.word_embeddings.weight.requires_grad = False
    assert not model.cls.predictions.decoder.weight.requires_grad
    model.cls.predictions.decoder.weight.requires_grad = True
    assert model.bert.embeddings.word_embeddings.weight.requires_grad
    states = [id(parameter.state) for parameter in model.parameters()]
    assert len(states) == len(set(states)), "a tied parameter is listed once"


def test_embeddings_and_norms_have_the_flag_too() -> None:
    model = tiny_model.question_answering()
    model.bert.embeddings.word_embeddings.weight.requires_grad = False
    model.bert.embeddings.LayerNorm.bias.requires_grad = False
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.bias"]


def test_learned_bounds_have_the_flag_and_the_clip_stage_sets_it() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(learn_amax=True))
    bounds = quantizer.clip
    assert bounds.clip_value_min.requires_grad
    quantizer.disable_clip()
    assert not bounds.clip_value_min.requires_grad
    assert not bounds.clip_value_max.requires_grad
    quantizer.enable_clip()
    assert all(parameter.requires_grad for parameter in quantizer.parameters())


def test_loading_and_assigning_leave_the_flag_alone() -> None:
    linear = QuantLinear(3, 2, seed=0)
    linear.weight.requires_grad = False
    linear.weight = np.ones((2, 3))
    linear.load_state_dict(QuantLinear(3, 2, seed=1).state_dict())
    assert not linear.weight.requires_grad
    assert linear.bias is not None
    assert linear.bias.requires_grad


@pytest.mark.parametrize(
    "derive",
    [
        lambda p: p[0],
        lambda p: p.T,
        lambda p: p.copy(),
        lambda p: p.reshape(-1),
        lambda p: p.view(),
    ],
    ids=["item", "transpose", "copy", "reshape", "view"],
)
def test_what_is_derived_from_a_parameter_is_none(derive: Any) -> None:
    derived = derive(QuantLinear(3, 2).weight)
    with pytest.raises((StateError, AttributeError)):
        derived.requires_grad  # noqa: B018
    with pytest.raises((StateError, AttributeError)):
        derived.requires_grad = False


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_a_copy_of_a_parameter_is_one_of_its_own(duplicate: Any) -> None:
    linear = QuantLinear(3, 2)
    linear.weight.requires_grad = False
    copied = duplicate(linear.weight)
    np.testing.assert_array_equal(copied, linear.weight)
    assert isinstance(copied, Parameter)
    assert not copied.requires_grad
    copied.requires_grad = True
    assert not linear.weight.requires_grad

    before = np.array(linear.weight)
    averaged = copied
    averaged *= 0.5  # an exponential moving average begins like this
    np.testing.assert_array_equal(linear.weight, before)
    np.testing.assert_array_equal(averaged, before * np.float32(0.5))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, through_pickle])
def test_a_copy_of_what_is_derived_from_a_parameter_is_an_array(duplicate: Any) -> None:
    derived = QuantLinear(3, 2, seed=0).weight.T
    assert type(duplicate(derived)) is np.ndarray
    np.testing.assert_array_equal(duplicate(derived), derived)


def test_a_shallow_copy_of_a_parameter_is_another_view_of_it() -> None:
    linear = QuantLinear(3, 2)
    view = copy.copy(linear.weight)
    linear.weight = np.full((2, 3), 7.0)
    assert (view == 7).all()
    view.requires_grad = False
    assert not linear.weight.requires_grad
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1.0


def test_what_is_computed_from_a_parameter_is_an_ordinary_array() -> None:
    weight = QuantLinear(3, 2).weight
    for result in (weight * 2, weight + weight, np.abs(weight), weight @ weight.T, weight.max(0)):
        assert type(result) is np.ndarray
        assert result.flags.writeable
    assert isinstance(weight.sum(), np.float32)
    assert isinstance(weight == weight, np.ndarray)


def test_a_parameter_is_the_memory_of_the_model_and_read_only() -> None:
    model = tiny_model.question_answering()
    view = model.qa_outputs.weight
    assert isinstance(view, Parameter)
    model.load_state_dict({"qa_outputs.weight": np.full(view.shape, 7.0)}, strict=False)
    assert (view == 7).all()
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1.0


def test_a_parameter_cannot_be_changed_by_arithmetic_in_place() -> None:
    weight = QuantLinear(3, 2).weight
    with pytest.raises(ValueError, match="read-only"):
        weight += 1
    with pytest.raises(ValueError, match="read-only"):
        np.add(weight, 1, out=weight)


@pytest.mark.parametrize("value", [1, 0.0, "yes", None, np.bool_(True)])
def test_a_flag_that_is_no_bool_is_refused_and_changes_nothing(value: Any) -> None:
    linear = QuantLinear(3, 2)
    linear.weight.requires_grad = False
    with pytest.raises(TypeError, match="requires_grad: expected bool"):
        linear.weight.requires_grad = value
    assert not linear.weight.requires_grad


def test_parameters_do_not_keep_a_model_alive_in_a_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        model = tiny_model.question_answering()
        model.qa_outputs.weight.requires_grad = False
        handles = weakref.ref(model._engine.handles)
        del model
        assert handles() is None
    finally:
        gc.enable()


def test_a_clip_with_fixed_bounds_has_no_parameters() -> None:
    clip = Clip(-1.0, [1.0, 2.0])
    assert list(clip.parameters()) == []
    assert not isinstance(clip.clip_value_max, Parameter)
    clip.clip_value_max[...] = 9.0
    assert clip.clip_value_max.tolist() == [1.0, 2.0]

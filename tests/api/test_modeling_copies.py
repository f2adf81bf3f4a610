# SPDX-License-Identifier: Apache-2.0
"""Copies of models: equal in every bit and every switch, and with nothing in common."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from copied_models import (
    CLASSES,
    assert_equal,
    disturb,
    make,
    outputs_of,
    snapshot,
    states_of,
    through_pickle,
)
from qdqbert import QDQBertConfig
from qdqbert.errors import StateError
from qdqbert.module import Module, ModuleList
from qdqbert.nn import QuantLinear
from qdqbert.tensor_quant import QuantDescriptor


@pytest.fixture(params=[copy.deepcopy, through_pickle], ids=["deepcopy", "pickle"])
def duplicate(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return request.param  # type: ignore[no-any-return]


# ---- models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_a_copy_of_a_model_is_equal_in_everything(name: str, duplicate: Any) -> None:
    model = make(name)
    copied = duplicate(model)
    assert_equal(copied, model)
    assert_equal(duplicate(copied), model)


@pytest.mark.parametrize("name", ["QDQBertModel", "QDQBertForMaskedLM", "QDQBertForQuestionAnswering"])
@pytest.mark.parametrize("changed", ["the copy", "the original"])
def test_changing_one_changes_nothing_of_the_other(name: str, changed: str, duplicate: Any) -> None:
    model = make(name)
    copied = duplicate(model)
    before = snapshot(model)
    assert snapshot(copied) == before

    disturb(copied if changed == "the copy" else model)

    assert snapshot(model if changed == "the copy" else copied) == before
    assert snapshot(copied if changed == "the copy" else model) != before


@pytest.mark.parametrize(
    "fields",
    [
        {"position_embedding_type": "relative_key_query"},
        {"hidden_act": "relu"},
        {"is_decoder": True, "add_cross_attention": True},
        {"tie_word_embeddings": False},
        {"num_labels": 5, "problem_type": "multi_label_classification"},
    ],
)
@pytest.mark.parametrize("name", ["QDQBertForMaskedLM", "QDQBertForSequenceClassification"])
def test_every_shape_of_model_can_be_copied(name: str, fields: dict[str, Any], duplicate: Any) -> None:
    model = getattr(qdqbert, name)(tiny_model.config(**fields), seed=3)
    model.gradient_checkpointing_enable()
    assert_equal(duplicate(model), model)


def test_ties_are_those_of_the_original(duplicate: Any) -> None:
    for untied in (False, True):
        model = make("QDQBertForMaskedLM")
        if untied:
            model.untie_weights()
        copied = duplicate(model)
        tables = (copied.bert.embeddings.word_embeddings.weight, copied.cls.predictions.decoder.weight)
        assert np.shares_memory(*tables) is not untied
        assert_equal(copied, model)


def test_a_model_is_copied_as_it_was_built_whatever_its_configuration_says_since(duplicate: Any) -> None:
    model = make("QDQBertForMaskedLM")
    model.config.tie_word_embeddings = False  # and nobody has called tie_weights
    model.config.vocab_size = 1000
    model.config.num_hidden_layers = 7
    model.config.my_field = [1, 2]
    copied = duplicate(model)
    assert repr(copied) == repr(model)
    assert vars(copied.config) == vars(model.config)
    assert copied.config is copied.bert.config
    assert states_of(copied) == states_of(model)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(copied.state_dict()[name], value)


def test_defaults_of_the_class_that_came_later_do_not_reach_a_copy(duplicate: Any) -> None:
    histogram = QuantDescriptor(8, "mine", axis=[0], calib_method="max", narrow_range=True)
    learned = QuantDescriptor(num_bits=7, learn_amax=True, amax=2.5)
    before = QuantLinear.default_quant_desc_input, QuantLinear.default_quant_desc_weight
    try:
        QuantLinear.set_default_quant_desc_input(learned)
        QuantLinear.set_default_quant_desc_weight(histogram)
        model = make("QDQBertModel")
        quantizer = model.encoder.layer[0].attention.self.query._input_quantizer
        quantizer.clip.clip_value_max = 1.25
        quantizer.disable_clip()
    finally:
        QuantLinear.set_default_quant_desc_input(before[0])
        QuantLinear.set_default_quant_desc_weight(before[1])
    copied = duplicate(model)
    assert_equal(copied, model)
    bounds = copied.encoder.layer[0].attention.self.query._input_quantizer.clip
    assert (float(bounds.clip_value_max), bounds.clip_value_max.requires_grad) == (1.25, False)
    weights = copied.encoder.layer[0].attention.self.query._weight_quantizer
    assert weights._descriptor == histogram
    assert weights.axis == [0]


def test_calibration_goes_on_in_a_copy_as_in_the_original(duplicate: Any) -> None:
    QuantLinear.set_default_quant_desc_input(QuantDescriptor(calib_method="histogram"))
    try:
        model = qdqbert.QDQBertModel(tiny_model.config(), seed=1)
    finally:
        QuantLinear.set_default_quant_desc_input(QuantDescriptor())
    quantizers = [q for name, q in qdqbert.rules.named_quantizers(model) if "_input_" in name]
    for quantizer in quantizers:
        quantizer.enable_calib()
        quantizer.disable_quant()
    outputs_of(model)
    copied = duplicate(model)
    assert states_of(copied) == states_of(model)
    for each in (model, copied):
        outputs_of(each, seed=1)
    assert states_of(copied) == states_of(model)
    outputs_of(copied, seed=2)
    assert states_of(copied) != states_of(model)


def test_a_base_model_becomes_a_model_of_its_own(duplicate: Any) -> None:
    model = make("QDQBertForSequenceClassification")
    copied = duplicate(model.bert)
    assert isinstance(copied, qdqbert.QDQBertModel)
    names = [name for name, _ in copied.named_parameters()]
    assert names == [name for name, _ in model.bert.named_parameters()]
    assert not any(name.startswith("classifier") for name, _ in copied._engine.core.parameters())
    for a, b in zip(outputs_of(copied), outputs_of(model.bert), strict=True):
        np.testing.assert_array_equal(a, b)
    before = snapshot(model)
    disturb(copied)
    assert snapshot(model) == before


def test_a_device_is_shared_by_copies_and_made_again_from_a_pickle() -> None:
    device = qdqbert.Device("ref", 2)
    model = qdqbert.QDQBertModel(tiny_model.config(), device=device)
    assert copy.deepcopy(model).device is device
    assert copy.copy(device) is device
    other = through_pickle(model)
    assert other.device is not device
    assert (other.device.isa, other.device.num_threads) == ("ref", 2)
    assert {each._device for _, each in qdqbert.rules.named_quantizers(other)} == {other.device}
    default = qdqbert.QDQBertModel(tiny_model.config())
    assert through_pickle(default).device is default.device


def test_generation_settings_are_copied(duplicate: Any) -> None:
    model = make("QDQBertLMHeadModel")
    model.generation_config.max_length = 9
    copied = duplicate(model)
    assert copied.generation_config == model.generation_config
    np.testing.assert_array_equal(copied.generate([[5, 6]]), model.generate([[5, 6]]))
    copied.generation_config.max_length = 5
    assert model.generation_config.max_length == 9


def test_a_copy_may_be_saved_and_changed_like_any_model(tmp_path: Any, duplicate: Any) -> None:
    model = make("QDQBertForMaskedLM")
    copied = duplicate(model)
    for each in (model, copied):
        each.resize_token_embeddings(60)
        each.prune_heads({0: [0]})
    assert_equal(copied, model)
    copied.save_pretrained(tmp_path / "copy")
    model.save_pretrained(tmp_path / "model")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def answer(model: Any, ids: Any, results: Any) -> None:
    results.put(model(ids).start_logits)


@pytest.mark.uninstrumented
def test_a_model_may_be_sent_to_another_process() -> None:
    context = multiprocessing.get_context("spawn")
    model, ids = make("QDQBertForQuestionAnswering"), [[5, 6, 7, 8]]
    results = context.Queue()
    process = context.Process(target=answer, args=(model, ids, results))
    process.start()
    try:
        np.testing.assert_array_equal(results.get(timeout=120), model(ids).start_logits)
    finally:
        process.join(60)


def test_copies_are_freed_without_the_garbage_collector(duplicate: Any) -> None:
    model = make("QDQBertForQuestionAnswering")
    gc.collect()
    gc.disable()
    try:
        copied = duplicate(model)
        handles = weakref.ref(copied._engine.handles)
        del copied
        assert handles() is None
    finally:
        gc.enable()


# ---- shallow copies ----------------------------------------------------------------------------------------


def test_a_shallow_copy_of_a_model_shares_everything_as_in_pytorch() -> None:
    model = make("QDQBertForMaskedLM")
    shallow = copy.copy(model)
    assert shallow is not model
    assert_equal(shallow, model)
    assert np.shares_memory(*(next(each.parameters()) for each in (model, shallow)))
    shallow.resize_token_embeddings(60)
    shallow.padding = "skip"
    model.prune_heads({0: [1]})
    assert_equal(shallow, model)
    shallow.note = 1
    shallow.extra = Module()
    assert not hasattr(model, "note")
    assert not hasattr(model, "extra")
    assert_equal(copy.deepcopy(copy.copy(model)), model)


# ---- what users put into a model ---------------------------------------------------------------------------


class Student(qdqbert.QDQBertForQuestionAnswering):
    """A derived class whose constructor takes something else."""

    def __init__(self, temperature: float) -> None:
        self._early = [temperature]
        super().__init__(tiny_model.config(), seed=1)
        self.temperature = temperature
        self._private = {"a": np.arange(3)}
        self.projection = QuantLinear(3, 4, seed=2)


def test_a_derived_class_keeps_what_it_has_and_its_constructor_is_not_run(duplicate: Any) -> None:
    student = Student(2.0)
    student.temperature = 7.0
    student.projection.weight = np.full((4, 3), 0.5)
    student.bert.encoder.layer[0].output.dropout.p = 0.75
    student.bert.encoder.layer[1].note = ["here"]
    student.bert.encoder.layer[1].add_module("adapter", QuantLinear(2, 2, seed=1))
    copied = duplicate(student)
    assert type(copied) is Student
    assert (copied.temperature, copied._early) == (7.0, [2.0])
    assert copied._early is not student._early
    np.testing.assert_array_equal(copied._private["a"], [0, 1, 2])
    assert copied._private["a"] is not student._private["a"]
    assert repr(copied) == repr(student)
    assert list(copied.state_dict()) == list(student.state_dict())
    np.testing.assert_array_equal(copied.projection.weight, student.projection.weight)
    assert copied.bert.encoder.layer[0].output.dropout.p == 0.75
    assert copied.bert.encoder.layer[1].note == ["here"]
    assert copied.bert.encoder.layer[1].note is not student.bert.encoder.layer[1].note
    student.projection.weight = np.zeros((4, 3))
    assert (copied.projection.weight == 0.5).all()


def test_second_names_of_a_part_are_second_names_in_the_copy(duplicate: Any) -> None:
    model = make("QDQBertForQuestionAnswering")
    model.first = model.bert.encoder.layer[0]
    copied = duplicate(model)
    assert copied.first is copied.bert.encoder.layer[0]
    assert repr(copied) == repr(model)


class Pair(Module):
    """A module of modules, such as users write."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make("QDQBertForQuestionAnswering")
        self.query = self.model.bert.encoder.layer[0].attention.self.query
        self.heads = ModuleList([QuantLinear(2, 3, seed=i) for i in range(2)])
        self.scale = 3.0


def test_modules_of_modules_are_copied_whole() -> None:
    pair = Pair()
    copied = copy.deepcopy(pair)
    assert_equal(copied.model, pair.model)
    assert copied.query is copied.model.bert.encoder.layer[0].attention.self.query
    assert copied.scale == 3.0
    np.testing.assert_array_equal(copied.heads[1].weight, pair.heads[1].weight)
    other = through_pickle(pair)
    assert_equal(other.model, pair.model)
    np.testing.assert_array_equal(other.heads[1].weight, pair.heads[1].weight)
    np.testing.assert_array_equal(other.query.weight, pair.query.weight)


class Special(QDQBertConfig):
    """A derived configuration with a constructor of its own."""

    def __init__(self, size: int) -> None:
        super().__init__(**{**tiny_model.FIELDS, "hidden_size": size})


def test_a_derived_configuration_is_copied(duplicate: Any) -> None:
    model = qdqbert.QDQBertModel(Special(48))
    copied = duplicate(model)
    assert type(copied.config) is Special
    assert copied.config == model.config


@pytest.mark.parametrize(
    "path",
    ["bert.encoder", "bert.embeddings.LayerNorm", "bert.encoder.layer.1", "qa_outputs", "bert.encoder.layer"],
)
def test_a_part_of_a_model_is_copied_with_the_model_only(path: str, duplicate: Any) -> None:
    model = tiny_model.question_answering()
    part = model.get_submodule(path)
    with pytest.raises(StateError, match=r"is a part of a model.* and cannot be copied.*; copy the model"):
        duplicate(part)
    both = copy.deepcopy([model, part])
    assert both[1] is both[0].get_submodule(path)


def test_pickles_hold_the_weights_once() -> None:
    model = qdqbert.QDQBertForMaskedLM(tiny_model.config(vocab_size=20_000))
    size = 4 * sum(value.size for value in model.parameters())
    assert size <= len(pickle.dumps(model)) <= size + 200_000

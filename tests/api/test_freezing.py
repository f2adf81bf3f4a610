# SPDX-License-Identifier: Apache-2.0
"""``model.freeze()``: equal bits, what stays, what is refused and how that is said, copies, threads."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import StateError
from qdqbert.freezing import FreezeReport
from qdqbert.nn import QuantLinear
from qdqbert.optim import AdamW
from qdqbert.quant_descriptor import QuantDescriptor

QUERY = "bert.encoder.layer.0.attention.self.query"
LAYERS = 12  # quantized linear layers of the tiny model


def calibrated(seed: int = 0) -> Any:
    model = tiny_model.question_answering(seed)
    qdqbert.calibrate(model, [tiny_model.batch(seed=seed)], method="max")
    return model


def answer(model: Any) -> bytes:
    out = model(**tiny_model.batch())
    return bytes(out.start_logits.tobytes() + out.end_logits.tobytes())


def frozen(seed: int = 0) -> Any:
    model = calibrated(seed)
    model.freeze()
    return model


# ---- what it does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [calibrated, tiny_model.question_answering], ids=["static", "dynamic"])
def test_bits_are_those_of_the_floats(make: Callable[[int], Any]) -> None:
    model = make(0)
    expected = answer(model)
    model.freeze()
    assert model.is_frozen
    assert answer(model) == expected


@pytest.mark.parametrize(
    "options", [{"num_bits": 4}, {"narrow_range": True}, {"axis": None}, {"num_bits": 2}]
)
def test_bits_are_those_of_other_weight_descriptors(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        QuantLinear,
        "default_quant_desc_weight",
        QuantDescriptor(**{"num_bits": 8, "axis": (0,), **options}),
    )
    model = calibrated()
    expected = answer(model)
    assert len(model.freeze().frozen) == LAYERS
    assert answer(model) == expected


def test_the_report_says_what_and_how_much() -> None:
    report = calibrated().freeze()
    assert isinstance(report, FreezeReport)
    assert len(report.frozen) == LAYERS
    assert report.kept == {}
    assert report.frozen_bytes < report.float_bytes
    assert str(report).startswith("12 weights kept as int8 codes: ")


def test_a_layer_that_multiplies_floats_stays_and_the_report_says_why() -> None:
    model = calibrated()
    qdqbert.quantizers(model, {f"{QUERY}.*": "off", "*.layer.1.output.dense._input_quantizer": "off"})
    expected = answer(model)
    report = model.freeze()
    assert answer(model) == expected
    assert report.kept == {
        f"{QUERY}.weight": "its quantizers are off",
        "bert.encoder.layer.1.output.dense.weight": "only one of the two operands is quantized",
    }
    assert len(report.frozen) == LAYERS - 2
    assert f"{QUERY}.weight stays float32: its quantizers are off" in str(report)


def test_what_is_enabled_later_can_be_frozen_too() -> None:
    model = calibrated()
    qdqbert.quantizers(model, {f"{QUERY}.*": "off"})
    model.freeze()
    qdqbert.quantizers(model, {f"{QUERY}.*": "on"})
    expected = answer(model)
    assert len(model.freeze().frozen) == LAYERS
    assert answer(model) == expected


def test_floats_are_given_back() -> None:
    model = calibrated()
    answer(model)
    core = weakref.ref(model._engine.handles.bound.sessions)
    model.freeze()
    assert core() is None
    kinds = [storage for storage, *_ in model._engine.core.storages()]
    assert kinds.count("codes") == LAYERS


def test_a_frozen_weight_reads_as_the_values_that_are_multiplied() -> None:
    model, floats = frozen(), calibrated()
    layer, other = model.get_submodule(QUERY), floats.get_submodule(QUERY)
    expected = other.weight_quantizer(np.asarray(other.weight))
    assert np.array_equal(layer.weight, expected)
    assert not layer.weight.flags.writeable
    assert np.array_equal(model.state_dict()[f"{QUERY}.weight"], expected)
    assert (layer.in_features, layer.out_features) == (other.in_features, other.out_features)
    assert repr(model) == repr(floats)


def test_a_state_dict_of_a_frozen_model_loads_into_floats_with_equal_bits() -> None:
    model = frozen()
    other = tiny_model.question_answering(1)
    other.load_state_dict(model.state_dict())
    assert answer(other) == answer(model)


# ---- its own codes, loaded again ---------------------------------------------------------------------------

SOURCES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda model: model,
    "a copy": copy.deepcopy,
    "the floats": lambda model: calibrated(),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_the_codes_that_are_there_load(source: Callable[[Any], Any]) -> None:
    model = frozen()
    expected = answer(model)
    codes = model._engine.handles.bound.read_codes(f"{QUERY}.weight")
    loaded = model.load_state_dict(source(model).state_dict())
    assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
    assert model.is_frozen
    assert np.array_equal(model._engine.handles.bound.read_codes(f"{QUERY}.weight"), codes)
    assert answer(model) == expected


def test_the_codes_of_a_model_without_ranges_load() -> None:
    model = tiny_model.question_answering(0)
    model.freeze()
    expected = answer(model)
    model.load_state_dict(model.state_dict())
    assert answer(model) == expected


def test_a_layer_takes_its_codes_alone() -> None:
    layer = frozen().get_submodule(QUERY)
    before = np.array(layer.weight)
    layer.load_state_dict(layer.state_dict())
    assert np.array_equal(layer.weight, before)


def test_what_is_not_frozen_is_written_beside_codes_that_are_there() -> None:
    model = frozen()
    state = model.state_dict()
    state[f"{QUERY}.bias"] = np.arange(24, dtype=np.float32)
    state["bert.encoder.layer.0.output.add_local_input_quantizer._amax"] = np.float32(3.5)
    model.load_state_dict(state)
    assert np.array_equal(model.get_submodule(QUERY).bias, np.arange(24))
    assert model.get_submodule("bert.encoder.layer.0.output.add_local_input_quantizer").amax == 3.5


def other_codes(state: dict[str, Any]) -> None:
    weight = np.array(state[f"{QUERY}.weight"])
    weight[2, 5:7] *= -1
    state[f"{QUERY}.weight"] = weight


def no_number(state: dict[str, Any]) -> None:
    weight = np.array(state[f"{QUERY}.weight"])
    weight[0, 0] = np.nan
    state[f"{QUERY}.weight"] = weight


OTHERS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "codes": (
        other_codes,
        rf"{QUERY}\.weight: 2 of 576 numbers are other codes than it has, the first at \(2, 5\); it cannot "
        "be changed, because the model is frozen",
    ),
    "nan": (no_number, rf"{QUERY}\.weight: 1 of 576 numbers are other codes"),
    "range of the weight": (
        lambda state: state.update({f"{QUERY}._weight_quantizer._amax": np.ones((24, 1), np.float32)}),
        rf"{QUERY}\._weight_quantizer\._amax: it differs from what is there, and that cannot be changed, "
        "because the weight of the layer is frozen",
    ),
    "range of the input": (
        lambda state: state.update({f"{QUERY}._input_quantizer._amax": np.float32(77)}),
        rf"{QUERY}\._input_quantizer\._amax: it differs",
    ),
    "scale before": (
        lambda state: state.update({f"{QUERY}._input_quantizer._pre_quant_scale": np.float32(2)}),
        rf"{QUERY}\._input_quantizer\._pre_quant_scale: there is none, and that cannot be changed",
    ),
}


@pytest.mark.parametrize(("change", "reason"), OTHERS.values(), ids=OTHERS.keys())
def test_anything_else_is_refused_with_the_reason_and_nothing_is_written(
    change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    model = frozen()
    expected = answer(model)
    state = model.state_dict()
    state["qa_outputs.bias"] = np.array([5, 6], np.float32)
    change(state)
    with pytest.raises(StateError, match=rf"^load_state_dict: {reason}.*load the checkpoint again"):
        model.load_state_dict(state)
    assert answer(model) == expected


def test_another_shape_is_a_size_mismatch() -> None:
    model = frozen()
    state = model.state_dict()
    state[f"{QUERY}.weight"] = np.zeros((3, 24), np.float32)
    with pytest.raises(qdqbert.CheckpointError, match=rf"size mismatch for {QUERY}.weight"):
        model.load_state_dict(state)


def test_frozen_weights_are_counted_and_are_no_parameters() -> None:
    model, floats = frozen(), calibrated()
    assert model.num_parameters() == floats.num_parameters()
    assert model.summary().parameters == floats.summary().parameters
    names = {name for name, _ in model.named_parameters()}
    assert f"{QUERY}.weight" not in names
    assert f"{QUERY}.bias" in names


def test_a_layer_of_a_frozen_model_computes_alone() -> None:
    model, floats = frozen(), calibrated()
    x = np.random.default_rng(0).standard_normal((3, model.config.hidden_size)).astype(np.float32)
    assert np.array_equal(model.get_submodule(QUERY)(x), floats.get_submodule(QUERY)(x))


def test_quantizers_of_products_between_activations_stay_free() -> None:
    model = frozen()
    qdqbert.quantizers(model, {"*.matmul_q_input_quantizer": "off"})
    answer(model)


# ---- what is refused ---------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Any], object]] = {
    "train": lambda model: model.train(),
    "init_weights": lambda model: model.init_weights(),
    "load_state_dict": lambda model: model.load_state_dict(calibrated(1).state_dict()),
    "assign": lambda model: setattr(
        model.get_submodule(QUERY), "weight", np.zeros_like(model.get_submodule(QUERY).weight)
    ),
    "prune": lambda model: model.prune_heads({0: [0]}),
    "resize": lambda model: model.resize_token_embeddings(model.config.vocab_size + 1),
    "optimizer": lambda model: AdamW(model.parameters()),
    "calibrate": lambda model: qdqbert.calibrate(model, [tiny_model.batch()], method="max"),
    "rules": lambda model: qdqbert.quantizers(model, {"*query._weight_quantizer": "off"}),
    "amax": lambda model: setattr(model.get_submodule(QUERY).input_quantizer, "amax", 3.0),
    "bits": lambda model: setattr(model.get_submodule(QUERY).weight_quantizer, "num_bits", 4),
    "disable": lambda model: model.get_submodule(QUERY).input_quantizer.disable(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_needs_the_floats_is_refused_by_name_and_changes_nothing(
    change: Callable[[Any], object],
) -> None:
    model = frozen()
    expected = answer(model)
    with pytest.raises(StateError) as caught:
        change(model)
    assert "frozen" in str(caught.value)
    assert "load the checkpoint again" in str(caught.value)
    assert not model.training
    assert answer(model) == expected


def test_an_optimizer_of_before_refuses_its_step() -> None:
    model = calibrated()
    optimizer = AdamW(model.parameters(), lr=0.1)
    model.freeze()
    expected = answer(model)
    with pytest.raises(StateError, match="frozen"):
        optimizer.step()
    assert answer(model) == expected


def test_a_loss_of_before_cannot_go_back() -> None:
    model = calibrated().train()
    out = model(**tiny_model.batch(), start_positions=[0, 1, 2], end_positions=[1, 2, 3])
    with pytest.raises(StateError, match=r"training mode; call eval\(\)"):
        model.freeze()
    model.eval()
    model.freeze()
    before = {name: np.array(value) for name, value in model.named_parameters()}
    with contextlib.suppress(StateError):
        out.loss.backward()
    assert all(np.array_equal(before[name], value) for name, value in model.named_parameters())


def test_a_base_model_is_not_frozen_while_the_whole_trains() -> None:
    model = calibrated().train()
    model.bert.eval()
    with pytest.raises(StateError, match=r"training mode; call eval\(\)"):
        model.bert.freeze()
    assert not model.is_frozen


def test_a_model_without_integer_layers_is_refused_as_it_is() -> None:
    model = tiny_model.question_answering(0)
    qdqbert.quantizers(model, {"*": "off"})
    core = model._engine.core
    with pytest.raises(StateError, match=r"no linear layer multiplies int8 codes: .*its quantizers are off"):
        model.freeze()
    assert model._engine.core is core
    assert not model.is_frozen


def test_a_weight_with_nan_is_named_and_nothing_is_frozen() -> None:
    model = calibrated()
    weight = np.array(model.get_submodule(QUERY).weight)
    weight[3, 1] = np.nan
    model.get_submodule(QUERY).weight = weight
    with pytest.raises(ValueError, match=rf"{QUERY}\.weight: row 3 holds a NaN"):
        model.freeze()
    assert not model.is_frozen


def test_a_change_during_freezing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = calibrated()
    engine = model._engine
    make = engine.make_core

    def make_and_change(*arguments: Any) -> Any:
        made = make(*arguments)
        model.bert.encoder.layer[0].output.add_local_input_quantizer.amax = 5.0
        return made

    monkeypatch.setattr(engine, "make_core", make_and_change)
    with pytest.raises(StateError, match="another thread changed the model"):
        model.freeze()
    assert not model.is_frozen


def test_patterns_are_about_training_alone() -> None:
    model = calibrated()
    assert model.freeze("bert.embeddings.*") is None
    assert not model.is_frozen
    assert not dict(model.named_parameters())["bert.embeddings.word_embeddings.weight"].requires_grad


# ---- copies and threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_are_frozen_and_have_equal_bits(copied: Callable[[Any], Any]) -> None:
    model = frozen()
    expected = answer(model)
    other = copied(model)
    del model
    assert other.is_frozen
    assert answer(other) == expected
    with pytest.raises(StateError, match="frozen"):
        other.train()


def test_the_base_model_of_a_frozen_model_can_be_copied_by_itself() -> None:
    model = frozen()
    base = copy.deepcopy(model.bert)
    assert base.is_frozen
    expected = model.bert(**tiny_model.batch()).last_hidden_state
    assert np.array_equal(base(**tiny_model.batch()).last_hidden_state, expected)


def test_forwards_of_other_threads_go_on_with_equal_bits() -> None:
    models = [calibrated() for _ in range(8)]
    expected = answer(models[0])
    answers: list[bytes] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                answers.extend(answer(model) for model in models)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for model in models:
        model.freeze()
    while len(answers) < 40 and not failures:
        stop.wait(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(answers) == {expected}

# SPDX-License-Identifier: Apache-2.0
"""Recorded forwards and the way back: what is kept, for how long, and what is said when it is gone."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.errors import ShapeError, StateError
from qdqbert.loss import Loss

LABELS = {"start_positions": np.array([1, 2, 3]), "end_positions": np.array([2, 4, 3])}
FLOAT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def training_model(seed: int = 0, **changes: Any) -> Any:
    return tiny_model.question_answering(seed, **FLOAT, **changes).train()


def gradients(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def test_the_loss_of_a_forward_in_training_mode_has_a_way_back() -> None:
    model = training_model()
    output = model(**tiny_model.batch(), **LABELS)
    assert isinstance(output.loss, Loss)
    assert all(parameter.grad is None for parameter in model.parameters())

    output.loss.backward()

    assert set(gradients(model)) == {name for name, _ in model.named_parameters()}
    assert all(np.abs(gradient).max() > 0 for gradient in gradients(model).values())


def test_training_mode_changes_no_bit_of_a_forward_without_dropout() -> None:
    model = training_model()
    recorded = model(**tiny_model.batch(), **LABELS)
    plain = model.eval()(**tiny_model.batch(), **LABELS)
    for name in ("loss", "start_logits", "end_logits"):
        np.testing.assert_array_equal(recorded[name], plain[name])


def test_gradients_are_those_of_finite_differences() -> None:
    model = training_model()
    with qdqbert.quantizers(model, {"*": "off"}):
        model(**tiny_model.batch(), **LABELS).loss.backward()
        slope = {name: p.grad for name, p in model.named_parameters()}
        for name in ("qa_outputs.weight", "bert.encoder.layer.0.attention.self.query.weight"):
            value = np.array(dict(model.named_parameters())[name])
            direction = np.asarray(slope[name]) / np.linalg.norm(slope[name])
            losses = []
            for sign in (1, -1):
                model.load_state_dict({name: value + sign * np.float32(0.01) * direction}, strict=False)
                losses.append(float(model(**tiny_model.batch(), **LABELS).loss))
            model.load_state_dict({name: value}, strict=False)
            # Central difference: error of third order in 0.01, and rounding 1e-7 / 0.02.
            assert (losses[0] - losses[1]) / 0.02 == pytest.approx(np.linalg.norm(slope[name]), rel=1e-3)


def test_gradients_accumulate_until_they_are_dropped() -> None:
    model = training_model()
    model(**tiny_model.batch(), **LABELS).loss.backward()
    once = gradients(model)
    model(**tiny_model.batch(), **LABELS).loss.backward()
    largest = max(float(np.abs(gradient).max()) for gradient in once.values())
    for name, gradient in gradients(model).items():
        # Rows are added one after the other, to what is there already: a rounding for each of 33 tokens.
        np.testing.assert_allclose(gradient, once[name] * 2, rtol=0, atol=33 * 6e-8 * largest)
    model.zero_grad()
    assert not gradients(model)
    model(**tiny_model.batch(), **LABELS).loss.backward()
    for name, gradient in gradients(model).items():
        np.testing.assert_array_equal(gradient, once[name])


def test_a_base_model_drops_its_own_gradients_alone() -> None:
    model = training_model()
    model(**tiny_model.batch(), **LABELS).loss.backward()
    kept = np.array(model.qa_outputs.weight.grad)
    model.bert.zero_grad()
    assert set(gradients(model)) == {"qa_outputs.weight", "qa_outputs.bias"}
    np.testing.assert_array_equal(model.qa_outputs.weight.grad, kept)
    model.qa_outputs.zero_grad()
    assert not gradients(model)
    model(**tiny_model.batch(), **LABELS).loss.backward()
    np.testing.assert_array_equal(model.qa_outputs.weight.grad, kept)


def test_a_head_of_ones_own_on_the_model_drops_its_gradients_with_it() -> None:
    model = training_model()
    model.extra = qdqbert.nn.QuantLinear(24, 2)
    model.extra.weight.grad = np.ones((2, 24))
    model.zero_grad()
    assert model.extra.weight.grad is None


def test_gradients_may_be_dropped_between_forward_and_backward() -> None:
    model = training_model()
    model(**tiny_model.batch(), **LABELS).loss.backward()
    once = gradients(model)
    loss = model(**tiny_model.batch(), **LABELS).loss
    model.zero_grad()
    loss.backward()
    for name, gradient in gradients(model).items():
        np.testing.assert_array_equal(gradient, once[name])


# ---- arithmetic ------------------------------------------------------------------------------------------


def test_a_quarter_of_a_loss_gives_a_quarter_of_the_gradients() -> None:
    model = training_model()
    model(**tiny_model.batch(), **LABELS).loss.backward()
    whole = gradients(model)
    model.zero_grad()
    (model(**tiny_model.batch(), **LABELS).loss / 4).backward()
    for name, gradient in gradients(model).items():
        np.testing.assert_array_equal(gradient, whole[name] / 4)  # a power of two is exact


def test_the_sum_of_two_forwards_walks_both_back() -> None:
    model = training_model()
    first, second = tiny_model.batch(seed=1), tiny_model.batch(seed=2)
    for batch in (first, second):
        model(**batch, **LABELS).loss.backward()
    apart = gradients(model)
    model.zero_grad()
    (model(**first, **LABELS).loss + model(**second, **LABELS).loss).backward()
    for name, gradient in gradients(model).items():
        np.testing.assert_array_equal(gradient, apart[name])


@pytest.mark.parametrize(
    ("combine", "slope"),
    [
        (lambda loss: loss + 1, 1.0),
        (lambda loss: 3.0 - loss, -1.0),
        (lambda loss: loss - np.float64(0.5), 1.0),
        (lambda loss: np.float64(2.0) * loss, 2.0),
        (lambda loss: np.float32(0.5) * loss, 0.5),
        (lambda loss: np.array(0.5) * loss, 0.5),
        (lambda loss: loss / 2, 0.5),
        (lambda loss: -loss, -1.0),
        (lambda loss: +loss, 1.0),
        (lambda loss: sum([loss, loss]), 2.0),
        (lambda loss: loss - loss, 0.0),
        (lambda loss: loss * loss, 2.0 * 3.0),
        (lambda loss: loss / loss, 0.0),
        (lambda loss: 1 / loss, -1.0 / 9.0),
        (lambda loss: loss / (loss + 1), 1.0 / 16.0),
    ],
)
def test_arithmetic_follows_the_rules_of_differentiation(combine: Any, slope: float) -> None:
    class Nowhere:  # stands for a recording
        def keep(self, part: Any) -> int:
            return 0

    loss = Loss.of(3.0, Nowhere(), lambda factor: factor)  # type: ignore[arg-type, return-value]
    result = combine(loss)
    assert isinstance(result, Loss)
    assert float(result) == np.float32(combine(3.0))
    assert sum(term.factor for term in result._terms) == pytest.approx(slope)


def test_a_loss_is_a_number_in_every_other_respect() -> None:
    loss = training_model()(**tiny_model.batch(), **LABELS).loss
    assert isinstance(loss, np.float32)
    assert loss.item() == float(loss) > 0
    assert np.isfinite(loss)
    assert f"{loss:.3f}" == f"{float(loss):.3f}"
    assert type(loss * np.ones(2)) is np.ndarray
    for plain in (loss.detach(), copy.copy(loss), copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert type(plain) is np.float32
        assert plain == loss


# ---- custom heads ----------------------------------------------------------------------------------------


def test_gradients_of_logits_can_be_given_by_hand() -> None:
    model = training_model()
    model(**tiny_model.batch(), **LABELS).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    output = model(**tiny_model.batch())

    def half(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        e *= tiny_model.batch()["attention_mask"]  # padding is no choice
        p = e / e.sum(-1, keepdims=True)
        p[np.arange(len(labels)), labels] -= 1
        return p / len(labels) / 2

    model.backward(
        d_logits=(
            half(output.start_logits, LABELS["start_positions"]),
            half(output.end_logits, LABELS["end_positions"]),
        )
    )
    largest = max(float(np.abs(gradient).max()) for gradient in expected.values())
    for name, gradient in gradients(model).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-6 * largest)


def test_a_head_of_ones_own_gets_at_the_base_model() -> None:
    model = qdqbert.QDQBertModel(tiny_model.config(**FLOAT)).train()
    output = model(**tiny_model.batch())
    inputs = model.backward(np.ones_like(output.last_hidden_state), wants_inputs=True)
    assert inputs.inputs_embeds is not None
    assert inputs.inputs_embeds.shape == output.last_hidden_state.shape
    assert inputs.encoder_hidden_states is None
    assert {name for name, p in model.named_parameters() if p.grad is None} == {
        "pooler.dense.weight",
        "pooler.dense.bias",
    }


def test_the_base_model_inside_a_head_is_recorded_too() -> None:
    model = training_model()
    hidden = model.bert(**tiny_model.batch()).last_hidden_state
    model.bert.backward(np.ones_like(hidden))
    assert {name for name, p in model.named_parameters() if p.grad is None} == {
        "qa_outputs.weight",
        "qa_outputs.bias",
    }


def test_backward_by_hand_walks_the_last_forward_of_this_thread() -> None:
    model = training_model()
    other: list[BaseException] = []

    def walk() -> None:
        try:
            model.backward(d_logits=(np.zeros((3, 11)), np.zeros((3, 11))))
        except StateError as error:
            other.append(error)

    model(**tiny_model.batch())
    thread = threading.Thread(target=walk)
    thread.start()
    thread.join()
    assert len(other) == 1
    model.backward(d_logits=(np.zeros((3, 11)), np.zeros((3, 11))))


def test_gradients_of_hidden_states_come_through_the_layers_below_them_alone() -> None:
    model = qdqbert.QDQBertModel(tiny_model.config(**FLOAT)).train()
    hidden = model(**tiny_model.batch()).last_hidden_state
    model.backward(d_hidden_states=[None, np.ones_like(hidden), None])
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {
        n for n, _ in model.named_parameters() if not n.startswith(("encoder.layer.1.", "pooler."))
    }

    with qdqbert.quantizers(model, {"*": "off"}):
        model.zero_grad()
        output = model(**tiny_model.batch(), output_hidden_states=True)
        model.backward(d_hidden_states=[output.hidden_states[0], None, output.hidden_states[2]])
        slope = np.array(model.embeddings.LayerNorm.weight.grad)
        value = np.array(model.embeddings.LayerNorm.weight)
        direction = slope / np.linalg.norm(slope)
        losses = []
        for sign in (1, -1):
            changed = {"embeddings.LayerNorm.weight": value + sign * np.float32(0.01) * direction}
            model.load_state_dict(changed, strict=False)
            states = model(**tiny_model.batch(), output_hidden_states=True).hidden_states
            losses.append(sum(float(np.sum(np.square(states[i], dtype=np.float64))) / 2 for i in (0, 2)))
    assert (losses[0] - losses[1]) / 0.02 == pytest.approx(np.linalg.norm(slope), rel=1e-3)


def test_gradients_of_hidden_states_that_do_not_fit_are_named() -> None:
    model = training_model()
    hidden = np.zeros((3, 11, 24), np.float32)
    model(**tiny_model.batch())
    with pytest.raises(ShapeError, match="d_hidden_states: expected 3 entries, got 2"):
        model.backward(d_hidden_states=[hidden, None])
    with pytest.raises(ShapeError, match="d_hidden_states: expected shape"):
        model.backward(d_hidden_states=[None, hidden[:2], None])
    with pytest.raises(TypeError, match="d_hidden_states: expected a list"):
        model.backward(d_hidden_states=hidden)
    model.backward(d_hidden_states=[None, hidden, None])


def test_gradient_checkpointing_changes_memory_and_no_bit() -> None:
    changes = {**FLOAT, "hidden_dropout_prob": 0.1, "num_hidden_layers": 6}
    model = tiny_model.question_answering(**changes).train()
    twice = tiny_model.question_answering(**changes).train()
    twice.gradient_checkpointing_enable()
    assert twice.is_gradient_checkpointing
    held = []
    for each in (model, twice):
        before = each.device.memory_statistics()["live_bytes"]
        loss = each(**tiny_model.batch(), **LABELS).loss
        held.append(each.device.memory_statistics()["live_bytes"] - before)
        loss.backward()
    assert held[1] < held[0]
    for name, gradient in gradients(twice).items():
        np.testing.assert_array_equal(gradient, gradients(model)[name])
    twice.gradient_checkpointing_disable()
    assert not twice.is_gradient_checkpointing


# ---- what cannot be walked back --------------------------------------------------------------------------


def test_a_loss_of_evaluation_mode_says_to_call_train() -> None:
    loss = tiny_model.question_answering()(**tiny_model.batch(), **LABELS).loss
    with pytest.raises(StateError, match=r"call model\.train\(\) before the forward"):
        loss.backward()
    with pytest.raises(StateError, match=r"call model\.train\(\) before the forward"):
        tiny_model.question_answering().backward(np.zeros((3, 11, 24)))


def test_a_second_backward_says_that_the_forward_is_gone() -> None:
    model = training_model()
    loss = model(**tiny_model.batch(), **LABELS).loss
    loss.backward()
    before = gradients(model)
    for again in (loss.backward, (loss * 2).backward, lambda: model.backward(np.zeros((3, 11, 24)))):
        with pytest.raises(StateError, match="walked back already"):
            again()
    for name, gradient in gradients(model).items():
        np.testing.assert_array_equal(gradient, before[name])


def test_backward_after_the_weights_have_changed_is_refused() -> None:
    model = training_model()
    optimizer = qdqbert.optim.SGD(model.parameters(), lr=0.1)
    first = model(**tiny_model.batch(), **LABELS).loss
    second = model(**tiny_model.batch(), **LABELS).loss
    first.backward()
    optimizer.step()
    with pytest.raises(StateError, match="the model has changed since the forward"):
        second.backward()
    model(**tiny_model.batch(), **LABELS).loss.backward()


def test_backward_after_a_change_of_sizes_is_refused() -> None:
    model = training_model()
    loss = model(**tiny_model.batch(), **LABELS).loss
    model.prune_heads({0: [1]})
    with pytest.raises(StateError, match="the sizes of the model have changed"):
        loss.backward()
    model(**tiny_model.batch(), **LABELS).loss.backward()


def test_a_gradient_of_a_wrong_shape_leaves_the_forward_there() -> None:
    model = training_model()
    loss = model(**tiny_model.batch(), **LABELS).loss
    with pytest.raises(ShapeError, match="d_last_hidden_state"):
        model.backward(np.zeros((3, 10, 24)))
    with pytest.raises(ShapeError, match="d_logits: expected a pair"):
        model.backward(d_logits=np.zeros((3, 11, 2)))
    with pytest.raises(ValueError, match="did not pool"):
        model.backward(d_pooler_output=np.zeros((3, 24)))
    assert not gradients(model)
    loss.backward()


def test_a_cache_of_earlier_calls_is_for_evaluation() -> None:
    config = tiny_model.config(is_decoder=True, **FLOAT)
    model = qdqbert.QDQBertLMHeadModel(config)
    past = model(np.array([[5, 6, 7]])).past_key_values
    with pytest.raises(ValueError, match=r"past_key_values: .* call eval\(\)"):
        model.train()(np.array([[8]]), past_key_values=past)


def test_generation_does_not_record() -> None:
    model = qdqbert.QDQBertLMHeadModel(tiny_model.config(is_decoder=True, **FLOAT))
    expected = model.generate(np.array([[5, 6, 7]]), max_new_tokens=3)
    np.testing.assert_array_equal(model.train().generate(np.array([[5, 6, 7]]), max_new_tokens=3), expected)
    with pytest.raises(StateError, match="no recorded forward"):
        model.backward(np.zeros((1, 3, 24)))


# ---- what is kept ----------------------------------------------------------------------------------------


def test_what_the_caller_writes_into_its_arrays_after_the_forward_changes_nothing() -> None:
    model = training_model()
    model(**tiny_model.batch(), **LABELS).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    batch = {**tiny_model.batch(), **{name: label.copy() for name, label in LABELS.items()}}
    loss = model(**batch).loss
    for array in batch.values():
        array[...] = 10**9
    loss.backward()
    for name, gradient in gradients(model).items():
        np.testing.assert_array_equal(gradient, expected[name])


def test_logits_that_backward_will_read_cannot_be_written_to() -> None:
    output = training_model()(**tiny_model.batch(), **LABELS)
    with pytest.raises(ValueError, match="read-only"):
        output.start_logits[...] = 0


def test_steps_of_one_size_take_no_memory_after_the_first() -> None:
    model = training_model()
    optimizer = qdqbert.optim.AdamW(model.parameters())
    held = []
    for _ in range(4):
        model(**tiny_model.batch(), **LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        held.append(model.device.memory_statistics()["live_bytes"])
    assert held[0] == held[1] == held[3]


def test_a_forward_that_is_dropped_gives_its_memory_back_for_the_next() -> None:
    model = training_model()
    for _ in range(2):
        output = model(**tiny_model.batch(), **LABELS)
    before = model.device.memory_statistics()["live_bytes"]
    for _ in range(3):
        output = model(**tiny_model.batch(), **LABELS)
    assert output.loss > 0
    assert model.device.memory_statistics()["live_bytes"] == before


def test_a_forward_that_fails_gives_its_memory_back_and_leaves_the_model_usable() -> None:
    model = training_model()
    model(**tiny_model.batch(), **LABELS).loss.backward()
    before = model.device.memory_statistics()["live_bytes"]
    wrong = tiny_model.batch()
    wrong["input_ids"][0, 0] = 10**6
    for _ in range(3):
        with pytest.raises(IndexError, match="input_ids"):
            model(**wrong, **LABELS)
    model(**tiny_model.batch(), **LABELS).loss.backward()
    assert model.device.memory_statistics()["live_bytes"] == before


def test_a_sum_of_many_losses_does_not_keep_what_their_forwards_gave() -> None:
    model = training_model()
    total: Any = 0.0
    logits = []
    for _ in range(3):
        output = model(**tiny_model.batch(), **LABELS)
        logits.append(weakref.ref(output.start_logits))
        total = total + output.loss
        output.loss.backward()
        del output
    assert [each() for each in logits] == [None] * 3
    with pytest.raises(StateError, match="walked back already"):
        total.backward()


def test_a_recorded_forward_keeps_no_model_alive_in_a_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        model = training_model()
        model(**tiny_model.batch(), **LABELS).loss.backward()
        output = model(**tiny_model.batch(), **LABELS)
        optimizer = qdqbert.optim.AdamW(model.parameters())
        handles = weakref.ref(model._engine.handles)
        del model, output
        assert handles() is None
        optimizer.step()  # of parameters that nobody else holds
    finally:
        gc.enable()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_between_forward_and_backward_is_a_model_in_training_mode(duplicate: Any) -> None:
    model = training_model()
    model.freeze("bert.embeddings.*")
    loss = model(**tiny_model.batch(), **LABELS).loss

    copied = duplicate(model)

    assert copied.training
    assert copied.bert.encoder.layer[1].output.dropout.training
    copied(**tiny_model.batch(), **LABELS).loss.backward()
    loss.backward()
    assert set(gradients(model)) == set(gradients(copied))
    for name, gradient in gradients(model).items():
        np.testing.assert_array_equal(gradient, gradients(copied)[name])


# ---- modes -----------------------------------------------------------------------------------------------


def test_train_and_eval_reach_every_module() -> None:
    model = tiny_model.question_answering()
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert all(module.training for module in model.modules())
    model.bert.encoder.eval()
    assert model.training
    assert not model.bert.encoder.layer[0].attention.training
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    with pytest.raises(TypeError, match="mode: expected bool"):
        model.train("yes")  # type: ignore[arg-type]


# ---- threads ---------------------------------------------------------------------------------------------


def test_two_threads_train_two_models_as_one_after_the_other_would() -> None:
    def train(model: Any) -> None:
        optimizer = qdqbert.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(5):
            model(**tiny_model.batch(seed=step), **LABELS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    alone = [training_model(seed) for seed in (0, 1)]
    together = [training_model(seed) for seed in (0, 1)]
    for model in alone:
        train(model)
    threads = [threading.Thread(target=train, args=(model,)) for model in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=name)


def test_forwards_of_another_thread_run_beside_forward_and_backward() -> None:
    model = training_model()
    expected = model.eval()(**tiny_model.batch()).start_logits
    model.train()
    stop, wrong = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            try:
                run = model._run(4, may_record=False, **_arguments())
                wrong.extend([] if np.array_equal(run.logits[..., 0], expected) else ["other logits"])
            except Exception as error:
                wrong.append(repr(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            model(**tiny_model.batch(), **LABELS).loss.backward()
            model.zero_grad()
    finally:
        stop.set()
        thread.join()
    assert not wrong


def _arguments() -> dict[str, Any]:
    names = ("position_ids", "head_mask", "inputs_embeds", "output_attentions", "output_hidden_states")
    return {**dict.fromkeys(names), **tiny_model.batch()}

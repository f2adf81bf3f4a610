# SPDX-License-Identifier: Apache-2.0
"""bf16 products as an option of training: what it changes, what it leaves alone, and where there are none."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from copied_models import through_pickle
from qdqbert.errors import UnsupportedError

LABELS = {"start_positions": np.array([1, 2, 3]), "end_positions": np.array([2, 4, 3])}
DROPS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def model_on(isa: str = "ref", threads: int = 1, **changes: Any) -> Any:
    device = qdqbert.Device(isa=isa, num_threads=threads)
    config = tiny_model.config(**{**DROPS, **changes})
    return qdqbert.QDQBertForQuestionAnswering(config, seed=0, device=device)


def step(model: Any) -> dict[str, np.ndarray]:
    """The loss and all gradients of one training step."""
    model.zero_grad()
    model.dropout_step = 0
    output = model.train()(**tiny_model.batch(), **LABELS)
    output.loss.backward()
    found = {name: np.array(p.grad) for name, p in model.named_parameters()}
    return {"loss": np.float32(output.loss), "logits": np.array(output.start_logits), **found}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_it_is_off_until_it_is_enabled() -> None:
    model = model_on()
    assert not model.uses_bf16_products
    floats = step(model)

    model.bf16_products_enable()
    assert model.uses_bf16_products
    assert model.bert.uses_bf16_products
    halves = step(model)
    model.bf16_products_disable()

    assert not model.uses_bf16_products
    assert_same(step(model), floats)
    assert all((halves[name] != value).any() for name, value in floats.items() if name.endswith("weight"))


def test_numbers_stay_float32_and_are_near_those_of_float32_products() -> None:
    model = model_on()
    with qdqbert.quantizers(model, {"*": "off"}):
        floats = step(model)
        model.bf16_products_enable()
        halves = step(model)
    names = [name for name in floats if name.endswith("weight")]
    assert all(np.any(halves[name].view(np.uint32) & 0xFFFF) for name in names)  # none has become a bfloat16
    # An operand's rounding is evenly spread over 2^-8 of it, so its error is 2^-8 / sqrt(12), a product's
    # sqrt(2) times that; those of the 2 * 6 products of each of 2 layers, which a gradient comes through, add
    # up as if at random.  Four times that is room for the few elements of a tiny model.
    expected = np.sqrt(24 * 2 / 12) * 2.0**-8
    for name in ("logits", *names):
        distance = np.linalg.norm(halves[name] - floats[name]) / np.linalg.norm(floats[name])
        assert 0 < distance < 4 * expected, name


@pytest.mark.parametrize("is_quantized", [False, True])
def test_bits_depend_neither_on_threads_nor_on_checkpointing(is_quantized: bool) -> None:
    found = []
    for threads, checkpoints in ((1, False), (3, False), (2, True)):
        model = model_on(threads=threads)
        qdqbert.quantizers(model, {"*": "on" if is_quantized else "off"})
        model.bf16_products_enable()
        if checkpoints:
            model.gradient_checkpointing_enable()
        found.append(step(model))
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_an_evaluation_does_not_depend_on_it() -> None:
    model = model_on()
    expected = model.eval()(**tiny_model.batch()).start_logits
    model.bf16_products_enable()
    np.testing.assert_array_equal(model(**tiny_model.batch()).start_logits, expected)
    step(model)  # whose packed weights are others
    np.testing.assert_array_equal(model.eval()(**tiny_model.batch()).start_logits, expected)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, through_pickle])
def test_copies_go_on_with_it(duplicate: Any) -> None:
    model = model_on()
    model.bf16_products_enable()
    copied = duplicate(model)
    assert copied.uses_bf16_products
    assert_same(step(copied), step(model))


def test_it_survives_other_sizes() -> None:
    model = model_on()
    model.bf16_products_enable()
    model.prune_heads({0: [1]})
    model.resize_token_embeddings(60)
    assert model.uses_bf16_products
    halves = step(model)
    model.bf16_products_disable()
    assert (step(model)["logits"] != halves["logits"]).any()


def test_a_device_without_them_says_so_and_what_it_takes() -> None:
    vectors = ("avx2", "avx512", "neon")
    lacking = [name for name, works in qdqbert._core.variants() if works and name in vectors]
    if not lacking:
        pytest.skip("this CPU runs the reference kernels alone")
    for isa in lacking:
        model = model_on(isa)
        said = f"kernels are '{isa}', which have no bf16 products.*AVX512-BF16"
        with pytest.raises(UnsupportedError, match=said):
            model.bf16_products_enable()
        assert not model.uses_bf16_products
        # A model that was read from a pickle may say that it uses them.
        model._engine.bf16_products = True
        with pytest.raises(UnsupportedError, match="have no bf16 products"):
            model.train()(**tiny_model.batch(), **LABELS)
        model.eval()(**tiny_model.batch())

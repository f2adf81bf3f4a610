# SPDX-License-Identifier: Apache-2.0
"""QuantLinear and Clip: sizes, defaults per class, parameters, exactness against separate quantization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import QDQBertConfig, QDQBertModel, nn
from qdqbert.errors import CheckpointError, ShapeError
from qdqbert.nn import QuantLinear
from qdqbert.rules import named_quantizers
from qdqbert.tensor_quant import QuantDescriptor, fake_tensor_quant


@pytest.fixture
def defaults() -> Iterator[None]:
    """Put the class's descriptors back."""
    saved = QuantLinear.default_quant_desc_input, QuantLinear.default_quant_desc_weight
    yield
    QuantLinear.default_quant_desc_input, QuantLinear.default_quant_desc_weight = saved


def dequantized(linear: QuantLinear, x: np.ndarray) -> np.ndarray:
    """The product of the dequantized tensors, in float64."""
    y = (
        linear.input_quantizer(x).astype(np.float64)
        @ linear.weight_quantizer(linear.weight).astype(np.float64).T
    )
    return y if linear.bias is None else y + linear.bias


@pytest.mark.parametrize("rows", [1, 2, 5, 17])
@pytest.mark.parametrize(("columns", "out"), [(1, 1), (15, 3), (16, 16), (17, 31), (64, 37), (1031, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_of_quantized_tensors(rows: int, columns: int, out: int, bias: bool) -> None:
    x = np.random.default_rng(rows * columns).normal(size=(rows, columns)).astype(np.float32)
    linear = QuantLinear(columns, out, bias, seed=1)
    y = linear(x)
    # The integer product is exact; three roundings of the epilogue against those of the dequantized factors:
    # 2 * 2**-24 on each of the K products and the two steps, plus the last sum.
    magnitude = np.abs(linear.input_quantizer(x)).astype(np.float64) @ np.abs(
        linear.weight_quantizer(linear.weight).astype(np.float64)
    ).T + (0 if linear.bias is None else np.abs(linear.bias))
    assert np.all(np.abs(y - dequantized(linear, x)) <= 8 * 2.0**-24 * magnitude)


@pytest.mark.parametrize(
    ("input_fields", "weight_fields"),
    [
        ({"num_bits": 4}, {"num_bits": 3, "axis": (0,)}),
        ({"num_bits": 16}, {"num_bits": 16, "axis": (0,)}),
        ({"axis": (1,)}, {}),
        ({"unsigned": True}, {"axis": (0,)}),
        ({"num_bits": (4, 3)}, {"num_bits": (4, 3), "axis": (0,)}),
        ({}, {"axis": (1,)}),
    ],
)
def test_other_formats_take_the_same_meaning(input_fields: Any, weight_fields: Any) -> None:
    x = np.abs(np.random.default_rng(4).normal(size=(6, 33)).astype(np.float32))
    linear = QuantLinear(
        33,
        10,
        quant_desc_input=QuantDescriptor(**input_fields),
        quant_desc_weight=QuantDescriptor(**weight_fields),
        seed=2,
    )
    # A float chain of K = 33 products: (K + 2) * 2**-24 of the sum of magnitudes.
    magnitude = np.abs(x).sum(1, keepdims=True) * 0.2 + 0.2
    assert np.all(np.abs(linear(x) - dequantized(linear, x)) <= 36 * 2.0**-24 * magnitude)


def test_an_input_of_four_dimensions_is_a_batch_of_rows() -> None:
    x = np.random.default_rng(4).normal(size=(2, 3, 5, 17)).astype(np.float32)
    linear = QuantLinear(17, 11, seed=2)
    y = linear(x)
    assert y.shape == (2, 3, 5, 11)
    np.testing.assert_array_equal(y, linear(x.reshape(-1, 17)).reshape(y.shape))


def test_sixteen_bits_are_close_to_float() -> None:
    x = np.random.default_rng(4).normal(size=(9, 64)).astype(np.float32)
    fine = QuantDescriptor(num_bits=16)
    linear = QuantLinear(64, 32, quant_desc_input=fine, quant_desc_weight=fine, seed=2)
    expected = x.astype(np.float64) @ linear.weight.T.astype(np.float64) + linear.bias
    # Half a step of each factor against the other, K = 64 times: steps 4.5 / 32767 and 0.125 / 32767.
    bound = 64 * 0.5 * (np.abs(x).max() / 32767 * 0.125 + 0.125 / 32767 * np.abs(x).max())
    np.testing.assert_allclose(linear(x), expected, atol=bound, rtol=0)
    assert not np.array_equal(linear(x), expected)


@pytest.mark.parametrize("name", ["quant_desc_input", "quant_desc_weight"])
def test_real_quantization_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Only fake quantization is supported!"):
        QuantLinear(3, 2, **{name: QuantDescriptor(fake_quant=False)})


@pytest.mark.parametrize("name", ["descriptor", "input_only", "quant_desc_output"])
def test_an_unknown_keyword_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Unused keys|{name}"):
        QuantLinear(3, 2, **{name: True})


def test_quantizers_off_is_a_plain_linear_layer() -> None:
    x = np.random.default_rng(4).normal(size=(3, 2, 20)).astype(np.float32)
    linear = QuantLinear(20, 7, seed=3)
    linear.input_quantizer.disable()
    linear.weight_quantizer.disable()
    expected = x.astype(np.float64) @ linear.weight.T.astype(np.float64) + linear.bias
    np.testing.assert_allclose(linear(x), expected, atol=22 * 2.0**-24 * 20)
    assert linear(x).shape == (3, 2, 7)


@pytest.mark.parametrize("shape", [(23, 1), (25,), (1, 1, 24), (24, 23)])
def test_a_range_that_does_not_fit_the_weight_is_refused_when_it_is_set(shape: tuple[int, ...]) -> None:
    model = tiny_model.question_answering()
    name = "bert.encoder.layer.1.attention.self.key._weight_quantizer"
    quantizer = dict(named_quantizers(model))[name]
    with pytest.raises(ShapeError, match=rf"{name}: amax: .*broadcasts to \(24, 24\)"):
        quantizer.amax = np.ones(shape, np.float32)
    with pytest.raises(ShapeError, match=r"broadcasts to \(24, 24\)"):
        qdqbert.quantizers(model, {name: {"amax": np.ones(shape)}})
    assert quantizer.amax is None
    quantizer.amax = np.ones((24, 1), np.float32)
    alone = QuantLinear(5, 3)
    with pytest.raises(ShapeError, match=r"broadcasts to \(3, 5\)"):
        alone.weight_quantizer.amax = np.ones(shape, np.float32)


def test_rows_do_not_depend_on_their_neighbours_with_a_static_range() -> None:
    x = np.random.default_rng(4).normal(size=(19, 48)).astype(np.float32)
    linear = QuantLinear(48, 21, quant_desc_input=QuantDescriptor(amax=2.0), seed=3)
    np.testing.assert_array_equal(linear(x)[5:6], linear(x[5:6]))
    np.testing.assert_array_equal(linear(x.reshape(19, 1, 48))[:, 0], linear(x))


def test_a_changed_weight_is_used_at_once() -> None:
    linear = QuantLinear(8, 4, bias=False, seed=0)
    x = np.ones((1, 8), np.float32)
    before = linear(x)
    linear.weight = linear.weight * np.float32(2)
    np.testing.assert_array_equal(linear(x), before * 2)


# ---- parameters --------------------------------------------------------------------------------------------


def test_start_values_are_drawn_like_torchs() -> None:
    linear = QuantLinear(400, 300, seed=5)
    bound = 1 / 20
    for values in (linear.weight, linear.bias):
        assert np.abs(values).max() <= bound
        # standard deviation of the uniform distribution; 300 samples know it to about 2.6 %, three times over
        np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.08)
    np.testing.assert_array_equal(QuantLinear(400, 300, seed=5).weight, linear.weight)
    assert not np.array_equal(QuantLinear(400, 300).weight, QuantLinear(400, 300).weight)


def test_parameters_are_read_only_and_assignments_are_checked() -> None:
    linear = QuantLinear(3, 2)
    with pytest.raises(ValueError, match="read-only"):
        linear.weight[0, 0] = 1.0
    with pytest.raises(ShapeError, match=r"weight: expected \(2, 3\), got \(3, 2\)"):
        linear.weight = np.zeros((3, 2), np.float32)
    with pytest.raises(ShapeError, match="bias"):
        linear.bias = np.zeros(3, np.float32)
    with pytest.raises(AttributeError, match="bias"):
        QuantLinear(3, 2, bias=False).bias = np.zeros(2, np.float32)


def test_state_dict_has_the_originals_keys_and_loads_strictly() -> None:
    linear = QuantLinear(3, 2, quant_desc_weight=QuantDescriptor(axis=(0,), amax=[[1.0], [2.0]]), seed=1)
    assert list(linear.state_dict()) == ["weight", "bias", "_weight_quantizer._amax"]
    other = QuantLinear(3, 2, seed=2)
    other.load_state_dict(linear.state_dict())
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(other(x), linear(x))
    with pytest.raises(CheckpointError, match=r"Missing.*bias"):
        other.load_state_dict({"weight": linear.weight})
    with pytest.raises(CheckpointError, match=r"Unexpected.*foo"):
        other.load_state_dict({**linear.state_dict(), "foo": np.zeros(1)})


# ---- descriptors -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("defaults")
def test_defaults_are_copied_belong_to_one_class_and_serve_new_objects_only() -> None:
    class Other(QuantLinear):
        pass

    before = QuantLinear(3, 2)
    descriptor = QuantDescriptor(num_bits=11)
    Other.set_default_quant_desc_input(QuantDescriptor(num_bits=5))
    QuantLinear.set_default_quant_desc_input(descriptor)
    QuantLinear.set_default_quant_desc_weight(QuantDescriptor(num_bits=13, axis=1))

    linear = QuantLinear(3, 2)
    assert QuantLinear.default_quant_desc_input is not descriptor
    assert (linear.input_quantizer.num_bits, linear.weight_quantizer.num_bits) == (11, 13)
    assert linear.weight_quantizer.axis == 1
    assert before.input_quantizer.num_bits == 8
    assert Other(3, 2).input_quantizer.num_bits == 5
    assert Other(3, 2).weight_quantizer.num_bits == 13


@pytest.mark.usefixtures("defaults")
def test_a_model_refuses_real_quantization_as_its_layers_do() -> None:
    QuantLinear.set_default_quant_desc_input(QuantDescriptor(fake_quant=False))
    config = QDQBertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(ValueError, match="Only fake quantization is supported!"):
        QDQBertModel(config)


@pytest.mark.parametrize("name", ["quant_desc_input", "quant_desc_weight"])
def test_a_descriptor_of_another_type_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not an instance of QuantDescriptor"):
        QuantLinear(3, 2, **{name: 8})


def test_a_wrong_input_is_named() -> None:
    linear = QuantLinear(3, 2)
    with pytest.raises(ShapeError, match=r"input: expected \(\.\.\., 3\), got \(2, 4\)"):
        linear(np.ones((2, 4), np.float32))
    with pytest.raises(ShapeError, match="input"):
        linear(np.float32(1))
    with pytest.raises(TypeError, match="input"):
        linear(np.ones((2, 3), np.int64))


def test_linear_is_quant_linear() -> None:
    assert nn.Linear is QuantLinear


# ---- clip --------------------------------------------------------------------------------------------------


def test_clip_equals_numpy_with_broadcasting() -> None:
    x = np.random.default_rng(0).normal(size=(5, 17)).astype(np.float32)
    low, high = np.float32([[-1], [-0.5], [0], [-2], [-0.1]]), np.linspace(0, 2, 17, dtype=np.float32)
    np.testing.assert_array_equal(nn.functional.clip(x, low, high), np.maximum(np.minimum(x, high), low))
    np.testing.assert_array_equal(nn.Clip(low, high)(x), np.maximum(np.minimum(x, high), low))


def test_clip_gradients_are_sums_outside_and_pass_inside() -> None:
    x = np.random.default_rng(0).normal(size=1013).astype(np.float32)
    dy = np.random.default_rng(1).normal(size=1013).astype(np.float32)
    dx, dlow, dhigh = nn.functional.clip_grad(x, -0.5, 0.75, dy)
    np.testing.assert_array_equal(dx, np.where((x > -0.5) & (x < 0.75), dy, 0))
    # sums of about 300 numbers below 4, in float32: 300 * 4 * 300 * 2**-24 at worst
    np.testing.assert_allclose(dlow, dy[x <= -0.5].astype(np.float64).sum(), atol=0.03)
    np.testing.assert_allclose(dhigh, dy[x >= 0.75].astype(np.float64).sum(), atol=0.03)


def test_only_learned_bounds_are_parameters() -> None:
    assert list(nn.Clip(-1.0, 1.0, learn_max=True).state_dict()) == ["clip_value_max"]
    clip = nn.Clip(-1.0, 1.0, learn_min=True, learn_max=True)
    clip.load_state_dict({"clip_value_min": np.float32(-3), "clip_value_max": np.float32(2)})
    np.testing.assert_array_equal(clip(np.float32([-9, 9])), np.float32([-3, 2]))


def test_quantized_values_come_from_the_public_functions() -> None:
    x = np.random.default_rng(8).normal(size=(4, 6)).astype(np.float32)
    linear = QuantLinear(6, 3, seed=0)
    np.testing.assert_array_equal(
        linear.input_quantizer(x), fake_tensor_quant(x, np.abs(x).max(), narrow_range=False)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_features": 3.5}, TypeError, "in_features: expected an integer, got float"),
        ({"out_features": True}, TypeError, "out_features: expected an integer, got bool"),
        ({"in_features": 0}, ValueError, "in_features: expected at least 1, got 0"),
        ({"in_features": -3}, ValueError, "in_features: expected at least 1, got -3"),
        ({"out_features": 0}, ValueError, "out_features: expected at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer, got float"),
    ],
)
def test_a_size_or_seed_that_cannot_be_is_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        QuantLinear(**{"in_features": 3, "out_features": 2, **arguments})

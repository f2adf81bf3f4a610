# SPDX-License-Identifier: Apache-2.0
"""Every activation name of the original, from the configuration to the feed-forward layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert import QDQBertModel, UnsupportedError
from qdqbert.modeling_tree import _ACTIVATION_CLASSES

Array = np.ndarray[Any, np.dtype[np.float64]]

UNIT = 2.0**-24  # rounding error of a float32 operation, relative
_erf = np.vectorize(math.erf)


def _gelu(x: Array) -> Array:
    return x * 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


# As the original writes them.
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_10": lambda x: np.clip(_gelu(x), -10.0, 10.0),
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": lambda x: 0.5 * x * (1.0 + np.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "laplace": lambda x: 0.5 * (1.0 + _erf((x - 0.707107) / (0.282095 * math.sqrt(2.0)))),
    "leaky_relu": lambda x: np.where(x < 0.0, 0.01 * x, x),
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(np.logaddexp(0.0, x)),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0.0),
    "relu2": lambda x: np.maximum(x, 0.0) ** 2,
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
}
SAME_FUNCTION = (
    {"gelu", "gelu_python"},
    {"gelu_accurate", "gelu_fast", "gelu_new", "gelu_pytorch_tanh"},
    {"silu", "swish"},
)
REPRS = {
    "gelu": "GELUActivation()",
    "gelu_10": "ClippedGELUActivation()",
    "gelu_accurate": "AccurateGELUActivation()",
    "gelu_fast": "FastGELUActivation()",
    "gelu_new": "NewGELUActivation()",
    "gelu_python": "GELUActivation()",
    "gelu_pytorch_tanh": "PytorchGELUTanh()",
    "laplace": "LaplaceActivation()",
    "leaky_relu": "LeakyReLU(negative_slope=0.01)",
    "linear": "LinearActivation()",
    "mish": "MishActivation()",
    "quick_gelu": "QuickGELUActivation()",
    "relu": "ReLU()",
    "relu2": "ReLUSquaredActivation()",
    "relu6": "ReLU6()",
    "sigmoid": "Sigmoid()",
    "silu": "SiLU()",
    "swish": "SiLU()",
    "tanh": "Tanh()",
}


def feed_forward_model(name: str, scale: float) -> Any:
    """One layer without quantizers; attention adds nothing, and the activation sees +-3 `scale` or so."""
    model = QDQBertModel(
        tiny_model.config(hidden_act=name, num_hidden_layers=1), add_pooling_layer=False, seed=5
    )
    qdqbert.quantizers(model, {"*": "off"})
    rng = np.random.default_rng(7)
    state = model.state_dict()
    layer = "encoder.layer.0"
    for part in ("weight", "bias"):
        state[f"{layer}.attention.output.dense.{part}"] = np.zeros_like(
            state[f"{layer}.attention.output.dense.{part}"]
        )
    state[f"{layer}.intermediate.dense.weight"] = state[f"{layer}.intermediate.dense.weight"] * np.float32(
        scale
    )
    for key in (
        "attention.output.LayerNorm.bias",
        "intermediate.dense.bias",
        "output.dense.bias",
        "output.LayerNorm.bias",
    ):
        state[f"{layer}.{key}"] = rng.uniform(-1.0, 1.0, state[f"{layer}.{key}"].shape).astype(np.float32)
    model.load_state_dict(state)
    return model


# Each of these takes a value and a bound of its error, and returns the same of what it computes: errors
# that come in pass through the derivative, and every float32 operation adds UNIT of its result.  All to first
# order in UNIT.


def linear(x: Array, error: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    """A product; k roundings in a chain move a sum by k UNIT of its terms' magnitudes at most."""
    y = x @ weight.T + bias
    magnitude = np.abs(x) @ np.abs(weight).T + np.abs(bias)
    return y, error @ np.abs(weight).T + (x.shape[-1] + 1) * UNIT * magnitude


def layer_norm(x: Array, error: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    """Normalization: dy = w r (dx - mean(dx) - n mean(n dx)), n the normalized row and r 1 / its deviation.

    Own roundings: of the mean, of every difference, then of the variance (halved by the root), root, quotient
    and product, and of the last fma.  Sums have 16 lanes and a tree of 4 additions (csrc/README.md).
    """
    additions = math.ceil(x.shape[-1] / 16) + 4
    difference = x - x.mean(-1, keepdims=True)
    r = 1.0 / np.sqrt((difference**2).mean(-1, keepdims=True))
    n = difference * r
    error = error + (additions + 1) * UNIT * np.abs(x).mean(-1, keepdims=True) + UNIT * np.abs(difference)
    passed = error + error.mean(-1, keepdims=True) + np.abs(n) * (np.abs(n) * error).mean(-1, keepdims=True)
    y = n * weight + bias
    own = ((additions + 2) / 2 + 4) * UNIT * np.abs(n * weight) + UNIT * np.abs(y)
    return y, np.abs(weight) * r * passed + own


def activated(name: str, x: Array, error: Array) -> tuple[Array, Array]:
    """The function, 7 ulp off at most; the largest slope but that of relu2 is the one of laplace, sqrt(2)."""
    slope = 2.0 * (np.abs(x) + error) if name == "relu2" else math.sqrt(2.0)
    y = FUNCTIONS[name](x)
    return y, slope * error + 7 * 2 * UNIT * np.abs(y)


def feed_forward(name: str, x: Array, state: dict[str, Array]) -> tuple[Array, Array]:
    """What the layer makes of the embeddings x, in float64, and how far float32 may be off."""

    def parts(path: str) -> tuple[Array, Array]:
        return state[f"encoder.layer.0.{path}.weight"], state[f"encoder.layer.0.{path}.bias"]

    y, y_error = layer_norm(x, np.zeros_like(x), *parts("attention.output.LayerNorm"))
    inner, inner_error = activated(name, *linear(y, y_error, *parts("intermediate.dense")))
    z, z_error = linear(inner, inner_error, *parts("output.dense"))
    total = z + y
    return layer_norm(total, z_error + y_error + UNIT * np.abs(total), *parts("output.LayerNorm"))


def functions_that_agree(name: str, scale: float) -> set[str]:
    """The names whose functions are within the bound of what the model of `name` computes."""
    model = feed_forward_model(name, scale)
    state = {key: value.astype(np.float64) for key, value in model.state_dict().items()}
    ids = np.random.default_rng(11).integers(3, tiny_model.FIELDS["vocab_size"], (5, 31))
    embeddings, found = model(ids, output_hidden_states=True).hidden_states
    agreeing = set()
    for other in FUNCTIONS:
        expected, bound = feed_forward(other, embeddings.astype(np.float64), state)
        if (np.abs(found - expected) <= bound).all():
            agreeing.add(other)
    return agreeing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_computes_its_function_and_no_other(name: str) -> None:
    # Near 0 the forms of GELU differ by more than rounding; beyond 10 what clips differs from what does not.
    agreeing = functions_that_agree(name, 1.0) & functions_that_agree(name, 6.0)

    expected = next((names for names in SAME_FUNCTION if name in names), {name})
    assert agreeing == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_tree_shows_the_original_module(name: str) -> None:
    model = QDQBertModel(tiny_model.config(hidden_act=name))
    assert repr(model.encoder.layer[0].intermediate.intermediate_act_fn) == REPRS[name]
    assert f"(intermediate_act_fn): {REPRS[name]}\n" in repr(model)


def test_core_and_tree_know_the_same_names() -> None:
    with pytest.raises(ValueError, match='hidden_act is "gelu_11", expected one of ') as caught:
        QDQBertModel(tiny_model.config(hidden_act="gelu_11"))
    names = str(caught.value).split("expected one of ")[1].split(", ")
    assert names == sorted(FUNCTIONS)
    assert list(_ACTIVATION_CLASSES) == names


@pytest.mark.parametrize("function", [np.tanh, abs, lambda x: x])
def test_a_callable_is_refused_with_the_reason(function: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedError, match="hidden_act: a callable cannot run inside the C core"):
        QDQBertModel(tiny_model.config(hidden_act=function))

# SPDX-License-Identifier: Apache-2.0
"""Functions, quantizers as functions, and QuantLinear against the recorded original: values and gradients.

Tolerance is equality (NaN equal to NaN, -0.0 to 0.0) except where the manifest names another one.  Cases
where this package decides differently are listed in `DECISIONS` with the section of REFERENCE that says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_codec import decode, load

from qdqbert import nn, tensor_quant
from qdqbert.nn import QuantLinear, TensorQuantizer, functional
from qdqbert.tensor_quant import QuantDescriptor
from shared_data import shared_folder

FOLDER = shared_folder() / "golden" / "functions"

DECISIONS = {
    # numpy has no bfloat16; the recorded y comes from arithmetic that rounds every product to 8 bits
    "tensor_quant/x_bfloat16": "bfloat16",
    "fake_tensor_quant/x_bfloat16": "bfloat16",
    "legacy_fake_tensor_quant/x_bfloat16": "bfloat16",
    "TensorQuantizer/dynamic_negative_axis_is_ignored": "10.2: negative axes are honoured",
    "TensorQuantizer/pre_quant_scale_vector_disabled": "8 #18: a disabled quantizer is the identity",
}


def manifest() -> Any:
    return load(FOLDER, "manifest.json") if FOLDER.exists() else {"cases": []}


CASES = {case["id"]: case for case in manifest()["cases"]}
ERRORS = {case["id"]: case for case in (load(FOLDER, "errors.json") if FOLDER.exists() else [])}


def of(function: str) -> list[str]:
    return [name for name, case in CASES.items() if case["function"] == function]


@pytest.fixture(scope="module")
def arrays() -> Any:
    with np.load(FOLDER / "functions.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def case(request: pytest.FixtureRequest, arrays: Any) -> dict[str, Any]:
    """A case with its keys replaced by arrays."""
    found = dict(CASES[request.param])
    for side in ("inputs", "outputs"):
        found[side] = {name: arrays[key] for name, key in found[side].items()}
    return found


COMPARED: list[str] = []  # functions whose cases a test below compares


def each_of(*functions: str) -> Any:
    COMPARED.extend(functions)
    names = [name for function in functions for name in of(function)]
    return pytest.mark.parametrize("case", names, indirect=True, ids=names)


def equal(mine: Any, recorded: np.ndarray) -> bool:
    mine = np.asarray(mine)
    return (
        mine.dtype == recorded.dtype
        and mine.shape == recorded.shape
        and np.array_equal(mine, recorded, equal_nan=True)
    )


@pytest.mark.skipif(not CASES, reason=f"missing data: {FOLDER} (set QDQBERT_SHARED to the shared folder)")
def test_the_manifest_is_complete() -> None:
    assert len(CASES) == 336
    assert len(ERRORS) == 36
    assert set(DECISIONS) <= set(CASES)
    assert set(ERROR_DECISIONS) <= set(ERRORS)


@pytest.mark.skipif(not CASES, reason=f"missing data: {FOLDER} (set QDQBERT_SHARED to the shared folder)")
def test_every_case_is_compared() -> None:
    compared = [name for function in COMPARED for name in of(function)]
    assert sorted(compared) == sorted(CASES)


# ---- integer quantization ----------------------------------------------------------------------------------


@each_of("tensor_quant", "fake_tensor_quant", "legacy_fake_tensor_quant")
def test_integer_quantization(case: dict[str, Any]) -> None:
    x, amax = case["inputs"]["x"], case["inputs"]["amax"]
    function = getattr(tensor_quant, case["function"])
    result = function(x, amax, **({} if case["defaults_used"] else case["params"]))
    y, scale = result if case["function"] == "tensor_quant" else (result, None)
    recorded = case["outputs"]

    if DECISIONS.get(case["id"]) == "bfloat16":
        # One float32 rounding instead of one to 8 bits (relative 2**-8) before rint: at most 127 * 2**-8 <
        # 0.5 codes away, so the code may be the neighbour's; the quotient and the scale are rounded to 8 bits
        # as well.
        step = 1.0 if scale is not None else 1.0 / tensor_quant.tensor_quant(x, amax, **case["params"])[1]
        assert np.all(np.abs(y - recorded["y"]) <= step + np.abs(recorded["y"]) * 2.0**-7)
    else:
        assert equal(y, recorded["y"])
        if scale is not None:
            assert equal(scale, recorded["scale"])
    if "grad_x" in recorded:
        gradient = getattr(tensor_quant, case["function"] + "_grad")
        assert equal(gradient(x, amax, case["inputs"]["grad_y"]), recorded["grad_x"])


# ---- the other functions -----------------------------------------------------------------------------------


@each_of("scaled_e4m3")
def test_scaled_e4m3(case: dict[str, Any]) -> None:
    x, amax = case["inputs"]["x"], case["inputs"].get("amax")
    assert equal(tensor_quant.scaled_e4m3(x, amax, **case["params"]), case["outputs"]["y"])
    dx = tensor_quant.scaled_e4m3_grad(x, amax, case["inputs"]["grad_y"])
    assert equal(dx, case["outputs"]["grad_x"])


@each_of("fake_affine_tensor_quant")
def test_fake_affine_tensor_quant(case: dict[str, Any]) -> None:
    x, low, high, dy = (case["inputs"][key] for key in ("x", "min_range", "max_range", "grad_y"))
    assert equal(tensor_quant.fake_affine_tensor_quant(x, low, high, **case["params"]), case["outputs"]["y"])
    assert equal(tensor_quant.fake_affine_tensor_quant_grad(x, low, high, dy), case["outputs"]["grad_x"])


@each_of("clip")
def test_clip(case: dict[str, Any]) -> None:
    x, low, high = (case["inputs"][key] for key in ("x", "clip_value_min", "clip_value_max"))
    recorded = case["outputs"]
    assert equal(functional.clip(x, low, high), recorded["y"])
    if "grad_x" in recorded:
        dx, dlow, dhigh = functional.clip_grad(x, low, high, case["inputs"]["grad_y"])
        assert equal(dx, recorded["grad_x"])
        for mine, name in ((dlow, "grad_min"), (dhigh, "grad_max")):
            if name in recorded:
                np.testing.assert_allclose(mine, recorded[name], rtol=1e-5)


@each_of("reduce_amax")
def test_reduce_amax(case: dict[str, Any]) -> None:
    y = tensor_quant.reduce_amax(case["inputs"]["x"], **decode(case["params"]))
    assert equal(y, case["outputs"]["y"])


# ---- quantizers --------------------------------------------------------------------------------------------


def descriptor(fields: dict[str, Any]) -> QuantDescriptor:
    fields = decode(fields)
    if isinstance(fields.get("axis"), list):
        fields["axis"] = tuple(fields["axis"])
    return QuantDescriptor(**fields)


def range_of(quantizer: TensorQuantizer, x: np.ndarray) -> np.ndarray:
    """Range that an enabled quantizer uses for x."""
    amax = quantizer.amax
    if amax is None:
        axis = quantizer.axis
        kept = () if axis is None else (axis,) if isinstance(axis, int) else axis
        reduced = [each for each in range(x.ndim) if each not in [k % x.ndim for k in kept]]
        amax = tensor_quant.reduce_amax(x, reduced)
    return amax


def gradients(
    quantizer: TensorQuantizer, x: np.ndarray, dy: np.ndarray, methods: list[str], scale_amax: float | None
) -> dict[str, Any]:
    """Gradients of a quantizer, put together from the gradients of its parts."""
    pre = quantizer.pre_quant_scale
    if "disable" in methods:
        return {"grad_x": dy}
    x = x if pre is None else x * pre
    if hasattr(quantizer, "clip"):
        low, high = quantizer.clip.clip_value_min, quantizer.clip.clip_value_max
        # The range of the clipped tensor is the larger bound: it passes everything.
        dx, dlow, dhigh = functional.clip_grad(x, low, high, dy)
        return {"grad_x": dx, "grad_clip_value_min": dlow, "grad_clip_value_max": dhigh}
    if "disable_quant" in methods:
        return {"grad_x": dy}
    amax = range_of(quantizer, x)
    if scale_amax is not None:
        amax = amax * np.float32(scale_amax)
    dx = tensor_quant.tensor_quant_grad(x, amax, dy)
    return {"grad_x": dx if pre is None else dx * pre}


@each_of("TensorQuantizer")
def test_tensor_quantizer(case: dict[str, Any]) -> None:
    params, x, recorded = case["params"], case["inputs"]["x"], case["outputs"]
    quantizer = TensorQuantizer(descriptor(params["descriptor"]))
    for method in params["methods_called_before"]:
        getattr(quantizer, method)()
    if params["pre_quant_scale"] is not None:
        quantizer.pre_quant_scale = params["pre_quant_scale"]

    y = quantizer(x)

    if case["id"] == "TensorQuantizer/dynamic_negative_axis_is_ignored":
        assert equal(
            y, tensor_quant.fake_tensor_quant(x, np.abs(x).max(0, keepdims=True), narrow_range=False)
        )
        return
    if case["id"] == "TensorQuantizer/pre_quant_scale_vector_disabled":
        assert equal(y, x)
        return
    assert equal(y, recorded["y"])
    if "scale" in recorded:
        assert equal(quantizer.scale, recorded["scale"])
    scale_amax = params["descriptor"].get("scale_amax")
    mine = gradients(quantizer, x, case["inputs"]["grad_y"], params["methods_called_before"], scale_amax)
    assert equal(mine.pop("grad_x"), recorded["grad_x"])
    for name, value in mine.items():
        np.testing.assert_allclose(value, recorded[name], rtol=1e-5)


@each_of("QuantLinear")
def test_quant_linear(case: dict[str, Any]) -> None:
    params, inputs, recorded = case["params"], case["inputs"], case["outputs"]
    linear = QuantLinear(
        params["in_features"],
        params["out_features"],
        params["bias"],
        quant_desc_input=descriptor(params["quant_desc_input"]),
        quant_desc_weight=descriptor(params["quant_desc_weight"]),
    )
    linear.weight = inputs["weight"]
    if params["bias"]:
        linear.bias = inputs["bias"]
    x, dy = inputs["x"], inputs["grad_y"]

    quant_input = linear.input_quantizer(x)
    quant_weight = linear.weight_quantizer(linear.weight)

    assert equal(quant_input, recorded["quant_input"])
    assert equal(quant_weight, recorded["quant_weight"])
    tolerance = {"atol": 2e-6, "rtol": 1e-5}
    np.testing.assert_allclose(linear(x), recorded["y"], **tolerance)
    rows, features = dy.reshape(-1, dy.shape[-1]), quant_input.reshape(-1, quant_input.shape[-1])
    dx = tensor_quant.tensor_quant_grad(x, range_of(linear.input_quantizer, x), dy @ quant_weight)
    weight = inputs["weight"]
    dweight = tensor_quant.tensor_quant_grad(
        weight, range_of(linear.weight_quantizer, weight), rows.T @ features
    )
    np.testing.assert_allclose(dx, recorded["grad_x"], **tolerance)
    np.testing.assert_allclose(dweight, recorded["grad_weight"], **tolerance)
    if params["bias"]:
        np.testing.assert_allclose(rows.sum(0), recorded["grad_bias"], **tolerance)


# ---- errors ------------------------------------------------------------------------------------------------

# Messages are compared where the toolkit wrote them; exceptions that came from torch or Python by accident
# are replaced by this package's own classes, named here.
ERROR_DECISIONS: dict[str, tuple[type[Exception] | None, str]] = {
    **{
        f"{name}/{what}": decision
        for name in ("tensor_quant", "fake_tensor_quant", "legacy_fake_tensor_quant")
        for what, decision in (
            ("shape_mismatch", (ValueError, "amax")),  # ShapeError instead of torch's RuntimeError
            ("amax_python_float", (None, "")),  # a Python number is a range too
            ("num_bits_tuple", (TypeError, "num_bits")),
        )
    },
    "clip/backward_vector_bounds_learned": (
        ValueError,
        "Learnable min/max can only be scalar, got size (2, 1)",
    ),
    "clip/backward_vector_bounds_not_learned": (ValueError, "Learnable min/max can only be scalar"),
    "Clip/learn_torch_scalar": (None, ""),  # a 0-dim array is a scalar
    "Clip/learn_int": (None, ""),  # so is an int
    "Clip/float_bounds_not_learned_forward": (None, ""),  # bounds are kept as tensors
    # the original forgets to fill in the placeholder
    "QuantLinear/set_default_wrong_type": (ValueError, "'x' is not an instance of QuantDescriptor!"),
    # ours asks whether there are quantizers already, instead of asking the call stack
    "QuantLinear/init_quantizer_outside_init": (
        TypeError,
        "should be only called by __init__ of quantized module.",
    ),
}


def error_call(case: dict[str, Any]) -> Any:
    name, function = case["id"], case["function"]
    if function in ("tensor_quant", "fake_tensor_quant", "legacy_fake_tensor_quant"):
        dtype = case.get("dtype", "float32")
        x = np.array(case["x"], dtype)
        amax = np.array(case["amax"], dtype) if "amax" in case else case["amax_python_float"]
        if name.endswith("num_bits_tuple"):
            return getattr(tensor_quant, function)(x, amax, num_bits=(4, 3))
        options = {key: case[key] for key in ("num_bits", "unsigned") if key in case}
        return getattr(tensor_quant, function)(x, amax, **options)
    one = np.float32(1)
    vector = np.array([[-1.0], [-2.0]], np.float32)
    calls = {
        "scaled_e4m3/E5M2": lambda: tensor_quant.scaled_e4m3([1.0], None, E=5, M=2),
        "clip/backward_vector_bounds_learned": lambda: functional.clip_grad(
            np.ones((2, 3)), vector, one, np.ones((2, 3))
        ),
        "clip/backward_vector_bounds_not_learned": lambda: functional.clip_grad(
            np.ones((2, 3)), vector, one, np.ones((2, 3))
        ),
        "Clip/learn_vector": lambda: nn.Clip(np.array([-1.0, -2.0]), 1.0, learn_min=True),
        "Clip/learn_vector_max": lambda: nn.Clip(-1.0, np.array([1.0, 2.0]), learn_max=True),
        "Clip/learn_torch_scalar": lambda: nn.Clip(np.array(-1.0), 1.0, learn_min=True),
        "Clip/learn_int": lambda: nn.Clip(-1, 1, learn_min=True),
        "Clip/float_bounds_not_learned_forward": lambda: nn.Clip(-1.0, 1.0)(np.ones(2)),
        "reduce_amax/too_many_axes": lambda: tensor_quant.reduce_amax(np.ones((2, 3)), axis=(0, 1, 2)),
        "reduce_amax/axis_out_of_range": lambda: tensor_quant.reduce_amax(np.ones((2, 3)), axis=3),
        "QuantLinear/non_fake_input": lambda: QuantLinear(
            3, 4, quant_desc_input=QuantDescriptor(fake_quant=False)
        ),
        "QuantLinear/non_fake_weight": lambda: QuantLinear(
            3, 4, quant_desc_weight=QuantDescriptor(fake_quant=False)
        ),
        "QuantLinear/unused_kwarg": lambda: QuantLinear(3, 4, descriptor=1),
        "QuantLinear/set_default_wrong_type": lambda: QuantLinear.set_default_quant_desc_input("x"),  # type: ignore[arg-type]
        "QuantLinear/init_quantizer_outside_init": lambda: QuantLinear(3, 4).init_quantizer(
            QuantDescriptor(), QuantDescriptor()
        ),
    }
    return calls[name]()


@pytest.mark.parametrize("name", ERRORS)
def test_error(name: str) -> None:
    case = ERRORS[name]
    expected, text = ERROR_DECISIONS.get(name, (None, ""))
    if name not in ERROR_DECISIONS and case["exception"] is not None:
        expected = {"TypeError": TypeError, "ValueError": ValueError, "IndexError": IndexError}.get(
            case["exception"], NotImplementedError
        )
        text = case["message"] if case["raised_by"] == "toolkit" else ""
    if expected is None:
        error_call(case)
        return
    with pytest.raises(expected) as caught:
        error_call(case)
    assert text in str(caught.value)

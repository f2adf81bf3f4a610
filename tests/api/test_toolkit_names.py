# SPDX-License-Identifier: Apache-2.0
"""Every public name of pytorch-quantization is found at its path below ``qdqbert``, or says why it is not."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import qdqbert
from qdqbert import nn, tensor_quant
from qdqbert.errors import OutOfScopeError, UnsupportedError
from qdqbert.nn import functional
from qdqbert.nn.out_of_scope import OUT_OF_SCOPE

# path in the original -> names there
NAMES = {
    "tensor_quant": [
        "ScaledQuantDescriptor",
        "QuantDescriptor",
        "QUANT_DESC_8BIT_PER_TENSOR",
        "QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR",
        "QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL",
        "QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL",
        "QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL",
        "QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW",
        "QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL",
        "QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL",
        "QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL",
        "TensorQuantFunction",
        "FakeTensorQuantFunction",
        "LegacyFakeTensorQuantFunction",
        "FakeAffineTensorQuantFunction",
        "ScaledE4M3Function",
        "tensor_quant",
        "fake_tensor_quant",
        "legacy_fake_tensor_quant",
        "fake_affine_tensor_quant",
        "scaled_e4m3",
    ],
    "nn": ["TensorQuantizer", "QuantLinear", "Linear", "Clip", "modules", "functional"],
    "nn.functional": ["clip", "ClipFunction"],
    "nn.modules": ["tensor_quantizer", "quant_linear", "clip"],
    "nn.modules.tensor_quantizer": ["TensorQuantizer"],
    "nn.modules.quant_linear": ["QuantLinear", "Linear"],
    "nn.modules.clip": ["Clip"],
    "nn.modules._utils": ["QuantMixin", "QuantInputMixin", "pop_quant_desc_in_kwargs"],
    "calib": ["MaxCalibrator", "HistogramCalibrator", "calibrate_weights"],
    "calib.max": ["MaxCalibrator"],
    "calib.histogram": ["HistogramCalibrator", "calibrate_weights"],
    "calib.calibrator": ["_Calibrator"],
    "quant_modules": ["initialize", "deactivate", "enable_onnx_export", "QuantModuleReplacementHelper"],
    "utils": ["reduce_amax", "quant_logging"],
    "utils.quant_logging": ["reset_logger_handler"],
    "optim": ["helper"],
    "optim.helper": [
        "match_parameters",
        "group_parameters",
        "freeze_parameters",
        "quant_weight_inplace",
    ],
    "cuda_ext": ["fake_tensor_quant_", "fake_tensor_quant", "fake_tensor_quant_with_axis", "fake_e4m3fy"],
}

# path in the original -> names there that BERT has no use for
REFUSED = {
    "nn.modules.quant_conv": [
        *(f"{prefix}Conv{d}d" for prefix in ("", "Quant") for d in (1, 2, 3)),
        *(f"{prefix}ConvTranspose{d}d" for prefix in ("", "Quant") for d in (1, 2, 3)),
    ],
    "nn.modules.quant_pooling": [
        f"{prefix}{kind}Pool{d}d"
        for prefix in ("", "Quant")
        for kind in ("Max", "Avg", "AdaptiveAvg")
        for d in (1, 2, 3)
    ],
    "nn.modules.quant_instancenorm": [f"QuantInstanceNorm{d}d" for d in (1, 2, 3)],
    "nn.modules.quant_rnn": ["QuantLSTM", "QuantLSTMCell", "LSTM", "LSTMCell"],
    "nn.modules.quant_bert": ["QuantBertSelfAttention"],
}
EVERY_REFUSED = [(path, name) for path, names in REFUSED.items() for name in names]


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in NAMES.items() for name in names])
def test_a_name_is_found_at_its_path(path: str, name: str) -> None:
    assert hasattr(importlib.import_module(f"qdqbert.{path}"), name)


@pytest.mark.parametrize(
    "name",
    [
        "initialize",
        "deactivate",
        "enable_onnx_export",
        "calib",
        "cuda_ext",
        "nn",
        "optim",
        "quant_modules",
        "tensor_quant",
        "utils",
    ],
)
def test_a_name_of_the_package_itself_is_found_there(name: str) -> None:
    assert hasattr(qdqbert, name)
    assert name in dir(qdqbert)
    assert name in qdqbert.__all__


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("nn.modules.tensor_quantizer", "TensorQuantizer"),
        ("nn.modules.quant_linear", "QuantLinear"),
        ("nn.modules.clip", "Clip"),
    ],
)
def test_both_paths_lead_to_one_class(path: str, name: str) -> None:
    assert getattr(importlib.import_module(f"qdqbert.{path}"), name) is getattr(nn, name)


# ---- out of scope ------------------------------------------------------------------------------------------


def test_the_table_of_what_is_out_of_scope_is_complete() -> None:
    assert sorted(OUT_OF_SCOPE) == sorted(name for _, name in EVERY_REFUSED)
    assert len(OUT_OF_SCOPE) == 38


@pytest.mark.parametrize(("path", "name"), EVERY_REFUSED)
def test_a_name_out_of_scope_says_so_at_every_path(path: str, name: str) -> None:
    for module in (nn, importlib.import_module(f"qdqbert.{path}")):
        with pytest.raises(OutOfScopeError, match=r"out of scope|replaced by QDQBERT") as caught:
            getattr(module, name)
        assert str(caught.value).startswith(f"{module.__name__}.{name} is ")
        assert isinstance(caught.value, UnsupportedError | NotImplementedError)


@pytest.mark.parametrize(("path", "name"), EVERY_REFUSED)
def test_importing_a_name_out_of_scope_shows_the_same_sentence(path: str, name: str) -> None:
    for module in ("nn", path):
        with pytest.raises(ImportError, match=rf"qdqbert\.{module}\.{name} is"):
            exec(f"from qdqbert.{module} import {name}")


def test_an_import_error_can_be_caught_as_one() -> None:
    try:
        from qdqbert.nn import QuantConv2d  # type: ignore[attr-defined]
    except ImportError:
        QuantConv2d = None
    assert QuantConv2d is None


def test_probing_for_a_name_out_of_scope_raises_too() -> None:
    with pytest.raises(OutOfScopeError):
        hasattr(nn, "QuantConv2d")


@pytest.mark.parametrize("module", [nn, importlib.import_module("qdqbert.nn.modules.quant_conv")])
def test_names_that_never_were_are_ordinary_attribute_errors(module: Any) -> None:
    assert not hasattr(module, "QuantConv4d")
    with pytest.raises(AttributeError, match="has no attribute 'QuantLinaer'"):
        module.QuantLinaer  # noqa: B018


def test_nothing_that_is_listed_is_refused() -> None:
    namespace: dict[str, Any] = {}
    exec("from qdqbert.nn import *", namespace)
    assert set(nn.__all__) <= set(namespace)
    assert not set(OUT_OF_SCOPE) & set(dir(nn))
    assert inspect.getmembers(nn)


# ---- autograd functions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "apply", "grad"),
    [
        ("TensorQuantFunction", tensor_quant.tensor_quant, tensor_quant.tensor_quant_grad),
        ("FakeTensorQuantFunction", tensor_quant.fake_tensor_quant, tensor_quant.fake_tensor_quant_grad),
        (
            "LegacyFakeTensorQuantFunction",
            tensor_quant.legacy_fake_tensor_quant,
            tensor_quant.legacy_fake_tensor_quant_grad,
        ),
        (
            "FakeAffineTensorQuantFunction",
            tensor_quant.fake_affine_tensor_quant,
            tensor_quant.fake_affine_tensor_quant_grad,
        ),
        ("ScaledE4M3Function", tensor_quant.scaled_e4m3, tensor_quant.scaled_e4m3_grad),
    ],
)
def test_apply_of_a_function_class_is_the_function(function: str, apply: Any, grad: Any) -> None:
    cls = getattr(tensor_quant, function)
    assert cls.apply is apply
    assert cls.grad is grad


def test_apply_takes_its_arguments_by_position_as_autograd_does() -> None:
    x = np.float32([-2.0, 0.3, 1.0])
    y = tensor_quant.FakeTensorQuantFunction.apply(x, np.float32(1.0), 4, False, False)
    assert y.tolist() == [np.float32(-8) / np.float32(7), np.float32(2) / np.float32(7), 1.0]
    assert functional.ClipFunction.apply(x, -1.0, 0.5).tolist() == [-1.0, np.float32(0.3), 0.5]
    assert functional.ClipFunction.grad is functional.clip_grad


# ---- start-up ----------------------------------------------------------------------------------------------


# A process that has what others wrote, and none of ours, has one child for each module.
IMPORT_EACH = """
import importlib, os, sys
import numpy, safetensors.numpy, tokenizers
assert not any(name.partition(".")[0] == "qdqbert" for name in sys.modules)
for path in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        importlib.import_module(f"qdqbert.{path}")
        sys.stdout.flush()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        sys.exit(f"qdqbert.{path}: {status}")
"""


@pytest.mark.uninstrumented
def test_every_public_module_can_be_imported_first() -> None:
    paths = dict.fromkeys([*NAMES, *REFUSED, *qdqbert._MODULES])
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

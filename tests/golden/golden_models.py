# SPDX-License-Identifier: Apache-2.0
"""The recorded models: their manifest, how to build them, and where their arrays are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_codec import load

import qdqbert
from qdqbert import QDQBertConfig, nn
from qdqbert.serialization import SafetensorsFile
from qdqbert.tensor_quant import QuantDescriptor
from shared_data import shared_folder

CLASSES = {
    name: getattr(qdqbert, name)
    for name in (
        "QDQBertModel",
        "QDQBertLMHeadModel",
        "QDQBertForMaskedLM",
        "QDQBertForNextSentencePrediction",
        "QDQBertForSequenceClassification",
        "QDQBertForMultipleChoice",
        "QDQBertForTokenClassification",
        "QDQBertForQuestionAnswering",
    )
}
FAMILIES = (
    "base",
    "lm",
    "mlm",
    "nsp",
    "seqcls_regression",
    "seqcls_single_label",
    "seqcls_multi_label",
    "mc",
    "tok",
    "qa",
    "relative_key",
    "relative_key_query",
    "decoder_cross",
    "base_pruned",
    "act_relu",
    "act_gelu_new",
    "act_silu",
    "act_tanh",
)
FOLDER = shared_folder() / "golden" / "models"


@cache
def manifest() -> dict[str, Any]:
    """Parsed manifest, or one without cases if the data are not there."""
    return load(FOLDER, "manifest.json") if FOLDER.exists() else {"cases": [], "models": {}, "extras": {}}


def extra(name: str) -> Any:
    """One record beside cases and models; the test is skipped if the data are not there."""
    if not FOLDER.exists():
        pytest.skip(f"missing data: {FOLDER}")
    return manifest()["extras"][name]


@contextlib.contextmanager
def original_defaults(calib_method: str = "max") -> Iterator[None]:
    """Class defaults in force when the original's models were built."""
    saved = nn.QuantLinear.default_quant_desc_input, nn.QuantLinear.default_quant_desc_weight
    nn.QuantLinear.set_default_quant_desc_input(QuantDescriptor(num_bits=8, calib_method=calib_method))
    nn.QuantLinear.set_default_quant_desc_weight(QuantDescriptor(num_bits=8, axis=(0,)))
    try:
        yield
    finally:
        nn.QuantLinear.set_default_quant_desc_input(saved[0])
        nn.QuantLinear.set_default_quant_desc_weight(saved[1])


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file."""
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.tensors}


def build(class_name: str, config: str | dict[str, Any], weights: list[str], **changes: Any) -> Any:
    """Model of a case: configuration, weight files in order, the original's padding rule."""
    fields = json.loads((FOLDER / config).read_text()) if isinstance(config, str) else config
    model = CLASSES[class_name](QDQBertConfig.from_dict({**fields, **changes}))
    state = {key: value for name in weights for key, value in read_weights(FOLDER / name).items()}
    report = model.load_state_dict(state, strict=False)
    assert not report.missing_keys
    assert not report.unexpected_keys
    model.padding = "compute"
    return model


def disable_what_the_original_lost(model: Any) -> None:
    """Pruned layers of the original are plain Linear: their quantizers are gone, where ours are kept."""
    for name, _ in manifest()["extras"]["prune_heads"]["module_classes"]:
        linear = model.get_submodule(name)
        linear.input_quantizer.disable()
        linear.weight_quantizer.disable()


def build_family(name: str) -> Any:
    """Float model of a family, every quantizer on and dynamic."""
    facts = manifest()["models"][name]
    return build(facts["class"], f"{name}/config.json", facts["weights_float"])


def quantizers(model: Any) -> list[tuple[str, nn.TensorQuantizer]]:
    """Name and quantizer, in order."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.TensorQuantizer)]


def arrays_of(name: str) -> Any:
    """Open archive of arrays."""
    return np.load(FOLDER / name)


def batch_of(arrays: Any, keys: dict[str, str]) -> dict[str, np.ndarray]:
    """Model arguments of {argument: key}."""
    return {argument: arrays[key] for argument, key in keys.items()}


def entry(output: Any, path: str) -> np.ndarray:
    """Output at a path such as ``hidden_states/1``."""
    if path in output:
        return np.asarray(output[path])
    name, *indices = path.split("/")
    value = output[name]
    for index in indices:
        value = value[int(index)]
    return np.asarray(value)

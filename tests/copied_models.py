# SPDX-License-Identifier: Apache-2.0
"""Models with a setting of every kind, and what there is to compare of them and of their copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np

import qdqbert
import tiny_model

CLASSES = (
    "QDQBertModel",
    "QDQBertLMHeadModel",
    "QDQBertForMaskedLM",
    "QDQBertForNextSentencePrediction",
    "QDQBertForSequenceClassification",
    "QDQBertForMultipleChoice",
    "QDQBertForTokenClassification",
    "QDQBertForQuestionAnswering",
)


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def inputs_of(name: str, seed: int = 0) -> dict[str, Any]:
    batch: dict[str, Any] = tiny_model.batch(seed=seed)
    if name == "QDQBertForMultipleChoice":
        batch = {key: np.stack([value, value[::-1]], axis=1) for key, value in batch.items()}
        batch["attention_mask"][:, :, 0] = 1
    return batch


def outputs_of(model: Any, seed: int = 0) -> list[np.ndarray]:
    outputs = model(**inputs_of(type(model).__name__, seed), output_hidden_states=True, return_dict=False)
    flat: list[np.ndarray] = []
    for each in outputs:
        flat += [] if each is None else each if isinstance(each, tuple) else [each]
    return [array for each in flat for array in (each if isinstance(each, tuple) else [each])]


def make(name: str, **fields: Any) -> Any:
    """A calibrated, pruned model with a setting of every kind."""
    is_decoder = name == "QDQBertLMHeadModel"
    model = getattr(qdqbert, name)(tiny_model.config(is_decoder=is_decoder, **fields), seed=3)
    qdqbert.calibrate(model, [inputs_of(name, seed) for seed in range(2)], method="max")
    model.prune_heads({1: [0]})
    model.base_model.encoder.gradient_checkpointing = True
    model.base_model.embeddings.word_embeddings.weight.requires_grad = False
    model.padding = "compute"
    qdqbert.quantizers(
        model,
        {
            "*.layer.1.output.*": "off",
            "*.layer.0.*query._input_quantizer": {"num_bits": 6},
            "*.layer.0.*key._weight_quantizer": {"amax": None},
            "*.layer.0.intermediate.*": {"scale_amax": 0.875},
        },
    )
    return model


def states_of(model: Any) -> list[tuple[Any, ...]]:
    """Everything that can be seen of the quantizers."""
    found: list[tuple[Any, ...]] = []
    for name, each in qdqbert.rules.named_quantizers(model):
        amax, factor = each.amax, each.pre_quant_scale
        handle = each._handle
        found.append(
            (
                name,
                handle.stages,
                handle.options(),
                handle.clip(),
                None if amax is None else (amax.shape, amax.tobytes()),
                None if factor is None else (factor.shape, factor.tobytes()),
                repr(each._calibrator),
                repr(each),
                each._descriptor,
                each._name,
            )
        )
    return found


def assert_equal(one: Any, other: Any) -> None:
    """Whether two models are the same in all that users can see."""
    assert type(one) is type(other)
    assert repr(one) == repr(other)
    assert vars(one.config) == vars(other.config)
    assert states_of(one) == states_of(other)
    assert one._gradient_flags() == other._gradient_flags()
    assert [each.is_gradient_checkpointing for each in (one, other)] == [True, True]
    assert (one.padding, one.device, one.training) == (other.padding, other.device, other.training)
    assert one.execution_sites() == other.execution_sites()
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], strict=True, err_msg=name)
    for a, b in zip(outputs_of(one), outputs_of(other), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def snapshot(model: Any) -> tuple[Any, ...]:
    return (
        repr(model),
        copy.deepcopy(vars(model.config)),
        states_of(model),
        model._gradient_flags(),
        model.padding,
        {name: value.tobytes() for name, value in model.state_dict().items()},
        [each.tobytes() for each in outputs_of(model)],
    )


def disturb(model: Any) -> None:
    """Change everything about a model that can be changed."""
    rng = np.random.default_rng(9)
    model.load_state_dict(
        {name: rng.standard_normal(value.shape) for name, value in model.named_parameters()}, strict=False
    )
    model.requires_grad_(False)
    model.padding = "skip"
    model.config.layer_norm_eps = 0.5
    model.config.id2label[0] = "changed"
    model.gradient_checkpointing_disable()
    for _, quantizer in qdqbert.rules.named_quantizers(model):
        quantizer._amax = 3.0
        quantizer.num_bits = 5
        quantizer.enable_calib()
        quantizer.enable_quant()
        quantizer.enable()
    outputs_of(model)
    model.prune_heads({0: [2]})
    model.resize_token_embeddings(60)

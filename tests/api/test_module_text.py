# SPDX-License-Identifier: Apache-2.0
"""`repr` of whole models: PyTorch's own text of the same tree, letter by letter, and the recorded names."""

from __future__ import annotations

import re
from typing import Any

import pytest

import qdqbert
import tiny_model
from qdqbert.module import Module, ModuleList

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("QDQBertModel", {}),
    ("QDQBertForQuestionAnswering", {}),
    ("QDQBertForSequenceClassification", {"hidden_act": "relu6"}),
    ("QDQBertForTokenClassification", {"hidden_act": "leaky_relu"}),
    ("QDQBertForMultipleChoice", {}),
    ("QDQBertForNextSentencePrediction", {}),
    ("QDQBertForMaskedLM", {"position_embedding_type": "relative_key"}),
    ("QDQBertLMHeadModel", {"is_decoder": True, "add_cross_attention": True}),
]


def models(name: str, changes: dict[str, Any]) -> list[Any]:
    """One model in its states: fresh, calibrated in part, its layers equal but the third, and pruned."""
    made = [
        getattr(qdqbert, name)(tiny_model.config(num_hidden_layers=4, **changes), seed=seed)
        for seed in (0, 1, 2)
    ]
    qdqbert.quantizers(made[1], {"*.layer.2.*": "off", "*.layer.0.output.*": {"amax": 1.5, "num_bits": 4}})
    made[2].prune_heads({1: [0, 2], 2: [0, 2]})
    return made


def twin_of(module: Module, torch_nn: Any) -> Any:
    """The same tree of PyTorch's modules, with the same class names and texts."""
    if isinstance(module, ModuleList):
        return torch_nn.ModuleList([twin_of(child, torch_nn) for child in module])
    text = module.extra_repr()
    twin = type(type(module).__name__, (torch_nn.Module,), {"extra_repr": lambda self: text})()
    for name, child in module.named_children():
        twin.add_module(name, twin_of(child, torch_nn))
    return twin


@pytest.mark.witness
@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_text_is_pytorchs_own(name: str, changes: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    for model in models(name, changes):
        assert repr(model) == repr(twin_of(model, torch.nn))


def tree_of(text: str) -> list[tuple[str, str]]:
    """(dotted name, class) of every module that a text shows, lists unfolded."""
    found: list[tuple[str, str]] = []
    paths: list[list[str]] = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        shown = re.match(r"\s*\((\w+)(?:-(\d+))?\): (?:\d+ x )?(\w+)\(", line)
        if shown:
            first, last, kind = shown.groups()
            numbers = [str(i) for i in range(int(first), int(last) + 1)] if last else [first]
            del paths[depth - 1 :]
            paths.append(numbers)
            names = [""]
            for level in paths:
                names = [f"{name}.{each}" if name else each for name in names for each in level]
            found += [(name, kind) for name in names]
    return found


@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_text_shows_every_module_under_its_name(name: str, changes: dict[str, Any]) -> None:
    for model in models(name, changes):
        expected = [(path, type(module).__name__) for path, module in model.named_modules() if path]
        assert sorted(tree_of(repr(model))) == sorted(expected)


def test_equal_layers_fold_and_others_do_not() -> None:
    fresh, switched, pruned = models("QDQBertModel", {})
    assert "(0-3): 4 x QDQBertLayer(" in repr(fresh)
    for text, line in (
        (switched, "(0): QDQBertLayer("),
        (switched, "(1): QDQBertLayer("),
        (switched, "(2): QDQBertLayer("),
        (switched, "(3): QDQBertLayer("),
        (pruned, "(1-2): 2 x QDQBertLayer("),
    ):
        assert f"    {line}" in repr(text)

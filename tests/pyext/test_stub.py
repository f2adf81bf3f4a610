# SPDX-License-Identifier: Apache-2.0
"""The stub of the extension against its signature texts, and the texts against what the parsers take.

mypy's stubtest, which CI runs, compares names and methods.  It does not see constructors, since a type made
in C has a ``__new__`` with the text ``(*args, **kwargs)``, and it cannot see whether a text tells the truth.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qdqbert
from qdqbert import _core

STUB = Path(qdqbert.__file__).with_name("_core.pyi")
Parameters = list[tuple[str, Any, Any]]


def in_stub(function: ast.FunctionDef) -> Parameters:
    """(name, kind, default) of every parameter but self and cls."""
    given = function.args
    placed = [*given.posonlyargs, *given.args]
    defaults = [inspect.Parameter.empty] * (len(placed) - len(given.defaults)) + [
        ast.literal_eval(value) for value in given.defaults
    ]
    only = len(given.posonlyargs)
    found: Parameters = [
        (
            each.arg,
            inspect.Parameter.POSITIONAL_ONLY if i < only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            d,
        )
        for i, (each, d) in enumerate(zip(placed, defaults, strict=True))
    ]
    found += [
        (
            each.arg,
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.empty if value is None else ast.literal_eval(value),
        )
        for each, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    return [each for each in found if each[0] not in ("self", "cls")]


def in_module(value: Any) -> Parameters:
    parameters = inspect.signature(value).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters if each.name != "self"]


def callables() -> Iterator[tuple[str, Any, ast.FunctionDef]]:
    """(name, object, what the stub says) of every function, method and type."""
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, getattr(_core, node.name), node
        elif isinstance(node, ast.ClassDef):
            kind = getattr(_core, node.name)
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and not each.decorator_list:
                    is_new = each.name == "__new__"
                    yield (
                        node.name if is_new else f"{node.name}.{each.name}",
                        (kind if is_new else getattr(kind, each.name)),
                        each,
                    )


CALLABLES = {name: (value, node) for name, value, node in callables()}


def test_the_stub_names_everything_that_is_there() -> None:
    named = set(CALLABLES)
    there = set()
    for name, value in vars(_core).items():
        if callable(value) and not name.startswith("_"):
            there.add(name)
            if inspect.isclass(value):
                methods = {m for m, v in vars(value).items() if callable(v) and m[0] != "_"}
                methods |= vars(value).keys() & {"__copy__", "__deepcopy__", "__enter__", "__exit__"}
                there |= {f"{name}.{m}" for m in methods}
    assert named == there
    assert len(named) > 40


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_signature_texts_are_those_of_the_stub(name: str) -> None:
    value, node = CALLABLES[name]
    assert in_module(value) == in_stub(node)


def arguments_of_types() -> dict[str, dict[str, Any]]:
    """What each constructor needs, by name."""
    device = _core.Device(num_threads=1)
    sizes = dict.fromkeys(("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size"), 2)
    sizes |= {"max_positions": 2, "type_vocab_size": 2, "num_labels": 2}
    model = {"device": device, **sizes, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    model |= {"add_pooling_layer": True, "head": "none", "input_quantizer": {}, "weight_quantizer": {}}
    return {
        "Device": {},
        "Quantizer": {"device": device},
        "Observer": {"device": device, "kind": "max"},
        "Model": model,
        "Change": {"owners": ()},
        "Optimizer": {"model": _core.Model(**model), "kind": "adamw"},
        "Undoing": {},
        "Session": {"model": _core.Model(**model), "max_sequences": 1, "max_length": 1},
    }


@pytest.mark.parametrize("name", sorted(name for name in CALLABLES if name.istitle()))
def test_constructors_take_the_parameters_that_their_text_names(name: str) -> None:
    kind, needed = CALLABLES[name][0], arguments_of_types()[name]
    parameters = inspect.signature(kind).parameters.values()
    assert [each.name for each in parameters if each.default is inspect.Parameter.empty] == list(needed)
    optional = {each.name: each.default for each in parameters if each.name not in needed}
    assert kind(**needed, **optional)
    with pytest.raises(TypeError, match=r"stranger|at most \d keyword|takes no arguments"):
        kind(**needed, stranger=None)
    for missing in needed:
        with pytest.raises(TypeError, match=missing):
            kind(**{key: value for key, value in needed.items() if key != missing})
    placed = [each.name for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    values = [(needed | optional)[key] for key in placed]
    named = {key: value for key, value in needed.items() if key not in placed}
    assert kind(*values, **named)
    with pytest.raises(TypeError, match="argument"):
        kind(*values, None, **named)


@pytest.mark.parametrize("name", sorted(name for name in CALLABLES if not name.istitle()))
def test_functions_take_as_many_arguments_as_their_text_names(name: str) -> None:
    owner, _, method = name.rpartition(".")
    call = CALLABLES[name][0]
    if owner:
        call = getattr(getattr(_core, owner)(**arguments_of_types()[owner]), method)
    parameters = inspect.signature(call).parameters
    least = sum(each.default is inspect.Parameter.empty for each in parameters.values())
    for count in {least - 1, len(parameters) + 1} - {-1}:
        with pytest.raises(TypeError, match="argument"):
            call(*[object()] * count)
    if parameters:
        with pytest.raises(TypeError, match="keyword"):
            call(**dict.fromkeys(parameters))

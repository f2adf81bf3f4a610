# SPDX-License-Identifier: Apache-2.0
"""`help` answers: every public name says what it is and what every parameter means, and its examples run.

Public is what a module's ``__all__`` names, with the public methods and properties of its classes (inherited
ones included where this package defines them), and the extension module.
"""

from __future__ import annotations

import doctest
import enum
import importlib
import inspect
import pkgutil
import pydoc
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import qdqbert
from qdqbert import _core


class Entry(NamedTuple):
    name: str
    doc: str
    parameters: list[inspect.Parameter]


def module_names() -> Iterator[str]:
    """Modules without an underscore; the command line has its own help (tests/cli)."""
    yield "qdqbert"
    for name in (info.name for info in pkgutil.walk_packages(qdqbert.__path__, "qdqbert.")):
        if not name.rpartition(".")[2].startswith("_") and not name.startswith("qdqbert.cli"):
            yield name


MODULES = [*module_names(), "qdqbert._core"]


def parameters_of(value: Any) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return []
    return [each for each in signature.parameters.values() if each.name not in ("self", "cls")]


def members_of(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class and of its bases that have no entries of their own."""
    for base in kind.__mro__:
        if base is not kind and (base.__module__.partition(".")[0] != "qdqbert" or is_public(base)):
            continue
        for name, value in vars(base).items():
            plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            is_property = isinstance(plain, property | types.GetSetDescriptorType)
            if not name.startswith("_") and (inspect.isroutine(plain) or is_property):
                yield name, plain


def is_public(kind: type) -> bool:
    module = importlib.import_module(kind.__module__)
    return kind.__module__ == "qdqbert._core" or kind.__name__ in getattr(module, "__all__", ())


def entries(module_name: str) -> Iterator[Entry]:
    """Every public function, class and member that a module defines."""
    module = importlib.import_module(module_name)
    names = [name for name in dir(module) if not name.startswith("_")] if module is _core else _all_of(module)
    for name in names:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)) or isinstance(value, types.GenericAlias):
            continue
        if value.__module__ not in (module_name, None):
            continue  # is an entry of the module that defines it
        path = f"{module_name}.{name}"
        is_enum = inspect.isclass(value) and issubclass(value, enum.Enum)
        yield Entry(path, inspect.getdoc(value) or "", [] if is_enum else parameters_of(value))
        if inspect.isclass(value):
            for member_name, member in members_of(value):
                doc = inspect.getdoc(getattr(value, member_name)) or ""
                yield Entry(
                    f"{path}.{member_name}",
                    doc,
                    [] if isinstance(member, property) else parameters_of(member),
                )


def _all_of(module: types.ModuleType) -> list[str]:
    return [name for name in getattr(module, "__all__", ()) if name != "__version__"]


def described(doc: str) -> set[str]:
    """Names in the sections of parameters and attributes."""
    names: set[str] = set()
    for title in ("Parameters", "Attributes"):
        section = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-+$|\Z)", doc, re.DOTALL | re.MULTILINE)
        for line in section.group(1).splitlines() if section else ():
            if line and not line[0].isspace():
                names |= {name.strip().lstrip("*") for name in line.partition(" : ")[0].split(",")}
    return names


ENTRIES = {name: list(entries(name)) for name in MODULES}


def test_the_walk_finds_what_users_see() -> None:
    found = {entry.name for each in ENTRIES.values() for entry in each}
    for name in (
        "qdqbert.modeling_model.QDQBertModel.forward",
        "qdqbert.modeling_checkpoint.CheckpointModule.from_pretrained",
        "qdqbert.module.Module.state_dict",
        "qdqbert.nn.tensor_quantizer.TensorQuantizer.amax",
        "qdqbert.nn.quantizer_stages.QuantizerStages.disable",
        "qdqbert.calibration.calibrate",
        "qdqbert._core.Device.num_threads",
        "qdqbert._core.quant_linear",
    ):
        assert name in found
    defined = {getattr(qdqbert, name) for name in qdqbert.__all__ if inspect.isclass(getattr(qdqbert, name))}
    assert {f"{kind.__module__}.{kind.__name__}" for kind in defined} <= found


@pytest.mark.parametrize("module", MODULES)
def test_modules_say_what_they_are_for(module: str) -> None:
    assert (importlib.import_module(module).__doc__ or "").strip()


@pytest.mark.parametrize("module", MODULES)
def test_the_first_line_is_a_sentence(module: str) -> None:
    firsts = {entry.name: entry.doc.partition("\n")[0] for entry in ENTRIES[module]}
    assert not {
        name: line for name, line in firsts.items() if not re.fullmatch(r"[A-Z0-9(`\"|].*\.", line, re.DOTALL)
    }


@pytest.mark.parametrize("module", MODULES)
def test_every_parameter_is_described(module: str) -> None:
    missing = {
        entry.name: [each.name for each in entry.parameters if each.name not in described(entry.doc)]
        for entry in ENTRIES[module]
    }
    assert not {name: names for name, names in missing.items() if names}


@pytest.mark.parametrize("module", MODULES)
def test_no_parameter_is_described_that_is_not_there(module: str) -> None:
    stale = {}
    for entry in ENTRIES[module]:
        section = entry.doc.partition("Parameters\n---")[2]
        names = described(f"Parameters\n---{section}".partition("\nAttributes\n---")[0]) if section else set()
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in entry.parameters):
            stale[entry.name] = names - {each.name for each in entry.parameters}
    assert not {name: names for name, names in stale.items() if names}


FINDER = doctest.DocTestFinder()
EXAMPLES = [test for name in MODULES for test in FINDER.find(importlib.import_module(name)) if test.examples]


def test_there_are_examples_to_run() -> None:
    assert len(EXAMPLES) > 30


@pytest.mark.parametrize("test", [pytest.param(test, id=test.name) for test in EXAMPLES])
def test_examples_give_what_they_show(
    test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not runner.run(test, out=report.append).failed, "".join(report)


@pytest.mark.parametrize("name", [name for name in qdqbert.__all__ if name != "__version__"])
def test_help_has_a_page(name: str) -> None:
    assert pydoc.render_doc(getattr(qdqbert, name), renderer=pydoc.plaintext)

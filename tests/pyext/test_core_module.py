# SPDX-License-Identifier: Apache-2.0
"""The extension as a module: state, types, imports, and what survives a fork."""

from __future__ import annotations

import gc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest

import tiny_model
from qdqbert import _core

TYPES = ("Device", "Model", "Session", "Quantizer", "Observer")


def load_again() -> Any:
    """A second module object from the same file."""
    assert _core.__file__ is not None
    loader = importlib.machinery.ExtensionFileLoader("qdqbert._core", _core.__file__)
    spec = importlib.util.spec_from_loader("qdqbert._core", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_loading_twice_gives_two_independent_modules() -> None:
    second = load_again()
    assert second is not _core
    for name in TYPES:
        assert getattr(second, name) is not getattr(_core, name)
    device = second.Device()
    assert device.num_threads >= 1
    with pytest.raises(TypeError, match="device: expected Device"):
        _core.Observer(device, "max")
    second.Observer(device, "max").collect(np.ones(3, np.float32))


def test_a_module_that_nobody_needs_is_freed() -> None:
    second = load_again()
    reference = weakref.ref(second.Device)
    del second
    gc.collect()
    assert reference() is None


def test_types_are_heap_types_that_cannot_be_changed_and_take_part_in_collection() -> None:
    heap, immutable, collected = 1 << 9, 1 << 8, 1 << 14
    for name in TYPES:
        kind = getattr(_core, name)
        assert kind.__flags__ & heap
        assert kind.__flags__ & immutable
        assert kind.__flags__ & collected
        assert kind.__module__ == "qdqbert._core"
        with pytest.raises(TypeError, match="immutable"):
            kind.extra = 1
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Sub", (kind,), {})


def test_every_public_name_has_a_text_and_methods_a_signature() -> None:
    import inspect

    for name in dir(_core):
        value = getattr(_core, name)
        if name.startswith("_") or isinstance(value, int):
            continue
        assert value.__doc__, name
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if not method.startswith("_") and callable(function):
                    assert inspect.signature(function), f"{name}.{method}"
        elif callable(value):
            assert inspect.signature(value), name


def run(script: str, *arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout


def test_importing_loads_numpy_and_nothing_else_from_outside() -> None:
    script = (
        "import sys, numpy\n"
        "before = set(sys.modules)\n"
        "import qdqbert\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'qdqbert'}))\n"
    )
    assert run(script).strip() == "[]"


def test_using_a_model_loads_nothing_else_either() -> None:
    script = (
        "import sys, numpy\n"
        "before = set(sys.modules)\n"
        "from qdqbert import QDQBertConfig, QDQBertModel, calibrate, quantizers\n"
        "model = QDQBertModel(QDQBertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1,\n"
        "    num_attention_heads=2, intermediate_size=8, max_position_embeddings=8))\n"
        "calibrate(model, [{'input_ids': [[1, 2]]}])\n"
        "model([[1, 2]])\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        # NumPy's generators are Cython modules, which register these.
        "new = {name for name in new if 'cython' not in name}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'qdqbert', 'numpy'}))\n"
    )
    assert run(script).strip() == "[]"


def test_every_exported_name_can_be_had() -> None:
    import qdqbert

    for name in qdqbert.__all__:
        assert getattr(qdqbert, name) is not None
        assert name in dir(qdqbert)
    with pytest.raises(AttributeError, match="nothing"):
        qdqbert.nothing  # noqa: B018


def test_a_forked_child_computes_the_same_bits() -> None:
    script = (
        "import os, sys, numpy, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # fork in a process with threads is the point\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import qdqbert, tiny_model\n"
        "model = tiny_model.question_answering()\n"
        "qdqbert.set_num_threads(3)\n"
        "batch = tiny_model.batch(rows=4, length=32)\n"
        "expected = model(**batch).start_logits.tobytes()\n"
        "for _ in range(5):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(0 if model(**batch).start_logits.tobytes() == expected else 1)\n"
        "    assert model(**batch).start_logits.tobytes() == expected\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    folder = os.path.dirname(tiny_model.__file__)
    assert run(script, folder).split() == ["0"] * 5


def test_the_stronger_variant_can_be_capped_by_the_environment() -> None:
    script = "import qdqbert.device as d; print(d.default_device().isa)"
    assert run(script, QDQBERT_CPU_ISA="ref").strip() == "ref"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(script, QDQBERT_CPU_ISA="abacus")
    assert "ValueError" in caught.value.stderr
    assert "abacus" in caught.value.stderr

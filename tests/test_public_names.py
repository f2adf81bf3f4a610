# SPDX-License-Identifier: Apache-2.0
"""What is seen at a prompt: names after a dot, and that checkers are told of the same ones."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import qdqbert
import tiny_model


def names_for_checkers(module: ModuleType) -> set[str]:
    """What the imports under ``TYPE_CHECKING`` hand on: ``from x import y as y``."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    [block] = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    return {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def test_checkers_are_told_of_every_public_name() -> None:
    assert names_for_checkers(qdqbert) | {"__version__"} == set(qdqbert.__all__)
    assert names_for_checkers(qdqbert.tasks) | {"DataError"} == set(qdqbert.tasks.__all__)


def test_completion_offers_public_names_alone() -> None:
    # In a process of its own, with a submodule that somebody imported and that is therefore an attribute.
    script = (
        "import rlcompleter, qdqbert, qdqbert.yaml_subset\n"
        "matches = rlcompleter.Completer({'qdqbert': qdqbert}).attr_matches('qdqbert.')\n"
        "print(*(match.removeprefix('qdqbert.').partition('(')[0] for match in matches))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) == set(qdqbert.__all__) - {"__version__"}


def test_completion_of_a_model_offers_children_methods_and_fields() -> None:
    model = tiny_model.question_answering()
    offered = dir(model)
    assert {"bert", "qa_outputs", "state_dict", "config", "padding", "from_pretrained"} <= set(offered)
    assert offered == sorted(set(offered))
    assert {"query", "matmul_q_input_quantizer", "dropout"} <= set(
        dir(model.bert.encoder.layer[0].attention.self)
    )
    assert {"amax", "disable", "num_bits"} <= set(
        dir(model.get_submodule("bert.encoder.layer.0.output.dense._input_quantizer"))
    )
    for name in offered:
        if name != "__abstractmethods__":
            getattr(model, name)


def test_completion_of_an_output_offers_its_fields() -> None:
    output = tiny_model.question_answering()(**tiny_model.batch())
    assert {"start_logits", "end_logits", "loss", "to_tuple"} <= set(dir(output))

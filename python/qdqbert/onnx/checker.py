# SPDX-License-Identifier: Apache-2.0
"""`check`: what TensorRT would not take, or not run in 8 bits, of any ONNX file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx.checker
import onnx.inliner

from qdqbert.errors import CheckpointError
from qdqbert.onnx.graph_view import GraphView, is_default_domain
from qdqbert.onnx.model_file import bad_text, read_message
from qdqbert.onnx.rule import Effect, Rule
from qdqbert.onnx.rules import ONNX_CHECKER, RULES
from qdqbert.onnx.tensor_values import TensorReader

__all__ = ["Violation", "check"]

_LONGEST_SENTENCE = 600


class Violation(NamedTuple):
    """A place of a file where a rule does not hold.

    Attributes
    ----------
    rule : str
        Name of the rule: ``"zero-point-zero"``.
    node : str
        Name of the node, tensor or input.
    found : str
        What is there.
    cure : str
        What to do about it.
    effect : {"refused", "wrong", "slow"}
        What it leads to: the file is not taken, it computes something else, or not in 8 bits.
    says : str
        The rule as a sentence.
    source : str
        Where the rule is from.
    """

    rule: str
    node: str
    found: str
    cure: str
    effect: Effect
    says: str
    source: str

    def __str__(self) -> str:
        return f"{self.node}: {self.found} [{self.rule}, {self.effect}]"


def check(model: str | os.PathLike[str] | onnx.ModelProto) -> list[Violation]:
    """Compare a model with the rules of TensorRT, and with ONNX's own.

    The file may be anybody's, and need not be in order: what cannot be followed is a violation too.

    Parameters
    ----------
    model : str, path or onnx.ModelProto
        A file, or a model in memory, whose data have to be in memory too.

    Returns
    -------
    list of Violation
        Empty if all rules hold.

    Raises
    ------
    CheckpointError
        If the file is missing, cut off, or no ONNX file, or a name in it is no text.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import onnx.helper, qdqbert
    >>> nothing = onnx.helper.make_graph([], "nothing", [], [])
    >>> [violation.rule for violation in qdqbert.onnx.check(onnx.helper.make_model(nothing))]
    []
    """
    if isinstance(model, onnx.ModelProto):
        proto, path = model, None
        place = bad_text(proto)
        if place is not None:
            raise CheckpointError(f"model: a text in {place} is not UTF-8")
    else:
        path = Path(model)
        proto = read_message(path)
    reader = TensorReader(None if path is None else path.resolve().parent)
    found = [
        _violation(rule, node, text)
        for view in _views(proto, reader)
        for rule in RULES
        for node, text in rule.find(view)
    ]
    return [*found, *_told_by_onnx(proto, path)]


def _views(proto: onnx.ModelProto, reader: TensorReader) -> Iterator[GraphView]:
    if proto.functions:
        try:
            proto = onnx.inliner.inline_local_functions(proto)
        except Exception:  # of many kinds; the checker of onnx says what is wrong with them
            return
    opsets = {
        "" if is_default_domain(each.domain) else each.domain: each.version for each in proto.opset_import
    }
    view = GraphView(proto.graph, reader, opsets)
    yield view
    yield from view.subgraphs()


def _told_by_onnx(proto: onnx.ModelProto, path: Path | None) -> Iterator[Violation]:
    try:
        onnx.checker.check_model(proto if path is None else os.fspath(path), full_check=True)
    except Exception as error:  # ValidationError, InferenceError, and whatever a hostile file leads to
        sentence = " ".join(str(error).split()) or type(error).__name__
        yield _violation(ONNX_CHECKER, proto.graph.name or "the graph", sentence[:_LONGEST_SENTENCE])


def _violation(rule: Rule, node: str, found: str) -> Violation:
    return Violation(rule.id, node, found, rule.cure, rule.effect, rule.says, rule.source)

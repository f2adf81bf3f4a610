# SPDX-License-Identifier: Apache-2.0
"""Names, shared constants, and tensors that are made when they are written."""

from __future__ import annotations

import numpy as np
import pytest

from qdqbert.onnx.graph_builder import GraphBuilder, Initializer, scope_of


def test_scopes_are_those_of_the_original_exporter() -> None:
    assert scope_of("bert.encoder.layer.11.output.dense._input_quantizer") == (
        "/bert/encoder/layer.11/output/dense/_input_quantizer"
    )
    assert scope_of("") == ""


def test_a_second_node_of_a_scope_has_a_number() -> None:
    graph = GraphBuilder()
    x = graph.add_input("x", "FLOAT", ["batch", 3])

    values = [graph.node("Relu", "/a", x) for _ in range(3)]

    assert [node.name for node in graph.nodes] == ["/a/Relu", "/a/Relu_1", "/a/Relu_2"]
    assert values[1].name == "/a/Relu_1_output_0"


def test_names_are_not_given_twice() -> None:
    graph = GraphBuilder()
    graph.add_input("x", "FLOAT", [1])

    with pytest.raises(ValueError, match="'x' is in use"):
        graph.array("x", np.zeros(1, np.float32))


def test_equal_constants_are_one_and_others_are_not() -> None:
    graph = GraphBuilder()

    same = graph.constant(1.0), graph.constant(np.float32(1.0))
    others = graph.constant([1.0]), graph.constant(1, np.int64), graph.constant(-0.0), graph.constant(0.0)

    assert same[0] == same[1]
    assert len({each.name for each in (*same, *others)}) == 5
    assert len(graph.initializers) == 5


def test_a_cast_is_made_once_and_not_to_the_same_type() -> None:
    graph = GraphBuilder()
    x = graph.add_input("x", "INT64", [2])

    first, second = graph.cast(x, "FLOAT", "/a"), graph.cast(x, "FLOAT", "/b")

    assert first == second
    assert graph.cast(first, "FLOAT", "/a") == first
    assert [node.op_type for node in graph.nodes] == ["Cast"]


def test_an_output_has_its_name_wherever_it_is_used() -> None:
    graph = GraphBuilder()
    x = graph.add_input("x", "FLOAT", [2])
    y = graph.node("Relu", "", x)
    z = graph.node("Neg", "", y)

    graph.add_output("y", y, [2])
    graph.add_output("z", z, [2])

    assert [(list(node.input), list(node.output)) for node in graph.nodes] == [(["x"], ["y"]), (["y"], ["z"])]


@pytest.mark.parametrize(
    ("kind", "nbytes"), [("FLOAT", 84), ("BFLOAT16", 42), ("INT8", 21), ("INT4", 11), ("INT64", 168)]
)
def test_bytes_are_known_without_the_elements(kind: str, nbytes: int) -> None:
    def make() -> np.ndarray:
        raise AssertionError("made too early")

    assert Initializer("w", kind, (7, 3), make).nbytes == nbytes

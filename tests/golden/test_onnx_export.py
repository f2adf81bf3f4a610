# SPDX-License-Identifier: Apache-2.0
"""Our graphs against the files that the original exporter wrote of the same models.

Not node by node, as the original's trace computes shapes that ours need not; but quantizer by quantizer: the
same names at the same tensors, with the same scales and codes, and the same products, sums and
normalizations between them.

`golden/models` were searched so that no activation lies near a tie, so codes are equal; outputs are within
2e-5 as in test_models.py.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from golden_models import build, manifest, original_defaults

from graph_runs import check, dequantize_nodes, evaluate, exported, quantize_nodes, tensors_of
from shared_data import shared_folder

FOLDER = shared_folder() / "golden" / "onnx"
ATOL = 2e-5
STRUCTURE = ("Erf", "Softmax", "LayerNormalization", "Sqrt", "QuantizeLinear", "DequantizeLinear", "Tanh")


def cases() -> list[dict[str, Any]]:
    path = FOLDER / "manifest.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["cases"] if path.exists() else []
    return found


CASES = pytest.mark.parametrize("case", [pytest.param(each, id=each["id"]) for each in cases()])


@cache
def model_of(name: str, weights: tuple[str, ...]) -> Any:
    with original_defaults():
        files = [each.removeprefix("../models/") for each in weights]
        return build(manifest()["models"][name]["class"], f"{name}/config.json", files)


def ours_and_theirs(case: dict[str, Any], **options: Any) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = model_of(case["model"], tuple(case["weights"]))
    return exported(model, opset=case["opset"], **options), onnx.load(FOLDER / case["file"])


def batch_of(case: dict[str, Any], number: int) -> dict[str, np.ndarray]:
    with np.load(FOLDER / "onnx_io.npz") as arrays:
        return {name: arrays[key] for name, key in case["batches"][number]["inputs"].items()}


def scale_of(node: onnx.NodeProto, proto: onnx.ModelProto) -> np.ndarray:
    """Scale of a node, from an initializer or a Constant node."""
    constants = tensors_of(proto)
    if node.input[1] in constants:
        return constants[node.input[1]]
    [made] = [each for each in proto.graph.node if each.output[0] == node.input[1]]
    return onnx.numpy_helper.to_array(made.attribute[0].t)


@CASES
def test_inputs_and_outputs_are_those_of_the_original(case: dict[str, Any]) -> None:
    ours, theirs = ours_and_theirs(case)

    def ends(proto: onnx.ModelProto) -> list[Any]:
        return [
            (
                each.name,
                each.type.tensor_type.elem_type,
                [d.dim_param for d in each.type.tensor_type.shape.dim][:1],
            )
            for each in [*proto.graph.input, *proto.graph.output]
        ]

    check(ours)
    assert ends(ours) == ends(theirs)
    assert [each.name for each in ours.graph.input] == case["input_names"]
    for each in [*ours.graph.input, *ours.graph.output]:
        for axis, name in case["dynamic_axes"].get(each.name, {}).items():
            assert each.type.tensor_type.shape.dim[int(axis)].dim_param == name


@CASES
def test_quantizers_have_the_names_scales_and_channels_of_the_original(case: dict[str, Any]) -> None:
    ours, theirs = ours_and_theirs(case)
    mine, others = quantize_nodes(ours), quantize_nodes(theirs)

    assert mine.keys() == others.keys()
    assert len(mine) == 40
    for name, node in others.items():
        scale = scale_of(node, theirs)
        assert np.array_equal(scale_of(mine[name], ours), scale), name
        axes = [each.i for each in node.attribute], [each.i for each in mine[name].attribute]
        # Rows of a weight: columns of the transposed one.
        assert axes == (([0], [1]) if scale.ndim else ([], [])), name


@CASES
def test_every_tensor_has_the_codes_of_the_original(case: dict[str, Any]) -> None:
    ours, theirs = ours_and_theirs(case)
    mine, others = quantize_nodes(ours), quantize_nodes(theirs)
    for number in range(len(case["batches"])):
        inputs = batch_of(case, number)
        my_values = evaluate(ours, inputs, [node.output[0] for node in mine.values()])
        their_values = evaluate(theirs, inputs, [node.output[0] for node in others.values()])
        for name in others:
            my_codes, codes = my_values[mine[name].output[0]], their_values[others[name].output[0]]
            if name.endswith("_weight_quantizer"):
                my_codes = my_codes.T
            assert np.array_equal(my_codes, codes), name


@CASES
def test_what_lies_between_is_what_the_original_has(case: dict[str, Any]) -> None:
    ours, theirs = ours_and_theirs(case)

    mine, others = (Counter(node.op_type for node in proto.graph.node) for proto in (ours, theirs))

    assert {op: mine[op] for op in STRUCTURE} == {op: others[op] for op in STRUCTURE}
    assert mine["MatMul"] == others["MatMul"] + others["Gemm"]


@CASES
@pytest.mark.parametrize("weights", ["float", "int8"])
def test_outputs_are_those_of_the_original(case: dict[str, Any], weights: str) -> None:
    ours, _ = ours_and_theirs(case, weights=weights)
    with np.load(FOLDER / "onnx_io.npz") as arrays:
        for number, recorded in enumerate(case["batches"]):
            values = evaluate(ours, batch_of(case, number))
            for system in ("torch", "onnxruntime_no_optimization"):
                for name, key in recorded[system].items():
                    np.testing.assert_allclose(values[name], arrays[key], rtol=0, atol=ATOL)


@CASES
def test_dequantized_operands_meet_where_they_do_in_the_original(case: dict[str, Any]) -> None:
    ours, theirs = ours_and_theirs(case)

    def meetings(proto: onnx.ModelProto) -> set[frozenset[str]]:
        """Quantizers whose values are the two operands of one MatMul or Add, through Transpose."""
        origin = {node.output[0]: name for name, node in dequantize_nodes(proto).items()}
        for node in proto.graph.node:
            if node.op_type == "Transpose" and node.input[0] in origin:
                origin[node.output[0]] = origin[node.input[0]]
        pairs = [
            frozenset(origin[each] for each in node.input if each in origin)
            for node in proto.graph.node
            if node.op_type in ("MatMul", "Add")
        ]
        return {pair for pair in pairs if pair}

    assert meetings(ours) == meetings(theirs)
    assert len(meetings(ours)) == 20

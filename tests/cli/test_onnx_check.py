# SPDX-License-Identifier: Apache-2.0
"""``qdqbert onnx-check``: what is printed, and the exit statuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.helper
import onnx.numpy_helper
import pytest
from onnx import TensorProto


def write(path: Path, zero_points: list[int]) -> Path:
    """One product, of activations with these zero points in unsigned 8 bits."""
    nodes, initializers = [], [np.float32(0.5)]
    names = ["scale"]
    for index, value in enumerate(zero_points):
        names.append(f"zero{index}")
        initializers.append(np.uint8(value))
        for op, taken, made in (("QuantizeLinear", f"x{index}", "q"), ("DequantizeLinear", f"q{index}", "y")):
            nodes.append(
                onnx.helper.make_node(
                    op, [taken, "scale", names[-1]], [f"{made}{index}"], name=f"site\x1b[31m{index}/{op}"
                )
            )
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [
            onnx.helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["n", 3])
            for i in range(len(zero_points))
        ],
        [
            onnx.helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["n", 3])
            for i in range(len(zero_points))
        ],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in zip(names, initializers, strict=True)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    path.write_bytes(model.SerializeToString())
    return path


def test_violations_are_status_4_and_told_by_rule(qdqbert, tmp_path):
    path = write(tmp_path / "model.onnx", [0, 1, 2, 3, 4])

    outcome = qdqbert("onnx-check", path)

    assert outcome.status == 4
    assert outcome.err == ""
    assert "18 violations of 2 of 27 rules" in outcome.out
    assert "zero-point-zero: Every zero point is 0" in outcome.out
    assert "the zero point 'zero1' has 1" in outcome.out
    assert "zero4" not in outcome.out.partition("code-type")[0]
    assert "and 3 more (--all)" in outcome.out
    assert "cure: export with symmetric quantizers" in outcome.out
    assert "NVIDIA/TensorRT#2774" in outcome.out


def test_all_lists_every_place(qdqbert, tmp_path):
    path = write(tmp_path / "model.onnx", [0, 1, 2, 3, 4])

    out = qdqbert("onnx-check", path, "--all").out

    assert "more (--all)" not in out
    assert all(f"'zero{index}' has {index}" in out for index in (1, 2, 3, 4))


def test_names_cannot_steer_the_terminal(qdqbert, tmp_path):
    out = qdqbert("onnx-check", write(tmp_path / "model.onnx", [7])).out

    assert "\x1b" not in out
    assert r"site\x1b[31m0/QuantizeLinear" in out


def test_json_has_every_violation(qdqbert, tmp_path):
    outcome = qdqbert("onnx-check", write(tmp_path / "model.onnx", [9]), "--json")

    assert outcome.status == 4
    assert [each["rule"] for each in outcome.data["violations"]] == [
        "zero-point-zero",
        "zero-point-zero",
        "code-type",
        "code-type",
    ]
    assert outcome.data["violations"][0] == {
        "rule": "zero-point-zero",
        "node": "site\x1b[31m0/QuantizeLinear",
        "found": "the zero point 'zero0' has 9",
        "cure": "export with symmetric quantizers (this package has no others): zero point 0",
        "effect": "refused",
        "says": "Every zero point is 0: quantization is symmetric.",
        "source": outcome.data["violations"][1]["source"],
    }


def test_sound_file_is_status_0(qdqbert, tmp_path):
    path = write(tmp_path / "model.onnx", [])

    outcome = qdqbert("onnx-check", path)

    assert outcome.status == 0
    assert "all 27 rules hold" in outcome.out


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_what_is_no_onnx_file_is_status_3_and_one_sentence(qdqbert, tmp_path, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)

    outcome = qdqbert("onnx-check", path)

    assert outcome.status == 3
    assert outcome.out == ""
    assert outcome.err.startswith(f"qdqbert onnx-check: {path}: ")
    assert outcome.err.count("\n") == 1

# SPDX-License-Identifier: Apache-2.0
"""`check` on files: the original exporter's, cut off, of another kind, with data elsewhere."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import quantized_graph as graphs
from qdqbert import CheckpointError
from qdqbert.onnx import check
from qdqbert.onnx.graph_view import GraphView
from qdqbert.onnx.tensor_values import TensorReader
from shared_data import Shared

GOLDEN = [f"{name}_opset{opset}.onnx" for name in ("qa", "mlm", "seqcls_single_label") for opset in (13, 17)]


def write(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def outside(model: onnx.ModelProto, name: str, location: str, **facts: object) -> bytes:
    """Move the data of an initializer to a path; return them."""
    tensor = graphs.initializer(model, name)
    data = bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **facts}.items():
        tensor.external_data.add(key=key, value=str(value))
    return data


@pytest.mark.shared
@pytest.mark.parametrize("name", GOLDEN)
def test_files_of_the_original_exporter_keep_every_rule(shared: Shared, name: str) -> None:
    assert check(shared("golden", "onnx", name)) == []


def test_file_and_model_in_memory_have_the_same_violations(tmp_path: Path) -> None:
    model = graphs.damaged(lambda model: graphs.bypass(model, "residual", "r"))

    found = check(model)

    assert [each.rule for each in found] == ["sum-operands"]
    assert check(write(tmp_path, model)) == found
    assert str(found[0]).endswith("which is not quantized [sum-operands, slow]")


# ---- no ONNX file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "Git-LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b'{"model_type": "bert"}', "JSON text"),
        (bytes(1000), "filled with zeros"),
        (b"\x08\x07", "is not an ONNX file: begins with"),
        (b"\x3a\x00", "is not an ONNX file"),
        (b"\xff" * 99, "damaged or cut off"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=text):
        check(path)


@pytest.mark.parametrize("text", [b"dense/MatMul", b"local.dq", b"w.scale", b"sound"])
def test_names_that_are_no_text_are_refused(tmp_path: Path, text: bytes) -> None:
    content = graphs.sound_model().SerializeToString().replace(text, b"\xff" * len(text))
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"a text in \w+Proto\.\w+ is not UTF-8"):
        check(path)
    with pytest.raises(CheckpointError, match="model: a text in"):
        check(onnx.load_from_string(content))


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        check(tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match="is a folder"):
        check(tmp_path)


def test_file_that_is_cut_off_anywhere_is_refused_or_violates(tmp_path: Path) -> None:
    whole = graphs.sound_model().SerializeToString()
    path = tmp_path / "model.onnx"
    taken = 0
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        try:
            assert check(path), f"cut off at byte {end} of {len(whole)}"
            taken += 1
        except CheckpointError:
            pass
    assert taken < 9  # most cuts are inside the graph, which is one field


# ---- data outside the file ---------------------------------------------------------------------------------


def test_data_in_the_folder_are_read(tmp_path: Path) -> None:
    model = graphs.damaged(lambda model: graphs.put(model, "w.scale", np.full(7, -0.5, np.float32)))
    data = outside(model, "w.scale", "sub/weights.bin", offset=3, length=28)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(b"abc" + data)

    found = [each for each in check(write(tmp_path, model)) if each.rule == "scale-positive"]

    assert [each.node for each in found] == ["w/QuantizeLinear", "w/DequantizeLinear"]
    assert "has -0.5 (7 of 7 such)" in found[0].found


@pytest.mark.parametrize(
    ("location", "facts", "text"),
    [
        ("../secret", {}, "leaves the folder"),
        ("sub/../../secret", {}, "leaves the folder"),
        ("{secret}", {}, "leaves the folder"),
        ("/etc/passwd", {}, "leaves the folder"),
        ("{folder}/short.bin", {}, "leaves the folder"),  # absolute: it would follow no copy of the model
        ("link", {}, "leaves the folder"),
        ("linked/secret", {}, "leaves the folder"),
        (".", {}, "leaves the folder"),
        ("", {}, "there is no path"),
        ("a\0b", {}, "cannot be followed"),
        ("a" * 5000, {}, "File name too long|cannot be followed"),
        ("loop", {}, "cannot be followed|symbolic links|leaves the folder"),
        ("missing.bin", {}, "No such file"),
        ("sub", {}, "is a folder"),
        ("short.bin", {}, "ends at byte 28 of 'short.bin', which has 27"),
        ("short.bin", {"offset": "-1"}, "has the offset '-1'"),
        ("short.bin", {"offset": "9" * 5000}, "has the offset '99999"),
        ("short.bin", {"offset": 2**63}, "ends at byte 9223372036854775836"),
        ("short.bin", {"length": 27}, "needs 28 bytes of its sizes, and its entry has 27"),
        ("short.bin", {"length": "1e3"}, "has the length '1e3'"),
    ],
)
def test_data_elsewhere_are_not_opened(
    tmp_path: Path, location: str, facts: dict[str, object], text: str
) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(28))
    (folder / "link").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "short.bin").write_bytes(bytes(27))
    model = graphs.sound_model()
    outside(
        model, "bias", location.replace("{secret}", str(secret)).replace("{folder}", str(folder)), **facts
    )

    found = [each for each in check(write(folder, model)) if each.rule == "tensor-data"]

    assert [each.node for each in found] == ["bias"]
    assert re.search(text, found[0].found), found[0].found


def test_data_outside_a_model_in_memory_are_not_looked_for(tmp_path: Path, monkeypatch) -> None:
    model = graphs.sound_model()
    (tmp_path / "weights.bin").write_bytes(outside(model, "bias", "weights.bin"))
    monkeypatch.chdir(tmp_path)

    found = [each for each in check(model) if each.rule == "tensor-data"]

    assert "the model is not from a file" in found[0].found


# ---- hostile tensors and graphs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (TensorProto(data_type=1, dims=[-7], raw_data=bytes(28)), r"has the sizes \[-7\]"),
        (TensorProto(data_type=1, dims=[1] * 33, raw_data=bytes(4)), r"\(33 in all\)"),
        (TensorProto(data_type=1, dims=[1 << 62, 1 << 62], raw_data=bytes(28)), "and has 28"),
        (TensorProto(data_type=1, dims=[7], float_data=[0.0] * 6), "needs 28 elements|needs 7 elements"),
        (TensorProto(data_type=1, dims=[7]), "needs"),
        (TensorProto(data_type=1, dims=[7], raw_data=bytes(29)), "needs 28 bytes, and has 29"),
        (TensorProto(data_type=1, dims=[7], float_data=[0.0] * 8), "needs 7 elements, and has 8|needs 28"),
        (TensorProto(data_type=0, dims=[7], raw_data=bytes(28)), "elements of type 0, which are not read"),
        (TensorProto(data_type=99, dims=[7], raw_data=bytes(28)), "type 99"),
        (
            TensorProto(
                data_type=1, dims=[7], raw_data=bytes(28), segment=TensorProto.Segment(begin=0, end=1)
            ),
            "a segment",
        ),
    ],
)
def test_tensor_that_lies_is_told(tensor: onnx.TensorProto, text: str) -> None:
    model = graphs.sound_model()
    tensor.name = "bias"
    graphs.initializer(model, "bias").CopyFrom(tensor)

    found = [each for each in check(model) if each.rule == "tensor-data"]

    assert [each.node for each in found] == ["bias"]
    assert re.search(text, found[0].found), found[0].found


@pytest.mark.parametrize("length", [1, 2, 50])
def test_circles_of_any_length_end(length: int) -> None:
    model = graphs.sound_model()
    nodes = [
        helper.make_node("Identity", [f"c{i}"], [f"c{(i + 1) % length}"], name=f"turn{i}")
        for i in range(length)
    ]
    graphs.insert(model, 0, *nodes)
    for index, name in enumerate(("c0", "c0", "c0")):
        graphs.node(model, "x/QuantizeLinear").input[index] = name
    graphs.node(model, "dense/MatMul").input[1] = "c0"
    graphs.node(model, "sum/Add").input[0] = "c0"

    rules = {each.rule for each in check(model)}

    assert {
        "scale-constant",
        "zero-point-constant",
        "product-operands",
        "sum-operands",
        "onnx-checker",
    } <= rules


def test_nodes_without_inputs_or_outputs_are_survived() -> None:
    for name in [each.name for each in graphs.sound_model().graph.node]:
        for part in ("input", "output", "attribute"):
            model = graphs.sound_model()
            graphs.node(model, name).ClearField(part)
            # Not all are wrong for us (an axis has a default); what matters is that there is an answer.
            assert isinstance(check(model), list)


def test_graphs_in_graphs_end() -> None:
    inner = helper.make_graph([], "innermost", [], [])
    for depth in range(25):
        inner = helper.make_graph(
            [helper.make_node("If", ["flag"], [], name=f"if{depth}", then_branch=inner)],
            f"at {depth}",
            [],
            [],
        )
    model = helper.make_model(inner)

    assert {each.rule for each in check(model)} == {"onnx-checker"}


def test_package_is_loaded_on_use_alone() -> None:
    script = (
        "import sys, qdqbert; print('onnx' in sys.modules); qdqbert.onnx.check; print('onnx' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert result.stdout.split() == ["False", "True"]


def test_a_long_chain_with_many_takers_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    length = 300
    names = ["x", *(f"t{index}" for index in range(length))]
    turns = [onnx.helper.make_node("Transpose", [a], [b]) for a, b in itertools.pairwise(names)]
    products = [onnx.helper.make_node("MatMul", [names[-1]] * 2, [f"m{index}"]) for index in range(length)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3, 3]) for name in ("x", "m0")]
    graph = onnx.helper.make_graph([*turns, *products], "chain", ends[:1], ends[1:])
    steps = []
    producer = GraphView.producer

    def counted(view: GraphView, name: str) -> onnx.NodeProto | None:
        steps.append(name)
        return producer(view, name)

    monkeypatch.setattr(GraphView, "producer", counted)
    check(onnx.helper.make_model(graph))

    assert len(steps) < 40 * length  # some for each node and rule; each product alone would take 300


def test_a_source_is_the_same_from_everywhere_on_the_way() -> None:
    names = ["x", "a", "b", "c"]
    nodes = [onnx.helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    nodes.append(onnx.helper.make_node("Cast", ["round"], ["round"], to=1))
    view = GraphView(onnx.helper.make_graph(nodes, "g", [], []), TensorReader(None), {"": 17})

    for order in (names, names[::-1]):
        assert [view.source(name) for name in order] == ["x"] * 4
    assert view.source("c", frozenset()) == "c"
    assert view.source("round") == "round"

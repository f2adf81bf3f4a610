# SPDX-License-Identifier: Apache-2.0
"""What a comparison checks before it times, and what it hands back."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import qdqbert
import tiny_model
from qdqbert.bench import Settings, compare
from qdqbert.bench.batches import even, varied
from qdqbert.bench.comparison import (
    FLOAT_BOUND,
    INT8_BOUND,
    OURS,
    PEERS,
    System,
    _check_bits,
    _Team,
    relative_error,
    systems_of,
)
from qdqbert.bench.folders import write_folders
from qdqbert.errors import BackendError, UnsupportedError

pytestmark = pytest.mark.uninstrumented


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    folder = tmp_path / "checkpoint"
    model = tiny_model.question_answering()
    qdqbert.calibrate(model, [tiny_model.batch()])
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_that_is_not_installed_is_an_error_that_names_the_extra(
    peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=rf"--against {peer}: .*pip install 'qdqbert\[bench\]'"):
        Settings((even(1, 8),), (1,), (peer,)).systems()


@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_has_a_float_row_and_one_of_codes(peer: str) -> None:
    rows = systems_of(peer)
    assert {system.operands for system in rows} == {"f32", "qs8"}
    assert len({system.name for system in rows}) == len(rows)
    assert all((system.codes == "float") == (system.operands == "f32") for system in rows)


def test_a_name_that_is_no_system_is_refused() -> None:
    with pytest.raises(ValueError, match="--only: nobody unknown; there are qdqbert, qdqbert-float"):
        Settings((even(1, 8),), (1,), only=("nobody",)).systems()
    # The float one stays: outputs are compared with it.
    assert Settings((even(1, 8),), (1,), only=("qdqbert",)).systems() == OURS


def test_peers_get_the_weights_of_the_checkpoint_and_nothing_of_quantizers(
    checkpoint: str, tmp_path: Path
) -> None:
    folders, sizes = write_folders(checkpoint, tmp_path / "made")
    assert (sizes["layers"], sizes["hidden"], sizes["calibrated_here"]) == (2, 24, False)
    config = json.loads((folders.plain / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    assert not any("quant" in key for key in config)
    assert len((folders.plain / "vocab.txt").read_text().splitlines()) == 53
    plain = qdqbert.QDQBertModel.from_pretrained(folders.plain)
    ours = qdqbert.QDQBertModel.from_pretrained(folders.quantized)
    for model in (plain, ours):
        qdqbert.quantizers(model, {"*": "off"})
    inputs = even(2, 9).inputs(53)
    assert np.array_equal(plain(**inputs)[0], ours(**inputs)[0])


def test_nothing_is_said_of_a_pooler_that_the_checkpoint_lacks_and_all_of_others(
    checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders, _ = write_folders(checkpoint, tmp_path / "made")
    assert not caplog.records
    assert "pooler.dense.weight" in load_file(folders.plain / "model.safetensors")
    weights = Path(checkpoint) / "model.safetensors"
    lost = "bert.encoder.layer.0.output.dense.weight"
    save_file({name: array for name, array in load_file(weights).items() if name != lost}, weights)
    write_folders(checkpoint, tmp_path / "others")
    [record] = caplog.records
    assert "newly initialized" in record.message
    assert "encoder.layer.0.output.dense.weight" in record.message
    assert "pooler" not in record.message


def test_a_float_checkpoint_is_calibrated_and_that_is_said(tmp_path: Path) -> None:
    tiny_model.question_answering(max_position_embeddings=80).save_pretrained(tmp_path / "checkpoint")
    folders, sizes = write_folders(str(tmp_path / "checkpoint"), tmp_path / "made")
    assert sizes["calibrated_here"]
    assert qdqbert.QDQBertModel.from_pretrained(folders.quantized).summary().quantizers == {"calibrated": 40}


def test_what_peers_do_not_run_is_refused(tmp_path: Path) -> None:
    config = tiny_model.config(position_embedding_type="relative_key")
    qdqbert.QDQBertModel(config).save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(UnsupportedError, match="only encoders with absolute positions"):
        write_folders(str(tmp_path / "checkpoint"), tmp_path / "made")


def team_of(outputs: dict[str, Any], systems: list[System]) -> _Team:
    """A team whose workers have these outputs."""
    team = _Team([], None, {}, 1, print)  # type: ignore[arg-type]
    team.systems = systems
    team.workers = [
        SimpleNamespace(name=system.name, ask=lambda _, name=system.name: outputs[name])  # type: ignore[misc]
        for system in systems
    ]
    return team


@pytest.mark.parametrize(("operands", "bound"), [("f32", FLOAT_BOUND), ("qs8", INT8_BOUND)])
def test_an_output_beyond_its_bound_is_another_model(operands: str, bound: float) -> None:
    peer = System("peer", operands, "", print)
    inputs = varied(3).inputs(53)
    x = np.random.default_rng(0).standard_normal((3, inputs["input_ids"].shape[1], 4)).astype(np.float32)
    kept = inputs["attention_mask"] == 1
    outputs = {OURS[1].name: x, "peer": x * np.float32(1 + 0.9 * bound)}
    outputs["peer"][~kept] = 1e9  # padding is nobody's business
    errors = team_of(outputs, [OURS[1], peer])._errors(inputs)
    assert errors[OURS[1].name] == 0
    assert errors["peer"] == pytest.approx(0.9 * bound, rel=1e-2)
    for wrong in (x * np.float32(1 + 1.1 * bound), x * np.float32(np.nan)):
        outputs["peer"] = wrong
        with pytest.raises(BackendError, match=r"peer: error .* expected at most"):
            team_of(outputs, [OURS[1], peer])._errors(inputs)
    outputs["peer"] = x[:, :1]
    with pytest.raises(BackendError, match="peer: output"):
        team_of(outputs, [OURS[1], peer])._errors(inputs)


def test_unrelated_outputs_are_beyond_the_bound_of_codes() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 1000))
    assert relative_error(x, y) == pytest.approx(np.sqrt(2), rel=0.1)
    assert relative_error(x, y) > INT8_BOUND


def test_bits_that_depend_on_threads_are_an_error() -> None:
    def row(digest: str) -> dict[str, Any]:
        return {"batch": "1x8", "systems": {"qdqbert": {"facts": {"sha256": digest}}, "x": {"facts": {}}}}

    _check_bits([row("a"), row("a")])
    with pytest.raises(BackendError, match="qdqbert, 1x8: bits depend on the number of threads"):
        _check_bits([row("a"), row("b")])


def test_a_batch_longer_than_the_positions_is_refused(checkpoint: str) -> None:
    with pytest.raises(ValueError, match="1x33: the model has 32 positions"):
        compare(checkpoint, Settings((even(1, 33),), (1,)))


def test_every_row_has_times_the_roof_and_the_error(checkpoint: str) -> None:
    said: list[str] = []
    found = compare(checkpoint, Settings((even(1, 8), even(2, 5)), (1,), rounds=2, turn_s=0.001), said.append)
    json.dumps(found, allow_nan=False)
    assert [(row["batch"], row["threads"]) for row in found["rows"]] == [("1x8", 1), ("2x5", 1)]
    for row in found["rows"]:
        assert set(row["systems"]) == {"qdqbert", "qdqbert-float"}
        assert len(row["roofs"]["qs8"]) == 2
        for entry in row["systems"].values():
            assert entry["seconds"]["min"] <= entry["seconds"]["p50"] <= entry["seconds"]["p90"]
            assert entry["share_of_roof"] > 0
        assert 0 < row["systems"]["qdqbert"]["error"] < INT8_BOUND
        assert row["systems"]["qdqbert-float"]["error"] == 0
    assert said[0] == "starting qdqbert"

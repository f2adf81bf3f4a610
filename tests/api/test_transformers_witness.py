# SPDX-License-Identifier: Apache-2.0
"""What transformers and PyTorch make of our folders, and we of theirs; runs where both are installed.

``QDQBERT_FETCHED`` is the folder that ``shared/tools/fetch_checkpoints.sh`` filled; without it the real
checkpoints of its packages are left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.witness, pytest.mark.filterwarnings("ignore")]
HEADS = {
    "Model": "last_hidden_state",
    "ForMaskedLM": "logits",
    "ForNextSentencePrediction": "logits",
    "ForSequenceClassification": "logits",
    "ForTokenClassification": "logits",
    "ForQuestionAnswering": "start_logits",
}
LABELS = {"ForSequenceClassification": 3, "ForTokenClassification": 5}
# Sums of at most 3,072 products in another order, twelve layers of LayerNorm that keep them in scale.
ATOL = 2e-5


def ours(head: str) -> Any:
    return getattr(qdqbert, f"QDQBert{head}")


def theirs(head: str) -> Any:
    return getattr(transformers, f"Bert{head}")


def outputs(mine: Any, reference: Any, batch: dict[str, np.ndarray], field: str) -> tuple[Any, Any]:
    """Both models' outputs at the positions that are there; ours in float."""
    qdqbert.quantizers(mine, {"*": "off"})
    reference.float().eval()  # version 5 keeps the number format of the file
    with torch.no_grad():
        expected = getattr(reference(**{k: torch.tensor(v) for k, v in batch.items()}), field).numpy()
    found = getattr(mine(**batch), field)
    if found.shape[:2] == batch["input_ids"].shape:
        is_there = batch["attention_mask"].astype(bool)
        return found[is_there], expected[is_there]
    return found, expected


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("loader", ["Bert", "Auto"])
def test_a_float_model_opens_in_transformers_and_gives_the_same(
    head: str, loader: str, tmp_path: Path
) -> None:
    model = ours(head)(tiny_model.config(num_labels=LABELS.get(head, 2)), seed=4)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    opener = (
        theirs(head) if loader == "Bert" else getattr(transformers, f"Auto{head.replace('For', 'ModelFor')}")
    )
    reference, info = opener.from_pretrained(tmp_path, output_loading_info=True)
    assert type(reference).__name__ == f"Bert{head}"
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    found, expected = outputs(model, reference, tiny_model.batch(), HEADS[head])
    np.testing.assert_allclose(found, expected, atol=ATOL)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_calibrated_model_opens_in_their_bert_without_its_ranges(head: str, tmp_path: Path) -> None:
    model = ours(head)(tiny_model.config(), seed=4)
    qdqbert.calibrate(model, [tiny_model.batch()], progress=False)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qdqbert"
    reference, info = theirs(head).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert all(key.endswith("_amax") for key in info["unexpected_keys"])
    found, expected = outputs(model, reference, tiny_model.batch(), HEADS[head])
    np.testing.assert_allclose(found, expected, atol=ATOL)


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}])
def test_their_folders_load_here_with_the_same_report(
    head: str, options: dict[str, Any], tmp_path: Path
) -> None:
    config = transformers.BertConfig(**{**tiny_model.FIELDS, "num_labels": LABELS.get(head, 2)})
    torch.manual_seed(0)
    reference = theirs(head)(config)
    reference.save_pretrained(tmp_path, **options)
    model, info = ours(head).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    found, expected = outputs(model, reference, tiny_model.batch(), HEADS[head])
    np.testing.assert_allclose(found, expected, atol=ATOL)


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("checkpoint", ["Model", "ForPreTraining", "ForQuestionAnswering"])
def test_the_report_across_heads_is_theirs(head: str, checkpoint: str, tmp_path: Path) -> None:
    config = transformers.BertConfig(**tiny_model.FIELDS)
    theirs(checkpoint)(config).save_pretrained(tmp_path)
    _, expected = theirs(head).from_pretrained(tmp_path, output_loading_info=True)
    _, found = ours(head).from_pretrained(tmp_path, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys"):
        # Version 4 names them as the checkpoint would, with or without the prefix of the base model.
        plain = [{name.removeprefix("bert.") for name in info[key]} for info in (found, expected)]
        assert plain[0] == plain[1], key
    assert list(found["missing_keys"]) == sorted(found["missing_keys"])


CHECKPOINTS = {
    "minilm-l6": "Model",
    "minilm-l6-no-vocab": "Model",
    "rxnfp-ft": "Model",
    "rxnfp-ft-10k": "ForSequenceClassification",
    "rxnfp-pretrained": "ForMaskedLM",
    "antiberty": "ForMaskedLM",
}
SHARED = {
    "minilm-sst2": "ForSequenceClassification",
    "minilm-squad": "ForQuestionAnswering",
    "minilm-wnut17": "ForTokenClassification",
    "topics-tiny": "ForSequenceClassification",
}


def compare(folder: Path, head: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    options = {"num_labels": 50} if folder.name == "rxnfp-ft-10k" else {}
    model, info = ours(head).from_pretrained(folder, output_loading_info=True, **options)
    assert info["missing_keys"] == info["mismatched_keys"] == []
    settings = transformers.BertConfig.from_pretrained(folder, **options)
    reference = theirs(head).from_pretrained(folder, config=settings)
    rng = np.random.default_rng(0)
    lengths = np.array([48, 7, 31, 1])
    mask = (np.arange(48) < lengths[:, None]).astype(np.int64)
    batch = {
        "input_ids": rng.integers(1, config["vocab_size"], mask.shape),
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }
    found, expected = outputs(model, reference, batch, HEADS[head])
    np.testing.assert_allclose(found, expected, atol=ATOL * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_a_published_checkpoint_loads_whole_and_gives_what_pytorch_gives(name: str) -> None:
    folder = Path(os.environ.get("QDQBERT_FETCHED", "checkpoints")) / name
    if not folder.exists():
        pytest.skip(f"missing data: {folder} (shared/tools/fetch_checkpoints.sh; set QDQBERT_FETCHED)")
    compare(folder, CHECKPOINTS[name])


@pytest.mark.shared
@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_shared_checkpoint_gives_what_pytorch_gives(name: str, shared: Any) -> None:
    compare(shared("checkpoints", name), SHARED[name])

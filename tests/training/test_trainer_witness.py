# SPDX-License-Identifier: Apache-2.0
"""transformers' own Trainer on the same data in the same order: the same losses, norms, rates and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

import qdqbert
from qdqbert import Trainer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = [pytest.mark.witness, pytest.mark.filterwarnings("ignore")]

# Six batches, with which no step of two is short: where one is, transformers carries it into the next epoch.
BATCHES = 6
OPTIONS: dict[str, Any] = {
    "num_train_epochs": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "warmup_ratio": 0.3,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "evaluation_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "max_grad_norm": 0.7,
    "seed": 5,
}


def batches(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [tiny_run.collate(tiny_run.items(4, seed + i), rng) for i in range(count)]


def run_ours(folder: Path, start: Path) -> Any:
    class Ordered(Trainer):
        def get_train_dataloader(self) -> Any:
            return batches(BATCHES, 0)

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            return batches(2, 50)

    model = qdqbert.QDQBertForSequenceClassification.from_pretrained(start)
    qdqbert.quantizers(model, {"*": "off"})
    trainer = Ordered(model, qdqbert.TrainingArguments(str(folder), **OPTIONS, report_to="none"))
    trainer.train()
    return trainer


def run_theirs(folder: Path, start: Path) -> Any:
    def as_tensors(made: list[dict[str, np.ndarray]]) -> Any:
        data = [{name: torch.tensor(value) for name, value in batch.items()} for batch in made]
        return torch.utils.data.DataLoader(data, batch_size=None)

    class Ordered(transformers.Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return as_tensors(batches(BATCHES, 0))

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            return as_tensors(batches(2, 50))

    model = transformers.BertForSequenceClassification.from_pretrained(start)
    arguments = transformers.TrainingArguments(
        str(folder), **OPTIONS, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Ordered(model, arguments)
    trainer.train()
    return trainer


def test_losses_norms_rates_and_checkpoints_are_those_of_transformers(tmp_path: Path) -> None:
    if not transformers.__version__.startswith("4.39"):
        pytest.skip(f"transformers is {transformers.__version__}, the reference is 4.39")
    tiny_run.model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(
        tmp_path / "start"
    )
    ours, theirs = (
        run_ours(tmp_path / "a", tmp_path / "start"),
        run_theirs(tmp_path / "b", tmp_path / "start"),
    )

    mine, reference = ours.state.log_history, theirs.state.log_history
    assert [set(entry) for entry in mine] == [set(entry) for entry in reference]
    for entry, other in zip(mine, reference, strict=True):
        assert (entry["step"], entry["epoch"]) == (other["step"], other["epoch"])
        for name in entry.keys() & {"loss", "eval_loss", "grad_norm", "learning_rate", "train_loss"}:
            # Their losses are rounded to four digits.  Sums in another order: AdamW's first steps move a
            # weight whose gradient is nearly zero by the whole rate, in either direction.
            assert entry[name] == pytest.approx(other[name], rel=2e-3, abs=6e-5), (entry["step"], name)
    assert ours.state.max_steps == theirs.state.max_steps == 6
    assert Path(ours.state.best_model_checkpoint).name == Path(theirs.state.best_model_checkpoint).name
    folders = [sorted(path.name for path in (tmp_path / name).glob("checkpoint-*")) for name in "ab"]
    assert folders[0] == folders[1] == ["checkpoint-3", "checkpoint-6"]
    both = [tmp_path / name / "checkpoint-6" / "trainer_state.json" for name in "ab"]
    states = [qdqbert.TrainerState.load_from_json(path) for path in both]
    assert states[0].best_metric == pytest.approx(states[1].best_metric, rel=2e-3)
    fields = [set(path.read_text().split('"')[1::2]) for path in both]
    assert {"global_step", "log_history", "best_metric", "num_train_epochs"} <= fields[0] & fields[1]
    flops = [trainer.state.total_flos for trainer in (ours, theirs)]
    assert flops[0] == flops[1]


def test_checkpoints_open_in_transformers(tmp_path: Path) -> None:
    start, folder = tmp_path / "start", tmp_path / "run" / "checkpoint-6"
    tiny_run.model().save_pretrained(start)
    run_ours(tmp_path / "run", start)
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    batch = batches(1, 9)[0]
    with torch.no_grad():
        logits = model(**{name: torch.tensor(value) for name, value in batch.items()}).logits.numpy()
    mine = qdqbert.QDQBertForSequenceClassification.from_pretrained(folder)
    qdqbert.quantizers(mine, {"*": "off"})
    np.testing.assert_allclose(mine(**batch).logits, logits, atol=2e-5)

# SPDX-License-Identifier: Apache-2.0
"""A run small enough for every test, that has everything in it which a resumed one could get wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import qdqbert
import tiny_model
from qdqbert import QuantizationAware, Trainer, TrainingArguments
from qdqbert.nn import QuantLinear
from qdqbert.tensor_quant import QuantDescriptor

CLASSES = 3
ITEMS = 23


def items(count: int = ITEMS, seed: int = 0) -> list[dict[str, Any]]:
    """Unpadded texts of 4 to 13 tokens, whose class follows from their tokens."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(3, tiny_model.FIELDS["vocab_size"], rng.integers(4, 14))
        made.append({"input_ids": ids, "labels": int(ids[1:4].sum() % CLASSES)})
    return made


def collate(batch: Sequence[dict[str, Any]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pad, and replace some tokens at random."""
    length = max(len(item["input_ids"]) for item in batch)
    ids = np.zeros((len(batch), length), np.int64)
    for row, item in zip(ids, batch, strict=True):
        row[: len(item["input_ids"])] = item["input_ids"]
    mask = (ids != 0).astype(np.int64)
    ids[(rng.random(ids.shape) < 0.1) & (mask == 1)] = 3
    return {"input_ids": ids, "attention_mask": mask, "labels": np.array([item["labels"] for item in batch])}


def model(seed: int = 0, **changes: Any) -> Any:
    """A fresh tiny classifier, quantizers off."""
    made = qdqbert.QDQBertForSequenceClassification(
        tiny_model.config(num_labels=CLASSES, **changes), seed=seed
    )
    qdqbert.quantizers(made, {"*": "off"})
    return made


def calibrated(seed: int = 0, *, learns: bool = False) -> Any:
    """The same with all quantizers on, whose ranges are learned if asked."""
    before = QuantLinear.default_quant_desc_input
    QuantLinear.set_default_quant_desc_input(QuantDescriptor(8, learn_amax=learns))
    try:
        made = model(seed)
    finally:
        QuantLinear.set_default_quant_desc_input(before)
    qdqbert.quantizers(made, {"*": "on"})
    rng = np.random.default_rng(1)
    batches = [{k: v for k, v in collate(items(5, seed), rng).items() if k != "labels"} for seed in (5, 6)]
    qdqbert.calibrate(made, batches, method="max", progress=False)
    return made


def arguments(output_dir: str | Path, **changes: Any) -> TrainingArguments:
    """Two epochs of six batches, which are three steps, the last of one batch less."""
    fields: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 3e-3,
        "weight_decay": 0.05,
        "warmup_ratio": 0.2,
        "lr_scheduler_type": "cosine",
        "group_by_length": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 5,
        "data_seed": 6,
        "disable_tqdm": None,
        **changes,
    }
    return TrainingArguments(str(output_dir), **fields)


def trainer(
    output_dir: str | Path,
    *,
    trained: Any = None,
    callbacks: Any = (),
    distillation: Any = None,
    **changes: Any,
) -> Trainer:
    """A trainer of the tiny classifier."""
    return Trainer(
        model() if trained is None else trained,
        arguments(output_dir, **changes),
        data_collator=collate,
        train_dataset=items(),
        eval_dataset=items(7, seed=1),
        callbacks=list(callbacks),
        distillation=distillation,
    )


def quantized(output_dir: str | Path, **changes: Any) -> Trainer:
    """Quantization-aware training with moving ranges, evaluations, and checkpoints every other step."""
    fields: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 2,
        "evaluation_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 3,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        **changes,
    }
    return trainer(
        output_dir,
        trained=calibrated(),
        callbacks=[QuantizationAware(start_step=3, amax="moving", weights="max", momentum=0.9)],
        **fields,
    )


def is_time(name: str) -> bool:
    """Whether a figure differs from run to run because clocks do."""
    return name == "elapsed_s" or name.endswith(("_runtime", "_per_second"))


def without_times(value: Any) -> Any:
    """Return JSON without the figures that clocks made."""
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if not is_time(name)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """Every file of a run, as bytes, or as JSON without times where it has times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        if path.suffix == ".jsonl":
            found[name] = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
            if path.name == "progress.json":
                for of_times in ("files", "crc32"):
                    found[name].pop(of_times)
        else:
            found[name] = path.read_bytes()
    return found

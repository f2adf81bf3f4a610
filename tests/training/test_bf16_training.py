# SPDX-License-Identifier: Apache-2.0
"""``TrainingArguments(bf16=True)``: a run of the tiny classifier with bf16 products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

import qdqbert
import tiny_model
from qdqbert import Trainer, TrainerCallback
from qdqbert.errors import UnsupportedError


def model_on(isa: str = "ref", threads: int = 1) -> Any:
    made = qdqbert.QDQBertForSequenceClassification(
        tiny_model.config(num_labels=tiny_run.CLASSES),
        seed=0,
        device=qdqbert.Device(isa=isa, num_threads=threads),
    )
    qdqbert.quantizers(made, {"*": "off"})
    return made


class Stop(TrainerCallback):
    """Ctrl-C after a step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def run(folder: Path, *, threads: int = 1, resume: bool = False, **changes: Any) -> Trainer:
    trainer = tiny_run.trainer(folder, trained=model_on(threads=threads), **changes)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer: Trainer) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in trainer.model.state_dict().items()}


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_run_learns_as_one_of_floats_does(tmp_path: Path) -> None:
    floats = run(tmp_path / "floats", num_train_epochs=8)
    halves = run(tmp_path / "halves", num_train_epochs=8, bf16=True)
    assert halves.model.uses_bf16_products
    assert not floats.model.uses_bf16_products
    assert losses(halves) != losses(floats)
    assert np.mean(losses(halves)[-6:]) < 0.85 * np.mean(losses(halves)[:6])
    # Logits of order 1 are off by up to 2 * 2^-8 = 0.8 % of the terms of their last product, and losses by as
    # much; the rest is for what steps with slightly other gradients add.
    np.testing.assert_allclose(losses(halves), losses(floats), atol=0.02)
    # Master weights: what a step of 3e-3 leaves has more digits than a bfloat16.
    parameters = [np.asarray(p) for p in halves.model.parameters()]
    assert all((value.view(np.uint32) & 0xFFFF).any() for value in parameters)


def test_a_run_that_stopped_goes_on_with_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    changes = {"bf16": True, "save_strategy": "steps", "save_steps": 2}
    whole = run(tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", callbacks=[Stop()], **changes)
    resumed = run(tmp_path / "parts", threads=3, resume=True, **changes)
    assert resumed.state.global_step == whole.state.global_step > 3
    assert weights(resumed) == weights(whole)


def test_a_run_that_goes_on_with_other_products_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, bf16=True, save_strategy="steps", save_steps=2, max_steps=2)
    run(tmp_path, save_strategy="steps", save_steps=2, max_steps=2, resume=True)
    assert "resumed with other arguments than the run had: bf16=False (was True)" in caplog.text


def test_a_checkpoint_is_that_of_a_run_of_floats(tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "learning_rate": 0.0}
    folders = []
    for bf16 in (False, True):
        trainer = run(tmp_path / str(bf16), bf16=bf16, **changes)
        folders.append(Path(trainer.args.output_dir) / "checkpoint-2")
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in ("model.safetensors", "config.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_evaluations_in_between_are_those_of_floats(tmp_path: Path) -> None:
    trainer = run(tmp_path, bf16=True, evaluation_strategy="epoch")
    found = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    plain = tiny_run.trainer(tmp_path / "plain", trained=model_on())
    plain.model.load_state_dict(trainer.model.state_dict())
    assert found[-1] == plain.evaluate()["eval_loss"]


def test_quantization_aware_training_takes_it_too(tmp_path: Path) -> None:
    found = []
    for bf16 in (False, True):
        model = model_on()
        qdqbert.quantizers(model, {"*": "on"})
        batch = tiny_run.collate(tiny_run.items(5, 5), np.random.default_rng(1))
        batch.pop("labels")
        qdqbert.calibrate(model, [batch], method="max", progress=False)
        trainer = tiny_run.trainer(
            tmp_path / str(bf16), trained=model, callbacks=[qdqbert.QuantizationAware()], bf16=bf16
        )
        trainer.train()
        found.append(weights(trainer))
    assert found[0] != found[1]


def test_a_device_without_them_refuses_the_run_before_it_begins(tmp_path: Path) -> None:
    vectors = ("avx2", "avx512", "neon")
    lacking = [name for name, works in qdqbert._core.variants() if works and name in vectors]
    if not lacking:
        pytest.skip("this CPU runs the reference kernels alone")
    trainer = tiny_run.trainer(tmp_path / "out", trained=model_on(lacking[0]), bf16=True)
    with pytest.raises(UnsupportedError, match="have no bf16 products"):
        trainer.train()
    assert not (tmp_path / "out").exists()

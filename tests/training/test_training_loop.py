# SPDX-License-Identifier: Apache-2.0
"""The loop of a run: errors are told with their place, one run has a folder, and every end is a clean one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

import qdqbert
from qdqbert import QuantizationAware, TrainerCallback
from qdqbert.rules import named_quantizers
from qdqbert.training import ProgressCallback


@pytest.mark.parametrize("rubbish", [None, [1, 2], "text", (1, 2)], ids=repr)
def test_a_collator_that_gives_no_dict_is_named(tmp_path: Path, rubbish: Any) -> None:
    made = tiny_run.trainer(tmp_path)
    made.data_collator = lambda items: rubbish
    with pytest.raises(TypeError) as caught:
        made.train()
    assert str(caught.value) == (
        "step 1, batch 0 of epoch 0: expected a dict of arrays from the collator, got "
        f"{type(rubbish).__name__}"
    )


def test_a_batch_of_the_wrong_shape_is_told_with_its_place(tmp_path: Path) -> None:
    made = tiny_run.trainer(tmp_path)
    made.data_collator = lambda items: {"input_ids": [[5]], "labels": [0, 0]}
    with pytest.raises(qdqbert.ShapeError, match=r"^step 1, batch 0 of epoch 0: labels: expected"):
        made.train()


def test_errors_of_other_kinds_have_their_place_beside_them(tmp_path: Path) -> None:
    class Careless(qdqbert.Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
            return b"\xff".decode()  # an error that cannot be made of a text

    made = Careless(
        tiny_run.model(),
        tiny_run.arguments(tmp_path),
        data_collator=tiny_run.collate,
        train_dataset=tiny_run.items(),
    )
    with pytest.raises(UnicodeDecodeError, match="invalid start byte") as caught:
        made.train()
    assert caught.value.__notes__ == ["step 1, batch 0 of epoch 0"]


@pytest.mark.parametrize(("batches", "place"), [(1, "batch 2"), (2, "2 batches from 2 on")])
def test_an_item_that_cannot_be_read_has_its_place_beside_it(
    tmp_path: Path, batches: int, place: str
) -> None:
    class Torn(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            if index == 22:
                raise OSError("the file ends early")
            return super().__getitem__(index)

    made = tiny_run.trainer(
        tmp_path,
        group_by_length=False,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=batches,
        report_to="none",
    )
    made.get_train_dataloader = lambda: qdqbert.data.BatchLoader(Torn(tiny_run.items()), 8, tiny_run.collate)
    with pytest.raises(OSError, match="ends early") as caught:
        made.train()
    assert caught.value.__notes__ == [f"reading {place} of epoch 0"]


def test_a_folder_that_another_run_trains_in_is_refused(tmp_path: Path) -> None:
    class Second(qdqbert.TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for resume in (False, True):
                with pytest.raises(qdqbert.StateError, match="another run is training in"):
                    tiny_run.trainer(tmp_path).train(resume_from_checkpoint=resume)

    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    expected = tiny_run.trainer(tmp_path / "alone", **options)
    expected.train()
    first = tiny_run.trainer(tmp_path, callbacks=[Second()], **options)
    first.train()
    for name, value in expected.model.state_dict().items():
        np.testing.assert_array_equal(first.model.state_dict()[name], value, err_msg=name)
    assert tiny_run.trainer(tmp_path, **options).train(resume_from_checkpoint=True).global_step == 2


@pytest.mark.parametrize("event", ["on_log", "on_train_end", "on_train_abort"])
def test_a_callback_that_fails_at_the_end_leaves_the_model_as_a_run_does(tmp_path: Path, event: str) -> None:
    class Failing(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if event == "on_log" and "train_loss" in kwargs["logs"]:
                raise OSError("the tracker is gone")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if event != "on_log":
                raise OSError("the tracker is gone")

        def on_train_abort(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if event == "on_train_abort":
                raise OSError("so is what cleans up")

    model = tiny_run.calibrated()
    before = [quantizer._calibrator for _, quantizer in named_quantizers(model)]
    trainer = tiny_run.trainer(
        tmp_path,
        trained=model,
        callbacks=[Failing(), QuantizationAware(amax="moving")],
        disable_tqdm=False,
    )
    with pytest.raises(OSError, match="the tracker is gone"):
        trainer.train()
    assert [quantizer._calibrator for _, quantizer in named_quantizers(model)] == before
    assert trainer.pop_callback(ProgressCallback).training_bar is None
    assert not model.training

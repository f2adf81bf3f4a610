# SPDX-License-Identifier: Apache-2.0
"""`Trainer`: what it trains is what a loop by hand trains; figures, files, callbacks, refusals."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

import qdqbert
import tiny_model
from qdqbert import (
    EarlyStoppingCallback,
    EvalPrediction,
    NonFiniteError,
    StateError,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from qdqbert.data import BatchLoader
from qdqbert.optim import AdamW, clip_grad_norm_
from qdqbert.optim.lr_scheduler import get_scheduler
from qdqbert.training.columns import label_names


def weights(model: Any) -> dict[str, bytes]:
    return {name: np.asarray(value).tobytes() for name, value in model.state_dict().items()}


class Events(TrainerCallback):
    """Writes down what is called."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            self.names.append(name.removeprefix("on_"))
        return super().__getattribute__(name)


# ---- steps -------------------------------------------------------------------------------------------------


def test_a_loop_by_hand_gives_the_same_bits(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path)
    trainer.train()

    model = tiny_run.model()
    loader = BatchLoader(tiny_run.items(), 4, tiny_run.collate, shuffle=True, seed=6, group_by_length=True)
    optimizer = AdamW(model.parameter_groups(weight_decay=0.05), lr=3e-3, weight_decay=0.05)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=6)
    model.dropout_seed, model.dropout_step = 5, 0
    model.train()
    losses = []
    for epoch in range(2):
        batches = list(loader.batches(epoch))
        for group in (batches[:2], batches[2:4], batches[4:]):
            losses.append(0.0)
            for batch in group:
                loss = model(**batch).loss / len(group)
                loss.backward()
                losses[-1] += float(loss)
            clip_grad_norm_(model, 1.0)
            optimizer.step()
            schedule.step()
            model.zero_grad()

    assert weights(trainer.model) == weights(model)
    assert [entry["loss"] for entry in trainer.state.log_history[:-1]] == losses


def test_the_loss_falls_on_what_is_trained_on(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path, num_train_epochs=60, learning_rate=3e-3, logging_steps=30)
    trainer.train()
    first, *_, last = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # Three classes: a guess costs log 3.
    assert first > 0.8 * math.log(3)
    assert last < 0.5 * first


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    before, found = qdqbert.get_num_threads(), []
    try:
        for threads in (1, 2):
            qdqbert.set_num_threads(threads)
            trainer = tiny_run.quantized(tmp_path / str(threads))
            trainer.train()
            history = tiny_run.without_times(trainer.state.log_history)
            found.append((weights(trainer.model), history))
    finally:
        qdqbert.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("changes", "steps", "epochs"),
    [
        ({"num_train_epochs": 1}, 3, 1.0),
        ({"num_train_epochs": 1.5}, 5, 1 + 4 / 6),
        ({"num_train_epochs": 0.1}, 1, 2 / 6),
        ({"max_steps": 4}, 4, 1 + 2 / 6),
        ({"gradient_accumulation_steps": 1, "num_train_epochs": 1}, 6, 1.0),
        ({"gradient_accumulation_steps": 100, "num_train_epochs": 2}, 2, 2.0),
        ({"dataloader_drop_last": True, "num_train_epochs": 1}, 3, 1.0),
    ],
)
def test_a_run_ends_after_its_steps(
    tmp_path: Path, changes: dict[str, Any], steps: int, epochs: float
) -> None:
    trainer = tiny_run.trainer(tmp_path, **changes)
    result = trainer.train()
    assert result.global_step == trainer.state.global_step == trainer.state.max_steps == steps
    assert trainer.state.epoch == epochs


def test_optimizers_of_ones_own_are_used(tmp_path: Path) -> None:
    model = tiny_run.model()
    optimizer = qdqbert.optim.SGD(model.parameters(), lr=0.5)
    schedule = get_scheduler("constant", optimizer)
    before = weights(model)
    trainer = Trainer(
        model,
        tiny_run.arguments(tmp_path, max_steps=1, max_grad_norm=0.0),
        data_collator=tiny_run.collate,
        train_dataset=tiny_run.items(),
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    assert trainer.optimizer is optimizer
    assert trainer.state.log_history[0]["learning_rate"] == 0.5
    assert "grad_norm" not in trainer.state.log_history[0]
    assert weights(model) != before


def test_sgd_is_made_with_its_options(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path, optim="sgd", optim_args="momentum=0.9,nesterov=true", max_steps=2)
    trainer.train()
    group = trainer.optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0.05)


def test_a_stream_is_trained_on_for_its_steps(tmp_path: Path) -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(tiny_run.items(9))

    with pytest.raises(ValueError, match=r"^max_steps: expected a positive number for a dataset without"):
        Trainer(
            tiny_run.model(),
            tiny_run.arguments(tmp_path),
            data_collator=tiny_run.collate,
            train_dataset=Stream(),
        ).train()
    trainer = Trainer(
        tiny_run.model(),
        tiny_run.arguments(tmp_path, max_steps=5, gradient_accumulation_steps=1),
        data_collator=tiny_run.collate,
        train_dataset=Stream(),
    )
    trainer.train()
    assert trainer.state.global_step == 5


def test_loaders_of_ones_own_are_used(tmp_path: Path) -> None:
    class Mine(Trainer):
        def get_train_dataloader(self) -> Any:
            rng = np.random.default_rng(3)
            return [tiny_run.collate(tiny_run.items(3, seed), rng) for seed in range(4)]

    trainer = Mine(tiny_run.model(), tiny_run.arguments(tmp_path, num_train_epochs=2))
    trainer.train()
    assert trainer.state.global_step == 4


def test_checkpointing_of_gradients_changes_no_bit(tmp_path: Path) -> None:
    found = []
    for checkpoints in (False, True):
        trainer = tiny_run.trainer(tmp_path / str(checkpoints), gradient_checkpointing=checkpoints)
        trainer.train()
        assert trainer.model.is_gradient_checkpointing == checkpoints
        found.append(weights(trainer.model))
    assert found[0] == found[1]


def test_a_model_is_made_anew_for_each_run(tmp_path: Path) -> None:
    trainer = Trainer(
        model_init=tiny_run.model,
        args=tiny_run.arguments(tmp_path),
        data_collator=tiny_run.collate,
        train_dataset=tiny_run.items(),
    )
    trainer.train()
    first, model = weights(trainer.model), trainer.model
    trainer.train()
    assert trainer.model is not model
    assert weights(trainer.model) == first


def test_smoothed_labels_are_those_of_the_model(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(
        tmp_path, label_smoothing_factor=0.3, max_steps=1, gradient_accumulation_steps=1
    )
    trainer.train()
    model = tiny_run.model()
    model.dropout_seed, model.dropout_step = 5, 0
    batch = next(trainer.get_train_dataloader().batches(0))
    loss = model.train()(**batch, label_smoothing=0.3).loss
    assert trainer.state.log_history[0]["loss"] == float(loss)
    assert float(loss) != float(model.eval()(**batch).loss)
    trainer.data_collator = lambda items: {"input_ids": [[5, 6, 7]]}
    assert trainer.predict(tiny_run.items(1)).label_ids is None


def test_a_teacher_gives_the_loss(tmp_path: Path) -> None:
    teacher = tiny_run.model(seed=3)
    distillation = qdqbert.Distillation(teacher, temperature=3.0, alpha=0.7, hidden_weight=0.2)
    trainer = tiny_run.trainer(
        tmp_path, max_steps=1, gradient_accumulation_steps=1, distillation=distillation
    )
    trainer.train()
    model = tiny_run.model().train()
    model.dropout_seed, model.dropout_step = 5, 0
    loss = distillation(model, next(trainer.get_train_dataloader().batches(0)))
    assert trainer.state.log_history[0]["loss"] == float(loss)
    assert weights(teacher) == weights(tiny_run.model(seed=3))
    # An evaluation is against the labels.
    plain = tiny_run.trainer(tmp_path / "plain", trained=trainer.model)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


def test_soft_targets_are_not_smoothed(tmp_path: Path) -> None:
    distillation = qdqbert.Distillation(tiny_run.model(seed=3))
    with pytest.raises(ValueError, match="label_smoothing_factor must be 0"):
        tiny_run.trainer(tmp_path, label_smoothing_factor=0.1, distillation=distillation)


def test_heads_without_classes_have_nothing_to_smooth(tmp_path: Path) -> None:
    model = qdqbert.QDQBertForSequenceClassification(tiny_model.config(num_labels=1), seed=0)
    items = [{"input_ids": [5, 6, 7], "labels": 0.5}]
    arguments = tiny_run.arguments(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="label_smoothing: regression has no classes"):
        Trainer(model, arguments, train_dataset=items).train()


def test_language_models_score_the_labelled_tokens_alone(tmp_path: Path) -> None:
    items = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 9]} for _ in range(4)]
    found = []
    for labelled in (True, False):
        model = qdqbert.QDQBertForMaskedLM(tiny_model.config(), seed=0)

        class Plain(Trainer):
            def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
                return model(**inputs).loss

        kind = Trainer if labelled else Plain
        trainer = kind(model, tiny_run.arguments(tmp_path / str(labelled), max_steps=2), train_dataset=items)
        trainer.train()
        found.append(weights(trainer.model))
    assert found[0] == found[1]


# ---- evaluation --------------------------------------------------------------------------------------------


def test_an_evaluation_is_that_of_the_model(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path, per_device_eval_batch_size=3)
    trainer.data_collator = plain = lambda items: tiny_run.collate(items, np.random.default_rng(0))
    items = tiny_run.items(7, seed=1)
    batches = [plain(items[i : i + 3]) for i in (0, 3, 6)]
    trainer.compute_metrics = lambda p: {
        "accuracy": np.float32((p.predictions.argmax(1) == p.label_ids).mean())
    }
    metrics = trainer.evaluate()
    outputs = [trainer.model(**batch) for batch in batches]
    logits = np.concatenate([out.logits for out in outputs])
    labels = np.concatenate([batch["labels"] for batch in batches])
    expected = sum(float(out.loss) * len(b["labels"]) for out, b in zip(outputs, batches, strict=True)) / 7
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-12)
    assert metrics["eval_accuracy"] == float(np.float32((logits.argmax(1) == labels).mean()))
    assert type(metrics["eval_accuracy"]) is float
    prediction = trainer.predict(items)
    np.testing.assert_array_equal(prediction.predictions, logits)
    np.testing.assert_array_equal(prediction.label_ids, labels)
    assert prediction.metrics["test_loss"] == metrics["eval_loss"]


def test_an_evaluation_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    trainers = [
        tiny_run.trainer(tmp_path / strategy, evaluation_strategy=strategy, eval_steps=1)
        for strategy in ("no", "steps")
    ]
    for trainer in trainers:
        trainer.train()
    assert weights(trainers[0].model) == weights(trainers[1].model)
    assert sum("eval_loss" in entry for entry in trainers[1].state.log_history) == 6


def test_predictions_of_other_lengths_are_filled_up(tmp_path: Path) -> None:
    items = [{"input_ids": [5, 6, 7], "start_positions": 1, "end_positions": 2}]
    items += [{"input_ids": [5, 6, 7, 8, 9], "start_positions": 1, "end_positions": 2}]
    trainer = Trainer(
        tiny_model.question_answering(),
        TrainingArguments(str(tmp_path), per_device_eval_batch_size=1),
        eval_dataset=items,
    )
    assert trainer.label_names == ["start_positions", "end_positions"]
    start, end = trainer.predict(items).predictions
    assert start.shape == end.shape == (2, 5)
    assert (start[0, 3:] == -100).all()
    assert (start[1] != -100).all()


def test_items_without_labels_are_predicted(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path)
    trainer.data_collator = lambda items: {"input_ids": [list(item["input_ids"]) for item in items]}
    prediction = trainer.predict([{"input_ids": [5, 6, 7]}, {"input_ids": [7, 6, 5]}])
    assert prediction.predictions.shape == (2, tiny_run.CLASSES)
    assert prediction.label_ids is None
    assert "test_loss" not in prediction.metrics


def test_data_sets_of_a_dict_are_scored_under_their_names(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path)
    metrics = trainer.evaluate({"near": tiny_run.items(3, seed=1), "far": tiny_run.items(4, seed=2)})
    assert {"eval_near_loss", "eval_far_loss"} <= set(metrics)


def test_a_task_scores_answers(tmp_path: Path) -> None:
    from qdqbert.cli.demo import bundled_folder

    folder = bundled_folder()
    model = qdqbert.QDQBertForSequenceClassification.from_pretrained(folder)
    tokenizer = qdqbert.BertTokenizerFast.from_pretrained(folder)
    task = qdqbert.tasks.TextClassification.read(folder / "test.tsv", tokenizer, model.config)
    task = task.select(range(20))
    metrics = Trainer(model, TrainingArguments(str(tmp_path)), eval_dataset=task).evaluate()
    assert metrics["eval_accuracy"] == task.evaluate(model).metrics["accuracy"]
    assert metrics["eval_samples"] == 20


def test_logits_are_reduced_before_they_are_kept(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path)
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(axis=-1)
    seen: list[EvalPrediction] = []
    trainer.compute_metrics = lambda prediction: seen.append(prediction) or {}  # type: ignore[func-returns-value]
    trainer.args.include_inputs_for_metrics = True
    trainer.evaluate()
    assert seen[0].predictions.shape == (7,)
    assert seen[0].inputs.shape[0] == 7


def test_only_the_loss_is_kept_if_asked(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path, prediction_loss_only=True)
    prediction = trainer.predict(tiny_run.items(3))
    assert prediction.predictions is prediction.label_ids is None
    assert "test_loss" in prediction.metrics


# ---- events and logs ---------------------------------------------------------------------------------------


def test_events_come_in_their_order(tmp_path: Path) -> None:
    events = Events()
    trainer = tiny_run.trainer(
        tmp_path,
        callbacks=[events],
        num_train_epochs=1,
        evaluation_strategy="epoch",
        save_strategy="epoch",
        logging_steps=2,
        per_device_eval_batch_size=8,
    )
    trainer.train()
    step = ["step_begin", "substep_end", "step_end"]
    end = ["epoch_end", "prediction_step", "log", "evaluate", "save", "log", "train_end"]
    assert events.names == ["init_end", "train_begin", "epoch_begin", *step, *step, "log", *step, *end]


def test_the_log_has_the_losses_since_the_last_entry(tmp_path: Path) -> None:
    each = tiny_run.trainer(tmp_path / "each")
    each.train()
    some = tiny_run.trainer(tmp_path / "some", logging_steps=4)
    result = some.train()
    losses = [entry["loss"] for entry in each.state.log_history[:-1]]
    assert some.state.log_history[0]["loss"] == pytest.approx(sum(losses[:4]) / 4, rel=1e-15)
    assert result.training_loss == pytest.approx(sum(losses) / 6, rel=1e-15)
    assert [entry["step"] for entry in some.state.log_history] == [4, 6]


def test_tokens_are_counted_if_asked(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(
        tmp_path, include_num_input_tokens_seen=True, include_tokens_per_second=True, num_train_epochs=1
    )
    metrics = trainer.train().metrics
    batches = trainer.get_train_dataloader().batches(0)
    tokens = sum(batch["input_ids"].size for batch in batches)
    assert (
        trainer.state.num_input_tokens_seen
        == tokens
        == trainer.state.log_history[-1]["num_input_tokens_seen"]
    )
    parameters = trainer.model.num_parameters(exclude_embeddings=True)
    assert trainer.state.total_flos == 6 * tokens * parameters
    assert metrics["train_tokens_per_second"] > 0


def test_fields_that_the_model_does_not_take_are_left_out(tmp_path: Path) -> None:
    seen: set[str] = set()

    def collate(items: Any) -> Any:
        seen.update(*items)
        return tiny_run.collate(items, np.random.default_rng(0))

    items = [{**item, "offset_mapping": [(0, 1)], "text": "text"} for item in tiny_run.items(4)]
    for removes, expected in ((True, {"input_ids", "labels"}), (False, set(items[0]))):
        seen.clear()
        arguments = tiny_run.arguments(tmp_path / str(removes), max_steps=1, remove_unused_columns=removes)
        Trainer(tiny_run.model(), arguments, data_collator=collate, train_dataset=items).train()
        assert seen == expected


def test_metrics_and_state_are_written_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_run.trainer(tmp_path / "out", max_steps=1)
    metrics = trainer.train().metrics
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_metrics("eval", {"eval_loss": 0.5})
    trainer.save_state()
    assert "***** train metrics *****" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        *("train_results.json", "eval_results.json", "all_results.json", "trainer_state.json", "log.jsonl"),
    }
    combined = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert combined == {**metrics, "eval_loss": 0.5}


@pytest.mark.parametrize(
    ("disabled", "out", "err"), [(True, "{'loss'", ""), (False, "", "6/6"), (None, "", "")]
)
def test_a_run_shows_what_was_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], disabled: bool | None, out: str, err: str
) -> None:
    tiny_run.trainer(tmp_path, disable_tqdm=disabled).train()
    found = capfd.readouterr()
    assert out in found.out
    assert err in found.err
    assert bool(out) == bool(found.out)
    assert bool(err) == bool(found.err)


# ---- errors ------------------------------------------------------------------------------------------------


def set_weight(model: Any, name: str, value: float) -> None:
    tensor = np.array(model.state_dict()[name])
    tensor[:] = value
    model.load_state_dict({name: tensor}, strict=False)


def test_a_loss_that_is_not_finite_names_step_batch_and_layer(tmp_path: Path) -> None:
    class Breaking(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                set_weight(kwargs["model"], "bert.encoder.layer.1.intermediate.dense.weight", 3e38)

    trainer = tiny_run.trainer(tmp_path, callbacks=[Breaking()], save_strategy="steps", save_steps=2)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    text = str(caught.value)
    assert text.startswith("step 5, batch 2 of epoch 1: the loss is nan: ")
    assert "bert.encoder.layer.1 is not finite" in text
    assert trainer.state.global_step == 4
    assert isinstance(caught.value, FloatingPointError)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_gradients_that_are_not_finite_change_no_weight(tmp_path: Path, value: float) -> None:
    class Breaking(Trainer):
        def training_step(self, model: Any, inputs: Any) -> float:
            loss = super().training_step(model, inputs)
            parameter = dict(model.named_parameters())["bert.pooler.dense.bias"]
            parameter.grad = np.full(parameter.shape, value, np.float32)
            return loss

    model = tiny_run.model()
    before = weights(model)
    trainer = Breaking(
        model, tiny_run.arguments(tmp_path), data_collator=tiny_run.collate, train_dataset=tiny_run.items()
    )
    message = (
        r"^step 1: the norm of the gradients is not finite: the gradient of bert\.pooler\.dense\.bias is "
    )
    with pytest.raises(NonFiniteError, match=message):
        trainer.train()
    assert weights(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_the_model_says_of_a_bad_batch_is_told_with_its_place(tmp_path: Path) -> None:
    items = tiny_run.items(8)
    items[3]["labels"] = 77
    trainer = tiny_run.trainer(tmp_path, group_by_length=False, per_device_train_batch_size=8)
    trainer.train_dataset = items
    with pytest.raises(IndexError, match=r"^step 1, batch 0 of epoch 0: .*77"):
        trainer.train()
    assert not trainer.model.training


def test_a_model_without_labels_gives_no_loss(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path)
    trainer.data_collator = lambda items: {"input_ids": [[5, 6, 7]]}
    with pytest.raises(
        ValueError, match=r"gave no loss: expected labels \(labels\), the batch has input_ids"
    ):
        trainer.train()


def test_data_are_needed(tmp_path: Path) -> None:
    trainer = Trainer(tiny_run.model(), TrainingArguments(str(tmp_path)))
    with pytest.raises(ValueError, match="train_dataset: expected one"):
        trainer.train()
    with pytest.raises(ValueError, match="eval_dataset: expected one"):
        trainer.evaluate()
    trainer.train_dataset = []
    with pytest.raises(ValueError, match="expected at least one batch"):
        trainer.train()


def test_a_model_or_its_maker_is_needed(tmp_path: Path) -> None:
    for given in ({}, {"model": tiny_run.model(), "model_init": tiny_run.model}):
        with pytest.raises(ValueError, match="model, model_init: expected one of them"):
            Trainer(args=TrainingArguments(str(tmp_path)), **given)
    model = tiny_run.model()
    schedule = get_scheduler("constant", AdamW(model.parameters()))
    with pytest.raises(ValueError, match="a schedule without its optimizer"):
        Trainer(model, TrainingArguments(str(tmp_path)), optimizers=(None, schedule))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 4, "max_steps": 4}
    tiny_run.trainer(tmp_path, **options).train()
    with pytest.raises(StateError, match=r"has 1 checkpoints of an earlier run, up to checkpoint-4; "):
        tiny_run.trainer(tmp_path, **options).train()
    tiny_run.trainer(tmp_path, overwrite_output_dir=True, max_steps=3, save_strategy="epoch").train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="has no complete checkpoint"):
        tiny_run.trainer(tmp_path).train(resume_from_checkpoint=True)
    with pytest.raises(qdqbert.CheckpointError, match=r"has no progress\.json"):
        tiny_run.trainer(tmp_path).train(resume_from_checkpoint=tmp_path)


def test_checkpoints_and_best_models_are_kept(tmp_path: Path) -> None:
    scores = iter([0.5, 0.9, 0.7, 0.8, 0.6, 0.1])
    saved = {}

    class Watching(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            saved[state.global_step] = weights(kwargs["model"])

    trainer = tiny_run.trainer(
        tmp_path,
        callbacks=[Watching()],
        evaluation_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    trainer.compute_metrics = lambda prediction: {"score": next(scores)}
    trainer.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-6"}
    assert trainer.state.best_metric == 0.9
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert weights(trainer.model) == saved[2] != saved[6]


def test_labels_are_smoothed_whatever_label_names_says(tmp_path: Path) -> None:
    made = [{"label_smoothing_factor": 0.2, "label_names": names} for names in (None, ["score"])]
    assert len({tiny_run.trainer(tmp_path, **each).train().training_loss for each in made}) == 1


def test_a_figure_that_is_nan_is_not_the_best_for_good(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(
        tmp_path,
        evaluation_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="score",
        num_train_epochs=3,
    )
    scores = iter([np.nan, 0.5, np.nan])
    trainer.compute_metrics = lambda prediction: {"score": next(scores)}
    trainer.train()
    assert trainer.state.best_metric == 0.5
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-6")


def test_a_limit_of_one_leaves_the_best_at_the_end(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(
        tmp_path,
        evaluation_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        num_train_epochs=3,
    )
    scores = iter([0.5, 0.9, 0.7])
    trainer.compute_metrics = lambda prediction: {"score": next(scores)}
    trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_figure_that_is_missing_is_named(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(
        tmp_path,
        evaluation_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="f1",
    )
    with pytest.raises(ValueError, match="metric_for_best_model: the evaluation has no 'eval_f1'; it has"):
        trainer.train()


def test_early_stopping_ends_a_run(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(
        tmp_path,
        callbacks=[EarlyStoppingCallback(2)],
        evaluation_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="score",
        num_train_epochs=9,
    )
    scores = iter([0.5, 0.9, 0.7, 0.8, 0.95])
    trainer.compute_metrics = lambda prediction: {"score": next(scores)}
    assert trainer.train().global_step == 12


def test_checkpoints_open_as_models(tmp_path: Path) -> None:
    trainer = tiny_run.quantized(tmp_path)
    trainer.train()
    last = sorted(tmp_path.glob("checkpoint-*"))[-1]
    model = qdqbert.QDQBertForSequenceClassification.from_pretrained(last)
    assert (last / "training_args.json").is_file()
    state = qdqbert.TrainerState.load_from_json(last / "trainer_state.json")
    assert state.global_step == 6
    assert model(**{"input_ids": [[5, 6, 7]]}).logits.shape == (1, 3)


def test_the_level_of_the_log_is_set_while_training(tmp_path: Path) -> None:
    levels = []

    class Watching(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            levels.append(logging.getLogger("qdqbert").level)

    before = logging.getLogger("qdqbert").level
    tiny_run.trainer(tmp_path, callbacks=[Watching()], log_level="error", max_steps=1).train()
    assert levels == [logging.ERROR]
    assert logging.getLogger("qdqbert").level == before


def test_callbacks_are_added_and_taken_out(tmp_path: Path) -> None:
    trainer = tiny_run.trainer(tmp_path)
    trainer.add_callback(Events)
    assert isinstance(trainer.pop_callback(Events), Events)
    trainer.remove_callback(Events)
    assert repr(trainer).startswith("Trainer(QDQBertForSequenceClassification, step 0 of 0, ")
    assert trainer.is_world_process_zero()
    assert trainer.is_local_process_zero()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (qdqbert.QDQBertForNextSentencePrediction, ["labels"]),
        (qdqbert.QDQBertForMaskedLM, ["labels"]),
        (qdqbert.QDQBertForQuestionAnswering, ["start_positions", "end_positions"]),
        (qdqbert.QDQBertModel, []),
    ],
)
def test_keywords_of_the_forward_are_no_labels(kind: Any, names: list[str]) -> None:
    assert label_names(kind(tiny_model.config())) == names

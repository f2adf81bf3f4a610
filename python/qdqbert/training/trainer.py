# SPDX-License-Identifier: Apache-2.0
"""`Trainer`: fine-tune, evaluate, predict; with the arguments, callbacks and files of transformers'."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qdqbert.distillation import Distillation
from qdqbert.errors import StateError
from qdqbert.loss import require_loss
from qdqbert.serialization.atomic import write_text
from qdqbert.serialization.folder import read_json
from qdqbert.tasks.task import Task
from qdqbert.training.arguments import OptimizerNames, TrainingArguments
from qdqbert.training.callback import CallbackHandler, DefaultFlowCallback, TrainerCallback
from qdqbert.training.checkpoint_folder import STATE_NAME, clear_leftovers, get_last_checkpoint
from qdqbert.training.columns import forward_arguments, keep_columns, label_names
from qdqbert.training.evaluation import evaluate_batches, evaluate_task, only
from qdqbert.training.optimizer_arguments import sgd_options
from qdqbert.training.reporting import (
    JsonLinesCallback,
    PrinterCallback,
    ProgressCallback,
    log_level,
    metrics_text,
)
from qdqbert.training.trainer_state import (
    EvalLoopOutput,
    EvalPrediction,
    PredictionOutput,
    TrainerControl,
    TrainerState,
    TrainOutput,
)
from qdqbert.training.training_loop import TrainingLoop, speed_metrics

__all__ = ["Trainer"]

_logger = logging.getLogger(__name__)


class Trainer:
    """Train a model on data, with checkpoints that a run can be resumed from, bit for bit.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
        Trained in place.
    args : TrainingArguments, optional
        By default those of ``TrainingArguments("tmp_trainer")``.
    data_collator : callable (items) -> dict of arrays, or (items, rng) -> dict of arrays, optional
        Makes a batch of items.  Whatever it draws at random should come from a parameter `rng`, a
        ``numpy.random.Generator`` that follows from seed, epoch and batch: then a resumed run draws the same.
        By default `qdqbert.data.DataCollatorWithPadding` with a tokenizer, ``default_data_collator`` without.
    train_dataset : sequence or iterable of mappings, optional
        Items with the model's arguments: ``input_ids``, ``labels`` ...  An iterable without a length is
        streamed; it needs ``max_steps``.
    eval_dataset : sequence of mappings, qdqbert.tasks.Task, or dict of them, optional
        For `evaluate`; of a dict, each under its name.  A task, such as ``qdqbert.tasks.SQuAD.read(...)``,
        scores answers instead of losses.
    tokenizer : BertTokenizerFast, optional
        Pads, and is saved with the model.
    model_init : callable () -> model, optional
        Instead of `model`: makes it, anew for each call of `train` that does not resume.
    compute_metrics : callable (EvalPrediction) -> dict, optional
        Figures of an evaluation beside the loss.
    callbacks : list of TrainerCallback or of their classes, optional
        Called after those that every trainer has.
    optimizers : (optimizer, lr_scheduler)
        Instead of those that the arguments describe; see `qdqbert.optim`.
    preprocess_logits_for_metrics : callable (logits, labels) -> logits, optional
        Reduces a batch's logits before they are kept.
    distillation : qdqbert.Distillation, optional
        Trains against a teacher: what makes a small budget of quantization-aware training go far.

    Attributes
    ----------
    state : TrainerState
    control : TrainerControl
    optimizer, lr_scheduler : object
        None before `train`.

    Raises
    ------
    ValueError
        If neither or both of `model` and `model_init` are given, or arguments contradict each other.

    Notes
    -----
    Equal runs have equal bits, whatever the number of threads: dropout, the order of the data and the masks
    of collators follow from the seeds, and gradients have one order of operations.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        tokenizer: Any = None,
        model_init: Callable[[], Any] | None = None,
        compute_metrics: Callable[[EvalPrediction], Mapping[str, Any]] | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        *,
        distillation: Distillation | None = None,
    ) -> None:
        if (model is None) == (model_init is None):
            raise ValueError("model, model_init: expected one of them")
        self.args: TrainingArguments = TrainingArguments("tmp_trainer") if args is None else args
        self.model_init: Callable[[], Any] | None = model_init
        self.model: Any = model_init() if model_init is not None else model
        self.tokenizer: Any = tokenizer
        self.train_dataset: Any = train_dataset
        self.eval_dataset: Any = eval_dataset
        self.compute_metrics: Callable[[EvalPrediction], Mapping[str, Any]] | None = compute_metrics
        self.preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = preprocess_logits_for_metrics
        self.distillation: Distillation | None = distillation
        if distillation is not None and self.args.label_smoothing_factor > 0:
            raise ValueError("distillation: the teacher's targets are soft; label_smoothing_factor must be 0")
        self.data_collator: Callable[..., Any] = data_collator or self._default_collator()
        self.optimizer: Any = optimizers[0]
        self.lr_scheduler: Any = optimizers[1]
        self._makes_optimizer = self.optimizer is None
        self._makes_scheduler = self.lr_scheduler is None
        if self.lr_scheduler is not None and self.optimizer is None:
            raise ValueError("optimizers: a schedule without its optimizer cannot be used")
        self.state: TrainerState = TrainerState()
        self.control: TrainerControl = TrainerControl()
        self.is_in_train: bool = False
        self._batches_of_step = 1
        self.label_names: list[str] = self.args.label_names or label_names(self.model)
        built_in: list[Any] = [DefaultFlowCallback]
        if "jsonl" in self.args.report_to:
            built_in.append(JsonLinesCallback)
        if self.args.disable_tqdm:
            built_in.append(PrinterCallback)
        elif self.args.disable_tqdm is False or (sys.stderr is not None and sys.stderr.isatty()):
            built_in.append(ProgressCallback)
        self.callback_handler: CallbackHandler = CallbackHandler(
            [*built_in, *(callbacks or ())], self.model, tokenizer
        )
        self._call("on_init_end")

    # ---- training ------------------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        *,
        ignore_keys_for_eval: Sequence[str] | None = None,
    ) -> TrainOutput:
        """Train to the end.

        Parameters
        ----------
        resume_from_checkpoint : path or bool, optional
            A checkpoint's folder, or True: the last complete one in ``args.output_dir``.  The run goes on as
            if it had never stopped.  By default what the arguments say.
        ignore_keys_for_eval : sequence of str, optional
            Outputs of the model that evaluations do not keep.

        Returns
        -------
        TrainOutput
            Steps, mean loss, figures.

        Raises
        ------
        NonFiniteError
            If a loss or the gradients are NaN or infinite; with step, batch and place in the model.
        StateError
            If ``output_dir`` has checkpoints of a run that is not resumed (see ``overwrite_output_dir``), or
            another run is training in it, or every parameter is frozen.
        CheckpointError
            If there is nothing to resume from, or it does not fit.
        ValueError
            If there are no data, or an argument does not fit them.
        UnsupportedError
            If ``bf16`` is asked for and the model's device has no such products.
        OSError
            If a checkpoint cannot be written; earlier ones are whole.
        KeyboardInterrupt
            The model is as the last finished step left it; checkpoints are whole.
        """
        if self.train_dataset is None and type(self).get_train_dataloader is Trainer.get_train_dataloader:
            raise ValueError("train_dataset: expected one, to train on")
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        resume_from = self._checkpoint(resume_from_checkpoint)
        if self.model_init is not None:
            self.model = self.callback_handler.model = self.model_init()
        with log_level(self.args.log_level):
            self.is_in_train = True
            try:
                return TrainingLoop(self, resume_from, ignore_keys_for_eval).run()
            finally:
                self.is_in_train = False

    def training_step(self, model: Any, inputs: dict[str, Any]) -> float:
        """Add the gradients of one batch; to be overridden for other ways to do that.

        Parameters
        ----------
        model : QDQBertPreTrainedModel
            In training mode.
        inputs : dict of arrays

        Returns
        -------
        float
            The batch's share of the step's loss: its loss over the number of batches of the step.

        Raises
        ------
        TypeError
            If `compute_loss` returns something that cannot be walked back.
        """
        loss = require_loss("compute_loss", self.compute_loss(model, inputs))
        share = loss / self._batches_of_step if self._batches_of_step > 1 else loss
        if math.isfinite(share):
            share.backward()
        return float(share)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        """Return the loss of one batch; to be overridden for other losses.

        Parameters
        ----------
        model : QDQBertPreTrainedModel
        inputs : dict of arrays
        return_outputs : bool
            Return the model's outputs too.

        Returns
        -------
        Loss, or (Loss, ModelOutput)

        Raises
        ------
        ValueError
            If the model gives no loss, for want of labels, or there are no classes to smooth.
        """
        if self.distillation is not None and model.training and not return_outputs:
            return self.distillation(model, inputs)
        options: dict[str, Any] = {}
        # Labels that args.label_names leaves out give a loss too.
        if any(name in inputs for name in (*self.label_names, *label_names(model))):
            if self.args.label_smoothing_factor > 0:
                options["label_smoothing"] = self.args.label_smoothing_factor
            # The same loss; the logits of other tokens are most of the work of a language model.
            if model.training and not return_outputs and "only_labelled" in forward_arguments(model):
                options["only_labelled"] = True
        outputs = model(**inputs, **options)
        loss = outputs.get("loss")
        if loss is None:
            raise ValueError(
                f"{type(model).__name__} gave no loss: expected labels ({', '.join(self.label_names)}), the "
                f"batch has {', '.join(inputs)}"
            )
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self) -> Any:
        """Return the batches of training; to be overridden for other loaders.

        Returns
        -------
        qdqbert.data.BatchLoader
            Or any iterable of dicts of arrays, which is read again for each epoch.
        """
        args = self.args
        return self._loader(
            self.train_dataset,
            args.train_batch_size,
            shuffle=True,
            group_by_length=args.group_by_length,
            drop_last=args.dataloader_drop_last,
        )

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Make what `optimizers` did not give.

        Parameters
        ----------
        num_training_steps : int
            Of the whole run.
        """
        self.create_optimizer()
        self.create_scheduler(num_training_steps)

    def create_optimizer(self) -> Any:
        """Make the optimizer of the arguments, unless there is one; to be overridden for others.

        Returns
        -------
        optimizer
        """
        if not self._makes_optimizer:
            return self.optimizer
        from qdqbert import optim

        args = self.args
        groups = self.model.parameter_groups(weight_decay=args.weight_decay)
        if args.optim == OptimizerNames.SGD:
            self.optimizer = optim.SGD(groups, lr=args.learning_rate, **sgd_options(args.optim_args))
        else:
            self.optimizer = optim.AdamW(
                groups,
                lr=args.learning_rate,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
                weight_decay=args.weight_decay,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule of the arguments, unless there is one; to be overridden for others.

        Parameters
        ----------
        num_training_steps : int
            Of the whole run.
        optimizer : optional
            Instead of the trainer's.

        Returns
        -------
        lr_scheduler
        """
        if self._makes_scheduler:
            from qdqbert.optim.lr_scheduler import get_scheduler

            self.lr_scheduler = get_scheduler(
                str(self.args.lr_scheduler_type),
                self.optimizer if optimizer is None else optimizer,
                num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
                num_training_steps=num_training_steps,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )
        return self.lr_scheduler

    # ---- evaluation ----------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Sequence[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score the model, and log the figures.

        Parameters
        ----------
        eval_dataset : sequence of mappings, qdqbert.tasks.Task, or dict of them, optional
            Instead of the trainer's.
        ignore_keys : sequence of str, optional
            Outputs of the model that are not kept.
        metric_key_prefix : str
            What the names of figures begin with.

        Returns
        -------
        dict
            ``eval_loss``, what ``compute_metrics`` returns, and speeds.

        Raises
        ------
        ValueError
            If there are no data.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            metrics: dict[str, float] = {}
            for name, each in dataset.items():
                metrics.update(self.evaluate(each, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        begin = time.monotonic()
        if isinstance(dataset, Task):
            output = evaluate_task(self, dataset, metric_key_prefix)
        else:
            output = self.evaluation_loop(
                self.get_eval_dataloader(dataset),
                prediction_loss_only=True if self.compute_metrics is None else None,
                ignore_keys=ignore_keys,
                metric_key_prefix=metric_key_prefix,
            )
        if output.num_samples == 0:
            raise ValueError("eval_dataset: expected items to score, found none")
        batches = math.ceil(output.num_samples / self.args.eval_batch_size)
        output.metrics.update(speed_metrics(metric_key_prefix, begin, output.num_samples, batches))
        self.log(output.metrics)
        self._call("on_evaluate", metrics=output.metrics)
        return output.metrics

    def predict(
        self, test_dataset: Any, ignore_keys: Sequence[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Run the model on data and keep its outputs.

        Parameters
        ----------
        test_dataset : sequence of mappings
            With labels or without.
        ignore_keys : sequence of str, optional
            Outputs of the model that are not kept.
        metric_key_prefix : str
            What the names of figures begin with.

        Returns
        -------
        PredictionOutput
        """
        begin = time.monotonic()
        output = self.evaluation_loop(
            self.get_test_dataloader(test_dataset),
            ignore_keys=ignore_keys,
            metric_key_prefix=metric_key_prefix,
        )
        batches = math.ceil(output.num_samples / self.args.eval_batch_size)
        output.metrics.update(speed_metrics(metric_key_prefix, begin, output.num_samples, batches))
        self._call("on_predict", metrics=output.metrics)
        return PredictionOutput(output.predictions, output.label_ids, output.metrics)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str = "evaluation",
        prediction_loss_only: bool | None = None,
        ignore_keys: Sequence[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the model, in evaluation mode, on every batch.

        Parameters
        ----------
        dataloader : BatchLoader or iterable of dicts of arrays
        description : str
            For the log.
        prediction_loss_only : bool, optional
            Keep the loss alone; by default what the arguments say.
        ignore_keys : sequence of str, optional
            Outputs that are not kept.
        metric_key_prefix : str
            What the names of figures begin with.

        Returns
        -------
        EvalLoopOutput
        """
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        _logger.info("%s begins", description)
        self.callback_handler.eval_dataloader = dataloader
        return evaluate_batches(self, dataloader, loss_only, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: Sequence[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Run the model on one batch; to be overridden for other predictions.

        Parameters
        ----------
        model : QDQBertPreTrainedModel
            In evaluation mode.
        inputs : dict of arrays
        prediction_loss_only : bool
            Return the loss alone.
        ignore_keys : sequence of str, optional
            Outputs to drop.

        Returns
        -------
        (loss, logits, labels)
            Each None where there is none; tuples where there are several arrays.
        """
        has_labels = all(inputs.get(name) is not None for name in self.label_names) and self.label_names
        if has_labels:
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        else:
            loss, outputs = None, model(**inputs)
        if prediction_loss_only:
            return loss, None, None
        dropped = {"loss", *(ignore_keys or ())}
        logits = tuple(value for name, value in outputs.items() if name not in dropped)
        labels = tuple(np.asarray(inputs[name]) for name in self.label_names) if has_labels else None
        return loss, only(logits), only(labels)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the batches of an evaluation, in the order of the data.

        Parameters
        ----------
        eval_dataset : sequence of mappings, optional
            Instead of the trainer's.

        Raises
        ------
        ValueError
            If there is none.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("eval_dataset: expected one, to evaluate on")
        return self._loader(dataset, self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return the batches of a prediction, in the order of the data.

        Parameters
        ----------
        test_dataset : sequence of mappings
        """
        return self._loader(test_dataset, self.args.eval_batch_size)

    # ---- files and logs ------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | os.PathLike[str] | None = None) -> None:
        """Write model, tokenizer and ``training_args.json``, so that ``from_pretrained`` reads them.

        Parameters
        ----------
        output_dir : str or path, optional
            ``args.output_dir`` by default.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        self.model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        write_text(folder / "training_args.json", self.args.to_json_string() + "\n")

    def save_state(self) -> None:
        """Write ``trainer_state.json`` into ``args.output_dir``."""
        Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
        self.state.save_to_json(Path(self.args.output_dir) / STATE_NAME)

    def log(self, logs: dict[str, Any]) -> None:
        """Add figures to ``state.log_history`` and show them to the callbacks.

        Parameters
        ----------
        logs : dict
            Is given ``epoch``, and the tokens so far if the arguments ask for them.
        """
        if self.state.epoch is not None:
            logs["epoch"] = round(self.state.epoch, 2)
        if self.args.include_num_input_tokens_seen:
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self._call("on_log", logs=dict(logs))

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print figures, one a line, sorted by name.

        Parameters
        ----------
        split : str
            ``"train"``, ``"eval"`` or ``"test"``, for the title.
        metrics : mapping
        """
        print(metrics_text(split, metrics))

    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write figures to ``<split>_results.json`` in ``args.output_dir``.

        Parameters
        ----------
        split : str
        metrics : mapping
        combined : bool
            Also put them into ``all_results.json``, beside those of other splits.

        Raises
        ------
        OSError
            If a file cannot be written.
        CheckpointError
            If an older ``all_results.json`` cannot be read.
        """
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{split}_results.json", json.dumps(dict(metrics), indent=4, sort_keys=True))
        if combined:
            path = folder / "all_results.json"
            known = read_json(path) if path.is_file() else {}
            write_text(path, json.dumps({**known, **metrics}, indent=4, sort_keys=True))

    # ---- callbacks -----------------------------------------------------------------------------------------

    def add_callback(self, callback: Any) -> None:
        """Append a callback.

        Parameters
        ----------
        callback : TrainerCallback, or a class of them
        """
        self.callback_handler.add(callback)

    def pop_callback(self, callback: Any) -> TrainerCallback | None:
        """Take a callback out and return it; None if there is none.

        Parameters
        ----------
        callback : TrainerCallback, or a class: the first one of it
        """
        return self.callback_handler.pop(callback)

    def remove_callback(self, callback: Any) -> None:
        """Take a callback out.

        Parameters
        ----------
        callback : TrainerCallback, or a class: the first one of it
        """
        self.callback_handler.pop(callback)

    def is_local_process_zero(self) -> bool:
        """Return True: there is one process."""
        return True

    def is_world_process_zero(self) -> bool:
        """Return True: there is one process."""
        return True

    # ---- pieces --------------------------------------------------------------------------------------------

    def _call(self, event: str, **kwargs: Any) -> None:
        if event == "on_evaluate":
            self.control.should_evaluate = False
        elif event == "on_save":
            self.control.should_save = False
        elif event == "on_log":
            self.control.should_log = False
        self.control = self.callback_handler.call(event, self.args, self.state, self.control, **kwargs)

    def _checkpoint(self, given: str | os.PathLike[str] | bool | None) -> Path | None:
        """Return the checkpoint to resume from."""
        if given is None or given is False:
            return None
        if given is not True:
            return Path(given)
        clear_leftovers(Path(self.args.output_dir))
        last = get_last_checkpoint(self.args.output_dir)
        if last is None:
            raise StateError(f"resume_from_checkpoint: {self.args.output_dir} has no complete checkpoint")
        return Path(last)

    def _loader(self, dataset: Any, batch_size: int, **options: Any) -> Any:
        from qdqbert.data import BatchLoader

        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return BatchLoader(dataset, batch_size, self._collate(), seed=seed, **options)

    def _default_collator(self) -> Callable[..., Any]:
        from qdqbert import data

        if self.tokenizer is not None:
            collator: Callable[..., Any] = data.DataCollatorWithPadding(self.tokenizer)
            return collator
        return data.default_data_collator

    def _collate(self) -> Callable[..., Any]:
        """Return the collator, behind the removal of fields that neither it nor the model takes."""
        if not self.args.remove_unused_columns:
            return self.data_collator
        own = getattr(self.data_collator, "item_fields", ())
        taken = {*forward_arguments(self.model), *self.label_names, *own, "label", "label_ids"}
        return keep_columns(self.data_collator, taken)

    def _learning_rate(self) -> float:
        return float(self.lr_scheduler.get_last_lr()[0])

    def _tokens_of(self, inputs: Mapping[str, Any]) -> int:
        return int(np.size(inputs.get(self.model.main_input_name, ())))

    def __repr__(self) -> str:
        return (
            f"Trainer({type(self.model).__name__}, step {self.state.global_step} of {self.state.max_steps}, "
            f"output_dir={self.args.output_dir!r})"
        )

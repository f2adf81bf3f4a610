# SPDX-License-Identifier: Apache-2.0
"""``qdqbert train --task NAME DIR --train-file FILE ... --output_dir OUT``: fine-tune, in float or quantized.

The flags are those of the original SQuAD example under their old names, and every field of transformers'
TrainingArguments.  What is done is what is asked for, in the original's order: ``--do_calib``,
``--do_train``, ``--do_eval``, ``--do_predict``; without any of them, training, and evaluation if there is a
file for it.

``--qat`` is the recipe of quantization-aware training: calibrate (percentile 99.99) unless the checkpoint
has ranges, then one epoch that begins at 1 % of the rate that BERT is trained with and falls by a cosine to
1 % of that.  A flag that is given goes before the recipe.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdqbert.cli.checkpoint import check_output
from qdqbert.cli.quantization_flags import calibration_options, configure_quantizers, descriptors
from qdqbert.cli.report import Report, UsageError
from qdqbert.cli.train_arguments import (
    CALIBRATION_SAMPLES,
    DISTILLATION,
    READING,
    add_arguments,
    check_arguments,
    training_arguments,
)
from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.serialization.atomic import write_text
from qdqbert.tasks.table import OPTIONS, TaskEntry, find_task, task_of_architectures

if TYPE_CHECKING:
    from qdqbert.rules import Changes
    from qdqbert.training import Trainer, TrainingArguments

__all__ = ["add_arguments", "run"]

_ONNX_OPSET = 13  # of the original's example


def run(arguments: argparse.Namespace) -> Report:
    """Calibrate, train, evaluate, predict, export: what was asked for."""
    check_arguments(arguments)
    args = training_arguments(arguments)
    source = arguments.folder or arguments.model_name_or_path
    check_output(source, args.output_dir)
    job = _Job(arguments, args, source)
    with _terminable():
        try:
            return job.run()
        except KeyboardInterrupt as error:
            raise type(error)(job.stopped_text(error)) from None


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends as Ctrl-C does."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, so that nothing is left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Job:
    """One call of the verb.

    Parameters
    ----------
    arguments : Namespace
    args : TrainingArguments
    source : str
        Where the model is from.
    """

    def __init__(self, arguments: argparse.Namespace, args: TrainingArguments, source: str) -> None:
        self.arguments = arguments
        self.args = args
        self.source = source
        self.trainer: Trainer | None = None
        self.lines: list[str] = []
        self.metrics: dict[str, dict[str, float]] = {}
        self._off: Changes | None = None  # of a run in float

    def run(self) -> Report:
        """Do everything."""
        from qdqbert.training import PrinterCallback, QuantizationAware, Trainer

        arguments, args = self.arguments, self.args
        if arguments.teacher is not None and not args.do_train:
            raise UsageError("--teacher: is for training; expected --do_train beside the other --do_ flags")
        self._open()
        if args.bf16 and args.do_train:  # before anything takes long
            try:
                self.model.bf16_products_enable()
            except UnsupportedError as error:
                raise UnsupportedError(f"--bf16: {error}") from None
        resume_from = self._resume_from()
        is_calibrated = self._calibrate() if resume_from is None else arguments.do_calib or arguments.qat
        self._set_quantizers(is_calibrated)
        callbacks = []
        if arguments.qat:
            callbacks.append(
                QuantizationAware(
                    arguments.qat_start_step,
                    arguments.qat_amax,
                    weights=arguments.qat_weights,
                    momentum=arguments.qat_momentum,
                )
            )
        self.trainer = Trainer(
            self.model,
            args,
            data_collator=None if self.data is None else self.data.collate_fn,
            train_dataset=None if self.data is None else self.data.dataset,
            eval_dataset=self._scored(),
            tokenizer=self.tokenizer,
            callbacks=callbacks,
            distillation=self._distillation(),
        )
        if arguments.json:  # which has the standard output to itself
            self.trainer.remove_callback(PrinterCallback)
        if arguments.do_calib and resume_from is None:
            self.trainer.save_model()
        if args.do_train:
            self._train(resume_from)
        if args.do_eval:
            self._evaluate()
        if args.do_predict:
            self._predict()
        if arguments.save_onnx:
            self._export()
        data = {
            "folder": self.source,
            "output": args.output_dir,
            "task": self.entry.name,
            "resumed_from": resume_from,
            "step": self.trainer.state.global_step,
            "metrics": {
                split: {name: value if math.isfinite(value) else None for name, value in metrics.items()}
                for split, metrics in self.metrics.items()
            },
        }
        return Report(data, [*self.lines, f"saved in {args.output_dir}"])

    def stopped_text(self, error: BaseException) -> str:
        """Say what an interrupted run has kept.

        Parameters
        ----------
        error : KeyboardInterrupt
        """
        from qdqbert.training import get_last_checkpoint

        what = "terminated" if isinstance(error, _Terminated) else "interrupted"
        if self.trainer is None or not self.args.do_train:
            return what
        last = get_last_checkpoint(self.args.output_dir)
        if last is None:
            return f"{what} before the first checkpoint was written"
        return (
            f"{what} at step {self.trainer.state.global_step}; the same command goes on from "
            f"{Path(last).name} (--resume_from_checkpoint {last})"
        )

    # ---- pieces --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Read configuration, tokenizer, data and model."""
        import qdqbert
        from qdqbert import data
        from qdqbert.quantization_settings import describe_descriptors, store_section

        arguments = self.arguments
        hub = {
            "cache_dir": arguments.cache_dir,
            "revision": arguments.model_revision,
            "token": True if arguments.use_auth_token else None,
        }
        config = qdqbert.QDQBertConfig.from_pretrained(arguments.config_name or self.source, **hub)
        self.tokenizer = qdqbert.BertTokenizerFast.from_pretrained(
            arguments.tokenizer_name or arguments.config_name or self.source, **hub
        )
        self.entry = self._entry(config)
        if self.entry.head == "LMHeadModel" and not config.is_decoder:
            print("qdqbert train: the model becomes a decoder (config.is_decoder)", file=sys.stderr)
            config.is_decoder = True
        self.data = None
        if self.args.do_train or arguments.do_calib or arguments.qat:
            if not arguments.train_file:
                raise UsageError(f"--train_file: expected a file for {self.entry.name} ({self.entry.data})")
            self.data = data.read(
                self.entry.name, arguments.train_file, self.tokenizer, config, **self._reading_options()
            )
            if self.data.id2label is not None:
                config.id2label = dict(self.data.id2label)
                config.label2id = {name: index for index, name in self.data.id2label.items()}
            if self.data.problem_type is not None:
                config.problem_type = self.data.problem_type
        if arguments.disable_dropout:
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
            if getattr(config, "classifier_dropout", None) is not None:
                config.classifier_dropout = 0.0
        asked = descriptors(arguments, learns=arguments.qat_amax == "learned")
        if asked is not None:
            store_section(config, describe_descriptors(*asked) | {"quantizers": {}})
        kind = getattr(qdqbert, self.entry.model_class)
        self.model = kind.from_pretrained(self.source, config=config, seed=self.args.seed, **hub)

    def _entry(self, config: Any) -> TaskEntry:
        if self.arguments.task is not None:
            try:
                return find_task(self.arguments.task)
            except ValueError as error:
                raise UsageError(f"--{error}") from error
        found = task_of_architectures(getattr(config, "architectures", None))
        if found is None:
            raise UsageError(f"--task: expected one, {self.source} has no head that a task is for")
        return found

    def _given_options(self) -> dict[str, Any]:
        """Options of tasks that flags have set."""
        from qdqbert.data import reading_options

        given = {name: getattr(self.arguments, name) for name in (*OPTIONS, *READING)}
        given["version_2_with_negative"] = self.arguments.version_2_with_negative or None
        given = {name: value for name, value in given.items() if value is not None}
        known = {*self.entry.options, *reading_options(self.entry.name)}
        for name in given:
            if name not in known:
                raise UsageError(f"--{name}: is not for {self.entry.name}")
        return given

    def _reading_options(self) -> dict[str, Any]:
        from qdqbert.data import reading_options

        own = reading_options(self.entry.name)
        options = {name: value for name, value in self._given_options().items() if name in own}
        limits = ("max_seq_length", "max_train_samples", "pad_to_max_length")
        return options | {
            name: value for name in limits if (value := getattr(self.arguments, name)) is not None
        }

    def _task(self, which: str, most: int | None) -> Any:
        """Read what is scored."""
        files = getattr(self.arguments, f"{which}_file")
        if not files:
            raise UsageError(f"--{which}_file: expected a file for {self.entry.name} ({self.entry.data})")
        options = {name: value for name, value in self._given_options().items() if name in self.entry.options}
        tokenizer: Any = self.tokenizer
        task = self.entry.load().read(
            files, tokenizer, self.model.config, max_length=self.arguments.max_seq_length, **options
        )
        return task if most is None else task.select(range(min(most, len(task))))

    def _distillation(self) -> Any:
        """Return the loss against a teacher, in float, if there is one."""
        import qdqbert

        arguments = self.arguments
        if arguments.teacher is None:
            return None
        teacher = type(self.model).from_pretrained(arguments.teacher)
        qdqbert.quantizers(teacher, {"*": "off"})
        options = {name: getattr(arguments, f"teacher_{name}") for name, _, _ in DISTILLATION}
        try:
            return qdqbert.Distillation(teacher, **options)
        except ValueError as error:
            raise UsageError(f"--teacher_{error}") from error

    def _scored(self) -> Any:
        """Read the task to evaluate on, and take its figure to choose the best checkpoint by."""
        from qdqbert.training.evaluation import figure_key

        args = self.args
        if not args.do_eval:
            return None
        task = self._task("validation", self.arguments.max_eval_samples)
        if args.load_best_model_at_end and not hasattr(self.arguments, "metric_for_best_model"):
            args.metric_for_best_model = figure_key(task.metric)
            if not hasattr(self.arguments, "greater_is_better"):
                args.greater_is_better = task.higher_is_better
        return task

    def _resume_from(self) -> str | None:
        """Return the checkpoint to go on from: what is said, or the last one that is there."""
        from qdqbert.training import get_last_checkpoint

        if not self.args.do_train:
            return None
        given = self.args.resume_from_checkpoint
        if isinstance(given, str) and given.lower() not in ("true", "false"):
            return given
        if self.args.overwrite_output_dir or (isinstance(given, str) and given.lower() == "false"):
            return None
        last = get_last_checkpoint(self.args.output_dir)
        if last is None and given:
            raise CheckpointError(f"{self.args.output_dir}: has no complete checkpoint to resume from")
        if last is not None:
            print(f"qdqbert train: goes on from {last}", file=sys.stderr)
        return last

    def _has_ranges(self) -> bool:
        return any(name.endswith("_input_quantizer._amax") for name, _ in self.model.named_buffers())

    def _calibrate(self) -> bool:
        """Find ranges, if they are asked for or missing; whether the model has them then."""
        import qdqbert
        from qdqbert.rules import named_quantizers

        arguments = self.arguments
        if not arguments.do_calib and (not arguments.qat or self._has_ranges()):
            for name in ("calibrator", "percentile", "num_calib_batch"):
                if getattr(arguments, name) is not None:
                    print(
                        f"qdqbert train: --{name} has nothing to do: the model has ranges, which --do_calib "
                        "would replace",
                        file=sys.stderr,
                    )
            return self._has_ranges()
        options = calibration_options(arguments)
        if arguments.qat and arguments.calibrator is None and arguments.percentile is None:
            options = {"method": "percentile", "percentile": 99.99}
        if all(quantizer._disabled for _, quantizer in named_quantizers(self.model)):
            print("qdqbert train: all quantizers were off, and are switched on", file=sys.stderr)
            qdqbert.quantizers(self.model, {"*": "on"})
        batches = self._calibration_batches()
        qdqbert.calibrate(self.model, batches, progress=self._progress(), **options)
        text = ", ".join(f"{value}" for value in options.values())
        samples = sum(len(batch["input_ids"]) for batch in batches)
        self.lines.append(f"calibrated on {samples} samples ({text})")
        return True

    def _calibration_batches(self) -> list[dict[str, Any]]:
        from qdqbert.data import BatchLoader
        from qdqbert.training.columns import label_names

        assert self.data is not None
        size = self.args.eval_batch_size
        count = self.arguments.num_calib_batch or -(-CALIBRATION_SAMPLES // size)
        loader = BatchLoader(self.data.dataset, size, self.data.collate_fn, shuffle=True, seed=self.args.seed)
        labels = label_names(self.model)
        return [
            {name: value for name, value in batch.items() if name not in labels}
            for batch in itertools.islice(loader.batches(), count)
        ]

    def _set_quantizers(self, is_quantized: bool) -> None:
        import qdqbert

        if not is_quantized:
            self._off = qdqbert.quantizers(self.model, {"*": "off"})
        for note in configure_quantizers(self.model, self.arguments):
            print(f"qdqbert train: {note}", file=sys.stderr)

    def _progress(self) -> bool | None:
        return None if self.args.disable_tqdm is None else not self.args.disable_tqdm

    def _train(self, resume_from: str | None) -> None:
        import qdqbert

        trainer = self.trainer
        assert trainer is not None
        result = trainer.train(resume_from_checkpoint=resume_from or False)
        # A model without ranges is saved as the BERT that it is if its quantizers are as they come.
        if self._off is not None:
            self._off.restore()
        trainer.save_model()
        if self._off is not None:
            self._off = qdqbert.quantizers(self.model, {"*": "off"})
        metrics = dict(result.metrics)
        if self.data is not None and self.data.num_items is not None:
            metrics["train_samples"] = self.data.num_items
        trainer.save_metrics("train", metrics)
        trainer.save_state()
        self.metrics["train"] = metrics
        self.lines.append(f"trained {result.global_step} steps: loss {result.training_loss:.4f}")

    def _export(self) -> None:
        from qdqbert import onnx

        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for path in onnx.export(self.model, folder / "model.onnx", opset=_ONNX_OPSET):
            self.lines.append(f"exported {path}")

    def _evaluate(self) -> None:
        assert self.trainer is not None
        metrics = self.trainer.evaluate()
        self.trainer.save_metrics("eval", metrics)
        self.metrics["eval"] = metrics
        self.lines.append(_scores("evaluated", metrics))

    def _predict(self) -> None:
        from qdqbert.training.evaluation import figure_key

        assert self.trainer is not None
        task = self._task("test", self.arguments.max_predict_samples)
        evaluation = task.evaluate(self.model, progress=self._progress())
        metrics = {f"predict_{figure_key(name)}": value for name, value in evaluation.metrics.items()}
        metrics["predict_samples"] = len(task)
        self.trainer.save_metrics("predict", metrics)
        if hasattr(evaluation.predictions, "save"):
            evaluation.predictions.save(self.args.output_dir)
        else:
            answers = (json.dumps({"answer": task.answer(evaluation, i)}) for i in range(len(task)))
            write_text(Path(self.args.output_dir) / "predictions.jsonl", "".join(f"{x}\n" for x in answers))
        self.metrics["predict"] = metrics
        self.lines.append(_scores("predicted", metrics))


def _scores(verb: str, metrics: dict[str, float]) -> str:
    """Figures of an evaluation without its speeds."""
    words = [
        f"{name.partition('_')[2]} {value:.4g}"
        for name, value in metrics.items()
        if not name.endswith(("_runtime", "_per_second")) and name != "epoch"
    ]
    return f"{verb}: {', '.join(words)}"

# SPDX-License-Identifier: Apache-2.0
"""``qdqbert demo``: the whole pipeline in one command.

Without arguments it runs on what the package bundles: a BERT classifier that tells from a question which of
44 Wikipedia articles answers it, its 1,500 test questions, and 512 training questions to calibrate with, on
which quantization-aware training goes on from the best method, against the float model.  With ``--model`` it
does the same on a checkpoint of yours, but for the training, which is ``qdqbert train --qat``.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from qdqbert.cli.checkpoint import open_checkpoint
from qdqbert.cli.comparison import add_comparison, comparison_lines, score_entry
from qdqbert.cli.post_training import (
    FLOAT,
    Trials,
    add_methods_argument,
    check_methods,
    first_samples,
    held_out,
    start_calibration,
    try_methods,
)
from qdqbert.cli.report import Report, UsageError, emphasize
from qdqbert.cli.workload import add_task_arguments, open_task
from qdqbert.tasks.task import Evaluation, Task
from qdqbert.text_table import format_table

__all__ = ["add_arguments", "bundled_folder", "run"]

_SHOWN = 8
# Training against the float model, from the ranges of the best method; the float model was made with 1e-3.
QAT = "qat"
_QAT_EPOCHS, _QAT_BATCH, _QAT_LEARNING_RATE = 4, 32, 1e-4


def bundled_folder() -> Path:
    """Folder of the bundled classifier and its data.

    Returns
    -------
    Path
    """
    return Path(__file__).resolve().parent.parent / "demo" / "topics-tiny"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="a checkpoint with a head that a task is for (default: bundled)",
    )
    parser.add_argument("--data", metavar="FILE", help="with --model: items to score on")
    parser.add_argument(
        "--calibration-data",
        metavar="FILE",
        help="with --model: items to calibrate with (default: some of --data)",
    )
    parser.add_argument("--samples", type=int, default=128, metavar="N", help="calibration samples (128)")
    parser.add_argument("--seed", type=int, default=13, metavar="N", help="which samples are drawn (13)")
    parser.add_argument(
        "--limit", type=int, default=1500, metavar="N", help="items to score on at most (1500)"
    )
    parser.add_argument(
        "--qat-epochs",
        type=int,
        metavar="N",
        help=f"without --model: epochs of quantization-aware training; 0: none ({_QAT_EPOCHS})",
    )
    add_methods_argument(parser)
    add_task_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Float evaluation, calibration, every method, training, evaluation, examples."""
    from qdqbert.rules import QuantizerState, named_quantizers

    begin = time.perf_counter()
    methods = check_methods(arguments.methods)
    if arguments.limit < 1:
        raise UsageError(f"--limit: expected at least 1, found {arguments.limit}")
    if (arguments.model is None) != (arguments.data is None):
        raise UsageError("--model and --data: give both, or neither for the bundled model")
    epochs = _qat_epochs(arguments)
    folder = arguments.model or str(bundled_folder())
    arguments.folder = folder
    model, tokenizer, entry = open_checkpoint(folder, arguments.task)

    def read(path: str | Path) -> Task:
        return open_task(arguments, entry, [Path(path)], tokenizer, model.config)

    judge = read(arguments.data or bundled_folder() / "test.tsv")
    if arguments.model is None:
        source = read(bundled_folder() / "calibration.tsv")
    else:
        source = judge if arguments.calibration_data is None else read(arguments.calibration_data)
    judge = held_out(judge, arguments.samples if source is judge else 0, arguments.seed, arguments.limit)
    batches = list(source.batches(arguments.samples, seed=arguments.seed))
    ranking = first_samples(batches, arguments.search_samples, 1)
    calibrated = time.perf_counter()
    calibration = start_calibration(model).collect(batches)
    calibration_seconds = time.perf_counter() - calibrated
    trials = try_methods(model, calibration, methods, judge, ranking)
    training: dict[str, Any] | None = None
    if epochs:
        training = {"from": trials.best, **_train(model, tokenizer, entry.name, epochs)}
        trials.scores[QAT] = judge.evaluate(model)
        trials.sizes[QAT] = trials.sizes[trials.best]
        if trials.scores[QAT].value > trials.scores[trials.best].value:
            trials.best = QAT
    quantizers = sum(QuantizerState.of(quantizer).state == "on" for _, quantizer in named_quantizers(model))
    examples = _examples(judge, trials)
    data: dict[str, Any] = {
        "folder": folder,
        "task": entry.name,
        "metric": judge.metric,
        "items": len(judge),
        "samples": len(batches),
        "quantizers": quantizers,
        "best": trials.best,
        "calibration_seconds": calibration_seconds,
        "training": training,
        "seconds": time.perf_counter() - begin,
        "rows": {
            name: score_entry(score) | {"weight_bytes": trials.sizes[name]}
            for name, score in trials.scores.items()
        },
        "search": None if trials.search is None else trials.search.as_dict(),
        "examples": examples,
    }
    add_comparison(data["rows"], trials.scores)
    return Report(data, _lines(data, judge, trials))


def _qat_epochs(arguments: argparse.Namespace) -> int:
    """Epochs of training that are wanted."""
    epochs: int | None = arguments.qat_epochs
    if epochs is None:
        return 0 if arguments.model else _QAT_EPOCHS
    if epochs < 0:
        raise UsageError(f"--qat-epochs: expected at least 0, found {epochs}")
    if epochs and arguments.model:
        raise UsageError("--qat-epochs: is for the bundled model; qdqbert train --qat trains yours")
    return epochs


def _train(model: Any, tokenizer: Any, task: str, epochs: int) -> dict[str, Any]:
    """Train the bundled model, calibrated, on the questions that it was calibrated with; say how much."""
    import qdqbert

    begin = time.perf_counter()
    teacher = type(model).from_pretrained(bundled_folder())
    qdqbert.quantizers(teacher, {"*": "off"})
    data = qdqbert.data.read(task, bundled_folder() / "calibration.tsv", tokenizer, model.config)
    with tempfile.TemporaryDirectory(prefix="qdqbert-demo-") as folder, contextlib.redirect_stdout(None):
        trainer = qdqbert.Trainer(
            model,
            qdqbert.TrainingArguments(
                folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=_QAT_BATCH,
                learning_rate=_QAT_LEARNING_RATE,
                lr_scheduler_type="cosine",
                save_strategy="no",
                report_to="none",
                seed=0,
            ),
            data_collator=data.collate_fn,
            train_dataset=data.dataset,
            callbacks=[qdqbert.QuantizationAware()],
            distillation=qdqbert.Distillation(teacher),
        )
        trainer.train()
    model.eval()
    return {"epochs": epochs, "items": len(data.dataset), "seconds": time.perf_counter() - begin}


def _examples(task: Task, trials: Trials) -> list[dict[str, str]]:
    """Return items with their answers: some at equal distances, up to two where float and INT8 differ."""
    before, after = (_answers(task, trials.scores[name]) for name in (FLOAT, trials.best))
    differ = [index for index in range(len(task)) if before[index] != after[index]][:2]
    others = [index for index in range(len(task)) if index not in differ]
    wanted = min(_SHOWN - len(differ), len(others))
    spread = [others[len(others) * i // wanted] for i in range(wanted)]
    return [
        {
            "text": task.text_of(index),
            "expected": _title(task.expected(index)),
            "float": before[index],
            "int8": after[index],
        }
        for index in spread + differ
    ]


def _answers(task: Task, score: Evaluation) -> list[str]:
    return [_title(task.answer(score, index)) for index in range(len(task))]


def _title(label: str) -> str:
    """Return an article's title as people write it."""
    return unquote(label).replace("_", " ")


def _lines(data: dict[str, Any], task: Task, trials: Trials) -> list[str]:
    rows = [
        [_short(shown["text"], 64), *(_short(shown[key], 28) for key in ("expected", FLOAT, "int8"))]
        for shown in data["examples"]
    ]
    best = trials.scores[trials.best]
    is_bundled = data["folder"] == str(bundled_folder())
    title = (
        "topics-tiny: which of 44 Wikipedia articles answers the question?" if is_bundled else data["folder"]
    )
    return [
        emphasize(title),
        f"{data['items']} {task.item}s; {data['samples']} calibration samples in "
        f"{data['calibration_seconds']:.1f} s, one pass for all methods; "
        f"{data['quantizers']} quantizers on, 8 bits",
        "",
        *comparison_lines(task, trials.scores, trials.sizes),
        "",
        emphasize(
            f"best: {trials.best}, {task.metric} {best.value:.2f} against "
            f"{trials.scores[FLOAT].value:.2f} in float"
        ),
        *_training_lines(data["training"]),
        "size: the encoder's products as 8-bit codes, all else float32; the floats behind the codes stay too",
        "",
        *format_table([task.item, "expected", "float", "INT8"], rows, left=4),
        "",
        f"{data['seconds']:.1f} s in all",
    ]


def _training_lines(training: dict[str, Any] | None) -> list[str]:
    """Say what the row of quantization-aware training is."""
    if training is None:
        return []
    return [
        f"{QAT}: from {training['from']}, {training['epochs']} epochs of {training['items']} training "
        f"questions against the float model, in {training['seconds']:.1f} s"
    ]


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."

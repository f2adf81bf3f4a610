# SPDX-License-Identifier: Apache-2.0
"""``qdqbert demo``: the whole pipeline in one command.

Without arguments it runs on what the package bundles: a BERT classifier that tells from a question which of
44 Wikipedia articles answers it, its 1,500 test questions, and questions to calibrate with.  With ``--model``
it does the same on a checkpoint of yours.
"""

from __future__ import annotations

import argparse
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
    held_out,
    try_methods,
)
from qdqbert.cli.report import Report, UsageError, emphasize, format_table
from qdqbert.cli.workload import Workload, add_task_arguments, open_workload
from qdqbert.tasks.squad import SquadPredictions
from qdqbert.tasks.text_classification import ClassificationResult

__all__ = ["add_arguments", "bundled_folder", "run"]

_SHOWN = 8


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
        help="a checkpoint for question answering or classification (default: bundled)",
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
    add_methods_argument(parser)
    add_task_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Float evaluation, calibration, every method, evaluation, examples."""
    import qdqbert
    from qdqbert.rules import QuantizerState, named_quantizers

    begin = time.perf_counter()
    methods = check_methods(arguments.methods)
    if arguments.limit < 1:
        raise UsageError(f"--limit: expected at least 1, found {arguments.limit}")
    if (arguments.model is None) != (arguments.data is None):
        raise UsageError("--model and --data: give both, or neither for the bundled model")
    folder = arguments.model or str(bundled_folder())
    model, tokenizer, task = open_checkpoint(folder, arguments.task)

    def workload(path: str | Path) -> Workload:
        return open_workload(arguments, task, path, tokenizer, model.config)

    judge = workload(arguments.data or bundled_folder() / "test.tsv")
    if arguments.model is None:
        source = workload(bundled_folder() / "calibration.tsv")
    else:
        source = judge if arguments.calibration_data is None else workload(arguments.calibration_data)
    judge = held_out(judge, arguments.samples if source is judge else 0, arguments.seed, arguments.limit)
    batches = list(source.batches(arguments.samples, arguments.seed, 1))
    calibrated = time.perf_counter()
    calibration = qdqbert.Calibration(model).collect(batches)
    calibration_seconds = time.perf_counter() - calibrated
    trials = try_methods(model, calibration, methods, judge)
    quantizers = sum(QuantizerState.of(quantizer).state == "on" for _, quantizer in named_quantizers(model))
    examples = _examples(judge, trials, model.config)
    data: dict[str, Any] = {
        "folder": folder,
        "task": task,
        "metric": judge.metric,
        "items": len(judge),
        "samples": len(batches),
        "quantizers": quantizers,
        "best": trials.best,
        "calibration_seconds": calibration_seconds,
        "seconds": time.perf_counter() - begin,
        "rows": {
            name: score_entry(score) | {"weight_bytes": trials.sizes[name]}
            for name, score in trials.scores.items()
        },
        "examples": examples,
    }
    add_comparison(data["rows"], trials.scores)
    return Report(data, _lines(data, judge, trials))


def _examples(workload: Workload, trials: Trials, config: Any) -> list[dict[str, str]]:
    """Return items with their answers: some at equal distances, up to two where float and INT8 differ."""
    before, after = (_answers(trials.scores[name].details, config) for name in (FLOAT, trials.best))
    differ = [index for index in range(len(workload)) if before[index] != after[index]][:2]
    others = [index for index in range(len(workload)) if index not in differ]
    wanted = min(_SHOWN - len(differ), len(others))
    spread = [others[len(others) * i // wanted] for i in range(wanted)]
    shown = []
    for index in spread + differ:
        question, gold = _question(workload, index)
        shown.append({"text": question, "expected": gold, "float": before[index], "int8": after[index]})
    return shown


def _answers(details: Any, config: Any) -> list[str]:
    if isinstance(details, SquadPredictions):
        return [answer.text or "(no answer)" for answer in details.answers.values()]
    assert isinstance(details, ClassificationResult)
    return [_title(str(config.id2label[int(index)])) for index in details.predicted]


def _question(workload: Any, index: int) -> tuple[str, str]:
    if workload.task == "squad":
        example = workload.dataset.examples[index]
        return example.question, example.answers[0][0] if example.answers else "(no answer)"
    text = workload.examples[index]
    return text.text, _title(text.label)


def _title(label: str) -> str:
    """Return an article's title as people write it."""
    return unquote(label).replace("_", " ")


def _lines(data: dict[str, Any], workload: Workload, trials: Trials) -> list[str]:
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
        f"{data['items']} {workload.item}s; {data['samples']} calibration samples in "
        f"{data['calibration_seconds']:.1f} s, one pass for all methods; "
        f"{data['quantizers']} quantizers on, 8 bits",
        "",
        *comparison_lines(workload, trials.scores, trials.sizes),
        "",
        emphasize(
            f"best: {trials.best}, {workload.metric} {best.value:.2f} % against "
            f"{trials.scores[FLOAT].value:.2f} % in float"
        ),
        "size: the encoder's products as 8-bit codes, all else float32; the floats behind the codes stay too",
        "",
        *format_table([workload.item, "expected", "float", "INT8"], rows, left=4),
        "",
        f"{data['seconds']:.1f} s in all",
    ]


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."

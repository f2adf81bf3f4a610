# SPDX-License-Identifier: Apache-2.0
"""``qdqbert eval DIR --task NAME --data FILE ...``: score a checkpoint, float and quantized, or a file."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from qdqbert.cli.checkpoint import add_rule_arguments, open_checkpoint, parse_rules
from qdqbert.cli.comparison import add_comparison, comparison_lines, score_entry
from qdqbert.cli.report import OK, VERIFICATION_FAILED, Report, UsageError
from qdqbert.cli.runtime import add_runtime_arguments, check_runtime, open_file
from qdqbert.cli.workload import add_data_argument, add_task_arguments, check_data, data_files, open_task
from qdqbert.tasks.task import Evaluation, Task

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder; with --runtime an ONNX file")
    add_runtime_arguments(parser)
    add_data_argument(parser, "what to score on")
    parser.add_argument(
        "--quantizers",
        choices=("off", "on", "both"),
        help="which rows to compute (default: both for a checkpoint with ranges, otherwise off)",
    )
    add_rule_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N items")
    parser.add_argument("--min-score", type=float, metavar="X", help="status 4 if the last row is below X")
    parser.add_argument(
        "--max-score", type=float, metavar="X", help="the same for a perplexity: status 4 if it is above X"
    )
    parser.add_argument("--output", metavar="DIR", help="squad: write predictions of the last row here")
    add_task_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Score with all quantizers off, and as the checkpoint and the rules say; or a file, in its runtime."""
    rules = parse_rules(arguments)
    check_runtime(arguments)
    check_data(arguments.data)
    runtime = None
    if arguments.runtime is None:
        model, tokenizer, entry = open_checkpoint(arguments.folder, arguments.task)
        config = model.config
    else:
        runtime, config, tokenizer, entry = open_file(arguments)
        model = None
        if arguments.against is not None:
            model, _, _ = open_checkpoint(arguments.against, entry.name)
    if arguments.output is not None and entry.name != "squad":
        raise UsageError("--output: predictions are written for squad only")
    files = data_files(arguments.data, entry, training=False)
    task = open_task(arguments, entry, files, tokenizer, config)
    _check_bounds(arguments, task)
    if arguments.limit is not None:
        if arguments.limit < 1:
            raise UsageError(f"--limit: expected at least 1, found {arguments.limit}")
        task = task.select(range(min(arguments.limit, len(task))))
    scores = {} if model is None else _score_model(arguments, task, model, rules)
    if runtime is not None:
        scores[str(arguments.runtime)] = task.evaluate(runtime)
    last = list(scores.values())[-1]
    if arguments.output is not None:
        last.predictions.save(arguments.output)
    data: dict[str, Any] = {
        "folder": arguments.folder,
        "task": entry.name,
        "metric": task.metric,
        "items": len(task),
        "rules": rules,
        "rows": {name: score_entry(score) for name, score in scores.items()},
    }
    add_comparison(data["rows"], scores)
    lines = comparison_lines(task, scores, {})
    failure = _failure(arguments, last.value)
    if failure:
        lines.append(failure)
    return Report(data, lines, VERIFICATION_FAILED if failure else OK)


def _score_model(
    arguments: argparse.Namespace, task: Task, model: Any, rules: dict[str, Any]
) -> dict[str, Evaluation]:
    """Return the rows of a model of this package."""
    import qdqbert

    has_ranges = any(name.endswith("._amax") for name, _ in model.named_buffers())
    rows = arguments.quantizers or ("both" if has_ranges else "off")
    if rules and rows == "off":
        raise UsageError("--rule, --rules: have no effect on the float row; add --quantizers on or both")
    scores: dict[str, Evaluation] = {}
    if rows in ("off", "both"):
        with qdqbert.quantizers(model, {"*": "off"}):
            scores["float"] = task.evaluate(model)
    if rows in ("on", "both"):
        with qdqbert.quantizers(model, rules) if rules else contextlib.nullcontext():
            scores["quantized"] = task.evaluate(model)
    return scores


def _check_bounds(arguments: argparse.Namespace, task: Task) -> None:
    """Refuse a bound on the wrong side of a metric."""
    wrong, right = ("max", "min") if task.higher_is_better else ("min", "max")
    if getattr(arguments, f"{wrong}_score") is not None:
        better = "higher" if task.higher_is_better else "lower"
        raise UsageError(f"--{wrong}-score: a {better} {task.metric} is better; give --{right}-score")


def _failure(arguments: argparse.Namespace, value: float) -> str | None:
    """Bound that a score misses; one that is not defined misses every bound."""
    if arguments.min_score is not None and not value >= arguments.min_score:
        return f"below --min-score {arguments.min_score:g}"
    if arguments.max_score is not None and not value <= arguments.max_score:
        return f"above --max-score {arguments.max_score:g}"
    return None

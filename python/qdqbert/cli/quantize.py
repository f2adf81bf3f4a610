# SPDX-License-Identifier: Apache-2.0
"""``qdqbert quantize DIR --data FILE ... --output OUT``: the best of several methods."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from qdqbert.cli.checkpoint import (
    add_rule_arguments,
    check_output,
    open_checkpoint,
    parse_rules,
    save_checkpoint,
)
from qdqbert.cli.comparison import add_comparison, comparison_lines, relative_drop, score_entry
from qdqbert.cli.post_training import (
    FLOAT,
    add_methods_argument,
    check_methods,
    first_samples,
    held_out,
    start_calibration,
    try_methods,
)
from qdqbert.cli.report import OK, VERIFICATION_FAILED, Report, UsageError
from qdqbert.cli.workload import (
    add_calibration_arguments,
    add_task_arguments,
    check_data,
    data_files,
    open_task,
)

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder")
    add_calibration_arguments(parser)
    parser.add_argument(
        "--eval-data",
        nargs="+",
        metavar="FILE",
        help="held-out items to choose by (default: those of --data not drawn)",
    )
    parser.add_argument(
        "--eval-samples", type=int, default=1000, metavar="N", help="held-out items at most (1000)"
    )
    add_methods_argument(parser)
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="X",
        help="status 4, and nothing saved, if the best loses more than X percent",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder to save the quantized model in"
    )
    add_rule_arguments(parser)
    add_task_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Calibrate once, try every method, save the best."""
    import qdqbert

    methods = check_methods(arguments.methods)
    rules = parse_rules(arguments)
    if arguments.eval_samples < 1:
        raise UsageError(f"--eval-samples: expected at least 1, found {arguments.eval_samples}")
    check_data(arguments.data)
    check_output(arguments.folder, arguments.output)
    model, tokenizer, entry = open_checkpoint(arguments.folder, arguments.task)
    files = data_files(arguments.data, entry, training=True)
    task = open_task(arguments, entry, files, tokenizer, model.config)
    if arguments.eval_data is None:
        judge = held_out(task, arguments.samples, arguments.seed, arguments.eval_samples)
    else:
        files = [Path(file) for file in arguments.eval_data]
        judge = open_task(arguments, entry, files, tokenizer, model.config)
        judge = held_out(judge, 0, arguments.seed, arguments.eval_samples)
    if rules:
        qdqbert.quantizers(model, rules)
    batches = list(task.batches(arguments.samples, seed=arguments.seed, batch_size=arguments.batch_size))
    ranking = first_samples(batches, arguments.search_samples, arguments.batch_size)
    calibration = start_calibration(model).collect(batches)
    trials = try_methods(model, calibration, methods, judge, ranking)
    drop = relative_drop(trials.scores[FLOAT], trials.scores[trials.best])
    is_refused = arguments.max_drop is not None and drop > arguments.max_drop
    if not is_refused:
        save_checkpoint(model, arguments.folder, arguments.output)
    data: dict[str, Any] = {
        "folder": arguments.folder,
        "output": None if is_refused else arguments.output,
        "task": entry.name,
        "metric": judge.metric,
        "samples": sum(len(batch["input_ids"]) for batch in batches),
        "seed": arguments.seed,
        "items": len(judge),
        "best": trials.best,
        "relative_drop_percent": drop if math.isfinite(drop) else None,
        "rules": rules,
        "search": None if trials.search is None else trials.search.as_dict(),
        "rows": {
            name: score_entry(score) | {"weight_bytes": trials.sizes[name]}
            for name, score in trials.scores.items()
        },
    }
    add_comparison(data["rows"], trials.scores)
    lines = comparison_lines(judge, trials.scores, trials.sizes)
    if trials.search is not None:
        lines += ["", *str(trials.search).splitlines()]
    lines += [
        "",
        f"best: {trials.best}, {drop:.2f} % worse than float on {len(judge)} held-out {judge.item}s; ",
    ]
    lines[-1] += (
        f"more than --max-drop {arguments.max_drop:g}, nothing saved"
        if is_refused
        else f"saved in {arguments.output}"
    )
    return Report(data, lines, VERIFICATION_FAILED if is_refused else OK)

# SPDX-License-Identifier: Apache-2.0
"""``qdqbert quantize DIR --data FILE --output OUT``: the best of several methods."""

from __future__ import annotations

import argparse
from typing import Any

from qdqbert.cli.checkpoint import add_rule_arguments, open_checkpoint, parse_rules, save_checkpoint
from qdqbert.cli.comparison import add_comparison, comparison_lines, score_entry
from qdqbert.cli.post_training import FLOAT, add_methods_argument, check_methods, held_out, try_methods
from qdqbert.cli.report import OK, VERIFICATION_FAILED, Report, UsageError
from qdqbert.cli.workload import add_data_arguments, add_task_arguments, open_workload

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder")
    add_data_arguments(
        parser, "where calibration samples are drawn from: SQuAD json, or TSV, CSV or JSONL of texts"
    )
    parser.add_argument(
        "--eval-data", metavar="FILE", help="held-out items to choose by (default: those of --data not drawn)"
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
    model, tokenizer, task = open_checkpoint(arguments.folder, arguments.task)
    workload = open_workload(arguments, task, arguments.data, tokenizer, model.config)
    if arguments.eval_data is None:
        judge = held_out(workload, arguments.samples, arguments.seed, arguments.eval_samples)
    else:
        judge = open_workload(arguments, task, arguments.eval_data, tokenizer, model.config)
        judge = held_out(judge, 0, arguments.seed, arguments.eval_samples)
    if rules:
        qdqbert.quantizers(model, rules)
    batches = list(workload.batches(arguments.samples, arguments.seed, arguments.batch_size))
    calibration = qdqbert.Calibration(model).collect(batches)
    trials = try_methods(model, calibration, methods, judge)
    float_score, best_score = trials.scores[FLOAT].value, trials.scores[trials.best].value
    drop = 100.0 * (float_score - best_score) / float_score if float_score else 0.0
    is_refused = arguments.max_drop is not None and drop > arguments.max_drop
    if not is_refused:
        save_checkpoint(model, arguments.folder, arguments.output)
    data: dict[str, Any] = {
        "folder": arguments.folder,
        "output": None if is_refused else arguments.output,
        "task": task,
        "metric": judge.metric,
        "samples": sum(len(batch["input_ids"]) for batch in batches),
        "seed": arguments.seed,
        "items": len(judge),
        "best": trials.best,
        "relative_drop_percent": drop,
        "rules": rules,
        "rows": {
            name: score_entry(score) | {"weight_bytes": trials.sizes[name]}
            for name, score in trials.scores.items()
        },
    }
    add_comparison(data["rows"], trials.scores)
    lines = comparison_lines(judge, trials.scores, trials.sizes)
    lines += ["", f"best: {trials.best}, {drop:.2f} % below float on {len(judge)} held-out {judge.item}s; "]
    lines[-1] += (
        f"more than --max-drop {arguments.max_drop:g}, nothing saved"
        if is_refused
        else f"saved in {arguments.output}"
    )
    return Report(data, lines, VERIFICATION_FAILED if is_refused else OK)

# SPDX-License-Identifier: Apache-2.0
"""``qdqbert eval DIR --data FILE``: score a checkpoint, float and quantized."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from qdqbert.cli.checkpoint import add_rule_arguments, open_checkpoint, parse_rules
from qdqbert.cli.comparison import add_comparison, comparison_lines, score_entry
from qdqbert.cli.report import OK, VERIFICATION_FAILED, Report, UsageError
from qdqbert.cli.workload import Score, add_task_arguments, open_workload

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder")
    parser.add_argument(
        "--data", required=True, metavar="FILE", help="SQuAD json, or TSV, CSV or JSONL of texts"
    )
    parser.add_argument(
        "--quantizers",
        choices=("off", "on", "both"),
        help="which rows to compute (default: both for a checkpoint with ranges, otherwise off)",
    )
    add_rule_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N items")
    parser.add_argument(
        "--min-score", type=float, metavar="X", help="status 4 if the last row is below X percent"
    )
    parser.add_argument("--output", metavar="DIR", help="squad: write predictions of the last row here")
    add_task_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Score with all quantizers off, and as the checkpoint and the rules say."""
    import qdqbert

    rules = parse_rules(arguments)
    model, tokenizer, task = open_checkpoint(arguments.folder, arguments.task)
    if arguments.output is not None and task != "squad":
        raise UsageError("--output: predictions are written for squad only")
    workload = open_workload(arguments, task, arguments.data, tokenizer, model.config)
    if arguments.limit is not None:
        if arguments.limit < 1:
            raise UsageError(f"--limit: expected at least 1, found {arguments.limit}")
        workload = workload.select(range(min(arguments.limit, len(workload))))
    has_ranges = any(name.endswith("._amax") for name, _ in model.named_buffers())
    rows = arguments.quantizers or ("both" if has_ranges else "off")
    if rules and rows == "off":
        raise UsageError("--rule, --rules: have no effect on the float row; add --quantizers on or both")
    scores: dict[str, Score] = {}
    if rows in ("off", "both"):
        with qdqbert.quantizers(model, {"*": "off"}):
            scores["float"] = workload.score(model)
    if rows in ("on", "both"):
        with qdqbert.quantizers(model, rules) if rules else contextlib.nullcontext():
            scores["quantized"] = workload.score(model)
    last = list(scores.values())[-1]
    if arguments.output is not None:
        last.details.save(arguments.output)
    data: dict[str, Any] = {
        "folder": arguments.folder,
        "task": task,
        "metric": workload.metric,
        "items": len(workload),
        "rules": rules,
        "rows": {name: score_entry(score) for name, score in scores.items()},
    }
    add_comparison(data["rows"], scores)
    failed = arguments.min_score is not None and last.value < arguments.min_score
    lines = comparison_lines(workload, scores, {})
    if failed:
        lines.append(f"below --min-score {arguments.min_score:g}")
    return Report(data, lines, VERIFICATION_FAILED if failed else OK)

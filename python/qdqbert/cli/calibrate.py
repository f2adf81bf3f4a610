# SPDX-License-Identifier: Apache-2.0
"""``qdqbert calibrate DIR --data FILE ... --output OUT``: statistics, ranges by one method, save."""

from __future__ import annotations

import argparse

from qdqbert.cli.checkpoint import (
    add_rule_arguments,
    check_output,
    open_checkpoint,
    parse_rules,
    save_checkpoint,
)
from qdqbert.cli.post_training import (
    METHODS_HELP,
    add_search_argument,
    apply_method,
    check_methods,
    first_samples,
    start_calibration,
)
from qdqbert.cli.report import Report
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
        "--method",
        default="percentile-99.99",
        metavar="METHOD",
        help=f"{METHODS_HELP} (percentile-99.99)",
    )
    add_search_argument(parser)
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder to save the calibrated model in"
    )
    add_rule_arguments(parser)
    add_task_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Calibrate and save."""
    import qdqbert

    (method,) = check_methods([arguments.method])
    rules = parse_rules(arguments)
    check_data(arguments.data)
    check_output(arguments.folder, arguments.output)
    model, tokenizer, entry = open_checkpoint(arguments.folder, arguments.task)
    files = data_files(arguments.data, entry, training=True)
    task = open_task(arguments, entry, files, tokenizer, model.config)
    if rules:
        qdqbert.quantizers(model, rules)
    batches = list(task.batches(arguments.samples, seed=arguments.seed, batch_size=arguments.batch_size))
    ranking = first_samples(batches, arguments.search_samples, arguments.batch_size)
    calibration = start_calibration(model).collect(batches)
    search = apply_method(calibration, method, ranking)
    save_checkpoint(model, arguments.folder, arguments.output)
    ranges = sum(name.endswith("._amax") for name, _ in model.named_buffers())
    samples = sum(len(batch["input_ids"]) for batch in batches)
    data = {
        "folder": arguments.folder,
        "output": arguments.output,
        "task": entry.name,
        "method": method,
        "samples": samples,
        "seed": arguments.seed,
        "ranges": ranges,
        "search": None if search is None else search.as_dict(),
    }
    text = (
        f"{samples} samples, method {method}: {ranges} quantizers have a range; saved in {arguments.output}"
    )
    return Report(data, [text] if search is None else [*str(search).splitlines(), "", text])

# SPDX-License-Identifier: Apache-2.0
"""``qdqbert explain DIR``: which kernel computes each layer, on codes or floats, and why."""

from __future__ import annotations

import argparse

from qdqbert.cli.checkpoint import add_rule_arguments, open_model, parse_rules
from qdqbert.cli.report import Report

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("folder", metavar="DIR", help="checkpoint folder")
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="sequences of the batch that is reckoned with (1)"
    )
    parser.add_argument(
        "--seq-len", type=int, metavar="N", help="tokens of a sequence (128, or the most there are)"
    )
    parser.add_argument("--all", action="store_true", help="show every layer by itself, with its ranges")
    add_rule_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Load the model, switch quantizers, explain."""
    import qdqbert

    rules = parse_rules(arguments)
    model = open_model(arguments.folder)
    qdqbert.quantizers(model, rules)
    found = qdqbert.explain(model, batch_size=arguments.batch, seq_len=arguments.seq_len)
    return Report(found.to_dict(), found.lines(every_layer=arguments.all))

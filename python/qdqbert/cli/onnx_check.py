# SPDX-License-Identifier: Apache-2.0
"""``qdqbert onnx-check FILE``: what TensorRT would not take of an ONNX file, whoever wrote it."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from qdqbert.cli.report import OK, VERIFICATION_FAILED, Report, emphasize

if TYPE_CHECKING:
    from qdqbert.onnx import Violation

__all__ = ["add_arguments", "run"]

_EFFECTS = {
    "refused": "TensorRT does not take the file",
    "wrong": "it computes something else than the file says",
    "slow": "what could run in 8 bits does not",
}
_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("file", metavar="FILE", help="ONNX file; data outside it lie in its folder")
    parser.add_argument("--all", action="store_true", help="list every place, not the first five of a rule")


def run(arguments: argparse.Namespace) -> Report:
    """Read the file and go through the rules."""
    from qdqbert.onnx import check
    from qdqbert.onnx.rules import ONNX_CHECKER, RULES

    violations = check(arguments.file)
    data: dict[str, Any] = {
        "file": arguments.file,
        "rules": len((*RULES, ONNX_CHECKER)),
        "violations": [each._asdict() for each in violations],
    }
    return Report(
        data,
        _lines(data, violations, arguments.all),
        VERIFICATION_FAILED if violations else OK,
    )


def _lines(data: dict[str, Any], violations: list[Violation], all_of_them: bool) -> list[str]:
    counts = Counter(each.rule for each in violations)
    lines = [emphasize(data["file"])]
    if not violations:
        return [*lines, f"  all {data['rules']} rules hold"]
    lines.append(f"  {len(violations)} violations of {len(counts)} of {data['rules']} rules")
    for rule, count in counts.items():
        places = [each for each in violations if each.rule == rule]
        first = places[0]
        lines += ["", f"{rule}: {first.says}", f"  if not: {_EFFECTS[first.effect]}"]
        shown = places if all_of_them else places[:_SHOWN]
        lines += [f"  - {_printable(each.node)}: {_printable(each.found)}" for each in shown]
        if count > len(shown):
            lines.append(f"  - and {count - len(shown)} more (--all)")
        lines += [f"  cure: {first.cure}", f"  source: {first.source}"]
    return lines


def _printable(text: str) -> str:
    """Names are whoever's file has them, and a terminal obeys what some of their characters say."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)

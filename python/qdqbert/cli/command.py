# SPDX-License-Identifier: Apache-2.0
"""``qdqbert VERB``: arguments, errors, exit statuses.

Every verb is a module with `SUMMARY`, `add_arguments(parser)` and `run(arguments) -> Report`.  What goes
wrong becomes one sentence on stderr and an exit status here, and nowhere else.  Verbs are imported when they
are asked for, so that ``qdqbert --help`` needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol, cast

from qdqbert.cli import report as reports
from qdqbert.cli.report import Report, UsageError
from qdqbert.errors import BackendError, Error, StateError, UnsupportedError

__all__ = ["main"]

_SUMMARIES = {
    "info": "what a checkpoint folder holds: architecture, sizes, quantizers and their ranges",
    "explain": "how each layer is computed: kernel, codes or floats, why, and what would change it",
    "calibrate": "collect statistics, set the range of every quantizer by one method, save",
    "quantize": "post-training quantization: calibrate by every method, keep the best on held-out data, save",
    "train": "fine-tune a checkpoint on a task, in float or quantization-aware, with checkpoints to resume",
    "eval": "score a model on a task, float and quantized, with bootstrap intervals",
    "freeze": "keep the int8 codes of a quantized checkpoint instead of its floats: a quarter of their size",
    "export": "write a checkpoint as an ONNX file, check it, compare it with the model",
    "onnx-check": "whether an ONNX file, whoever wrote it, keeps the rules of TensorRT",
    "bench": "time a checkpoint, in turns with its peers, beside the peak loop of this machine",
    "doctor": "check the installation: versions, CPU, kernels, and that all kernels give the same bits",
    "demo": "the whole pipeline on the bundled classifier, or on your own checkpoint",
}

_EPILOG = """\
exit status:
  0    done
  1    failed: out of memory, disk full, a defect
  2    wrong arguments
  3    bad input: a checkpoint, data file or rule that is missing, malformed or does not fit
  4    a check failed: doctor or export found a difference, onnx-check or export a violation, or a score is
       below the bound that was asked for
  130  interrupted (Ctrl-C, or SIGTERM while training); no file was left half-written
  141  whoever read the output has left

Progress goes to stderr, on a terminal only. NO_COLOR is honoured. QDQBERT_CPU_ISA chooses the kernels,
QDQBERT_DATA names a folder of data sets where --data is left out.
"""


class _Verb(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> Report: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit status, see ``qdqbert --help``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed = _parser(words).parse_args(words)
    except SystemExit as stop:  # argparse has said what is wrong, or printed help
        return stop.code if isinstance(stop.code, int) else reports.USAGE
    if parsed.verb is None:
        _parser(words).print_help(sys.stderr)
        return reports.USAGE
    try:
        return _run(parsed)
    except BrokenPipeError:
        # Whoever read us has left. Point stdout away so that the interpreter's last flush does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return reports.BROKEN_PIPE


def _run(parsed: argparse.Namespace) -> int:
    try:
        report = _verb(parsed.verb).run(parsed)
    except BaseException as error:
        status = _status_of(error)
        if status is None or parsed.debug:
            raise
        sentence = _sentence(error)
        print(f"qdqbert {parsed.verb}: {sentence}", file=sys.stderr)
        if parsed.json is True:
            _print_json(parsed.verb, status, {"error": {"type": type(error).__name__, "message": sentence}})
        return status
    if parsed.json is True:
        _print_json(parsed.verb, report.status, report.data)
    else:
        print("\n".join(report.lines), flush=True)
    return report.status


def _print_json(verb: str, status: int, data: dict[str, Any]) -> None:
    from qdqbert import __version__

    content = {"command": verb, "version": __version__, "status": status, **data}
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def _status_of(error: BaseException) -> int | None:
    """Exit status of an error; None for one that only a programmer can act on."""
    if isinstance(error, KeyboardInterrupt):
        return reports.INTERRUPTED
    if isinstance(error, UsageError):
        return reports.USAGE
    if isinstance(error, BrokenPipeError | SystemExit | GeneratorExit):
        return None
    if isinstance(error, MemoryError | BackendError | StateError):
        return reports.FAILURE
    if isinstance(error, Error | ValueError | IndexError | FileNotFoundError | UnsupportedError):
        return reports.BAD_INPUT
    return reports.FAILURE


def _sentence(error: BaseException) -> str:
    """One line that says what happened."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory{': ' + text if text else ''}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, UsageError | Error | ValueError | OSError):
        return text
    return f"{type(error).__name__}: {text} (a defect; --debug shows where)"


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    from qdqbert import __version__

    parser = argparse.ArgumentParser(
        prog="qdqbert",
        description="Quantized BERT without PyTorch: calibrate, quantize, train, evaluate.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qdqbert {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    asked_for = next((word for word in words if not word.startswith("-")), None)
    for name, summary in _SUMMARIES.items():
        verb = verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="Exit statuses: see `qdqbert --help`.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == asked_for:
            _verb(name).add_arguments(verb)
        if "--json" not in verb._option_string_actions:  # a verb may have one that also takes a file
            verb.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _verb(name: str) -> _Verb:
    module = "evaluate" if name == "eval" else name.replace("-", "_")
    return cast(_Verb, importlib.import_module(f"qdqbert.cli.{module}"))

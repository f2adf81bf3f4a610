# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing of systems that live in separate processes, on a machine that is not quiet.

Design
------
Every system under test is a `Worker`: its own process, with its own thread pool, stopped by
SIGSTOP except during its own turn, so that nobody's idle pool spins beside somebody's measurement.
`interleave` gives turns A B C A B C ...; one turn is one warm call and then calls for a fixed time. The
machine's own peak loop (baseline/peak_fma.c, compiled when needed) takes a turn in each round too, so every
row can be given as a share of what the machine could do in those minutes. Two statistics matter: `min`
(what the code can do) and the median (what a user gets); the ratio of two systems is the median over rounds
of the ratio of their medians in that round, which a slow drift of the machine does not move.

Method: rules 1, 3, 5, 6 and 7 of the project's benchmark rules in benchmarks/README.md; random interleaving
is described in Google Benchmark's documentation, "Random Interleaving".
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime
import gc
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
)

Call = Callable[[], Any]
Factory = Callable[..., tuple[Call, dict[str, Any]]]


class Missing(Exception):
    """A peer, a data file or a tool is not here; the message says which and how to get it."""


# ---- where things are --------------------------------------------------------------------------


def shared(*parts: str) -> pathlib.Path:
    """Return a path in the shared data folder: $QDQBERT_SHARED, else ../shared beside the repository."""
    base = pathlib.Path(os.environ.get("QDQBERT_SHARED", ROOT.parent / "shared"))
    path = base.joinpath(*parts)
    if not path.exists():
        raise Missing(f"{path} does not exist (set QDQBERT_SHARED to the folder with data/ and checkpoints/)")
    return path


def require(module: str, package: str | None = None) -> Any:
    """Import `module`, or say which package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{module} is not importable ({error}); pip install {package or module}") from None


# ---- statistics --------------------------------------------------------------------------------


def quantile(sorted_values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics, as numpy.quantile does."""
    position = q * (len(sorted_values) - 1)
    low = int(position)
    high = min(low + 1, len(sorted_values) - 1)
    return sorted_values[low] + (sorted_values[high] - sorted_values[low]) * (position - low)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Count, min, p50, p90, max and mean of seconds (or of anything)."""
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "min": ordered[0],
        "p50": quantile(ordered, 0.5),
        "p90": quantile(ordered, 0.9),
        "max": ordered[-1],
        "mean": statistics.fmean(ordered),
    }


def paired_ratio(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> dict[str, float]:
    """How much longer `a` takes than `b`: median(a) / median(b) per round, then over rounds.

    `min` is the ratio of the two overall minima, which on a noisy machine says what the code itself costs.
    """
    rounds = [statistics.median(x) / statistics.median(y) for x, y in zip(a, b, strict=True)]
    ordered = sorted(rounds)
    return {
        "p50": quantile(ordered, 0.5),
        "p10": quantile(ordered, 0.1),
        "p90": quantile(ordered, 0.9),
        "min": min(map(min, a)) / min(map(min, b)),
    }


# ---- the machine -------------------------------------------------------------------------------


def _first_line(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def _cpu_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        fields: dict[str, str] = {}
        for line in lines:
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        facts["model"] = fields.get("model name", "")
        facts["family"] = f"{fields.get('cpu family', '?')}.{fields.get('model', '?')}"
        flags = set(fields.get("flags", fields.get("Features", "")).split())
        wanted = (
            "avx2",
            "fma",
            "avx512f",
            "avx512_vnni",
            "avx_vnni",
            "avx512_bf16",
            "amx_int8",
            "asimddp",
            "i8mm",
        )
        facts["flags"] = [flag for flag in wanted if flag in flags]
    facts["usable_cpus"] = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )
    return facts


def _steal_seconds() -> float | None:
    """Time that the hypervisor gave to others, since boot, all CPUs together."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            return int(lines.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def machine_facts(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a reader must know to compare with another run."""
    versions = {}
    for name in ("qdqbert", "numpy", *packages):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    commit = _first_line(["git", "rev-parse", "--short=12", "HEAD"])
    if commit and _first_line(["git", "status", "--porcelain", "--untracked-files=no"]):
        commit += " + changes"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_facts(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "compiler": _first_line(["cc", "--version"]),
        "packages": versions,
        "commit": commit,
        "utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_1min": os.getloadavg()[0],
        "_steal_start": _steal_seconds(),
    }


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print the facts in a few lines, and a warning when the machine is busy."""
    cpu = facts["cpu"]
    print(
        f"# {cpu.get('model', '?')} (family {cpu.get('family', '?')}), {cpu['usable_cpus']} CPUs usable, "
        f"{' '.join(cpu.get('flags', []))}"
    )
    print(f"# {facts['memory_gib']} GiB, {facts['system']}, Python {facts['python']}, {facts['compiler']}")
    print(
        "# "
        + ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
        + f", commit {facts['commit'] or '?'}, {facts['utc']}"
    )
    if facts["load_1min"] > 0.5:
        print(f"# WARNING: load average {facts['load_1min']:.2f}: others are running; not for publishing")
    sys.stdout.flush()


# ---- the peak loop -----------------------------------------------------------------------------


class Peak:
    """The peak fma loop of this machine, compiled on first use into a temporary folder."""

    def __init__(self) -> None:
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise Missing(
                "no C compiler (cc, gcc or clang) for the peak loop; percentages of peak are left out"
            )
        folder = tempfile.mkdtemp(prefix="qdqbert-peak-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.path = pathlib.Path(folder) / "peak_fma"
        source = HERE / "baseline" / "peak_fma.c"
        command = [compiler, "-O2", "-std=c11", "-pthread", str(source), "-o", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Missing(f"{' '.join(command)} failed: {done.stderr.strip()[:400]}")

    def measure(self, threads: int, seconds: float = 0.15) -> float:
        """Best rate in the given time, in GFLOP/s over all threads (1 multiply-add = 2 operations)."""
        done = subprocess.run(
            [str(self.path), str(threads), str(seconds)], capture_output=True, text=True, check=True
        )
        return float(json.loads(done.stdout)["gflops"])


def open_peak() -> Peak | None:
    """`Peak`, or None with a printed line that says why not."""
    try:
        return Peak()
    except Missing as error:
        print(f"# missing: {error}")
        return None


# ---- workers -----------------------------------------------------------------------------------


def rss_bytes() -> dict[str, int]:
    """Resident and peak resident size of this process, and its anonymous and file parts, in bytes."""
    fields = {}
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key in ("VmRSS", "VmHWM", "RssAnon", "RssFile"):
                fields[key] = int(value.split()[0]) * 1024
    fields.setdefault("VmHWM", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return fields


def reset_peak_rss() -> bool:
    """Start the peak resident size (VmHWM) of this process anew; False where the kernel does not offer it."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _serve(connection: Connection, factory: Factory, arguments: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    try:
        call, facts = factory(**arguments)
        connection.send(("ready", facts))
    except Missing as error:
        connection.send(("missing", str(error)))
        return
    except Exception:
        connection.send(("error", traceback.format_exc()))
        return
    while True:
        try:
            command, *rest = connection.recv()
        except EOFError:
            return
        try:
            if command == "time":
                connection.send(("ok", _timed(call, *rest)))
            elif command == "output":
                connection.send(("ok", call()))
            elif command == "rss":
                connection.send(("ok", rss_bytes()))
            else:
                return
        except Exception:
            connection.send(("error", traceback.format_exc()))


def _timed(call: Call, seconds: float, warm: bool) -> dict[str, Any]:
    """One warm call, then calls until `seconds` have passed (at least one).

    The collector is off meanwhile.
    """
    if warm:
        call()
    gc.collect()
    gc.disable()
    times = []
    cpu = time.process_time()
    start = time.perf_counter()
    before = start
    while True:
        call()
        after = time.perf_counter()
        times.append(after - before)
        if after - start >= seconds:
            break
        before = time.perf_counter()
    cpu = time.process_time() - cpu
    gc.enable()
    return {"times": times, "cpu_per_wall": cpu / (after - start)}


class Worker:
    """One system in its own process, awake only during its own turn.

    Parameters
    ----------
    name : str
        The row's name.
    factory : callable
        Module-level function; called in the child as ``factory(**arguments)``, returns ``(call, facts)``. It
        may raise `Missing`, which the parent gets as `Missing`.
    arguments : dict
    threads : int
        Put into the thread variables of the child's environment (OMP_NUM_THREADS and its like).
    environment : dict of str, optional
        More variables of the child.
    timeout_s : float
        Longest wait for one answer.
    """

    def __init__(
        self,
        name: str,
        factory: Factory,
        arguments: dict[str, Any],
        *,
        threads: int = 1,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 1800,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, arguments), daemon=True)
        variables = {variable: str(threads) for variable in THREAD_VARIABLES}
        variables["TOKENIZERS_PARALLELISM"] = "false"
        variables.update(environment or {})
        with _environment(variables):
            self._process.start()
        theirs.close()
        try:
            kind, value = self._receive()
            if kind == "missing":
                raise Missing(value)
            if kind == "error":
                raise RuntimeError(f"{name}: {value}")
        except BaseException:
            self.close()
            raise
        self.facts: dict[str, Any] = value
        self._sleep()

    def _receive(self) -> tuple[str, Any]:
        if not self._connection.poll(self.timeout_s):
            raise TimeoutError(f"{self.name}: no answer within {self.timeout_s:.0f} s")
        try:
            answer: tuple[str, Any] = self._connection.recv()
        except EOFError:
            self._process.join(10)
            raise RuntimeError(
                f"{self.name}: the process died (exit code {self._process.exitcode})"
            ) from None
        return answer

    def _sleep(self) -> None:
        os.kill(self._pid(), signal.SIGSTOP)

    def _pid(self) -> int:
        pid = self._process.pid
        if pid is None:
            raise RuntimeError(f"{self.name}: not running")
        return pid

    def ask(self, *command: Any) -> Any:
        """Wake the child, let it answer one command, put it back to sleep."""
        os.kill(self._pid(), signal.SIGCONT)
        self._connection.send(command)
        kind, value = self._receive()
        self._sleep()
        if kind != "ok":
            raise RuntimeError(f"{self.name}: {value}")
        return value

    def close(self) -> None:
        """End the child; safe to call twice."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def interleave(
    workers: Sequence[Worker],
    *,
    rounds: int,
    turn_s: float,
    peak: Peak | None = None,
    peak_threads: int = 1,
    warm: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Take turns A B C A B C ..., every second round in reverse order, and the peak loop once per round.

    Returns
    -------
    dict
        ``times``: per worker a list (rounds) of lists of seconds; ``cpu``: processor time per wall time;
        ``peak``: GFLOP/s of each round (empty without a compiler).
    """
    times: dict[str, list[list[float]]] = {worker.name: [] for worker in workers}
    cpu: dict[str, list[float]] = {worker.name: [] for worker in workers}
    rates: list[float] = []
    for number in range(rounds):
        if peak is not None:
            rates.append(peak.measure(peak_threads))
        for worker in workers if number % 2 == 0 else list(reversed(workers)):
            answer = worker.ask("time", turn_s, warm)
            times[worker.name].append(answer["times"])
            cpu[worker.name].append(answer["cpu_per_wall"])
        if progress and sys.stderr.isatty():
            print(f"\r  round {number + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    if progress and sys.stderr.isatty():
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr, flush=True)
    return {
        "times": times,
        "cpu": {name: statistics.fmean(values) for name, values in cpu.items()},
        "peak": rates,
    }


# ---- scripts -----------------------------------------------------------------------------------


def parser(description: str | None, default_json: str) -> argparse.ArgumentParser:
    """Return an argument parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--json",
        type=pathlib.Path,
        default=RESULTS / default_json,
        help=f"where the result goes (default: benchmarks/results/{default_json})",
    )
    made.add_argument(
        "--smoke", action="store_true", help="tiny sizes: does the script run? Its times mean nothing"
    )
    return made


def write_json(path: pathlib.Path, facts: dict[str, Any], body: Mapping[str, Any]) -> None:
    """Write facts and body; floats keep six significant digits, the file is replaced as a whole."""
    facts = dict(facts)
    start = facts.pop("_steal_start", None)
    end = _steal_seconds()
    if start is not None and end is not None:
        facts["steal_s"] = round(end - start, 2)
    document = {"command": ["python", *_relative(sys.argv)], "machine": facts, **body}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(json.dumps(_rounded(document), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    print(f"# wrote {path}")


def _relative(arguments: Sequence[str]) -> list[str]:
    """Make the repository's own paths in the arguments relative: a result names no machine's folders."""
    kept = []
    for argument in arguments:
        with contextlib.suppress(ValueError, OSError):
            if os.path.exists(argument) or os.path.isabs(argument):
                argument = str(pathlib.Path(argument).resolve().relative_to(ROOT))
        kept.append(argument)
    return kept


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, pathlib.Path):
        return value.name
    return value


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Return a Markdown table, aligned for a terminal too."""
    text = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in text) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in text
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    """Three significant digits of milliseconds."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def bert_operations(
    tokens: int, lengths: Sequence[int], layers: int, hidden: int, intermediate: int, *, pooled: int = 0
) -> float:
    """Operations (2 per multiply-add) of the products of a BERT encoder.

    Linears on `tokens`, attention per length.
    """
    linear = tokens * layers * (4 * hidden * hidden + 2 * hidden * intermediate)
    attention = sum(2 * length * length * hidden * layers for length in lengths)
    return 2.0 * (linear + attention + pooled * hidden * hidden)

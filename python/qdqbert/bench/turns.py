# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing of systems that live in separate processes, on a machine that is not quiet.

Every system under test is a `Worker`: its own process, with its own thread pool, stopped by SIGSTOP except
during its own turn, so that nobody's idle pool spins beside somebody's measurement.  `interleave` gives turns
A B C, C B A, ...; one turn is a warm call and then calls for a fixed time.  The machine's roof
(`qdqbert.roof`) takes a turn in each round too, so every row is a share of what the machine could do in those
minutes.

Two statistics matter: ``min`` (what the code can do) and the median (what a user gets).  The ratio of two
systems is the median over rounds of the ratio of their medians in that round, which a slow drift of the
machine does not move.  Random interleaving is described in Google Benchmark's documentation.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pathlib
import resource
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

__all__ = [
    "THREAD_VARIABLES",
    "Missing",
    "Worker",
    "interleave",
    "paired_ratio",
    "quantile",
    "reset_peak_rss",
    "rss_bytes",
    "summary",
]

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


# ---- statistics --------------------------------------------------------------------------------------------


def quantile(sorted_values: Sequence[float], q: float) -> float:
    """Interpolate linearly between order statistics, as numpy.quantile does.

    Parameters
    ----------
    sorted_values : sequence of float
        Not empty.
    q : float
        0 .. 1.
    """
    position = q * (len(sorted_values) - 1)
    low = int(position)
    high = min(low + 1, len(sorted_values) - 1)
    return sorted_values[low] + (sorted_values[high] - sorted_values[low]) * (position - low)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return count, min, p50, p90, max and mean of seconds, or of anything.

    Parameters
    ----------
    values : sequence of float
        Not empty.
    """
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
    """Say how much longer `a` takes than `b`: median(a) / median(b) per round, then over rounds.

    `min` is the ratio of the two overall minima, which on a noisy machine says what the code itself costs.

    Parameters
    ----------
    a, b : sequence of sequences of float
        Seconds of each call, by round; as many rounds.
    """
    rounds = [statistics.median(x) / statistics.median(y) for x, y in zip(a, b, strict=True)]
    ordered = sorted(rounds)
    return {
        "p50": quantile(ordered, 0.5),
        "p10": quantile(ordered, 0.1),
        "p90": quantile(ordered, 0.9),
        "min": min(map(min, a)) / min(map(min, b)),
    }


# ---- workers -----------------------------------------------------------------------------------------------


def rss_bytes() -> dict[str, int]:
    """Return resident and peak resident size of this process, and its anonymous and file parts, in bytes."""
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
            elif command == "prepare":
                prepare: Any = getattr(call, "prepare")  # noqa: B009  a call that takes other inputs
                connection.send(("ok", prepare(*rest)))
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
        Module-level function; called in the child as ``factory(**arguments)``, returns ``(call, facts)``.  It
        may raise `Missing`, which the parent gets as `Missing`.  A call with a method ``prepare`` can be
        given other inputs.
    arguments : dict
        Of the factory.
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
        """Wake the child, let it answer one command, put it back to sleep.

        Parameters
        ----------
        *command
            ``"time", seconds, warm``; ``"output"``; ``"prepare", inputs...``; ``"rss"``.

        Raises
        ------
        RuntimeError
            With the child's traceback, if it failed or died.
        TimeoutError
            If there is no answer in time.
        """
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
    roof: Callable[[], Any] | None = None,
    warm: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Take turns A B C A B C ..., every second round in reverse order, and the roof once per round.

    Parameters
    ----------
    workers : sequence of Worker
    rounds : int
        At least 1.
    turn_s : float
        Seconds of timed calls in a turn; at least one call is made.
    roof : callable () -> object, optional
        Called before each round, while all workers sleep.
    warm : bool
        Whether a turn begins with a call that is not timed.
    progress : bool
        Show the number of the round, on a terminal.

    Returns
    -------
    dict
        ``times``: per worker a list (rounds) of lists of seconds; ``cpu``: processor time per wall time;
        ``roof``: what `roof` returned in each round.
    """
    times: dict[str, list[list[float]]] = {worker.name: [] for worker in workers}
    cpu: dict[str, list[float]] = {worker.name: [] for worker in workers}
    roofs: list[Any] = []
    for number in range(rounds):
        if roof is not None:
            roofs.append(roof())
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
        "roof": roofs,
    }

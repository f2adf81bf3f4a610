# SPDX-License-Identifier: Apache-2.0
"""A model and its peers, timed in turns.

Before anything is timed, every system's last hidden state is compared with that of qdqbert in float, where
there is no padding.  With d the difference and x the float output, error = sqrt(sum d^2 / sum x^2):

- float systems: error <= 2e-5.  Rounding alone gave 1e-7 (two layers) to 1.4e-6 (BERT-base) between us and
  these peers; the mildest mistakes that a peer could make, the tanh form of GELU and an epsilon of 1e-5, give
  6e-5 and 1.4e-4 with random weights (six layers of 384), 1.7e-3 and 9e-4 in a trained MiniLM.
- int8 systems: error <= 0.7.  Quantization has no bound that holds for every checkpoint, but two
  unrelated outputs of a LayerNorm are sqrt(2) apart, so what is within half of that is this model and not
  another one.  The error stands beside every time.

qdqbert's own bits must not depend on the number of threads.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdqbert.bench import ours, peers
from qdqbert.bench.batches import Batch, Inputs, bert_operations
from qdqbert.bench.folders import Folders, write_folders
from qdqbert.bench.machine import machine_facts, steal_seconds
from qdqbert.bench.turns import Missing, Worker, interleave, paired_ratio, summary
from qdqbert.device import default_device
from qdqbert.errors import BackendError, UnsupportedError
from qdqbert.roof import OPERANDS, measure_roof

__all__ = ["FLOAT_BOUND", "INT8_BOUND", "PEERS", "Settings", "System", "compare", "systems_of"]

FLOAT_BOUND = 2e-5
INT8_BOUND = 0.7

_SLOW_S = 0.7  # calls that take longer need no warm one before, and fewer rounds
_FEWEST_ROUNDS = 3
_ROOF_S = 0.05


@dataclasses.dataclass(frozen=True)
class System:
    """One row of a comparison.

    Attributes
    ----------
    name : str
    operands : {"qs8", "f32"}
        What its linear layers multiply, of which roof its share is.
    codes : str
        ``"8 bit, exact"``; ``"8 bit"`` where nothing is promised of sums; ``"7 bit"``; ``"float"``.
    factory : callable
        For `Worker`.
    arguments : dict
        Of the factory, beside folder and threads.
    needs_sizes : bool
        Whether it also takes ``heads`` and ``hidden``.
    """

    name: str
    operands: str
    codes: str
    factory: Callable[..., Any]
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    needs_sizes: bool = False


OURS = (
    System("qdqbert", "qs8", "8 bit, exact", ours.start_qdqbert, {"quantized": True}),
    System("qdqbert-float", "f32", "float", ours.start_qdqbert, {"quantized": False}),
)
# peer -> the modules that it needs; what is missing comes with the extra `bench`
PEERS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "sympy", "torch", "transformers"),
    "openvino": ("openvino", "nncf", "torch", "transformers"),
    "ctranslate2": ("ctranslate2", "torch", "transformers"),
    "torch": ("torch", "transformers"),
}


def systems_of(peer: str) -> tuple[System, ...]:
    """Return the rows of a peer, each a configuration of its own.

    Parameters
    ----------
    peer : str
        A key of `PEERS`.
    """
    is_exact = peers.has_vnni()
    usual = "8 bit, exact" if is_exact else "7 bit"
    if peer == "onnxruntime":
        rows = (("float", "f32", "float"), ("dynamic", "qs8", usual), ("static", "qs8", usual))
        exact = () if is_exact else (("dynamic-u8u8", "qs8", "8 bit, exact"),)
        return tuple(
            System(f"ort-{form}", operands, codes, peers.start_onnxruntime, {"form": form}, needs_sizes=True)
            for form, operands, codes in (*rows, *exact)
        )
    if peer == "openvino":
        return tuple(
            System(name, operands, codes, peers.start_openvino, {"quantized": quantized}, needs_sizes=True)
            for name, operands, codes, quantized in (
                ("openvino-float", "f32", "float", False),
                ("openvino-nncf", "qs8", "8 bit", True),
            )
        )
    if peer == "ctranslate2":
        return tuple(
            System(name, operands, codes, peers.start_ctranslate2, {"compute_type": compute_type})
            for name, operands, codes, compute_type in (
                ("ctranslate2-float", "f32", "float", "float32"),
                ("ctranslate2-int8", "qs8", "8 bit", "int8"),
            )
        )
    return tuple(
        System(name, operands, codes, peers.start_torch, {"engine": engine})
        for name, operands, codes, engine in (
            ("torch-float", "f32", "float", None),
            ("torch-fbgemm", "qs8", "7 bit", "fbgemm"),  # of activations (reduce_range)
            ("torch-onednn", "qs8", "8 bit", "onednn"),
        )
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes
    ----------
    batches : tuple of Batch
    threads : tuple of int
    against : tuple of str
        Keys of `PEERS`.
    rounds : int
        Turns of each system on each batch; fewer where a call takes long.
    turn_s : float
        Seconds of timed calls in a turn.
    only : tuple of str
        Names of systems; empty: all.
    """

    batches: tuple[Batch, ...]
    threads: tuple[int, ...]
    against: tuple[str, ...] = ()
    rounds: int = 8
    turn_s: float = 0.2
    only: tuple[str, ...] = ()

    def systems(self) -> tuple[System, ...]:
        """Return the systems, ours first.

        Raises
        ------
        UnsupportedError
            If a peer is not installed; the extra that has it is named.
        ValueError
            If a name of `only` is none of theirs.
        """
        for peer in self.against:
            lacking = [module for module in PEERS[peer] if importlib.util.find_spec(module) is None]
            if lacking:
                raise UnsupportedError(
                    f"--against {peer}: {', '.join(lacking)} not installed; pip install 'qdqbert[bench]'"
                )
        found = (*OURS, *(system for peer in self.against for system in systems_of(peer)))
        unknown = set(self.only) - {system.name for system in found}
        if unknown:
            raise ValueError(
                f"--only: {', '.join(sorted(unknown))} unknown; there are {', '.join(s.name for s in found)}"
            )
        return tuple(s for s in found if not self.only or s.name in self.only or s is OURS[1])


def compare(
    source: str, settings: Settings, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Time a checkpoint and its peers.

    Parameters
    ----------
    source : str
        Checkpoint folder.
    settings : Settings
    say : callable (str)
        Told what is going on.

    Returns
    -------
    dict
        ``machine``, ``model`` and ``rows``, in plain Python types, as `json` takes them.

    Raises
    ------
    CheckpointError
        If the folder holds no BERT.
    UnsupportedError
        If a peer is not installed, or the model is none that peers run.
    ValueError
        If a batch is longer than the model's positions.
    BackendError
        If an output is not near ours, bits depend on the number of threads, or a system fails.
    """
    systems = settings.systems()
    packages = sorted({module for peer in settings.against for module in PEERS[peer]})
    facts = machine_facts(packages)
    stolen = steal_seconds()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="qdqbert-bench-") as name:
        folders, sizes = write_folders(source, Path(name))
        _check_lengths(settings.batches, sizes["positions"])
        for threads in settings.threads:
            with _Team(systems, folders, sizes, threads, say) as team:
                for batch in settings.batches:
                    say(f"{batch.name}, {threads} thread{'s' if threads > 1 else ''}")
                    rows.append(team.row(batch, settings))
    _check_bits(rows)
    after = steal_seconds()
    if stolen is not None and after is not None:
        facts["steal_s"] = round(after - stolen, 2)
    settled = {"rounds": settings.rounds, "turn_s": settings.turn_s, "against": list(settings.against)}
    return {"machine": facts, "model": sizes, "settings": settled, "rows": rows}


def _check_lengths(batches: Iterable[Batch], positions: int) -> None:
    for batch in batches:
        if max(batch.lengths) > positions:
            raise ValueError(f"{batch.name}: the model has {positions} positions")


class _Team:
    """The workers of all systems, for one number of threads."""

    def __init__(
        self,
        systems: Sequence[System],
        folders: Folders,
        sizes: dict[str, Any],
        threads: int,
        say: Callable[[str], None],
    ) -> None:
        self.threads, self.sizes = threads, sizes
        self.systems: list[System] = []
        self.workers: list[Worker] = []
        try:
            for system in systems:
                say(f"starting {system.name}")
                self.workers.append(self._start(system, folders))
                self.systems.append(system)
        except BaseException:
            self.close()
            raise

    def _start(self, system: System, folders: Folders) -> Worker:
        folder = folders.quantized if system is OURS[0] else folders.plain
        arguments = {"folder": str(folder), "threads": self.threads, **system.arguments}
        if system.needs_sizes:
            arguments |= {"heads": self.sizes["heads"], "hidden": self.sizes["hidden"]}
        try:
            return Worker(system.name, system.factory, arguments, threads=self.threads)
        except (Missing, RuntimeError, TimeoutError) as error:
            raise BackendError(f"{system.name} does not start: {_last_line(error)}") from error

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def row(self, batch: Batch, settings: Settings) -> dict[str, Any]:
        """Compare and time all systems on one batch."""
        inputs = batch.inputs(self.sizes["vocab"])
        try:
            facts = {worker.name: worker.ask("prepare", inputs) for worker in self.workers}
            errors = self._errors(inputs)
            trial = max(max(worker.ask("time", 0.0, False)["times"]) for worker in self.workers)
            is_slow = trial > _SLOW_S
            turns = interleave(
                self.workers,
                rounds=max(min(_FEWEST_ROUNDS, settings.rounds), settings.rounds // 2)
                if is_slow
                else settings.rounds,
                turn_s=settings.turn_s,
                roof=self._roof,
                warm=not is_slow,
            )
        except (RuntimeError, TimeoutError) as error:
            raise BackendError(_last_line(error)) from error
        operations = bert_operations(
            batch.tokens,
            batch.lengths,
            self.sizes["layers"],
            self.sizes["hidden"],
            self.sizes["intermediate"],
            pooled=len(batch.lengths),
        )
        roof = {kind: max(each[kind] for each in turns["roof"]) for kind in OPERANDS}
        row: dict[str, Any] = {
            "batch": batch.name,
            "sequences": len(batch.lengths),
            "tokens": batch.tokens,
            "threads": self.threads,
            "operations": operations,
            "roof": roof,
            "roofs": {kind: [each[kind] for each in turns["roof"]] for kind in OPERANDS},
            "systems": {},
        }
        for system, worker in zip(self.systems, self.workers, strict=True):
            rounds = turns["times"][system.name]
            seconds = summary([second for turn in rounds for second in turn])
            entry: dict[str, Any] = {
                "operands": system.operands,
                "codes": system.codes,
                "seconds": seconds,
                "share_of_roof": operations / seconds["min"] / roof[system.operands],
                "error": errors[system.name],
                "cpu_per_wall": turns["cpu"][system.name],
                "facts": {**worker.facts, **facts[system.name]},
            }
            mine = next((each.name for each in OURS if each.operands == system.operands), "")
            if system not in OURS and mine in turns["times"]:
                entry["time_over_ours"] = paired_ratio(rounds, turns["times"][mine])
            row["systems"][system.name] = entry
        return row

    def _roof(self) -> dict[str, float]:
        device = default_device()
        return {kind: measure_roof(device, kind, self.threads, _ROOF_S) for kind in OPERANDS}

    def _errors(self, inputs: Inputs) -> dict[str, float]:
        """Return errors against our float output, all within their bounds."""
        outputs = {worker.name: np.asarray(worker.ask("output")) for worker in self.workers}
        kept = inputs["attention_mask"] == 1
        reference = outputs[OURS[1].name]
        errors = {}
        for system in self.systems:
            output = outputs[system.name]
            if output.shape != reference.shape:
                raise BackendError(f"{system.name}: output {output.shape}, expected {reference.shape}")
            error = relative_error(output[kept], reference[kept])
            bound = FLOAT_BOUND if system.operands == "f32" else INT8_BOUND
            if not error <= bound:
                raise BackendError(
                    f"{system.name}: error {error:.3g} against {OURS[1].name}, expected at most {bound:g}; "
                    "its times would be those of another model"
                )
            errors[system.name] = error
        return errors


def _last_line(error: BaseException) -> str:
    """Return what a traceback from a worker ends with; its whole is in the chain of exceptions."""
    return str(error).rstrip().rpartition("\n")[2]


def relative_error(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return sqrt(sum (x - y)^2 / sum y^2).

    Parameters
    ----------
    x, y : arrays of one shape
    """
    difference = x.astype(np.float64) - y
    return float(np.sqrt(np.sum(difference**2) / np.sum(y.astype(np.float64) ** 2)))


def _check_bits(rows: list[dict[str, Any]]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        for name, entry in row["systems"].items():
            digest = entry["facts"].get("sha256")
            if digest is not None and seen.setdefault((name, row["batch"]), digest) != digest:
                raise BackendError(f"{name}, {row['batch']}: bits depend on the number of threads")

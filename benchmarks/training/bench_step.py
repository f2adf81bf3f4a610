# SPDX-License-Identifier: Apache-2.0
"""One training step (zero the gradients, forward, loss, backward, AdamW): qdqbert beside PyTorch fp32.

Same weights, batch, learning rate and weight decay for all, no dropout. Before anything is timed the losses
of the first three steps of every float system must agree with PyTorch's (--tolerance, relative); losses of
qdqbert must be equal to the bit with every number of threads.

Rows: eight sequences of 128 tokens, and batches of real SQuAD lengths, padded to the longest of the batch
(as a dynamic collator does) and to 384 (the default of the SQuAD example, --pad_to_max_length). qdqbert
computes no padding in either, and padding is no place for an answer in any (training_systems.py).

Memory: the largest resident size of a process that makes three steps of (8,384), and of nothing else.

    python benchmarks/training/bench_step.py             about 20 minutes, 8 GB
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import training_systems
from training_systems import SQUAD_LENGTHS

import harness
from harness import Missing, Worker

OURS = ("qdqbert", "qdqbert-qat")
ALL = (*OURS, "qdqbert-checkpointing", "torch-eager", "torch-sdpa", "torch-compile")
DEFAULT = (*OURS, "torch-eager", "torch-sdpa", "torch-compile")
ROWS = {
    "8x128": ((128,) * 8, 128),
    "squad-longest": (SQUAD_LENGTHS[:8], max(SQUAD_LENGTHS[:8])),
    "squad-384": (SQUAD_LENGTHS[:8], 384),
    "smoke": ((16, 9, 12), 16),
}
MEMORY_ROW = ((384,) * 8, 384)


def description(name: str) -> tuple[str, str]:
    """Return the factory's name and the variant of a system."""
    kind, _, variant = name.partition("-")
    return ("ours", variant or "float") if kind == "qdqbert" else ("pytorch", variant)


def arguments_of(name: str, folder: pathlib.Path, row: Any, shape: str, threads: int) -> dict[str, Any]:
    """Return what the factory of a system is called with."""
    batch = training_systems.make_batch(shape, *row)
    return {"folder": str(folder), "batch": batch, "threads": threads, "variant": description(name)[1]}


def check(losses: dict[str, list[float]], tolerance: float) -> dict[str, float]:
    """Compare the losses of float systems with PyTorch's; return the relative differences."""
    reference = next((name for name in losses if name.startswith("torch")), None)
    if reference is None:
        return {}
    worst = {}
    for name, found in losses.items():
        pairs = zip(found, losses[reference], strict=True)
        worst[name] = max(abs(mine - theirs) / abs(theirs) for mine, theirs in pairs)
        if name != "qdqbert-qat" and not worst[name] <= tolerance:
            raise AssertionError(f"{name}: losses {found}, {reference} has {losses[reference]}")
    return worst


def measure(arguments: Any, folder: pathlib.Path, row_name: str, threads: int, peak: Any) -> dict[str, Any]:
    """One row: all systems on one batch and one number of threads."""
    workers: list[Worker] = []
    missing: dict[str, str] = {}
    try:
        for name in arguments.systems:
            factory = getattr(training_systems, description(name)[0])
            call = arguments_of(name, folder, ROWS[row_name], arguments.shape, threads)
            try:
                workers.append(Worker(name, factory, call, threads=threads))
            except Missing as error:
                missing[name] = str(error)
                print(f"# missing: {name}: {error}")
        losses = {worker.name: worker.facts["losses"] for worker in workers}
        differences = check(losses, arguments.tolerance)
        turns = harness.interleave(
            workers,
            rounds=arguments.rounds,
            turn_s=arguments.turn,
            peak=peak,
            peak_threads=threads,
            warm=False,
        )
    finally:
        for worker in workers:
            worker.close()
    row: dict[str, Any] = {
        "row": row_name,
        "lengths": ROWS[row_name][0],
        "padded": ROWS[row_name][1],
        "threads": threads,
        "peak_gflops": harness.summary(turns["peak"]) if turns["peak"] else None,
        "losses": losses,
        "loss_differences": differences,
        "missing": missing,
        "systems": {},
    }
    for name, times in turns["times"].items():
        entry: dict[str, Any] = {"seconds": harness.summary([each for turn in times for each in turn])}
        entry["cpu_per_wall"] = turns["cpu"][name]
        if name != "qdqbert" and "qdqbert" in turns["times"]:
            entry["time_over_qdqbert"] = harness.paired_ratio(times, turns["times"]["qdqbert"])
        row["systems"][name] = entry
    return row


def show(row: dict[str, Any]) -> None:
    """One row as a table."""
    tokens = sum(row["lengths"])
    print(f"\n{row['row']}: {tokens} tokens, padded to {row['padded']}, {row['threads']} thread(s); ms")
    lines = []
    for name, entry in row["systems"].items():
        seconds, ratio = entry["seconds"], entry.get("time_over_qdqbert")
        times = [harness.milliseconds(seconds[key]) for key in ("min", "p50", "p90")]
        ratios = [f"{ratio['p50']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})"] if ratio else ["1"]
        ratios.append(f"{ratio['min']:.2f}" if ratio else "1")
        lines.append((name, *times, seconds["n"], *ratios, f"{entry['cpu_per_wall']:.2f}"))
    header = ("system", "min", "p50", "p90", "n", "time / qdqbert: p50 (p10-p90)", "of minima", "cores")
    print(harness.table(lines, header))
    sys.stdout.flush()


def memory(arguments: Any, folder: pathlib.Path, row: Any, threads: int) -> dict[str, Any]:
    """Peak memory of each system, one process after the other."""
    found: dict[str, Any] = {}
    for name in arguments.memory_systems:
        call = arguments_of(name, folder, row, arguments.shape, threads)
        try:
            with Worker(
                name,
                training_systems.peak_memory,
                {"factory": description(name)[0], "arguments": call},
                threads=threads,
            ) as worker:
                facts = worker.facts
        except Missing as error:
            print(f"# missing: {name}: {error}")
            continue
        found[name] = {key: facts[key] for key in ("peak_bytes", "base_bytes", "losses")}
    print(f"\nmemory of a process that makes steps of ({len(row[0])},{row[1]}); MiB")
    lines = [
        (name, f"{entry['peak_bytes'] / 2**20:.0f}", f"{entry['base_bytes'] / 2**20:.0f}")
        for name, entry in found.items()
    ]
    print(harness.table(lines, ("system", "peak", "before the model")))
    return found


def same_bits(rows: list[dict[str, Any]]) -> None:
    """Losses of qdqbert must not depend on the number of threads or on padding; raises if they do."""
    seen: dict[tuple[str, Any], set[tuple[float, ...]]] = {}
    for row in rows:
        for name, losses in row["losses"].items():
            if name.startswith("qdqbert"):
                seen.setdefault((name, row["lengths"]), set()).add(tuple(losses))
    for (name, lengths), losses in seen.items():
        if len(losses) != 1:
            raise AssertionError(f"{name}, lengths {lengths}: losses depend on threads or padding: {losses}")
    if seen:
        print("\nlosses of qdqbert are equal to the bit with every number of threads, padded or not")


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "training_step.json")
    parser.add_argument("--shape", default="base", help="base, minilm or tiny")
    parser.add_argument(
        "--rows", nargs="+", choices=sorted(ROWS), default=["8x128", "squad-longest", "squad-384"]
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--systems", nargs="+", choices=ALL, default=list(DEFAULT))
    parser.add_argument("--memory-systems", nargs="*", choices=ALL, default=list(ALL))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--turn", type=float, default=0.5, help="seconds of timed steps per turn, at least one step"
    )
    parser.add_argument("--tolerance", type=float, default=2e-4, help="largest relative difference of losses")
    arguments = parser.parse_args()
    memory_row: Any = MEMORY_ROW
    if arguments.smoke:
        arguments.shape, arguments.rows, arguments.rounds, arguments.turn = "tiny", ["smoke"], 2, 0.02
        memory_row = ROWS["smoke"]
    facts = harness.machine_facts(("torch", "transformers"))
    harness.print_facts(facts)
    peak = harness.open_peak()
    rows = []
    with tempfile.TemporaryDirectory(prefix="qdqbert-bench-") as name:
        folder = training_systems.write_checkpoint(pathlib.Path(name) / "bert", arguments.shape)
        for row_name in arguments.rows:
            for threads in arguments.threads:
                row = measure(arguments, folder, row_name, threads, peak)
                show(row)
                rows.append(row)
        same_bits(rows)
        memories = memory(arguments, folder, memory_row, max(arguments.threads))
    harness.write_json(arguments.json, facts, {"shape": arguments.shape, "rows": rows, "memory": memories})


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Import time of qdqbert beside numpy's, and peak memory of loading a BERT-base checkpoint against its size.

Every measurement is a fresh process. Import times are taken inside the process around the import statement,
in turns (numpy, qdqbert, ...), after one unmeasured turn that fills the file cache. qdqbert loads its parts
on first use, so the import of a model class, which loads the C core, has a row of its own. The whole life
of a process that only imports is timed too. For memory, a BERT-base checkpoint of random float32 weights
(438 MB) is written to a temporary folder and loaded with from_pretrained; the peak is VmHWM of the process,
the interpreter and its libraries included. Before that, one tensor of the loaded model must equal the
file's.

    python benchmarks/startup/bench_import.py            about 1 minute
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems
from harness import Missing

IMPORT = (
    "import time; start = time.perf_counter(); {statement}; end = time.perf_counter(); import json, sys; "
    "print(json.dumps([end - start, len(sys.modules)]))"
)
STATEMENTS = (
    "pass",
    "import numpy",
    "import qdqbert",
    "from qdqbert import QDQBertForQuestionAnswering",
)


def import_once(statement: str) -> dict[str, float]:
    """One fresh process."""
    code = IMPORT.format(statement=statement)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    whole = time.perf_counter() - started
    if done.returncode != 0:
        raise Missing(f"{statement} failed: {done.stderr.strip().splitlines()[-1:]}")
    seconds, modules = json.loads(done.stdout)
    return {"import": seconds, "process": whole, "modules": modules}


def import_part(rounds: int, missing: dict[str, str]) -> dict[str, Any]:
    """All statements in turns."""
    kept = []
    for name in STATEMENTS:
        try:
            import_once(name)
            kept.append(name)
        except Missing as error:
            missing[name] = str(error)
            print(f"# missing: {error}")
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in kept}
    for number in range(rounds):
        for name in kept if number % 2 == 0 else reversed(kept):
            seen[name].append(import_once(name))
    part: dict[str, Any] = {}
    for name in kept:
        entry: dict[str, Any] = {
            key: harness.summary([one[key] for one in seen[name]]) for key in ("import", "process")
        }
        entry["modules"] = seen[name][0]["modules"]
        if "qdqbert" in name and "import numpy" in kept:
            entry["import_over_numpy"] = harness.paired_ratio(
                [[one["import"]] for one in seen[name]], [[one["import"]] for one in seen["import numpy"]]
            )
        part[name] = entry
    print("\nImport, fresh processes; ms")
    lines = []
    for name, entry in part.items():
        ratio = entry.get("import_over_numpy")
        lines.append(
            (
                name,
                *(harness.milliseconds(entry["import"][key]) for key in ("min", "p50", "p90")),
                harness.milliseconds(entry["process"]["p50"]),
                entry["modules"],
                entry["import"]["n"],
                f"{ratio['p50']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})" if ratio else "-",
            )
        )
    print(
        harness.table(
            lines, ("statement", "min", "p50", "p90", "process p50", "modules", "n", "x numpy: p50 (p10-p90)")
        )
    )
    return part


def load_worker(folder: str, kind: str) -> tuple[Any, dict[str, Any]]:
    """Load the checkpoint; resident sizes before and after, and the peak."""
    if kind == "qdqbert":
        qdqbert = harness.require("qdqbert")
        model_class = qdqbert.QDQBertModel
        load = model_class.from_pretrained
    else:
        transformers = harness.require("transformers", "transformers==4.39.3")
        harness.require("torch")
        transformers.logging.set_verbosity_error()
        load = transformers.BertModel.from_pretrained
    before = harness.rss_bytes()
    was_reset = harness.reset_peak_rss()
    started = time.perf_counter()
    model = load(folder)
    seconds = time.perf_counter() - started
    after = harness.rss_bytes()
    name = "encoder.layer.0.output.dense.weight"
    loaded = np.asarray(
        dict(model.named_parameters())[name].detach()
        if kind == "torch"
        else dict(model.named_parameters())[name]
    )
    facts = {
        "load_s": seconds,
        "before": before["VmRSS"],
        "after": after["VmRSS"],
        "peak": after["VmHWM"],
        "anonymous_after": after.get("RssAnon"),
        "peak_was_reset": was_reset,
        "sha256": systems.digest(loaded),
    }
    return (lambda: None), facts


def load_part(shape: str, repeats: int, missing: dict[str, str]) -> dict[str, Any]:
    """Load with qdqbert, and with transformers when it is here."""
    part: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="qdqbert-load-") as name:
        folder = systems.write_checkpoint(pathlib.Path(name), shape)
        size = (folder / "model.safetensors").stat().st_size
        expected = systems.digest(systems.bert_tensors(shape)["encoder.layer.0.output.dense.weight"])
        part["file_bytes"] = size
        for kind in ("qdqbert", "torch"):
            runs = []
            for _ in range(repeats):
                try:
                    with harness.Worker(
                        kind, load_worker, {"folder": str(folder), "kind": kind}, threads=2
                    ) as worker:
                        runs.append(worker.facts)
                except Missing as error:
                    missing[f"load {kind}"] = str(error)
                    print(f"# missing: {kind}: {error}")
                    break
            if not runs:
                continue
            if any(run["sha256"] != expected for run in runs):
                raise AssertionError(f"{kind}: a loaded tensor is not the file's")
            peak = max(run["peak"] for run in runs)
            part[kind] = {
                "runs": runs,
                "peak_over_file": peak / size,
                "peak_above_start_over_file": max(run["peak"] - run["before"] for run in runs) / size,
                "load_s": harness.summary([run["load_s"] for run in runs]),
            }
    print(f"\nLoading a checkpoint of {part['file_bytes'] / 1e6:.0f} MB, fresh processes; MB")
    lines = []
    for kind in ("qdqbert", "torch"):
        if kind in part:
            worst = max(part[kind]["runs"], key=lambda run: run["peak"])
            lines.append(
                (
                    kind,
                    f"{worst['before'] / 1e6:.0f}",
                    f"{worst['peak'] / 1e6:.0f}",
                    f"{worst['after'] / 1e6:.0f}",
                    f"{part[kind]['peak_over_file']:.3f}",
                    f"{part[kind]['peak_above_start_over_file']:.3f}",
                    f"{part[kind]['load_s']['min']:.2f}",
                )
            )
    print(
        harness.table(
            lines, ("loader", "before", "peak", "after", "peak / file", "(peak - before) / file", "s, min")
        )
    )
    return part


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "startup.json")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--shape", choices=sorted(systems.SHAPES), default="base")
    parser.add_argument("--repeats", type=int, default=3, help="loads per loader")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.shape, arguments.repeats = 3, "tiny", 1

    facts = harness.machine_facts(("torch", "transformers"))
    harness.print_facts(facts)
    missing: dict[str, str] = {}
    body: dict[str, Any] = {"missing": missing, "import": import_part(arguments.rounds, missing)}
    body["load"] = load_part(arguments.shape, arguments.repeats, missing)
    harness.write_json(arguments.json, facts, body)


if __name__ == "__main__":
    main()

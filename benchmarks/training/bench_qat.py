# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training of minilm-squad, -sst2 and -wnut17: what PTQ loses, and QAT gives back.

All 120 quantizers are on. For each checkpoint: float; post-training quantization (PTQ) by each start; and
quantization-aware training (QAT) from each start, one epoch of the checkpoint's own training data, ranges of
activations frozen as calibration left them, and each time the full reported sets are scored once, after the
last step. A start is a calibration method and the bits of the weights, e.g. max-8: ranges by maxima, which
suit these checkpoints badly, or mix-4: ranges of activations by Calibration.search, weights of 4 bits with
ranges of the least squared error.

Recipe, the same for all: AdamW (0.9, 0.999; 1e-8), weight decay 0.01 except biases and LayerNorm, peak
learning rate --learning-rate, warm-up over a tenth of the steps, then cosine to 0, clipping at 1.0, dropout
as the checkpoint was trained with, batches of the size that it was trained with, of similar length, seed 13.
Ranges of weights that are maxima follow the weights after every step; others stay. Loss: the
labels' alone, or ("distilled") half of it and half the float checkpoint's logits (temperature 2).
Calibration: 128 training items (random.Random(13).sample); the search looks at 96 others (seed 14). No label
of a reported set is used before the end.

Scores depend neither on threads nor on the machine. Finished rows are kept in the result file; --resume
goes on with the others.

    python benchmarks/training/bench_qat.py --threads 2
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
from harness import require, shared

SEED = 13


@dataclass(frozen=True)
class Case:
    """A checkpoint, its data, and how it was trained."""

    checkpoint: str
    task: str
    head: str
    train: tuple[str, ...]
    reported: dict[str, tuple[str, ...]]
    starts: tuple[str, ...]
    batch: int
    max_length: int
    hidden_dropout: float
    alphas: tuple[float, ...] = (0.0, 0.5)  # weights of the float checkpoint's logits in the loss
    rows: int = 0  # of the training file that random.Random(13).sample draws; 0: all
    options: tuple[tuple[str, Any], ...] = ()


CASES = {
    "squad": Case(
        "minilm-squad",
        "squad",
        "QDQBertForQuestionAnswering",
        ("squad", "train-du44-v1.1.json"),
        {"dev": ("squad", "dev-v1.1.json")},
        ("max-8", "mix-8", "mix-4"),
        16,
        256,
        0.0,
        alphas=(0.0,),
        options=(("doc_stride", 128), ("pad_to_max_length", False)),
    ),
    "sst2": Case(
        "minilm-sst2",
        "sst2",
        "QDQBertForSequenceClassification",
        ("glue", "SST-2", "train.tsv"),
        {"dev": ("glue", "SST-2", "dev.tsv")},
        ("max-8", "mix-8", "mix-4"),
        32,
        64,
        0.1,
        rows=20_000,
    ),
    "wnut17": Case(
        "minilm-wnut17",
        "ner",
        "QDQBertForTokenClassification",
        ("ner", "wnut17", "wnut17train.conll"),
        {
            "dev": ("ner", "wnut17", "emerging.dev.conll"),
            "test": ("ner", "wnut17", "emerging.test.annotated"),
        },
        ("max-8", "mix-8", "mix-4"),
        16,
        128,
        0.1,
    ),
}


class Bench:
    """One checkpoint with its data."""

    def __init__(self, name: str, arguments: Any) -> None:
        self.case, self.arguments = CASES[name], arguments
        self.qdqbert = require("qdqbert")
        self.qdqbert.set_num_threads(arguments.threads)
        self.folder = shared("checkpoints", self.case.checkpoint)
        self.tokenizer = self.qdqbert.AutoTokenizer.from_pretrained(self.folder)
        self.config = self.qdqbert.QDQBertConfig.from_pretrained(self.folder)
        self.reported = {part: self._task(place) for part, place in self.case.reported.items()}
        if arguments.limit:
            self.reported = {
                part: task.select(range(arguments.limit)) for part, task in self.reported.items()
            }
        self.samples = self._task(self.case.train)

    def _task(self, place: tuple[str, ...]) -> Any:
        task = require("qdqbert.tasks.table").find_task(self.case.task).load()
        return task.read(shared("data", *place), self.tokenizer, self.config)

    def data(self) -> Any:
        """Return the training data: encoded items and how batches are made of them."""
        case = self.case
        path = shared("data", *case.train)
        return self.qdqbert.data.read(
            case.task, path, self.tokenizer, self.config, max_seq_length=case.max_length, **dict(case.options)
        )

    def model(self, weight_bits: int) -> Any:
        """Return the checkpoint with fresh quantizers, histograms for activations, `weight_bits` a row."""
        descriptor = self.qdqbert.tensor_quant.QuantDescriptor
        linear = self.qdqbert.nn.QuantLinear
        linear.set_default_quant_desc_input(descriptor(num_bits=8, calib_method="histogram"))
        linear.set_default_quant_desc_weight(descriptor(num_bits=weight_bits, axis=(0,)))
        model = getattr(self.qdqbert, self.case.head).from_pretrained(
            self.folder, hidden_dropout_prob=self.case.hidden_dropout, attention_probs_dropout_prob=0.0
        )
        return model.eval()

    def calibrate(self, model: Any, method: str, weights: str) -> None:
        """Load ranges by a method, or by the search for a mix of them for activations, beside `weights`."""
        batches = list(self.samples.batches(128, seed=SEED))
        if method != "mix":
            kind, _, percentile = method.partition("-")
            options = {"percentile": float(percentile)} if percentile else {}
            self.qdqbert.calibrate(model, batches, method=kind, progress=False, **options)
            return
        calibration = self.qdqbert.calibrate(model, batches, method="mse", progress=False)
        others = list(self.samples.batches(96, seed=14, batch_size=8))
        calibration.search(others, sites=0, weights=weights, progress=False)

    def scores(self, model: Any, floats: dict[str, Any] | None) -> dict[str, Any]:
        """Score a model on the reported sets, beside float's scores."""
        found = {}
        for part, task in self.reported.items():
            evaluation = task.evaluate(model, progress=False)
            figure = evaluation[task.metric]
            interval = figure.interval()
            entry: dict[str, Any] = {"score": figure.value, "low": interval.low, "high": interval.high}
            if floats is not None:
                difference = figure.difference(floats[part][task.metric])
                entry.update(difference=difference.mean, difference_low=difference.low)
                entry["difference_high"] = difference.high
            entry["evaluation"] = evaluation
            found[part] = entry
        return found

    def train(self, model: Any, weights: str, learning_rate: float, alpha: float) -> dict[str, Any]:
        """One epoch of quantization-aware training."""
        case, qdqbert = self.case, self.qdqbert
        distillation = None
        if alpha:
            teacher = self.model(8)
            qdqbert.quantizers(teacher, {"*": "off"})
            distillation = qdqbert.Distillation(teacher, temperature=2.0, alpha=alpha)
        data = self.data()
        dataset = data.dataset
        if case.rows:
            chosen = random.Random(SEED).sample(range(len(dataset)), case.rows)
            dataset = [dataset[index] for index in chosen]
        with tempfile.TemporaryDirectory(prefix="qdqbert-qat-") as folder:
            trainer = qdqbert.Trainer(
                model,
                qdqbert.TrainingArguments(
                    folder,
                    learning_rate=learning_rate,
                    lr_scheduler_type="cosine",
                    warmup_ratio=0.1,
                    weight_decay=0.01,
                    max_grad_norm=1.0,
                    num_train_epochs=1,
                    max_steps=self.arguments.max_steps,
                    per_device_train_batch_size=case.batch,
                    group_by_length=True,
                    seed=SEED,
                    save_strategy="no",
                    logging_steps=50,
                    report_to="none",
                    disable_tqdm=not sys.stderr.isatty(),
                ),
                data_collator=data.collate_fn,
                train_dataset=dataset,
                callbacks=[
                    qdqbert.training.QuantizationAware(weights="max" if weights == "max" else "frozen")
                ],
                distillation=distillation,
            )
            begin = time.perf_counter()
            out = trainer.train()
        model.eval()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return {"steps": out.global_step, "seconds": time.perf_counter() - begin, "losses": losses}


def plain(entry: dict[str, Any]) -> dict[str, Any]:
    """Return scores without what only this process can use."""
    return {part: {k: v for k, v in each.items() if k != "evaluation"} for part, each in entry.items()}


def show(label: str, scores: dict[str, Any]) -> None:
    """One row."""
    parts = []
    for part, each in scores.items():
        text = f"{part} {each['score']:.2f}"
        if "difference" in each:
            text += f" ({each['difference']:+.2f}, {each['difference_low']:+.2f} .. "
            text += f"{each['difference_high']:+.2f})"
        parts.append(text)
    print(f"{label}: {'; '.join(parts)}", flush=True)


def run(name: str, arguments: Any, facts: dict[str, Any], body: dict[str, Any]) -> None:
    """Every row of one checkpoint."""
    bench = Bench(name, arguments)
    rows: dict[str, Any] = body["cases"].setdefault(name, {})

    def keep() -> None:
        harness.write_json(arguments.json, facts, body)

    model = bench.model(8)
    with bench.qdqbert.quantizers(model, {"*": "off"}):
        found = bench.scores(model, None)
    floats = {part: each["evaluation"] for part, each in found.items()}
    rows["float"] = plain(found)
    show(f"{name} float", found)
    for start in arguments.starts or bench.case.starts:
        method, _, bits = start.rpartition("-")
        weights = "mse" if method == "mix" and int(bits) < 8 else "max"
        for rate, alpha in itertools.product(arguments.learning_rate, arguments.alphas or bench.case.alphas):
            label = f"QAT from {start}, {rate:g}" + (", distilled" if alpha else "")
            if label in rows and f"PTQ {start}" in rows:
                continue
            model = bench.model(int(bits))
            bench.calibrate(model, method, weights)
            if f"PTQ {start}" not in rows:
                found = bench.scores(model, floats)
                rows[f"PTQ {start}"] = plain(found)
                show(f"{name} PTQ {start}", found)
                keep()
            trained = bench.train(model, weights, rate, alpha)
            found = bench.scores(model, floats)
            rows[label] = {**plain(found), "training": trained}
            show(f"{name} {label}", found)
            keep()


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__, "qat.json")
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--starts", nargs="*", metavar="METHOD-BITS", help="instead of the case's own")
    parser.add_argument("--learning-rate", nargs="+", type=float, default=[3e-5])
    parser.add_argument("--alphas", nargs="+", type=float, help="weights of distillation, instead of its own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="keep the rows that the result file has")
    parser.add_argument("--max-steps", type=int, default=-1, help="steps of each training (one epoch)")
    parser.add_argument("--limit", type=int, default=0, help="items of each reported set (all)")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.max_steps, arguments.limit = 2, 20
    facts = harness.machine_facts(("tokenizers",))
    harness.print_facts(facts)
    body: dict[str, Any] = {"cases": {}}
    if arguments.resume:
        with contextlib.suppress(FileNotFoundError):
            body["cases"] = json.loads(arguments.json.read_text(encoding="utf-8"))["cases"]
    for name in arguments.cases:
        run(name, arguments, facts, body)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""One training step of question answering, by qdqbert and by PyTorch, for `bench_step.py`.

Every factory is called inside a worker process (harness.Worker) and returns ``(call, facts)``: a call is a
whole step (zero the gradients, forward, loss, backward, AdamW) and returns its loss.  All of them start from
one checkpoint, see the same batch in every step, and train without dropout, so their losses can be compared.
"""

from __future__ import annotations

import pathlib
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
import systems
from harness import Call, require

LEARNING_RATE = 1e-5
WEIGHT_DECAY = 0.01
# The first losses, before anything is timed, that systems must agree on.
CHECKED_STEPS = 3

Batch = dict[str, NDArray[np.int64]]

# Wordpieces of random.Random(13).sample(features, 16) of the 12,022 features (160.9 wordpieces on average) of
# SQuAD v1.1 train's train-du44, minilm-squad's tokenizer, max_seq_length 384, doc_stride 128.
SQUAD_LENGTHS = (131, 169, 79, 78, 106, 118, 269, 200, 293, 94, 83, 216, 78, 201, 82, 72)


def make_batch(shape: str, lengths: tuple[int, ...], padded: int, seed: int = 1) -> Batch:
    """Random questions of the given lengths, padded to `padded`, with answers inside."""
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    batch: Batch = {
        "input_ids": np.zeros((rows, padded), np.int64),
        "attention_mask": np.zeros((rows, padded), np.int64),
        "token_type_ids": np.zeros((rows, padded), np.int64),
        "start_positions": np.zeros(rows, np.int64),
        "end_positions": np.zeros(rows, np.int64),
    }
    for row, length in enumerate(lengths):
        batch["input_ids"][row, :length] = rng.integers(1, systems.SHAPES[shape]["vocab"], length)
        batch["attention_mask"][row, :length] = 1
        batch["token_type_ids"][row, length // 3 : length] = 1
        start = int(rng.integers(length // 3, length - 4))
        batch["start_positions"][row], batch["end_positions"][row] = start, start + 3
    return batch


def _checked(call: Call, facts: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    """Make the first steps and keep their losses."""
    started = time.perf_counter()
    facts["losses"] = [float(call())]
    facts["first_call_s"] = time.perf_counter() - started
    facts["losses"] += [float(call()) for _ in range(CHECKED_STEPS - 1)]
    return call, facts


def ours(folder: str, batch: Batch, threads: int, variant: str) -> tuple[Call, dict[str, Any]]:
    """Train with qdqbert: `variant` is "float", "qat" (all quantizers on, max, frozen) or "checkpointing"."""
    qdqbert = require("qdqbert")
    model = systems.qdqbert_model(folder, threads, "QDQBertForQuestionAnswering")
    if variant == "qat":
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        qdqbert.calibrate(model, [inputs], method="max")
    else:
        qdqbert.quantizers(model, {"*": "off"})
    if variant == "checkpointing":
        model.gradient_checkpointing_enable()
    model.train()
    groups = model.parameter_groups(weight_decay=WEIGHT_DECAY)
    optimizer = qdqbert.optim.AdamW(groups, lr=LEARNING_RATE)

    def call() -> float:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        return float(loss)

    return _checked(call, systems.device_facts(model))


def pytorch(folder: str, batch: Batch, threads: int, variant: str) -> tuple[Call, dict[str, Any]]:
    """Train with PyTorch: `variant` is "eager" (transformers' own), "sdpa" or "compile" (sdpa, inductor).

    AdamW is fused, its fastest form on a CPU.  Transformers' loss takes padding for places of an answer;
    here it is none, as in qdqbert, so that losses can be compared (two operations on (B, T) more).
    """
    torch = require("torch")
    transformers = require("transformers", "transformers==4.39.3")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    model = transformers.BertForQuestionAnswering.from_pretrained(
        folder, torch_dtype=torch.float32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model.train()
    if variant != "eager":
        systems.use_sdpa(model.bert)
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        is_kept = name.endswith("bias") or "LayerNorm" in name
        (kept if is_kept else decayed).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": kept, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        fused=True,
    )
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    targets = tensors.pop("start_positions"), tensors.pop("end_positions")
    is_padding = tensors["attention_mask"] == 0
    entropy = torch.nn.functional.cross_entropy

    def loss_of(**inputs: Any) -> Any:
        out = model(**inputs)
        logits = [each.masked_fill(is_padding, -torch.inf) for each in (out.start_logits, out.end_logits)]
        return (entropy(logits[0], targets[0]) + entropy(logits[1], targets[1])) / 2

    forward: Any = torch.compile(loss_of) if variant == "compile" else loss_of

    def call() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(**tensors)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return _checked(call, {"threads": torch.get_num_threads()})


def peak_memory(factory: str, arguments: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    """Run a system's first steps in a process of its own and report how much memory the process took."""
    base = harness.rss_bytes()
    _, facts = {"ours": ours, "pytorch": pytorch}[factory](**arguments)
    return (lambda: None), {**facts, "peak_bytes": harness.rss_bytes()["VmHWM"], "base_bytes": base["VmRSS"]}


def write_checkpoint(folder: pathlib.Path, shape: str) -> pathlib.Path:
    """Write a question answering checkpoint, without dropout, under transformers' names."""
    return systems.write_checkpoint(folder, shape, head="question_answering")

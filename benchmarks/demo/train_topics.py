# SPDX-License-Identifier: Apache-2.0
"""Train the bundled demo model from scratch; every run, on every machine, gives the same bytes.

topics-tiny tells from a question which of 44 Wikipedia articles answers it: 2 layers, hidden 128, 4,000
wordpieces. Recipe (that of the first topics-tiny, which was made with PyTorch): 8 epochs of train.tsv (10,305
questions and 8,099 sentences), batches of 64, AdamW, peak learning rate 1e-3, weight decay 0.01 except biases
and LayerNorm, 200 steps of warm-up then linear to 0, clipping at 1.0, dropout 0.1, label smoothing 0.05, a
tenth of the wordpieces replaced by [MASK] anew in every epoch, texts cut at 48 wordpieces, seed 0. The
weights are rounded to float16 once, at the end, and scored as they are in the file.

    python benchmarks/demo/train_topics.py --check                     compare with the bundled file
    python benchmarks/demo/train_topics.py --output DIR                about 3 minutes
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
from harness import require, shared

SEED = 0
EPOCHS, BATCH, WARMUP, LEARNING_RATE = 8, 64, 200, 1e-3
MASKED_SHARE, LABEL_SMOOTHING, MAX_LENGTH = 0.1, 0.05, 48
WEIGHTS = "model.safetensors"


class MaskingCollator:
    """Batches in which a share of the wordpieces, drawn for each batch, is replaced by [MASK].

    Parameters
    ----------
    collate : callable (items) -> dict of arrays
    tokenizer : BertTokenizerFast
    """

    def __init__(self, collate: Callable[..., Any], tokenizer: Any) -> None:
        self._collate, self._mask = collate, tokenizer.mask_token_id
        self._special = np.array(tokenizer.all_special_ids)

    def __call__(self, items: Sequence[Any], rng: np.random.Generator) -> Any:
        """Make a batch."""
        batch = self._collate(items)
        ids = batch["input_ids"]
        is_masked = (rng.random(ids.shape) < MASKED_SHARE) & ~np.isin(ids, self._special)
        return {**batch, "input_ids": np.where(is_masked, self._mask, ids)}


def train(bundled: pathlib.Path, folder: pathlib.Path, epochs: float) -> Any:
    """Return the trained model."""
    qdqbert = require("qdqbert")
    tokenizer = qdqbert.AutoTokenizer.from_pretrained(bundled)
    config = qdqbert.QDQBertConfig.from_pretrained(bundled)
    model = qdqbert.QDQBertForSequenceClassification(config, seed=SEED)
    qdqbert.quantizers(model, {"*": "off"})
    data = qdqbert.data.read(
        "classification",
        shared("checkpoints", "topics-tiny", "train.tsv"),
        tokenizer,
        config,
        max_seq_length=MAX_LENGTH,
    )
    trainer = qdqbert.Trainer(
        model,
        qdqbert.TrainingArguments(
            str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            warmup_steps=WARMUP,
            weight_decay=0.01,
            label_smoothing_factor=LABEL_SMOOTHING,
            seed=SEED,
            save_strategy="no",
            logging_steps=100,
            report_to="none",
        ),
        data_collator=MaskingCollator(data.collate_fn, tokenizer),
        train_dataset=data.dataset,
    )
    trainer.train()
    return model.eval()


def write_float16(model: Any, path: pathlib.Path) -> None:
    """Write the weights in float16, under transformers' names, in the order of the names."""
    numpy_file = require("safetensors.numpy", "safetensors")
    state = {name: np.asarray(value) for name, value in sorted(model.state_dict().items())}
    halves = {name: np.ascontiguousarray(value, np.float16) for name, value in state.items()}
    path.write_bytes(numpy_file.save(halves, {"format": "pt"}))


def accuracy(folder: pathlib.Path) -> Any:
    """Score the float model in a folder on the 1,500 held-out questions."""
    qdqbert = require("qdqbert")
    model = qdqbert.QDQBertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = qdqbert.AutoTokenizer.from_pretrained(folder)
    task = require("qdqbert.tasks.table").find_task("classification").load()
    with qdqbert.quantizers(model, {"*": "off"}):
        return task.read(folder / "test.tsv", tokenizer, model.config).evaluate(model, progress=False)


def main() -> None:
    """Train, write, score, compare."""
    parser = harness.parser(__doc__, "demo.json")
    parser.add_argument("--output", type=pathlib.Path, help="folder for the trained model")
    parser.add_argument("--threads", type=int, default=2, help="changes no bit (2)")
    parser.add_argument("--check", action="store_true", help="fail unless the bundled weights come out")
    arguments = parser.parse_args()
    facts = harness.machine_facts(("tokenizers", "safetensors"))
    harness.print_facts(facts)
    qdqbert = require("qdqbert")
    qdqbert.set_num_threads(arguments.threads)
    bundled = pathlib.Path(qdqbert.__file__).parent / "demo" / "topics-tiny"
    with tempfile.TemporaryDirectory(prefix="qdqbert-demo-") as name:
        made = arguments.output or pathlib.Path(name) / "topics-tiny"
        made.mkdir(parents=True, exist_ok=True)
        for source in bundled.iterdir():
            if source.name != WEIGHTS:
                (made / source.name).write_bytes(source.read_bytes())
        model = train(bundled, pathlib.Path(name) / "run", 0.02 if arguments.smoke else EPOCHS)
        write_float16(model, made / WEIGHTS)
        found = accuracy(made)
        print(found)
        same = (made / WEIGHTS).read_bytes() == (bundled / WEIGHTS).read_bytes()
        print(f"bundled weights: {'the same bytes' if same else 'other bytes'}")
    if arguments.check and not same:
        raise SystemExit("the bundled weights are not those that this script makes")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What a reader gives is what its model takes: a loss, gradients, and through a trainer the same batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qdqbert
import tiny_model
from qdqbert.data import BatchLoader, read

XML = """<copa-corpus>
<item id="1" asks-for="cause" most-plausible-alternative="2"><p>It fell.</p><a1>a b</a1><a2>c</a2></item>
<item id="2" asks-for="effect" most-plausible-alternative="1"><p>It is.</p><a1>d</a1><a2>e f</a2></item>
</copa-corpus>
"""
SQUAD = """{"data": [{"paragraphs": [{"context": "It is in Paris.", "qas": [
{"id": "a", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 9}]},
{"id": "b", "question": "What?", "answers": [{"text": "It", "answer_start": 0}]}]}]}]}
"""
LISTS = '{"text": "a", "label": ["x", "y"]}\n{"text": "b c", "label": []}\n'
CASES = {
    "squad": ("a.json", SQUAD),
    "csv": ("a.csv", "text,text_b,label\na,b,x\nc,d,y\ne,f,z\n"),
    "csv of numbers": ("a.csv", "text,label\na,0.5\nb,2.25\n"),
    "csv of lists": ("a.jsonl", LISTS),
    "sst2": ("a.tsv", "sentence\tlabel\ngood\t1\nbad film\t0\n"),
    "cola": ("a.tsv", "gj04\t1\t\tgood\ngj04\t0\t*\tbad\n"),
    "rte": ("a.tsv", "sentence1\tsentence2\tlabel\na\tb\tentailment\nc\td e\tnot_entailment\n"),
    "mrpc": ("a.tsv", "Quality\t#1 String\t#2 String\n1\ta\tb\n0\tc\td\n"),
    "stsb": ("a.tsv", "sentence1\tsentence2\tscore\na\tb\t4.5\nc\td\t0\n"),
    "ner": ("a.conll", "Paris\tB-place\nis\tO\n\nit\tO\n"),
    "copa": ("a.xml", XML),
    "nsp": ("a.txt", "a\tb\nc\td\ne\tf\ng\th\n"),
    "mlm": ("a.txt", "it is ☃ one of ☃ the more ☃\n" * 8),
    "clm": ("a.txt", "it is ☃ one of ☃ the more ☃\n" * 8),
}


def open_task(name: str, write: Any, tokenizer: Any, **options: Any) -> tuple[Any, Any]:
    """Data of a task, and a new model for them as a command line would make it."""
    task = name.split()[0]
    config = tiny_model.config(vocab_size=4000, max_position_embeddings=96, is_decoder=task == "clm")
    data = read(task, write(*CASES[name]), tokenizer, config, max_seq_length=80, **options)
    if data.id2label is not None:
        config.id2label = dict(data.id2label)
    config.problem_type = data.problem_type
    return data, getattr(qdqbert, data.model_class)(config, seed=0)


@pytest.mark.parametrize("name", CASES)
def test_every_batch_has_a_loss_and_gradients(tokenizer, write, name):
    data, model = open_task(name, write, tokenizer)
    model.train()

    for batch in BatchLoader(data.dataset, 2, data.collate_fn, shuffle=True, group_by_length=True).batches():
        loss = model(**batch).loss
        loss.backward()
        assert np.isfinite(loss)
    assert any(
        parameter.grad is not None and np.abs(parameter.grad).max() > 0 for parameter in model.parameters()
    )


@pytest.mark.parametrize("name", ["squad", "ner", "mlm", "nsp", "copa"])
def test_trainer_shows_a_collator_all_that_it_asks_for(tokenizer, write, tmp_path, name):
    data, model = open_task(name, write, tokenizer)
    arguments = qdqbert.TrainingArguments(str(tmp_path / "out"))
    trainer = qdqbert.Trainer(model, arguments, data_collator=data.collate_fn, train_dataset=data.dataset)
    direct = list(BatchLoader(data.dataset, 2, data.collate_fn).batches())

    through = list(BatchLoader(data.dataset, 2, trainer._collate()).batches())

    for expected, found in zip(direct, through, strict=True):
        assert {key: values.tolist() for key, values in found.items()} == {
            key: values.tolist() for key, values in expected.items()
        }

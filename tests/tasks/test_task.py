# SPDX-License-Identifier: Apache-2.0
"""The protocol: every task calibrates, runs and scores a model, whatever the batches."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import qdqbert
from qdqbert.tasks.metrics import Mean
from qdqbert.tasks.table import TASKS
from qdqbert.tasks.task import Figure, as_paths, longest_input

TEXTS = (
    "what is red",
    "who wrote it?",
    "the river ran",
    "no",
    "where was the first king of France born and raised",
)
COUNT = 23


def text(index: int) -> str:
    """A text of its own for each number, of all lengths."""
    return f"{TEXTS[index % 5]} {index} " * (1 + index % 4)


def contents() -> dict[str, tuple[str, str]]:
    """A file of every task: name and content."""
    tags = ("O", "B-person", "I-person", "O")

    def rows(header: str, line: Any) -> str:
        return header + "".join(line(index) + "\n" for index in range(COUNT))

    single = rows("sentence\tlabel\n", lambda i: f"{text(i)}\t{i % 2}")
    pairs = rows("sentence1\tsentence2\tlabel\n", lambda i: f"{text(i)}\t{text(i + 7)}\t{i % 2}")
    items = rows(
        "",
        lambda i: (
            f'<item id="{i}" asks-for="{("cause", "effect")[i % 2]}" most-plausible-alternative='
            f'"{1 + i % 2}"><p>{text(i)}</p><a1>{text(i + 1)}</a1><a2>{text(i + 2)}</a2></item>'
        ),
    )
    words = rows("", lambda i: "".join(f"{w}\t{tags[(i + k) % 4]}\n" for k, w in enumerate(text(i).split())))
    return {
        "classification": ("a.tsv", single.replace("sentence", "text")),
        "sst2": ("a.tsv", single),
        "cola": ("a.tsv", rows("", lambda i: f"x\t{i % 2}\t\t{text(i)}")),
        "stsb": (
            "a.tsv",
            rows("sentence1\tsentence2\tscore\n", lambda i: f"{text(i)}\t{text(i + 7)}\t{i % 6}"),
        ),
        "rte": ("a.tsv", pairs),
        "mrpc": ("a.tsv", pairs),
        "ner": ("a.conll", words),
        "copa": ("a.xml", f"<copa-corpus>\n{items}</copa-corpus>"),
        "next-sentence": ("a.txt", rows("", lambda i: f"{text(i)}\t{text(i + 1)}")),
        "masked-lm": ("a.txt", rows("", text)),
        "causal-lm": ("a.txt", rows("", text)),
    }


def make_model(entry: Any) -> Any:
    labels = {"ner": ["O", "B-person", "I-person"], "stsb": ["score"]}.get(entry.name, ["LABEL_0", "LABEL_1"])
    config = qdqbert.QDQBertConfig(
        vocab_size=4000,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=37,
        max_position_embeddings=40,
        initializer_range=0.3,
        pad_token_id=0,
        is_decoder=entry.name == "causal-lm",
        id2label=dict(enumerate(labels)),
    )
    return getattr(qdqbert, entry.model_class)(config, seed=3)


@pytest.fixture(params=TASKS, ids=lambda entry: entry.name)
def case(request, tokenizer, write):
    """A task over a file of it, and a model with random weights."""
    entry = request.param
    model = make_model(entry)
    if entry.name == "squad":
        path = request.path.parent / "squad_cases.json"
        return entry.load().read(path, tokenizer, model.config, max_length=40, max_query_length=8), model
    return entry.load().read(write(*contents()[entry.name]), tokenizer, model.config), model


def off(model):
    return qdqbert.quantizers(model, {"*": "off"})


def test_scores_do_not_depend_on_the_batches(case):
    task, model = case

    with off(model):
        results = [task.evaluate(model, max_batch_tokens=budget) for budget in (1, 90, None)]

    # One text, one answer: the same bits whatever the batch mates.
    first = results[0].metrics
    assert [result.metrics for result in results[1:]] == [first, first]
    assert results[0].items == len(task) >= 5
    assert results[0].figures[0].name == task.metric
    assert results[0].figures[0].higher_is_better == task.higher_is_better
    assert results[0].milliseconds > 0


def test_calibration_batches_are_seeded_items_in_drawn_order(case):
    task, _ = case
    chosen = random.Random(5).sample(range(len(task)), 3)

    batches = list(task.batches(3, seed=5))

    for batch, index in zip(batches, chosen, strict=True):
        (alone,) = task.select([index]).batches(1)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert np.array_equal(batch[name], alone[name])
    with pytest.raises(TypeError, match="seed: expected an integer, got str"):
        next(task.batches(3, seed="5"))
    with pytest.raises(ValueError, match="seed: expected at least 0, got -5"):
        next(task.batches(3, seed=-5))
    everything = list(task.batches(99, seed=5, batch_size=4))
    assert sum(len(batch["input_ids"]) for batch in everything) == len(task)


@pytest.mark.parametrize("options", [{"samples": 0}, {"batch_size": 0}])
def test_calibration_needs_samples(case, options):
    with pytest.raises(ValueError, match="samples, batch_size"):
        next(case[0].batches(**options))


def test_model_is_calibrated_and_scored_quantized(case):
    task, model = case

    with off(model):
        before = task.evaluate(model)
    qdqbert.calibrate(model, task.batches(4), method="max")
    after = task.evaluate(model)

    # One layer's worth of rounding: outputs differ, and the figures stay comparable.
    assert {figure.name for figure in after.figures if not figure.is_detail} == {
        figure.name for figure in before.figures if not figure.is_detail
    }
    found = after.figures[0].difference(before.figures[0])
    assert found.mean == pytest.approx(after.value - before.value, rel=1e-9, abs=1e-9)


def test_selected_items_are_scored_as_in_the_whole(case):
    task, model = case
    indices = [3, 0, 4]

    with off(model):
        whole, part = task.evaluate(model), task.select(indices).evaluate(model)

    assert part.items == 3
    for place, index in enumerate(indices):
        assert task.select(indices).answer(part, place) == task.answer(whole, index)
        assert task.select(indices).text_of(place) == task.text_of(index)
        assert task.select(indices).expected(place) == task.expected(index)


def test_evaluation_prints_scores_with_intervals(case):
    task, model = case

    with off(model):
        result = task.evaluate(model)

    line = str(result)
    assert line.startswith(f"{task.name}, {len(task)} {task.item}s: {task.metric} ")
    interval = result[task.metric].interval()
    assert f"{result.value:.2f} ({interval.low:.2f} .. {interval.high:.2f})" in line
    with pytest.raises(KeyError, match="expected one of"):
        result["haiku"]


def test_tokenizers_of_transformers_kind_are_taken(tmp_path, write):
    from qdqbert.cli.demo import bundled_folder

    tokenizer = qdqbert.AutoTokenizer.from_pretrained(bundled_folder())
    tokenizer("cut " * 99, truncation=True, max_length=5, padding="max_length")
    entry = next(entry for entry in TASKS if entry.name == "sst2")
    task = entry.load().read(write(*contents()["sst2"]), tokenizer, make_model(entry).config)

    (batch,) = task.select([4]).batches(1)

    # What the last call of the tokenizer cut and padded to is nothing to the task.
    assert batch["input_ids"].tolist() == [tokenizer(text(4).strip())["input_ids"]]
    assert batch["input_ids"].shape[1] > 5


def test_what_is_in_memory_is_bounded(tokenizer, write):
    # Features are made chunk by chunk: the model is asked before the last text is encoded.
    from qdqbert.tasks import SST2

    rows = "".join(f"what {i}\t{i % 2}\n" for i in range(3000))
    entry = next(entry for entry in TASKS if entry.name == "sst2")
    task = SST2.read(write("a.tsv", "sentence\tlabel\n" + rows), tokenizer, make_model(entry).config)
    encoded, seen = [], []
    features = task._features

    def counted(index):
        encoded.append(index)
        return features(index)

    def model(**inputs):
        seen.append(len(encoded))
        return SimpleNamespace(logits=np.zeros((len(inputs["input_ids"]), 2), np.float32))

    task._features = counted
    task.evaluate(model)

    assert seen[0] == 1024
    assert len(encoded) == 3000


def test_figures_of_other_metrics_are_not_subtracted():
    with pytest.raises(ValueError, match="expected a figure named 'F1', found 'accuracy'"):
        Figure("F1", Mean([1.0])).difference(Figure("accuracy", Mean([1.0])))


def test_one_path_or_several():
    assert as_paths("a") == as_paths(["a"])
    with pytest.raises(ValueError, match="at least one file"):
        as_paths([])


def test_longest_input_is_bounded_by_positions():
    config = SimpleNamespace(max_position_embeddings=64)

    assert longest_input(None, config) == 64
    assert longest_input(None, config, default=384) == 64
    assert longest_input(None, config, default=32) == 32
    assert longest_input(64, config) == 64
    for length in (3, 65):
        with pytest.raises(ValueError, match=r"max_length: expected 4 \.\. 64"):
            longest_input(length, config)

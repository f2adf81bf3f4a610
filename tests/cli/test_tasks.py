# SPDX-License-Identifier: Apache-2.0
"""Every task on the command line, on checkpoints written by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from constructed_models import mood_reader, successor_model, unigram_model, word_reader, write_tokenizer

pytestmark = pytest.mark.uninstrumented  # a verb is Python; what it runs, tests/tasks runs

LABELS = {0: "LABEL_0", 1: "LABEL_1"}
TAGS = {0: "O", 1: "B-person", 2: "I-person"}
SENTENCES = (
    "good",
    "bad",
    "good red",
    "bad red blue",
    "red good bad good",
    "bad .",
    "good good",
    "bad green",
)


def say(label):
    """Labels that the words say, but for the third."""
    return [label(index, index % 2 == 0) for index in range(len(SENTENCES))]


def single(index, is_good):
    return f"{SENTENCES[index]}\t{int(is_good != (index == 2))}\n"


def paired(index, is_good):
    return f"{SENTENCES[index]}\tred\t{int(is_good != (index == 2))}\n"


FILES = {
    "sst2": ("a.tsv", "sentence\tlabel\n" + "".join(say(single))),
    "cola": (
        "a.tsv",
        "".join(f"x\t{row.split(chr(9))[1].strip()}\t\t{row.split(chr(9))[0]}\n" for row in say(single)),
    ),
    "rte": ("a.tsv", "sentence1\tsentence2\tlabel\n" + "".join(say(paired))),
    "mrpc": ("a.tsv", "sentence1\tsentence2\tlabel\n" + "".join(say(paired))),
    "classification": ("a.tsv", "text\tlabel\n" + "".join(say(single))),
    "stsb": (
        "a.tsv",
        "sentence1\tsentence2\tscore\n"
        + "".join(f"{s}\tred\t{i % 2 * 3}\n" for i, s in enumerate(SENTENCES)),
    ),
    "ner": (
        "a.conll",
        "alice\tB-person\nsmith\tI-person\nred\tO\n\nalice\tB-person\n\nsmith\tO\nred\tO\n\n" * 3,
    ),
    "copa": (
        "a.xml",
        "<copa-corpus>\n"
        + "".join(
            f'<item id="{i}" asks-for="cause" most-plausible-alternative="{1 + (i == 2)}">'
            f"<p>red</p><a1>good</a1><a2>{s}</a2></item>\n"
            for i, s in enumerate(("bad", "bad red", "bad bad", "blue"))
        )
        + "</copa-corpus>",
    ),
    "next-sentence": ("a.txt", "".join(f"red\t{s} green\n" for s in SENTENCES)),
    "masked-lm": ("a.txt", "red green blue\n" * 60),
    "causal-lm": ("a.txt", "red green red blue\n" * 30),
}

# First figure of the float row, where it is known without counting here.
KNOWN = {
    "sst2": 100 * 7 / 8,
    "rte": 100 * 7 / 8,
    "classification": 100 * 7 / 8,
    "copa": 75.0,
    "ner": 100 * 2 * 6 / (6 + 9),  # lone smiths are found and are nothing
    "causal-lm": 2**1.5,  # 0.5, 0.25, 0.25: an entropy of 1.5 bits
}


def build(task):
    if task == "ner":
        rows = {"alice": [0, 1, 0], "smith": [0, 0, 1], "red": [1, 0, 0]}
        model = word_reader("classifier", "QDQBertForTokenClassification", rows)
        model.config.id2label = TAGS
        return model
    if task == "copa":
        return mood_reader("classifier", "QDQBertForMultipleChoice", [1.0])
    if task == "next-sentence":
        return mood_reader("cls.seq_relationship", "QDQBertForNextSentencePrediction", [1.0, -1.0])
    if task == "masked-lm":
        return successor_model("QDQBertForMaskedLM", {"[MASK]": "red"})
    if task == "causal-lm":
        words = {"red": 0.5, "green": 0.25, "blue": 0.25}
        return unigram_model("QDQBertLMHeadModel", words, is_decoder=True)
    if task == "stsb":
        return mood_reader("classifier", "QDQBertForSequenceClassification", [-1.0], id2label={0: "score"})
    signs = [-1.0, 1.0]
    return mood_reader("classifier", "QDQBertForSequenceClassification", signs, id2label=LABELS)


@pytest.fixture
def checkpoint(tmp_path):
    """Write a checkpoint for a task and its data file."""

    def make(task):
        folder = tmp_path / f"model-{task}"
        build(task).save_pretrained(folder)
        write_tokenizer(folder)
        name, content = FILES[task]
        path = tmp_path / f"{task}-{name}"
        path.write_text(content)
        return folder, path

    return make


@pytest.mark.parametrize("task", FILES)
def test_eval_scores_with_an_interval(qdqbert, checkpoint, task):
    folder, path = checkpoint(task)

    outcome = qdqbert("eval", "--task", task, folder, "--data", path, "--json")

    row = outcome.data["rows"]["float"]
    metric = outcome.data["metric"]
    assert outcome.status == 0
    assert outcome.data["task"] == task
    assert row["score"] == row["metrics"][metric]
    assert row["intervals"][metric]["low"] <= row["score"] <= row["intervals"][metric]["high"]
    if task in KNOWN:
        assert row["score"] == pytest.approx(KNOWN[task], rel=1e-5)
    line = qdqbert("eval", folder, "--task", task, "--data", path).out.splitlines()[2]
    low, high = (row["intervals"][metric][end] for end in ("low", "high"))
    assert f"{row['score']:.2f} ({low:.2f} .. {high:.2f})" in line


@pytest.mark.parametrize("task", FILES)
def test_quantize_keeps_the_best_and_eval_compares(qdqbert, checkpoint, task, tmp_path):
    folder, path = checkpoint(task)
    out = tmp_path / "out"
    words = ("--task", task, "--data", path)

    made = qdqbert(
        *("quantize", folder, *words, "--samples", "2", "--methods", "max", "mse", "--output", out, "--json"),
        *("--eval-data", path),
    )
    scored = qdqbert("eval", out, *words, "--json")

    assert made.status == scored.status == 0
    assert made.data["best"] in ("max", "mse")
    sign = -1 if task == "causal-lm" else 1
    best = max(sign * (made.data["rows"][name]["score"] or 0) for name in ("max", "mse"))
    assert sign * (made.data["rows"][made.data["best"]]["score"] or 0) == best
    assert scored.data["rows"]["quantized"]["score"] == made.data["rows"][made.data["best"]]["score"]
    difference = scored.data["rows"]["quantized"]["differences"][scored.data["metric"]]
    assert difference["low"] <= difference["high"]


def test_calibrate_saves_ranges(qdqbert, checkpoint, tmp_path):
    folder, path = checkpoint("ner")

    outcome = qdqbert(
        "calibrate", folder, "--data", path, "--samples", "3", "--output", tmp_path / "out", "--json"
    )

    assert outcome.status == 0
    assert (outcome.data["task"], outcome.data["samples"], outcome.data["ranges"]) == ("ner", 3, 20)


def test_data_is_the_usual_file_below_the_variable(qdqbert, checkpoint, tmp_path, monkeypatch):
    folder, path = checkpoint("sst2")
    usual = tmp_path / "sets" / "glue" / "SST-2"
    usual.mkdir(parents=True)
    for name in ("dev.tsv", "train.tsv"):
        (usual / name).write_text(path.read_text())
    monkeypatch.setenv("QDQBERT_DATA", str(tmp_path / "sets"))

    words = ("--task", "SST-2", folder)
    assert qdqbert("eval", *words, "--json").data["items"] == 8
    assert qdqbert("calibrate", *words, "--samples", "2", "--output", tmp_path / "out").status == 0
    (usual / "dev.tsv").unlink()
    missing = qdqbert("eval", *words)
    assert missing.status == 3
    assert str(usual / "dev.tsv") in missing.err
    without = qdqbert("eval", "--task", "classification", folder)
    assert without.status == 2
    assert "there is no usual one" in without.err


def test_data_that_nobody_named_is_asked_for(qdqbert, checkpoint):
    folder, _ = checkpoint("sst2")

    outcome = qdqbert("eval", "--task", "sst2", folder)

    assert outcome.status == 2
    assert "--data: expected a file, or a folder of data sets in QDQBERT_DATA" in outcome.err


def test_several_files_are_scored_as_one(qdqbert, checkpoint):
    folder, path = checkpoint("ner")

    once = qdqbert("eval", folder, "--data", path, "--json").data
    twice = qdqbert("eval", folder, "--data", path, path, "--json").data

    assert twice["items"] == 2 * once["items"]
    assert twice["rows"]["float"]["score"] == once["rows"]["float"]["score"]


def test_options_reach_their_task(qdqbert, checkpoint):
    folder, path = checkpoint("ner")
    strict = qdqbert("eval", folder, "--data", path, "--entity-mode", "strict", "--json").data
    assert strict["rows"]["float"]["score"] == 100.0

    folder, path = checkpoint("causal-lm")
    windows = qdqbert("eval", folder, "--data", path, "--max-length", "8", "--stride", "4", "--json").data
    assert windows["items"] == 1 + (120 - 8) // 4

    folder, path = checkpoint("masked-lm")
    more = qdqbert(
        "eval", folder, "--data", path, "--mask-probability", "1", "--task-seed", "7", "--json"
    ).data
    assert more["rows"]["float"]["metrics"]["total"] == 180


def test_perplexity_is_bounded_from_above(qdqbert, checkpoint):
    folder, path = checkpoint("causal-lm")
    words = ("eval", folder, "--data", path)

    assert qdqbert(*words, "--max-score", "2.9").status == 0
    outcome = qdqbert(*words, "--max-score", "2.8")
    assert outcome.status == 4
    assert "above --max-score 2.8" in outcome.out
    refused = qdqbert(*words, "--min-score", "2")
    assert (refused.status, refused.out) == (2, "")
    assert "a lower perplexity is better; give --max-score" in refused.err


def test_scores_that_are_not_defined_are_null(qdqbert, checkpoint, tmp_path):
    folder, _ = checkpoint("stsb")
    path = tmp_path / "one.tsv"
    path.write_text("sentence1\tsentence2\tscore\n" + "good\tred\t1\n" * 5)

    data = qdqbert("eval", "--task", "stsb", folder, "--data", path, "--json").data

    row = data["rows"]["float"]
    assert row["score"] is None
    assert row["intervals"]["Spearman"] == {"low": None, "high": None, "confidence": 0.95}
    assert "nan (nan .. nan)" in qdqbert("eval", "--task", "stsb", folder, "--data", path).out
    assert qdqbert("eval", "--task", "stsb", folder, "--data", path, "--min-score", "-100").status == 4


@pytest.mark.parametrize(
    ("made_for", "task", "message"),
    [
        (
            "ner",
            "sst2",
            "sst2 needs a BertForSequenceClassification, config.json names BertForTokenClassification",
        ),
        (
            "sst2",
            "copa",
            "copa needs a BertForMultipleChoice, config.json names BertForSequenceClassification",
        ),
        ("masked-lm", "causal-lm", "causal-lm needs a BertLMHeadModel, config.json names BertForMaskedLM"),
        ("copa", "next-sentence", "next-sentence needs a BertForNextSentencePrediction"),
        ("stsb", "sst2", "sst2: config.num_labels: expected 2 (negative, positive), found 1"),
        ("sst2", "stsb", "stsb: config.num_labels: expected 1 (a regression), found 2"),
    ],
)
def test_head_that_does_not_fit_is_named(qdqbert, checkpoint, made_for, task, message):
    folder, path = checkpoint(made_for)

    outcome = qdqbert("eval", "--task", task, folder, "--data", path)

    assert (outcome.status, outcome.out) == (3, "")
    assert message in outcome.err
    assert str(folder) in outcome.err


def test_base_model_is_refused_with_its_class(qdqbert, checkpoint):
    folder, path = checkpoint("sst2")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(config))

    assert qdqbert("eval", "--task", "sst2", folder, "--data", path).status == 0  # the weights are there
    outcome = qdqbert("eval", "--task", "copa", folder, "--data", path)
    assert outcome.status == 3
    outcome = qdqbert("eval", "--task", "ner", folder, "--data", path)
    assert outcome.status == 3
    outcome = qdqbert("eval", "--task", "masked-lm", folder, "--data", path)
    assert outcome.status == 3
    assert "weights of QDQBertForMaskedLM are missing" in outcome.err
    assert "config.json names BertModel" in outcome.err


def test_demo_shows_items_of_any_task(qdqbert, checkpoint):
    folder, path = checkpoint("ner")

    data = qdqbert(
        *("demo", "--model", folder, "--data", path, "--samples", "2", "--methods", "max", "--json"),
    ).data

    assert data["task"] == "ner"
    assert {"text", "expected", "float", "int8"} == set(data["examples"][0])
    assert any(shown["float"] == "alice (B-person)" for shown in data["examples"])


def test_drop_is_relative_to_float_in_the_direction_of_the_metric():
    from qdqbert.cli.comparison import relative_drop
    from qdqbert.tasks.metrics import Mean
    from qdqbert.tasks.task import Evaluation, Figure

    def score(value, **options):
        figure = Figure("x", Mean([0.0]) if math.isnan(value) else Mean([value]), **options)
        if math.isnan(value):
            from qdqbert.tasks.metrics import Pearson

            figure = Figure("x", Pearson([1, 1], [1, 2]), **options)
        return Evaluation("t", "item", 1, (figure,), {}, None, 0.0)

    assert relative_drop(score(0.8), score(0.6)) == pytest.approx(25)
    assert relative_drop(score(0.8), score(0.9)) == pytest.approx(-12.5)
    assert relative_drop(score(-0.5), score(-0.6)) == pytest.approx(20)
    assert relative_drop(
        score(4.0, higher_is_better=False), score(5.0, higher_is_better=False)
    ) == pytest.approx(25)
    assert relative_drop(score(0.0), score(0.1)) == 0.0
    assert relative_drop(score(0.0), score(-0.1)) == math.inf
    assert relative_drop(score(0.5), score(math.nan)) == math.inf
    assert relative_drop(score(math.nan), score(math.nan)) == 0.0


@pytest.mark.parametrize(
    ("higher_is_better", "scores", "best"),
    [
        (True, {"max": 1.0, "mse": 3.0, "entropy": 3.0}, "mse"),
        (False, {"max": 4.0, "mse": 3.0, "entropy": 9.0}, "mse"),
        (True, {"max": math.nan, "mse": -2.0, "entropy": math.nan}, "mse"),
        (False, {"max": math.nan, "mse": math.inf, "entropy": 2.0}, "entropy"),
    ],
)
def test_best_method_is_chosen_in_the_direction_of_the_metric(higher_is_better, scores, best):
    from qdqbert.cli.post_training import FLOAT, try_methods
    from qdqbert.tasks.task import Evaluation

    class Applied:
        method = FLOAT

        def apply(self, name):
            self.method = name

    class Scored:
        def evaluate(self, model, progress):
            value = {FLOAT: 2.0, **scores}[applied.method]
            figure = SimpleNamespace(value=value, higher_is_better=higher_is_better)
            return Evaluation("t", "item", 1, (figure,), {}, None, 0.0)

    applied = Applied()

    trials = try_methods(build("sst2"), applied, list(scores), Scored())

    assert trials.best == best
    assert applied.method == best

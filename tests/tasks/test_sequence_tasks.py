# SPDX-License-Identifier: Apache-2.0
"""SST-2, CoLA, RTE, MRPC, STS-B: files, classes, and scores known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from constructed_models import config, mood, mood_reader
from qdqbert.tasks import MRPC, RTE, SST2, STSB, CoLA, DataError, TextClassification
from qdqbert.tasks.metrics import f1, matthews_correlation, pearson, spearman
from qdqbert.tasks.sequence_task import PairOfClasses

SENTENCES = (
    *("good", "bad", "red good", "red bad blue", "good bad good", "bad bad good", "good ."),
    *("bad , bad", "red good red red", "bad blue", "good good bad bad good"),
)
LABELS = (1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1)  # two of eleven are not what the words say
SAID = np.array([1 if mood(sentence) > 0 else 0 for sentence in SENTENCES])
CORRECT = int((np.array(LABELS) == SAID).sum())


def two_classes(first="LABEL_0", second="LABEL_1", signs=(-1.0, 1.0)):
    return mood_reader(
        "classifier",
        "QDQBertForSequenceClassification",
        list(signs),
        id2label={0: first, 1: second},
    )


def regression():
    return mood_reader("classifier", "QDQBertForSequenceClassification", [1.0], id2label={0: "LABEL_0"})


def sst2_file(write, labels=LABELS):
    rows = "".join(f"{s} \t{y}\n" for s, y in zip(SENTENCES, labels, strict=True))
    return write("dev.tsv", "sentence\tlabel\n" + rows)


def test_hand_made_model_says_what_the_words_say(write, words):
    task = SST2.read(sst2_file(write), words, config())

    result = task.evaluate(two_classes())

    assert CORRECT == 9
    assert result.predictions.tolist() == SAID.tolist()
    assert result.value == pytest.approx(100 * 9 / 11)
    assert result.metrics == {"accuracy": result.value, "correct": 9, "total": 11}
    assert str(result).startswith("sst2, 11 sentences: accuracy 81.82 (")


@pytest.mark.parametrize("names", [("POSITIVE", "NEGATIVE"), ("pos", "neg"), ("positive", "negative")])
def test_named_classes_are_found_in_any_order(write, words, names):
    model = two_classes(*names, signs=(1.0, -1.0))

    result = SST2.read(sst2_file(write), words, model.config).evaluate(model)

    assert result.metrics["correct"] == CORRECT


def test_labels_are_numbers_or_names(write, words):
    numbers = SST2.read(sst2_file(write), words, config())
    names = SST2.read(
        sst2_file(write, ["negative" if y == 0 else "Positive" for y in LABELS]), words, config()
    )

    assert names.labels.tolist() == numbers.labels.tolist() == list(LABELS)


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({0: "x", 1: "y"}, "config.id2label: expected negative, positive in some order, .* found x, y"),
        ({0: "positive", 1: "positive"}, "in some order"),
        ({0: "LABEL_1", 1: "positive"}, "in some order"),
        ({0: "a", 1: "b", 2: "c"}, "config.num_labels: expected 2 .negative, positive., found 3"),
        ({0: "a"}, "found 1"),
    ],
)
def test_models_of_other_classes_are_refused(write, words, id2label, message):
    with pytest.raises(ValueError, match=message):
        SST2.read(sst2_file(write), words, config(id2label=id2label))


def test_placeholders_stand_for_the_order_of_glue():
    classes = PairOfClasses((("entailment",), ("not_entailment",)))

    assert classes.of_model({0: "LABEL_0", 1: "LABEL_1"}) == (0, 1)
    assert classes.of_model({0: "Not Entailment", 1: "ENTAILMENT"}) == (1, 0)
    assert classes.of_model({0: "1", 1: "0"}) == (1, 0)


def test_cola_reads_the_official_columns_and_scores_matthews(write, words):
    rows = [f"gj04\t{y}\t{'' if y else '*'}\t{s}" for s, y in zip(SENTENCES, LABELS, strict=True)]

    task = CoLA.read(write("dev.tsv", "\n".join(rows)), words, config())  # no newline at the end
    result = task.evaluate(two_classes())

    assert len(task) == 11
    assert result.value == pytest.approx(100 * matthews_correlation(LABELS, SAID))
    assert result.metrics["accuracy"] == pytest.approx(100 * 9 / 11)
    assert [figure.name for figure in result.figures] == ["Matthews", "accuracy"]


def pairs(write, header, label_of):
    rows = "".join(
        f"{i}\t{s}\tred\t{label_of(y)}\n" for i, (s, y) in enumerate(zip(SENTENCES, LABELS, strict=True))
    )
    return write("dev.tsv", header + "\n" + rows)


def test_rte_counts_entailment_as_its_first_class(write, words):
    path = pairs(write, "index\tsentence1\tsentence2\tlabel", lambda y: ("entailment", "not_entailment")[y])

    result = RTE.read(path, words, config()).evaluate(two_classes())

    assert result.metrics["accuracy"] == pytest.approx(100 * 9 / 11)
    assert result["F1"].value == pytest.approx(100 * f1(LABELS, SAID, positive=0))


def test_mrpc_reads_its_own_columns_with_a_byte_order_mark(write, words):
    rows = "".join(f"{y}\t1\t2\t{s}\tred\n" for s, y in zip(SENTENCES, LABELS, strict=True))
    path = write(
        "dev.tsv", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n" + rows.replace("\n", "\r\n")
    )

    task = MRPC.read(path, words, config())
    result = task.evaluate(two_classes())

    assert (task.examples[0].text, task.examples[0].text_pair) == ("good", "red")
    assert result.value == pytest.approx(100 * f1(LABELS, SAID))
    assert result.figures[0].name == "F1"


def test_mrpc_reads_pairs_named_as_in_qqp_from_json_lines(write, words):
    path = write(
        "dev.jsonl",
        '{"question1": "good", "question2": "red", "is_duplicate": 1}\n'
        '{"question1": "bad", "question2": "red", "is_duplicate": "not duplicate"}\n',
    )

    assert MRPC.read(path, words, config()).labels.tolist() == [1, 0]


def test_stsb_correlates_logits_with_scores(write, words):
    scores = np.round(np.random.default_rng(1).uniform(0, 5, len(SENTENCES)), 2)
    rows = "".join(
        f"{i}\tg\tf\ty\t1\tn\tn\t{s}\tred\t{y}\n"
        for i, (s, y) in enumerate(zip(SENTENCES, scores, strict=True))
    )
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    task = STSB.read(write("dev.tsv", header + rows), words, regression().config)

    result = task.evaluate(regression())

    # The logit grows with the mood, so its ranks are known; rounding makes ties of equal moods again.
    moods = [mood(sentence, "red") for sentence in SENTENCES]
    assert spearman(np.round(moods, 9), np.round(result.predictions, 5)) == pytest.approx(1.0)
    assert result.value == pytest.approx(100 * spearman(scores, result.predictions))
    assert result["Pearson"].value == pytest.approx(100 * pearson(scores, result.predictions))


@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        (
            SST2,
            "a.tsv",
            "sentence\tlabel\ngood\t2\n",
            r"a\.tsv:2: label: expected negative or positive, or 0 or 1, found '2'",
        ),
        (
            SST2,
            "a.tsv",
            "index\tsentence\n0\tgood\n",
            r"a\.tsv:2: expected a column 'label', found index, sentence",
        ),
        (SST2, "a.tsv", "sentence\tlabel\n", r"a\.tsv: expected at least one sentence, found none"),
        (SST2, "a.tsv", "sentence\tlabel\ngood\tx\t1\n", r"a\.tsv:2: expected 2 columns"),
        (SST2, "a.jsonl", '{"sentence": 5, "label": 1}\n', r"a\.jsonl:1: sentence: expected a text, found 5"),
        (
            SST2,
            "a.jsonl",
            '{"sentence": "good", "label": true}\n',
            r"a\.jsonl:1: label: expected a text, found True",
        ),
        (
            CoLA,
            "a.tsv",
            "gj04\t1\tgood\n",
            r"a\.tsv:1: expected 4 columns \(source, label, mark, sentence\), found 3",
        ),
        (CoLA, "a.tsv", "sentence\tlabel\ngood\t1\n", r"a\.tsv:1: expected 4 columns"),
        (CoLA, "a.tsv", "gj04\tyes\t\tgood\n", r"a\.tsv:1: label: expected unacceptable or acceptable"),
        (RTE, "a.tsv", "sentence1\tlabel\ngood\tentailment\n", r"a\.tsv:2: expected a column 'sentence2'"),
        (RTE, "a.tsv", "sentence1\tsentence2\tlabel\na\tb\tneutral\n", r"found 'neutral'"),
        (
            STSB,
            "a.tsv",
            "sentence1\tsentence2\tscore\na\tb\t5.1\n",
            r"a\.tsv:2: score: expected a number from 0 to 5",
        ),
        (STSB, "a.tsv", "sentence1\tsentence2\tscore\na\tb\tnan\n", r"found 'nan'"),
        (STSB, "a.tsv", "sentence1\tsentence2\tscore\na\tb\tx\n", r"found 'x'"),
        (STSB, "a.tsv", "sentence1\tsentence2\tscore\n", r"at least one pair"),
    ],
)
def test_defect_is_named_with_file_and_line(write, words, task, name, content, message):
    labels = {0: "LABEL_0"} if task is STSB else {0: "LABEL_0", 1: "LABEL_1"}

    with pytest.raises(DataError, match=message):
        task.read(write(name, content), words, config(id2label=labels))


def test_regressions_and_classes_are_told_apart(write, words):
    with pytest.raises(ValueError, match=r"config\.num_labels: expected 1 \(a regression\), found 2"):
        STSB.read(write("a.tsv", ""), words, config())


def test_several_files_follow_each_other(write, words):
    first = write("a.tsv", "sentence\tlabel\ngood\t1\n")
    second = write("b.tsv", "sentence\tlabel\nbad\t0\nred\t1\n")

    task = SST2.read([first, second], words, config())

    assert [example.text for example in task.examples] == ["good", "bad", "red"]
    assert task.labels.tolist() == [1, 0, 1]


def test_logits_that_are_not_numbers_are_refused(write, words):
    from types import SimpleNamespace

    task = SST2.read(sst2_file(write), words, config())

    def broken(**inputs):
        return SimpleNamespace(logits=np.full((len(inputs["input_ids"]), 2), np.nan, np.float32))

    with pytest.raises(ValueError, match="logits: expected numbers, found NaN"):
        task.evaluate(broken)
    with pytest.raises(ValueError, match="logits: expected 2 for each sentence, found 3"):
        task.evaluate(lambda **inputs: SimpleNamespace(logits=np.zeros((len(inputs["input_ids"]), 3))))


def test_text_classification_takes_the_models_own_classes(write, words):
    path = write(
        "a.tsv",
        "text\tlabel\n"
        + "".join(f"{s}\t{('cold', 'warm')[y]}\n" for s, y in zip(SENTENCES, LABELS, strict=True)),
    )
    model = two_classes("cold", "warm")

    task = TextClassification.read(path, words, model.config)
    result = task.evaluate(model)

    assert result.metrics["correct"] == CORRECT
    assert result["macro F1"].value == pytest.approx(100 * f1(LABELS, SAID, average="macro"))
    assert (task.expected(0), task.answer(result, 0), task.text_of(0)) == ("warm", "warm", "good")

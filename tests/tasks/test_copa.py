# SPDX-License-Identifier: Apache-2.0
"""COPA: files, choices, and a score known by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from constructed_models import config, mood_reader
from qdqbert.tasks import COPA, DataError
from qdqbert.tasks.copa_data import read_copa

ITEMS = (  # premise, alternatives, question, right
    ("red .", "good", "bad", "cause", 1),
    ("blue", "bad good", "good", "effect", 2),
    ("good", "red", "bad", "effect", 1),
    ("bad bad", "good red blue", "good good", "cause", 1),  # the words say 2
    ("green", "bad .", "bad , . red", "effect", 1),  # the words say 2: less bad in more words
)
SAID = [0, 1, 0, 1, 1]


def xml(items=ITEMS):
    body = "".join(
        f'  <item id="{i}" asks-for="{question}" most-plausible-alternative="{right}">\n'
        f"    <p>{premise}</p>\n    <a1>{first}</a1>\n    <a2>{second}</a2>\n  </item>\n\n"
        for i, (premise, first, second, question, right) in enumerate(items, start=1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE copa-corpus SYSTEM "copa.dtd">\n'
        f'<copa-corpus  version="1.0">\n\n{body}</copa-corpus>\n'
    )


def model():
    return mood_reader("classifier", "QDQBertForMultipleChoice", [1.0])


def test_xml_is_read_with_lines_and_entities_of_xml_itself(write):
    examples = read_copa(write("a.xml", xml((("a &amp; b", "c\n    d", "e", "cause", 2),))))

    (example,) = examples
    assert (example.premise, example.alternatives) == ("a & b", ("c d", "e"))
    assert (example.question, example.label, example.line) == ("cause", 1, 5)


def test_json_lines_of_superglue(write):
    path = write(
        "val.jsonl",
        '{"premise": "p", "choice1": "a", "choice2": "b", "question": "effect", "label": 1, "idx": 0}\n',
    )

    (example,) = read_copa(path)

    assert (example.premise, example.alternatives, example.question, example.label) == (
        "p",
        ("a", "b"),
        "effect",
        1,
    )


def test_score_is_that_of_the_words(write, words):
    task = COPA.read(write("a.xml", xml()), words, config())

    result = task.evaluate(model())

    assert result.predictions.tolist() == SAID
    assert result.metrics == {"accuracy": pytest.approx(60.0), "correct": 3, "total": 5}
    assert task.text_of(0) == "red . What was the cause of this?"
    assert (task.expected(3), task.answer(result, 3)) == ("good red blue", "good good")


def test_inputs_hold_both_alternatives_of_each_question(write, words):
    task = COPA.read(write("a.xml", xml()), words, config())

    (batch,) = task.batches(samples=5, batch_size=5)

    assert {values.shape for values in batch.values()} == {batch["input_ids"].shape}
    assert batch["input_ids"].shape[:2] == (5, 2)
    first = batch["input_ids"][0, 0]
    assert first[0] == words.token_to_id("[CLS]")
    assert (batch["token_type_ids"].max(axis=(1, 2)) == 1).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"expected a file named \.xml or \.jsonl"),
        ("a.xml", xml()[:-20], r"a\.xml:\d+: not XML"),
        ("a.xml", xml(()), "at least one question"),
        ("a.xml", xml().replace("red", "r\xe9d").encode("latin-1"), r"a\.xml:6: not XML"),
        ("a.xml", "<corpus/>", r"a\.xml:1: expected copa-corpus, found corpus"),
        ("a.xml", "<copa-corpus>\n<thing/></copa-corpus>", r"a\.xml:2: expected item, found thing"),
        (
            "a.xml",
            xml().replace('asks-for="cause"', 'asks-for="reason"', 1),
            r"a\.xml:5: asks-for: expected cause or effect, found 'reason'",
        ),
        (
            "a.xml",
            xml().replace('alternative="1"', 'alternative="3"', 1),
            r"a\.xml:5: most-plausible-alternative: expected 1 or 2, found '3'",
        ),
        ("a.xml", xml().replace("<a2>bad</a2>", "", 1), r"a\.xml:5: item: expected a text in a2, found none"),
        (
            "a.xml",
            xml().replace("<a2>bad</a2>", "<a1>bad</a1>", 1),
            r"a\.xml:8: expected p, a1 and a2, each once",
        ),
        (
            "a.xml",
            xml().replace("<a2>bad</a2>", "<a2><b>bad</b></a2>", 1),
            r"a\.xml:8: expected text, found b",
        ),
        ("a.xml", xml().replace("good", "&nbsp;", 1), r"a\.xml:\d+: "),
        (
            "a.jsonl",
            '{"premise": "p", "choice1": "a", "question": "cause", "label": 0}\n',
            r"a\.jsonl:1: expected a column 'choice2'",
        ),
        (
            "a.jsonl",
            '{"premise": "p", "choice1": "a", "choice2": "b", "question": "why", "label": 0}\n',
            r"question: expected cause or effect",
        ),
        (
            "a.jsonl",
            '{"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 2}\n',
            r"label: expected 0 or 1, found '2'",
        ),
        (
            "a.jsonl",
            '{"premise": "p", "choice1": " ", "choice2": "b", "question": "cause", "label": 0}\n',
            r"choice1: expected a text, found none",
        ),
    ],
)
def test_defect_is_named_with_file_and_line(write, name, content, message):
    with pytest.raises(DataError, match=message):
        read_copa(write(name, content))


def test_entities_that_grow_are_refused_before_they_do(write):
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">\n' for i in range(1, 12))
    declared = f'<!DOCTYPE copa-corpus [\n<!ENTITY e0 "ha">\n{levels}]>\n'
    bomb = f'<?xml version="1.0"?>\n{declared}<copa-corpus>&e11;</copa-corpus>'

    with pytest.raises(DataError, match=r"a\.xml:3: expected no declaration of an entity"):
        read_copa(write("a.xml", bomb))


def test_files_of_elsewhere_are_not_opened(write, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    content = xml().replace(
        '<!DOCTYPE copa-corpus SYSTEM "copa.dtd">',
        f'<!DOCTYPE copa-corpus [<!ENTITY x SYSTEM "{secret.as_uri()}">]>',
    )

    with pytest.raises(DataError, match="no declaration of an entity"):
        read_copa(write("a.xml", content.replace("red", "&x;")))


def test_logits_of_another_shape_are_refused(write, words):
    task = COPA.read(write("a.xml", xml()), words, config())

    with pytest.raises(ValueError, match=r"logits: expected shape \(5, 2\)"):
        task.evaluate(lambda **inputs: SimpleNamespace(logits=np.zeros((10, 1))))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["copa-dev.xml", "copa-test.xml"])
def test_official_files_are_read_whole(shared, name):
    examples = read_copa(shared("data", "multiple_choice", "copa", name))

    assert len(examples) == 500
    assert sum(example.label == 0 for example in examples) == 250  # balanced by construction

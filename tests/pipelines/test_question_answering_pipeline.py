# SPDX-License-Identifier: Apache-2.0
"""Answers and their places, on logits made by hand, and on real questions against `qdqbert.tasks.squad`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import qdqbert
from qdqbert.pipelines import QuestionAnsweringPipeline
from qdqbert.tasks import squad

CONTEXT = "the king of the river is what it is"
QUESTION = "what is it"
# [CLS] what is it [SEP] the king of the river is what it is [SEP]: the context is tokens 5 .. 13
FIRST, LENGTH = 5, 15


def near(value):
    return pytest.approx(value, rel=1e-5)


def side(length=LENGTH, **values):
    """Logits of one side: log of each named share of the tokens of the context and [CLS]."""
    logits = np.full(length, -50.0)
    for name, share in values.items():
        logits[int(name[1:])] = np.log(share)
    return logits


@pytest.fixture
def make(tiny, tokenizer, say):
    def make(*rows, **options):
        pipe = QuestionAnsweringPipeline(tiny("QDQBertForQuestionAnswering"), tokenizer, **options)
        say(pipe, *(np.stack(row) for row in rows))
        return pipe

    return make


START, END = side(t6=0.7, t9=0.2, t0=0.1), side(t6=0.3, t9=0.6, t0=0.1)


def test_the_best_span_is_the_answer(make):
    assert make((START, END))(question=QUESTION, context=CONTEXT) == {
        "score": near(0.42),
        "start": 4,
        "end": 21,
        "answer": "king of the river",
    }


def test_top_k_gives_a_list_best_first_and_no_span_that_ends_before_it_starts(make):
    answers = make((START, END))(question=QUESTION, context=CONTEXT, top_k=3)

    assert [(each["answer"], each["score"]) for each in answers] == [
        ("king of the river", near(0.42)),
        ("king", near(0.21)),
        ("river", near(0.12)),
    ]
    # 9 + 8 + ... + 1 spans of nine tokens, however many are asked for
    every = make((START, END))(question=QUESTION, context=CONTEXT, top_k=1000)
    assert len(every) == 45
    assert all(each["start"] < each["end"] for each in every)


def test_answers_are_not_longer_than_asked_for(make):
    answer = make((START, END), max_answer_len=3)(question=QUESTION, context=CONTEXT)

    assert (answer["answer"], answer["score"]) == ("king", near(0.21))


def test_no_answer_competes_if_it_may(make):
    start, end = side(t6=0.4, t0=0.6), side(t6=0.4, t0=0.6)

    assert make((start, end))(question=QUESTION, context=CONTEXT)["answer"] == "king"
    assert make((start, end))(question=QUESTION, context=CONTEXT, handle_impossible_answer=True) == {
        "score": near(0.36),
        "start": 0,
        "end": 0,
        "answer": "",
    }


def test_the_question_cannot_answer_itself(make):
    start, end = side(t1=0.9, t6=0.1), side(t3=0.9, t6=0.1)

    assert make((start, end))(question=QUESTION, context=CONTEXT)["answer"] == "king"


def test_a_tokenizer_that_pads_on_the_left_does_not_change_the_answer(make, tokenizer):
    tokenizer.padding_side = "left"

    assert make((START, END))(question=QUESTION, context=CONTEXT)["answer"] == "king of the river"


def test_answers_are_widened_to_words_unless_told_otherwise(make, tokenizer):
    word = next(w for w in ("unaffordable", "kingliness", "riverbanks") if len(tokenizer.tokenize(w)) == 3)
    encoding = tokenizer("it", f"the {word}", return_offsets_mapping=True)
    assert len(encoding.input_ids) == 8  # [CLS] it [SEP] the x ##y ##z [SEP]
    middle = slice(*encoding.offset_mapping[5])
    start, end = side(8, t5=1.0), side(8, t5=1.0)

    pipe = make((start, end))
    assert pipe(question="it", context=f"the {word}")["answer"] == word
    cut = pipe(question="it", context=f"the {word}", align_to_words=False)
    assert cut["answer"] == f"the {word}"[middle] != word


def test_windows_of_a_long_text_compete(make):
    # 12 tokens leave 6 for the context, of which windows share 3:
    # [the king of the river is] [the river is what it is]
    first = (side(12, t6=0.5, t0=0.5), side(12, t6=0.5, t0=0.5))
    second = (side(12, t8=0.9, t0=0.1), side(12, t9=0.9, t0=0.1))
    pipe = make(first, second, max_seq_len=12, doc_stride=3)

    answers = pipe(question=QUESTION, context=CONTEXT, top_k=2)

    assert [(each["answer"], each["score"]) for each in answers] == [
        ("what it", near(0.81)),
        ("king", near(0.25)),
    ]
    (impossible,) = [
        each
        for each in pipe(question=QUESTION, context=CONTEXT, top_k=9, handle_impossible_answer=True)
        if not each["answer"]
    ]
    assert impossible["score"] == near(0.01)  # of the window that is least sure of it


def test_long_questions_are_cut(tiny, tokenizer):
    pipe = QuestionAnsweringPipeline(tiny("QDQBertForQuestionAnswering"), tokenizer)

    uncut = pipe(question="what is", context=CONTEXT, top_k=5)

    assert pipe(question="what is it of the river", context=CONTEXT, top_k=5, max_question_len=2) == uncut
    assert pipe(question="what is it of the river", context=CONTEXT, top_k=5) != uncut


def test_questions_come_in_every_form(tiny, tokenizer):
    pipe = QuestionAnsweringPipeline(tiny("QDQBertForQuestionAnswering"), tokenizer)
    asked = {"question": QUESTION, "context": CONTEXT}
    other = {"question": "of the king", "context": CONTEXT}
    one, two = pipe(asked), pipe(other)

    assert set(one) == {"score", "start", "end", "answer"}
    assert pipe(QUESTION, CONTEXT) == one
    assert pipe([asked]) == one
    assert pipe([asked, other]) == [one, two]
    assert pipe(asked, other) == [one, two]
    assert pipe(question=[QUESTION, "of the king"], context=CONTEXT) == [one, two]
    assert pipe(question=[QUESTION, "of the king"], context=[CONTEXT, CONTEXT]) == [one, two]
    assert list(pipe(iter([asked, other]))) == [one, two]


@pytest.mark.parametrize(
    ("args", "keywords", "error", "message"),
    [
        ((), {}, ValueError, "question, context: expected both"),
        ((), {"question": "a"}, ValueError, "question, context: expected both"),
        (("a",), {"question": "a", "context": "b"}, ValueError, "given twice"),
        ((), {"question": ["a"], "context": ["b", "c"]}, ValueError, "context: expected 1 texts as question"),
        ((), {"question": "", "context": "b"}, ValueError, "question: expected a text that is not empty"),
        ((), {"question": "a", "context": None}, ValueError, "question, context: expected both"),
        (({"question": "a"},), {}, KeyError, "expected the keys 'question' and 'context', got question"),
        (({"question": "a", "context": 5},), {}, ValueError, "context: expected a text"),
        (("a",), {}, ValueError, "inputs: expected {'question'"),
        (("a", "b"), {"top_k": 0}, ValueError, "top_k: expected at least 1"),
        (("a", "b"), {"max_answer_len": 0}, ValueError, "max_answer_len: expected at least 1"),
        (("a", "b"), {"doc_stride": 99}, ValueError, "doc_stride: expected at most max_seq_len, 64"),
        (("a", "b"), {"max_question_len": 1.5}, TypeError, "max_question_len: expected an integer"),
        (("it " * 30, "b"), {"max_seq_len": 20}, ValueError, "too short|no room"),
    ],
)
def test_a_wrong_argument_is_named(make, args, keywords, error, message):
    with pytest.raises(error, match=message):
        make()(*args, **keywords)


def test_the_old_name_of_top_k_warns(make):
    with pytest.warns(UserWarning, match="topk is deprecated"):
        assert len(make((START, END))(question=QUESTION, context=CONTEXT, topk=2)) == 2


def test_a_context_without_tokens_has_no_answer(make):
    pipe = make((side(6, t0=1.0), side(6, t0=1.0)))

    assert pipe(question=QUESTION, context="\x00\u200b") == []


@pytest.mark.shared
@pytest.mark.uninstrumented  # hundreds of windows through one model
def test_answers_to_real_questions_are_those_of_the_squad_task(shared):
    # Both rank spans of one window alike: the product of probabilities grows with the sum of logits.  All of
    # these contexts are one window of 384 tokens.
    folder = shared("checkpoints", "minilm-squad")
    examples = squad.read_squad(shared("data", "squad", "xquad.en.json")).examples[:60]
    pipe = qdqbert.pipeline("question-answering", folder, max_answer_len=30)

    with qdqbert.quantizers(pipe.model, {"*": "off"}):
        found = list(squad.iterate_answers(pipe.model, examples, qdqbert.tokenization.load_tokenizer(folder)))
        answers = pipe([{"question": e.question, "context": e.context} for e in examples])

    assert {windows for _, _, windows in found} == {1}
    assert [each["answer"] for each in answers] == [answer.text for _, answer, _ in found]
    for each, example in zip(answers, examples, strict=True):
        assert example.context[each["start"] : each["end"]] == each["answer"]


@pytest.mark.shared
def test_windows_cover_a_long_context(shared):
    folder = shared("checkpoints", "minilm-squad")
    pipe = qdqbert.pipeline("question-answering", folder)
    filler = "The weather was fine and nobody had anything to say about it. " * 40
    with qdqbert.quantizers(pipe.model, {"*": "off"}):
        for before, after in itertools.product([0, 1], repeat=2):
            context = filler * before + "Ada Lovelace was born in London. " + filler * after
            answer = pipe("Where was Ada Lovelace born?", context)
            assert answer["answer"] == "London"
            assert context[answer["start"] : answer["end"]] == "London"

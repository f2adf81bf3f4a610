# SPDX-License-Identifier: Apache-2.0
"""Pipelines give what transformers' pipelines give on the same files and texts, with quantizers off.

Scores may differ by 2e-5, the promise for logits; everything else is equal.  The heads without a checkpoint
are transformers' own with random weights, large enough that no two words score alike.
"""

from __future__ import annotations

import itertools
import os
import warnings

import numpy as np
import pytest

import qdqbert
from qdqbert.cli.demo import bundled_folder

pytestmark = [pytest.mark.witness, pytest.mark.shared]

TEXTS = [
    "The quick brown fox doesn't jump over 13 lazy dogs in New York City.",
    "Ada Lovelace, daughter of Lord Byron, lived in London and wrote to Charles Babbage!",
    "I watched Gravity on Netflix w/ my iPhone 5s @ Joe's Pizza — it was über-great...",
    "bad",
    "东京 is far from Zürich; Beyoncé's tour starts in São Paulo on 3/4.",
    "omg this is sooo unaffordableness antidisestablishmentarianism",
    "\u2603 unknown \U0001f600 Microsoft and Google bought x\u4e01\u4e02 Twitter",
]
LONG = " ".join(
    f"{name} moved from {place} to {other} in {1900 + 7 * i}, where the weather was better than in {place}."
    for i, (name, place, other) in enumerate(
        zip(
            [
                "Ada Lovelace",
                "Grace Hopper",
                "Alan Turing",
                "Emmy Noether",
                "Kurt Gödel",
                "Sofia Kovalevskaya",
            ]
            * 6,
            ["London", "New York", "Manchester", "Göttingen", "Vienna", "Stockholm"] * 6,
            ["Paris", "Boston", "Princeton", "Berlin", "Zürich", "Rome", "Tokyo"] * 6,
            strict=False,
        )
    )
)


@pytest.fixture(scope="module")
def transformers():
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers", reason="the witness is not installed")
        pytest.importorskip("torch", reason="the witness is not installed")
        return module


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def made(transformers, kind, folder, **fields):
    """A random model of transformers in a folder, with the bundled vocabulary."""
    import torch

    torch.manual_seed(7)
    config = transformers.BertConfig(
        **{
            "vocab_size": 4000,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 56,
            "max_position_embeddings": 64,
            "initializer_range": 0.3,
            **fields,
        }
    )
    getattr(transformers, kind)(config).save_pretrained(folder)
    transformers.BertTokenizerFast.from_pretrained(str(bundled_folder())).save_pretrained(folder)
    return str(folder)


def both(transformers, task, folder, **options):
    """Their pipeline and ours, of the same folder."""
    theirs = transformers.pipeline(task, str(folder), **options)
    theirs.model = theirs.model.float()
    ours = qdqbert.pipeline(task, folder, **options)
    qdqbert.quantizers(ours.model, {"*": "off"})
    return ours, theirs


def same(mine, other, path="result"):
    """Compare nested results: numbers within 2e-5, the rest exactly, container types too."""
    if isinstance(other, dict | list):
        assert type(mine) is type(other), path
        assert len(mine) == len(other), (path, mine, other)
        keys = list(other) if isinstance(other, dict) else range(len(other))
        if isinstance(other, dict):
            assert list(mine) == list(other), path
        for key in keys:
            same(mine[key], other[key], f"{path}[{key!r}]")
    elif isinstance(other, float | np.floating):
        assert isinstance(mine, float)
        assert mine == pytest.approx(float(other), abs=2e-5), (path, mine, other)
    else:
        assert mine == other, path


# ---- real checkpoints --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentiment(transformers, shared):
    return both(transformers, "sentiment-analysis", shared("checkpoints", "minilm-sst2"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 2},
        {"top_k": None},
        {"function_to_apply": "none"},
        {"function_to_apply": "sigmoid", "top_k": None},
        {"function_to_apply": "softmax"},
        {"return_all_scores": True},
        {"return_all_scores": False},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "inputs",
    [
        TEXTS[1],
        TEXTS,
        [TEXTS[0]],
        {"text": TEXTS[0], "text_pair": TEXTS[1]},
        [{"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": TEXTS[3]}],
    ],
    ids=["one", "list", "list of one", "pair", "pairs"],
)
def test_text_classification(sentiment, options, inputs):
    ours, theirs = sentiment

    same(ours(inputs, **options), theirs(inputs, **options))


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_k": 1}, {"return_all_scores": True}], ids=str)
def test_text_classification_with_options_of_the_pipeline(transformers, shared, options):
    ours, theirs = both(transformers, "text-classification", shared("checkpoints", "minilm-sst2"), **options)

    for inputs in (TEXTS[0], TEXTS[:3], {"text": TEXTS[0]}):
        same(ours(inputs), theirs(inputs))
    same(list(ours(iter(TEXTS))), list(theirs(text for text in TEXTS)))


def test_text_classification_cuts_long_texts_if_asked(sentiment):
    ours, theirs = sentiment

    same(ours(LONG, truncation=True), theirs(LONG, truncation=True))
    same(ours(LONG, truncation=True, max_length=40), theirs(LONG, truncation=True, max_length=40))


@pytest.fixture(scope="module")
def entities(transformers, shared):
    return both(transformers, "ner", shared("checkpoints", "minilm-wnut17"))


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("ignore", [None, [], ["O", "B-person", "location"]], ids=str)
def test_token_classification(entities, strategy, ignore):
    ours, theirs = entities
    options = {} if ignore is None else {"ignore_labels": ignore}

    for inputs in (TEXTS[1], TEXTS, LONG):
        mine = ours(inputs, aggregation_strategy=strategy, **options)
        same(mine, theirs(inputs, aggregation_strategy=strategy, **options))


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@pytest.mark.parametrize(("limit", "stride"), [(512, 64), (64, 0), (64, 16), (64, 40)])
def test_token_classification_of_long_texts(entities, strategy, limit, stride):
    ours, theirs = entities
    for pipe in entities:
        pipe.tokenizer.model_max_length = limit
    try:
        for inputs in (LONG, [LONG, TEXTS[1]]):
            mine = ours(inputs, aggregation_strategy=strategy, stride=stride)
            same(mine, theirs(inputs, aggregation_strategy=strategy, stride=stride))
    finally:
        for pipe in entities:
            pipe.tokenizer.model_max_length = 512


def test_token_classification_of_real_sentences(entities, shared):
    ours, theirs = entities
    lines = shared("data", "ner", "wnut17", "emerging.dev.conll").read_text().split("\n\n")
    sentences = [" ".join(line.split("\t")[0] for line in block.split("\n") if line) for block in lines[:120]]

    for strategy in ("none", "simple", "first", "average", "max"):
        mine = ours([s for s in sentences if s], aggregation_strategy=strategy)
        same(mine, theirs([s for s in sentences if s], aggregation_strategy=strategy))


@pytest.fixture(scope="module")
def answers(transformers, shared):
    return both(transformers, "question-answering", shared("checkpoints", "minilm-squad"))


QUESTIONS = [
    "Who was Lovelace's father?",
    "Where did Alan Turing move to?",
    "when",
    "Who moved to Zürich in 1928?",
]


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("impossible", [False, True])
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("length", [15, 3])
def test_question_answering(answers, top_k, impossible, align, length):
    ours, theirs = answers
    options = {
        "top_k": top_k,
        "handle_impossible_answer": impossible,
        "align_to_words": align,
        "max_answer_len": length,
    }
    for question, context in itertools.product(QUESTIONS, [TEXTS[1], TEXTS[2], TEXTS[4], LONG]):
        mine = ours(question=question, context=context, **options)
        same(mine, theirs(question=question, context=context, **options))


@pytest.mark.parametrize(
    ("max_seq_len", "doc_stride"), [(60, 10), (60, None), (384, 128), (200, 0), (512, 200)]
)
def test_question_answering_in_windows(answers, max_seq_len, doc_stride):
    ours, theirs = answers
    options = {"max_seq_len": max_seq_len, "doc_stride": doc_stride, "top_k": 4}

    same(
        ours(question=QUESTIONS, context=LONG, **options), theirs(question=QUESTIONS, context=LONG, **options)
    )


def test_question_answering_takes_questions_in_every_form(answers):
    ours, theirs = answers
    asked = [{"question": question, "context": TEXTS[1]} for question in QUESTIONS]

    same(ours(asked[0]), theirs(asked[0]))
    same(ours(asked), theirs(asked))
    same(ours([asked[0]]), theirs([asked[0]]))
    same(ours(QUESTIONS[0], TEXTS[1]), theirs(QUESTIONS[0], TEXTS[1]))
    same(ours(question=QUESTIONS, context=[TEXTS[1]] * 4), theirs(question=QUESTIONS, context=[TEXTS[1]] * 4))
    same(list(ours(iter(asked))), list(theirs(each for each in asked)))


def test_question_answering_of_real_questions(answers, shared):
    from qdqbert.tasks.squad import read_squad

    ours, theirs = answers
    examples = read_squad(shared("data", "squad", "xquad.en.json")).examples[::12]
    asked = [{"question": e.question, "context": e.context} for e in examples]
    assert len(asked) == 100

    same(ours(asked), theirs(asked))


@pytest.mark.parametrize(
    "options", [{}, {"truncation": True}, {"tokenize_kwargs": {"max_length": 9, "truncation": True}}]
)
def test_feature_extraction(transformers, shared, options):
    ours, theirs = both(transformers, "feature-extraction", shared("checkpoints", "minilm-squad"))
    inputs = [*TEXTS, LONG] if options else TEXTS

    for each in (TEXTS[0], inputs):
        mine, other = ours(each, **options), theirs(each, **options)
        assert np.shape(mine[0]) == np.shape(other[0])
        rows = zip(mine, other, strict=True)
        assert all(np.abs(np.array(a) - np.array(b)).max() < 2e-5 for a, b in rows)
    tensor = ours(TEXTS[0], return_tensors=True, **options)
    assert isinstance(tensor, np.ndarray)
    assert tensor.shape == tuple(theirs(TEXTS[0], return_tensors=True, **options).shape)


# ---- random heads ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked(transformers, tmp_path_factory):
    folder = made(transformers, "BertForMaskedLM", tmp_path_factory.mktemp("masked"))
    return both(transformers, "fill-mask", folder)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 9},
        {"targets": ["river", "king", "what"]},
        {"targets": "river", "top_k": 3},
        {"targets": ["unaffordableness", "what"]},
    ],
    ids=str,
)
def test_fill_mask(masked, options):
    ours, theirs = masked
    texts = ["The [MASK] is here.", "A [MASK] of the [MASK]!", "[MASK]"]

    for inputs in (*texts, texts, [texts[0]], [texts[1]]):
        same(ours(inputs, **options), theirs(inputs, **options))


def test_fill_mask_cuts_long_texts_if_asked(masked):
    ours, theirs = masked
    text = "The [MASK] of " + "it " * 200

    options = {"tokenizer_kwargs": {"truncation": True}}
    same(ours(text, **options), theirs(text, **options))


@pytest.mark.parametrize(
    "labels", [["entailment", "neutral", "contradiction"], ["contradiction", "x", "Entailed"]]
)
def test_zero_shot_classification(transformers, tmp_path, labels):
    fields = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    folder = made(transformers, "BertForSequenceClassification", tmp_path, **fields)
    ours, theirs = both(transformers, "zero-shot-classification", folder)

    for inputs in (TEXTS[0], TEXTS, [TEXTS[1]], TEXTS[0] * 9):
        for candidates in (["science", "music", "war"], "science, music", ["war"]):
            for options in ({}, {"multi_label": True}, {"hypothesis_template": "It is about {}."}):
                mine = ours(inputs, candidates, **options)
                same(mine, theirs(inputs, candidates, **options))


def test_text_classification_by_problem_type(transformers, tmp_path):
    for name, fields in {
        "one": {"num_labels": 1},
        "several": {"num_labels": 4, "problem_type": "multi_label_classification"},
        "regression": {"num_labels": 1, "problem_type": "regression"},
    }.items():
        folder = made(transformers, "BertForSequenceClassification", tmp_path / name, **fields)
        ours, theirs = both(transformers, "text-classification", folder)
        same(ours(TEXTS[:3]), theirs(TEXTS[:3]))
        same(ours(TEXTS[:3], top_k=None), theirs(TEXTS[:3], top_k=None))


@pytest.fixture(scope="module")
def writer(transformers, tmp_path_factory):
    folder = made(
        transformers,
        "BertLMHeadModel",
        tmp_path_factory.mktemp("causal"),
        is_decoder=True,
        bos_token_id=2,
        eos_token_id=3,
    )
    return both(transformers, "text-generation", folder)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 8},
        {"max_new_tokens": 8, "return_full_text": False},
        {"max_new_tokens": 8, "return_tensors": True},
        {"max_length": 20},
        {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2},
        {"max_new_tokens": 5, "prefix": "it is "},
        {"max_length": 20, "prefix": "it is "},
        {"max_new_tokens": 60, "handle_long_generation": "hole"},
        {"max_new_tokens": 8, "add_special_tokens": True},
        {"max_new_tokens": 8, "clean_up_tokenization_spaces": False},
    ],
    ids=str,
)
def test_text_generation(writer, options):
    ours, theirs = writer

    for inputs in ("once upon a time, there was", ["what is it", "The river flows"]):
        same(ours(inputs, **options), theirs(inputs, **options))

# SPDX-License-Identifier: Apache-2.0
"""The table of tasks agrees with the classes that it names."""

from __future__ import annotations

import inspect

import pytest

import qdqbert
from qdqbert import tasks
from qdqbert.tasks.table import OPTIONS, TASKS, find_task, has_head, task_of_architectures

IDS = [entry.name for entry in TASKS]


@pytest.mark.parametrize("entry", TASKS, ids=IDS)
def test_entry_says_what_its_class_says(entry):
    task = entry.load()

    assert getattr(tasks, entry.class_name) is task
    assert (task.name, task.model_class) == (entry.name, entry.model_class)
    assert hasattr(qdqbert, entry.model_class)


@pytest.mark.parametrize("entry", TASKS, ids=IDS)
def test_options_are_the_keyword_arguments_of_read(entry):
    parameters = inspect.signature(entry.load().read).parameters
    keywords = {name for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}

    assert keywords == {"max_length", *entry.options}


def test_every_option_is_of_some_task():
    assert {name for entry in TASKS for name in entry.options} == set(OPTIONS)


def test_every_public_task_is_in_the_table():
    public = {name for name in tasks.__all__ if isinstance(getattr(tasks, name), type)}

    assert {entry.class_name for entry in TASKS} == public - {"DataError", "Evaluation", "Figure", "Task"}


def test_every_model_with_a_head_has_a_task():
    heads = {
        name for name in dir(qdqbert) if name.startswith("QDQBert") and ("For" in name or "LMHead" in name)
    }

    assert heads == {entry.model_class for entry in TASKS}


def test_names_are_found_as_people_write_them():
    names = {"SST-2": "sst2", "WNUT_17": "ner", "conll-2003": "ner", "CoLA": "cola", "STS-B": "stsb"}
    names |= {
        "NSP": "next-sentence",
        "next_sentence": "next-sentence",
        "wikitext-2": "causal-lm",
        "QQP": "mrpc",
    }

    assert {name: find_task(name).name for name in names} == names
    with pytest.raises(ValueError, match=r"task: expected one of squad, .*, found 'mnli'"):
        find_task("mnli")


def test_names_and_aliases_do_not_collide():
    words = [name for entry in TASKS for name in (entry.name, *entry.aliases)]

    assert [find_task(word) for word in words] == [
        entry for entry in TASKS for _ in (entry.name, *entry.aliases)
    ]


def test_first_task_of_a_head():
    assert task_of_architectures(["BertForQuestionAnswering"]).name == "squad"
    assert task_of_architectures(["QDQBertForSequenceClassification"]).name == "classification"
    assert task_of_architectures(["BertForTokenClassification"]).name == "ner"
    assert task_of_architectures(["BertLMHeadModel"]).name == "causal-lm"
    assert task_of_architectures(["BertForMaskedLM"]).name == "masked-lm"
    for nothing in (["BertModel"], [], None, "BertForMaskedLM", [3]):
        assert task_of_architectures(nothing) is None


def test_pretraining_has_both_of_its_heads():
    fitting = [entry.name for entry in TASKS if has_head("BertForPreTraining", entry)]

    assert fitting == ["next-sentence", "masked-lm"]

# SPDX-License-Identifier: Apache-2.0
"""Every task in one table: its name, its class, its head, its options and its usual files.

The table holds names only; a task's module is imported when the task is asked for.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdqbert.tasks.task import Task

__all__ = ["OPTIONS", "TASKS", "Option", "TaskEntry", "find_task", "has_head", "task_of_architectures"]


@dataclass(frozen=True, slots=True)
class Option:
    """A keyword argument of some tasks' `read`, as an argument of the command line.

    Attributes
    ----------
    kind : type
        int, float, bool (a switch) or str.
    text : str
        What it does, with its default.
    choices : tuple of str
        For str: what it may be.
    """

    kind: type
    text: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task.

    Attributes
    ----------
    name : str
    module, class_name : str
        Where its class is.
    head : str
        Model class without its prefix: ``"ForTokenClassification"`` is both
        ``QDQBertForTokenClassification`` and ``BertForTokenClassification``.
    summary : str
        What is asked, how it is scored.
    data : str
        Its data files.
    options : tuple of str
        Names in `OPTIONS`, beside `max_length`, which every task takes.
    evaluation_file, training_file : str or None
        Usual places below a folder of data sets.
    aliases : tuple of str
        Other names.
    """

    name: str
    module: str
    class_name: str
    head: str
    summary: str
    data: str
    options: tuple[str, ...] = ()
    evaluation_file: str | None = None
    training_file: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def model_class(self) -> str:
        """Name of the class of the models in this package."""
        return f"QDQBert{self.head}"

    def load(self) -> type[Task]:
        """Import the task.

        Returns
        -------
        type
        """
        found: Any = getattr(importlib.import_module(f"qdqbert.tasks.{self.module}"), self.class_name)
        task: type[Task] = found
        return task


OPTIONS: Mapping[str, Option] = {
    "doc_stride": Option(int, "step between windows (128)"),
    "max_query_length": Option(int, "longest question (64)"),
    "max_answer_length": Option(int, "longest answer (30)"),
    "n_best_size": Option(int, "candidates kept (20)"),
    "null_score_diff_threshold": Option(
        float, "v2.0: how much better 'no answer' must score to be given (0)"
    ),
    "stride": Option(int, "step between windows of a long text (ner: half a window, causal-lm: a window)"),
    "entity_mode": Option(
        str,
        "what counts as an entity: seqeval's default mode, or its strict one with IOB2",
        ("default", "strict"),
    ),
    "whole_words": Option(bool, "hide all wordpieces of a word together"),
    "mask_probability": Option(float, "share of the wordpieces that are hidden (0.15)"),
    "task_seed": Option(int, "what is hidden, or which pairs are shuffled (0)"),
}

_GLUE = "TSV as GLUE has it, CSV or JSONL"

TASKS: tuple[TaskEntry, ...] = (
    TaskEntry(
        "squad",
        "squad",
        "SQuAD",
        "ForQuestionAnswering",
        "answers in paragraphs: F1, exact match",
        "SQuAD json, v1.1 or v2.0",
        (
            "doc_stride",
            "max_query_length",
            "max_answer_length",
            "n_best_size",
            "null_score_diff_threshold",
        ),
        "squad/dev-v1.1.json",
        "squad/train-v1.1.json",
    ),
    TaskEntry(
        "classification",
        "text_classification",
        "TextClassification",
        "ForSequenceClassification",
        "texts or pairs of any classes: accuracy",
        "TSV, CSV or JSONL with columns text and label",
        aliases=("csv", "jsonl"),
    ),
    TaskEntry(
        "sst2",
        "sst2",
        "SST2",
        "ForSequenceClassification",
        "sentiment of sentences: accuracy",
        _GLUE,
        (),
        "glue/SST-2/dev.tsv",
        "glue/SST-2/train.tsv",
    ),
    TaskEntry(
        "cola",
        "cola",
        "CoLA",
        "ForSequenceClassification",
        "acceptable sentences: Matthews' correlation, accuracy",
        _GLUE,
        (),
        "glue/CoLA/dev.tsv",
        "glue/CoLA/train.tsv",
    ),
    TaskEntry(
        "stsb",
        "stsb",
        "STSB",
        "ForSequenceClassification",
        "similarity of pairs, a regression: Spearman's and Pearson's correlation",
        _GLUE,
        (),
        "glue/STS-B/dev.tsv",
        "glue/STS-B/train.tsv",
    ),
    TaskEntry(
        "rte",
        "rte",
        "RTE",
        "ForSequenceClassification",
        "entailment of pairs: accuracy, F1",
        _GLUE,
        (),
        "glue/RTE/dev.tsv",
        "glue/RTE/train.tsv",
    ),
    TaskEntry(
        "mrpc",
        "mrpc",
        "MRPC",
        "ForSequenceClassification",
        "pairs that say the same: F1, accuracy",
        _GLUE + "; MRPC's own and QQP's columns too",
        (),
        "glue/MRPC/dev.tsv",
        "glue/MRPC/train.tsv",
        ("qqp",),
    ),
    TaskEntry(
        "ner",
        "ner",
        "NER",
        "ForTokenClassification",
        "named entities: F1, precision, recall",
        "CoNLL columns",
        ("stride", "entity_mode"),
        "ner/wnut17/emerging.dev.conll",
        "ner/wnut17/wnut17train.conll",
        ("wnut17", "conll", "conll2003"),
    ),
    TaskEntry(
        "copa",
        "copa",
        "COPA",
        "ForMultipleChoice",
        "causes and effects, two choices: accuracy",
        "COPA's XML or SuperGLUE's JSONL",
        (),
        "multiple_choice/copa/copa-test.xml",
        "multiple_choice/copa/copa-dev.xml",
    ),
    TaskEntry(
        "next-sentence",
        "next_sentence",
        "NextSentence",
        "ForNextSentencePrediction",
        "does the second sentence follow: accuracy",
        "pairs that follow each other, a tab between them; half are shuffled",
        ("task_seed",),
        "nsp/discoeval-wiki/valid.txt",
        "nsp/discoeval-wiki/train.txt",
        ("nsp",),
    ),
    TaskEntry(
        "masked-lm",
        "masked_lm",
        "MaskedLM",
        "ForMaskedLM",
        "hidden wordpieces: accuracy, loss",
        "text",
        ("whole_words", "mask_probability", "task_seed"),
        "lm/wikitext-2/test.txt",
        "lm/wikitext-2/valid.txt",
        ("mlm",),
    ),
    TaskEntry(
        "causal-lm",
        "causal_lm",
        "CausalLM",
        "LMHeadModel",
        "the next wordpiece: perplexity, loss",
        "text",
        ("stride",),
        "lm/wikitext-2/test.txt",
        "lm/wikitext-2/valid.txt",
        ("clm", "wikitext2"),
    ),
)


def find_task(name: str) -> TaskEntry:
    """Entry of a task.

    Parameters
    ----------
    name : str
        Name or alias; case, hyphens and underscores do not count, so that ``SST-2`` is ``sst2``.

    Returns
    -------
    TaskEntry

    Raises
    ------
    ValueError
        If there is no such task; with the names there are.

    Examples
    --------
    >>> find_task("WNUT-17").class_name
    'NER'
    """
    wanted = _plain(name)
    for entry in TASKS:
        if wanted in map(_plain, (entry.name, *entry.aliases)):
            return entry
    names = ", ".join(entry.name for entry in TASKS)
    raise ValueError(f"task: expected one of {names}, found {name!r}")


def task_of_architectures(architectures: Any) -> TaskEntry | None:
    """First task in the table whose head a checkpoint's ``config.json`` names.

    Parameters
    ----------
    architectures : object
        Its member `architectures`: a list of class names, or anything else, which names no head.

    Returns
    -------
    TaskEntry or None
    """
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    return next((entry for entry in TASKS if any(has_head(name, entry) for name in names)), None)


def has_head(architecture: str, entry: TaskEntry) -> bool:
    """Whether a class of models has the head of a task.

    Parameters
    ----------
    architecture : str
        E.g. ``"BertForMaskedLM"``.
    entry : TaskEntry

    Returns
    -------
    bool
        For ``BertForPreTraining`` true of both heads that it has.
    """
    if architecture.endswith("ForPreTraining"):
        return entry.head in ("ForMaskedLM", "ForNextSentencePrediction")
    return architecture.endswith(entry.head)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()

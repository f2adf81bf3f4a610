# SPDX-License-Identifier: Apache-2.0
"""Tasks on real data: reading it, feeding a model, and scoring what comes back.

Every task is a class with one protocol (`qdqbert.tasks.task`)::

    task = qdqbert.tasks.SST2.read("dev.tsv", tokenizer, model.config)
    qdqbert.calibrate(model, task.batches(samples=128), method="percentile")
    print(task.evaluate(model))

`table` lists them, for the command line too.  `metrics` scores predictions that come from elsewhere;
`squad` and `text_classification` also have functions for the single steps.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qdqbert.tasks.data_error import DataError as DataError

# public name -> module that defines it
_HOMES = {
    "COPA": "copa",
    "MRPC": "mrpc",
    "NER": "ner",
    "RTE": "rte",
    "SST2": "sst2",
    "STSB": "stsb",
    "CausalLM": "causal_lm",
    "CoLA": "cola",
    "Evaluation": "task",
    "Figure": "task",
    "MaskedLM": "masked_lm",
    "NextSentence": "next_sentence",
    "SQuAD": "squad",
    "Task": "task",
    "TextClassification": "text_classification",
}

if TYPE_CHECKING:
    from qdqbert.tasks.causal_lm import CausalLM as CausalLM
    from qdqbert.tasks.cola import CoLA as CoLA
    from qdqbert.tasks.copa import COPA as COPA
    from qdqbert.tasks.masked_lm import MaskedLM as MaskedLM
    from qdqbert.tasks.mrpc import MRPC as MRPC
    from qdqbert.tasks.ner import NER as NER
    from qdqbert.tasks.next_sentence import NextSentence as NextSentence
    from qdqbert.tasks.rte import RTE as RTE
    from qdqbert.tasks.squad import SQuAD as SQuAD
    from qdqbert.tasks.sst2 import SST2 as SST2
    from qdqbert.tasks.stsb import STSB as STSB
    from qdqbert.tasks.task import Evaluation as Evaluation
    from qdqbert.tasks.task import Figure as Figure
    from qdqbert.tasks.task import Task as Task
    from qdqbert.tasks.text_classification import TextClassification as TextClassification
else:  # a type checker reads the imports above, and should go on refusing names that do not exist
    __all__ = ["DataError", *_HOMES]

    def __getattr__(name: str) -> Any:
        """Load a public name on first use (PEP 562)."""
        if name in _HOMES:
            value = getattr(importlib.import_module(f"qdqbert.tasks.{_HOMES[name]}"), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'qdqbert.tasks' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)

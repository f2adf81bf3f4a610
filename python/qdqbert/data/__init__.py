# SPDX-License-Identifier: Apache-2.0
"""Data for training: files to items, items to batches, in an order that a seed and an epoch decide.

::

    data = qdqbert.data.read("sst2", "train.tsv", tokenizer, model.config)
    loader = qdqbert.data.BatchLoader(data.dataset, 32, data.collate_fn, shuffle=True, group_by_length=True)
    for epoch in range(3):
        for batch in loader.batches(epoch):
            loss = model(**batch).loss

Nothing here has a state of its own: the same arguments give the same batches, so a run is resumed from an
epoch and the number of a batch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qdqbert.tasks.data_error import DataError as DataError

# public name -> module that defines it
_HOMES = {
    "BatchLoader": "loader",
    "DataCollatorForLanguageModeling": "masking",
    "DataCollatorForMultipleChoice": "collators",
    "DataCollatorForTokenClassification": "collators",
    "DataCollatorForWholeWordMask": "masking",
    "DataCollatorWithPadding": "collators",
    "DefaultDataCollator": "collators",
    "FeatureTable": "feature_table",
    "SentencePairs": "sentence_pairs",
    "TextStream": "language_modeling",
    "TrainingData": "training_data",
    "default_data_collator": "collators",
    "read": "reading",
    "reading_options": "reading",
}

if TYPE_CHECKING:
    from qdqbert.data.collators import DataCollatorForMultipleChoice as DataCollatorForMultipleChoice
    from qdqbert.data.collators import (
        DataCollatorForTokenClassification as DataCollatorForTokenClassification,
    )
    from qdqbert.data.collators import DataCollatorWithPadding as DataCollatorWithPadding
    from qdqbert.data.collators import DefaultDataCollator as DefaultDataCollator
    from qdqbert.data.collators import default_data_collator as default_data_collator
    from qdqbert.data.feature_table import FeatureTable as FeatureTable
    from qdqbert.data.language_modeling import TextStream as TextStream
    from qdqbert.data.loader import BatchLoader as BatchLoader
    from qdqbert.data.masking import DataCollatorForLanguageModeling as DataCollatorForLanguageModeling
    from qdqbert.data.masking import DataCollatorForWholeWordMask as DataCollatorForWholeWordMask
    from qdqbert.data.reading import read as read
    from qdqbert.data.reading import reading_options as reading_options
    from qdqbert.data.sentence_pairs import SentencePairs as SentencePairs
    from qdqbert.data.training_data import TrainingData as TrainingData
else:  # a type checker reads the imports above, and should go on refusing names that do not exist
    __all__ = ["DataError", *_HOMES]

    def __getattr__(name: str) -> Any:
        """Load a public name on first use (PEP 562)."""
        if name in _HOMES:
            value = getattr(importlib.import_module(f"qdqbert.data.{_HOMES[name]}"), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'qdqbert.data' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)

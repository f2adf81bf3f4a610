# SPDX-License-Identifier: Apache-2.0
"""`TrainingData`: what a reader gives, and what the readers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from qdqbert.data.collators import Batch, DataCollatorWithPadding
from qdqbert.tokenization import BertTokenizerFast

__all__ = [
    "HeadConfig",
    "Limits",
    "TrainingData",
    "full_tokenizer",
    "label_names",
    "padding_collator",
    "padding_options",
]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Items of a task, encoded for one model, and how batches are made of them.

    Attributes
    ----------
    task : str
        Its name in `qdqbert.tasks.table`.
    model_class : str
        Class of the models that it is for, e.g. ``"QDQBertForTokenClassification"``.
    dataset : sequence or iterable
        Items, mappings with ``input_ids``, ``token_type_ids`` and labels, unpadded.
    collate_fn : callable
        Makes a batch of some of them, see `BatchLoader`.
    num_items : int or None
        None of a stream, whose items nobody has counted.
    id2label : mapping of int to str, or None
        Names of the classes, where the head has classes; a model that is made for the data should have this
        in its configuration.
    problem_type : str or None
        ``"regression"``, ``"single_label_classification"`` or ``"multi_label_classification"`` of a
        sequence classification head.
    """

    task: str
    model_class: str
    dataset: Any
    collate_fn: Callable[..., Batch]
    num_items: int | None
    id2label: Mapping[int, str] | None = None
    problem_type: str | None = None

    @property
    def label2id(self) -> dict[str, int] | None:
        """Number of each class by its name."""
        return None if self.id2label is None else {name: index for index, name in self.id2label.items()}

    @property
    def num_labels(self) -> int | None:
        """Size of the head."""
        return None if self.id2label is None else len(self.id2label)


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Configuration of a model as its head will be: what the tasks' readers ask of one.

    Attributes
    ----------
    max_position_embeddings : int
    id2label : mapping of int to str
    """

    max_position_embeddings: int
    id2label: Mapping[int, str]

    @property
    def num_labels(self) -> int:
        """Size of the head."""
        return len(self.id2label)


@dataclass(frozen=True, slots=True)
class Limits:
    """Options of every task.

    Attributes
    ----------
    max_seq_length : int or None
        Wordpieces kept of an input, special tokens included; None: as many as the model has positions for.
    max_train_samples : int or None
        Only so many items are taken, from the first on.
    pad_to_max_length : bool
        Whether every batch is padded to `max_seq_length`, and not to its longest item.
    """

    max_seq_length: int | None = None
    max_train_samples: int | None = None
    pad_to_max_length: bool = False

    def __post_init__(self) -> None:
        least = {"max_seq_length": 4, "max_train_samples": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
            if value < smallest:
                raise ValueError(f"{name}: expected at least {smallest}, got {value}")


def label_names(config: Any) -> Mapping[int, str] | None:
    """Names that a configuration gives to the classes of its head.

    Parameters
    ----------
    config : QDQBertConfig

    Returns
    -------
    mapping of int to str, or None
        None if they are the placeholders ``LABEL_0``, ``LABEL_1``, ...: then the head is still to be made for
        the data.
    """
    names = config.id2label
    if all(re.fullmatch(r"LABEL_\d+", str(name)) for name in names.values()):
        return None
    return MappingProxyType(dict(names))


def full_tokenizer(tokenizer: Any) -> BertTokenizerFast:
    """Tokenizer that the collators work with.

    Parameters
    ----------
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
        Nothing is added to the vocabulary of the latter: what it lacks, the former does not have either.

    Returns
    -------
    BertTokenizerFast
    """
    if hasattr(tokenizer, "backend_tokenizer"):
        given: BertTokenizerFast = tokenizer
        return given

    def known(token: str) -> str | None:
        return token if tokenizer.token_to_id(token) is not None else None

    return BertTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=known("[UNK]"),
        sep_token=known("[SEP]"),
        pad_token=known("[PAD]"),
        cls_token=known("[CLS]"),
        mask_token=known("[MASK]"),
    )


def padding_options(limits: Limits, length: int) -> dict[str, Any]:
    """How a collator pads.

    Parameters
    ----------
    limits : Limits
    length : int
        `max_seq_length`, resolved.

    Returns
    -------
    dict of str to object
        Arguments of the collators.
    """
    return {"padding": "max_length", "max_length": length} if limits.pad_to_max_length else {}


def padding_collator(tokenizer: Any, limits: Limits, length: int) -> DataCollatorWithPadding:
    """Collator of items with one label, or one row of them.

    Parameters
    ----------
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    limits : Limits
    length : int
        As in `padding_options`.

    Returns
    -------
    DataCollatorWithPadding
    """
    return DataCollatorWithPadding(full_tokenizer(tokenizer), **padding_options(limits, length))

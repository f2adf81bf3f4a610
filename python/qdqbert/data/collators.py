# SPDX-License-Identifier: Apache-2.0
"""From a list of items to a batch of arrays: transformers' collators, by their names.

Arguments, their order and their defaults are transformers', but that arrays are NumPy's (`return_tensors` is
"np" there is nothing else) and that nothing draws from a global random state (`qdqbert.data.masking`).  A
batch is a dictionary, so ``model(**batch)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdqbert.tokenization.batch_encoding import refuse_foreign_tensors

if TYPE_CHECKING:
    from qdqbert.tokenization import BertTokenizerFast, PaddingStrategy

__all__ = [
    "Batch",
    "DataCollatorForMultipleChoice",
    "DataCollatorForTokenClassification",
    "DataCollatorWithPadding",
    "DefaultDataCollator",
    "default_data_collator",
    "pad_items",
]

Batch = dict[str, npt.NDArray[Any]]


def default_data_collator(features: Sequence[Any], return_tensors: str = "np") -> Batch:
    """Stack what the items hold; nothing is padded.

    Parameters
    ----------
    features : sequence of mappings, or of objects with attributes
        At least one.  ``label`` (a number) and ``label_ids`` (numbers) become ``labels``; None and texts are
        left out; everything else is stacked under its name.
    return_tensors : {"np"}

    Returns
    -------
    dict of ndarray
        Integers as int64, Python's floats as float32; arrays keep their dtype.

    Raises
    ------
    ValueError
        If there is no item, one lacks what the first has, or their sizes differ; the key is named.
    UnsupportedError
        For tensors of other packages.

    Examples
    --------
    >>> batch = default_data_collator([{"x": [1, 2], "label": 0}, {"x": [3, 4], "label": 1}])
    >>> batch["x"].shape, batch["labels"].tolist()
    ((2, 2), [0, 1])
    """
    refuse_foreign_tensors("return_tensors", return_tensors)
    items = [item if isinstance(item, Mapping) else vars(item) for item in features]
    if not items:
        raise ValueError("features: expected at least one item, got none")
    batch: Batch = {}
    names = {key: "labels" if key in ("label", "label_ids") else key for key in items[0]}
    if items[0].get("label") is not None:  # wins where both are there
        names.pop("label_ids", None)
    for key, name in names.items():
        if items[0][key] is not None and not isinstance(items[0][key], str):
            batch[name] = _stacked(key, items)
    return batch


@dataclass
class DefaultDataCollator:
    """`default_data_collator` as an object.

    Parameters
    ----------
    return_tensors : {"np"}
    """

    return_tensors: str = "np"

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> Batch:
        """Stack items.

        Parameters
        ----------
        features
            As in `default_data_collator`, errors too.
        return_tensors : str, optional
            In place of the object's.

        Returns
        -------
        dict of ndarray
        """
        return default_data_collator(features, return_tensors or self.return_tensors)


@dataclass
class DataCollatorWithPadding:
    """Pad items to one length.

    Parameters
    ----------
    tokenizer : BertTokenizerFast
        Says what padding is and on which side it goes.
    padding : {True, "longest", "max_length", False, "do_not_pad"}
        True: to the longest of the batch.
    max_length : int, optional
        For ``"max_length"``; the tokenizer's if left out.
    pad_to_multiple_of : int, optional
        Lengths are rounded up to it.
    return_tensors : {"np"}

    Examples
    --------
    >>> collate = DataCollatorWithPadding(tokenizer)                                        # doctest: +SKIP
    >>> collate([{"input_ids": [2, 5, 3]}, {"input_ids": [2, 3]}])["attention_mask"]        # doctest: +SKIP
    array([[1, 1, 1],
           [1, 1, 0]])
    """

    tokenizer: BertTokenizerFast
    padding: bool | str | PaddingStrategy = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "np"

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad and stack items.

        Parameters
        ----------
        features : sequence of mappings
            With ``input_ids``; ``token_type_ids``, ``attention_mask`` and ``special_tokens_mask`` are padded
            too; ``label`` and ``label_ids`` become ``labels``; the rest is stacked.

        Returns
        -------
        dict of ndarray
            With an ``attention_mask``.

        Raises
        ------
        ValueError
            As in `default_data_collator`.
        """
        batch = pad_items(features, self.tokenizer, self)
        for key in ("label", "label_ids"):
            if key in batch:
                batch["labels"] = batch.pop(key)
        return batch


@dataclass
class DataCollatorForTokenClassification:
    """Pad items and their labels, one for each token.

    Parameters
    ----------
    tokenizer, padding, max_length, pad_to_multiple_of
        As in `DataCollatorWithPadding`.
    label_pad_token_id : int
        Label of padding; -100 does not count in losses.
    return_tensors : {"np"}
    """

    tokenizer: BertTokenizerFast
    padding: bool | str | PaddingStrategy = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = -100
    return_tensors: str = "np"

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad and stack items.

        Parameters
        ----------
        features : sequence of mappings
            With ``input_ids`` and perhaps ``label`` or ``labels``: one number for each token.

        Returns
        -------
        dict of ndarray
            All int64.

        Raises
        ------
        ValueError
            As in `default_data_collator`, or if an item has more labels than the batch has tokens.
        """
        name = "label" if features and "label" in features[0] else "labels"
        has_labels = bool(features) and name in features[0]
        bare = [{key: value for key, value in item.items() if key != name} for item in features]
        batch = pad_items(bare, self.tokenizer, self)
        if not has_labels:
            return batch
        batch = {key: values.astype(np.int64) for key, values in batch.items()}
        length = batch["input_ids"].shape[1]
        labels = np.full((len(features), length), self.label_pad_token_id, dtype=np.int64)
        for row, item in zip(labels, features, strict=True):
            values = np.asarray(_value(item, name), dtype=np.int64)
            if len(values) > length:
                raise ValueError(f"{name}: expected at most {length}, one for each token, got {len(values)}")
            part = slice(None, len(values))
            if self.tokenizer.padding_side == "left":
                part = slice(length - len(values), None)
            row[part] = values
        return {**batch, "labels": labels}


@dataclass
class DataCollatorForMultipleChoice:
    """Pad the choices of questions to one length.

    Parameters
    ----------
    tokenizer, padding, max_length, pad_to_multiple_of, return_tensors
        As in `DataCollatorWithPadding`.
    """

    tokenizer: BertTokenizerFast
    padding: bool | str | PaddingStrategy = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "np"

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad and stack items.

        Parameters
        ----------
        features : sequence of mappings
            Each value a list with one row for each choice, but ``label`` or ``labels``: the number of the
            right one.

        Returns
        -------
        dict of ndarray
            (questions, choices, tokens); ``labels`` (questions,).

        Raises
        ------
        ValueError
            As in `default_data_collator`, or if questions differ in their number of choices.
        """
        if not features:
            raise ValueError("features: expected at least one item, got none")
        name = "label" if "label" in features[0] else "labels"
        has_labels = name in features[0]
        counts = {len(_value(item, "input_ids")) for item in features}
        if len(counts) != 1:
            raise ValueError(f"input_ids: expected one number of choices, got {sorted(counts)}")
        (choices,) = counts
        rows = [
            {key: values[choice] for key, values in item.items() if key != name}
            for item in features
            for choice in range(choices)
        ]
        padded = pad_items(rows, self.tokenizer, self)
        batch = {key: values.reshape(len(features), choices, -1) for key, values in padded.items()}
        if has_labels:
            batch["labels"] = np.array([_value(item, name) for item in features], dtype=np.int64)
        return batch


def pad_items(features: Sequence[Mapping[str, Any]], tokenizer: BertTokenizerFast, options: Any) -> Batch:
    """Pad what a tokenizer pads, and stack the rest.

    Parameters
    ----------
    features : sequence of mappings
        With ``input_ids``, at least one.
    tokenizer : BertTokenizerFast
    options : object
        Its `padding`, `max_length` and `pad_to_multiple_of`; one that is missing has its default.

    Returns
    -------
    dict of ndarray

    Raises
    ------
    ValueError, UnsupportedError
        As in `default_data_collator`.
    """
    refuse_foreign_tensors("return_tensors", options.return_tensors)
    if not features:
        raise ValueError("features: expected at least one item, got none")
    missing = [key for item in features for key in features[0] if key not in item]
    if missing:
        raise ValueError(f"{missing[0]}: expected in every item, missing in one")
    sequences = {"input_ids", "token_type_ids", "attention_mask", "special_tokens_mask"} & set(features[0])
    padded = tokenizer.pad(
        [{key: item[key] for key in sequences} for item in features],
        padding=getattr(options, "padding", True),
        max_length=getattr(options, "max_length", None),
        pad_to_multiple_of=options.pad_to_multiple_of,
    )
    batch = default_data_collator(
        [{key: rows[i] for key, rows in padded.items()} for i in range(len(features))]
    )
    rest = [{key: value for key, value in item.items() if key not in sequences} for item in features]
    for key in rest[0]:
        if rest[0][key] is not None and not isinstance(rest[0][key], str):
            batch[key] = _stacked(key, rest)
    return batch


def _stacked(key: str, items: Sequence[Mapping[str, Any]]) -> npt.NDArray[Any]:
    values = [_value(item, key) for item in items]
    try:
        array = np.array(values)
    except ValueError as error:
        raise ValueError(
            f"{key}: expected values of one size, got others ({error}); DataCollatorWithPadding pads"
        ) from None
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{key}: expected numbers, got {values[0]!r:.60}")
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    is_numpy = isinstance(values[0], np.ndarray | np.generic)
    return array if is_numpy else array.astype(np.float32)


def _value(item: Mapping[str, Any], key: str) -> Any:
    if key not in item:
        raise ValueError(f"{key}: expected in every item, missing in one")
    return item[key]

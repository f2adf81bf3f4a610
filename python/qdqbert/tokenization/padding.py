# SPDX-License-Identifier: Apache-2.0
"""Padding of encodings that exist already: one, a batch, or a list of single ones.

What a call of the tokenizer pads itself, the library pads; this is for batches that are put together later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qdqbert.tokenization.strategies import PaddingStrategy, Plan

__all__ = ["Filling", "pad_batch"]


class Filling(NamedTuple):
    """What padding is made of, and where it goes.

    Attributes
    ----------
    side : {"left", "right"}
    ids : int
    token_type_ids : int
    """

    side: str
    ids: int
    token_type_ids: int


def pad_batch(
    encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    plan: Plan,
    multiple: int | None,
    filling: Filling,
    with_mask: bool,
) -> tuple[dict[str, Any], bool]:
    """Pad the rows of `encoded`; it is not changed.

    Parameters
    ----------
    encoded : mapping of str to list or array, or list of such mappings
        With ``input_ids``; rows of numbers, or one.
    plan : Plan
        Strategy, and the length for ``max_length``.
    multiple : int or None
        Lengths are rounded up to it.
    filling : Filling
    with_mask : bool
        Whether there is an ``attention_mask`` in the result even where `encoded` has none.

    Returns
    -------
    (dict of str to list, bool)
        The rows, and whether they came as arrays.

    Raises
    ------
    ValueError
        If there are no ``input_ids``, they hold something else, or values differ in their number of rows.
    """
    if isinstance(encoded, Sequence):
        if not encoded:
            raise ValueError("encoded_inputs: expected at least one encoding, got an empty list")
        encoded = {key: [row[key] for row in encoded] for key in encoded[0]}
    if "input_ids" not in encoded:
        raise ValueError(f"encoded_inputs: expected 'input_ids', got {', '.join(encoded) or 'nothing'}")
    came_as_arrays = _holds_arrays(encoded["input_ids"])
    columns = {key: _lists(value) for key, value in encoded.items()}
    ids = columns["input_ids"]
    if not len(ids):
        return {**columns, **({"attention_mask": []} if with_mask else {})}, came_as_arrays
    if not isinstance(ids[0], list):
        return _pad_row(columns, _length(plan, [ids], multiple), filling, with_mask), came_as_arrays
    for key, column in columns.items():
        if not isinstance(column, list) or len(column) != len(ids):
            raise ValueError(
                f"encoded_inputs: {key}: expected {len(ids)} rows as input_ids, got {column!r:.60}"
            )
    length = _length(plan, ids, multiple)
    rows = [
        _pad_row({key: column[i] for key, column in columns.items()}, length, filling, with_mask)
        for i in range(len(ids))
    ]
    return {key: [row[key] for row in rows] for key in rows[0]}, came_as_arrays


def _length(plan: Plan, rows: Sequence[Sequence[int]], multiple: int | None) -> int:
    """Length that shorter rows are padded to."""
    if plan.padding is PaddingStrategy.DO_NOT_PAD:
        return 0
    longest = max(len(row) for row in rows)
    length = (
        longest if plan.padding is PaddingStrategy.LONGEST or plan.max_length is None else plan.max_length
    )
    return length if multiple is None else -(-length // multiple) * multiple


def _pad_row(row: dict[str, Any], length: int, filling: Filling, with_mask: bool) -> dict[str, Any]:
    count = len(row["input_ids"])
    if with_mask:
        row = {**row, "attention_mask": row.get("attention_mask", [1] * count)}
    missing = max(length - count, 0)
    values = {
        "input_ids": filling.ids,
        "attention_mask": 0,
        "token_type_ids": filling.token_type_ids,
        "special_tokens_mask": 1,
    }
    if not with_mask:
        del values["attention_mask"]
    return {
        key: (
            value
            if key not in values
            else value + [values[key]] * missing
            if filling.side == "right"
            else [values[key]] * missing + value
        )
        for key, value in row.items()
    }


def _holds_arrays(ids: Any) -> bool:
    """Whether the numbers lie in arrays; anything but numbers, lists and arrays is refused."""
    first = ids
    while isinstance(first, list | tuple):
        filled = [item for item in first if not isinstance(item, list | tuple) or len(item)]
        if not filled:
            return False
        first = filled[0]
    if hasattr(first, "__array__"):
        return True
    if isinstance(first, int):
        return False
    raise ValueError(f"encoded_inputs: input_ids: expected numbers, lists or arrays, got {first!r:.60}")


def _lists(value: Any) -> Any:
    """Nested lists of Python numbers."""
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return np.asarray(value).tolist() if hasattr(value, "__array__") else value

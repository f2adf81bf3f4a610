# SPDX-License-Identifier: Apache-2.0
"""`FeatureTable`: encoded sequences in a few flat arrays.

A list of dictionaries of arrays costs half a kilobyte an item beside its numbers.  Here the numbers of all
items lie behind each other, five bytes a token, and an item is made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["FeatureTable"]

# How the values of tokens are stored; items hold int64.
_TYPES: dict[str, npt.DTypeLike] = {
    "input_ids": np.int32,
    "token_type_ids": np.int8,
    "special_tokens_mask": np.int8,
    "labels": np.int32,
}


class FeatureTable(Sequence[dict[str, Any]]):
    """Sequences of a model with their labels.

    Parameters
    ----------
    offsets : ndarray (items + 1,) int64
        Where the tokens of each item begin, and where those of the last end.
    tokens : mapping of str to ndarray (tokens,)
        Values of all tokens, by name.
    rows : mapping of str to ndarray (items, ...)
        Values of whole items, by name.

    Examples
    --------
    >>> table = FeatureTable.of([{"input_ids": [2, 7, 3], "labels": 1}, {"input_ids": [2, 3], "labels": 0}])
    >>> len(table), table.lengths.tolist(), table[0]["input_ids"].tolist()
    (2, [3, 2], [2, 7, 3])
    """

    def __init__(
        self,
        offsets: npt.NDArray[np.int64],
        tokens: Mapping[str, npt.NDArray[Any]],
        rows: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self._offsets, self._tokens, self._rows = offsets, dict(tokens), dict(rows)

    @classmethod
    def of(
        cls,
        items: Iterable[Mapping[str, Any]],
        per_token: Sequence[str] = ("input_ids", "token_type_ids"),
    ) -> Self:
        """Store items, one after the other.

        Parameters
        ----------
        items : iterable of mappings
            All with the same keys, ``input_ids`` among them.
        per_token : sequence of str
            Keys, of those that `_TYPES` has, whose values are one for each token; any other value is one for
            an item, or an array of a fixed size.

        Raises
        ------
        ValueError
            If values of tokens are not as many as the ids, or items have different keys.
        """
        lengths: list[int] = []
        buffers: dict[str, bytearray] = {}
        rows: dict[str, list[Any]] = {}
        for item in items:
            if not lengths:
                buffers = {key: bytearray() for key in per_token if key in item}
                rows = {key: [] for key in item if key not in buffers}
            if set(item) != {*buffers, *rows}:
                known = ", ".join([*buffers, *rows])
                raise ValueError(f"items: expected {known}, as in the first, found {', '.join(item)}")
            lengths.append(len(item["input_ids"]))
            for key, buffer in buffers.items():
                if len(item[key]) != lengths[-1]:
                    raise ValueError(
                        f"{key}: expected {lengths[-1]}, one for each token, found {len(item[key])}"
                    )
                buffer += np.asarray(item[key]).astype(_TYPES[key]).tobytes()
            for key, values in rows.items():
                values.append(item[key])
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        tokens = {key: np.frombuffer(buffer, dtype=_TYPES[key]) for key, buffer in buffers.items()}
        return cls(offsets, tokens, {key: np.array(values) for key, values in rows.items()})

    def with_rows(self, **rows: npt.NDArray[Any]) -> Self:
        """Return the same items with more values.

        Parameters
        ----------
        **rows : ndarray (items, ...)

        Raises
        ------
        ValueError
            If they are not one for each item.
        """
        for key, values in rows.items():
            if len(values) != len(self):
                raise ValueError(f"{key}: expected {len(self)}, one for each item, found {len(values)}")
        return type(self)(self._offsets, self._tokens, self._rows | rows)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each item, (items,) int64."""
        return np.diff(self._offsets)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for part in (self._tokens, self._rows) for array in part.values()) + int(
            self._offsets.nbytes
        )

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        """Item of a number, or the items of a slice as a list."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        part = slice(int(self._offsets[place]), int(self._offsets[place + 1]))
        item: dict[str, Any] = {key: values[part].astype(np.int64) for key, values in self._tokens.items()}
        return item | {key: values[place] for key, values in self._rows.items()}

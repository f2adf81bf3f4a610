# SPDX-License-Identifier: Apache-2.0
"""Which fields of an item a model takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

__all__ = ["forward_arguments", "keep_columns", "label_names"]

_SPANS = ("start_positions", "end_positions")


def forward_arguments(model: Any) -> list[str]:
    """Return the names of what a model's forward takes.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    """
    return list(inspect.signature(model.forward).parameters)


def label_names(model: Any) -> list[str]:
    """Return the names of a model's labels.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    """
    # Keywords such as label_smoothing or the old next_sentence_label are no labels that an item should have.
    parameters = inspect.signature(model.forward).parameters.values()
    taken = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if set(_SPANS) <= set(taken):
        return list(_SPANS)
    return [name for name in taken if name == "labels" or name.endswith("_label")]


def keep_columns(collator: Callable[..., Any], names: Collection[str]) -> Callable[..., Any]:
    """Return a collator that is shown some fields of its items only.

    Parameters
    ----------
    collator : callable (items) or (items, *, rng)
    names : collection of str

    Returns
    -------
    callable
        With the arguments of `collator`.
    """

    def kept(items: Sequence[Any]) -> list[Any]:
        return [
            {name: value for name, value in item.items() if name in names}
            if isinstance(item, Mapping)
            else item
            for item in items
        ]

    if "rng" in inspect.signature(collator).parameters:
        return lambda items, rng: collator(kept(items), rng=rng)
    return lambda items: collator(kept(items))

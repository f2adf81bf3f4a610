# SPDX-License-Identifier: Apache-2.0
"""What models return: ordered dictionaries with attributes, that also index like the tuple of what is there.

``out.logits``, ``out["logits"]`` and ``out[0]`` are the same array; fields that are None have no key and no
index. As in transformers, iterating gives keys: use `ModelOutput.to_tuple` to unpack values.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

__all__ = [
    "BaseModelOutputWithPoolingAndCrossAttentions",
    "ModelOutput",
    "QuestionAnsweringModelOutput",
    "SequenceClassifierOutput",
]

Array = npt.NDArray[np.float32]


class ModelOutput(OrderedDict[str, Any]):
    """Base of the output classes; subclasses are dataclasses whose fields default to None."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None:
                super().__setitem__(field.name, value)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.keys() and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __delitem__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"You cannot use ``__delitem__`` on a {type(self).__name__} instance.")

    def setdefault(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the fields are fixed."""
        raise TypeError(f"You cannot use ``setdefault`` on a {type(self).__name__} instance.")

    def pop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the fields are fixed."""
        raise TypeError(f"You cannot use ``pop`` on a {type(self).__name__} instance.")

    def popitem(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the fields are fixed."""
        raise TypeError(f"You cannot use ``popitem`` on a {type(self).__name__} instance.")

    def clear(self) -> NoReturn:
        """Refused: the fields are fixed."""
        raise TypeError(f"You cannot use ``clear`` on a {type(self).__name__} instance.")

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the fields are fixed."""
        raise TypeError(f"You cannot use ``update`` on a {type(self).__name__} instance.")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values that are not None, in order."""
        return tuple(super(ModelOutput, self).__getitem__(key) for key in self.keys())


@dataclasses.dataclass(eq=False, repr=False)
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """Output of `QDQBertModel`.

    Attributes
    ----------
    last_hidden_state : ndarray, shape (batch, length, hidden)
    pooler_output : ndarray, shape (batch, hidden), or None
    hidden_states : tuple of ndarray, shape (batch, length, hidden), or None
        Before each layer and after the last.
    past_key_values, cross_attentions : None
        Of decoders.
    attentions : tuple of ndarray, shape (batch, heads, length, length), or None
        Probabilities of each layer.
    """

    last_hidden_state: Array | None = None
    pooler_output: Array | None = None
    hidden_states: tuple[Array, ...] | None = None
    past_key_values: None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: None = None


@dataclasses.dataclass(eq=False, repr=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """Output of `QDQBertForQuestionAnswering`.

    Attributes
    ----------
    loss : float32 scalar, or None
        Mean of the cross-entropies of start and end.
    start_logits, end_logits : ndarray, shape (batch, length)
    hidden_states, attentions : tuple of ndarray, or None
    """

    loss: np.float32 | None = None
    start_logits: Array | None = None
    end_logits: Array | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclasses.dataclass(eq=False, repr=False)
class SequenceClassifierOutput(ModelOutput):
    """Output of `QDQBertForSequenceClassification`.

    Attributes
    ----------
    loss : float32 scalar, or None
    logits : ndarray, shape (batch, num_labels)
    hidden_states, attentions : tuple of ndarray, or None
    """

    loss: np.float32 | None = None
    logits: Array | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None

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

from qdqbert.loss import Loss

__all__ = [
    "BaseModelOutputWithPoolingAndCrossAttentions",
    "CausalLMOutputWithCrossAttentions",
    "MaskedLMOutput",
    "ModelOutput",
    "MultipleChoiceModelOutput",
    "NextSentencePredictorOutput",
    "QuestionAnsweringModelOutput",
    "SequenceClassifierOutput",
    "TokenClassifierOutput",
]

Array = npt.NDArray[np.float32]
Cache = tuple[tuple[Array, ...], ...]

# Default of fields that every model fills: None, which users of a model's output need not reckon with.
_MISSING: Any = None


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
        """Refused: the fields are fixed.

        Parameters
        ----------
        *args, **kwargs
            Not looked at.
        """
        raise TypeError(f"You cannot use ``setdefault`` on a {type(self).__name__} instance.")

    def pop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the fields are fixed.

        Parameters
        ----------
        *args, **kwargs
            Not looked at.
        """
        raise TypeError(f"You cannot use ``pop`` on a {type(self).__name__} instance.")

    def popitem(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the fields are fixed.

        Parameters
        ----------
        *args, **kwargs
            Not looked at.
        """
        raise TypeError(f"You cannot use ``popitem`` on a {type(self).__name__} instance.")

    def clear(self) -> NoReturn:
        """Refused: the fields are fixed."""
        raise TypeError(f"You cannot use ``clear`` on a {type(self).__name__} instance.")

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the fields are fixed.

        Parameters
        ----------
        *args, **kwargs
            Not looked at.
        """
        raise TypeError(f"You cannot use ``update`` on a {type(self).__name__} instance.")

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = (f"{field.name}={getattr(self, field.name)!r}" for field in fields)
        return f"{type(self).__name__}({', '.join(values)})"

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
    past_key_values : tuple of tuples of ndarray, or None
        Of decoders: for each layer keys and values, shape (batch, heads, keys, head size), and with
        cross-attention those of the encoder.
    attentions : tuple of ndarray, shape (batch, heads, length, keys), or None
        Probabilities of each layer.
    cross_attentions : tuple of ndarray, shape (batch, heads, length, encoder length), or None
        Probabilities of cross-attention.
    """

    last_hidden_state: Array = _MISSING
    pooler_output: Array | None = None
    hidden_states: tuple[Array, ...] | None = None
    past_key_values: Cache | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


@dataclasses.dataclass(eq=False, repr=False)
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """Output of `QDQBertLMHeadModel`.

    Attributes
    ----------
    loss : Loss, a float32 scalar, or None
    logits : ndarray, shape (batch, length, vocab_size)
    past_key_values, hidden_states, attentions, cross_attentions
        See `BaseModelOutputWithPoolingAndCrossAttentions`.
    """

    loss: Loss | None = None
    logits: Array = _MISSING
    past_key_values: Cache | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


@dataclasses.dataclass(eq=False, repr=False)
class _LossAndLogits(ModelOutput):
    loss: Loss | None = None
    logits: Array = _MISSING
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclasses.dataclass(eq=False, repr=False)
class MaskedLMOutput(_LossAndLogits):
    """Output of `QDQBertForMaskedLM`.

    Attributes
    ----------
    loss : Loss, a float32 scalar, or None
    logits : ndarray, shape (batch, length, vocab_size)
    hidden_states, attentions : tuple of ndarray, or None
    """


@dataclasses.dataclass(eq=False, repr=False)
class MultipleChoiceModelOutput(_LossAndLogits):
    """Output of `QDQBertForMultipleChoice`.

    Attributes
    ----------
    loss : Loss, a float32 scalar, or None
    logits : ndarray, shape (batch, choices)
    hidden_states, attentions : tuple of ndarray, or None
    """


@dataclasses.dataclass(eq=False, repr=False)
class NextSentencePredictorOutput(_LossAndLogits):
    """Output of `QDQBertForNextSentencePrediction`.

    Attributes
    ----------
    loss : Loss, a float32 scalar, or None
    logits : ndarray, shape (batch, 2)
    hidden_states, attentions : tuple of ndarray, or None
    """


@dataclasses.dataclass(eq=False, repr=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """Output of `QDQBertForQuestionAnswering`.

    Attributes
    ----------
    loss : Loss, a float32 scalar, or None
        Mean of the cross-entropies of start and end.
    start_logits, end_logits : ndarray, shape (batch, length)
    hidden_states, attentions : tuple of ndarray, or None
    """

    loss: Loss | None = None
    start_logits: Array = _MISSING
    end_logits: Array = _MISSING
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclasses.dataclass(eq=False, repr=False)
class SequenceClassifierOutput(_LossAndLogits):
    """Output of `QDQBertForSequenceClassification`.

    Attributes
    ----------
    loss : Loss, a float32 scalar, or None
    logits : ndarray, shape (batch, num_labels)
    hidden_states, attentions : tuple of ndarray, or None
    """


@dataclasses.dataclass(eq=False, repr=False)
class TokenClassifierOutput(_LossAndLogits):
    """Output of `QDQBertForTokenClassification`.

    Attributes
    ----------
    loss : Loss, a float32 scalar, or None
    logits : ndarray, shape (batch, length, num_labels)
    hidden_states, attentions : tuple of ndarray, or None
    """

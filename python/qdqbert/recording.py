# SPDX-License-Identifier: Apache-2.0
"""A recorded forward: what one call in training mode keeps so that it can be walked back."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qdqbert.arrays import Array
from qdqbert.errors import StateError
from qdqbert.modeling_bound import Bound
from qdqbert.modeling_tree import Handles
from qdqbert.sessions import Loan

__all__ = ["InputGradients", "OutputGradients", "Reach", "Recording"]


class InputGradients(NamedTuple):
    """What `model.backward` returns; None where not wanted or not there.

    Attributes
    ----------
    inputs_embeds : ndarray, shape (batch, length, hidden), float32
        Gradient of the word vectors, whether they were given or looked up.
    encoder_hidden_states : ndarray, shape (batch, encoder length, hidden), float32
        Gradient of the states that cross-attention looked at.
    """

    inputs_embeds: Array | None = None
    encoder_hidden_states: Array | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class OutputGradients:
    """Gradients of something with respect to the outputs of a forward, float32; None: zero.

    Attributes
    ----------
    logits : ndarray
        Of the shape that the C model gives them.
    last_hidden_state : ndarray, shape (batch, length, hidden)
    pooler_output : ndarray, shape (batch, hidden)
    hidden_states : tuple of (ndarray, shape (batch, length, hidden), or None)
        Before each layer and after the last; empty: none.
    """

    logits: Array | None = None
    last_hidden_state: Array | None = None
    pooler_output: Array | None = None
    hidden_states: tuple[Array | None, ...] = ()

    def __add__(self, other: OutputGradients) -> OutputGradients:
        return OutputGradients(
            _sum(self.logits, other.logits),
            _sum(self.last_hidden_state, other.last_hidden_state),
            _sum(self.pooler_output, other.pooler_output),
            tuple(_sum(a, b) for a, b in itertools.zip_longest(self.hidden_states, other.hidden_states)),
        )

    def layers(self) -> int | None:
        """Return the number of layers that they come through; None: all."""
        if not (self.logits is None and self.last_hidden_state is None and self.pooler_output is None):
            return None
        return max((i for i, each in enumerate(self.hidden_states) if each is not None), default=0)


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """Which parameters gradients come to; in PyTorch those of the others stay None, and are not stepped.

    Attributes
    ----------
    prefix : str
        Of the base model's names.
    head_pools : bool
        Whether the logits come from the pooled vector.
    looks_up_words : bool
        Whether tokens were given, and not their vectors.
    shares_table : bool
        Whether the logits come from the table of words.
    adds_positions : bool
        Whether the vectors of positions are added to those of words.
    attends_encoder : bool
        Whether there was something for cross-attention.
    projects_encoder : bool
        Whether that were states, and not cached projections.
    """

    prefix: str
    head_pools: bool
    looks_up_words: bool
    shares_table: bool
    adds_positions: bool
    attends_encoder: bool
    projects_encoder: bool

    def includes(self, name: str, gradients: OutputGradients) -> bool:
        """Return whether gradients of outputs come to a parameter.

        Parameters
        ----------
        name : str
            Dotted name in the model.
        gradients : OutputGradients
        """
        has_logits, layers = gradients.logits is not None, gradients.layers()
        if not name.startswith(self.prefix):
            return has_logits
        match name.removeprefix(self.prefix).split("."):
            case ["pooler", *_]:
                return gradients.pooler_output is not None or (has_logits and self.head_pools)
            case ["embeddings", "word_embeddings", *_]:
                return self.looks_up_words or (has_logits and self.shares_table)
            case ["embeddings", "position_embeddings", *_]:
                return self.adds_positions
            case ["encoder", "layer", index, *_] if layers is not None and int(index) >= layers:
                return False
            case ["encoder", "layer", _, "crossattention", "self", "key" | "value", *_]:
                return self.projects_encoder
            case ["encoder", "layer", _, "crossattention", *_]:
                return self.attends_encoder
        return True


class Recording:
    """One recorded forward, until it is walked back or dropped; then its session is free again.

    Parameters
    ----------
    handles : Handles
        Of the model.
    bound : Bound
        The C model that ran.
    loan : Loan
        The session.
    reach : Reach
    """

    def __init__(self, handles: Handles, bound: Bound, loan: Loan, reach: Reach) -> None:
        self._handles, self._bound = handles, bound
        self._loan: Loan | None = loan
        self._reach = reach
        self._parts: list[Callable[[float], OutputGradients]] = []

    def keep(self, gradients_of: Callable[[float], OutputGradients]) -> int:
        """Keep a part of a loss until the forward is walked back, and return its number.

        Parameters
        ----------
        gradients_of : callable (float) -> OutputGradients
            Gradients of a multiple of it with respect to the outputs.
        """
        self._parts.append(gradients_of)
        return len(self._parts) - 1

    def gradients_of(self, part: int, factor: float) -> OutputGradients:
        """Return the gradients of a multiple of a part; only while `require_usable` raises nothing.

        Parameters
        ----------
        part : int
        factor : float
        """
        return self._parts[part](factor)

    def require_usable(self) -> Loan:
        """Return the session.

        Raises
        ------
        StateError
            If the forward has been walked back, or the sizes of the model have changed since.
        """
        loan = self._loan
        if loan is None:
            raise StateError(
                "backward: this forward has been walked back already, and what it kept is gone; run the "
                "forward again, or add losses before one backward"
            )
        if self._handles.bound is not self._bound:
            raise StateError("backward: the sizes of the model have changed since this forward; run it again")
        return loan

    def backward(self, gradients: OutputGradients, wants_inputs: bool = False) -> InputGradients:
        """Add the gradients of the parameters, and give the session back.

        Parameters
        ----------
        gradients : OutputGradients
        wants_inputs : bool
            Whether to return gradients of inputs.

        Raises
        ------
        StateError
            If the forward has been walked back, or the model has changed since.
        ShapeError
            If a gradient has not the shape of its output.
        """
        loan = self.require_usable()
        self._sync_flags()
        inputs, encoder = loan.session.backward(
            gradients.last_hidden_state,
            gradients.pooler_output,
            gradients.logits,
            wants_inputs,
            wants_inputs and self._reach.projects_encoder,
            gradients.hidden_states or None,
        )
        self._loan = None
        self._parts.clear()  # with the logits that they hold: sums of losses outlive many steps
        loan.give_back()
        self._note(gradients)
        return InputGradients(inputs, encoder)

    def _sync_flags(self) -> None:
        """Tell the C model which parameters are trained."""
        model = self._bound.model
        for name, (index, _) in self._bound.parameters.items():
            state = self._handles.state(name)
            is_trained = model.gradient(index) is not None
            if is_trained and not state.requires_grad:
                model.zero_gradients(np.array([index], np.int64))
                state.has_gradient = False
            if is_trained != state.requires_grad:
                model.set_trainable(index, state.requires_grad)

    def _note(self, gradients: OutputGradients) -> None:
        """Note which parameters have a gradient now."""
        for name in self._bound.parameters:
            state = self._handles.state(name)
            if state.requires_grad and self._reach.includes(name, gradients):
                state.has_gradient = True
        for name, slots in self._handles.learned_bounds():
            for slot in slots:
                if not slot.state.requires_grad:
                    assert slot.place is not None
                    slot.place.write_gradient(np.zeros((), np.float32))
                elif self._reach.includes(name, gradients):
                    slot.state.has_gradient = True


def _sum(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return a if b is None else b
    return np.add(a, b)

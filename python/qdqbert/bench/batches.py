# SPDX-License-Identifier: Apache-2.0
"""The batches that are timed, and the work in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Inputs", "bert_operations", "even", "varied"]

Inputs = dict[str, NDArray[np.int64]]

# Lengths in tokens as short questions have them: lognormal, about 34 on average, cut to these bounds.
_SHORTEST, _LONGEST = 8, 76
_LOG_MEAN, _LOG_DEVIATION = 3.4, 0.5


@dataclass(frozen=True)
class Batch:
    """A batch to be timed.

    Attributes
    ----------
    name : str
        ``"8x128"``, or ``"32 varied"`` of sequences of different lengths.
    lengths : tuple of int
        Tokens of each sequence; all are padded to the longest.
    """

    name: str
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return sum(self.lengths)

    def inputs(self, vocab_size: int, seed: int = 1) -> Inputs:
        """Return random ids with a right-padded mask and two segments.

        Parameters
        ----------
        vocab_size : int
            Ids are 1 .. vocab_size - 1, and 0 where there is padding.
        seed : int
            Of the ids.
        """
        longest = max(self.lengths)
        mask = (np.arange(longest) < np.array(self.lengths)[:, None]).astype(np.int64)
        ids = np.random.default_rng(seed).integers(1, vocab_size, mask.shape, dtype=np.int64)
        types = np.zeros_like(mask)
        types[:, longest // 2 :] = 1
        return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types * mask}


def even(batch_size: int, seq_len: int) -> Batch:
    """Return a batch without padding.

    Parameters
    ----------
    batch_size, seq_len : int
        At least 1.
    """
    return Batch(f"{batch_size}x{seq_len}", (seq_len,) * batch_size)


def varied(batch_size: int, seed: int = 0) -> Batch:
    """Return a batch of sequences as long as short questions are, 8 .. 76 tokens.

    Parameters
    ----------
    batch_size : int
        At least 1.
    seed : int
        Of the lengths.
    """
    drawn = np.random.default_rng(seed).lognormal(_LOG_MEAN, _LOG_DEVIATION, batch_size)
    lengths = np.clip(np.rint(drawn), _SHORTEST, _LONGEST).astype(int)
    return Batch(f"{batch_size} varied", tuple(int(length) for length in lengths))


def bert_operations(
    tokens: int, lengths: Sequence[int], layers: int, hidden: int, intermediate: int, *, pooled: int = 0
) -> float:
    """Count the operations, 2 for each multiply-add, of the products of a BERT encoder.

    Parameters
    ----------
    tokens : int
        Rows of the linear layers.
    lengths : sequence of int
        Tokens of each sequence, for attention.
    layers, hidden, intermediate : int
        Sizes of the model.
    pooled : int
        Rows of the pooler.
    """
    linear = tokens * layers * (4 * hidden * hidden + 2 * hidden * intermediate)
    attention = sum(2 * length * length * hidden * layers for length in lengths)
    return 2.0 * (linear + attention + pooled * hidden * hidden)

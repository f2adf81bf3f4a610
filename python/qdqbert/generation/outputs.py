# SPDX-License-Identifier: Apache-2.0
"""What `generate` returns when it is asked for more than the sequences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.modeling_outputs import ModelOutput

__all__ = ["GenerateBeamDecoderOnlyOutput", "GenerateDecoderOnlyOutput"]


@dataclasses.dataclass(eq=False, repr=False)
class GenerateDecoderOnlyOutput(ModelOutput):
    """Output of greedy search and sampling.

    Attributes
    ----------
    sequences : ndarray, shape (rows, longest), int64
    scores : tuple of ndarray, shape (rows, vocabulary), or None
        Processed scores of each step.
    """

    sequences: Any = None
    scores: tuple[npt.NDArray[np.float32], ...] | None = None


@dataclasses.dataclass(eq=False, repr=False)
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Output of beam search.

    Attributes
    ----------
    sequences : ndarray, shape (batch * num_return_sequences, longest), int64
    sequences_scores : ndarray, shape (batch * num_return_sequences,), float32, or None
        Summed log-probabilities over the length to the power of the length penalty.
    scores : tuple of ndarray, shape (batch * num_beams, vocabulary), or None
        Processed log-probabilities of each step.
    beam_indices : ndarray, shape (batch * num_return_sequences, longest), int64, or None
        Row of the beams that each generated token came from; -1 after the last.
    """

    sequences: Any = None
    sequences_scores: npt.NDArray[np.float32] | None = None
    scores: tuple[npt.NDArray[np.float32], ...] | None = None
    beam_indices: npt.NDArray[np.int64] | None = None

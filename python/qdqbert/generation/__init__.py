# SPDX-License-Identifier: Apache-2.0
"""Generation of text: configuration, processors of scores, beam search, and the loops."""

from qdqbert.generation.beam_search import BeamHypotheses, BeamSearch
from qdqbert.generation.configuration import GenerationConfig
from qdqbert.generation.loop import GenerationMixin
from qdqbert.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

__all__ = [
    "BeamHypotheses",
    "BeamSearch",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "GenerationConfig",
    "GenerationMixin",
]

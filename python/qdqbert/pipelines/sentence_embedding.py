# SPDX-License-Identifier: Apache-2.0
"""``sentence-embedding``: one vector for a text, so that near texts have near vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from qdqbert.pipelines.base import Options
from qdqbert.pipelines.feature_extraction import FeatureExtractionOptions, FeatureExtractionPipeline

__all__ = ["SentenceEmbeddingOptions", "SentenceEmbeddingPipeline"]


@dataclasses.dataclass(frozen=True, slots=True)
class SentenceEmbeddingOptions(FeatureExtractionOptions):
    """Options of ``sentence-embedding``: those of ``feature-extraction``, with other defaults.

    Attributes
    ----------
    pooling, normalize, return_tensors, truncation, tokenize_kwargs
        See `FeatureExtractionOptions`.
    """

    pooling: str | None = "mean"
    normalize: bool = True
    return_tensors: bool = True
    truncation: bool | str | None = True
    tokenize_kwargs: Mapping[str, Any] | None = None


class SentenceEmbeddingPipeline(FeatureExtractionPipeline):
    """Give one vector for each text; near texts have near vectors.

    Parameters
    ----------
    model : QDQBertModel
        A model with a head is taken without it.
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`.
    **options
        `SentenceEmbeddingOptions`.

    Examples
    --------
    >>> from qdqbert import pipeline
    >>> from qdqbert.cli.demo import bundled_folder
    >>> embed = pipeline("sentence-embedding", bundled_folder())
    >>> vectors = embed(["The river flows into the sea.", "He won the match."])
    >>> vectors.shape, round(float(vectors[0] @ vectors[0]), 5)
    ((2, 128), 1.0)
    """

    task = "sentence-embedding"
    options_class: ClassVar[type[Options]] = SentenceEmbeddingOptions

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Give the vectors of texts.

        Parameters
        ----------
        inputs : str, a list or an iterator of them
        **options
            For this call.

        Returns
        -------
        ndarray (hidden,), or ndarray (texts, hidden) for a list, or an iterator of ndarray (hidden,)
            An empty list gives an array of no rows.  Lists with ``return_tensors=False``; without pooling as
            `FeatureExtractionPipeline`.
        """
        result = super().__call__(inputs, **options)
        if isinstance(inputs, list) and not inputs:
            used = self._merged({k: v for k, v in options.items() if k not in ("batch_size", "progress")})
            is_matrix = used.pooling is not None and used.return_tensors
            return np.zeros((0, int(self.model.config.hidden_size)), np.float32) if is_matrix else []
        is_stackable = isinstance(result, list) and bool(result)
        if isinstance(inputs, list) and is_stackable and all(np.ndim(row) == 1 for row in result):
            return np.stack(result) if isinstance(result[0], np.ndarray) else result
        return result

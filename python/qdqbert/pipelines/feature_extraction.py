# SPDX-License-Identifier: Apache-2.0
"""``feature-extraction``: the vectors of a text's tokens, or one vector made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.pipelines.base import Options, Pipeline, Row

__all__ = ["FeatureExtractionOptions", "FeatureExtractionPipeline"]

_POOLINGS = (None, "mean", "cls")


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureExtractionOptions(Options):
    """Options of ``feature-extraction``.

    Attributes
    ----------
    pooling : {None, "mean", "cls"}
        None: a vector for each token; mean: the mean over the tokens of a text, special ones included and
        padding not; cls: the vector of the first token.
    normalize : bool
        Whether vectors are scaled to length 1.
    return_tensors : bool
        Arrays instead of nested lists.
    truncation : bool or str, optional
        As in a call of the tokenizer; without it a text longer than the model takes is an error.
    tokenize_kwargs : dict, optional
        Further arguments of the tokenizer.
    """

    pooling: str | None = None
    normalize: bool = False
    return_tensors: bool = False
    truncation: bool | str | None = None
    tokenize_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.pooling not in _POOLINGS:
            raise ValueError(f"pooling: expected None, 'mean' or 'cls', got {self.pooling!r}")
        if self.truncation is not None and "truncation" in (self.tokenize_kwargs or {}):
            raise ValueError("truncation: given twice, by itself and in tokenize_kwargs")


class FeatureExtractionPipeline(Pipeline[FeatureExtractionOptions]):
    """Give the vectors of the last layer.

    Parameters
    ----------
    model : QDQBertModel
        A model with a head is taken without it.
    tokenizer : BertTokenizerFast
    batch_size, progress
        As in every `Pipeline`.
    **options
        `FeatureExtractionOptions`.
    """

    task = "feature-extraction"
    auto_class = "AutoModel"
    options_class: ClassVar[type[Options]] = FeatureExtractionOptions

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        super().__init__(getattr(model, "base_model", model), tokenizer, **options)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Give the vectors of texts.

        Parameters
        ----------
        inputs : str, a list or an iterator of them
        **options
            For this call.

        Returns
        -------
        list, ndarray, or a list or iterator of them
            Without pooling [1][tokens][hidden], as in transformers, or an array of that shape; with pooling
            [hidden].
        """
        return super().__call__(inputs, **options)

    def _rows(self, item: Any, options: FeatureExtractionOptions) -> list[Row]:
        if not isinstance(item, str):
            raise ValueError(f"inputs: expected a text, got {item!r:.60}")
        tokenize = dict(options.tokenize_kwargs or {})
        if options.truncation is not None:
            tokenize["truncation"] = options.truncation
        return self._encode(item, **tokenize)

    def _take(
        self, outputs: Any, index: int, row: Row, options: FeatureExtractionOptions
    ) -> npt.NDArray[np.float32]:
        # Pooled here, so that a window of texts does not keep the vectors of all their tokens.
        vectors: npt.NDArray[np.float32] = outputs.last_hidden_state[index, : len(row.input_ids)]
        if options.pooling == "mean":
            vectors = vectors[row.attention_mask == 1].mean(axis=0)
        elif options.pooling == "cls":
            vectors = vectors[int(row.attention_mask.argmax())]
        return vectors.copy()

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: FeatureExtractionOptions,
        given: frozenset[str],
    ) -> Any:
        vectors = np.stack(taken) if options.pooling is None else taken[0]
        if options.normalize:
            # The smallest divisor of torch.nn.functional.normalize: a zero vector stays one.
            length = np.linalg.norm(vectors, axis=-1, keepdims=True)
            vectors = vectors / np.maximum(length, np.float32(1e-12))
        return vectors if options.return_tensors else vectors.tolist()

# SPDX-License-Identifier: Apache-2.0
"""``fill-mask``: words for ``[MASK]``, with their probabilities."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert._core import OUTPUT_LOGITS
from qdqbert.pipelines.base import Options, Pipeline, PipelineException, Row
from qdqbert.pipelines.scores import best, softmax

__all__ = ["FillMaskOptions", "FillMaskPipeline"]

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class FillMaskOptions(Options):
    """Options of ``fill-mask``.

    Attributes
    ----------
    top_k : int
        Proposals for each mask, best first.
    targets : list of str, or str, optional
        The only words to score, with their probability among all.  One that is not in the vocabulary is
        replaced by its first wordpiece, with a warning.
    tokenizer_kwargs : dict, optional
        Further arguments of the tokenizer, such as ``truncation``.
    """

    top_k: int = 5
    targets: Sequence[str] | str | None = None
    tokenizer_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int):
            raise TypeError(f"top_k: expected an integer, got {self.top_k!r}")
        if self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {self.top_k}")
        targets = self.targets
        if targets is not None and not (
            isinstance(targets, str | list | tuple) and all(isinstance(target, str) for target in targets)
        ):
            raise TypeError(f"targets: expected strings, got {targets!r:.60}")


class FillMaskPipeline(Pipeline[FillMaskOptions]):
    """Propose words for masks.

    Parameters
    ----------
    model : QDQBertForMaskedLM
    tokenizer : BertTokenizerFast
        With a mask token.
    batch_size, progress
        As in every `Pipeline`.
    **options
        `FillMaskOptions`.

    Examples
    --------
    >>> fill = pipeline("fill-mask", folder)                                    # doctest: +SKIP
    >>> [word["token_str"] for word in fill("Paris is in [MASK].", top_k=2)]    # doctest: +SKIP
    ['france', 'europe']
    """

    task = "fill-mask"
    auto_class = "AutoModelForMaskedLM"
    options_class: ClassVar[type[Options]] = FillMaskOptions

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        if tokenizer.mask_token_id is None:
            raise PipelineException("tokenizer: fill-mask needs a mask_token, and there is none")
        super().__init__(model, tokenizer, **options)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Propose words for masks.

        Parameters
        ----------
        inputs : str, a list or an iterator of them
            Each with at least one mask token.
        **options
            For this call.

        Returns
        -------
        list of {"score": float, "token": int, "token_str": str, "sequence": str}
            For one text with one mask; with several masks a list of such lists, one for each; for a list or
            an iterator of several texts a list or an iterator of results.

        Raises
        ------
        PipelineException
            If a text has no mask.
        """
        results = super().__call__(inputs, **options)
        return results[0] if isinstance(inputs, list) and len(inputs) == 1 else results

    def _checked(self, options: FillMaskOptions) -> FillMaskOptions:
        if options.targets is not None:
            self._target_ids(options.targets)
        return options

    def _rows(self, item: Any, options: FillMaskOptions) -> list[Row]:
        if not isinstance(item, str):
            raise ValueError(f"inputs: expected a text, got {item!r:.60}")
        rows = self._encode(item, **(options.tokenizer_kwargs or {}))
        if not len(self._masks(rows[0])):
            raise PipelineException(f"inputs: no mask_token ({self.tokenizer.mask_token}) in {item!r:.60}")
        return rows

    def _masks(self, row: Row) -> npt.NDArray[np.int64]:
        return np.flatnonzero(row.input_ids == self.tokenizer.mask_token_id)

    def _forward(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        """Score the vocabulary at the masks alone, which are few of many tokens."""
        inputs = self._inputs(rows)
        length = inputs["input_ids"].shape[1]
        masks = [self._masks(row) for row in rows]
        positions = np.concatenate([row * length + places for row, places in enumerate(masks)])
        run = self.model._run(
            OUTPUT_LOGITS,
            **inputs,
            position_ids=None,
            head_mask=None,
            inputs_embeds=None,
            output_attentions=False,
            output_hidden_states=False,
            logits_positions=positions,
        )
        return np.split(run.logits, np.cumsum([len(places) for places in masks])[:-1])

    def _take(self, outputs: Any, index: int, row: Row, options: FillMaskOptions) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = outputs[index]
        return logits

    def _result(
        self,
        item: Any,
        rows: Sequence[Row],
        taken: Sequence[Any],
        options: FillMaskOptions,
        given: frozenset[str],
    ) -> Any:
        masks, probabilities = self._masks(rows[0]), softmax(taken[0])
        candidates = np.arange(probabilities.shape[1])
        if options.targets is not None:
            candidates = self._target_ids(options.targets, warn=False)
        is_single = len(masks) == 1
        results = []
        for place, scores in zip(masks, probabilities, strict=True):
            chosen = candidates[best(scores[candidates], options.top_k)]
            results.append(
                [self._proposal(rows[0], int(place), int(token), scores, is_single) for token in chosen]
            )
        return results[0] if is_single else results

    def _proposal(
        self, row: Row, place: int, token: int, scores: npt.NDArray[np.float32], is_single: bool
    ) -> dict[str, Any]:
        ids = row.input_ids.copy()
        ids[place] = token
        # The other masks are special tokens too, and a sequence without them would look whole.
        sequence = self.tokenizer.decode(
            ids[ids != self.tokenizer.pad_token_id], skip_special_tokens=is_single
        )
        return {
            "score": float(scores[token]),
            "token": token,
            "token_str": self.tokenizer.decode([token]),
            "sequence": sequence,
        }

    def _target_ids(self, targets: Sequence[str] | str, warn: bool = True) -> npt.NDArray[np.int64]:
        vocabulary = self.tokenizer.get_vocab()
        ids: dict[int, None] = {}
        for target in [targets] if isinstance(targets, str) else targets:
            index = vocabulary.get(target)
            if index is None:
                pieces = self.tokenizer.encode(target, add_special_tokens=False, verbose=False)
                if warn:
                    _logger.warning(
                        "targets: %r is not in the vocabulary: %s",
                        target,
                        f"{self.tokenizer.convert_ids_to_tokens(pieces[0])!r} is scored instead"
                        if pieces
                        else "it is left out",
                    )
                if not pieces:
                    continue
                index = pieces[0]
            ids.setdefault(index)
        if not ids:
            raise ValueError(f"targets: expected at least one word of the vocabulary, got {targets!r:.60}")
        return np.array(list(ids), dtype=np.int64)

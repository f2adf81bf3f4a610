# SPDX-License-Identifier: Apache-2.0
"""What all pipelines share: options, inputs in their three forms, and batches.

An input becomes one or more rows, which a model computes: a text, the windows of a long one, a pair for each
label.  Rows of many inputs are sorted by length and grouped until a budget of tokens is used up; models do
not compute padding, so mixed lengths cost nothing.  Every row gives back the little that its result needs,
and results come in the order of the inputs.

A row's result does not depend on its batch mates, except where a quantizer has no range yet and takes it from
the tensor at hand.  Then rows are computed one by one unless a `batch_size` is asked for.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from qdqbert.errors import Error, ShapeError
from qdqbert.forward_passes import evaluating
from qdqbert.module import Module
from qdqbert.tasks.batching import MAX_BATCH_TOKENS, batch_inputs, by_length, chunks, progress_bar

if TYPE_CHECKING:
    from tokenizers import Encoding

    from qdqbert.tokenization import BatchEncoding, BertTokenizerFast

__all__ = ["Options", "Pipeline", "PipelineException", "Row", "has_dynamic_range"]

# Inputs in memory at a time: enough that sorting by length leaves almost no padding.
_WINDOW = 256


class PipelineException(Error, ValueError):
    """An input, or the tokenizer, lacks what a task needs; the name is transformers'."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """Options of a task; every task has its own."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One sequence that a model computes.

    Attributes
    ----------
    input_ids, token_type_ids, attention_mask : ndarray (T,) int64
    encoding : tokenizers.Encoding
        What they were made from.
    """

    input_ids: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    encoding: Encoding


_O = TypeVar("_O", bound=Options)


class Pipeline(ABC, Generic[_O]):
    """From inputs as users have them to results as users read them.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
        With the task's head.
    tokenizer : BertTokenizerFast
    batch_size : int, optional
        Most rows of one call of the model, >= 1.  If left out, as many as make calls large without padding,
        one by one where a quantizer takes its range from the tensor at hand, and one input at a time from a
        generator, which then gives each result as soon as its input is there.
    progress : bool, optional
        Whether to show a bar for lists; by default for long ones, on a terminal.
    **options
        Options of the task, for every call; a call's own come before them.

    Raises
    ------
    TypeError
        If the model has another head, or for an unknown option.
    ValueError
        If an option cannot be.
    """

    task: ClassVar[str]
    auto_class: ClassVar[str]
    options_class: ClassVar[type[Options]]

    options: _O

    def __init__(
        self,
        model: Any,
        tokenizer: BertTokenizerFast,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> None:
        self._require_head(model)
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size: int | None = _check_batch_size(batch_size)
        self.progress = progress
        self.given: frozenset[str] = frozenset(options)
        self._reject_unknown(options)
        self.options: _O = self._checked(cast(_O, self.options_class(**options)))

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> Any:
        """Run the task.

        Parameters
        ----------
        inputs : one input, a list of them, or an iterator
        batch_size, progress, **options
            For this call, before those of the pipeline.

        Returns
        -------
        result, list of results, or iterator of results
            As `inputs` came.
        """
        batch_size = self.batch_size if batch_size is None else _check_batch_size(batch_size)
        progress = self.progress if progress is None else progress
        given = self.given | frozenset(options)
        merged = self._merged(options)
        if isinstance(inputs, list):
            return list(self._run_list(inputs, merged, given, batch_size, progress))
        if isinstance(inputs, Iterator):
            return self._run_stream(inputs, merged, given, batch_size)
        return next(self._run_list([inputs], merged, given, batch_size, False))

    # ---- what a task defines -------------------------------------------------------------------------------

    @abstractmethod
    def _rows(self, item: Any, options: _O) -> Sequence[Row]:
        """Make the rows of an input."""

    @abstractmethod
    def _take(self, outputs: Any, index: int, row: Row, options: _O) -> Any:
        """Take from the outputs of a batch what the result of row `index` needs, as a copy."""

    @abstractmethod
    def _result(
        self, item: Any, rows: Sequence[Row], taken: Sequence[Any], options: _O, given: frozenset[str]
    ) -> Any:
        """Make the result of an input from what was taken of its rows."""

    def _checked(self, options: _O) -> _O:
        """Return options that fit the model and the tokenizer."""
        return options

    # ---- running -------------------------------------------------------------------------------------------

    def _run_list(
        self,
        items: Sequence[Any],
        options: _O,
        given: frozenset[str],
        batch_size: int | None,
        progress: bool | None,
    ) -> Iterator[Any]:
        show = False if progress is None and len(items) <= _WINDOW else progress
        advance = progress_bar(len(items), "input", self.task, show=show)
        try:
            for window in chunks(items, _WINDOW):
                yield from self._run_window(window, options, given, batch_size)
                advance(len(window))
        finally:
            advance(0)

    def _run_stream(
        self, items: Iterator[Any], options: _O, given: frozenset[str], batch_size: int | None
    ) -> Iterator[Any]:
        while window := list(islice(items, batch_size or 1)):
            yield from self._run_window(window, options, given, batch_size)

    def _run_window(
        self, items: Sequence[Any], options: _O, given: frozenset[str], batch_size: int | None
    ) -> Iterator[Any]:
        rows_of = [self._rows(item, options) for item in items]
        taken = iter(self._compute([row for rows in rows_of for row in rows], batch_size, options))
        for item, rows in zip(items, rows_of, strict=True):
            yield self._result(item, rows, list(islice(taken, len(rows))), options, given)

    def _compute(self, rows: Sequence[Row], batch_size: int | None, options: _O) -> list[Any]:
        """Run the model on rows, sorted by length, and return what was taken, in their order."""
        taken: list[Any] = [None] * len(rows)
        lengths = [len(row.input_ids) for row in rows]
        longest, room = max(lengths, default=0), int(self.model.config.max_position_embeddings)
        if longest > room:
            raise ShapeError(
                f"inputs: {longest} tokens in a sequence, the model has {room} positions{self._way_to_cut()}"
            )
        budget, most = MAX_BATCH_TOKENS, batch_size
        if batch_size is not None:
            budget = len(rows) * max(lengths, default=1)  # one group, which is cut by its rows
        elif has_dynamic_range(self.model):
            most = 1
        for group in by_length(lengths, max(budget, 1)):
            for part in chunks(group, most or len(group)):
                outputs = self._forward([rows[index] for index in part])
                for i, index in enumerate(part):
                    taken[index] = self._take(outputs, i, rows[index], options)
        return taken

    def _forward(self, rows: Sequence[Row]) -> Any:
        """Run the model on a batch."""
        with evaluating(self.model):
            return self.model(**self._inputs(rows), return_dict=True)

    def _inputs(self, rows: Sequence[Row]) -> dict[str, npt.NDArray[np.int64]]:
        inputs = batch_inputs(
            [row.input_ids for row in rows],
            [row.token_type_ids for row in rows],
            self.tokenizer.pad_token_id or 0,
        )
        for index, row in enumerate(rows):
            inputs["attention_mask"][index, : len(row.attention_mask)] = row.attention_mask
        return inputs

    # ---- tools of the tasks --------------------------------------------------------------------------------

    @property
    def max_length(self) -> int:
        """Most tokens of a row: the tokenizer's limit, or the model's if that is less."""
        return min(self.tokenizer.model_max_length, int(self.model.config.max_position_embeddings))

    def _encode(self, text: str, text_pair: str | None = None, **options: Any) -> list[Row]:
        """Encode a text or a pair; overflow, if asked for, makes further rows."""
        options = {"truncation": False, **options}
        if options.get("max_length") is None and options["truncation"] not in (False, None):
            options["max_length"] = self.max_length
        options.update(return_token_type_ids=True, return_attention_mask=True, verbose=False)
        return rows_of(self.tokenizer([text], None if text_pair is None else [text_pair], **options))

    def _way_to_cut(self) -> str:
        """Say by which option a text is cut, if there is one."""
        known = {field.name for field in dataclasses.fields(self.options_class)}
        if "truncation" in known:
            return "; truncation=True cuts it"
        named = sorted(name for name in known if name in ("tokenize_kwargs", "tokenizer_kwargs"))
        return f"; {named[0]}={{'truncation': True}} cuts it" if named else ""

    def _label(self, index: int) -> str:
        return str(self.model.config.id2label[index])

    def _merged(self, options: Mapping[str, Any]) -> _O:
        self._reject_unknown(options)
        return self._checked(dataclasses.replace(self.options, **options)) if options else self.options

    def _reject_unknown(self, options: Mapping[str, Any]) -> None:
        known = {field.name for field in dataclasses.fields(self.options_class)}
        unknown = [name for name in options if name not in known]
        if unknown:
            raise TypeError(
                f"{self.task}: unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}, "
                "batch_size, progress"
            )

    def _require_head(self, model: Any) -> None:
        from qdqbert.auto import MODEL_CLASSES

        needed = MODEL_CLASSES[self.auto_class]
        if needed not in (kind.__name__ for kind in type(model).__mro__):
            raise TypeError(f"model: {self.task} needs a {needed}, got {type(model).__name__}")

    def __repr__(self) -> str:
        options = ", ".join(
            f"{field.name}={getattr(self.options, field.name)!r}"
            for field in dataclasses.fields(self.options)
        )
        return f"{type(self).__name__}(model={type(self.model).__name__}, {options})"


def rows_of(batch: BatchEncoding) -> list[Row]:
    """Rows of a batch that was encoded without arrays.

    Parameters
    ----------
    batch : BatchEncoding
        With token types and mask.

    Returns
    -------
    list of Row
    """
    encodings = batch.encodings or []
    columns: Iterable[tuple[Any, ...]] = zip(
        batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], strict=True
    )
    arrays = ([np.array(column, dtype=np.int64) for column in row] for row in columns)
    return [
        Row(ids, types, mask, encoding)
        for (ids, types, mask), encoding in zip(arrays, encodings, strict=True)
    ]


def _check_batch_size(batch_size: int | None) -> int | None:
    if batch_size is None:
        return None
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"batch_size: expected an integer, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    return batch_size


def has_dynamic_range(model: Any) -> bool:
    """Whether a quantizer of activations takes its range from the tensor at hand.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
    """
    from qdqbert._core import STAGE_DISABLED, STAGE_QUANT
    from qdqbert.rules import named_quantizers

    return isinstance(model, Module) and any(
        quantizer.amax is None
        and not quantizer._learn_amax  # its bounds are the range
        and quantizer._handle.stages & (STAGE_DISABLED | STAGE_QUANT) == STAGE_QUANT
        and not name.endswith("_weight_quantizer")
        for name, quantizer in named_quantizers(model)
    )

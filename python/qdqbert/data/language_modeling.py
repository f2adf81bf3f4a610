# SPDX-License-Identifier: Apache-2.0
"""Plain text for language models: blocks of wordpieces, from memory or as a stream.

Files are read line by line, lines are encoded many at a time, and their wordpieces follow each other without
separators, as in the evaluation.  A block is what an input has room for; blocks may be told not to go over
the end of a document, which a blank line marks, or of a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.data.feature_table import FeatureTable
from qdqbert.data.masking import DataCollatorForLanguageModeling
from qdqbert.data.training_data import Limits, TrainingData, full_tokenizer
from qdqbert.tasks.causal_lm import CausalLM, require_decoder
from qdqbert.tasks.corpus import encoded_lines
from qdqbert.tasks.encoding import bare_tokenizer
from qdqbert.tasks.masked_lm import MaskedLM
from qdqbert.tasks.rows import iterate_lines
from qdqbert.tasks.task import longest_input
from qdqbert.tokenization import special_token_id

__all__ = ["BOUNDARIES", "TextStream", "read_causal_lm", "read_masked_lm"]

BOUNDARIES = ("file", "document", "line")

_PER_TOKEN = ("input_ids", "token_type_ids", "special_tokens_mask")


class TextStream:
    """Blocks of text, read anew each time they are iterated over.

    Parameters
    ----------
    files : list of Path
        UTF-8 text.
    tokenizer : tokenizers.Tokenizer
    max_length : int
        Wordpieces of a block, special tokens included; >= 4.
    boundary : {"file", "document", "line"}
        What no block goes over the end of.
    is_causal : bool
        ``[CLS] w1 w2 ...``, else ``[CLS] w1 w2 ... [SEP]``.
    limit : int, optional
        Most blocks.

    Raises
    ------
    CheckpointError
        If the vocabulary lacks a special token.
    """

    def __init__(
        self,
        files: list[Path],
        tokenizer: Any,
        max_length: int,
        boundary: str = "file",
        *,
        is_causal: bool = False,
        limit: int | None = None,
    ) -> None:
        self._files, self._tokenizer, self._boundary, self._limit = files, tokenizer, boundary, limit
        self._head = np.array([special_token_id(tokenizer, "[CLS]")], dtype=np.int64)
        tail = [] if is_causal else [special_token_id(tokenizer, "[SEP]")]
        self._tail = np.array(tail, dtype=np.int64)
        self._room = max_length - 1 - len(tail)

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
        """Blocks, in the order of the files.

        Yields
        ------
        dict of ndarray (T,) int64
            ``input_ids``, ``token_type_ids``, ``special_tokens_mask``.

        Raises
        ------
        DataError
            If a file is missing, not UTF-8 or without text.
        """
        blocks = (block for file in self._files for block in self._blocks(file))
        for block in islice(blocks, self._limit):
            ids = np.concatenate([self._head, block, self._tail], dtype=np.int64)
            special = np.ones(len(ids), dtype=np.int64)
            special[1 : 1 + len(block)] = 0
            yield {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "special_tokens_mask": special}

    def _blocks(self, file: Path) -> Iterator[npt.NDArray[np.int32]]:
        waiting: list[npt.NDArray[np.int32]] = []
        count = 0
        for line in encoded_lines(file, self._tokenizer):
            if line is not None:
                waiting.append(line.pieces)
                count += len(line.pieces)
            is_end = self._boundary == "line" or (self._boundary == "document" and line is None)
            if count < self._room and not (is_end and count):
                continue
            pieces = np.concatenate(waiting)
            whole = count - count % self._room
            for start in range(0, whole, self._room):
                yield pieces[start : start + self._room]
            waiting, count = [pieces[whole:]], count - whole
            if is_end and count:
                yield waiting[0]
                waiting, count = [], 0
        if count:
            yield np.concatenate(waiting)


def read_masked_lm(
    files: list[Path],
    tokenizer: Any,
    config: Any,
    limits: Limits,
    *,
    whole_words: bool = False,
    mask_probability: float = 0.15,
    boundary: str = "file",
    streaming: bool = False,
) -> TrainingData:
    """Read text for masked language modelling.

    Parameters
    ----------
    files : list of Path
        UTF-8 text.
    tokenizer : BertTokenizerFast or tokenizers.Tokenizer
    config : QDQBertConfig
    limits : Limits
    whole_words : bool
        Whether the wordpieces of a word are hidden together.
    mask_probability : float
        Share of the wordpieces that are chosen, in (0, 1].
    boundary : {"file", "document", "line"}
        What no block goes over the end of; a blank line ends a document.
    streaming : bool
        Whether files are read again in every epoch, in place of being kept in memory at six bytes a
        wordpiece.

    Returns
    -------
    TrainingData
        What is hidden is drawn by the collator, anew in every epoch.

    Raises
    ------
    DataError
        If a file is missing, not UTF-8 or without text; of a stream the latter two when it is read.
    ValueError
        If an option is out of its range.
    """
    longest = longest_input(limits.max_seq_length, config)
    collate = DataCollatorForLanguageModeling(
        full_tokenizer(tokenizer),
        mlm_probability=mask_probability,
        pad_to_multiple_of=longest if limits.pad_to_max_length else None,
        whole_word=whole_words,
    )
    stream = TextStream(
        files, bare_tokenizer(tokenizer), longest, _boundary(boundary), limit=limits.max_train_samples
    )
    return _data(MaskedLM, files, stream, collate, streaming)


def read_causal_lm(
    files: list[Path],
    tokenizer: Any,
    config: Any,
    limits: Limits,
    *,
    boundary: str = "file",
    streaming: bool = False,
) -> TrainingData:
    """Read text for causal language modelling.

    Parameters
    ----------
    files, tokenizer, limits, boundary, streaming
        As in `read_masked_lm`, errors too.
    config : QDQBertConfig
        With `is_decoder`.

    Returns
    -------
    TrainingData
        Items without labels: the collator's are the ids, which the head shifts.
    """
    longest = longest_input(limits.max_seq_length, config)
    require_decoder(config)
    multiple = longest if limits.pad_to_max_length else None
    collate = DataCollatorForLanguageModeling(
        full_tokenizer(tokenizer), mlm=False, pad_to_multiple_of=multiple
    )
    stream = TextStream(
        files,
        bare_tokenizer(tokenizer),
        longest,
        _boundary(boundary),
        is_causal=True,
        limit=limits.max_train_samples,
    )
    return _data(CausalLM, files, stream, collate, streaming)


def _boundary(boundary: str) -> str:
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary: expected one of {', '.join(BOUNDARIES)}, got {boundary!r}")
    return boundary


def _data(
    task: type[MaskedLM] | type[CausalLM],
    files: list[Path],
    stream: TextStream,
    collate: DataCollatorForLanguageModeling,
    streaming: bool,
) -> TrainingData:
    if not streaming:
        table = FeatureTable.of(stream, per_token=_PER_TOKEN)
        return TrainingData(task.name, task.model_class, table, collate, len(table))
    for file in files:  # so that a missing file is known now
        next(iterate_lines(file), None)
    return TrainingData(task.name, task.model_class, stream, collate, None)

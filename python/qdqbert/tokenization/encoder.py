# SPDX-License-Identifier: Apache-2.0
"""`Encoder`: the call of a tokenizer, from texts to what a model takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qdqbert.errors import UnsupportedError
from qdqbert.tokenization.batch_encoding import BatchEncoding
from qdqbert.tokenization.library import Sides, columns_of, gather_texts, run
from qdqbert.tokenization.padding import Filling, pad_batch
from qdqbert.tokenization.strategies import (
    NO_LIMIT,
    EncodeOptions,
    PaddingStrategy,
    TruncationStrategy,
    plan_of,
)
from qdqbert.tokenization.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Encoder"]

_logger = logging.getLogger(__name__)

_SIDES = ("right", "left")
_INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")


class Encoder(Vocabulary):
    """A vocabulary that encodes.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
    model_max_length : int, optional
        Most tokens that the model takes; unlimited if left out.
    padding_side, truncation_side : {"right", "left"}
    model_input_names : sequence of str, optional
        What a call returns unless told otherwise.
    **kwargs
        As in `Vocabulary`.
    """

    model_max_length: int
    model_input_names: list[str]

    def __init__(
        self,
        backend: Tokenizer,
        *,
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        model_input_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backend, **kwargs)
        self.deprecation_warnings: dict[str, bool] = {}
        self.model_max_length = NO_LIMIT if model_max_length is None else _length(model_max_length)
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.model_input_names = list(model_input_names or _INPUT_NAMES)

    @property
    def padding_side(self) -> str:
        """Where padding goes: ``"right"`` or ``"left"``."""
        return self._padding_side

    @padding_side.setter
    def padding_side(self, value: str) -> None:
        self._padding_side = _side("padding_side", value)

    @property
    def truncation_side(self) -> str:
        """Which end of a long text is cut off: ``"right"`` or ``"left"``."""
        return self._truncation_side

    @truncation_side.setter
    def truncation_side(self, value: str) -> None:
        self._truncation_side = _side("truncation_side", value)

    # ---- texts to ids --------------------------------------------------------------------------------------

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool | str | TruncationStrategy | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Encode a text, a pair, or a batch of either.

        Parameters
        ----------
        text : str, list of str, or list of list of str
            A list of strings is a batch, or with `is_split_into_words` one text as words.
        text_pair : as `text`, optional
            Second texts.  An empty one beside a single text counts as none.
        text_target, text_pair_target : None
            Of sequence-to-sequence models; refused.
        add_special_tokens : bool
            ``[CLS] text [SEP]`` and ``[CLS] text [SEP] text_pair [SEP]``.
        padding : {False, True, "longest", "max_length", "do_not_pad"}
            True: to the longest of the batch.
        truncation : {None, False, True, "longest_first", "only_first", "only_second", "do_not_truncate"}
            Which text is cut where a row exceeds `max_length`; True is ``"longest_first"``.  None with a
            `max_length` and no padding is True, with a warning.
        max_length : int, optional
            Most tokens of a row, special ones included; `model_max_length` if left out and needed.
        stride : int
            Tokens that a row shares with the one before it, with `return_overflowing_tokens`.
        is_split_into_words : bool
            Whether texts are lists of words.
        pad_to_multiple_of : int, optional
            Padded lengths are rounded up to it.
        return_tensors : {None, "np"}
            Lists, or int64 arrays; rows of different lengths make an array of objects.
        return_token_type_ids, return_attention_mask : bool, optional
            By `model_input_names` if left out.
        return_overflowing_tokens : bool
            What is cut off comes as further rows; ``overflow_to_sample_mapping`` tells whose they are.
        return_special_tokens_mask, return_offsets_mapping, return_length : bool
            Add ``special_tokens_mask`` (1 at special tokens), ``offset_mapping`` ((start, end) characters of
            each token, (0, 0) for special ones), ``length``.
        verbose : bool
            Whether doubtful combinations are warned of.
        **kwargs
            The deprecated ``pad_to_max_length`` and ``truncation_strategy``.

        Returns
        -------
        BatchEncoding

        Raises
        ------
        TypeError, ValueError
            If an argument cannot be; it is named.
        UnsupportedError
            For targets and for tensors of other packages.

        Examples
        --------
        >>> tokenizer("who", "a long text", truncation="only_second", max_length=5)      # doctest: +SKIP
        """
        if text_target is not None or text_pair_target is not None:
            raise UnsupportedError(
                "text_target: BERT has no target texts; encode them by a call of their own"
            )
        if text is None:
            raise ValueError("text: expected a text or a batch of texts, got None")
        options = EncodeOptions.of(
            {
                "add_special_tokens": add_special_tokens,
                "padding": padding,
                "truncation": truncation,
                "max_length": max_length,
                "stride": stride,
                "is_split_into_words": is_split_into_words,
                "pad_to_multiple_of": pad_to_multiple_of,
                "return_tensors": return_tensors,
                "return_token_type_ids": return_token_type_ids,
                "return_attention_mask": return_attention_mask,
                "return_overflowing_tokens": return_overflowing_tokens,
                "return_special_tokens_mask": return_special_tokens_mask,
                "return_offsets_mapping": return_offsets_mapping,
                "return_length": return_length,
                "verbose": verbose,
                **kwargs,
            }
        )
        batch, is_batch = gather_texts(text, text_pair, is_split_into_words)
        return self._encode(batch, options) if is_batch else self._encode_one(batch[0], options)

    def encode_plus(
        self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any
    ) -> BatchEncoding:
        """Encode one text or pair; deprecated in transformers in favour of a call.

        Parameters
        ----------
        text, text_pair : str, or list of str with ``is_split_into_words=True``
        add_special_tokens, **options
            As in a call.
        """
        item = (text, text_pair) if text_pair else text
        return self._encode_one(item, EncodeOptions.of({"add_special_tokens": add_special_tokens, **options}))

    def batch_encode_plus(
        self, batch_text_or_text_pairs: Any, add_special_tokens: bool = True, **options: Any
    ) -> BatchEncoding:
        """Encode texts, or pairs as tuples; deprecated in transformers in favour of a call.

        Parameters
        ----------
        batch_text_or_text_pairs : list of text or (text, text_pair)
        add_special_tokens, **options
            As in a call.
        """
        if not isinstance(batch_text_or_text_pairs, list | tuple):
            raise TypeError(
                f"batch_text_or_text_pairs: expected a list or a tuple, got {batch_text_or_text_pairs!r:.60}"
            )
        return self._encode(
            list(batch_text_or_text_pairs),
            EncodeOptions.of({"add_special_tokens": add_special_tokens, **options}),
        )

    def encode(
        self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any
    ) -> Any:
        """Return the ids of one text or pair.

        Parameters
        ----------
        text, text_pair, add_special_tokens, **options
            As in a call.
        """
        return self.encode_plus(text, text_pair, add_special_tokens, **options)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """Return the tokens of one text or pair.

        Parameters
        ----------
        text : str
        pair : str, optional
        add_special_tokens : bool
        **options
            As in a call.
        """
        return self.encode_plus(text, pair, add_special_tokens, **options).tokens()

    def _encode_one(self, item: Any, options: EncodeOptions) -> BatchEncoding:
        """Encode an item; without arrays and overflow the result has no batch axis."""
        batch = self._encode([item], options)
        if options.return_tensors is not None or options.return_overflowing_tokens:
            return batch
        row = {
            key: value[0] if value and isinstance(value[0], list) else value for key, value in batch.items()
        }
        return BatchEncoding(row, batch.encodings)

    def _encode(self, batch: list[Any], options: EncodeOptions) -> BatchEncoding:
        plan = plan_of(options, self.model_max_length, self._has_padding, self.deprecation_warnings)
        sides = Sides(
            self.truncation_side,
            self.padding_side,
            self.pad_token_id,
            self.pad_token,
            self.pad_token_type_id,
        )
        with self._lock:
            encodings = run(self._tokenizer, batch, options, plan, sides)
        columns, rows = columns_of(encodings, options, self.model_input_names)
        longest = max((len(ids) for ids in columns["input_ids"]), default=0)
        if plan.max_length is None and longest > self.model_max_length and options.verbose:
            key = "sequence-length-is-longer-than-the-specified-maximum"
            if not self.deprecation_warnings.get(key, False):
                _logger.warning(
                    "Token indices sequence length is longer than the specified maximum sequence length for "
                    "this model (%d > %d): the model will refuse it",
                    longest,
                    self.model_max_length,
                )
            self.deprecation_warnings[key] = True
        return BatchEncoding(columns, rows, options.return_tensors)

    @property
    def _has_padding(self) -> bool:
        return self.pad_token_id is not None

    # ---- ids: padding, special tokens ----------------------------------------------------------------------

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad encodings that were made one by one.

        Parameters
        ----------
        encoded_inputs : mapping, or list of mappings
            One encoding or a batch as columns, or a list of single ones, with ``input_ids``; it is not
            changed.  ``token_type_ids``, ``attention_mask`` and ``special_tokens_mask`` are padded, the rest
            is kept as it is.
        padding, max_length, pad_to_multiple_of, return_attention_mask, verbose
            As in a call.
        return_tensors : {None, "np"}
            Lists for lists and arrays for arrays if left out.

        Returns
        -------
        BatchEncoding

        Raises
        ------
        ValueError
            If there are no ``input_ids``, or columns differ in their number of rows.
        """
        options = EncodeOptions(
            padding=padding,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            return_tensors=return_tensors,
            verbose=verbose,
        )
        plan = plan_of(options, self.model_max_length, self._has_padding, self.deprecation_warnings)
        filling = Filling(self.padding_side, self.pad_token_id or 0, self.pad_token_type_id)
        with_mask = return_attention_mask
        if with_mask is None:
            with_mask = "attention_mask" in self.model_input_names
        data, came_as_arrays = pad_batch(encoded_inputs, plan, pad_to_multiple_of, filling, with_mask)
        return BatchEncoding(data, tensor_type="np" if came_as_arrays else return_tensors)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens stand around a text, or a pair.

        Parameters
        ----------
        pair : bool
        """
        return int(self._tokenizer.num_special_tokens_to_add(pair))

    @property
    def max_len_single_sentence(self) -> int:
        """Most tokens of a text, without special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """Most tokens of both texts of a pair, without special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int | None]:
        """Return ``[CLS] a [SEP]`` or ``[CLS] a [SEP] b [SEP]`` as ids.

        Parameters
        ----------
        token_ids_0 : list of int
        token_ids_1 : list of int, optional
        """
        first = [self.cls_token_id, *token_ids_0, self.sep_token_id]
        return first if token_ids_1 is None else [*first, *token_ids_1, self.sep_token_id]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the token types of `build_inputs_with_special_tokens`: 0, and 1 from ``b`` on.

        Parameters
        ----------
        token_ids_0 : list of int
        token_ids_1 : list of int, optional
        """
        first = [0] * (len(token_ids_0) + 2)
        return first if token_ids_1 is None else first + [1] * (len(token_ids_1) + 1)

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for special tokens, 0 for others.

        Parameters
        ----------
        token_ids_0, token_ids_1 : list of int
            Without special tokens, which are put around them; or with `already_has_special_tokens` one row
            as it is.
        already_has_special_tokens : bool

        Raises
        ------
        ValueError
            If both are given with `already_has_special_tokens`.
        """
        if not already_has_special_tokens:
            special = [1, *[0] * len(token_ids_0), 1]
            return special if token_ids_1 is None else [*special, *[0] * len(token_ids_1), 1]
        if token_ids_1 is not None:
            raise ValueError("token_ids_1: a row that has its special tokens is one list, got two")
        ids = set(self.all_special_ids)
        return [int(index in ids) for index in token_ids_0]


def _side(argument: str, value: str) -> str:
    if value not in _SIDES:
        raise ValueError(f"{argument}: expected 'right' or 'left', got {value!r}")
    return value


def _length(value: Any) -> int:
    # Some files have 1e30, which is no integer in JSON.
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != value:
        raise TypeError(f"model_max_length: expected a positive integer, got {value!r}")
    return int(min(value, NO_LIMIT))

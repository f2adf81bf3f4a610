# SPDX-License-Identifier: Apache-2.0
"""One call of the library: texts and options in, encodings and their columns out.

Truncation and padding are settings of the library's object, so whoever calls `run` holds a lock.  What the
library says in its own words, or by a panic, leaves here as a ValueError that names the argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from qdqbert.tokenization.strategies import EncodeOptions, PaddingStrategy, Plan, TruncationStrategy

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["Sides", "columns_of", "gather_texts", "run"]


class Sides(NamedTuple):
    """Where a text is cut, and where and with what it is padded.

    Attributes
    ----------
    truncation, padding : {"left", "right"}
    pad_id : int or None
    pad_token : str or None
    pad_type_id : int
    """

    truncation: str
    padding: str
    pad_id: int | None
    pad_token: str | None
    pad_type_id: int


def gather_texts(text: Any, text_pair: Any, is_split_into_words: bool) -> tuple[list[Any], bool]:
    """Items of a batch, and whether it is one.

    Parameters
    ----------
    text : str, list of str, or list of list of str
    text_pair : as `text`, or None
    is_split_into_words : bool
        Whether a list of strings is one text.

    Returns
    -------
    (list of texts or (text, text_pair), bool)
        A list of one item if it is no batch.

    Raises
    ------
    ValueError
        If `text` or `text_pair` is neither a text nor a batch, or they differ in length.
    TypeError
        If `text` is a batch and `text_pair` is not.
    """
    for argument, value in (("text", text), ("text_pair", text_pair)):
        if not _may_be_text(value) and (argument == "text" or value is not None):
            raise ValueError(
                f"{argument}: expected a string, a list of strings (a batch, or with is_split_into_words the "
                f"words of one text) or a list of lists of strings (a batch of words), got {value!r:.60}"
            )
    is_list = isinstance(text, list | tuple)
    if is_split_into_words:
        is_list = is_list and len(text) > 0 and isinstance(text[0], list | tuple)
    if not is_list:
        return [(text, text_pair) if text_pair else text], False
    if text_pair is None:
        return list(text), True
    if isinstance(text_pair, str):
        raise TypeError(f"text_pair: expected a batch of {len(text)} texts as text, got one string")
    if len(text) != len(text_pair):
        raise ValueError(f"text_pair: expected {len(text)} texts as text, got {len(text_pair)}")
    return list(zip(text, text_pair, strict=True)), True


def run(
    tokenizer: Tokenizer, batch: Sequence[Any], options: EncodeOptions, plan: Plan, sides: Sides
) -> list[Encoding]:
    """Encode a batch.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Its truncation and padding are set.
    batch : sequence of text or (text, text_pair)
    options : EncodeOptions
    plan : Plan
        Made from `options`.
    sides : Sides

    Returns
    -------
    list of tokenizers.Encoding
        One for each item; what was cut off is inside.

    Raises
    ------
    TypeError
        If an item is no text; its index is named.
    ValueError
        If a text cannot be cut as asked, or holds half of a surrogate pair.
    """
    _set_truncation(tokenizer, batch, options, plan, sides)
    _set_padding(tokenizer, options, plan, sides)
    try:
        return list(
            tokenizer.encode_batch(
                batch,
                add_special_tokens=options.add_special_tokens,
                is_pretokenized=options.is_split_into_words,
            )
        )
    except TypeError as error:
        raise _type_error(batch, options.is_split_into_words) or error from error
    except BaseException as error:
        # A truncation that fails is a plain Exception, and a stride without room a panic, which is none.
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise ValueError(
                f"truncation={plan.truncation.value!r}, stride={options.stride}: {error}"
            ) from error
        raise


def columns_of(
    encodings: Sequence[Encoding], options: EncodeOptions, model_input_names: Sequence[str]
) -> tuple[dict[str, list[Any]], list[Encoding]]:
    """Columns of the result, and the encoding of each row.

    Parameters
    ----------
    encodings : sequence of tokenizers.Encoding
    options : EncodeOptions
        Which columns there are, and whether what was cut off makes rows.
    model_input_names : sequence of str
        What is returned unless `options` say otherwise.

    Returns
    -------
    (dict of str to list, list of tokenizers.Encoding)
    """
    rows, samples = [], []
    for sample, encoding in enumerate(encodings):
        parts = [encoding, *encoding.overflowing] if options.return_overflowing_tokens else [encoding]
        rows += parts
        samples += [sample] * len(parts)
    names = set(model_input_names)
    types, mask = options.return_token_type_ids, options.return_attention_mask
    columns: dict[str, list[Any]] = {"input_ids": [row.ids for row in rows]}
    if "token_type_ids" in names if types is None else types:
        columns["token_type_ids"] = [row.type_ids for row in rows]
    if "attention_mask" in names if mask is None else mask:
        columns["attention_mask"] = [row.attention_mask for row in rows]
    if options.return_special_tokens_mask:
        columns["special_tokens_mask"] = [row.special_tokens_mask for row in rows]
    if options.return_offsets_mapping:
        columns["offset_mapping"] = [row.offsets for row in rows]
    if options.return_length:
        columns["length"] = [len(row.ids) for row in rows]
    if options.return_overflowing_tokens:
        columns["overflow_to_sample_mapping"] = samples
    return columns, rows


def _set_truncation(
    tokenizer: Tokenizer, batch: Sequence[Any], options: EncodeOptions, plan: Plan, sides: Sides
) -> None:
    if plan.truncation is TruncationStrategy.DO_NOT_TRUNCATE:
        tokenizer.no_truncation()
        return
    assert plan.max_length is not None
    has_pair = any(_is_pair(item, options.is_split_into_words) for item in batch)
    special = tokenizer.num_special_tokens_to_add(has_pair) if options.add_special_tokens else 0
    if plan.max_length < special:
        raise ValueError(f"max_length: {plan.max_length} leaves no room for {special} special tokens")
    if 0 < options.stride >= plan.max_length - special:
        raise ValueError(
            f"stride: expected less than the {plan.max_length - special} tokens that max_length leaves a "
            f"text, got {options.stride}"
        )
    tokenizer.enable_truncation(
        max_length=plan.max_length,
        stride=options.stride,
        strategy=plan.truncation.value,
        direction=sides.truncation,
    )


def _set_padding(tokenizer: Tokenizer, options: EncodeOptions, plan: Plan, sides: Sides) -> None:
    if plan.padding is PaddingStrategy.DO_NOT_PAD:
        tokenizer.no_padding()
        return
    assert sides.pad_id is not None
    assert sides.pad_token is not None
    tokenizer.enable_padding(
        length=plan.max_length if plan.padding is PaddingStrategy.MAX_LENGTH else None,
        direction=sides.padding,
        pad_id=sides.pad_id,
        pad_token=sides.pad_token,
        pad_type_id=sides.pad_type_id,
        pad_to_multiple_of=options.pad_to_multiple_of,
    )


def _may_be_text(value: Any) -> bool:
    """Whether the first element of nested lists, if there is one, is a string."""
    for _ in range(3):
        if isinstance(value, str):
            return True
        if not isinstance(value, list | tuple):
            return False
        if not value:
            return True
        value = value[0]
    return False


def _is_pair(item: Any, is_split_into_words: bool) -> bool:
    if isinstance(item, str) or not isinstance(item, list | tuple) or len(item) != 2:
        return False
    return not is_split_into_words or not isinstance(item[0], str)


def _type_error(batch: Sequence[Any], is_split_into_words: bool) -> Exception | None:
    """Say what is wrong with the first item that is no text."""
    for index, item in enumerate(batch):
        is_pair = _is_pair(item, is_split_into_words)
        for name, text in zip(("text", "text_pair"), item if is_pair else (item,), strict=False):
            words = text if is_split_into_words and isinstance(text, list | tuple) else [text]
            is_right = isinstance(text, list | tuple) if is_split_into_words else isinstance(text, str)
            if not is_right or not all(isinstance(word, str) for word in words):
                expected = "a list of strings" if is_split_into_words else "a string"
                return TypeError(f"{name}[{index}]: expected {expected}, got {text!r:.60}")
            try:
                "".join(words).encode()
            except UnicodeEncodeError:
                return ValueError(
                    f"{name}[{index}]: holds half of a surrogate pair, which UTF-8 cannot spell"
                )
    return None

# SPDX-License-Identifier: Apache-2.0
"""What the arguments of a tokenizer call mean together: how to pad, how to cut, to which length.

The rules, their order and their warnings are transformers'.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self, TypeVar

from qdqbert.tokenization.batch_encoding import refuse_foreign_tensors

__all__ = ["EncodeOptions", "PaddingStrategy", "Plan", "TruncationStrategy", "plan_of"]

_logger = logging.getLogger(__name__)

# A tokenizer that knows no longest text says 10^30; anything near it is no length to pad to.
NO_LIMIT = int(1e30)
_LARGE = int(1e20)


class PaddingStrategy(StrEnum):
    """How far short texts are padded."""

    LONGEST = "longest"
    MAX_LENGTH = "max_length"
    DO_NOT_PAD = "do_not_pad"


class TruncationStrategy(StrEnum):
    """Which text of a pair is cut."""

    ONLY_FIRST = "only_first"
    ONLY_SECOND = "only_second"
    LONGEST_FIRST = "longest_first"
    DO_NOT_TRUNCATE = "do_not_truncate"


@dataclasses.dataclass(frozen=True, slots=True)
class EncodeOptions:
    """The options of a tokenizer call; `BertTokenizerFast.__call__` describes them.

    Attributes
    ----------
    add_special_tokens, padding, truncation, max_length, stride, is_split_into_words, pad_to_multiple_of
    return_tensors, return_token_type_ids, return_attention_mask, return_overflowing_tokens
    return_special_tokens_mask, return_offsets_mapping, return_length, verbose
    pad_to_max_length, truncation_strategy
        Older forms of `padding` and `truncation`.
    """

    add_special_tokens: bool = True
    padding: bool | str | PaddingStrategy = False
    truncation: bool | str | TruncationStrategy | None = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True
    pad_to_max_length: bool = False
    truncation_strategy: str | TruncationStrategy = "do_not_truncate"

    def __post_init__(self) -> None:
        refuse_foreign_tensors("return_tensors", self.return_tensors)
        _check_count("stride", self.stride, 0)
        if self.max_length is not None:
            _check_count("max_length", self.max_length, 0)
        if self.pad_to_multiple_of is not None:
            _check_count("pad_to_multiple_of", self.pad_to_multiple_of, 1)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Take keyword arguments.

        Parameters
        ----------
        options : mapping of str to object

        Raises
        ------
        TypeError
            For an unknown one.
        ValueError, UnsupportedError
            For a value that cannot be.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = [name for name in options if name not in known]
        if unknown:
            raise TypeError(
                f"unexpected keyword argument {unknown[0]!r}; known are {', '.join(sorted(known))}"
            )
        return cls(**options)


class Plan(NamedTuple):
    """What is done to texts.

    Attributes
    ----------
    padding : PaddingStrategy
    truncation : TruncationStrategy
    max_length : int or None
        Tokens of a row, special ones included; None if nothing needs it.
    """

    padding: PaddingStrategy
    truncation: TruncationStrategy
    max_length: int | None


def plan_of(options: EncodeOptions, model_max_length: int, has_padding: bool, said: dict[str, bool]) -> Plan:
    """Resolve the options of a call.

    Parameters
    ----------
    options : EncodeOptions
    model_max_length : int
        The tokenizer's.
    has_padding : bool
        Whether there is a padding token.
    said : dict of str to bool
        Warnings that were given before and are not repeated; new ones are entered.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If a strategy is unknown, there is no padding token, or cutting would leave a length that is no
        multiple of `pad_to_multiple_of`.
    """
    truncation, max_length = options.truncation, options.max_length
    if max_length is not None and options.padding is False and truncation is None:
        _warn_once(
            options,
            said,
            "Truncation-not-explicitly-activated",
            "max_length is given and truncation is not: texts are cut as with truncation='longest_first'; "
            "truncation=True says so explicitly",
        )
        truncation = TruncationStrategy.LONGEST_FIRST
    padding = _padding(options)
    cut = _truncation(options, truncation)
    if max_length is None:
        is_unlimited = model_max_length > _LARGE
        if padding is PaddingStrategy.MAX_LENGTH:
            if is_unlimited:
                _warn_once(
                    options,
                    said,
                    "Asking-to-pad-to-max_length",
                    "padding to max_length, but neither call nor tokenizer has one: nothing is padded",
                )
                padding = PaddingStrategy.DO_NOT_PAD
            else:
                max_length = model_max_length
        if cut is not TruncationStrategy.DO_NOT_TRUNCATE:
            if is_unlimited:
                _warn_once(
                    options,
                    said,
                    "Asking-to-truncate-to-max_length",
                    "truncation to max_length, but neither call nor tokenizer has one: nothing is cut",
                )
                cut = TruncationStrategy.DO_NOT_TRUNCATE
            else:
                max_length = model_max_length
    pads = padding is not PaddingStrategy.DO_NOT_PAD
    if pads and not has_padding:
        raise ValueError(
            "padding: the tokenizer has no padding token; set pad_token, or add one with "
            "add_special_tokens({'pad_token': '[PAD]'})"
        )
    multiple = options.pad_to_multiple_of
    cuts = cut is not TruncationStrategy.DO_NOT_TRUNCATE
    if cuts and pads and multiple is not None and max_length is not None and max_length % multiple:
        raise ValueError(
            f"pad_to_multiple_of: texts are cut at {max_length} tokens, which is no multiple of {multiple}"
        )
    return Plan(padding, cut, max_length)


def _padding(options: EncodeOptions) -> PaddingStrategy:
    if options.padding is False and options.pad_to_max_length:
        _warn(
            options,
            "pad_to_max_length is deprecated: padding=True pads to the longest text, padding='max_length' to "
            "max_length",
            FutureWarning,
        )
        return PaddingStrategy.LONGEST if options.max_length is None else PaddingStrategy.MAX_LENGTH
    if options.padding is False:
        return PaddingStrategy.DO_NOT_PAD
    if options.padding is True:
        if options.max_length is not None and options.truncation in (None, False, "do_not_truncate"):
            _warn(
                options,
                "max_length is ignored when padding=True and nothing is cut: padding='max_length' pads to it",
            )
        if options.pad_to_max_length:
            _warn(options, "pad_to_max_length=True is ignored because padding=True")
        return PaddingStrategy.LONGEST
    return _member("padding", PaddingStrategy, options.padding)


def _truncation(
    options: EncodeOptions, truncation: bool | str | TruncationStrategy | None
) -> TruncationStrategy:
    if truncation is None and options.truncation_strategy != "do_not_truncate":
        _warn(
            options,
            "truncation_strategy is deprecated: truncation=True cuts the longer text first, "
            "truncation='only_first' or 'only_second' cuts that one",
            FutureWarning,
        )
        return _member("truncation_strategy", TruncationStrategy, options.truncation_strategy)
    if truncation is None or truncation is False:
        return TruncationStrategy.DO_NOT_TRUNCATE
    if truncation is True:
        return TruncationStrategy.LONGEST_FIRST
    return _member("truncation", TruncationStrategy, truncation)


_Strategy = TypeVar("_Strategy", PaddingStrategy, TruncationStrategy)


def _member(argument: str, strategies: type[_Strategy], value: Any) -> _Strategy:
    try:
        return strategies(value)
    except ValueError:
        names = ", ".join(repr(strategy.value) for strategy in strategies)
        raise ValueError(f"{argument}: expected True, False or one of {names}, got {value!r}") from None


def _check_count(argument: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{argument}: expected an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{argument}: expected at least {least}, got {value}")


def _warn(options: EncodeOptions, sentence: str, category: type[Warning] = UserWarning) -> None:
    if options.verbose:
        warnings.warn(sentence, category, stacklevel=7)


def _warn_once(options: EncodeOptions, said: dict[str, bool], key: str, sentence: str) -> None:
    if options.verbose and not said.get(key, False):
        _logger.warning(sentence)
    said[key] = True

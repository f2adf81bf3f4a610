# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: BERT's, with the interface of transformers', over the `tokenizers` library.

`BertTokenizerFast` is what users call; `load_tokenizer` gives the bare `tokenizers.Tokenizer` behind one,
which is what the tasks of this package work with.  The library itself is imported when the first is made.
"""

from qdqbert.tokenization.backend import load_tokenizer, special_token_id
from qdqbert.tokenization.batch_encoding import BatchEncoding, CharSpan, TokenSpan
from qdqbert.tokenization.bert import BertTokenizer, BertTokenizerFast
from qdqbert.tokenization.strategies import PaddingStrategy, TruncationStrategy

__all__ = [
    "BatchEncoding",
    "BertTokenizer",
    "BertTokenizerFast",
    "CharSpan",
    "PaddingStrategy",
    "TokenSpan",
    "TruncationStrategy",
    "load_tokenizer",
    "special_token_id",
]

# SPDX-License-Identifier: Apache-2.0
"""Causal language modelling, as on wikitext-2: perplexity of a wordpiece.

The corpus is one stream of wordpieces, cut into windows.  A window is read as ``[CLS] w1 w2 ...``, and every
wordpiece is predicted from those before it; so the first one of a window is predicted from [CLS] alone.  With
a stride smaller than a window, windows overlap, and only the wordpieces that no earlier window has predicted
count: a better, slower estimate of what the model knows.  Perplexities of different vocabularies do not
compare.

Windows are what the bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.tasks.corpus import Corpus, read_corpus
from qdqbert.tasks.encoding import EncodedText, bare_tokenizer, padded
from qdqbert.tasks.metrics import Perplexity, Ratio
from qdqbert.tasks.task import FeatureTask, Figure, Inputs, Scored, as_paths, longest_input
from qdqbert.tasks.token_losses import token_losses, vocabulary_logits
from qdqbert.tokenization import special_token_id

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["CausalLM", "CausalWindow", "require_decoder"]


@dataclass(frozen=True, slots=True)
class CausalWindow:
    """A part of the corpus.

    Attributes
    ----------
    text : EncodedText
        [CLS] and the wordpieces but the last.
    targets : ndarray (T,) int64
        The wordpieces, one after each token of `text`.
    first : int
        Place of the first target that counts.
    """

    text: EncodedText
    targets: npt.NDArray[np.int64]
    first: int


class CausalLM(FeatureTask[CausalWindow, npt.NDArray[np.float64]]):
    """Windows of a corpus, for a causal language model.

    Parameters
    ----------
    corpus : Corpus
    tokenizer : tokenizers.Tokenizer
    vocab_size : int
        Of the model.
    max_length : int
        Wordpieces of a window; >= 4.
    stride : int
        Wordpieces from one window to the next; 1 .. `max_length`.
    windows : sequence of int, optional
        Which windows; by default all.
    """

    name = "causal-lm"
    model_class = "QDQBertLMHeadModel"
    metric = "perplexity"
    higher_is_better = False
    item = "window"
    # The logits of a token are as many as the vocabulary: 62 MB.
    batch_tokens = 512

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        vocab_size: int,
        *,
        max_length: int,
        stride: int,
        windows: Sequence[int] | None = None,
    ) -> None:
        self._corpus, self._tokenizer, self._vocab_size = corpus, tokenizer, vocab_size
        self._max_length, self._stride = max_length, stride
        count = 1 + max(0, -(-(len(corpus.pieces) - max_length) // stride))
        self._windows: Sequence[int] = range(count) if windows is None else windows

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
        stride: int | None = None,
    ) -> Self:
        """Read text files.

        Parameters
        ----------
        paths : path or sequence of paths
            UTF-8 text.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
            With `is_decoder`: other models see what they should predict.
        max_length : int, optional
            Wordpieces of a window; 4 .. the model's positions, which is the default.
        stride : int, optional
            Wordpieces from one window to the next, 1 .. `max_length`, which is the default.

        Raises
        ------
        DataError
            If a file is missing, not UTF-8 or without text.
        ValueError
            If the configuration or an option does not fit.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config)
        step = longest if stride is None else stride
        if not 1 <= step <= longest:
            raise ValueError(f"stride: expected 1 .. {longest} (max_length), found {step}")
        require_decoder(config)
        corpus = read_corpus(as_paths(paths), tokenizer)
        return cls(corpus, tokenizer, config.vocab_size, max_length=longest, stride=step)

    def __len__(self) -> int:
        return len(self._windows)

    def _select(self, indices: Sequence[int]) -> Self:
        return type(self)(
            self._corpus,
            self._tokenizer,
            self._vocab_size,
            max_length=self._max_length,
            stride=self._stride,
            windows=[self._windows[index] for index in indices],
        )

    def _features(self, index: int) -> list[CausalWindow]:
        number = self._windows[index]
        begin = number * self._stride
        targets = self._corpus.pieces[begin : begin + self._max_length].astype(np.int64)
        ids = np.concatenate([[special_token_id(self._tokenizer, "[CLS]")], targets[:-1]])
        first = 0 if number == 0 else self._max_length - self._stride
        return [CausalWindow(EncodedText(ids, np.zeros_like(ids)), targets, first)]

    def _size(self, feature: CausalWindow) -> int:
        return len(feature.text)

    def _inputs(self, features: Sequence[CausalWindow]) -> Inputs:
        return padded([feature.text for feature in features], self._tokenizer)

    def _outputs(self, out: Any, features: Sequence[CausalWindow]) -> Sequence[npt.NDArray[np.float64]]:
        """Sum of losses, and number of targets, of each window."""
        longest = max(len(feature.text) for feature in features)
        logits = vocabulary_logits(out, (len(features), longest), self._vocab_size)
        results = []
        for row, feature in zip(logits, features, strict=True):
            part = slice(feature.first, len(feature.text))
            losses = token_losses(row[part], feature.targets[part])
            results.append(np.array([losses.sum(), losses.size]))
        return results

    def _figures(self, outputs: Sequence[Sequence[npt.NDArray[np.float64]]]) -> Scored:
        sums = np.stack([windows[0] for windows in outputs])
        figures = (
            Figure("perplexity", Perplexity(sums[:, 0], sums[:, 1]), 1.0, higher_is_better=False),
            Figure("loss", Ratio(sums[:, 0], sums[:, 1]), 1.0, higher_is_better=False),
        )
        return figures, {"wordpieces": int(sums[:, 1].sum())}, sums

    def _text(self, index: int) -> str:
        return str(self._tokenizer.decode(self._features(index)[0].targets.tolist()))

    def _expected(self, index: int) -> str:
        return ""

    def _answer(self, predictions: Any, index: int) -> str:
        loss, tokens = predictions[index]
        return f"perplexity {np.exp(loss / tokens):.1f}"


def require_decoder(config: Any) -> None:
    """Refuse a model that looks ahead.

    Parameters
    ----------
    config : QDQBertConfig

    Raises
    ------
    ValueError
        If its `is_decoder` is not set.
    """
    if not config.is_decoder:
        raise ValueError(
            "config.is_decoder: expected true, found false: the model would see the words that it should "
            "predict (masked-lm is the task of such models)"
        )

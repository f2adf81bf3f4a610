# SPDX-License-Identifier: Apache-2.0
"""Masked language modelling: accuracy and loss on wordpieces that were hidden.

The corpus is one stream of wordpieces, cut into windows ``[CLS] w1 w2 ... [SEP]``.  Of each window a share
(15 %) is chosen, as BERT was trained: of the chosen ones 80 % become [MASK], 10 % a random wordpiece, and
10 % stay, and all of them are predicted.  With whole words, the wordpieces of a word are chosen together.
Which ones depends on the seed and the window's number alone, so that every model, and every batch, is asked
the same.

References
----------
Devlin et al., 2019, "BERT", task 1 and appendix A.1; whole words: the README of google-research/bert, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from qdqbert.seeds import require_seed
from qdqbert.tasks.corpus import Corpus, read_corpus
from qdqbert.tasks.encoding import EncodedText, bare_tokenizer, padded
from qdqbert.tasks.metrics import Ratio
from qdqbert.tasks.task import FeatureTask, Figure, Inputs, Scored, as_paths, longest_input
from qdqbert.tasks.token_losses import token_losses, vocabulary_logits
from qdqbert.tokenization import special_token_id

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["MaskedLM", "MaskedWindow", "choose_pieces", "hide_pieces"]


@dataclass(frozen=True, slots=True)
class MaskedWindow:
    """A part of the corpus with wordpieces hidden.

    Attributes
    ----------
    text : EncodedText
    positions : ndarray (M,) int64
        Where in `text` the predicted wordpieces stand, ascending.
    targets : ndarray (M,) int64
        What stood there.
    """

    text: EncodedText
    positions: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


class MaskedLM(FeatureTask[MaskedWindow, npt.NDArray[np.float64]]):
    """Windows of a corpus with wordpieces hidden, for a masked language model.

    Parameters
    ----------
    corpus : Corpus
    tokenizer : tokenizers.Tokenizer
    vocab_size : int
        Of the model.
    max_length : int
        Wordpieces of an input, special tokens included; >= 4.
    whole_words : bool
    mask_probability : float
        Share of the wordpieces that are chosen, in (0, 1].
    seed : int
        >= 0.
    windows : sequence of int, optional
        Which windows; by default all.
    """

    name = "masked-lm"
    model_class = "QDQBertForMaskedLM"
    metric = "accuracy"
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
        whole_words: bool = False,
        mask_probability: float = 0.15,
        seed: int = 0,
        windows: Sequence[int] | None = None,
    ) -> None:
        self._corpus, self._tokenizer, self._vocab_size = corpus, tokenizer, vocab_size
        self._max_length, self._whole_words = max_length, whole_words
        require_seed("seed", seed)
        self._probability, self._seed = mask_probability, seed
        self._ids = [special_token_id(tokenizer, token) for token in ("[CLS]", "[SEP]", "[MASK]")]
        count = -(-len(corpus.pieces) // (max_length - 2))
        self._windows: Sequence[int] = range(count) if windows is None else windows

    @classmethod
    def read(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        tokenizer: Tokenizer,
        config: Any,
        *,
        max_length: int | None = None,
        whole_words: bool = False,
        mask_probability: float = 0.15,
        task_seed: int = 0,
    ) -> Self:
        """Read text files.

        Parameters
        ----------
        paths : path or sequence of paths
            UTF-8 text.
        tokenizer : tokenizers.Tokenizer
        config : QDQBertConfig
        max_length : int, optional
            Wordpieces of an input, special tokens included; 4 .. the model's positions, which is the default.
        whole_words : bool
            Whether the wordpieces of a word are chosen together.
        mask_probability : float
            Share of the wordpieces that are chosen, in (0, 1].
        task_seed : int
            Chooses them; >= 0.

        Raises
        ------
        DataError
            If a file is missing, not UTF-8 or without text.
        CheckpointError
            If the vocabulary has no [MASK].
        ValueError
            If an option does not fit.
        """
        tokenizer = bare_tokenizer(tokenizer)
        longest = longest_input(max_length, config)
        if not 0.0 < mask_probability <= 1.0:
            raise ValueError(f"mask_probability: expected (0, 1], found {mask_probability}")
        require_seed("task_seed", task_seed)
        corpus = read_corpus(as_paths(paths), tokenizer)
        return cls(
            corpus,
            tokenizer,
            config.vocab_size,
            max_length=longest,
            whole_words=whole_words,
            mask_probability=mask_probability,
            seed=task_seed,
        )

    def __len__(self) -> int:
        return len(self._windows)

    def _select(self, indices: Sequence[int]) -> Self:
        return type(self)(
            self._corpus,
            self._tokenizer,
            self._vocab_size,
            max_length=self._max_length,
            whole_words=self._whole_words,
            mask_probability=self._probability,
            seed=self._seed,
            windows=[self._windows[index] for index in indices],
        )

    def _features(self, index: int) -> list[MaskedWindow]:
        number = self._windows[index]
        room = self._max_length - 2
        part = slice(number * room, (number + 1) * room)
        pieces = self._corpus.pieces[part].astype(np.int64)
        inside = self._corpus.is_inside_word[part] if self._whole_words else np.zeros(len(pieces), np.bool_)
        generator = np.random.default_rng([self._seed, number])
        chosen = choose_pieces(inside, self._probability, generator)
        hidden = pieces.copy()
        hidden[chosen] = hide_pieces(pieces[chosen], self._ids[2], self._vocab_size, generator)
        ids = np.concatenate([self._ids[:1], hidden, self._ids[1:2]])
        text = EncodedText(ids, np.zeros_like(ids))
        return [MaskedWindow(text, chosen + 1, pieces[chosen])]

    def _size(self, feature: MaskedWindow) -> int:
        return len(feature.text)

    def _inputs(self, features: Sequence[MaskedWindow]) -> Inputs:
        return padded([feature.text for feature in features], self._tokenizer)

    def _outputs(self, out: Any, features: Sequence[MaskedWindow]) -> Sequence[npt.NDArray[np.float64]]:
        """Right predictions, sum of losses, and predictions, of each window."""
        longest = max(len(feature.text) for feature in features)
        logits = vocabulary_logits(out, (len(features), longest), self._vocab_size)
        results = []
        for row, feature in zip(logits, features, strict=True):
            chosen = row[feature.positions]
            losses = token_losses(chosen, feature.targets)
            right = int((chosen.argmax(axis=1) == feature.targets).sum())
            results.append(np.array([right, losses.sum(), losses.size]))
        return results

    def _figures(self, outputs: Sequence[Sequence[npt.NDArray[np.float64]]]) -> Scored:
        sums = np.stack([windows[0] for windows in outputs])
        figures = (
            Figure("accuracy", Ratio(sums[:, 0], sums[:, 2])),
            Figure("loss", Ratio(sums[:, 1], sums[:, 2]), 1.0, higher_is_better=False),
        )
        counts: dict[str, float] = {
            "correct": int(sums[:, 0].sum()),
            "total": int(sums[:, 2].sum()),
        }
        return figures, counts, sums

    def _text(self, index: int) -> str:
        ids = self._features(index)[0].text.input_ids.tolist()
        return str(self._tokenizer.decode(ids[1:-1], skip_special_tokens=False))

    def _expected(self, index: int) -> str:
        targets = self._features(index)[0].targets.tolist()
        return " ".join(str(self._tokenizer.id_to_token(target)) for target in targets)

    def _answer(self, predictions: Any, index: int) -> str:
        right, _, total = predictions[index]
        return f"{right:.0f} of {total:.0f} right"


def choose_pieces(
    is_inside_word: npt.NDArray[np.bool_], share: float, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Choose wordpieces to hide.

    Parameters
    ----------
    is_inside_word : ndarray (N,) bool
        Whether a wordpiece is chosen only together with the one before it, N >= 1.
    share : float
        In (0, 1].
    generator : numpy.random.Generator

    Returns
    -------
    ndarray (M,) int64
        Ascending; ``max(1, round(share N))`` of them, or a few less where only words longer than the rest
        are left.  If every word is longer than that, the first drawn is taken whole.
    """
    count = len(is_inside_word)
    wanted = max(1, round(share * count))
    word = np.cumsum(~is_inside_word | (np.arange(count) == 0)) - 1
    lengths = np.bincount(word)
    starts = np.cumsum(lengths) - lengths
    drawn = generator.permutation(len(lengths))
    chosen: list[int] = []
    for index in drawn.tolist():
        if len(chosen) + lengths[index] <= wanted:
            chosen.extend(range(starts[index], starts[index] + lengths[index]))
        if len(chosen) == wanted:
            break
    if not chosen:
        index = int(drawn[0])
        chosen.extend(range(starts[index], starts[index] + lengths[index]))
    return np.array(sorted(chosen), dtype=np.int64)


def hide_pieces(
    pieces: npt.NDArray[np.int64], mask_id: int, vocab_size: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Put something else in the place of chosen wordpieces.

    Parameters
    ----------
    pieces : ndarray (M,) int64
    mask_id : int
        Id of [MASK].
    vocab_size : int
    generator : numpy.random.Generator

    Returns
    -------
    ndarray (M,) int64
        Each is [MASK] with a probability of 0.8, any wordpiece of the vocabulary with 0.1, and else what it
        was.
    """
    fate = generator.random(len(pieces))
    random_pieces = generator.integers(0, vocab_size, len(pieces))
    return np.where(fate < 0.8, mask_id, np.where(fate < 0.9, random_pieces, pieces))

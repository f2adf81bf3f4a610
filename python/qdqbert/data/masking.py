# SPDX-License-Identifier: Apache-2.0
"""Collators of language models: wordpieces hidden for masked ones, labels for causal ones.

Names, rates and defaults are transformers'.  Random numbers come from the generator that a `BatchLoader`
gives for each batch, so what is hidden changes from epoch to epoch and is the same in every run.  With whole
words, the rules of the evaluation choose them (`qdqbert.tasks.masked_lm.choose_pieces`); other than in
transformers' collator, special tokens do not count as text of which a share is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qdqbert.data.collators import Batch, pad_items
from qdqbert.tasks.masked_lm import choose_pieces, hide_pieces

if TYPE_CHECKING:
    from qdqbert.tokenization import BertTokenizerFast

__all__ = ["DataCollatorForLanguageModeling", "DataCollatorForWholeWordMask"]

_IGNORED = -100


@dataclass
class DataCollatorForLanguageModeling:
    """Pad items, and make what a language model is to predict.

    Parameters
    ----------
    tokenizer : BertTokenizerFast
    mlm : bool
        True: each wordpiece is chosen with `mlm_probability`; of those chosen, 80 % become [MASK], 10 % any
        wordpiece, and 10 % stay; labels are -100 where nothing was chosen.  False: labels are the ids, and
        -100 at padding.
    mlm_probability : float
        In (0, 1].
    pad_to_multiple_of : int, optional
        Lengths are rounded up to it.
    whole_word : bool
        Whether the wordpieces of a word are chosen together: words are drawn until the share of each item's
        wordpieces is reached.  A wordpiece that begins with ``##``, or whose place an item's ``chinese_ref``
        lists, goes on with the word before it.
    return_tensors : {"np"}

    Attributes
    ----------
    item_fields : tuple of str
        What is asked of items beside what a model takes; a `Trainer` that removes other columns leaves them.

    Raises
    ------
    ValueError
        If the tokenizer has no mask token and `mlm` asks for one, or the probability is out of its range.

    Examples
    --------
    >>> collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.2)           # doctest: +SKIP
    >>> batch = collate([{"input_ids": [2, 5, 7, 3]}], rng=np.random.default_rng(0))        # doctest: +SKIP
    """

    item_fields: ClassVar[tuple[str, ...]] = ("special_tokens_mask", "chinese_ref")

    tokenizer: BertTokenizerFast
    mlm: bool = True
    mlm_probability: float = 0.15
    pad_to_multiple_of: int | None = None
    _: KW_ONLY
    whole_word: bool = False
    return_tensors: str = "np"

    def __post_init__(self) -> None:
        if self.mlm and self.tokenizer.mask_token_id is None:
            raise ValueError(
                "tokenizer: expected a mask token, which masked language modeling needs, found none; "
                "mlm=False is for causal language models"
            )
        if not 0.0 < self.mlm_probability <= 1.0:
            raise ValueError(f"mlm_probability: expected (0, 1], got {self.mlm_probability}")
        if self.whole_word and not self.mlm:
            raise ValueError("whole_word: words are hidden with mlm=True only")

    def __call__(self, features: Sequence[Any], rng: np.random.Generator | None = None) -> Batch:
        """Pad, hide and label.

        Parameters
        ----------
        features : sequence of mappings with ``input_ids``, or of lists of ids
            Where ``special_tokens_mask`` is 1 nothing is chosen; without it, at no special token.
        rng : numpy.random.Generator
            With `mlm`: what the choice is drawn from.

        Returns
        -------
        dict of ndarray
            With ``labels``; what was given is not changed.

        Raises
        ------
        TypeError
            If there is no `rng` and `mlm` needs one.
        ValueError
            As in `default_data_collator`.
        """
        if self.mlm and rng is None:
            raise TypeError(
                "rng: masking draws random numbers; a BatchLoader gives a generator for each batch, "
                "numpy.random.default_rng(seed) makes one"
            )
        items = [dict(item) if isinstance(item, Mapping) else {"input_ids": item} for item in features]
        references = [item.pop("chinese_ref", ()) for item in items]
        batch = pad_items(items, self.tokenizer, self)
        special = batch.pop("special_tokens_mask", None)
        ids = batch["input_ids"]
        if not self.mlm or rng is None:
            labels = np.where(ids == self.tokenizer.pad_token_id, _IGNORED, ids)
            return {**batch, "labels": labels}
        if special is None:
            special = np.isin(ids, [index for index in self.tokenizer.all_special_ids if index is not None])
        is_text = ~special.astype(np.bool_)
        if self.whole_word:
            chosen = self._words(ids, is_text, references, rng)
        else:
            chosen = (rng.random(ids.shape) < self.mlm_probability) & is_text
        labels = np.where(chosen, ids, _IGNORED)
        hidden = ids.copy()
        mask_id = int(self.tokenizer.mask_token_id or 0)
        hidden[chosen] = hide_pieces(ids[chosen], mask_id, len(self.tokenizer), rng)
        return {**batch, "input_ids": hidden, "labels": labels}

    def _words(
        self,
        ids: npt.NDArray[np.int64],
        is_text: npt.NDArray[np.bool_],
        references: Sequence[Sequence[int]],
        rng: np.random.Generator,
    ) -> npt.NDArray[np.bool_]:
        # What the batch holds is looked up, not the vocabulary: it may have grown since the last batch.
        distinct, places = np.unique(ids, return_inverse=True)
        tokens = self.tokenizer.convert_ids_to_tokens(distinct.tolist())
        goes_on = np.array([str(token).startswith("##") for token in tokens])[places].reshape(ids.shape)
        chosen = np.zeros(ids.shape, dtype=np.bool_)
        for row in range(len(ids)):
            inside = goes_on[row]
            inside[np.asarray(references[row], dtype=np.int64)] = True
            # After a special token a word begins.
            inside[1:] &= is_text[row, :-1]
            (text,) = np.nonzero(is_text[row])
            if len(text):
                chosen[row, text[choose_pieces(inside[text], self.mlm_probability, rng)]] = True
        return chosen


@dataclass
class DataCollatorForWholeWordMask(DataCollatorForLanguageModeling):
    """`DataCollatorForLanguageModeling` with whole words.

    Parameters
    ----------
    tokenizer, mlm, mlm_probability, pad_to_multiple_of, whole_word, return_tensors
        As there.
    """

    _: KW_ONLY
    whole_word: bool = True

# SPDX-License-Identifier: Apache-2.0
"""`Vocabulary`: tokens and ids of a `tokenizers.Tokenizer`, adding to them, and from ids back to a text."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qdqbert.forks import ForkLock
from qdqbert.tokenization.special_tokens import SpecialTokens, is_token

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

__all__ = ["Vocabulary"]

# What the decoder's single spaces leave apart and English writes together.
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Vocabulary(SpecialTokens):
    """Tokens of a tokenizer, with their roles.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
    clean_up_tokenization_spaces : bool
        Whether decoding joins punctuation to its word.
    verbose, **tokens
        As in `SpecialTokens`.
    """

    def __init__(
        self,
        backend: Tokenizer,
        *,
        clean_up_tokenization_spaces: bool = True,
        verbose: bool = False,
        **tokens: Any,
    ) -> None:
        super().__init__(verbose=verbose, **tokens)
        self.clean_up_tokenization_spaces: bool = bool(clean_up_tokenization_spaces)
        self._tokenizer = backend
        self._lock = ForkLock()

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in vars(self).items() if key != "_lock"}
        return {**state, "_tokenizer": self._tokenizer.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.__dict__.update(state)
        self._lock = ForkLock()
        self._tokenizer = Tokenizer.from_str(state["_tokenizer"])

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers.Tokenizer` behind this one."""
        return self._tokenizer

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def __bool__(self) -> bool:
        # As any object: ``tokenizer or default`` asks whether there is one.
        return True

    @property
    def vocab_size(self) -> int:
        """Number of tokens without added ones."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    @property
    def vocab(self) -> dict[str, int]:
        """As `get_vocab`."""
        return self.get_vocab()

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, added ones included."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Tokens that are found before a text is split, special ones among them, by id."""
        return dict(sorted(self._tokenizer.get_added_tokens_decoder().items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Ids of `added_tokens_decoder`, by token."""
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """Return `added_tokens_encoder`."""
        return self.added_tokens_encoder

    def add_tokens(
        self,
        new_tokens: str | AddedToken | Sequence[str | AddedToken],
        special_tokens: bool = False,
    ) -> int:
        """Add tokens to the vocabulary, found in a text before it is split.

        A model needs a row for every new one: ``model.resize_token_embeddings(len(tokenizer))``.

        Parameters
        ----------
        new_tokens : str, AddedToken, or list of them
        special_tokens : bool
            Whether they are found as they stand, before a text is lower-cased, and left out by
            ``decode(skip_special_tokens=True)``.

        Returns
        -------
        int
            Number of tokens that were not added ones before.

        Raises
        ------
        TypeError
            If one is neither a string nor an AddedToken; nothing is added.
        """
        tokens = list(new_tokens) if isinstance(new_tokens, list | tuple) else [new_tokens]
        for token in tokens:
            if not is_token(token):
                raise TypeError(f"new_tokens: expected strings or AddedTokens, got {token!r}")
        with self._lock:
            add = self._tokenizer.add_special_tokens if special_tokens else self._tokenizer.add_tokens
            return int(add(tokens)) if tokens else 0

    def _token_id(self, token: str) -> int | None:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            unknown = self._roles["unk_token"]
            index = None if unknown is None else self._tokenizer.token_to_id(str(unknown))
        return None if index is None else int(index)

    def _token_of(self, index: int) -> str:
        token = self._tokenizer.id_to_token(index)
        if token is None:
            raise ValueError(f"{index} is the id of no token; there are {len(self)}")
        return str(token)

    def convert_tokens_to_ids(self, tokens: str | Iterable[str] | None) -> Any:
        """Return the id of a token, or a list of ids.

        Parameters
        ----------
        tokens : str, iterable of str, or None
            Unknown ones get the id of `unk_token`, or None if that is not set; None gives None.
        """
        if tokens is None:
            return None
        if isinstance(tokens, str):
            return self._token_id(tokens)
        return [self._token_id(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or a list of tokens.

        Parameters
        ----------
        ids : int, or sequence of int
            An id that no token has gives None.
        skip_special_tokens : bool
            Leave special tokens of a sequence out.

        Raises
        ------
        OverflowError
            For an id that is negative or has more than 32 bits.
        """
        if hasattr(ids, "__index__") and not getattr(ids, "ndim", 0):
            return self._tokenizer.id_to_token(operator.index(ids))
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._tokenizer.id_to_token(index) for index in map(int, ids) if index not in skipped]

    # ---- ids to texts --------------------------------------------------------------------------------------

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Return the text of ids.

        Parameters
        ----------
        token_ids : int, or sequence of int
            Ids that no token has are left out.
        skip_special_tokens : bool
        clean_up_tokenization_spaces : bool, optional
            Whether punctuation is joined to its word; as the tokenizer was made if left out.

        Raises
        ------
        OverflowError
            For an id that is negative or has more than 32 bits.
        """
        ids = np.asarray(token_ids).tolist() if hasattr(token_ids, "__array__") else token_ids
        text = str(
            self._tokenizer.decode(
                [ids] if isinstance(ids, int) else ids, skip_special_tokens=skip_special_tokens
            )
        )
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """Return the texts of rows of ids.

        Parameters
        ----------
        sequences : sequence of rows
            Each as in `decode`.
        skip_special_tokens, clean_up_tokenization_spaces
            As in `decode`.
        """
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to a text.

        Parameters
        ----------
        tokens : list of str
        """
        return str(self._tokenizer.decoder.decode(tokens))

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Join English punctuation and contractions to the word before.

        Parameters
        ----------
        out_string : str

        Examples
        --------
        >>> Vocabulary.clean_up_tokenization("it isn ' t so , is it ?")
        "it isn't so, is it?"
        """
        for spaced in _CLEANED:
            out_string = out_string.replace(spaced, spaced.replace(" ", ""))
        return out_string

# SPDX-License-Identifier: Apache-2.0
"""Special tokens by their roles: ``cls_token``, ``cls_token_id``, ... and the maps over all of them.

`SpecialTokens` is the part of a tokenizer that knows which token plays which role; the vocabulary behind it
is the tokenizer's.  Roles are those of transformers.  Giving a role to another token changes what is looked
up and what padding is made of; what stands around a text is a matter of the tokenizer's template and stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

if TYPE_CHECKING:
    from tokenizers import AddedToken

__all__ = ["ROLES", "SpecialTokens", "is_token"]

_logger = logging.getLogger(__name__)

# In the order in which tokens that the vocabulary lacks are added to it.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_ADDITIONAL = "additional_special_tokens"


def is_token(value: Any) -> bool:
    """Whether a value is a string or a `tokenizers.AddedToken`.

    Parameters
    ----------
    value : object
    """
    if isinstance(value, str):
        return True
    from tokenizers import AddedToken

    return isinstance(value, AddedToken)


class SpecialToken:
    """A role, as an attribute: the token as a string, or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: SpecialTokens, owner: type) -> str | None: ...

    def __get__(self, instance: SpecialTokens | None, owner: type) -> str | Self | None:
        if instance is None:
            return self
        token = instance._roles[self._name]
        if token is None and instance.verbose:
            _logger.error("Using %s, but it is not set yet.", self._name)
        return None if token is None else str(token)

    def __set__(self, instance: SpecialTokens, value: str | AddedToken | None) -> None:
        if value is not None and not is_token(value):
            raise ValueError(f"{self._name}: expected a string or an AddedToken, got {value!r}")
        instance._roles[self._name] = value


class SpecialTokenId:
    """The id of a role's token, as an attribute, or None; setting it gives the role to the id's token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._role = name.removesuffix("_id")

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: SpecialTokens, owner: type) -> int | None: ...

    def __get__(self, instance: SpecialTokens | None, owner: type) -> int | Self | None:
        if instance is None:
            return self
        token = instance._roles[self._role]
        return None if token is None else instance._token_id(str(token))

    def __set__(self, instance: SpecialTokens, value: int | None) -> None:
        instance._roles[self._role] = None if value is None else instance._token_of(value)


class SpecialTokens:
    """Roles of tokens.

    Parameters
    ----------
    verbose : bool
        Whether asking for a role that nobody plays is logged.
    **tokens : str or AddedToken
        By role; None where there is no such token.
    """

    SPECIAL_TOKENS_ATTRIBUTES = (*ROLES, _ADDITIONAL)

    bos_token: SpecialToken = SpecialToken()
    eos_token: SpecialToken = SpecialToken()
    unk_token: SpecialToken = SpecialToken()
    sep_token: SpecialToken = SpecialToken()
    pad_token: SpecialToken = SpecialToken()
    cls_token: SpecialToken = SpecialToken()
    mask_token: SpecialToken = SpecialToken()

    bos_token_id: SpecialTokenId = SpecialTokenId()
    eos_token_id: SpecialTokenId = SpecialTokenId()
    unk_token_id: SpecialTokenId = SpecialTokenId()
    sep_token_id: SpecialTokenId = SpecialTokenId()
    pad_token_id: SpecialTokenId = SpecialTokenId()
    cls_token_id: SpecialTokenId = SpecialTokenId()
    mask_token_id: SpecialTokenId = SpecialTokenId()

    def __init__(self, *, verbose: bool = False, **tokens: Any) -> None:
        self.verbose = verbose
        self._roles: dict[str, str | AddedToken | None] = dict.fromkeys(ROLES)
        self._additional: list[str | AddedToken] = []
        for role, token in tokens.items():
            if token is None:
                continue
            if role == _ADDITIONAL:
                self.additional_special_tokens = token
            elif not is_token(token):
                raise TypeError(f"{role}: expected a string or an AddedToken, got {token!r}")
            else:
                self._roles[role] = token

    # What the vocabulary of the tokenizer says.

    def _token_id(self, token: str) -> int | None:
        raise NotImplementedError

    def _token_of(self, index: int) -> str:
        raise NotImplementedError

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens to the vocabulary; for the tokenizer to define.

        Parameters
        ----------
        new_tokens, special_tokens
            As in `Vocabulary.add_tokens`.
        """
        raise NotImplementedError

    # ---- all of them ---------------------------------------------------------------------------------------

    @property
    def pad_token_type_id(self) -> int:
        """Token type of padding: 0."""
        return 0

    @property
    def additional_special_tokens(self) -> list[str]:
        """Tokens that are special and have no role."""
        return [str(token) for token in self._additional]

    @additional_special_tokens.setter
    def additional_special_tokens(self, value: Sequence[str | AddedToken] | None) -> None:
        tokens = [] if value is None else value
        if not isinstance(tokens, list | tuple) or not all(is_token(token) for token in tokens):
            raise ValueError(f"{_ADDITIONAL}: expected a list of strings or AddedTokens, got {value!r}")
        self._additional = list(tokens)

    @property
    def additional_special_tokens_ids(self) -> list[int | None]:
        """Ids of `additional_special_tokens`."""
        return [self._token_id(token) for token in self.additional_special_tokens]

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        """Roles that are played: str or AddedToken by role, a list for the additional ones."""
        roles: dict[str, Any] = {role: token for role, token in self._roles.items() if token}
        return {**roles, _ADDITIONAL: list(self._additional)} if self._additional else roles

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Roles that are played, as strings."""
        return {
            role: [str(token) for token in value] if isinstance(value, list) else str(value)
            for role, value in self.special_tokens_map_extended.items()
        }

    @property
    def all_special_tokens_extended(self) -> list[str | AddedToken]:
        """Every special token once, as str or AddedToken."""
        tokens: dict[str, str | AddedToken] = {}
        for value in self.special_tokens_map_extended.values():
            for token in value if isinstance(value, list) else [value]:
                tokens.setdefault(str(token), token)
        return list(tokens.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once."""
        return [str(token) for token in self.all_special_tokens_extended]

    @property
    def all_special_ids(self) -> list[int | None]:
        """Ids of `all_special_tokens`."""
        return [self._token_id(token) for token in self.all_special_tokens]

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Any],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Give roles to tokens, adding those to the vocabulary that it lacks.

        A model needs a row for every new token: ``model.resize_token_embeddings(len(tokenizer))``.

        Parameters
        ----------
        special_tokens_dict : mapping of role to token
            Roles are ``cls_token`` and so on; ``additional_special_tokens`` takes a list.
        replace_additional_special_tokens : bool
            Whether the list replaces the present one, whose tokens stay in the vocabulary, or extends it.

        Returns
        -------
        int
            Number of tokens that were not added ones before.

        Raises
        ------
        ValueError
            If a role is unknown or a token is neither a string nor an AddedToken; nothing is changed.

        Examples
        --------
        >>> tokenizer.add_special_tokens({"bos_token": "[BOS]"})      # doctest: +SKIP
        1
        """
        for role, value in special_tokens_dict.items():
            if role not in self.SPECIAL_TOKENS_ATTRIBUTES:
                raise ValueError(
                    f"special_tokens_dict: {role!r} is no role; roles are "
                    f"{', '.join(self.SPECIAL_TOKENS_ATTRIBUTES)}"
                )
            is_list = isinstance(value, list | tuple)
            if is_list != (role == _ADDITIONAL) or not all(
                is_token(token) for token in (value if is_list else [value])
            ):
                expected = "a list of tokens" if role == _ADDITIONAL else "a string or an AddedToken"
                raise ValueError(f"special_tokens_dict: {role}: expected {expected}, got {value!r}")
        added: list[AddedToken] = []
        for role, value in special_tokens_dict.items():
            tokens = as_special(value if role == _ADDITIONAL else [value])
            if role != _ADDITIONAL:
                self._roles[role] = tokens[0]
            elif replace_additional_special_tokens and tokens:
                self._additional = list(tokens)
            else:
                known = set(self.additional_special_tokens)
                tokens = [token for token in tokens if str(token) not in known]
                self._additional.extend(tokens)
            added += [token for token in tokens if token not in added]
        return self.add_tokens(added, special_tokens=True)


def as_special(tokens: Iterable[str | AddedToken]) -> list[AddedToken]:
    """Tokens that are found as they stand, before normalisation."""
    from tokenizers import AddedToken

    return [
        AddedToken(token, normalized=False, special=True) if isinstance(token, str) else token
        for token in tokens
    ]

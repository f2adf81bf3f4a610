# SPDX-License-Identifier: Apache-2.0
"""The files of a tokenizer: read from a folder or the hub, written into a folder.

A complete tokenizer is ``tokenizer.json`` or ``vocab.txt``.  Beside it ``tokenizer_config.json`` holds roles
of tokens and options; older checkpoints keep roles in ``special_tokens_map.json`` and tokens that were added
to the vocabulary in ``added_tokens.json``, which count only where ``tokenizer_config.json`` does not list
added tokens itself.  This is transformers' order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qdqbert.errors import CheckpointError, UnsupportedError
from qdqbert.serialization.atomic import write_text
from qdqbert.serialization.folder import Source, read_json
from qdqbert.tokenization.special_tokens import ROLES

if TYPE_CHECKING:
    from tokenizers import AddedToken

__all__ = ["TokenizerFiles", "read_files", "write_files"]

CONFIG_NAME = "tokenizer_config.json"
DESCRIPTION_NAME = "tokenizer.json"
VOCABULARY_NAME = "vocab.txt"
_MAP_NAME = "special_tokens_map.json"
_ADDED_NAME = "added_tokens.json"

# Classes whose texts become BERT's wordpieces.  A vocab.txt of another class needs that class.
_WORDPIECE_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert", "QDQBert")
# Written by the class itself, or about where the files were.
_NOT_FIELDS = (
    "added_tokens_decoder",
    "auto_map",
    "init_inputs",
    "name_or_path",
    "processor_class",
    "special_tokens_map_file",
    "tokenizer_class",
    "tokenizer_file",
    "vocab_file",
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class TokenizerFiles(NamedTuple):
    """What the files say.

    Attributes
    ----------
    description, vocabulary : Path or None
        ``tokenizer.json`` and ``vocab.txt``; at least one is there.
    fields : dict
        Options and roles of ``tokenizer_config.json`` and ``special_tokens_map.json``.
    added : dict of int to AddedToken
        Tokens beside the vocabulary, by id.
    """

    description: Path | None
    vocabulary: Path | None
    fields: dict[str, Any]
    added: dict[int, AddedToken]


def read_files(source: Source) -> TokenizerFiles:
    """Find and read the files of a tokenizer.

    Parameters
    ----------
    source : Source

    Returns
    -------
    TokenizerFiles

    Raises
    ------
    CheckpointError
        If there is no tokenizer, or a file is damaged; it is named.
    UnsupportedError
        If there is only a vocabulary, of another kind of tokenizer.
    """
    description, vocabulary = source.find(DESCRIPTION_NAME), source.find(VOCABULARY_NAME)
    config = source.find(CONFIG_NAME)
    fields = {} if config is None else _read(config)
    if description is None and vocabulary is None:
        source.require(f"{DESCRIPTION_NAME} or {VOCABULARY_NAME}")
    found = str(fields.get("tokenizer_class") or "BertTokenizer")
    kinds = [f"{name}Tokenizer" for name in _WORDPIECE_CLASSES]
    if description is None and found.removesuffix("Fast") not in kinds:
        raise UnsupportedError(
            f"{config}: tokenizer_class: {found} splits texts in its own way, and there is no "
            f"{DESCRIPTION_NAME} that describes it; from a {VOCABULARY_NAME} alone {', '.join(kinds)} can be "
            "built"
        )
    listed = fields.get("added_tokens_decoder")
    fields = {key: value for key, value in fields.items() if key not in _NOT_FIELDS}
    if config is not None and listed is not None:
        added = _added_tokens(config, listed)
        by_text = {str(token): token for token in added.values()}
    else:
        added, by_text = {}, {}
        roles = source.find(_MAP_NAME)
        if roles is not None:
            fields.update(_read(roles))
        tokens = source.find(_ADDED_NAME)
        if tokens is not None:
            added = _legacy_added_tokens(tokens, fields)
    for role in (*ROLES, "additional_special_tokens"):
        if role in fields:
            where = config if config is not None else source.name
            fields[role] = _role(f"{where}: {role}", fields[role], by_text)
    return TokenizerFiles(description, vocabulary, fields, added)


def write_files(
    folder: Path,
    prefix: str,
    *,
    config: Mapping[str, Any],
    added: Mapping[int, AddedToken],
    roles: Mapping[str, Any],
    vocabulary: Mapping[str, int] | None,
    extra: Mapping[str, int],
    description: str | None,
) -> tuple[str, ...]:
    """Write the files of a tokenizer, each at once.

    Parameters
    ----------
    folder : Path
        Is made if it is missing.
    prefix : str
        Before each name.
    config : mapping
        Of ``tokenizer_config.json``, without added tokens.
    added : mapping of int to AddedToken
    roles : mapping of role to str or AddedToken
        Of ``special_tokens_map.json``.
    vocabulary : mapping of str to int, or None
        Of ``vocab.txt``, if it is to be written.
    extra : mapping of str to int
        Of ``added_tokens.json``, which is written beside a ``vocab.txt`` if there is anything to say.
    description : str or None
        ``tokenizer.json``, if it is to be written.

    Returns
    -------
    tuple of str
        The files written.

    Raises
    ------
    NotADirectoryError
        If `folder` is a file.
    OSError
        If a file cannot be written; it is then as it was.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"save_directory: {folder} is a file")
    listed = {
        str(index): {"content": token.content, **{flag: getattr(token, flag) for flag in _FLAGS}}
        for index, token in added.items()
    }
    plain_roles = {role: _plain(value) for role, value in roles.items()}
    texts = {
        CONFIG_NAME: _json({**config, "added_tokens_decoder": listed}),
        _MAP_NAME: _json(plain_roles),
    }
    if vocabulary is not None:
        texts[VOCABULARY_NAME] = "".join(
            f"{token}\n" for token in sorted(vocabulary, key=lambda token: vocabulary[token])
        )
        if extra:
            texts[_ADDED_NAME] = _json(extra)
    if description is not None:
        texts[DESCRIPTION_NAME] = description
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{prefix}{name}" for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return tuple(str(path) for path in paths)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object whose strings can be tokens: UTF-8, which JSON need not be."""
    value = read_json(path)
    try:
        _json(value).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise CheckpointError(f"{path}: a string holds {half}, half of a surrogate pair") from error
    return value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Strings, and AddedTokens as dictionaries without the flag that every special token has."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [_plain(token) for token in value]
    flags = {flag: getattr(value, flag) for flag in _FLAGS if flag != "special"}
    return {"content": value.content, **flags}


def _added_tokens(path: Path, listed: Any) -> dict[int, AddedToken]:
    if not isinstance(listed, dict):
        raise CheckpointError(f"{path}: added_tokens_decoder: expected an object, got {listed!r:.60}")
    added = {}
    for index, token in listed.items():
        where = f"{path}: added_tokens_decoder: {index}"
        if not index.isascii() or not index.isdigit() or not isinstance(token, dict):
            raise CheckpointError(f"{where}: expected an id and a token, got {token!r:.60}")
        added[int(index)] = _token(where, token)
    return dict(sorted(added.items()))


def _legacy_added_tokens(path: Path, fields: Mapping[str, Any]) -> dict[int, AddedToken]:
    from tokenizers import AddedToken

    special = {str(_text(fields.get(role))) for role in ROLES}
    special |= {str(_text(token)) for token in fields.get("additional_special_tokens") or []}
    added = {}
    for text, index in _read(path).items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise CheckpointError(f"{path}: {text!r}: expected an id, got {index!r:.60}")
        is_special = text in special
        added[index] = AddedToken(text, normalized=not is_special, special=is_special)
    return dict(sorted(added.items()))


def _role(where: str, value: Any, by_text: Mapping[str, AddedToken]) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_role(where, token, by_text) for token in value]
    if isinstance(value, dict):
        token = _token(where, {"special": True, **value})
        return by_text.get(str(token), token)
    if not isinstance(value, str):
        raise CheckpointError(f"{where}: expected a token, got {value!r:.60}")
    return by_text.get(value, value)


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _token(where: str, value: dict[str, Any]) -> AddedToken:
    from tokenizers import AddedToken

    flags = {flag: value[flag] for flag in _FLAGS if flag in value}
    content = value.get("content")
    if not isinstance(content, str) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise CheckpointError(f"{where}: expected 'content' and true or false, got {value!r:.80}")
    return AddedToken(content, **flags)

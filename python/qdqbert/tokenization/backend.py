# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of BERT checkpoints, read with the `tokenizers` library.

A checkpoint folder describes its tokenizer either completely (`tokenizer.json`) or by a WordPiece vocabulary
(`vocab.txt`) with a few switches in `tokenizer_config.json`.  Both end as one `tokenizers.Tokenizer` without
truncation and padding: cutting and batching are decisions of a task, not of a checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qdqbert.errors import CheckpointError

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer

__all__ = ["load_tokenizer", "read_description", "read_vocabulary", "special_token_id"]

# Beyond this a "vocabulary" is some other file; the largest published BERT tokenizer.json has about 10 MB.
LIMIT_BYTES = 256 * 1024 * 1024


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Tokenizer of a checkpoint folder, without truncation and padding.

    Parameters
    ----------
    folder : path
        Holds `tokenizer.json`, or `vocab.txt` and optionally `tokenizer_config.json`, of which
        `do_lower_case` (default True), `tokenize_chinese_chars` (True) and `strip_accents` (as
        `do_lower_case`) are used. `tokenizer.json` wins where both are there.

    Returns
    -------
    tokenizers.Tokenizer
        Encodes one text as ``[CLS] a [SEP]`` and a pair as ``[CLS] a [SEP] b [SEP]`` with type ids 0 and 1.

    Raises
    ------
    CheckpointError
        If the folder or its tokenizer files are missing, cannot be read, are Git-LFS pointers, or do not
        describe a tokenizer; the sentence names the file and, where there is one, the line.

    Examples
    --------
    >>> tokenizer = load_tokenizer("path/to/minilm-squad")      # doctest: +SKIP
    >>> tokenizer.encode("Who wrote it?").tokens                # doctest: +SKIP
    ['[CLS]', 'who', 'wrote', 'it', '?', '[SEP]']
    """
    root = Path(folder)
    if not root.is_dir():
        raise CheckpointError(f"tokenizer: {root} is not a folder")
    complete = root / "tokenizer.json"
    vocabulary = root / "vocab.txt"
    if complete.is_file():
        tokenizer = read_description(complete)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    if vocabulary.is_file():
        return _from_vocabulary(vocabulary, root / "tokenizer_config.json")
    raise CheckpointError(f"tokenizer: expected tokenizer.json or vocab.txt in {root}, found neither")


def special_token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a special token such as ``"[CLS]"``.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
    token : str

    Returns
    -------
    int

    Raises
    ------
    CheckpointError
        If the vocabulary has no such token.
    """
    index = tokenizer.token_to_id(token)
    if index is None:
        raise CheckpointError(
            f"tokenizer: the vocabulary of {tokenizer.get_vocab_size()} tokens has no {token}"
        )
    return int(index)


def _read_text(path: Path) -> str:
    """Contents of a UTF-8 file, with the ways in which such files are broken told apart."""
    try:
        size = path.stat().st_size
        if size > LIMIT_BYTES:
            raise CheckpointError(f"{path}: expected at most {LIMIT_BYTES} bytes, found {size}")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if data.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: a Git-LFS pointer, not the file itself; run `git lfs pull` in its repository"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CheckpointError(
            f"{path}, line {line}: expected UTF-8, found byte 0x{data[error.start]:02x}"
        ) from error


def read_description(path: Path) -> Tokenizer:
    """Tokenizer of a ``tokenizer.json``, as the file describes it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    tokenizers.Tokenizer

    Raises
    ------
    CheckpointError
        If the file cannot be read, is a Git-LFS pointer, or does not describe a tokenizer.
    """
    from tokenizers import Tokenizer

    text = _read_text(path)
    try:
        return Tokenizer.from_str(text)
    except BaseException as error:
        _refuse(path, error)


def _refuse(path: Path, error: BaseException) -> NoReturn:
    """Turn what the library raises on a malformed description into a CheckpointError.

    The library raises plain Exception for most defects, and a PanicException, which is no Exception, where
    its own code did not expect them.  Anything else (KeyboardInterrupt, MemoryError) passes.
    """
    is_panic = type(error).__name__ == "PanicException"
    if isinstance(error, MemoryError) or not (isinstance(error, Exception) or is_panic):
        raise error
    raise CheckpointError(f"{path}: not a tokenizer description: {error}") from error


def read_vocabulary(
    path: Path,
    *,
    lower_case: bool = True,
    chinese_characters: bool = True,
    strip_accents: bool | None = None,
    unk_token: str = "[UNK]",
    cls_token: str = "[CLS]",
    sep_token: str = "[SEP]",
) -> Tokenizer:
    """BERT's tokenizer over a ``vocab.txt``.

    Parameters
    ----------
    path : Path
        One wordpiece a line; the line number, from 0, is its id.
    lower_case : bool
    chinese_characters : bool
        Whether each one is a word.
    strip_accents : bool or None
        None: as `lower_case`.
    unk_token, cls_token, sep_token : str
        In the vocabulary; ``[PAD]`` and ``[MASK]`` are special tokens too if they are.

    Returns
    -------
    tokenizers.Tokenizer

    Raises
    ------
    CheckpointError
        If the file cannot be read, is a Git-LFS pointer, or lacks one of the three tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = {
        line.rstrip("\r"): index for index, line in enumerate(_read_text(path).rstrip("\n").split("\n"))
    }
    needed = (unk_token, cls_token, sep_token)
    missing = [token for token in needed if token not in vocabulary]
    if missing:
        raise CheckpointError(
            f"{path}: expected a WordPiece vocabulary with {unk_token}, {cls_token} and {sep_token}, one "
            f"token a line; {len(vocabulary)} tokens found, without {', '.join(missing)}"
        )
    try:
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unk_token, max_input_chars_per_word=100))
        tokenizer.add_special_tokens([token for token in ("[PAD]", *needed, "[MASK]") if token in vocabulary])
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=chinese_characters,
            strip_accents=strip_accents,
            lowercase=lower_case,
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(
            (sep_token, vocabulary[sep_token]), (cls_token, vocabulary[cls_token])
        )
        tokenizer.decoder = decoders.WordPiece(prefix="##")
    except BaseException as error:
        _refuse(path, error)
    return tokenizer


def _from_vocabulary(path: Path, config_path: Path) -> Tokenizer:
    config = _tokenizer_config(config_path)
    return read_vocabulary(
        path,
        lower_case=_switch(config, "do_lower_case", True, config_path),
        chinese_characters=_switch(config, "tokenize_chinese_chars", True, config_path),
        strip_accents=_switch(config, "strip_accents", None, config_path),
    )


def _tokenizer_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected an object, found {type(config).__name__}")
    return config


def _switch(config: dict[str, Any], key: str, default: bool | None, path: Path) -> Any:
    value = config.get(key, default)
    if value is None or isinstance(value, bool):
        return default if value is None else value
    raise CheckpointError(f"{path}: {key} must be true, false or null, not {value!r}")

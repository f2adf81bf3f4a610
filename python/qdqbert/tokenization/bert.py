# SPDX-License-Identifier: Apache-2.0
"""`BertTokenizerFast`: BERT's tokenizer as users of transformers know it, over the `tokenizers` library.

Names, arguments, results and warnings are transformers'.  Done differently, and on purpose:

- Two threads may use one tokenizer: the library's truncation and padding are settings of a shared object, so
  they are set and used under a lock. A fork waits for that lock, so a child can tokenize.
- ``max_length`` smaller than the number of special tokens, which the library takes for "do not cut", and a
  ``stride`` that leaves no room, on which it panics, are errors that say so.
- An option of ``tokenizer_config.json`` that is missing there is taken from ``tokenizer.json``; transformers
  lower-cases a cased tokenizer whose configuration is lost.
- An empty batch gives an empty batch.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qdqbert.errors import CheckpointError
from qdqbert.serialization.folder import Source
from qdqbert.tokenization.backend import read_description, read_vocabulary
from qdqbert.tokenization.encoder import Encoder
from qdqbert.tokenization.folder import read_files, write_files
from qdqbert.tokenization.special_tokens import as_special

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

__all__ = ["BertTokenizer", "BertTokenizerFast"]


class BertTokenizerFast(Encoder):
    """Wordpieces of texts, as a model takes them.

    Parameters
    ----------
    vocab_file : path, optional
        A ``vocab.txt``.
    tokenizer_file : path, optional
        A ``tokenizer.json``; wins over `vocab_file`.
    do_lower_case, tokenize_chinese_chars, strip_accents : bool, optional
        What happens to a text before it is split.  None: as ``tokenizer.json`` has it; for a `vocab_file`
        True, True, and as `do_lower_case`.
    unk_token, sep_token, pad_token, cls_token, mask_token : str or AddedToken
        Added to the vocabulary if it lacks them.
    bos_token, eos_token : str or AddedToken, optional
    additional_special_tokens : list of str or AddedToken, optional
    tokenizer_object : tokenizers.Tokenizer, optional
        Instead of a file; it is copied.
    model_max_length : int, optional
        Most tokens that the model takes; unlimited if left out.
    padding_side, truncation_side : {"right", "left"}, optional
        Where padding goes, and which end of a long text is cut off.  None: as ``tokenizer.json`` has it, or
        right.
    model_input_names : list of str, optional
        What a call returns unless told otherwise.
    clean_up_tokenization_spaces : bool
        Whether decoding joins punctuation to its word.
    added_tokens_decoder : mapping of int to AddedToken, optional
        Tokens to add to the vocabulary, in the order of their ids.
    name_or_path : str
    verbose : bool
        Whether asking for a special token that is not set is logged.

    Raises
    ------
    CheckpointError
        If a file cannot be read or does not describe a tokenizer.
    ValueError
        If there is neither a file nor a `tokenizer_object`, or a side is unknown.
    TypeError
        If a special token is neither a string nor an AddedToken.

    Examples
    --------
    >>> from qdqbert.cli.demo import bundled_folder
    >>> tokenizer = BertTokenizerFast.from_pretrained(bundled_folder())
    >>> batch = tokenizer(["What is it?", "An island."], padding=True, return_tensors="np")
    >>> batch.input_ids.shape, tokenizer.decode(batch.input_ids[1], skip_special_tokens=True)
    ((2, 6), 'an island.')
    """

    is_fast: ClassVar[bool] = True

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        do_lower_case: bool | None = None,
        unk_token: str | AddedToken | None = "[UNK]",
        sep_token: str | AddedToken | None = "[SEP]",
        pad_token: str | AddedToken | None = "[PAD]",
        cls_token: str | AddedToken | None = "[CLS]",
        mask_token: str | AddedToken | None = "[MASK]",
        tokenize_chinese_chars: bool | None = None,
        strip_accents: bool | None = None,
        *,
        bos_token: str | AddedToken | None = None,
        eos_token: str | AddedToken | None = None,
        additional_special_tokens: Sequence[str | AddedToken] | None = None,
        tokenizer_object: Tokenizer | None = None,
        model_max_length: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        model_input_names: Sequence[str] | None = None,
        clean_up_tokenization_spaces: bool = True,
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
        name_or_path: str = "",
        verbose: bool = False,
    ) -> None:
        switches = {
            "do_lower_case": do_lower_case,
            "tokenize_chinese_chars": tokenize_chinese_chars,
            "strip_accents": strip_accents,
        }
        for name, switch in switches.items():
            if switch is not None and not isinstance(switch, bool):
                raise TypeError(f"{name}: expected True, False or None, got {switch!r}")
        if tokenizer_object is not None:
            backend = type(tokenizer_object).from_str(tokenizer_object.to_str())
        elif tokenizer_file is not None:
            backend = read_description(Path(tokenizer_file))
        elif vocab_file is not None:
            backend = read_vocabulary(
                Path(vocab_file),
                lower_case=True if do_lower_case is None else do_lower_case,
                chinese_characters=True if tokenize_chinese_chars is None else tokenize_chinese_chars,
                strip_accents=strip_accents,
                unk_token=str(unk_token),
                cls_token=str(cls_token),
                sep_token=str(sep_token),
            )
        else:
            raise ValueError("vocab_file, tokenizer_file, tokenizer_object: expected one of them, got none")
        super().__init__(
            backend,
            model_max_length=model_max_length,
            padding_side=padding_side or _direction(backend.padding),
            truncation_side=truncation_side or _direction(backend.truncation),
            model_input_names=model_input_names,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            verbose=verbose,
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            additional_special_tokens=additional_special_tokens,
        )
        self.name_or_path: str = str(name_or_path)
        self.do_lower_case: bool
        self.tokenize_chinese_chars: bool
        self.strip_accents: bool | None
        self._extra_fields: dict[str, Any] = {}
        self.do_lower_case, self.tokenize_chinese_chars, self.strip_accents = _set_normalizer(
            backend, do_lower_case, tokenize_chinese_chars, strip_accents
        )
        backend.no_truncation()
        backend.no_padding()
        self._add_missing(added_tokens_decoder or {})

    def _add_missing(self, listed: Mapping[int, AddedToken]) -> None:
        """Add what the files list beside the vocabulary, and special tokens that it lacks."""
        known = set(self.added_tokens_encoder)
        tokens = [token for _, token in sorted(listed.items()) if str(token) not in known]
        known |= {str(token) for token in tokens}
        special = set(self.all_special_tokens)
        for token in tokens:
            self.add_tokens([token], special_tokens=token.special or str(token) in special)
        self.add_tokens(
            as_special(token for token in self.all_special_tokens_extended if str(token) not in known),
            special_tokens=True,
        )

    # ---- files ---------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str = "",
        **kwargs: Any,
    ) -> Self:
        """Read the tokenizer of a folder, or of a repository on the Hugging Face hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            A folder (the network is never touched) with ``tokenizer.json`` or ``vocab.txt``, or the name of
            a repository.
        revision, cache_dir, local_files_only, token, subfolder
            As in ``huggingface_hub``.
        **kwargs
            Arguments of the class, over what the files say.

        Raises
        ------
        CheckpointError
            If files are missing or damaged.
        UnsupportedError
            If the tokenizer is of another kind.
        TypeError
            For an unknown keyword.
        """
        source = Source(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            subfolder=subfolder,
        )
        files = read_files(source)
        known = set(inspect.signature(cls).parameters)
        unknown = [name for name in kwargs if name not in known]
        if unknown:
            raise TypeError(f"from_pretrained() got an unexpected keyword argument {unknown[0]!r}")
        kept = {key: value for key, value in files.fields.items() if key not in known}
        options: dict[str, Any] = {
            "name_or_path": source.name,
            "added_tokens_decoder": files.added,
            "tokenizer_file": files.description,
            "vocab_file": files.vocabulary,
            **{key: value for key, value in files.fields.items() if key in known},
            **kwargs,
        }
        if "max_len" in kept:  # the name of old files
            options.setdefault("model_max_length", kept.pop("max_len"))
        try:
            tokenizer = cls(**options)
        except (TypeError, ValueError) as error:
            if kwargs or isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{source.name}: {error}") from error
        tokenizer._extra_fields = kept
        return tokenizer

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        """Write the tokenizer into a folder, in the form that transformers reads.

        Parameters
        ----------
        save_directory : str or path
            Is made if it is missing.
        legacy_format : bool, optional
            True: ``vocab.txt`` alone; False: ``tokenizer.json`` alone; None: both.  The configuration and
            the roles of tokens are always written.
        filename_prefix : str, optional
            Written before each name, with a hyphen.

        Returns
        -------
        tuple of str
            The files written.

        Raises
        ------
        NotADirectoryError
            If `save_directory` is a file.
        ValueError
            If `legacy_format` is true and the tokenizer is not one of wordpieces.
        OSError
            If a file cannot be written; it is then as it was.
        """
        is_wordpiece = type(self._tokenizer.model).__name__ == "WordPiece"
        if legacy_format and not is_wordpiece:
            raise ValueError("legacy_format: True needs wordpieces; this tokenizer has another model")
        vocabulary = None
        if legacy_format is not False and is_wordpiece:
            vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        return write_files(
            Path(save_directory),
            f"{filename_prefix}-" if filename_prefix else "",
            config=self._config(),
            added=self.added_tokens_decoder,
            roles=self.special_tokens_map_extended,
            vocabulary=vocabulary,
            extra={t: i for t, i in self.added_tokens_encoder.items() if i >= self.vocab_size},
            description=None if legacy_format else self._tokenizer.to_str(pretty=True),
        )

    def _config(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            **self._extra_fields,
            "do_lower_case": self.do_lower_case,
            "tokenize_chinese_chars": self.tokenize_chinese_chars,
            "strip_accents": self.strip_accents,
            "model_max_length": self.model_max_length,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "tokenizer_class": "BertTokenizer",
            **self.special_tokens_map,
        }
        for name in ("padding_side", "truncation_side"):
            if getattr(self, name) != "right":
                fields[name] = getattr(self, name)
        return fields

    # ---- state ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        added = "\n\t".join(f"{index}: {token!r}," for index, token in self.added_tokens_decoder.items())
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, is_fast={self.is_fast}, "
            f"padding_side={self.padding_side!r}, truncation_side={self.truncation_side!r}, "
            f"special_tokens={self.special_tokens_map}, "
            f"clean_up_tokenization_spaces={self.clean_up_tokenization_spaces}), "
            f" added_tokens_decoder={{\n\t{added}\n}}"
        )


BertTokenizer = BertTokenizerFast


def _direction(settings: Mapping[str, Any] | None) -> str:
    """Side of the truncation or padding that a ``tokenizer.json`` describes."""
    return str(settings["direction"]).lower() if settings else "right"


def _set_normalizer(
    backend: Tokenizer, lower_case: bool | None, chinese: bool | None, accents: bool | None
) -> tuple[bool, bool, bool | None]:
    """Change BERT's normalizer where asked, and return what it does then."""
    from tokenizers import normalizers

    old = backend.normalizer
    if not isinstance(old, normalizers.BertNormalizer):
        # Another one has no such switches: as in the original, what is asked for has no effect.
        return lower_case is not False, chinese is not False, accents
    asked = (
        old.lowercase if lower_case is None else lower_case,
        old.handle_chinese_chars if chinese is None else chinese,
        old.strip_accents if accents is None else accents,
    )
    if asked != (old.lowercase, old.handle_chinese_chars, old.strip_accents):
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=old.clean_text,
            lowercase=asked[0],
            handle_chinese_chars=asked[1],
            strip_accents=asked[2],
        )
    return asked

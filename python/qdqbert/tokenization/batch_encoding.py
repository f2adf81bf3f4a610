# SPDX-License-Identifier: Apache-2.0
"""`BatchEncoding`: what a tokenizer returns, and the way back from tokens to words and characters.

A dictionary of what a model takes, with attributes.  Beside it stand the `tokenizers.Encoding` objects it was
made from, which know for every token the word and the characters it comes from.  Names and results are those
of transformers' class; two of its defects are not: negative token and word indices work, and a conversion
that fails leaves the dictionary as it was.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from qdqbert.device import Device
from qdqbert.errors import UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["BatchEncoding", "CharSpan", "TokenSpan", "refuse_foreign_tensors"]

_FOREIGN = {"pt": "PyTorch", "tf": "TensorFlow", "jax": "JAX", "mlx": "MLX"}


class CharSpan(NamedTuple):
    """Characters ``start`` .. ``end - 1`` of the original text.

    Attributes
    ----------
    start, end : int
    """

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens ``start`` .. ``end - 1`` of an encoding.

    Attributes
    ----------
    start, end : int
    """

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """Model inputs with their origin.

    Parameters
    ----------
    data : mapping of str to list or ndarray, optional
        ``input_ids``, ``attention_mask``, ...; keys are also attributes.
    encoding : tokenizers.Encoding or sequence of them, optional
        What `data` was made from, one for each row.
    tensor_type : {None, "np"}
        Convert lists to arrays.
    prepend_batch_axis : bool
        Make a batch of one out of `data` while converting.
    n_sequences : int, optional
        1 for texts, 2 for pairs; taken from `encoding` if left out.

    Raises
    ------
    ValueError
        If a list cannot become an array, or `tensor_type` is unknown.
    UnsupportedError
        For tensors of other packages.

    Examples
    --------
    >>> batch = BatchEncoding({"input_ids": [[2, 5, 3]]}, tensor_type="np")
    >>> batch.input_ids.shape, "attention_mask" in batch
    ((1, 3), False)
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data)
        encodings = encoding if encoding is None or isinstance(encoding, Sequence) else [encoding]
        self._encodings = None if encodings is None else list(encodings)
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    # ---- the dictionary ------------------------------------------------------------------------------------

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError(f"expected a string, or a slice of the rows, got {item!r}; there are no encodings")

    def __getattr__(self, item: str) -> Any:
        # Copying and unpickling ask for attributes before there is a `data`.
        try:
            return self.__dict__["data"][item]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute or key {item!r}") from None

    # ---- where it comes from -------------------------------------------------------------------------------

    @property
    def n_sequences(self) -> int | None:
        """Number of texts in a row: 1, 2 for pairs, None if unknown."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether there are `encodings`."""
        return self._encodings is not None

    @property
    def encodings(self) -> list[Encoding] | None:
        """What the rows were made from."""
        return self._encodings

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row.

        Parameters
        ----------
        batch_index : int
            Row.

        Raises
        ------
        ValueError
            If there are no encodings.
        """
        return list(self._encoding("tokens", batch_index).tokens)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token of a row 0 or 1, the text it is from; None for special tokens.

        Parameters
        ----------
        batch_index : int
            Row.

        Raises
        ------
        ValueError
            If there are no encodings.
        """
        return list(self._encoding("sequence_ids", batch_index).sequence_ids)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token of a row the index of its word in its text; None for special tokens.

        Parameters
        ----------
        batch_index : int
            Row.

        Raises
        ------
        ValueError
            If there are no encodings.
        """
        return list(self._encoding("word_ids", batch_index).word_ids)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return which text of a pair a token is from: 0, 1, or None for a special token.

        Parameters
        ----------
        batch_or_token_index : int
            Row; the token of row 0 if `token_index` is left out.
        token_index : int, optional
            Token; negative ones count from the end.
        """
        encoding, index = self._token("token_to_sequence", batch_or_token_index, token_index)
        sequence: int | None = encoding.token_to_sequence(index)
        return sequence

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the index of the word that a token is from, or None.

        Parameters
        ----------
        batch_or_token_index, token_index
            As in `token_to_sequence`.
        """
        encoding, index = self._token("token_to_word", batch_or_token_index, token_index)
        word: int | None = encoding.token_to_word(index)
        return word

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters that a token is from, or None.

        Parameters
        ----------
        batch_or_token_index, token_index
            As in `token_to_sequence`.
        """
        encoding, index = self._token("token_to_chars", batch_or_token_index, token_index)
        span = encoding.token_to_chars(index)
        return None if span is None else CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens of a word, or None if it has none.

        Parameters
        ----------
        batch_or_word_index : int
            Row; the word of row 0 if `word_index` is left out.
        word_index : int, optional
        sequence_index : int
            Text of a pair, 0 or 1.
        """
        encoding, index = self._place("word_to_tokens", batch_or_word_index, word_index)
        span = encoding.word_to_tokens(index, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of a word, or None if it has none.

        Parameters
        ----------
        batch_or_word_index, word_index, sequence_index
            As in `word_to_tokens`.
        """
        encoding, index = self._place("word_to_chars", batch_or_word_index, word_index)
        span = encoding.word_to_chars(index, sequence_index)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the token that holds a character, or None (white space, or cut off).

        Parameters
        ----------
        batch_or_char_index : int
            Row; the character of row 0 if `char_index` is left out.
        char_index : int, optional
            In the original text.
        sequence_index : int
            Text of a pair, 0 or 1.
        """
        encoding, index = self._place("char_to_token", batch_or_char_index, char_index)
        token: int | None = encoding.char_to_token(index, sequence_index)
        return token

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the word that holds a character, or None.

        Parameters
        ----------
        batch_or_char_index, char_index, sequence_index
            As in `char_to_token`.
        """
        encoding, index = self._place("char_to_word", batch_or_char_index, char_index)
        word: int | None = encoding.char_to_word(index, sequence_index)
        return word

    def _encoding(self, method: str, batch_index: int) -> Encoding:
        if not self._encodings:
            raise ValueError(f"{method}: this batch was made without a tokenizer and has no encodings")
        return self._encodings[batch_index]

    def _place(self, method: str, first: int, second: int | None) -> tuple[Encoding, int]:
        """Resolve the two forms of the methods above to an encoding and an index."""
        row, index = (0, first) if second is None else (first, second)
        return self._encoding(method, row), index

    def _token(self, method: str, first: int, second: int | None) -> tuple[Encoding, int]:
        encoding, index = self._place(method, first, second)
        return encoding, index + len(encoding) if index < 0 else index

    # ---- arrays --------------------------------------------------------------------------------------------

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> Self:
        """Turn lists into arrays, in place.

        Rows of different lengths become an array of objects, one array each, as in the original.

        Parameters
        ----------
        tensor_type : {None, "np"}
            None changes nothing.
        prepend_batch_axis : bool
            Make a batch of one.

        Raises
        ------
        ValueError
            If a list cannot become an array, or `tensor_type` is unknown.
        UnsupportedError
            For tensors of other packages.
        """
        if tensor_type is None:
            return self
        refuse_foreign_tensors("tensor_type", tensor_type)
        arrays = {}
        for key, value in self.data.items():
            try:
                arrays[key] = _as_array([value] if prepend_batch_axis else value)
            except (ValueError, TypeError, IndexError) as error:
                raise ValueError(
                    f"{key}: cannot become an array: {error}; padding=True and truncation=True give rows of "
                    "one length"
                ) from error
        self.data.update(arrays)
        return self

    def to(self, device: Any) -> Self:
        """Return itself: arrays are in main memory, where models take them from.

        Parameters
        ----------
        device : Device, or "cpu"
            Code for other packages says ``inputs.to(model.device)``.

        Raises
        ------
        UnsupportedError
            For any other device.
        """
        if isinstance(device, Device) or str(device) == "cpu":
            return self
        raise UnsupportedError(f"device: NumPy arrays cannot be moved to {device!r}")


def refuse_foreign_tensors(argument: str, tensor_type: str | None) -> None:
    """Let None and "np" pass.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    tensor_type : str or None

    Raises
    ------
    UnsupportedError
        For tensors of other packages.
    ValueError
        For anything else.
    """
    if tensor_type in _FOREIGN:
        raise UnsupportedError(
            f"{argument}: {tensor_type!r} needs {_FOREIGN[tensor_type]}, which this package never loads; "
            "'np' gives NumPy arrays, which every framework takes"
        )
    if tensor_type not in (None, "np"):
        raise ValueError(f"{argument}: expected None or 'np', got {tensor_type!r}")


def _as_array(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple | np.ndarray):
        if len({len(row) for row in value}) > 1:
            rows = np.empty(len(value), dtype=object)
            rows[:] = [np.asarray(row) for row in value]
            return rows
    elif isinstance(value, list | tuple) and not value:
        return np.zeros((0, 0), dtype=np.int64)
    return np.asarray(value)

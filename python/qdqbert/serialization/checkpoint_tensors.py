# SPDX-License-Identifier: Apache-2.0
"""The tensors of a checkpoint by name, whatever holds them: files of any kind, or a state dict in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.errors import CheckpointError
from qdqbert.serialization.key_names import wrapping_prefix
from qdqbert.serialization.safetensors_file import SafetensorsFile
from qdqbert.serialization.stored_tensor import StoredTensor
from qdqbert.serialization.tensorflow_bundle import TensorflowBundle
from qdqbert.serialization.tensorflow_names import head_of, torch_names
from qdqbert.serialization.torch_file import TorchFile
from qdqbert.serialization.weight_files import WeightFiles

__all__ = ["Checkpoint", "Tensor", "open_bundle", "open_weights", "tensors_of_state_dict"]

_logger = logging.getLogger(__name__)

_COMPARED_NUMBERS = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint.

    Attributes
    ----------
    shape : tuple of int
    count : int
        Numbers that the checkpoint holds for it: those that it shares with another tensor belong to the first
        one, so that a small file cannot pretend to be a large one.
    read_into : callable (ndarray) -> None
        Write it as float32 into memory of that shape.
    rows : callable (int, int) -> Tensor
        The part with the first index from one number to before another.
    read_codes : callable (ndarray or None) -> ndarray, int8, optional
        Return it as it is, perhaps in the memory that is given; there if the numbers are int8.
    find_codes : callable () -> ndarray, int8, or (int, int), optional
        Return it where it lies: in memory, or (descriptor, byte) in an open file; there with `read_codes`.
    mapped : callable () -> ndarray or None, optional
        Return it in the memory of its file, if it can be; there if it is in a file.
    source : str
        Where it is from, for messages.
    """

    shape: tuple[int, ...]
    count: int
    read_into: Callable[[npt.NDArray[np.float32]], None]
    rows: Callable[[int, int], Tensor]
    read_codes: Callable[[npt.NDArray[np.int8] | None], npt.NDArray[np.int8]] | None = None
    find_codes: Callable[[], npt.NDArray[np.int8] | tuple[int, int]] | None = None
    mapped: Callable[[], npt.NDArray[np.float32] | None] | None = None
    source: str = "state_dict"

    def equals(self, values: npt.NDArray[np.float32]) -> bool:
        """Whether the tensor has exactly these values; compared some rows at a time.

        Parameters
        ----------
        values : ndarray, float32
            Of the tensor's shape.
        """
        if not values.size:
            return True
        if values.ndim == 0:
            mine = np.empty((), np.float32)
            self.read_into(mine)
            return bool(np.array_equal(mine, values, equal_nan=True))
        step = max(1, _COMPARED_NUMBERS // (values.size // len(values)))
        for begin in range(0, len(values), step):
            theirs = values[begin : begin + step]
            mine = np.empty(theirs.shape, np.float32)
            self.rows(begin, begin + len(theirs)).read_into(mine)
            if not np.array_equal(mine, theirs, equal_nan=True):
                return False
        return True


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a checkpoint.

    Attributes
    ----------
    tensors : dict of str to Tensor
        By the checkpoint's names.
    named_for : callable (collection of str) -> dict of str to Tensor
        By the names of a state dict, given those of a model: which head a variable of TensorFlow belongs to,
        only the model says.
    """

    tensors: dict[str, Tensor]
    named_for: Callable[[Collection[str]], dict[str, Tensor]]


@contextlib.contextmanager
def open_bundle(prefix: Path) -> Iterator[Checkpoint]:
    """Open an original TensorFlow checkpoint.

    Parameters
    ----------
    prefix : path
        What the names of its files start with.

    Raises
    ------
    CheckpointError, UnsupportedError
        As `TensorflowBundle`; `named_for` also if a variable is damaged.
    """
    with TensorflowBundle(prefix) as bundle:

        def named_for(slots: Collection[str]) -> dict[str, Tensor]:
            names = torch_names(bundle.tensors, head_of(slots))
            bundle.verify(variable for variable, _ in names.values())
            return {
                name: _of_stored(
                    bundle.tensors[variable].transposed() if is_turned else bundle.tensors[variable]
                )
                for name, (variable, is_turned) in names.items()
            }

        yield Checkpoint({name: _of_stored(each) for name, each in bundle.tensors.items()}, named_for)


@contextlib.contextmanager
def open_weights(files: WeightFiles) -> Iterator[Checkpoint]:
    """Open files of weights and give their tensors by name, without wrappers' prefixes.

    Parameters
    ----------
    files : WeightFiles

    Raises
    ------
    CheckpointError
        If a file is damaged or something else, or two files hold a tensor of one name.
    """
    with contextlib.ExitStack() as stack:
        tensors: dict[str, Tensor] = {}
        for path in files.paths:
            file = files.open(path)
            stack.callback(file.close)
            for name, tensor in _tensors_of(file).items():
                if name in tensors:
                    raise CheckpointError(f"{path}: {name} is in another file of this checkpoint too")
                tensors[name] = tensor
        yield _as_named(tensors)


def _tensors_of(file: SafetensorsFile | TorchFile) -> dict[str, Tensor]:
    counts: dict[str, int] = {}
    if isinstance(file, TorchFile):
        counts = file.stored_counts
        if file.wrapper is not None:
            _logger.info("%s: the state dict was found under %r.", file.path, file.wrapper)
        if file.others:
            more = f" and {len(file.others) - 5} more" if len(file.others) > 5 else ""
            _logger.info("%s: not tensors: %s%s.", file.path, ", ".join(file.others[:5]), more)
    return {name: _of_stored(each, counts.get(name)) for name, each in file.tensors.items()}


def _of_stored(stored: StoredTensor, count: int | None = None) -> Tensor:
    return Tensor(
        stored.shape,
        math.prod(stored.shape) if count is None else count,
        stored.read_into,
        lambda begin, end: _of_stored(stored.rows(begin, end), 0),
        stored.read_codes if stored.number_format == "I8" else None,
        stored.place_of_codes if stored.number_format == "I8" else None,
        stored.mapped,
        str(stored.file.path),
    )


def tensors_of_state_dict(state_dict: Mapping[str, Any]) -> Checkpoint:
    """Give the tensors of a state dict in memory, without wrappers' prefixes.

    Parameters
    ----------
    state_dict : mapping of str to array
        Arrays, or what NumPy can read as one.

    Raises
    ------
    CheckpointError
        If a value is no array of numbers.
    """
    tensors = {}
    for name, value in state_dict.items():
        if not isinstance(name, str):
            raise CheckpointError(f"state_dict: expected names as keys, got {name!r:.80}")
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"state_dict: {name}: NumPy cannot read it: {error}") from error
        if array.dtype.kind not in "fiub":
            raise CheckpointError(f"state_dict: {name}: expected numbers, got {array.dtype}")
        tensors[name] = _of_array(array)
    return _as_named(tensors)


def _of_array(array: npt.NDArray[Any]) -> Tensor:
    return Tensor(
        array.shape,
        array.size,
        lambda target: np.copyto(target, array, casting="unsafe"),
        lambda begin, end: _of_array(array[begin:end]),
        (lambda buffer: np.ascontiguousarray(array)) if array.dtype == np.int8 else None,
        (lambda: np.ascontiguousarray(array)) if array.dtype == np.int8 else None,
    )


def _as_named(tensors: dict[str, Tensor]) -> Checkpoint:
    prefix = wrapping_prefix(tensors)
    if prefix:
        _logger.info("Every name starts with %r, the mark of a wrapped model; it was left out.", prefix)
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return Checkpoint(tensors, lambda slots: tensors)

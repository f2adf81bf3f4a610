# SPDX-License-Identifier: Apache-2.0
"""``pytorch_model.bin``, read without PyTorch and without unpickling: see `pickle_machine`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from qdqbert.serialization.data_file import DataFile
from qdqbert.serialization.pickle_machine import PickleError
from qdqbert.serialization.stored_tensor import FORMAT_BYTES, StoredTensor
from qdqbert.serialization.torch_legacy import read_legacy
from qdqbert.serialization.torch_objects import state_dict_of
from qdqbert.serialization.torch_zip import read_zip

__all__ = ["TorchFile"]


class TorchFile:
    """A file of ``torch.save``, open for reading; a context manager.

    Both containers are read, the ZIP archive of PyTorch 1.6 and the older row of pickles; which one it is
    shows in the first bytes, not in the name.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    tensors : dict of str to StoredTensor
        The state dict.
    others : list of str
        Names in the state dict whose values are no tensors.
    wrapper : str or None
        Where the state dict was found inside what was saved; None: it is what was saved.
    stored_counts : dict of str to int
        Numbers of the file that each tensor adds: those of its storage for the first tensor over it, none for
        further ones.

    Raises
    ------
    CheckpointError
        If the file is missing, is something else or damaged, holds something else than tensors and plain
        containers, or no state dict.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = DataFile(path)
        self.path: Path = self._file.path
        try:
            self._open()
        except PickleError as error:
            self._file.close()
            raise self._file.fail(str(error)) from error
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        file = self._file
        start = file.read(0, min(file.size, 4), "the first bytes")
        if start == b"PK\x03\x04":
            value, begins = read_zip(file)
        elif start[:1] == b"\x80":
            value, begins = read_legacy(file)
        else:
            raise file.refuse_foreign("a file of torch.save")
        self.others: list[str]
        self.wrapper: str | None
        records, self.others, self.wrapper = state_dict_of(value)
        self.tensors: dict[str, StoredTensor] = {}
        self.stored_counts: dict[str, int] = {}
        counted: set[str] = set()
        for name, record in records.items():
            storage = record.storage
            begin = begins[storage.key] + storage.first * storage.bytes_per_number
            begin += record.offset * FORMAT_BYTES[record.number_format]
            self.tensors[name] = StoredTensor(
                file, name, record.number_format, record.shape, record.strides, begin
            )
            numbers = storage.whole_count * storage.bytes_per_number // FORMAT_BYTES[record.number_format]
            self.stored_counts[name] = 0 if storage.key in counted else numbers
            counted.add(storage.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

# SPDX-License-Identifier: Apache-2.0
"""A file of weights, open for reading at any place.

Reads are positioned, so nothing depends on a shared file position; they are not mapped, because a mapped file
counts its pages as the process's memory, and one that shrinks meanwhile kills the process.  The exception are
the tables of a frozen model, of which few rows are ever read: `DataFile.map` shares them with the file.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Self

from qdqbert.errors import CheckpointError
from qdqbert.serialization.foreign_files import HEAD_BYTES, describe_foreign

__all__ = ["DataFile"]


class DataFile:
    """An open file; a context manager.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    size : int
        Bytes, when it was opened.

    Raises
    ------
    CheckpointError
        If there is no such file, or it is a folder or a device.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        try:
            # A pipe would otherwise wait for its writer.
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise self.fail(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        facts = os.fstat(self._descriptor)
        if not stat.S_ISREG(facts.st_mode):
            self.close()
            raise self.fail(
                "is a folder, expected a file" if stat.S_ISDIR(facts.st_mode) else "is no regular file"
            )
        self.size: int = facts.st_size

    @property
    def descriptor(self) -> int:
        """Of the open file, for whoever reads at places of it without Python."""
        return self._descriptor

    def fail(self, text: str) -> CheckpointError:
        """Return the error to raise about this file.

        Parameters
        ----------
        text : str
            What follows the path and a colon.
        """
        return CheckpointError(f"{self.path}: {text}")

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def head(self) -> bytes:
        """Return the first bytes, for `describe_foreign`."""
        return self.read(0, min(self.size, HEAD_BYTES), "its first bytes")

    def refuse_foreign(self, expected: str) -> CheckpointError:
        """Return the error for a file that does not begin as its format does.

        Parameters
        ----------
        expected : str
            What it should be, such as ``"a safetensors file"``.
        """
        kind = describe_foreign(self.head())
        return self.fail(f"is {kind}" if kind else f"is not {expected}: begins with {self.head()[:16]!r}")

    def read(self, offset: int, count: int, what: str) -> bytes:
        """Return `count` bytes from `offset` on.

        Parameters
        ----------
        offset, count : int
        what : str
            What lies there, for the message.

        Raises
        ------
        CheckpointError
            If the file ends before or cannot be read; nothing of that size was allocated then.
        """
        self.require(offset, count, what)
        data = bytearray(count)
        self.read_into(offset, memoryview(data), what)
        return bytes(data)

    def require(self, offset: int, count: int, what: str) -> None:
        """Refuse `count` bytes from `offset` on that are not all in the file; errors as `read`.

        Parameters
        ----------
        offset, count : int
        what : str
            What lies there, for the message.
        """
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self.fail(f"cut off inside {what}: it ends at byte {offset + count} of {self.size}")

    def map(self, offset: int, count: int, what: str) -> memoryview:
        """Return `count` bytes from `offset` on as read-only memory that is the file's.

        The file must not be cut or written in place meanwhile; one that takes its name by a rename changes
        nothing.

        Parameters
        ----------
        offset, count : int
        what : str
            What lies there, for the message.

        Raises
        ------
        CheckpointError
            If the file ends before, or cannot be mapped.
        """
        if offset < 0 or count < 1 or offset + count > self.size:
            raise self.fail(f"cut off inside {what}: it ends at byte {offset + count} of {self.size}")
        first = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(
                self._descriptor, offset + count - first, access=mmap.ACCESS_READ, offset=first
            )
        except (OSError, ValueError) as error:
            raise self.fail(f"{what}: cannot be mapped: {error}") from error
        return memoryview(mapped)[offset - first :]

    def read_into(self, offset: int, target: memoryview, what: str) -> None:
        """Fill memory from the file; errors as `read`.

        Parameters
        ----------
        offset : int
        target : memoryview
            Contiguous bytes.
        what : str
            What lies there, for the message.
        """
        while target.nbytes:
            try:
                count = os.preadv(self._descriptor, [target], offset)
            except OSError as error:
                raise self.fail(f"{what}: cannot be read: {error.strerror}") from error
            if not count:
                raise self.fail(f"cut off inside {what}")
            target = target[count:]
            offset += count

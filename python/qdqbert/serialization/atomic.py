# SPDX-License-Identifier: Apache-2.0
"""Replace files at once: readers see the old content or the new one, whatever stops the writer.

The new content goes to a temporary file in the same folder, is flushed to the disk, takes the place of the
old file by ``os.replace``, and the folder entry is flushed too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["flush_folder", "lock", "naming", "new_file_mode", "replacing", "write_text"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` when the block ends without an exception.

    Parameters
    ----------
    path : Path
        In a folder that exists.

    Raises
    ------
    OSError
        If the file cannot be written, with its name, or `path` is a device, a pipe or a folder; it is as it
        was and the temporary file is gone.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        # Root may rename a file over /dev/null, and from then on it is one for everybody.
        raise FileExistsError(errno.EEXIST, "is no regular file and is not replaced", os.fspath(path))
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        lock(descriptor)
        with naming(path), os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), new_file_mode())
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, replacing an old one at once.

    Parameters
    ----------
    path : path
    text : str
    """
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of a file into an error that has none, as that of a write on a full disk.

    Parameters
    ----------
    path : path
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def lock(descriptor: int) -> None:
    """Mark a temporary file as that of a living writer; closing it, or dying, takes the mark away.

    Parameters
    ----------
    descriptor : int
    """
    # Some network file systems have no locks; then nothing removes what killed writers leave either.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def new_file_mode() -> int:
    """Return the mode that ``open`` would give a file: `tempfile`'s locks others out of a shared model."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def flush_folder(folder: Path) -> None:
    """Write the names of a folder's files to the disk.

    Parameters
    ----------
    folder : path
    """
    # Some file systems refuse to open or to flush a folder; the file itself is safe by then.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

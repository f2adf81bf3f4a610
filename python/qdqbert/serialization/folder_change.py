# SPDX-License-Identifier: Apache-2.0
"""Replace several files of a folder as one: a reader finds all the old ones or all the new ones.

A file alone is replaced at once by a rename; several files are several renames, between which a process may
be killed, and the configuration of one model would stand beside the weights of another.  So the renames are
written down first:

1. every new file is written under a temporary name in the folder, and flushed to the disk;
2. a *journal*, ``.qdqbert-save.json``, that lists the renames to be made and the files to be removed takes
   its place by a rename.  From here on the folder means the new files;
3. the renames are made, the old files removed, and then the journal.

Whoever is killed before step 2 has changed nothing that anybody reads; after it, readers of this package
(`pending_files`) take the new files from under their temporary names, and the next writer finishes the work.
Other programs know nothing of journals: for them a kill within step 3, a few renames long, may leave a
mixture until the folder is saved again; and a reader that opens one file before that step and another one
after it gets both models, as with any two renames.  Temporary files of writers that were killed are removed
by the next one; those of living writers are known by the lock on them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from qdqbert.errors import CheckpointError
from qdqbert.serialization.atomic import flush_folder, lock, naming, new_file_mode

__all__ = ["JOURNAL_NAME", "FolderChange", "pending_files", "sweep"]

JOURNAL_NAME = ".qdqbert-save.json"
_FORMAT = 1
_MAX_JOURNAL_BYTES = 1 << 20
# A journal may come with a downloaded folder: it can name nothing but what a save writes.
_MANAGED = re.compile(r"(generation_)?config\.json|model[\w.-]*\.(safetensors|json)")
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")


class FolderChange:
    """New files for a folder, and files to be removed from it; a context manager that commits at its end.

    Parameters
    ----------
    folder : path
        That exists. A change that a killed process left half done is finished first.

    Raises
    ------
    CheckpointError
        If the journal of another change is damaged.
    OSError
        If a file cannot be written, renamed or removed. Before the journal stands, the folder is as it was.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with FolderChange(folder) as change:
    ...     change.write_text("config.json", "{}")
    >>> [path.name for path in folder.iterdir()]
    ['config.json']
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder: Path = Path(folder)
        self._temporaries: dict[str, str] = {}
        self._locks: list[int] = []
        self._removed: list[str] = []

    def __enter__(self) -> Self:
        _finish(self.folder)
        sweep(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            # Once the journal stands, the temporary files are the model.
            if (self.folder / JOURNAL_NAME).exists():
                # Other programs know no journal: what stopped this should not leave them a mixture.
                with contextlib.suppress(OSError, CheckpointError):
                    _finish(self.folder)
            else:
                for name in self._temporaries.values():
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.folder / name)
            for descriptor in self._locks:
                os.close(descriptor)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file, which is flushed to the disk when the block ends.

        Parameters
        ----------
        name : str
            That it will have in the folder.
        """
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=self.folder)
        self._temporaries[name] = Path(temporary).name
        self._locks.append(descriptor)
        lock(descriptor)
        with naming(self.folder / name), os.fdopen(descriptor, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fchmod(descriptor, new_file_mode())
            os.fsync(descriptor)

    def write_text(self, name: str, text: str) -> None:
        """Write a new file in UTF-8.

        Parameters
        ----------
        name, text : str
        """
        with self.open(name) as file:
            file.write(text.encode())

    def remove(self, name: str) -> None:
        """Remove a file of the folder, if it is still there then.

        Parameters
        ----------
        name : str
        """
        self._removed.append(name)

    def _commit(self) -> None:
        journal = {"format": _FORMAT, "rename": dict(self._temporaries), "remove": self._removed}
        with self.open(JOURNAL_NAME) as file:
            file.write(json.dumps(journal).encode())
        flush_folder(self.folder)
        os.replace(self.folder / self._temporaries[JOURNAL_NAME], self.folder / JOURNAL_NAME)
        _finish(self.folder)


def pending_files(folder: Path) -> tuple[dict[str, Path], set[str]]:
    """Return what a change that is not finished has for a folder.

    Parameters
    ----------
    folder : path

    Returns
    -------
    new : dict of str to path
        Where the new files are, by the names that they will have.
    removed : set of str
        Names that are no longer there, whatever the folder says.

    Raises
    ------
    CheckpointError
        If the journal is damaged.
    """
    renames, removed = _read_journal(folder) or ({}, [])
    return {
        name: folder / temporary for name, temporary in renames.items() if (folder / temporary).is_file()
    }, set(removed)


def _read_journal(folder: Path) -> tuple[dict[str, str], list[str]] | None:
    path = folder / JOURNAL_NAME
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_JOURNAL_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        journal = json.loads(data.decode("utf-8")) if len(data) <= _MAX_JOURNAL_BYTES else None
    except (ValueError, RecursionError):
        journal = None
    if isinstance(journal, dict) and journal.get("format") == _FORMAT:
        renames, removed = journal.get("rename"), journal.get("remove")
        if (
            isinstance(renames, dict)
            and isinstance(removed, list)
            and all(isinstance(name, str) and _MANAGED.fullmatch(name) for name in [*renames, *removed])
            and all(_is_temporary(temporary, name) for name, temporary in renames.items())
        ):
            return renames, removed
    raise CheckpointError(
        f"{path}: is no journal of a save; if nothing is being saved, remove it and save the model again"
    )


def _is_temporary(temporary: object, name: str) -> bool:
    found = _TEMPORARY.fullmatch(temporary) if isinstance(temporary, str) else None
    return found is not None and found[1] == name


def _finish(folder: Path) -> None:
    """Do what the journal says, as often as it takes."""
    journal = _read_journal(folder)
    if journal is None:
        return
    renames, removed = journal
    for name, temporary in renames.items():
        # Who did this before was killed later.
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / temporary, folder / name)
    for name in removed:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / name)
    flush_folder(folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / JOURNAL_NAME)
    flush_folder(folder)


def sweep(folder: Path) -> None:
    """Remove temporary files whose writers are gone, of this module and of `qdqbert.serialization.atomic`.

    Parameters
    ----------
    folder : path
        That exists.
    """
    for path in folder.iterdir():
        if not _TEMPORARY.fullmatch(path.name):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except OSError:
            pass
        finally:
            os.close(descriptor)

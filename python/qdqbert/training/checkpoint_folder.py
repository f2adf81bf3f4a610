# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders of a run: written whole or not at all, found, rotated, checked.

``checkpoint-N`` is made under another name beside it (``.checkpoint-N.XXXXXXXX.new``), every file and the
folder itself are flushed to the disk, and only then does it get its name by a rename.  So whatever stops the
process, and whenever, a folder with such a name is complete.  An old one that is to be replaced or deleted is
renamed first (``.checkpoint-N.XXXXXXXX.old``), so that it is never half there either; what a killed process
left is cleared by the next run: `clear_leftovers` puts an old one back whose successor did not arrive, and
removes the rest.

A folder may still be damaged afterwards, by a copy that was cut off or a disk that forgets.
`progress.json` has the size and the CRC-32 of every file, and its own: a folder in which it or a size does
not match is not taken for a checkpoint, and nothing is read from one whose sums do not match.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qdqbert.errors import CheckpointError, StateError
from qdqbert.serialization.atomic import flush_folder, lock, new_file_mode, write_text
from qdqbert.serialization.folder import read_json
from qdqbert.serialization.folder_change import sweep

__all__ = [
    "OPTIMIZER_NAME",
    "PROGRESS_NAME",
    "SCHEDULER_NAME",
    "STATE_NAME",
    "checkpoints",
    "clear_leftovers",
    "get_last_checkpoint",
    "new_folder",
    "progress_of",
    "remove_folder",
    "require_intact",
    "sole_run",
    "write_progress",
]

STATE_NAME = "trainer_state.json"
PROGRESS_NAME = "progress.json"
OPTIMIZER_NAME = "optimizer.safetensors"
SCHEDULER_NAME = "scheduler.json"

_SUM = "crc32"  # of all else in progress.json
_NAME = re.compile(r"checkpoint-(\d{1,18})")
_LEFTOVER = re.compile(r"\.(checkpoint-\d{1,18})\.[a-z0-9_]{8}\.(new|old|gone)")

_logger = logging.getLogger(__name__)


# ---- one run at a time -------------------------------------------------------------------------------------


@contextlib.contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while the block runs; a process that dies lets go of it.

    Parameters
    ----------
    folder : Path
        Made if it is missing.

    Raises
    ------
    StateError
        If another run has it.
    OSError
        If it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(
                f"output_dir: another run is training in {folder}, and two would overwrite each other's "
                "checkpoints; wait for its end, or name another folder"
            ) from None
        except OSError:  # some network file systems have no locks
            yield
            return
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for children, which have the descriptor too
    finally:
        os.close(descriptor)


# ---- writing -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of `path`, with all its files, when the block ends.

    Parameters
    ----------
    path : Path
        Named ``checkpoint-N``; its parent is made if it is missing.

    Raises
    ------
    OSError
        If something cannot be written.  What was at `path` is there as it was, and the new files are gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent))
    descriptor = None
    try:
        # Marks it as that of a living writer, see `clear_leftovers`.
        descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        lock(descriptor)
        yield temporary
        os.chmod(temporary, _new_folder_mode())
        _flush_tree(temporary)
        _put(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Delete a checkpoint; one that cannot be deleted is told in the log.

    Parameters
    ----------
    path : Path
    """
    try:
        gone = _set_aside(path, "gone")
    except OSError as error:
        _logger.warning("%s: cannot be deleted: %s", path, error.strerror)
        return
    shutil.rmtree(gone, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Finish or undo what a killed process had begun in the folder of a run.

    Parameters
    ----------
    folder : Path
        Of the checkpoints; need not exist.
    """
    if not folder.is_dir():
        return
    sweep(folder)
    for path in sorted(folder.iterdir()):
        found = _LEFTOVER.fullmatch(path.name)
        if found is None or path.is_symlink() or not path.is_dir() or _is_in_use(path):
            continue
        if found[2] == "old" and not (folder / found[1]).exists() and _is_whole(path):
            os.rename(path, folder / found[1])
            flush_folder(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def write_progress(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``progress.json``, with sizes and sums of the other files: the last one of a new checkpoint.

    Parameters
    ----------
    folder : Path
        That `new_folder` gave, with all the others in it.
    content : mapping
        What else it has, as JSON can hold it.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    # As it will be read: numbers among the keys become texts.
    progress = json.loads(json.dumps({**content, "files": _files_of(folder)}))
    text = json.dumps({**progress, _SUM: _sum_of(progress)}, indent=2)
    write_text(folder / PROGRESS_NAME, text + "\n")


def _files_of(folder: Path) -> dict[str, dict[str, int]]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": _crc32(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / PROGRESS_NAME
    }


def _sum_of(progress: Mapping[str, Any]) -> int:
    """Return the CRC-32 of what ``progress.json`` says, however it is laid out."""
    return zlib.crc32(json.dumps(progress, sort_keys=True).encode())


def _put(temporary: Path, path: Path) -> None:
    """Give a complete folder its name."""
    old = _set_aside(path, "old") if path.exists() else None
    try:
        os.rename(temporary, path)
    except BaseException:
        if old is not None:
            os.rename(old, path)
        raise
    flush_folder(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _set_aside(path: Path, kind: str) -> Path:
    """Rename a checkpoint to a name that nobody takes for one."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=f".{kind}", dir=path.parent))
    try:
        os.rename(path, aside)  # over the empty folder
    except BaseException:
        with contextlib.suppress(OSError):
            os.rmdir(aside)
        raise
    return aside


def _flush_tree(folder: Path) -> None:
    for path, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(path) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        flush_folder(Path(path))


def _crc32(path: Path) -> int:
    found = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found


def _new_folder_mode() -> int:
    mode = new_file_mode()
    return mode | (mode & 0o444) >> 2


def _is_in_use(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


# ---- reading -----------------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, in the order of their steps.

    Parameters
    ----------
    folder : Path
        Need not exist.
    """
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def get_last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """Return the last checkpoint of a run that is complete, or None.

    Parameters
    ----------
    folder : str or path
        The run's ``output_dir``.
    """
    for path in reversed(checkpoints(Path(folder))):
        try:
            progress_of(path)
        except CheckpointError as error:
            _logger.warning("passed over: %s", error)
        else:
            return str(path)
    return None


def progress_of(path: Path) -> dict[str, Any]:
    """Read where a run stood, from a checkpoint whose files are all there.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        Content of ``progress.json``.

    Raises
    ------
    CheckpointError
        If the folder is no checkpoint of this trainer, a file is missing or cut off, or ``progress.json`` has
        changed since it was written.
    """
    if not (path / PROGRESS_NAME).is_file():
        raise CheckpointError(f"{path}: has no {PROGRESS_NAME}, so it is no checkpoint of this trainer")
    progress = read_json(path / PROGRESS_NAME)
    written = progress.pop(_SUM, None)
    if written != _sum_of(progress):
        raise CheckpointError(
            f"{path / PROGRESS_NAME}: {_SUM} is {written!r}, and of all else {_sum_of(progress)}; the file "
            "has changed since the checkpoint was written"
        )
    files = progress.get("files")
    if not isinstance(files, Mapping) or not all(map(_is_file_entry, files.values())):
        raise CheckpointError(f"{path / PROGRESS_NAME}: files: expected bytes and crc32 by name")
    for name, entry in files.items():
        size = entry["bytes"]
        try:
            found = os.stat(path / name).st_size
        except OSError as error:
            raise CheckpointError(
                f"{path / name}: {error.strerror}; the checkpoint is not complete"
            ) from error
        if found != size:
            raise CheckpointError(
                f"{path / name}: expected {size} bytes, found {found}; the checkpoint is not complete"
            )
    return progress


def require_intact(path: Path, progress: Mapping[str, Any]) -> None:
    """Compare every byte of a checkpoint with what was written, by its sums.

    Parameters
    ----------
    path : Path
    progress : mapping
        Its `progress_of`.

    Raises
    ------
    CheckpointError
        If a file has changed since, or cannot be read.
    """
    for name, entry in progress["files"].items():
        try:
            found = _crc32(path / name)
        except OSError as error:
            raise CheckpointError(f"{path / name}: {error.strerror}") from error
        if found != entry["crc32"]:
            raise CheckpointError(
                f"{path / name}: expected CRC-32 {entry['crc32']:08x}, found {found:08x}; the file has "
                "changed since the checkpoint was written"
            )


def _is_whole(path: Path) -> bool:
    try:
        progress_of(path)
    except CheckpointError:
        return False
    return True


def _is_file_entry(value: Any) -> bool:
    return isinstance(value, Mapping) and _is_count(value.get("bytes")) and _is_count(value.get("crc32"))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

# SPDX-License-Identifier: Apache-2.0
"""Where the files of a model are: a folder, or a repository on the Hugging Face hub.

A folder never touches the network.  Files of the hub come through ``huggingface_hub``, which is imported on
first use and brings its own cache, its tokens and its environment variables (``HF_HOME``, ``HF_HUB_OFFLINE``,
...).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from qdqbert.errors import CheckpointError
from qdqbert.serialization.folder_change import pending_files
from qdqbert.serialization.foreign_files import HEAD_BYTES, describe_foreign

__all__ = ["Source", "json_object", "read_json"]

# A million labels; as Python objects twenty times as much.
_MAX_JSON_BYTES = 16 << 20
# Seconds that the hub may take to answer at all.
_PATIENCE = 5.0
# "name" or "owner/name", as the hub allows them.
_HUB_NAME = re.compile(r"(?!.*(?:--|\.\.))(?:\w[\w.-]*/)?\w[\w.-]*(?<![.-])", re.ASCII)
# Code that copies or compares values recurses, in Python, deeper than the parser that read them.
_MAX_JSON_DEPTH = 64


class Source:
    """The files of one model.

    Parameters
    ----------
    name_or_path : str or path
        A folder, or ``"owner/name"`` of a repository.
    revision, cache_dir, local_files_only, token
        As in ``huggingface_hub.hf_hub_download``; a folder ignores them.
    subfolder : str
        Folder inside the folder or repository.

    Raises
    ------
    CheckpointError
        If `name_or_path` is a file, or neither a folder nor what a repository can be called.
    """

    def __init__(
        self,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        subfolder: str = "",
    ) -> None:
        self.name: str = os.fspath(name_or_path)
        self._options: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
            "subfolder": subfolder or None,
        }
        self._offline: str | None = None  # why the hub cannot be reached; "": it can; None: nobody asked yet
        folder = Path(self.name).expanduser()
        self.folder: Path | None = None
        if folder.is_dir():
            self.folder = folder / subfolder if subfolder else folder
            self._pending, self._removed = pending_files(self.folder)
            if not self.folder.is_dir():
                raise CheckpointError(f"subfolder: {folder} has no folder {subfolder!r}")
        elif folder.exists():
            raise CheckpointError(f"{self.name}: expected a folder with config.json and weights, got a file")
        elif _looks_like_path(self.name):
            raise CheckpointError(f"{self.name}: no such folder")
        elif not _HUB_NAME.fullmatch(self.name):
            raise CheckpointError(f"{self.name}: no such folder, and no name that the hub could know")

    def find(self, filename: str) -> Path | None:
        """Return the local path of a file, downloading it if need be; None if there is no such file.

        Parameters
        ----------
        filename : str

        Raises
        ------
        CheckpointError
            If it is a folder or a dead link, or the hub cannot be reached or refuses; with the reason.
        """
        if self.folder is not None:
            if filename in self._removed:
                return None
            pending = self._pending.get(filename)
            return (pending and _find_file(pending)) or _find_file(self.folder / filename)
        try:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
        except ImportError as error:
            raise CheckpointError(
                f"{self.name}: no such folder, and the package huggingface_hub, which would look on the hub, "
                f"cannot be imported: {error}"
            ) from error
        options, offline = self._options, self._why_offline()
        if offline:
            options = {**options, "local_files_only": True}
        try:
            return Path(str(hf_hub_download(self.name, filename, **options)))
        except LocalEntryNotFoundError as error:
            reason = f"; the hub cannot be reached: {offline}" if offline else f": {error}"
            raise CheckpointError(
                f"{self.name}: no such folder, and {filename} is not in the cache{reason}"
            ) from error
        except EntryNotFoundError:
            return None
        except Exception as error:
            raise CheckpointError(
                f"{self.name}: no such folder, and the hub does not give {filename}: {error}"
            ) from error

    def _why_offline(self) -> str:
        if self._offline is None:
            self._offline = "" if self._options["local_files_only"] else unreachable_hub()
        return self._offline

    def require(self, filename: str) -> Path:
        """Return the local path of a file.

        Parameters
        ----------
        filename : str

        Raises
        ------
        CheckpointError
            If there is none; for a folder with what it holds instead.
        """
        path = self.find(filename)
        if path is None:
            raise CheckpointError(f"{self.name}: no {filename}{self.contents()}")
        return path

    def contents(self) -> str:
        """Say what a folder holds, for the end of a sentence; empty for a repository."""
        if self.folder is None:
            return ""
        names = sorted(path.name for path in self.folder.iterdir())
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f"; the folder holds {listed}" if names else "; the folder is empty"


def unreachable_hub() -> str:
    """Say why the hub cannot be reached; empty if it can, or if a proxy is to be asked.

    Without an answer ``huggingface_hub`` tries again for half a minute, which nobody wants to wait for who
    has mistyped the name of a folder.
    """
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or {address.scheme, "all"} & getproxies().keys():
        return ""
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=_PATIENCE).close()
    except OSError as error:
        return f"{address.hostname}: {error.strerror or error}"
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    path : path

    Raises
    ------
    CheckpointError
        If the file is missing, is a Git-LFS pointer, is too large or nested too deeply, or is not a JSON
        object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return json_object(data, str(path))


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object that a text is.

    Parameters
    ----------
    data : bytes
        UTF-8.
    where : str
        Of the text, for messages.

    Raises
    ------
    CheckpointError
        As `read_json`.
    """
    if len(data) > _MAX_JSON_BYTES:
        raise CheckpointError(f"{where}: larger than {_MAX_JSON_BYTES} bytes")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        kind = describe_foreign(data[:HEAD_BYTES])
        if kind and kind != "JSON text":
            raise CheckpointError(f"{where}: is {kind}") from error
        raise CheckpointError(f"{where}: is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, got {type(value).__name__}")
    if _is_deeper(value, _MAX_JSON_DEPTH):
        raise CheckpointError(f"{where}: nested deeper than {_MAX_JSON_DEPTH} levels")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        members = (item.values() if isinstance(item, dict) else item for item in layer)
        layer = [member for part in members for member in part if isinstance(member, dict | list)]
        if not layer:
            return False
    return True


def _find_file(path: Path) -> Path | None:
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise CheckpointError(f"{path}: is a folder, expected a file")
        if path.is_symlink():
            raise CheckpointError(f"{path}: is a link to a file that is not there: {os.readlink(path)}")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return None


def _looks_like_path(name: str) -> bool:
    return not name or name.startswith((".", "~", "/", os.sep)) or name.count("/") > 1 or name.endswith("/")

# SPDX-License-Identifier: Apache-2.0
"""Where the files of a model are: a folder, or a repository on the Hugging Face hub.

A folder never touches the network.  Files of the hub come through ``huggingface_hub``, which is imported on
first use and brings its own cache, its tokens and its environment variables (``HF_HOME``, ``HF_HUB_OFFLINE``,
...).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from qdqbert.errors import CheckpointError, UnsupportedError

__all__ = ["Source", "read_json"]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
# A million labels; as Python objects twenty times as much.
_MAX_JSON_BYTES = 16 << 20
# Code that copies or compares values recurses, in Python, deeper than the parser that read them.
_MAX_JSON_DEPTH = 64
_LFS_MARK = b"version https://git-lfs"
# Formats of weights that exist but are not read yet, and what they are.
_OTHER_FORMATS = {
    "pytorch_model.bin": "a PyTorch checkpoint",
    "pytorch_model.bin.index.json": "a sharded PyTorch checkpoint",
    "tf_model.h5": "a Keras checkpoint",
    "model.ckpt.index": "a TensorFlow checkpoint",
    "bert_model.ckpt.index": "a TensorFlow checkpoint",
    "flax_model.msgpack": "a Flax checkpoint",
}


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
        If `name_or_path` is a file, or looks like a path and does not exist.
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
        self.name = os.fspath(name_or_path)
        self._options: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
            "subfolder": subfolder or None,
        }
        folder = Path(self.name).expanduser()
        self.folder: Path | None = None
        if folder.is_dir():
            self.folder = folder / subfolder if subfolder else folder
            if not self.folder.is_dir():
                raise CheckpointError(f"subfolder: {folder} has no folder {subfolder!r}")
        elif folder.exists():
            raise CheckpointError(
                f"{self.name}: expected a folder with {WEIGHTS_NAME} and config.json, got a file"
            )
        elif _looks_like_path(self.name):
            raise CheckpointError(f"{self.name}: no such folder")

    def find(self, filename: str) -> Path | None:
        """Return the local path of a file, downloading it if need be; None if there is no such file.

        Parameters
        ----------
        filename : str

        Raises
        ------
        CheckpointError
            If the hub cannot be reached or refuses; with the reason.
        """
        if self.folder is not None:
            path = self.folder / filename
            return path if path.is_file() else None
        try:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
        except ImportError as error:
            raise CheckpointError(
                f"{self.name}: no such folder, and the package huggingface_hub, which would look on the hub, "
                f"cannot be imported: {error}"
            ) from error
        try:
            return Path(str(hf_hub_download(self.name, filename, **self._options)))
        except LocalEntryNotFoundError as error:
            raise CheckpointError(f"{self.name}: {filename} is not in the cache: {error}") from error
        except EntryNotFoundError:
            return None
        except Exception as error:
            raise CheckpointError(
                f"{self.name}: no such folder, and the hub does not give {filename}: {error}"
            ) from error

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
            raise CheckpointError(f"{self.name}: no {filename}{self._contents()}")
        return path

    def weight_files(self) -> list[Path]:
        """Return the safetensors files of the model: one, or the shards that its index names, each once.

        Raises
        ------
        UnsupportedError
            If there are only weights in a format that is not read yet.
        CheckpointError
            If there are none, or the index is damaged or names a file that is missing.
        """
        single = self.find(WEIGHTS_NAME)
        if single is not None:
            return [single]
        index = self.find(INDEX_NAME)
        if index is not None:
            return [self.require(name) for name in _shard_names(index)]
        for filename, kind in _OTHER_FORMATS.items():
            if self.folder is not None and (self.folder / filename).exists():
                raise UnsupportedError(
                    f"{self.name}: {filename} is {kind}; only safetensors can be read yet (other formats "
                    f"come with the next release); convert it to {WEIGHTS_NAME}"
                )
        raise CheckpointError(f"{self.name}: no weights ({WEIGHTS_NAME} or {INDEX_NAME}){self._contents()}")

    def _contents(self) -> str:
        if self.folder is None:
            return ""
        names = sorted(path.name for path in self.folder.iterdir())
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f"; the folder holds {listed}" if names else "; the folder is empty"


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
    if len(data) > _MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: larger than {_MAX_JSON_BYTES} bytes")
    if data.startswith(_LFS_MARK):
        raise CheckpointError(
            f"{path}: is a Git-LFS pointer, not the file; run `git lfs pull` in its repository"
        )
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    if _is_deeper(value, _MAX_JSON_DEPTH):
        raise CheckpointError(f"{path}: nested deeper than {_MAX_JSON_DEPTH} levels")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        members = (item.values() if isinstance(item, dict) else item for item in layer)
        layer = [member for part in members for member in part if isinstance(member, dict | list)]
        if not layer:
            return False
    return True


def _shard_names(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: expected a 'weight_map' from tensor to file")
    for key, name in weight_map.items():
        # A shard lies beside its index: a path would lead out of the folder.
        if not isinstance(name, str) or not name or Path(name).name != name or name in (".", ".."):
            raise CheckpointError(
                f"{index}: {key}: expected the name of a file in the same folder, got {name!r}"
            )
    return sorted(set(weight_map.values()))


def _looks_like_path(name: str) -> bool:
    return not name or name.startswith((".", "~", "/", os.sep)) or name.count("/") > 1 or name.endswith("/")

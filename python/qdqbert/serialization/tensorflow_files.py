# SPDX-License-Identifier: Apache-2.0
"""Where the original TensorFlow checkpoint is that a user means, or what is there instead."""

from __future__ import annotations

import os
import re
from pathlib import Path

from qdqbert.errors import CheckpointError, UnsupportedError

__all__ = ["CONFIG_NAMES", "find_bundle"]

# transformers' name, and the original's.
CONFIG_NAMES = ("config.json", "bert_config.json")
_USUAL_PREFIXES = ("model.ckpt", "bert_model.ckpt")
_DATA = re.compile(r"\.data-\d{5}-of-\d{5}\Z")
_LATEST = re.compile(r'^model_checkpoint_path: "([^"/\\]+)"', re.MULTILINE)
_MAX_STATE_BYTES = 1 << 16


def find_bundle(name_or_path: str | os.PathLike[str], subfolder: str = "") -> Path:
    """Return what the names of the files of a checkpoint start with.

    Parameters
    ----------
    name_or_path : str or path
        A folder with ``model.ckpt.index``, ``bert_model.ckpt.index`` or one other index; or the path of an
        index, with or without ``.index``.
    subfolder : str
        Folder inside the folder.

    Raises
    ------
    CheckpointError
        If there is no index, or there are several and none of a usual name.
    UnsupportedError
        If there is a checkpoint of another kind: Keras, TensorFlow's first format, a saved model.
    """
    path = Path(name_or_path).expanduser() / subfolder
    if path.is_dir():
        return _find_in_folder(path)
    prefix = path.with_name(path.name.removesuffix(".index")) if path.name else path
    if prefix.with_name(prefix.name + ".index").is_file():
        return prefix
    if path.suffix == ".h5" and path.exists():
        raise UnsupportedError(f"{path}: is a Keras checkpoint (HDF5), which is not read")
    if path.is_file():
        raise UnsupportedError(
            f"{path}: is no index of a TensorFlow checkpoint; a single file is TensorFlow's first format "
            "(V1), which is not read: save it again with the V2 format"
        )
    raise CheckpointError(
        f"{path}: no such folder, and no {prefix.name}.index; from_tf=True reads files, not repositories"
    )


def _find_in_folder(folder: Path) -> Path:
    for name in _USUAL_PREFIXES:
        if (folder / f"{name}.index").is_file():
            return folder / name
    names = sorted(path.name for path in folder.iterdir())
    prefixes = [name.removesuffix(".index") for name in names if name.endswith(".index")]
    latest = _latest(folder)
    if latest in prefixes:
        return folder / latest
    if len(prefixes) == 1:
        return folder / prefixes[0]
    if prefixes:
        raise CheckpointError(
            f"{folder}: several TensorFlow checkpoints: {', '.join(prefixes[:8])}; give the path of one"
        )
    for name in names:
        if _DATA.search(name):
            raise CheckpointError(
                f"{folder}: {name} is the data of a TensorFlow checkpoint; its index is missing"
            )
        if name.endswith(".h5"):
            raise UnsupportedError(f"{folder}: {name} is a Keras checkpoint (HDF5), which is not read")
        if name == "saved_model.pb":
            raise UnsupportedError(f"{folder}: is a saved model of TensorFlow 2, which is not read")
        if name.endswith(".meta"):
            raise CheckpointError(
                f"{folder}: {name} is the graph of a TensorFlow checkpoint; its weights are missing"
            )
    listed = ", ".join(names[:10]) or "nothing"
    raise CheckpointError(f"{folder}: no TensorFlow checkpoint (model.ckpt.index); the folder holds {listed}")


def _latest(folder: Path) -> str:
    """Return the checkpoint that TensorFlow's own list of checkpoints calls the latest."""
    try:
        with open(folder / "checkpoint", "rb") as file:
            found = _LATEST.search(file.read(_MAX_STATE_BYTES).decode("utf-8", "replace"))
    except OSError:
        return ""
    return found[1] if found else ""

# SPDX-License-Identifier: Apache-2.0
"""Read the file of a calibration's statistics without believing what it says about itself.

The file is a ZIP archive of NumPy arrays without compression, one of them a JSON header.  A member's size is
checked against the file before there is memory of that size, and every number of the header against what a
calibration can have written.
"""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

import numpy as np

from qdqbert.arrays import Array
from qdqbert.errors import CheckpointError

__all__ = ["FORMAT", "read_statistics"]

FORMAT = 1
_MAX_BINS = 1 << 24


def read_statistics(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the header and the arrays of a file that `Calibration.save` wrote.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    CheckpointError
        If the file is missing, is damaged, unpacks to more than its size, or is of another format.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            _check_members(path, archive, os.fstat(file.fileno()).st_size)
            arrays = {name.removesuffix(".npy"): _read_array(archive, name) for name in archive.namelist()}
            header = json.loads(arrays.pop("header").tobytes())
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile, json and NumPy have many ways to say that a file is damaged
        raise CheckpointError(f"{path}: not the statistics of a calibration: {error}") from error
    _check_header(path, header)
    return header, arrays


def _check_members(path: str | os.PathLike[str], archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path}: not the statistics of a calibration: its members are compressed")
    claimed = sum(member.file_size for member in members)
    if claimed > size or len({member.filename for member in members}) != len(members):
        raise CheckpointError(
            f"{path}: not the statistics of a calibration: {len(members)} members of {claimed} bytes in a "
            f"file of {size}, or a name stands twice"
        )


def _read_array(archive: zipfile.ZipFile, name: str) -> Array:
    with archive.open(name) as member:
        array: Array = np.lib.format.read_array(member, allow_pickle=False)
    return array


def _check_header(path: str | os.PathLike[str], header: Any) -> None:
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: header: expected an object, got {type(header).__name__}")
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {header.get('format')!r:.40}, expected {FORMAT}")
    limits = {
        "passes": (1, 2),
        "pass": (1, 2),
        "num_bins": (1, _MAX_BINS),
        "batches_done": (0, 2**62),
    }
    for key, (low, high) in limits.items():
        value = header.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise CheckpointError(f"{path}: {key}: expected an integer in {low} .. {high}, got {value!r:.40}")
    if header["pass"] > header["passes"]:
        raise CheckpointError(f"{path}: pass {header['pass']} of {header['passes']}")
    names = header.get("quantizers")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: quantizers: expected a list of names, got {names!r:.40}")

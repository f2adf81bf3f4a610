# SPDX-License-Identifier: Apache-2.0
"""JSON results on disk: the whole new file or the old one, never a part."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["write_json"]


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Replace a file by JSON, atomically: written in the same folder, flushed to the disk, then moved.

    Parameters
    ----------
    path : path
        Its folder must exist.
    content : object
        What `json.dumps` takes; infinities and NaN are refused.

    Raises
    ------
    OSError
        If the file cannot be written; the old one is then as it was.
    ValueError
        If `content` holds a number that JSON does not know.
    """
    target = Path(path)
    text = json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

# SPDX-License-Identifier: Apache-2.0
"""Where the data beside the project lie: golden vectors, checkpoints, data sets.

A module of its own, because tests that need the folder while they are collected import it, and the name
``conftest`` belongs to several files.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path:
    """Return ``$QDQBERT_SHARED``, or ``../shared`` seen from the root."""
    return Path(os.environ.get("QDQBERT_SHARED", ROOT.parent / "shared"))


class Shared:
    """Paths below the shared folder; a missing one skips the test and says what is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *parts: str) -> Path:
        path = self.folder.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"missing data: {path} (set QDQBERT_SHARED to the shared folder)")
        return path

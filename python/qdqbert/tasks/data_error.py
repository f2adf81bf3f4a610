# SPDX-License-Identifier: Apache-2.0
"""The error of data files."""

from __future__ import annotations

from qdqbert.errors import Error

__all__ = ["DataError"]


class DataError(Error, ValueError):
    """A data file is missing, unreadable or malformed; the sentence names the file and the place in it."""

# SPDX-License-Identifier: Apache-2.0
"""The error of data files, and a defect that all formats share."""

from __future__ import annotations

from qdqbert.errors import Error

__all__ = ["DataError", "has_lone_surrogate"]


class DataError(Error, ValueError):
    """A data file is missing, unreadable or malformed; the sentence names the file and the place in it."""


def has_lone_surrogate(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which JSON can spell and UTF-8 cannot.

    Parameters
    ----------
    text : str

    Returns
    -------
    bool
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

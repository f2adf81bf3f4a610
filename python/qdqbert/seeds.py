# SPDX-License-Identifier: Apache-2.0
"""What may be a seed, wherever one is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["require_seed"]


def require_seed(argument: str, seed: Any) -> None:
    """Refuse what is no seed, before anything is drawn or changed.

    NumPy's own checks come later, take True for 1 and name no argument.

    Parameters
    ----------
    argument : str
        Its name, for messages.
    seed : object
        An integer of at least 0 passes.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is negative.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"{argument}: expected an integer, got {type(seed).__name__}")
    if seed < 0:
        raise ValueError(f"{argument}: expected at least 0, got {seed}")

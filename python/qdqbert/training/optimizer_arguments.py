# SPDX-License-Identifier: Apache-2.0
"""``optim_args``: options of the optimizer in one string."""

from __future__ import annotations

from typing import Any

__all__ = ["sgd_options"]


def sgd_options(text: str | None) -> dict[str, Any]:
    """Return the options of SGD that a string such as ``"momentum=0.9,nesterov=true"`` gives.

    Parameters
    ----------
    text : str or None

    Raises
    ------
    ValueError
        If it gives others, or values that are none.
    """
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        name, separator, value = (word.strip() for word in part.partition("="))
        if not separator or name not in ("momentum", "nesterov"):
            raise ValueError(f"optim_args: expected momentum=X or nesterov=true, got {part!r}")
        if name == "nesterov":
            if value.lower() not in ("true", "false"):
                raise ValueError(f"optim_args: nesterov: expected true or false, got {value!r}")
            options[name] = value.lower() == "true"
        else:
            try:
                options[name] = float(value)
            except ValueError:
                raise ValueError(f"optim_args: {name}: expected a number, got {value!r}") from None
    return options

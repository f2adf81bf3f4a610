# SPDX-License-Identifier: Apache-2.0
"""From the names of a checkpoint to the names of a model.

What differs for good reasons is undone: wrappers of a model that put their own name before every other
(``module.`` of data parallelism, ``_orig_mod.`` of ``torch.compile``), LayerNorm's ``gamma`` and ``beta`` of
TensorFlow, and the prefix of the base model, which a checkpoint of the base model alone lacks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from qdqbert.errors import CheckpointError

__all__ = ["match_names", "wrapping_prefix"]

_WRAPPING = ("module.", "_orig_mod.")
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}


def wrapping_prefix(keys: Collection[str]) -> str:
    """Return what wrappers put before every key, or an empty string.

    Parameters
    ----------
    keys : collection of str

    Returns
    -------
    str
        Such as ``"module."``; several wrappers add up.
    """
    prefix = ""
    while keys:
        added = next((w for w in _WRAPPING if all(key.startswith(prefix + w) for key in keys)), "")
        if not added:
            break
        prefix += added
    return prefix


def match_names(
    slots: Collection[str], keys: Iterable[str], *, class_name: str, base_prefix: str
) -> dict[str, str]:
    """Map the model's name of every tensor to the checkpoint's key.

    A key that belongs to nothing in the model is mapped from the name it would have there.

    Parameters
    ----------
    slots : collection of str
        Names of the model's tensors.
    keys : iterable of str
        Without wrappers' prefixes.
    class_name : str
        For messages.
    base_prefix : str
        ``"bert"``: what names of a model with a head start with.

    Returns
    -------
    dict of str to str

    Raises
    ------
    CheckpointError
        If two keys mean one tensor, or the keys are those of a base model and yet some belong to a head.
    """
    keys = list(keys)
    prefix = base_prefix + "."
    has_head = any(name.startswith(prefix) for name in slots)
    from_head = any(key.startswith(prefix) for key in keys)
    if has_head and not from_head:
        strays = [key for key in keys if _renamed(key) in slots]
        if strays:
            raise CheckpointError(
                f"The state dictionary for {class_name} is corrupted: no key starts with {prefix!r}, "
                f"as if it came from a base model, and yet {', '.join(strays[:5])}"
            )
    named: dict[str, str] = {}
    for key in keys:
        name = _renamed(key)
        if has_head and not from_head:
            name = prefix + name
        elif not has_head and from_head:
            name = name.removeprefix(prefix) if name.startswith(prefix) else key
        if name in named:
            raise CheckpointError(f"{key} and {named[name]} of the checkpoint both mean {name}")
        named[name] = key
    if not has_head and from_head:
        # A head's own key may spell a name of the base model only by accident; it is not the base model's.
        named = {n: k for n, k in named.items() if k.startswith(prefix) or n not in slots}
    return named


def _renamed(key: str) -> str:
    head, dot, last = key.rpartition(".")
    return head + dot + _OLD_NAMES.get(last, last)

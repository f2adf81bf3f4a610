# SPDX-License-Identifier: Apache-2.0
"""Parameters by name: groups for an optimizer, freezing, and weights that are quantized in place.

Names are those of ``pytorch_quantization.optim.helper``.  Patterns are regular expressions that are searched
for anywhere in a parameter's dotted name (`re.search`), as in the original.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from qdqbert.errors import ShapeError
from qdqbert.module import Module, changing
from qdqbert.parameter import Parameter

__all__ = ["freeze_parameters", "group_parameters", "match_parameters", "quant_weight_inplace"]

_logger = logging.getLogger(__name__)


def match_parameters(model: Module, patterns: Iterable[str]) -> Iterator[Parameter]:
    """Return an iterator over the parameters whose name matches one of the patterns.

    Parameters
    ----------
    model : Module
    patterns : iterable of str
        Regular expressions.

    Returns
    -------
    iterator of Parameter
        Each once, in the order of `Module.named_parameters`.  (The original yields one that matches several
        patterns several times, and an optimizer then moves it as often.)

    Raises
    ------
    TypeError
        If `patterns` is a string, whose letters would match nearly everything, or holds something else.
    ValueError
        If a pattern is no regular expression.
    """
    return (parameter for _, parameter in _matches(model, _compiled(patterns)))


def group_parameters(
    model: Module,
    patterns_list: Sequence[list[str]],
    lrs: Sequence[float] | None = None,
    momentums: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Group parameters by name, in the form that optimizers take.

    Parameters
    ----------
    model : Module
    patterns_list : sequence of list of str
        One list of regular expressions for each group.
    lrs, momentums, weight_decays : sequence of float, optional
        One value for each group, for its key ``"lr"``, ``"momentum"`` or ``"weight_decay"``.

    Returns
    -------
    list of dict
        ``{"params": list of Parameter, ...}`` for each group.  (The original's ``"params"`` is a generator,
        which is empty when it is read a second time.)

    Raises
    ------
    TypeError
        If a group is no list of patterns, or there are not as many values as groups.
    ValueError
        If a pattern is no regular expression, or a parameter is in two groups; it is named.

    Examples
    --------
    >>> from qdqbert.nn import QuantLinear
    >>> groups = group_parameters(QuantLinear(3, 2), [["weight$"], ["bias"]], lrs=[1e-3, 1e-2])
    >>> [(len(group["params"]), group["lr"]) for group in groups]
    [(1, 0.001), (1, 0.01)]
    """
    for patterns in patterns_list:
        if not isinstance(patterns, list):
            raise TypeError("patterns_list must be list of list of patterns")
    options = {"lr": (lrs, "lrs"), "momentum": (momentums, "momentums")}
    options["weight_decay"] = (weight_decays, "weight_decays")
    for values, argument in options.values():
        if values is not None and len(values) != len(patterns_list):
            raise TypeError(f"len({argument}) must match len(patterns_list)")
    groups: list[dict[str, Any]] = []
    owner: dict[str, int] = {}
    for index, patterns in enumerate(patterns_list):
        matches = list(_matches(model, _compiled(patterns)))
        for name, _ in matches:
            if name in owner:
                raise ValueError(f"patterns_list: {name} is in groups {owner[name]} and {index}")
            owner[name] = index
        group: dict[str, Any] = {"params": [parameter for _, parameter in matches]}
        group.update({key: values[index] for key, (values, _) in options.items() if values is not None})
        groups.append(group)
    return groups


def freeze_parameters(model: Module, patterns: Iterable[str]) -> None:
    """Take the parameters whose name matches one of the patterns out of training.

    Their ``requires_grad`` becomes False, which training honours and ``requires_grad = True`` takes back.

    Parameters
    ----------
    model : Module
    patterns : iterable of str
        Regular expressions.

    Raises
    ------
    TypeError
        If `patterns` is a string, or holds something else.
    ValueError
        If a pattern is no regular expression.
    """
    for name, parameter in _matches(model, _compiled(patterns)):
        _logger.info("Freeze %s.", name)
        parameter.requires_grad = False


def quant_weight_inplace(model: Module) -> None:
    """Replace every weight that has a quantizer by its quantized value.

    For relax-and-round training: the weight itself is rounded now and then, instead of in each forward.  With
    a static range that is not exceeded, quantizing the result again changes nothing.

    Parameters
    ----------
    model : Module
        Its modules with a ``weight`` and a ``weight_quantizer`` are changed.

    Raises
    ------
    ShapeError
        If a quantizer's range does not broadcast to its weight; nothing was changed then.
    TypeError
        If an unsigned quantizer meets a negative weight; nothing was changed then.
    StateError
        If a forward runs on the model at this moment; nothing was changed then.
    """
    found = []
    for name, module in model.named_modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if quantizer is None or getattr(module, "weight", None) is None:
            continue
        if not quantizer.fake_quant:
            _logger.warning(
                "%s: In-place real quantization is VERY dangerous and should be used for inference only. "
                "Make sure that is the desired behavior.",
                name,
            )
        try:
            found.append((name, module, quantizer(np.asarray(module.weight))))
        except (ShapeError, TypeError) as error:
            raise type(error)(f"{name}.weight: {error}" if name else f"weight: {error}") from error
    with changing(slot for _, module, _ in found for slot in module._slots().values()):
        for name, module, weight in found:
            _logger.info("In-place quantize weight of %s", name)
            setattr(module, "weight", weight)  # noqa: B010  its class is known to have one


def _compiled(patterns: Iterable[str]) -> list[re.Pattern[str]]:
    if isinstance(patterns, str):
        raise TypeError(f"patterns: expected a list of patterns, got the string {patterns!r}")
    compiled = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"patterns: expected strings, got {pattern!r}")
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"patterns: {pattern!r} is no regular expression: {error}") from error
    return compiled


def _matches(model: Module, patterns: list[re.Pattern[str]]) -> Iterator[tuple[str, Parameter]]:
    for name, parameter in model.named_parameters():
        if any(pattern.search(name) for pattern in patterns):
            yield name, parameter

# SPDX-License-Identifier: Apache-2.0
"""Which quantizers new models get: `initialize` and `deactivate`, and the switch for ONNX export.

The original patches ``torch.nn`` so that models built afterwards are made of quantized modules.  Here the
models are QDQBERT's, which always carry their quantizers, so what is left to choose is which of them are on
and what they are like:

- Without any call, and after ``initialize()``, new models have every quantizer on, with the default
  descriptors of ``QuantLinear``.
- ``initialize(float_module_list=["Linear"])`` leaves linear layers float: in models built afterwards the
  input and weight quantizers of every ``QuantLinear`` start disabled (``enable()`` turns one on).  Quantizers
  of the attention products and of the residual adds are no part of linear layers and stay on.
- ``initialize(custom_quant_modules=[(qdqbert.nn, "Linear", Mine)])`` makes the linear layers of new models
  take the default descriptors of ``Mine``, a subclass of ``QuantLinear``; it overrides an exclusion.  Entries
  of other modules are patched as the original patches them.
- ``deactivate()`` undoes what ``initialize`` did.

Models that exist are never changed, and a folder whose ``config.json`` records its quantization is built as
recorded.  Two slips of the original are mended: a second ``initialize`` starts from the original state
instead of adding to the first, and `enable_onnx_export` restores its switch when the block raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from qdqbert import nn
from qdqbert._core import STAGE_DISABLED, Quantizer
from qdqbert.errors import UnsupportedError
from qdqbert.module import Module
from qdqbert.nn import QuantLinear, TensorQuantizer
from qdqbert.quant_descriptor import QuantDescriptor

__all__ = [
    "QuantModuleReplacementHelper",
    "deactivate",
    "enable_onnx_export",
    "initialize",
    "new_model_descriptors",
    "require_exportable",
    "set_up_new_model",
]

_LINEAR = "Linear"
_REPLACED = (
    *(f"{kind}{d}d" for kind in ("Conv", "ConvTranspose", "AvgPool", "AdaptiveAvgPool") for d in (1, 2, 3)),
    _LINEAR,
    "LSTM",
    "LSTMCell",
)


class _Entry(NamedTuple):
    """What is patched: an attribute of a Python module, and what it is replaced by."""

    orig_mod: Any
    mod_name: str
    replace_mod: Any


class _Choice(NamedTuple):
    """How new models are built."""

    linear: type[QuantLinear] = QuantLinear
    is_linear_float: bool = False


class QuantModuleReplacementHelper:
    """What `initialize` and `deactivate` do, in three steps, as in the original.

    Attributes
    ----------
    default_quant_map : tuple of str
        Names of the modules that the original replaces by default.  BERT has one of them, ``"Linear"``.
    """

    default_quant_map = _REPLACED

    def __init__(self) -> None:
        self._next = _Choice()
        self._entries: list[_Entry] = []
        self._patched: list[_Entry] = []  # what is in force,
        self._originals: list[_Entry] = []  # and what it stands for

    def prepare_state(
        self,
        float_module_list: Iterable[str] | None = None,
        custom_map: Iterable[tuple[Any, str, Any]] | None = None,
    ) -> None:
        """Decide what `apply_quant_modules` will do; nothing is changed yet.

        Parameters
        ----------
        float_module_list, custom_map
            As ``float_module_list`` and ``custom_quant_modules`` of `initialize`.

        Raises
        ------
        ValueError, TypeError, UnsupportedError, AttributeError
            As `initialize`.
        """
        excluded = _checked_names(float_module_list)
        entries = [_checked_entry(entry) for entry in custom_map or ()]
        linears = [e.replace_mod for e in entries if e.orig_mod is nn and e.mod_name == _LINEAR]
        self._next = _Choice(
            linear=linears[-1] if linears else QuantLinear,
            is_linear_float=_LINEAR in excluded and not linears,
        )
        self._entries = entries

    def apply_quant_modules(self) -> None:
        """Put what `prepare_state` decided into force, in place of what was in force before.

        Raises
        ------
        TypeError, AttributeError
            If an attribute cannot be set; everything is as it was then.
        """
        before, choice = self._patched, _in_force[0]
        self.restore_float_modules()
        try:
            self._patch(self._entries)
        except BaseException:
            self.restore_float_modules()
            self._patch(before)
            _in_force[:] = [choice]
            raise
        _in_force[:] = [self._next]

    def restore_float_modules(self) -> None:
        """Undo `apply_quant_modules`."""
        # Backwards: of an attribute that was patched twice, the first record has the original.
        for module, name, original in reversed(self._originals):
            setattr(module, name, original)
        self._patched, self._originals = [], []
        _in_force[:] = [_Choice()]

    def _patch(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            original = getattr(entry.orig_mod, entry.mod_name)
            setattr(*entry)
            self._patched.append(entry)
            self._originals.append(entry._replace(replace_mod=original))


def initialize(
    float_module_list: Iterable[str] | None = None,
    custom_quant_modules: Iterable[tuple[Any, str, Any]] | None = None,
) -> None:
    """Choose which quantizers models that are built from now on get; the module's text says what that means.

    Parameters
    ----------
    float_module_list : iterable of str, optional
        Kinds of modules that stay float, by the names of ``torch.nn`` that the original replaces:
        ``"Linear"``, and convolutions, average pooling and LSTMs, which BERT does not have.
    custom_quant_modules : iterable of (module, str, object), optional
        Attributes of Python modules to replace until `deactivate`: (module, name, replacement).  The entry
        ``(qdqbert.nn, "Linear", cls)`` also decides for the linear layers of models.

    Raises
    ------
    ValueError
        If a name is none that the original replaces: it would be left float anyway, or is misspelt.
    TypeError
        If an argument has another form, or the replacement of ``qdqbert.nn.Linear`` is no subclass of
        ``QuantLinear``.
    UnsupportedError
        If that subclass has a forward of its own.
    AttributeError
        If a Python module has no such attribute, or it cannot be set (a TypeError in some); nothing has
        changed then.

    Examples
    --------
    >>> import qdqbert
    >>> qdqbert.initialize(float_module_list=["Linear"])
    >>> model = qdqbert.QDQBertModel(qdqbert.QDQBertConfig(vocab_size=9, hidden_size=24, intermediate_size=8))
    >>> qdqbert.deactivate()
    >>> model.encoder.layer[0].intermediate.dense.input_quantizer
    TensorQuantizer(disabled)
    """
    _helper.prepare_state(float_module_list, custom_quant_modules)
    _helper.apply_quant_modules()


def deactivate() -> None:
    """Undo `initialize`: models that are built from now on get every quantizer, as QDQBERT has them."""
    _helper.restore_float_modules()


@contextlib.contextmanager
def enable_onnx_export() -> Iterator[None]:
    """Have every forward check that the quantizers it meets can be exported, while the block runs.

    Export itself needs no switch here.  Within the block a forward of a model, a ``QuantLinear`` or a
    ``TensorQuantizer`` raises `qdqbert.StateError`, naming the quantizer, if one that quantizes has no range
    yet, or has one of E4M3 with more than one element; one that is still calibrating is named in the log.
    The switch is class-wide, as in the original, and is put back when the block ends, also by an exception.

    Examples
    --------
    >>> import qdqbert
    >>> with qdqbert.enable_onnx_export():
    ...     y = qdqbert.nn.TensorQuantizer(qdqbert.tensor_quant.QuantDescriptor(amax=127.0))([0.4, 2.6])
    >>> y.tolist()
    [0.0, 3.0]
    """
    before = TensorQuantizer._enable_onnx_export
    TensorQuantizer._enable_onnx_export = True
    try:
        yield
    finally:
        TensorQuantizer._enable_onnx_export = before


# ---- for models --------------------------------------------------------------------------------------------


def new_model_descriptors() -> tuple[QuantDescriptor, QuantDescriptor]:
    """Return the (input, weight) descriptors of a model that is built now and records none itself."""
    linear = _in_force[0].linear
    return linear.default_quant_desc_input, linear.default_quant_desc_weight


def set_up_new_model(quantizers: Iterable[tuple[str, Quantizer]]) -> None:
    """Disable the quantizers that `initialize` leaves out of a model that is built now.

    Parameters
    ----------
    quantizers : iterable of (str, _core.Quantizer)
        Of the model, with their dotted names.
    """
    if not _in_force[0].is_linear_float:
        return
    for name, quantizer in quantizers:
        if name.endswith(("._input_quantizer", "._weight_quantizer")):
            quantizer.stages |= STAGE_DISABLED


def require_exportable(model: Module) -> None:
    """Check every quantizer of a model before a forward; nothing happens unless an export switch is on.

    Parameters
    ----------
    model : Module

    Raises
    ------
    StateError, UnsupportedError, TypeError
        As `qdqbert.nn.export_checks`.
    """
    if TensorQuantizer._enable_onnx_export or TensorQuantizer.use_fb_fake_quant:
        for module in model.modules():
            if isinstance(module, TensorQuantizer):
                module._require_exportable()


# One of each for the process, as in the original: what is in force, and the helper behind the two functions.
_in_force = [_Choice()]
_helper = QuantModuleReplacementHelper()


def _checked_names(names: Iterable[str] | None) -> frozenset[str]:
    if isinstance(names, str):
        raise TypeError(f"float_module_list: expected a list of names, got the string {names!r}")
    chosen = frozenset(names or ())
    unknown = sorted(str(name) for name in chosen if name not in _REPLACED)
    if unknown:
        raise ValueError(
            f"float_module_list: {', '.join(unknown)}: not replaced by quantized modules in the first place; "
            f"what can be left out is {', '.join(_REPLACED)}"
        )
    return chosen


def _checked_entry(entry: tuple[Any, str, Any]) -> _Entry:
    if not isinstance(entry, tuple | list) or len(entry) != 3 or not isinstance(entry[1], str):
        raise TypeError(f"custom_quant_modules: expected (module, name, replacement), got {entry!r}")
    checked = _Entry(*entry)
    getattr(checked.orig_mod, checked.mod_name)
    replacement = checked.replace_mod
    if checked.orig_mod is nn and checked.mod_name == _LINEAR:
        if not (isinstance(replacement, type) and issubclass(replacement, QuantLinear)):
            raise TypeError(
                f"custom_quant_modules: expected a subclass of QuantLinear for qdqbert.nn.Linear, "
                f"got {replacement!r}"
            )
        if replacement.forward is not QuantLinear.forward:
            raise UnsupportedError(
                f"custom_quant_modules: {replacement.__name__} has a forward of its own, which models would "
                "not run: they take the descriptors of the class and compute in the C core"
            )
    return checked

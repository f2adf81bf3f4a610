# SPDX-License-Identifier: Apache-2.0
"""Copies and pickles of models: the state of all that a C model holds, by name; see `qdqbert.copies`.

A copy is built from the configuration that the present C model was made with, which later changes of
``model.config`` do not reach, and from the descriptors of its quantizers, whatever the defaults of
``QuantLinear`` are by then.

Modules inside a model have no state of their own.  A ``QuantLinear`` or a quantizer becomes a stand-alone one
when it is copied by itself, the base model a model of its own, and others are refused; copied with their
model, in one call of ``copy.deepcopy``, they become the modules of its copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.copies import Copyable, constructed
from qdqbert.freezing import freeze_engine
from qdqbert.modeling_engine import Engine
from qdqbert.module import Module
from qdqbert.nn.quantizer_state import handle_state, set_handle_state
from qdqbert.quantization_settings import CalibrationNote, describe_descriptors, store_section

__all__ = ["CopyableModel"]


class CopyableModel(Module, Copyable):
    """What copies need of a model."""

    config: QDQBertConfig
    _engine: Engine
    _prefix: str

    def __copy__(self) -> Self:
        """Return a model that shares everything with this one: configuration, weights, quantizers."""
        copied = super().__copy__()
        own = self._engine.own
        own[copied] = own[self]
        return copied

    def _constructor_arguments(self) -> dict[str, Any]:
        """Return what the constructor takes beside configuration, device and seed."""
        return {}

    def _copy_state(self) -> dict[str, Any]:
        """Return the state of the model by the names of its tensors.

        Returns
        -------
        dict
            ``config``; ``built``, the fields that it had when the sizes were chosen; ``arguments`` of the
            constructor; ``device``; ``padding``; ``dropout``, its seed and step; ``bf16_products``;
            ``input_desc`` and ``weight_desc``; ``parameters`` (views), ``codes`` of the weights that a frozen
            model keeps instead, and ``requires_grad`` by name; ``quantizers`` by
            name: `handle_state` with ``descriptor``, ``calibrator`` and ``scale``.
        """
        engine, prefix = self._engine, self._prefix
        bound = engine.handles.bound
        return {
            "config": self.config,
            "built": vars(bound.config),
            "arguments": self._constructor_arguments(),
            "device": bound.model.device,
            "padding": engine.padding,
            "dropout": (engine.dropout_seed, engine.dropout_step),
            "bf16_products": engine.bf16_products,
            "input_desc": engine.input_desc,
            "weight_desc": engine.weight_desc,
            "calibration": engine.calibration and tuple(engine.calibration),
            "parameters": {
                name.removeprefix(prefix): view
                for name, (_, view) in bound.parameters.items()
                if name.startswith(prefix)
            },
            "codes": {
                name.removeprefix(prefix): bound.read_codes(name)
                for name in bound.codes
                if name.startswith(prefix)
            },
            "requires_grad": self._gradient_flags(),
            "quantizers": {
                name.removeprefix(prefix): _quantizer_state(engine, name)
                for name in bound.quantizers
                if name.startswith(prefix)
            },
        }

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        """Build a model and fill it."""
        config, descriptors = state["config"], (state["input_desc"], state["weight_desc"])
        # The object stays, since the whole tree looks at it; only its fields are others meanwhile.
        present = dict(vars(config))
        _replace_fields(config, state["built"])
        store_section(config, describe_descriptors(*descriptors))
        self: Self = constructed(cls, config, device=state["device"], seed=None, **state["arguments"])
        _replace_fields(config, present)
        engine = self._engine
        engine.input_desc, engine.weight_desc = descriptors
        engine.padding = state["padding"]
        engine.dropout_seed, engine.dropout_step = state.get("dropout", (0, 0))  # older pickles have none
        engine.bf16_products = state.get("bf16_products", False)  # nor this
        note = state.get("calibration")  # nor this
        engine.calibration = None if note is None else CalibrationNote(*note)
        codes = state.get("codes", {})  # nor these
        for name, (index, _) in engine.handles.bound.parameters.items():
            if name not in codes:
                engine.core.parameter_write(index)[...] = state["parameters"][name]
        for name, handle in engine.handles.bound.quantizers.items():
            module, quantizer = engine.handles.modules.get(name), state["quantizers"][name]
            if module is None or "descriptor" not in quantizer:
                set_handle_state(handle, quantizer)
            else:
                module._set_state(quantizer)
        self._set_gradient_flags(state["requires_grad"])
        if codes:
            freeze_engine(engine, codes)
        return self

    # ---- what users have put into the tree -----------------------------------------------------------------

    def _own_modules(self) -> Iterator[tuple[str, Module, frozenset[str]]]:
        """Yield (dotted name, module, attributes that are not users') of the tree as it was made."""
        own = self._engine.own
        yield "", self, own[self][1]
        for path, module in self.named_modules():
            if module is not self and module in own and own[module][0] == self._prefix + path:
                yield path, module, own[module][1]

    def _carried(self) -> dict[str, Any]:
        """Return attributes, and children by dotted name, that the model was not made with."""
        attributes, children, others = {}, {}, {}
        paths = {path: module for path, module, _ in self._own_modules()}
        places = {id(module): path for path, module in paths.items()}
        for path, module, names in self._own_modules():
            attributes[path] = {name: value for name, value in vars(module).items() if name not in names}
            for name, child in module._modules.items():
                where = f"{path}.{name}" if path else name
                if id(child) not in places:
                    children[where] = child
                elif paths.get(where) is not child:
                    others[where] = places[id(child)]
        return {"attributes": attributes, "children": children, "others": others}

    def _carry(self, carried: dict[str, Any]) -> None:
        """Put what `_carried` returned into the tree."""
        made = {path: module for path, module, _ in self._own_modules()}
        for path, attributes in carried["attributes"].items():
            vars(made[path]).update(attributes)
        found = {**carried["children"], **{where: made[path] for where, path in carried["others"].items()}}
        for where, child in found.items():
            parent, _, name = where.rpartition(".")
            made[parent]._modules[name] = child

    def _note_copy(self, copied: Any, memo: dict[int, Any]) -> None:
        """Enter every module of the tree in the memo, so that other references to it are copied with it."""
        made = {path: module for path, module, _ in copied._own_modules()}
        for path, module, _ in self._own_modules():
            memo[id(module)] = made[path]


def _quantizer_state(engine: Engine, name: str) -> dict[str, Any]:
    """Return the state of a quantizer, and of the module around it unless that was taken out of the tree."""
    state = handle_state(engine.handles.bound.quantizers[name])
    module = engine.handles.modules.get(name)
    if module is None:
        return state
    return {
        **state,
        "descriptor": module._descriptor,
        "calibrator": module._calibrator,
        "scale": module._scale,
    }


def _replace_fields(config: QDQBertConfig, fields: dict[str, Any]) -> None:
    vars(config).clear()
    vars(config).update(fields)

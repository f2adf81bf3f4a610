# SPDX-License-Identifier: Apache-2.0
"""The tree of named modules: `named_modules`, `state_dict`, `load_state_dict`, `repr`, as users know them.

A module holds children and *slots*.  A slot is one named tensor of the module: it knows how to read and how
to write it, so that the tree itself owns no number.  Inside a model the slots lead to the C block of
parameters and to the C quantizers; a standalone ``QuantLinear`` keeps its weight in an array of its own.

Two rules follow: what is read is a view that cannot be written to, and whatever is loaded goes through
`Module.load_state_dict`, which checks everything before it writes anything.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.errors import CheckpointError, StateError, UnsupportedError
from qdqbert.parameter import ArrayPlace, Parameter, ParameterState, Place

__all__ = ["IncompatibleKeys", "Module", "ModuleList", "Slot"]

_logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclasses.dataclass(slots=True, eq=False)  # made by the thousand; frozen ones take three times as long
class Slot:
    """One tensor of a module.  Nobody changes a slot but who made it.

    Attributes
    ----------
    read : callable () -> ndarray or None
        Read-only view or copy; None while there is no such tensor.
    write : callable (ndarray) -> None
        Store a float32 array whose shape has been checked.
    shape : tuple of int, or None
        Shape that a value to be written must have; None: any.  For a range that exists, its shape.
    is_parameter : bool
        True for weights and biases, false for buffers such as ``_amax``.
    required : bool
        Whether a state dict without it is incomplete.
    persistent : bool
        Whether `Module.state_dict` holds it.
    tied_to : str, optional
        Dotted name, in the whole model, of the tensor that this is: a second name of one tensor.
    open : callable () -> ndarray, optional
        Writable view, for loaders that stream into it; to be dropped when they are done.
    check : callable (ndarray) -> None, optional
        Raises ValueError, saying what was expected and what came, for a value that `write` would refuse.
    owner : _core.Model or _core.Quantizer, optional
        What is changed by `write`; see `changing`.
    state : ParameterState
        Of a parameter: what its views share.  A slot that is made anew on each call hands on the same one.
    place : Place, optional
        Of a parameter of a model: where it and its gradient are.
    refusal : str, optional
        Why nobody can write it, for a parameter of a frozen model.
    difference : callable (ndarray) -> str, optional
        Of a tensor that nobody can write: says of a value of its shape why that is not what is there, and
        why it cannot be; empty for one that is.
    """

    read: Callable[[], Array | None]
    write: Callable[[Array], None]
    shape: tuple[int, ...] | None = None
    is_parameter: bool = True
    required: bool = True
    persistent: bool = True
    open: Callable[[], Array] | None = None
    check: Callable[[Array], None] | None = None
    tied_to: str | None = None
    owner: _core.Model | _core.Quantizer | None = None
    state: ParameterState = dataclasses.field(default_factory=ParameterState)
    place: Place | None = None
    refusal: str | None = None
    difference: Callable[[Array], str] | None = None

    def parameter(self, value: Array) -> Parameter:
        """Return the view of the parameter.

        Parameters
        ----------
        value : ndarray
            What `read` returned.
        """
        return Parameter(value, self.state, self.place or ArrayPlace(self.read, self.write, self.state))


def changing(slots: Iterable[Slot]) -> _core.Change:
    """Return a context in which no forward sees a part of what is written.

    Parameters
    ----------
    slots : iterable of Slot
        What will be written.

    Raises
    ------
    StateError
        If a forward runs on one of their models at this moment.
    """
    return _core.Change(
        tuple({id(slot.owner): slot.owner for slot in slots if slot.owner is not None}.values())
    )


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` could not match; both lists are empty when everything did.

    Attributes
    ----------
    missing_keys : list of str
        Tensors that the module needs and the state dict lacks.
    unexpected_keys : list of str
        Tensors of the state dict that the module does not know.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Module:
    """A node of the tree: named children, named tensors, and no numbers of its own.

    Subclasses call ``super().__init__()``, add children with `add_module` or by assigning them to attributes,
    and override `forward`, `_slots` and `extra_repr`.  A child is also an attribute, under its name.
    """

    training: bool = False
    _fixed: frozenset[str] = frozenset()  # children that cannot be replaced

    _modules: dict[str, Module]

    def __init__(self) -> None:
        vars(self)["_modules"] = {}  # past __setattr__, which needs it

    # ---- the tree ------------------------------------------------------------------------------------------

    def add_module(self, name: str, module: Module) -> None:
        """Add a child, or replace the one of that name.

        Parameters
        ----------
        name : str
            Without dots, not empty, not the name of an attribute that is no child.
        module : Module

        Raises
        ------
        TypeError
            If `module` is not a `Module`.
        KeyError
            If `name` cannot be used.
        UnsupportedError
            If `name` is that of a part of a model, which would go on computing with the part it has.
        """
        if not isinstance(module, Module):
            raise TypeError(f"module: expected Module, got {type(module).__name__}")
        if self._modules.get(name) is not module:
            self._require_free(name, "replaced")
        if not name or "." in name or (name not in self._modules and hasattr(self, name)):
            raise KeyError(f"name: {name!r} cannot name a child of {type(self).__name__}")
        self._modules[name] = module

    def _fix_children(self) -> None:
        """Let nobody replace or delete the children that are there, here and below: C computes them."""
        for module in self.modules():
            if module._modules:
                vars(module)["_fixed"] = frozenset(module._modules)

    def _require_free(self, name: str, verb: str) -> None:
        if name in self._fixed:
            raise UnsupportedError(
                f"{name}: a part of a model cannot be {verb}: the model computes all of them as one. To "
                "change quantizers, set their attributes or call qdqbert.quantizers(model, rules); for other "
                "weights call load_state_dict; for other sizes make a model of another configuration"
            )

    def __getattr__(self, name: str) -> Any:
        # Only reached when ordinary lookup failed; `_modules` itself is missing before __init__ ran.
        modules = self.__dict__.get("_modules", {})
        if name in modules:
            return modules[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        modules = self.__dict__.get("_modules")
        if isinstance(value, Module) and not hasattr(type(self), name):
            if modules is None:
                raise AttributeError(f"{name}: cannot assign a module before Module.__init__() was called")
            self.__dict__.pop(name, None)
            self.add_module(name, value)
        elif modules and name in modules:
            raise TypeError(f"{name}: expected Module, got {type(value).__name__}: the name is a child's")
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_modules", {}):
            self._require_free(name, "deleted")
            del self._modules[name]
        else:
            super().__delattr__(name)

    def __copy__(self) -> Self:
        """Return a module that shares the tensors and children of this one, as in PyTorch."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        vars(copied)["_modules"] = dict(self._modules)
        return copied

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._modules})

    def _slots(self) -> Mapping[str, Slot]:
        """Tensors of this module alone, parameters first; built anew on each call."""
        return {}

    def _parameter_slots(self) -> Mapping[str, Slot]:
        """Those of `_slots` that are parameters; overridden where others are dear to make."""
        return {name: slot for name, slot in self._slots().items() if slot.is_parameter}

    def children(self) -> Iterator[Module]:
        """Yield the direct children, in order."""
        return iter(self._modules.values())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, child) of the direct children, in order."""
        return iter(self._modules.items())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) of this module and all below it, parents before children.

        Parameters
        ----------
        prefix : str
            Put before every name.
        """
        waiting: list[tuple[str, Module]] = [(prefix, self)]
        while waiting:
            path, module = waiting.pop()
            yield path, module
            before = f"{path}." if path else ""
            waiting.extend((before + name, child) for name, child in reversed(module._modules.items()))

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, parents before children."""
        for _, module in self.named_modules():
            yield module

    def get_submodule(self, target: str) -> Module:
        """Return the module of a dotted name; the empty name is this module.

        Parameters
        ----------
        target : str
            Such as ``"encoder.layer.0"``.

        Raises
        ------
        AttributeError
            If there is none.
        """
        module = self
        for part in target.split(".") if target else ():
            if part not in module._modules:
                raise AttributeError(
                    f"{type(module).__name__} has no module {part!r} (looking for {target!r})"
                )
            module = module._modules[part]
        return module

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Call `function` with every module, children before parents, and return this module.

        Parameters
        ----------
        function : callable (Module) -> object
            What it returns is dropped.
        """
        for module in self._modules.values():
            module.apply(function)
        function(self)
        return self

    # ---- work ----------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute something; for subclasses to define.

        Parameters
        ----------
        *args, **kwargs
            As the subclass says.

        Raises
        ------
        UnsupportedError
            If the class does not: modules inside a model are run by the model, as a whole.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no forward of its own: a model runs its parts as a whole. Its "
            "outputs have what they compute: output_hidden_states=True, output_attentions=True"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call `forward`."""
        return self.forward(*args, **kwargs)

    # ---- modes ---------------------------------------------------------------------------------------------

    def eval(self) -> Self:
        """Switch this module and all below it to evaluation mode, and return it; models start in it."""
        return self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below it to training mode, and return it.

        In training mode the forward of a model is recorded, so that its loss has a ``backward``.

        Parameters
        ----------
        mode : bool
            False: as `eval`.

        Raises
        ------
        TypeError
            If `mode` is no bool.
        """
        if not isinstance(mode, bool):
            raise TypeError(f"mode: expected bool, got {type(mode).__name__}")
        for module in self.modules():
            module.training = mode
        return self

    # ---- tensors -------------------------------------------------------------------------------------------

    def _named_slots(self, prefix: str = "") -> Iterator[tuple[str, Slot]]:
        for path, module in self.named_modules(prefix):
            for name, slot in module._slots().items():
                yield (f"{path}.{name}" if path else name), slot

    def named_parameters(
        self, prefix: str = "", *, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, read-only view) of weights, biases and learned bounds.

        Parameters
        ----------
        prefix : str
            Put before every name.
        remove_duplicate : bool
            Give a tied tensor under its first name only.
        """
        for path, module in self.named_modules(prefix):
            for name, slot in module._parameter_slots().items():
                if remove_duplicate and slot.tied_to is not None:
                    continue
                if (value := slot.read()) is not None:
                    yield (f"{path}.{name}" if path else name), slot.parameter(value)

    def parameters(self) -> Iterator[Parameter]:
        """Yield the read-only views of `named_parameters`."""
        for _, value in self.named_parameters():
            yield value

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Say for every parameter whether training may change it, and return this module.

        Parameters
        ----------
        requires_grad : bool

        Raises
        ------
        TypeError
            If `requires_grad` is no bool.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters: `Parameter.grad` is None until the next backward.

        Raises
        ------
        StateError
            If another thread runs backward on the model at this moment.
        """
        for parameter in self.parameters():
            parameter.grad = None

    def _gradient_flags(self) -> dict[str, bool]:
        """Return `requires_grad` of every parameter, by its first dotted name."""
        return {
            name: slot.state.requires_grad
            for name, slot in self._named_slots()
            if slot.is_parameter and slot.tied_to is None
        }

    def _set_gradient_flags(self, flags: Mapping[str, bool]) -> None:
        """Set `requires_grad` of the parameters that `flags` names."""
        for name, slot in self._named_slots():
            if slot.is_parameter and name in flags:
                slot.state.requires_grad = flags[name]

    def _parameter(self, name: str) -> Parameter:
        """Return the view of one parameter of this module alone."""
        slot = self._slots()[name]
        value = slot.read()
        assert value is not None  # weights and biases always exist
        return slot.parameter(value)

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """Yield (dotted name, value) of what is no parameter, such as ``_amax``, while it exists.

        Parameters
        ----------
        prefix : str
            Put before every name.
        """
        for name, slot in self._named_slots(prefix):
            if not slot.is_parameter and (value := slot.read()) is not None:
                yield name, value

    def buffers(self) -> Iterator[Array]:
        """Yield the values of `named_buffers`."""
        for _, value in self.named_buffers():
            yield value

    def state_dict(self, *, prefix: str = "") -> OrderedDict[str, Array]:
        """Return every persistent tensor by dotted name, in the original's order.

        Parameters
        ----------
        prefix : str
            Put before every name as it is, so it should end with a dot.

        Returns
        -------
        OrderedDict of str to ndarray
            Read-only views and small copies; loading something else later changes the views.
        """
        state = OrderedDict()
        for name, slot in self._named_slots():
            if slot.persistent and (value := slot.read()) is not None:
                state[prefix + name] = value
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy tensors into this module and all below it.

        Ranges (``_amax``) are optional: one that the module lacks is created, one that `state_dict` lacks is
        kept, with a warning in the log. Everything is checked before anything is written.

        A frozen model takes the codes that it has, however they come: its own `state_dict`, that of a copy,
        or floats that its quantizers turn into the same codes; the ranges that these depend on must be equal.

        Parameters
        ----------
        state_dict : mapping of str to array
            Anything NumPy can read as numbers; converted to float32.
        strict : bool
            Whether missing and unexpected keys are errors.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        CheckpointError
            Which is also a RuntimeError: wrong shapes or values that are no numbers, and with `strict`
            missing and unexpected keys; all of them are listed.
        StateError
            If a forward runs on the model at this moment, or it is frozen and would get other codes, or
            other numbers where it reads from a file; then nothing is written.
        """
        slots = {name: slot for name, slot in self._named_slots() if slot.persistent}
        missing = [name for name, slot in slots.items() if slot.required and name not in state_dict]
        unexpected = [name for name in state_dict if name not in slots]
        problems, values = [], {}
        for name, slot in slots.items():
            if name in state_dict:
                try:
                    values[name] = _as_float32(state_dict[name])
                    if slot.check is not None:
                        slot.check(values[name])
                except (TypeError, ValueError) as error:
                    problems.append(f"While copying the parameter named {name!r}: {error}.")
                    continue
                if slot.shape is not None and values[name].shape != slot.shape:
                    problems.append(
                        f"size mismatch for {name}: copying a param with shape {values[name].shape} from "
                        f"checkpoint, the shape in current model is {slot.shape}."
                    )
                elif slot.difference is not None and (difference := slot.difference(values.pop(name))):
                    raise StateError(f"load_state_dict: {name}: {difference}")
        if strict and unexpected:
            problems.insert(
                0, "Unexpected key(s) in state_dict: " + ", ".join(f"{key!r}" for key in unexpected) + "."
            )
        if strict and missing:
            problems.insert(
                0, "Missing key(s) in state_dict: " + ", ".join(f"{key!r}" for key in missing) + "."
            )
        if problems:
            raise CheckpointError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(problems)
            )
        kept = [
            name
            for name, slot in slots.items()
            if not (slot.required or slot.tied_to) and name not in state_dict and slot.read() is not None
        ]
        if kept:
            more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
            _logger.warning("No amax in state_dict: %s%s stay as they were.", ", ".join(kept[:3]), more)
        with changing(slots[name] for name in values):
            for name, value in values.items():
                slots[name].write(value)
        return IncompatibleKeys(missing, unexpected)

    # ---- text ----------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of `repr` before the children."""
        return ""

    def __repr__(self) -> str:
        return _tree_text(
            type(self).__name__, self.extra_repr(), [(n, repr(m)) for n, m in self._modules.items()]
        )

    def _repr_html_(self) -> str:
        from qdqbert.notebook import module_html

        return module_html(self)


class ModuleList(Module):
    """Children numbered from 0; supports ``len``, indexing, slicing and iteration.

    Parameters
    ----------
    modules : sequence of Module
    """

    def __init__(self, modules: Sequence[Module] = ()) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self._modules[str(index)] = module

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        modules = list(self._modules.values())
        return ModuleList(modules[index]) if isinstance(index, slice) else modules[index]

    def __repr__(self) -> str:
        # Equal neighbours share one line: "(0-11): 12 x QDQBertLayer(".
        groups: list[tuple[int, int, str]] = []
        for index, module in enumerate(self._modules.values()):
            text = repr(module)
            if groups and groups[-1][2] == text:
                groups[-1] = (groups[-1][0], index, text)
            else:
                groups.append((index, index, text))
        children = [
            (str(first), text) if first == last else (f"{first}-{last}", f"{last - first + 1} x {text}")
            for first, last, text in groups
        ]
        return _tree_text(type(self).__name__, self.extra_repr(), children)


def _tree_text(name: str, extra: str, children: list[tuple[str, str]]) -> str:
    extra_lines = extra.split("\n") if extra else []
    child_lines = [f"({key}): " + text.replace("\n", "\n  ") for key, text in children]
    if len(extra_lines) == 1 and not child_lines:
        return f"{name}({extra_lines[0]})"
    lines = extra_lines + child_lines
    return f"{name}(\n  " + "\n  ".join(lines) + "\n)" if lines else f"{name}()"


def _as_float32(value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"expected numbers, got an array of {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)

# SPDX-License-Identifier: Apache-2.0
"""What optimizers share: groups of parameters, their state, and the two ways to a step.

Parameters of a model are stepped by the C core, all of a group in one call.  Learned bounds of quantizers and
parameters that are in no model, of which there are few, are stepped here, by the same formulas.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from qdqbert import _core
from qdqbert.arrays import Array
from qdqbert.errors import StateError
from qdqbert.modeling_bound import THAW
from qdqbert.parameter import ModelPlace, Parameter, ParameterState

__all__ = ["Moments", "Optimizer", "Settings"]


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What one group is stepped with, as the C core takes it.

    Attributes
    ----------
    learning_rate, weight_decay : float
        At least 0.
    beta1, beta2, eps : float
        Of AdamW.
    momentum : float
        Of SGD.
    nesterov : bool
        Of SGD.
    """

    learning_rate: float
    weight_decay: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0
    eps: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False


@dataclasses.dataclass(slots=True)
class Moments:
    """State of a parameter that is in no model.

    Attributes
    ----------
    first, second : ndarray, float32
        Of the parameter's shape.
    steps : int
        How often it was stepped.
    """

    first: Array
    second: Array
    steps: int = 0


class Optimizer:
    """What `AdamW` and `SGD` share; it is made through them.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Parameters, or groups ``{"params": iterable of Parameter, ...}`` with settings of their own.
    defaults : dict
        Settings of groups that do not have them.

    Attributes
    ----------
    param_groups : list of dict
        ``"params"``, a list, and the settings, which may be changed between steps.
    defaults : dict
    """

    _kind: ClassVar[str]
    _state_names: ClassVar[tuple[str, ...]]

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._of_models: dict[_core.Model, _core.Optimizer] = {}
        self._of_others: dict[ParameterState, Moments] = {}
        # A matrix is no list of parameters; a memoryview of one cannot even be gone through.
        if isinstance(params, Parameter | Mapping | np.ndarray | memoryview) or not isinstance(
            params, Iterable
        ):
            raise TypeError(
                f"params: expected an iterable of parameters or of groups, got {type(params).__name__}"
            )
        given = list(params)
        if not given:
            raise ValueError("params: the optimizer got no parameters")
        for group in given if isinstance(given[0], Mapping) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group of parameters.

        Parameters
        ----------
        param_group : mapping
            ``"params"``: a parameter or an iterable of them; and settings, where they are not the defaults.

        Raises
        ------
        TypeError
            If it is no mapping with ``"params"``, or they are no parameters.
        ValueError
            If a setting is out of range, or a parameter is in a group already; nothing is added then.
        StateError
            If the model of a parameter is frozen.
        """
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"param_group: expected a dict with 'params', got {param_group!r:.80}")
        params = param_group["params"]
        params = [params] if isinstance(params, Parameter) else list(params)
        for index, parameter in enumerate(params):
            if not isinstance(parameter, Parameter) or parameter._state is None:
                raise TypeError(
                    f"params[{index}]: expected a Parameter, as model.parameters() gives them, got "
                    f"{type(parameter).__name__}"
                )
            place = _model_place(parameter)
            if place is not None and place.is_frozen:
                raise StateError(
                    f"params[{index}]: {parameter.state.name} is of a frozen model, which cannot be trained; "
                    f"{THAW}"
                )
        known = {parameter.state for group in self.param_groups for parameter in group["params"]}
        for parameter in params:
            if parameter.state in known:
                raise ValueError(f"params: {parameter.state.name or 'a parameter'} is there twice")
            known.add(parameter.state)
        group = {**self.defaults, **param_group, "params": params}
        self._settings(group, f"param_groups[{len(self.param_groups)}]")
        self.param_groups.append(group)

    # ---- steps ---------------------------------------------------------------------------------------------

    def _settings(self, group: Mapping[str, Any], where: str) -> Settings:
        """Return the settings of a group, checked."""
        raise NotImplementedError

    def _step_array(self, x: Array, gradient: Array, moments: Moments, settings: Settings) -> Array:
        """Return a parameter after a step; its moments are changed in place."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient and is trained.

        Parameters
        ----------
        closure : callable () -> object, optional
            Called first: forward and backward.

        Returns
        -------
        object
            What `closure` returned, or None.

        Raises
        ------
        ValueError, TypeError
            If a setting in `param_groups` is out of range; nothing is stepped then.
        StateError
            If a forward runs on a model at this moment, or the sizes of a model have changed since its
            parameters were given to this optimizer; nothing is stepped then.
        """
        result = None if closure is None else closure()
        settings = [self._settings(group, f"param_groups[{i}]") for i, group in enumerate(self.param_groups)]
        work = [list(self._trained(group["params"])) for group in self.param_groups]
        models = {place.model for params in work for place in map(_model_place, params) if place is not None}
        with _core.Change(tuple(models)):
            for params, group_settings in zip(work, settings, strict=True):
                self._step_group(params, group_settings)
        return result

    def _trained(self, params: Iterable[Parameter]) -> Iterator[Parameter]:
        for parameter in params:
            place = _model_place(parameter)
            if place is not None and not place.is_present():
                raise StateError(
                    f"{parameter.state.name}: the sizes of the model have changed since the optimizer got "
                    "its parameters, or it was frozen, and its moments are of the old ones; make another"
                )
            if parameter.state.has_gradient and parameter.state.requires_grad:
                yield parameter

    def _step_group(self, params: list[Parameter], settings: Settings) -> None:
        indices: dict[_core.Model, list[int]] = {}
        for parameter in params:
            place = _model_place(parameter)
            if place is not None:
                indices.setdefault(place.model, []).append(place.index)
                continue
            gradient = parameter.grad
            assert gradient is not None
            moments = self._moments(parameter)
            moments.steps += 1
            with np.errstate(all="ignore"):
                value = self._step_array(parameter.place.read(), np.asarray(gradient), moments, settings)
            parameter.place.write(value)
        for model, places in indices.items():
            self._of_model(model).step(np.array(places, np.int64), *dataclasses.astuple(settings))

    def _of_model(self, model: _core.Model) -> _core.Optimizer:
        if model not in self._of_models:
            self._of_models[model] = _core.Optimizer(model, self._kind)
        return self._of_models[model]

    def _moments(self, parameter: Parameter) -> Moments:
        shape = parameter.shape
        fresh = Moments(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
        return self._of_others.setdefault(parameter.state, fresh)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the parameters.

        Parameters
        ----------
        set_to_none : bool
            True: `Parameter.grad` becomes None.  False: it becomes zeros, with which a step still decays
            weights and moments.

        Raises
        ------
        StateError
            If another thread runs backward on a model at this moment.
        """
        indices: dict[_core.Model, list[int]] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                place = _model_place(parameter)
                if place is not None:
                    indices.setdefault(place.model, []).append(place.index)
                elif parameter.state.has_gradient:
                    parameter.place.write_gradient(np.zeros(parameter.shape, np.float32))
        for model, places in indices.items():
            model.zero_gradients(np.array(places, np.int64))
        if set_to_none:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.state.has_gradient = False

    # ---- state ---------------------------------------------------------------------------------------------

    def _named(self) -> list[list[tuple[str, Parameter]]]:
        """Return name and parameter of each group; names that several models have get a number."""
        seen: dict[str, int] = {}
        groups = []
        for group in self.param_groups:
            named = []
            for parameter in group["params"]:
                name = parameter.state.name or "parameter"
                seen[name] = seen.get(name, 0) + 1
                named.append((name if seen[name] == 1 else f"{name}#{seen[name]}", parameter))
            groups.append(named)
        return groups

    def _state_of(self, parameter: Parameter) -> tuple[list[Array], int]:
        """Return the moments of a parameter, writable, and its steps."""
        place = _model_place(parameter)
        if place is not None:
            if place.model not in self._of_models:
                return [], 0
            first, second, steps = self._of_models[place.model].state(place.index)
            return [first] if second is None else [first, second], steps
        if parameter.state not in self._of_others:
            return [], 0
        moments = self._of_others[parameter.state]
        arrays = (moments.first.view(), moments.second.view())  # which `state_dict` locks
        return list(arrays[: len(self._state_names)]), moments.steps

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on beside parameters and gradients.

        Returns
        -------
        dict
            ``"state"``: by name of the parameter, for those that have been stepped, ``"step"`` (int) and
            moments (read-only views, which the next step changes) under PyTorch's names; ``"param_groups"``:
            the settings, with names in ``"params"``.
        """
        state: dict[str, dict[str, Any]] = {}
        for named in self._named():
            for name, parameter in named:
                arrays, steps = self._state_of(parameter)
                if steps:
                    for array in arrays:
                        array.flags.writeable = False
                    state[name] = {"step": steps, **dict(zip(self._state_names, arrays, strict=True))}
        groups = [
            {**group, "params": [name for name, _ in named]}
            for group, named in zip(self.param_groups, self._named(), strict=True)
        ]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, of an optimizer of the same groups.

        Parameters
        ----------
        state_dict : mapping

        Raises
        ------
        ValueError, TypeError
            If it is of other groups, parameters, shapes or settings; nothing is changed then.
        """
        try:
            saved_groups, saved = list(state_dict["param_groups"]), dict(state_dict["state"])
        except (KeyError, TypeError, ValueError, NotImplementedError) as error:  # the last: odd memoryviews
            raise ValueError("state_dict: expected a dict with 'state' and 'param_groups'") from error
        if not all(isinstance(group, Mapping) for group in saved_groups):
            raise ValueError("state_dict['param_groups']: expected dicts")
        named_groups = self._named()
        if len(saved_groups) != len(named_groups):
            raise ValueError(
                f"state_dict: expected {len(named_groups)} parameter groups, got {len(saved_groups)}"
            )
        merged = []
        for index, (group, named, theirs) in enumerate(
            zip(self.param_groups, named_groups, saved_groups, strict=True)
        ):
            where = f"state_dict['param_groups'][{index}]"
            mine, other = {name for name, _ in named}, set(theirs.get("params", ()))
            if mine != other:
                raise ValueError(
                    f"{where}: other parameters than the optimizer's: {', '.join(sorted(mine ^ other)[:3])}"
                )
            merged.append({**group, **theirs, "params": group["params"]})
            self._settings(merged[-1], where)
        checked = {
            name: self._checked_state(name, parameter, saved[name])
            for named in named_groups
            for name, parameter in named
            if name in saved
        }
        unknown = sorted(set(saved) - {name for named in named_groups for name, _ in named})
        if unknown:
            raise ValueError(f"state_dict['state']: there is no parameter {unknown[0]!r}")
        for named in named_groups:
            for name, parameter in named:
                self._set_state(parameter, *checked.get(name, ([], 0)))
        for group, new in zip(self.param_groups, merged, strict=True):
            group.update(new)

    def _checked_state(self, name: str, parameter: Parameter, saved: Any) -> tuple[list[Array], int]:
        where = f"state_dict['state'][{name!r}]"
        if not isinstance(saved, Mapping) or set(saved) != {"step", *self._state_names}:
            expected = ", ".join(("step", *self._state_names))
            raise ValueError(f"{where}: expected a dict with {expected}")
        steps = np.asarray(saved["step"])
        if steps.size != 1 or steps.dtype.kind not in "iuf" or steps < 1 or steps != np.floor(steps):
            raise ValueError(f"{where}: step: expected an integer of at least 1, got {saved['step']!r}")
        arrays = []
        for key in self._state_names:
            array = np.asarray(saved[key])
            if array.dtype.kind != "f" or array.shape != parameter.shape:
                raise ValueError(
                    f"{where}: {key}: expected floats of shape {parameter.shape}, got {array.dtype} of shape "
                    f"{array.shape}"
                )
            arrays.append(array)
        return arrays, int(steps)

    def _set_state(self, parameter: Parameter, arrays: list[Array], steps: int) -> None:
        place = _model_place(parameter)
        if place is None:
            moments = self._moments(parameter)
            targets: list[npt.NDArray[Any]] = [moments.first, moments.second]
            moments.steps = steps
        elif not arrays and place.model not in self._of_models:
            return
        else:
            of_model = self._of_model(place.model)
            first, second, _ = of_model.state(place.index)
            targets = [first] if second is None else [first, second]
            of_model.set_steps(place.index, steps)
        for i, target in enumerate(targets):
            target[...] = arrays[i] if i < len(arrays) else 0.0

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied and pickled.

        Raises
        ------
        StateError
            Always.
        """
        raise StateError(
            f"{type(self).__name__}: looks at the parameters of a model and cannot be copied or pickled; "
            "save its state_dict(), and load it into an optimizer of the other model"
        )

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


def _model_place(parameter: Parameter) -> ModelPlace | None:
    place = parameter.place
    return place if isinstance(place, ModelPlace) else None


def require_number(where: str, value: Any, below: float = math.inf) -> float:
    """Return a setting as a float.

    Parameters
    ----------
    where : str
        What it is, for messages.
    value : object
    below : float
        What it must be less than.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is not in [0, `below`).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{where}: expected a number, got {type(value).__name__}")
    number = float(value)
    if not 0.0 <= number < below:
        least = "a finite number of at least 0"
        limit = least if below == math.inf else f"{least} and less than {below:g}"
        raise ValueError(f"{where}: expected {limit}, got {value}")
    return number

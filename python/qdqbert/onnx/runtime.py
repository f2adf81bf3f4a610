# SPDX-License-Identifier: Apache-2.0
"""`OnnxRuntimeModel`: a file in ONNX Runtime, called as the models of this package are."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import get_num_threads
from qdqbert.errors import CheckpointError, ShapeError, UnsupportedError
from qdqbert.forward_inputs import as_array, as_floats, as_integers, as_mask
from qdqbert.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    ModelOutput,
    QuestionAnsweringModelOutput,
)
from qdqbert.onnx.metadata import PREFIX
from qdqbert.serialization.folder import json_object

__all__ = ["OnnxRuntimeModel", "field_of", "open_session", "require_onnxruntime"]

Arrays = dict[str, npt.NDArray[Any]]

# Names that the original's example gives to outputs, and the fields that they are.
_FIELDS = {"output_start_logits": "start_logits", "output_end_logits": "end_logits"}
_OUTPUT_CLASSES: tuple[type[ModelOutput], ...] = (
    QuestionAnsweringModelOutput,
    CausalLMOutputWithCrossAttentions,
    BaseModelOutputWithPoolingAndCrossAttentions,
)
_TYPES: dict[str, type[np.generic]] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
_STATES = "encoder_hidden_states"
# Inputs that may be left out: whose shape they have, and their value.
_DEFAULTS = {
    "attention_mask": ("input_ids", 1),
    "token_type_ids": ("input_ids", 0),
    "encoder_attention_mask": (_STATES, 1),
}
_CACHE = "past_key_values."
_CACHE_AXES = 4


class OnnxRuntimeModel:
    """An ONNX file that ONNX Runtime computes on the CPU.

    It is called with the arrays that models of this package are called with and returns what they return, so
    tasks, and whatever else calls a model, take it: ``qdqbert.tasks.SQuAD.read(...).evaluate(model)``.

    ONNX Runtime is asked for its exact kernels of 8 bits (``session.x64quantprecision``): those that it takes
    by default saturate on x86 CPUs without VNNI.

    Parameters
    ----------
    path : str or path
        Of a file that `export` wrote, or of another one with inputs and outputs of the same names
        (``input_ids``, ``attention_mask``, ``token_type_ids``; ``logits``, or ``start_logits`` and
        ``end_logits``).
    optimizes : bool
        Let ONNX Runtime fuse nodes; otherwise it runs them one by one.
    num_threads : int, optional
        At least 1; by default those that this package uses.

    Attributes
    ----------
    path : str
    config : QDQBertConfig or None
        Of the model that the file is of; None if the file does not say.
    model_class : str or None
        Its class, such as ``"QDQBertForQuestionAnswering"``; likewise.
    input_names, output_names : tuple of str
        As in the file.

    Raises
    ------
    CheckpointError
        If there is no such file, or what it says of its configuration cannot be read.
    UnsupportedError
        If ONNX Runtime is not installed or cannot run the file, or no output is one that a model has.
    TypeError, ValueError
        If `num_threads` is no integer, or less than 1.

    Examples
    --------
    >>> model = qdqbert.onnx.OnnxRuntimeModel("model.onnx")                  # doctest: +SKIP
    >>> model(**tokenizer("Who built it?")).logits                          # doctest: +SKIP
    """

    def __init__(
        self, path: str | os.PathLike[str], *, optimizes: bool = True, num_threads: int | None = None
    ) -> None:
        self.path: str = os.fspath(path)
        self._session = open_session(self.path, optimizes=optimizes, num_threads=num_threads)
        inputs = self._session.get_inputs()
        self._inputs = {each.name: (each.type, list(each.shape)) for each in inputs}
        self.input_names: tuple[str, ...] = tuple(self._inputs)
        self.output_names: tuple[str, ...] = tuple(each.name for each in self._session.get_outputs())
        for name, (kind, _) in self._inputs.items():
            if kind not in _TYPES:
                raise UnsupportedError(f"{self.path}: input {name} is {kind}, which no model has")
        known = {name for kind in _OUTPUT_CLASSES for name in _field_names(kind)}
        self._fields = {name: field_of(name) for name in self.output_names if field_of(name) in known}
        if not self._fields:
            raise UnsupportedError(
                f"{self.path}: its outputs are {', '.join(self.output_names)}; expected logits, start_logits "
                "and end_logits, or last_hidden_state"
            )
        properties = dict(self._session.get_modelmeta().custom_metadata_map)
        self.model_class: str | None = properties.get(f"{PREFIX}class")
        self.config: QDQBertConfig | None = _config(self.path, properties.get(f"{PREFIX}config"))

    def __call__(
        self,
        input_ids: npt.ArrayLike | None = None,
        attention_mask: npt.ArrayLike | None = None,
        token_type_ids: npt.ArrayLike | None = None,
        *,
        return_dict: bool | None = None,
        **inputs: npt.ArrayLike | None,
    ) -> Any:
        """Compute the outputs that the file has.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids, **inputs : array_like, optional
            As a model takes them: masks that are left out are 1, types 0.
        return_dict : bool, optional
            False: return a tuple.

        Returns
        -------
        ModelOutput
            With float32 arrays.  The cache of a decoder goes in empty and does not come back.

        Raises
        ------
        TypeError, ValueError, IndexError
            If an input is missing, has another type or number of axes, or a negative id, or the file has none
            of that name; it is named.
        UnsupportedError
            If ONNX Runtime fails on these inputs.
        """
        inputs |= {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        values = {self._fields[name]: value for name, value in self.run(inputs).items()}
        for kind in _OUTPUT_CLASSES:
            if values.keys() <= _field_names(kind):
                output = kind(**values)
                return output.to_tuple() if return_dict is False else output
        raise UnsupportedError(f"{self.path}: no model has all of {', '.join(values)}")

    def __repr__(self) -> str:
        """Return file, class and inputs."""
        named = "" if self.model_class is None else f", a {self.model_class}"
        return f"OnnxRuntimeModel({self.path!r}{named}: {', '.join(self.input_names)})"

    def run(self, inputs: Mapping[str, npt.ArrayLike | None]) -> Arrays:
        """Compute the outputs under the names that the file gives them.

        Parameters
        ----------
        inputs : mapping of str to array_like
            As for a call.

        Returns
        -------
        dict of str to ndarray, float32
            In the order of the file, without caches.

        Raises
        ------
        TypeError, ValueError, IndexError, UnsupportedError
            As a call does.
        """
        given = {name: as_array(name, value) for name, value in inputs.items() if value is not None}
        fed = self._fed(given)
        names = list(self._fields)
        try:
            values = self._session.run(names, fed)
        except Exception as error:  # a class of its own for every kind of failure, without a common base
            shapes = ", ".join(f"{name} {value.shape}" for name, value in fed.items())
            raise UnsupportedError(f"{self.path}: onnxruntime failed on {shapes}: {error}") from error
        return {name: np.asarray(value, dtype=np.float32) for name, value in zip(names, values, strict=True)}

    def _fed(self, given: Arrays) -> Arrays:
        fed: Arrays = {}
        for name, (kind, shape) in self._inputs.items():
            if name in given:
                fed[name] = _converted(name, given[name], _TYPES[kind], shape)
            elif name.startswith(_CACHE):
                fed[name] = self._empty_cache(name, kind, shape, given)
            elif name in _DEFAULTS and _DEFAULTS[name][0] in given:
                like, value = _DEFAULTS[name]
                sizes = given[like].shape[:-1] if like == _STATES else given[like].shape
                fed[name] = np.full(sizes, value, _TYPES[kind])
            else:
                raise ValueError(f"{name}: {self.path} needs it, and it is missing")
        for name in given.keys() - fed.keys():
            # What a model would add for type 0 is in the file, as a constant.
            if name != "token_type_ids" or given[name].any():
                raise ValueError(f"{name}: {self.path} has no such input; it has {', '.join(self._inputs)}")
        return fed

    def _empty_cache(self, name: str, kind: str, shape: list[Any], given: Arrays) -> npt.NDArray[Any]:
        if len(shape) != _CACHE_AXES or not (isinstance(shape[1], int) and isinstance(shape[3], int)):
            raise UnsupportedError(
                f"{self.path}: input {name} is {shape}; expected (batch, heads, length, size), the second "
                "and the last of fixed size"
            )
        rows = len(given["input_ids"]) if "input_ids" in given else 1
        return np.zeros((rows, shape[1], 0, shape[3]), _TYPES[kind])


def require_onnxruntime() -> Any:
    """Return the package ``onnxruntime``.

    Raises
    ------
    UnsupportedError
        If it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UnsupportedError(
            "onnxruntime is not installed; it is needed to run an exported file (`pip install onnxruntime`)"
        ) from error


def field_of(name: str) -> str:
    """Return the field of a model's output that an output of a file is.

    Parameters
    ----------
    name : str
        In the file.

    Examples
    --------
    >>> field_of("output_start_logits"), field_of("logits")
    ('start_logits', 'logits')
    """
    return _FIELDS.get(name, name)


def _converted(name: str, value: npt.ArrayLike, kind: type[np.generic], shape: list[Any]) -> npt.NDArray[Any]:
    """Return an input in the type of the file; refuse what a model refuses, and a Gather would take."""
    is_float, is_mask = not np.issubdtype(kind, np.integer), name.endswith("mask")
    read = as_floats if is_float else as_mask if is_mask else as_integers
    array = np.asarray(read(name, value))
    if array.ndim != len(shape):
        axes = ", ".join(map(str, shape))
        raise ShapeError(f"{name}: expected the axes ({axes}), got the shape {array.shape}")
    if not is_float:
        highest = 1 if is_mask else np.iinfo(kind).max  # type: ignore[type-var]
        wrong = array[(array < 0) | (array > highest)]
        if wrong.size and is_mask:
            raise ValueError(f"{name}: has {wrong[0]}, expected 0 or 1")
        if wrong.size:
            raise IndexError(f"{name}: has {wrong[0]}, expected at least 0 and at most {highest}")
    return array.astype(kind, copy=False)


def _field_names(kind: type[ModelOutput]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]


def open_session(path: str, *, optimizes: bool = True, num_threads: int | None = None) -> Any:
    """Open a file in ONNX Runtime, on the CPU, with its exact kernels of 8 bits.

    Parameters
    ----------
    path, optimizes, num_threads
        As for `OnnxRuntimeModel`.

    Raises
    ------
    CheckpointError, UnsupportedError, TypeError, ValueError
        As for `OnnxRuntimeModel`.
    """
    if num_threads is not None and (isinstance(num_threads, bool) or not isinstance(num_threads, int)):
        raise TypeError(f"num_threads: expected an integer, got {num_threads!r}")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads: expected at least 1, got {num_threads}")
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: there is no such file")
    onnxruntime = require_onnxruntime()
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimizes else levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = get_num_threads() if num_threads is None else num_threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # see `OnnxRuntimeModel.run`
        raise UnsupportedError(f"{path}: onnxruntime cannot run it: {error}") from error


def _config(path: str, text: str | None) -> QDQBertConfig | None:
    if text is None:
        return None
    where = f"{path}: property {PREFIX}config"
    fields = json_object(text.encode(), where)
    try:
        return QDQBertConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from error

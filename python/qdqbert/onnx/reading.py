# SPDX-License-Identifier: Apache-2.0
"""`from_onnx`: an exported file back into a model, with its ranges.

Two kinds of file are read.  One of this package says in its properties which class it is of, how that was
configured, and every range to the bit (`qdqbert.onnx.metadata`); parameters stand under their names.  What
the properties say is compared with the scales in the graph, and weights with the digest, so that a file that
somebody has changed does not become a model that is half of each.

One of another exporter, such as the original's, is read from what its graph computes (`graph_models`).
"""

from __future__ import annotations

import base64
import binascii
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import qdqbert
from qdqbert._core import STAGE_DISABLED, STAGE_QUANT
from qdqbert.configuration_qdqbert import QDQBertConfig
from qdqbert.device import Device
from qdqbert.errors import CheckpointError, Error, StateError, UnsupportedError
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.nn.quantizer_state import handle_state
from qdqbert.onnx.graph_builder import GraphBuilder
from qdqbert.onnx.graph_models import model_of_graph
from qdqbert.onnx.graph_view import GraphView, attribute, is_default_domain
from qdqbert.onnx.metadata import PREFIX, checkpoint_digest
from qdqbert.onnx.model_file import read_message
from qdqbert.onnx.opsets import opset_of
from qdqbert.onnx.precision import PRECISIONS
from qdqbert.onnx.quantize_nodes import QuantizeNodes
from qdqbert.onnx.tensor_values import TensorReader
from qdqbert.serialization.checkpoint_tensors import tensors_of_state_dict
from qdqbert.serialization.folder import json_object
from qdqbert.serialization.loading import refuse_disproportion

__all__ = ["from_onnx"]

Floats = npt.NDArray[np.float32]

_CLASSES = (
    "QDQBertForMaskedLM",
    "QDQBertForMultipleChoice",
    "QDQBertForNextSentencePrediction",
    "QDQBertForQuestionAnswering",
    "QDQBertForSequenceClassification",
    "QDQBertForTokenClassification",
    "QDQBertLMHeadModel",
    "QDQBertModel",
)
_MOST_AXES = 8
_READS = 5  # of a file that is replaced while it is read
_FARTHEST = 2.0**-20  # of an element from its own value, relative
_SHARING = ("key._input_quantizer", "value._input_quantizer")
# Keys of a range and the names that they have in a state dict.
_STATE_NAMES = {"amax": "_amax", "pre_quant_scale": "_pre_quant_scale"}
_CLIP_NAMES = ("clip.clip_value_min", "clip.clip_value_max")


def from_onnx(path: str | os.PathLike[str], *, device: Device | None = None) -> QDQBertPreTrainedModel:
    """Read an ONNX file back into the model that it is from.

    Parameters
    ----------
    path : str or path
        Written by `qdqbert.onnx.export`, with any opset, weights and precision, or by PyTorch's exporter
        from a QDQBERT encoder whose quantizers have 8 bits.
    device : Device, optional

    Returns
    -------
    model
        Of the class that the file is of, in evaluation mode.  Of a file with float weights in fp32 it has the
        same parameters and ranges to the bit.  Where weights are stored as codes, or in half a precision,
        parameters are what the file has: ranges and codes are the same, and so are outputs.  Parameters that
        no output depends on are not in a file; the log tells which are fresh.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, no BERT, or was changed so that its parts disagree; the message has
        the node, tensor or property.
    UnsupportedError
        If a node computes something that this package has no model for; it is named.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import qdqbert
    >>> folder = files("qdqbert") / "demo" / "topics-tiny"
    >>> model = qdqbert.QDQBertForSequenceClassification.from_pretrained(folder)
    >>> texts = qdqbert.BertTokenizerFast.from_pretrained(folder)(["Who built it?", "When?"], padding=True)
    >>> calibration = qdqbert.calibrate(model, [texts])
    >>> files = qdqbert.onnx.export(model, "model.onnx")
    >>> bool((qdqbert.onnx.from_onnx("model.onnx")(**texts).logits == model(**texts).logits).all())
    True
    """
    file = Path(path)
    for _ in range(_READS - 1):
        before = _identity(file)
        try:
            return _read(file, device)
        except CheckpointError:
            # An export that took its place in between has removed the second file of the former.
            if _identity(file) == before:
                raise
    return _read(file, device)


def _identity(file: Path) -> tuple[int, int] | None:
    """Return what tells a file from one that took its place; None if it cannot be seen."""
    try:
        facts = os.stat(file)
    except (OSError, ValueError):
        return None
    return facts.st_ino, facts.st_mtime_ns


def _read(file: Path, device: Device | None) -> QDQBertPreTrainedModel:
    proto = read_message(file)
    opsets = {
        "" if is_default_domain(each.domain) else each.domain: each.version for each in proto.opset_import
    }
    view = GraphView(proto.graph, TensorReader(file.resolve().parent), opsets)
    properties = {
        each.key.removeprefix(PREFIX): each.value
        for each in proto.metadata_props
        if each.key.startswith(PREFIX)
    }
    try:
        if "class" in properties:
            return _own(view, properties, device)
        return model_of_graph(view, device)
    except (CheckpointError, UnsupportedError) as error:
        kind = CheckpointError if isinstance(error, CheckpointError) else UnsupportedError
        raise kind(f"{file}: {error}") from error


def _own(view: GraphView, properties: Mapping[str, str], device: Device | None) -> QDQBertPreTrainedModel:
    """Build the model that the properties describe."""
    kind = _class_of(properties["class"])
    config = _config_of(properties)
    parameters = _parameters(view)
    _restore_ties(parameters, properties)
    state = {**parameters, **_ranges(properties)}
    refuse_disproportion(config, tensors_of_state_dict(state).tensors, "the file")
    arguments: dict[str, Any] = {}
    if kind.__name__ == "QDQBertModel":
        arguments["add_pooling_layer"] = "pooler.dense.weight" in state
    model, report = kind.from_pretrained(
        None, config=config, state_dict=state, device=device, output_loading_info=True, **arguments
    )
    if report["unexpected_keys"]:
        raise CheckpointError(f"{kind.__name__} has no {', '.join(report['unexpected_keys'][:5])}")
    missing = [name for name in report["missing_keys"] if name not in _unused(config)]
    if missing:
        raise CheckpointError(f"the file has no {', '.join(missing[:5])}")
    _compare_scales(view, model)
    is_exact = properties.get("weights") == "float" and properties.get("precision") == "fp32"
    is_whole = is_exact and not report["missing_keys"]
    if is_whole and properties.get("checkpoint_sha256") != checkpoint_digest(model):
        raise CheckpointError(
            f"{PREFIX}checkpoint_sha256: the parameters of the file are not those that it was written with"
        )
    return model


def _unused(config: QDQBertConfig) -> tuple[str, ...]:
    """Names of parameters that a model has and no output depends on."""
    if config.position_embedding_type == "absolute":
        return ()
    name = "embeddings.position_embeddings.weight"
    return name, f"{QDQBertPreTrainedModel.base_model_prefix}.{name}"


def _class_of(name: str) -> type[QDQBertPreTrainedModel]:
    if name not in _CLASSES:
        raise CheckpointError(f"{PREFIX}class: expected one of {', '.join(_CLASSES)}, got {name!r:.80}")
    found: type[QDQBertPreTrainedModel] = getattr(qdqbert, name)
    return found


def _config_of(properties: Mapping[str, str]) -> QDQBertConfig:
    where = f"{PREFIX}config"
    fields = json_object(properties.get("config", "").encode(), where)
    try:
        config = QDQBertConfig.from_dict(fields)
        config.validate()
    except (Error, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    return config


# ---- tensors -----------------------------------------------------------------------------------------------


def _parameters(view: GraphView) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of the file under the names of a state dict."""
    state: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in view.initializers.items():
        if name.endswith(".weight_transposed"):
            state[name.removesuffix("_transposed")] = _matrix(view, tensor).T
        elif name.endswith(".weight_codes"):
            state[name.removesuffix("_codes")] = _weight_of_codes(view, tensor).T
        elif name.endswith((".weight", ".bias")):
            state[name] = view.reader.values(tensor)
    return state


def _restore_ties(state: dict[str, npt.NDArray[Any]], properties: Mapping[str, str]) -> None:
    """Put back the elements that the file has beside a tie."""
    where = f"{PREFIX}ties"
    for name, entries in json_object(properties.get("ties", "{}").encode(), where).items():
        place = f"{where}[{name!r:.120}]"
        if name not in state:
            raise CheckpointError(f"{place}: the file has no parameter of this name")
        if not isinstance(entries, list):
            raise CheckpointError(f"{place}: expected a list, got {entries!r:.80}")
        copied = np.array(state[name], order="C")
        flat = copied.reshape(-1)
        for entry in entries:
            is_pair = isinstance(entry, list) and [type(each) for each in entry] == [int, float]
            if not is_pair or not 0 <= entry[0] < flat.size:
                raise CheckpointError(
                    f"{place}: expected a place below {flat.size} and a number, got {entry!r:.80}"
                )
            if not abs(entry[1] - float(flat[entry[0]])) <= _FARTHEST * abs(float(flat[entry[0]])):
                raise CheckpointError(f"{place}: {entry[1]!r} is not beside {flat[entry[0]]!r} at {entry[0]}")
            flat[entry[0]] = entry[1]
        state[name] = copied


def _matrix(view: GraphView, tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    if len(tensor.dims) != 2:
        raise CheckpointError(f"tensor {tensor.name!r:.200}: expected 2 axes, got {len(tensor.dims)}")
    return view.reader.values(tensor)


def _weight_of_codes(view: GraphView, tensor: onnx.TensorProto) -> Floats:
    """Return codes times scales: the quantizer of the model makes the same codes of it.

    With c a code, s the scale and b / a = 1 / s up to rounding, the quantizer computes c s (b / a), which is
    c but for four roundings, 2^-22 of it: far below half a step for any code of up to 16 bits.
    """
    codes = _matrix(view, tensor)
    takers = [each.node for each in view.consumers(tensor.name)]
    if len(takers) != 1 or len(takers[0].input) < 2:
        raise CheckpointError(f"tensor {tensor.name!r:.200}: expected one DequantizeLinear that takes it")
    scale = view.values(takers[0].input[1])
    axis = attribute(takers[0], "axis", 1)
    if scale is None or scale.size not in (1, codes.shape[axis if axis in (0, 1) else 1]):
        raise CheckpointError(f"{takers[0].name}: its scale does not fit codes of the shape {codes.shape}")
    kind = str(view.kind(tensor.name))
    if kind == "UINT8" and takers[0].op_type == "TRT_FP8DequantizeLinear":  # bits of E4M3, as bytes
        bits = onnx.TensorProto(
            name=tensor.name,
            dims=tensor.dims,
            data_type=onnx.TensorProto.FLOAT8E4M3FN,
            raw_data=codes.tobytes(),
        )
        codes = view.reader.values(bits)
    steps = scale.reshape(-1) if axis == 1 or scale.size == 1 else scale.reshape(-1, 1)
    return np.asarray(codes.astype(np.float32) * steps.astype(np.float32))


def _ranges(properties: Mapping[str, str]) -> dict[str, Floats]:
    """Return the ranges of the properties under the names of a state dict."""
    where = f"{PREFIX}ranges"
    state: dict[str, Floats] = {}
    for name, entry in json_object(properties.get("ranges", "").encode(), where).items():
        if not isinstance(entry, dict) or not entry.keys() <= {*_STATE_NAMES, "clip"}:
            raise CheckpointError(f"{where}[{name!r:.120}]: expected amax, pre_quant_scale and clip")
        for key, value in entry.items():
            place = f"{where}[{name!r:.120}].{key}"
            if key != "clip":
                state[f"{name}.{_STATE_NAMES[key]}"] = _array_of(value, place)
                continue
            if not isinstance(value, list) or len(value) != len(_CLIP_NAMES):
                raise CheckpointError(f"{place}: expected two numbers, got {value!r:.80}")
            for part, bound in zip(_CLIP_NAMES, value, strict=True):
                state[f"{name}.{part}"] = _array_of(bound, place)
    return state


def _array_of(value: Any, where: str) -> Floats:
    """Return the array that `qdqbert.onnx.metadata.plain_array` wrote."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with np.errstate(over="ignore"):
            return np.asarray(float(value) if abs(value) < 1e39 else math.inf, np.float32)
    shape: Any = value.get("shape") if isinstance(value, dict) else None
    text: Any = value.get("float32") if isinstance(value, dict) else None
    is_shape = isinstance(shape, list) and len(shape) <= _MOST_AXES
    if (
        not is_shape
        or not all(type(size) is int and size >= 0 for size in shape)
        or not isinstance(text, str)
    ):
        raise CheckpointError(f"{where}: expected a number, or shape and float32, got {value!r:.80}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CheckpointError(f"{where}: is not base64: {error}") from error
    if len(data) != 4 * math.prod(shape):
        raise CheckpointError(f"{where}: has {len(data)} bytes for the shape {shape}")
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


# ---- comparison --------------------------------------------------------------------------------------------


def _compare_scales(view: GraphView, model: QDQBertPreTrainedModel) -> None:
    """Compare the scales of the graph with those that the ranges make.

    Quantizers of which the file has no scale are off, or those of key and value, which may share the nodes of
    query's.
    """
    nodes = QuantizeNodes(
        GraphBuilder(),
        opset_of(view.opset),
        PRECISIONS["fp32"],
        keeps_codes=False,
        uses_tensorrt_float8="trt" in view.opsets,
    )
    names = {name.removesuffix(".scale") for name in view.initializers if name.endswith(".scale")}
    for name, quantizer in model._core_quantizers():
        state = handle_state(quantizer)
        is_on = state["stages"] & STAGE_QUANT and not state["stages"] & STAGE_DISABLED
        if name not in names:
            if is_on and not name.endswith(_SHARING):
                raise CheckpointError(f"{name}: has a range, and the graph has no scale of it")
            continue
        names.remove(name)
        scale = view.values(f"{name}.scale")
        try:
            expected = nodes.range_of(state, name)
        except (StateError, UnsupportedError) as error:
            raise CheckpointError(str(error)) from error
        alive = ~expected.is_dead.reshape(-1)  # a dead one has another scale where its weight is not small
        if (
            scale is None
            or scale.size != expected.scale.size
            or not np.array_equal(scale.reshape(-1)[alive], expected.scale.reshape(-1)[alive])
        ):
            raise CheckpointError(
                f"{name}.scale: is not amax / {expected.format.bound:g} of the range under {PREFIX}ranges: "
                "the file was changed"
            )
    if names:
        raise CheckpointError(f"{min(names)}.scale: the model has no quantizer of this name")

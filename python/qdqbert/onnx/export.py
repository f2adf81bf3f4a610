# SPDX-License-Identifier: Apache-2.0
"""`export`: a model as an ONNX file with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import onnx

from qdqbert.errors import UnsupportedError
from qdqbert.modeling_base import QDQBertPreTrainedModel
from qdqbert.onnx.files import write_model_file
from qdqbert.onnx.graph_builder import GraphBuilder
from qdqbert.onnx.head_graphs import write_model
from qdqbert.onnx.metadata import metadata_of
from qdqbert.onnx.opsets import opset_of
from qdqbert.onnx.precision import PRECISIONS
from qdqbert.onnx.quantize_nodes import QuantizeNodes

__all__ = ["build", "export"]

_TENSORRT_DOMAIN_VERSION = 1


def export(
    model: QDQBertPreTrainedModel,
    path: str | os.PathLike[str],
    *,
    opset: int = 17,
    weights: Literal["float", "int8"] = "float",
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    external_data: bool | Literal["auto"] = "auto",
    share_input_quantizers: bool = False,
    float8: Literal["standard", "tensorrt"] = "standard",
    use_cache: bool = False,
) -> list[Path]:
    """Write a model as an ONNX file that TensorRT, ONNX Runtime and OpenVINO read.

    The graph is made from the layers of the model: nothing runs and nothing is traced, so batch and sequence
    are free sizes.  It computes what ``model(x)`` computes with ``model.padding = "compute"``, but that the
    sums are floating-point: codes of activations can differ by one where a quotient is a tie but for
    rounding.  Elements of float weights on such a tie are written an ulp beside it, on the model's side.

    Inputs are ``input_ids``, ``attention_mask`` and ``token_type_ids`` (int64), of a model with
    cross-attention also ``encoder_hidden_states`` and ``encoder_attention_mask``, and with `use_cache`
    ``past_key_values.0.key`` and so on.  Outputs are named as the fields of the model's output, those for
    question answering ``output_start_logits`` and ``output_end_logits`` as in the original's example, and
    with `use_cache` ``present.0.key`` and so on.

    Nobody else may change the model until this returns; `from_onnx` refuses a file that is half of each.

    Parameters
    ----------
    model : QDQBertPreTrainedModel
        Every quantizer that is on has a range.
    path : str or path
        Of the file; its folder exists. An old file is replaced at once.
    opset : int
        13 up to what the installed ``onnx`` package knows. LayerNormalization is one node from 17 on, float8
        starts at 19, 4 and 16 bits at 21.
    weights : {"float", "int8"}
        ``"float"``: quantized weights are float tensors with QuantizeLinear and DequantizeLinear, as
        TensorRT's documentation shows.  ``"int8"``: they are their codes with DequantizeLinear, in a quarter
        of the space.
    precision : {"fp32", "fp16", "bf16"}
        Of parameters and products; see `qdqbert.onnx.precision`.
    external_data : bool or "auto"
        Whether large tensors lie in a second file beside the first.  ``"auto"``: if together they have more
        than the 2 GB that one file can.
    share_input_quantizers : bool
        Write one pair of nodes for the input quantizers of query, key and value where they are equal.
    float8 : {"standard", "tensorrt"}
        How quantizers with ``num_bits=(4, 3)`` are written: as QuantizeLinear to float8, or as TensorRT's
        ``TRT_FP8QuantizeLinear``.
    use_cache : bool
        Of a decoder: keys and values of earlier tokens go in, and come out with those of the new ones.

    Returns
    -------
    list of path
        What was written: the model, and perhaps its second file.

    Raises
    ------
    StateError
        If a quantizer has no range, or one that is not finite, or a weight with a quantizer is not finite;
        it is named, and no file is touched.
    UnsupportedError
        If something has no form in this opset, or `use_cache` is set for no decoder; likewise.
    TypeError, ValueError
        If an argument is none of those listed; likewise.
    NonFiniteError
        If a parameter is beyond float16; the old file is still there.
    OSError
        If a file cannot be written, or `path` is a folder, a device or a pipe; what was there is still
        there.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import qdqbert
    >>> folder = files("qdqbert") / "demo" / "topics-tiny"
    >>> model = qdqbert.QDQBertForSequenceClassification.from_pretrained(folder)
    >>> texts = qdqbert.BertTokenizerFast.from_pretrained(folder)(["Who built it?", "When?"], padding=True)
    >>> calibration = qdqbert.calibrate(model, [texts])
    >>> [file.name for file in qdqbert.onnx.export(model, "model.onnx", weights="int8")]
    ['model.onnx']
    """
    if not (isinstance(external_data, bool) or external_data == "auto"):
        raise ValueError(f"external_data: expected True, False or 'auto', got {external_data!r}")
    target = _checked_path(path)
    proto, graph = build(
        model,
        opset=opset,
        weights=weights,
        precision=precision,
        share_input_quantizers=share_input_quantizers,
        float8=float8,
        use_cache=use_cache,
    )
    return write_model_file(target, proto, graph.initializers, external_data)


def build(
    model: QDQBertPreTrainedModel,
    *,
    opset: int = 17,
    weights: Literal["float", "int8"] = "float",
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    share_input_quantizers: bool = False,
    float8: Literal["standard", "tensorrt"] = "standard",
    use_cache: bool = False,
) -> tuple[onnx.ModelProto, GraphBuilder]:
    """Return a model as a graph, and apart from it the tensors, which are made when they are written.

    Parameters
    ----------
    model, opset, weights, precision, share_input_quantizers, float8, use_cache
        As for `export`.

    Raises
    ------
    StateError, UnsupportedError, ValueError
        As `export`.
    """
    if not isinstance(model, QDQBertPreTrainedModel):
        raise TypeError(f"model: expected a model of this package, got {type(model).__name__}")
    _require("weights", weights, ("float", "int8"))
    _require("precision", precision, tuple(PRECISIONS))
    _require("float8", float8, ("standard", "tensorrt"))
    for name, value in (("share_input_quantizers", share_input_quantizers), ("use_cache", use_cache)):
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected True or False, got {value!r}")
    if use_cache and not model.config.is_decoder:
        raise UnsupportedError(
            "use_cache: config.is_decoder is False, and only a decoder keeps keys and values"
        )
    chosen, graph = opset_of(opset), GraphBuilder()
    nodes = QuantizeNodes(
        graph,
        chosen,
        PRECISIONS[precision],
        keeps_codes=weights == "int8",
        uses_tensorrt_float8=float8 == "tensorrt",
    )
    write_model(nodes, model, shares_inputs=share_input_quantizers, uses_cache=use_cache)
    from qdqbert import __version__

    domains = [("", chosen.version), *((name, _TENSORRT_DOMAIN_VERSION) for name in sorted(graph.domains))]
    proto = onnx.ModelProto(
        ir_version=chosen.ir_version,
        producer_name="qdqbert",
        producer_version=__version__,
        opset_import=[onnx.OperatorSetIdProto(domain=name, version=version) for name, version in domains],
        metadata_props=[
            onnx.StringStringEntryProto(key=key, value=value)
            for key, value in metadata_of(
                model, weights=weights, precision=precision, moves=nodes.moves
            ).items()
        ],
        graph=onnx.GraphProto(
            name=type(model).__name__,
            node=graph.nodes,
            input=graph.inputs,
            output=graph.outputs,
            value_info=graph.value_infos,
        ),
    )
    return proto, graph


def _require(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def _checked_path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected a str or a path, got {type(path).__name__}")
    checked = Path(path)
    if checked.is_dir() or not checked.name:
        raise IsADirectoryError(f"path: {os.fspath(path)!r} is a folder, expected a file")
    if not checked.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {os.fspath(checked.parent)!r}")
    return checked

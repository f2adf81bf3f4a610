# SPDX-License-Identifier: Apache-2.0
"""Peers, each in its best documented configuration for BERT on a CPU.

onnxruntime
    The graph that PyTorch exports, fused by its own BERT optimizer; one pool of as many threads as are asked
    for.  Dynamic int8: weights per channel, of 7 bits (``reduce_range``) on CPUs without VNNI, where its
    kernel saturates on 8, as its documentation says; and the exact form with unsigned weights.  Static int8:
    Q/DQ, per channel, ranges from samples.
openvino
    LATENCY hint, float32 as precision hint, the graph reshaped to the batch; int8 by ``nncf.quantize`` with
    ``ModelType.TRANSFORMER``.
ctranslate2
    ``TransformersConverter``; lists of true lengths, so that it removes padding.
torch
    Fused attention; int8 by ``quantize_dynamic``.

Functions here run inside a worker process (`qdqbert.bench.turns`); nothing is imported before that.
Files that are made of the float folder are kept beside it and made once.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdqbert.bench.batches import Inputs, varied
from qdqbert.bench.machine import cpu_flags
from qdqbert.bench.turns import Missing

__all__ = [
    "export_onnx",
    "has_vnni",
    "onnx_feed",
    "onnxruntime_session",
    "require",
    "start_ctranslate2",
    "start_onnxruntime",
    "start_openvino",
    "start_torch",
    "torch_bert",
    "use_sdpa",
]

_CALIBRATION_BATCHES = 10
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def require(module: str, package: str | None = None) -> Any:
    """Import a module, or say which package to install.

    Parameters
    ----------
    module : str
    package : str, optional
        Its distribution, if that is called otherwise.

    Raises
    ------
    Missing
        If it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{module} is not importable ({error}); pip install {package or module}") from None


def has_vnni() -> bool:
    """Whether the CPU multiplies bytes without saturation, so that peers can use all 8 bits of a weight."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(cpu_flags()))


class _System:
    """A peer with the batch that a call computes.

    Parameters
    ----------
    feed : callable (inputs) -> object
        Makes of a batch what `run` takes; not timed.
    run : callable (object) -> array_like (B, T, H)
        Timed.
    """

    def __init__(self, feed: Callable[[Inputs], Any], run: Callable[[Any], Any]) -> None:
        self._feed, self._run = feed, run
        self._fed: Any = None

    def prepare(self, inputs: Inputs) -> dict[str, Any]:
        self._fed = self._feed(inputs)
        self()
        return {}

    def __call__(self) -> NDArray[np.float32]:
        return np.asarray(self._run(self._fed))


def _made(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a file or folder unless it is there; it appears when it is whole."""
    if not path.exists():
        partial = path.with_name(f"part-{path.name}")
        make(partial)
        os.replace(partial, path)
    return path


def _samples(folder: Path) -> list[Inputs]:
    """Batches that static quantization looks at."""
    import json

    vocab = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    return [varied(2, seed).inputs(vocab, seed) for seed in range(_CALIBRATION_BATCHES)]


# ---- PyTorch -----------------------------------------------------------------------------------------------


def torch_bert(folder: str) -> Any:
    """Load a folder as transformers' `BertModel`.

    Parameters
    ----------
    folder : str
    """
    torch = require("torch")
    transformers = require("transformers", "transformers==4.39.3")
    transformers.logging.set_verbosity_error()
    model = transformers.BertModel.from_pretrained(folder, torch_dtype=torch.float32)
    return model.eval()


def use_sdpa(model: Any) -> None:
    """Replace the attention of transformers' BertSelfAttention, which had no fused one, by torch's.

    Parameters
    ----------
    model : BertModel
    """
    torch = require("torch")

    def forward(self: Any, hidden_states: Any, attention_mask: Any = None, *_: Any, **__: Any) -> Any:
        batch, length, hidden = hidden_states.shape

        def heads(x: Any) -> Any:
            return x.view(batch, length, self.num_attention_heads, -1).transpose(1, 2)

        context = torch.nn.functional.scaled_dot_product_attention(
            heads(self.query(hidden_states)),
            heads(self.key(hidden_states)),
            heads(self.value(hidden_states)),
            attn_mask=attention_mask,
        )
        return (context.transpose(1, 2).reshape(batch, length, hidden),)

    for layer in model.encoder.layer:
        layer.attention.self.forward = forward.__get__(layer.attention.self)


def start_torch(folder: str, threads: int, engine: str | None) -> tuple[Any, dict[str, Any]]:
    """Start PyTorch.

    Parameters
    ----------
    folder : str
        The float model.
    threads : int
    engine : str or None
        Of dynamic quantization; None: float32.
    """
    torch = require("torch")
    torch.set_num_threads(threads)
    model = torch_bert(folder)
    use_sdpa(model)
    if engine is not None:
        if engine not in torch.backends.quantized.supported_engines:
            raise Missing(f"this torch has no quantized engine {engine!r}")
        torch.backends.quantized.engine = engine
        quantize = require("torch.ao.quantization", "torch").quantize_dynamic
        model = quantize(model, {torch.nn.Linear}, dtype=torch.qint8)

    def feed(inputs: Inputs) -> Any:
        return {name: torch.from_numpy(value) for name, value in inputs.items()}

    def run(tensors: Any) -> Any:
        with torch.inference_mode():
            return model(**tensors).last_hidden_state.numpy()

    return _System(feed, run), {"threads": torch.get_num_threads(), "engine": engine}


# ---- ONNX Runtime ------------------------------------------------------------------------------------------


def export_onnx(folder: Path, heads: int, hidden: int, *, form: str) -> Path:
    """Export a folder with torch (TorchScript exporter, opset 17).

    Parameters
    ----------
    folder : Path
    heads, hidden : int
        Of the model.
    form : {"plain", "fused", "separate"}
        As exported; with onnxruntime's BERT operators; with those that take query, key and value apart.
    """
    if form == "plain":
        return _made(folder / "plain.onnx", lambda path: _export_plain(folder, path))
    plain = export_onnx(folder, heads, hidden, form="plain")
    return _made(folder / f"{form}.onnx", lambda path: _fuse(plain, path, heads, hidden, form == "separate"))


def _export_plain(folder: Path, path: Path) -> None:
    torch = require("torch")
    require("onnx")
    model = torch_bert(str(folder))
    model.config.return_dict = False
    ids = torch.ones((2, 16), dtype=torch.int64)
    axes = {0: "batch", 1: "length"}
    outputs = {"last_hidden_state": axes, "pooler_output": {0: "batch"}}
    torch.onnx.export(
        model,
        (ids, ids, torch.zeros_like(ids)),
        str(path),
        input_names=list(_INPUTS),
        output_names=list(outputs),
        dynamic_axes={**dict.fromkeys(_INPUTS, axes), **outputs},
        opset_version=17,
        do_constant_folding=True,
        dynamo=False,
    )


def _fuse(plain: Path, path: Path, heads: int, hidden: int, separate: bool) -> None:
    optimizer = require("onnxruntime.transformers.optimizer", "onnxruntime")
    options = require("onnxruntime.transformers.fusion_options", "onnxruntime").FusionOptions("bert")
    options.use_multi_head_attention = separate
    optimized = optimizer.optimize_model(
        str(plain),
        model_type="bert",
        num_heads=heads,
        hidden_size=hidden,
        optimization_options=options,
    )
    fused = optimized.get_fused_operator_statistics()
    if not fused.get("Attention") and not fused.get("MultiHeadAttention"):
        raise Missing(f"onnxruntime's optimizer fused no attention ({fused}); other versions of torch?")
    optimized.save_model_to_file(str(path))


def onnxruntime_session(path: str, threads: int) -> Any:
    """Return a session on the CPU with every graph optimisation.

    Parameters
    ----------
    path : str
    threads : int
    """
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_feed(session: Any, inputs: Inputs) -> dict[str, Any]:
    """Return inputs in the types that the graph wants (the optimizer may have made them int32).

    Parameters
    ----------
    session : InferenceSession
    inputs : dict of arrays
    """
    types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
    return {node.name: inputs[node.name].astype(types[node.type]) for node in session.get_inputs()}


def start_onnxruntime(
    folder: str, threads: int, heads: int, hidden: int, form: str
) -> tuple[Any, dict[str, Any]]:
    """Start ONNX Runtime.

    Parameters
    ----------
    folder : str
        The float model.
    threads : int
    heads, hidden : int
        Of the model.
    form : {"float", "dynamic", "dynamic-u8u8", "static"}
    """
    makers: dict[str, Callable[[Path, int, int], Path]] = {
        "float": lambda base, n, h: export_onnx(base, n, h, form="fused"),
        "dynamic": lambda base, n, h: _dynamic(base, n, h, is_signed=True),
        "dynamic-u8u8": lambda base, n, h: _dynamic(base, n, h, is_signed=False),
        "static": _static,
    }
    session = onnxruntime_session(str(makers[form](Path(folder), heads, hidden)), threads)

    def run(fed: Any) -> Any:
        return session.run(["last_hidden_state"], fed)[0]

    facts = {"reduce_range": form in ("dynamic", "static") and not has_vnni()}
    return _System(lambda inputs: onnx_feed(session, inputs), run), facts


def _dynamic(folder: Path, heads: int, hidden: int, *, is_signed: bool) -> Path:
    quantization = require("onnxruntime.quantization", "onnxruntime")
    fused = export_onnx(folder, heads, hidden, form="fused")

    def make(path: Path) -> None:
        quantization.quantize_dynamic(
            str(fused),
            str(path),
            per_channel=True,
            reduce_range=is_signed and not has_vnni(),
            weight_type=quantization.QuantType.QInt8 if is_signed else quantization.QuantType.QUInt8,
            # Shape inference knows nothing of onnxruntime's own operators.
            extra_options={"DefaultTensorType": require("onnx").TensorProto.FLOAT},
        )

    return _made(folder / f"dynamic-{'s8' if is_signed else 'u8'}.onnx", make)


def _static(folder: Path, heads: int, hidden: int) -> Path:
    """Insert Q/DQ; without inferred shapes onnxruntime would silently leave all activations float."""
    quantization = require("onnxruntime.quantization", "onnxruntime")
    onnx = require("onnx")
    shapes = require("onnxruntime.tools.symbolic_shape_infer", "onnxruntime")
    separate = export_onnx(folder, heads, hidden, form="separate")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            session = onnxruntime_session(str(separate), 1)
            self._batches = iter([onnx_feed(session, batch) for batch in _samples(folder)])

        def get_next(self) -> Any:
            return next(self._batches, None)

    def make(path: Path) -> None:
        inferred = shapes.SymbolicShapeInference.infer_shapes(onnx.load(str(separate)), auto_merge=True)
        quantization.quantize_static(
            inferred,
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not has_vnni(),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )

    return _made(folder / "static.onnx", make)


# ---- OpenVINO ----------------------------------------------------------------------------------------------


def start_openvino(
    folder: str, threads: int, heads: int, hidden: int, quantized: bool
) -> tuple[Any, dict[str, Any]]:
    """Start OpenVINO.

    Parameters
    ----------
    folder : str
        The float model.
    threads : int
    heads, hidden : int
        Of the model.
    quantized : bool
        By NNCF.
    """
    openvino = require("openvino")
    core = openvino.Core()
    base = Path(folder)
    plain = export_onnx(base, heads, hidden, form="plain")
    path = (
        _made(base / "openvino", lambda where: _quantize_openvino(base, plain, where)) if quantized else plain
    )
    model = core.read_model(str(path / "model.xml" if quantized else path))
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }

    def feed(inputs: Inputs) -> Any:
        shape = list(inputs["input_ids"].shape)
        model.reshape(dict.fromkeys(_INPUTS, shape))
        compiled = core.compile_model(model, "CPU", options)
        return compiled.create_infer_request(), compiled.output("last_hidden_state"), inputs

    def run(fed: Any) -> Any:
        request, output, inputs = fed
        return request.infer(inputs, share_inputs=True)[output]

    return _System(feed, run), {}


def _quantize_openvino(folder: Path, plain: Path, where: Path) -> None:
    openvino = require("openvino")
    nncf = require("nncf")
    samples = nncf.Dataset(_samples(folder))
    model = openvino.Core().read_model(str(plain))
    quantized = nncf.quantize(
        model, samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=_CALIBRATION_BATCHES
    )
    where.mkdir()
    openvino.save_model(quantized, str(where / "model.xml"), compress_to_fp16=False)


# ---- CTranslate2 -------------------------------------------------------------------------------------------


def start_ctranslate2(folder: str, threads: int, compute_type: str) -> tuple[Any, dict[str, Any]]:
    """Start CTranslate2.

    Parameters
    ----------
    folder : str
        The float model.
    threads : int
    compute_type : {"int8", "float32"}
    """
    ctranslate2 = require("ctranslate2")

    require("transformers", "transformers==4.39.3")
    base = require("ctranslate2.converters", "ctranslate2").TransformersConverter

    class Converter(base):  # type: ignore[misc, valid-type]
        def load_model(self, model_class: Any, model_name_or_path: str, **options: Any) -> Any:
            options.pop("dtype", None)  # a name that transformers got in 4.56; the folder is float32 anyway
            return super().load_model(model_class, model_name_or_path, **options)

    def make(path: Path) -> None:
        Converter(folder).convert(str(path), quantization=compute_type)

    path = _made(Path(folder) / f"ctranslate2-{compute_type}", make)
    encoder = ctranslate2.Encoder(
        str(path), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
    )

    def feed(inputs: Inputs) -> Any:
        lengths = inputs["attention_mask"].sum(axis=1)
        return [
            [row[:length].tolist() for row, length in zip(inputs[name], lengths, strict=True)]
            for name in ("input_ids", "token_type_ids")
        ]

    def run(fed: Any) -> Any:
        ids, types = fed
        return np.array(encoder.forward_batch(ids, token_type_ids=types).last_hidden_state)

    return _System(feed, run), {"compute_type": encoder.compute_type}

# SPDX-License-Identifier: Apache-2.0
"""The systems that benchmarks compare: one BERT checkpoint with random weights, run by qdqbert and its peers.

Every factory here is called inside a worker process (harness.Worker) and returns ``(call, facts)``. `call`
takes nothing, runs one forward pass on the inputs it was made with and returns the last hidden state as a
NumPy array, so that the parent can compare the systems before it times them. All of them read the same
checkpoint folder and the same inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import Call, require
from qdqbert.bench.peers import export_onnx, onnx_feed, onnxruntime_session, torch_bert, use_sdpa

SHAPES: dict[str, dict[str, int]] = {
    "base": {
        "layers": 12,
        "hidden": 768,
        "heads": 12,
        "intermediate": 3072,
        "vocab": 30522,
        "positions": 512,
    },
    "large": {
        "layers": 24,
        "hidden": 1024,
        "heads": 16,
        "intermediate": 4096,
        "vocab": 30522,
        "positions": 512,
    },
    "minilm": {
        "layers": 6,
        "hidden": 384,
        "heads": 12,
        "intermediate": 1536,
        "vocab": 30522,
        "positions": 512,
    },
    "tiny": {"layers": 2, "hidden": 64, "heads": 4, "intermediate": 256, "vocab": 1000, "positions": 512},
}

Inputs = dict[str, NDArray[np.int64]]


# ---- weights and inputs ------------------------------------------------------------------------


def bert_tensors(shape: str, seed: int = 0, head: str = "none") -> dict[str, NDArray[np.float32]]:
    """Random weights under the names of a Hugging Face BertModel, or of its model of question answering.

    Normal(0, 0.02), biases too, LayerNorm near 1.
    """
    size = SHAPES[shape]
    hidden, intermediate = size["hidden"], size["intermediate"]
    rng = np.random.default_rng(seed)

    def normal(*dims: int) -> NDArray[np.float32]:
        return rng.standard_normal(dims, dtype=np.float32) * np.float32(0.02)

    tensors = {
        "embeddings.word_embeddings.weight": normal(size["vocab"], hidden),
        "embeddings.position_embeddings.weight": normal(size["positions"], hidden),
        "embeddings.token_type_embeddings.weight": normal(2, hidden),
    }

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + normal(hidden)
        tensors[f"{name}.bias"] = normal(hidden)

    def linear(name: str, rows: int, columns: int) -> None:
        tensors[f"{name}.weight"] = normal(rows, columns)
        tensors[f"{name}.bias"] = normal(rows)

    norm("embeddings.LayerNorm")
    for layer in range(size["layers"]):
        base = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{base}.attention.self.{part}", hidden, hidden)
        linear(f"{base}.attention.output.dense", hidden, hidden)
        norm(f"{base}.attention.output.LayerNorm")
        linear(f"{base}.intermediate.dense", intermediate, hidden)
        linear(f"{base}.output.dense", hidden, intermediate)
        norm(f"{base}.output.LayerNorm")
    if head == "none":
        linear("pooler.dense", hidden, hidden)
        return tensors
    tensors = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    linear("qa_outputs", 2, hidden)
    return tensors


_ARCHITECTURES = {"none": "BertModel", "question_answering": "BertForQuestionAnswering"}


def bert_config(shape: str, head: str = "none") -> dict[str, Any]:
    """config.json of the checkpoint; without dropout, so that what trains can be compared."""
    size = SHAPES[shape]
    return {
        "architectures": [_ARCHITECTURES[head]],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "model_type": "bert",
        "vocab_size": size["vocab"],
        "hidden_size": size["hidden"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "intermediate_size": size["intermediate"],
        "max_position_embeddings": size["positions"],
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }


def write_checkpoint(folder: pathlib.Path, shape: str, seed: int = 0, head: str = "none") -> pathlib.Path:
    """Write config.json and a float32 model.safetensors into `folder`.

    The file is 8 bytes of header size, the JSON header, and the data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    tensors = bert_tensors(shape, seed, head)
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors.values():
            file.write(tensor.astype("<f4").tobytes())
    (folder / "config.json").write_text(json.dumps(bert_config(shape, head), indent=1), encoding="utf-8")
    return folder


def make_inputs(shape: str, batch: int, length: int, seed: int = 1) -> Inputs:
    """Random token ids, full attention mask, two segments."""
    rng = np.random.default_rng(seed)
    types = np.zeros((batch, length), np.int64)
    types[:, length // 2 :] = 1
    return {
        "input_ids": rng.integers(1, SHAPES[shape]["vocab"], (batch, length), dtype=np.int64),
        "attention_mask": np.ones((batch, length), np.int64),
        "token_type_ids": types,
    }


def digest(array: NDArray[np.float32]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the array's bytes; -0 and +0 differ, as they should."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


# ---- qdqbert -----------------------------------------------------------------------------------


def qdqbert_model(folder: str, threads: int, head: str = "QDQBertModel") -> Any:
    """`head` loaded from `folder`, with every quantizer off, on `threads` threads.

    The descriptors are those of the documented recipe: 8 bits, histogram calibration, weights per row.
    """
    qdqbert = require("qdqbert")
    tensor_quant = require("qdqbert.tensor_quant")
    qdqbert.set_num_threads(threads)
    linear = qdqbert.nn.QuantLinear
    linear.set_default_quant_desc_input(tensor_quant.QuantDescriptor(num_bits=8, calib_method="histogram"))
    linear.set_default_quant_desc_weight(tensor_quant.QuantDescriptor(num_bits=8, axis=(0,)))
    model = getattr(qdqbert, head).from_pretrained(folder)
    model.eval()
    return model


@contextlib.contextmanager
def quantizers_off(model: Any) -> Iterator[None]:
    """Make a float forward: every quantizer is the identity inside the block."""
    with require("qdqbert").quantizers(model, {"*": "off"}):
        yield


def quantizer_count(model: Any) -> int:
    """How many modules of the model are quantizers."""
    return sum(name.endswith("_quantizer") for name, _ in model.named_modules())


def device_facts(model: Any) -> dict[str, Any]:
    """Which kernels run, as far as the package tells."""
    facts: dict[str, Any] = {"quantizers": quantizer_count(model)}
    isa = os.environ.get("QDQBERT_CPU_ISA")
    if isa:
        facts["isa_cap"] = isa
    return facts


def ours(folder: str, inputs: Inputs, threads: int, quantized: bool) -> tuple[Call, dict[str, Any]]:
    """Run qdqbert in float, or simulated with every quantizer on, calibrated (max) on these inputs."""
    model = qdqbert_model(folder, threads)
    facts = device_facts(model)
    keep = contextlib.ExitStack()
    if quantized:
        require("qdqbert").calibrate(model, [inputs], method="max")
    else:
        keep.enter_context(quantizers_off(model))

    def call() -> NDArray[np.float32]:
        return np.asarray(model(**inputs)[0])

    call.keep = keep  # type: ignore[attr-defined]  # the block stays open as long as the worker lives
    facts["sha256"] = digest(call())
    return call, facts


# ---- PyTorch -----------------------------------------------------------------------------------


def torch_fp32(folder: str, inputs: Inputs, threads: int, variant: str) -> tuple[Call, dict[str, Any]]:
    """PyTorch fp32; `variant` is "eager" (as transformers has it).

    "sdpa" or "compile" (sdpa and inductor).
    """
    torch = require("torch")
    torch.set_num_threads(threads)
    model = torch_bert(folder)
    if variant != "eager":
        use_sdpa(model)
    started = time.perf_counter()
    if variant == "compile":
        inductor = require("torch._inductor.config", "torch")
        inductor.freezing = True
        model = torch.compile(model)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}

    def call() -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(**tensors).last_hidden_state.numpy()

    call()
    return call, {"first_call_s": time.perf_counter() - started, "threads": torch.get_num_threads()}


# ---- ONNX Runtime ------------------------------------------------------------------------------


def export_in_child(folder: str, shape: str, fused: bool) -> tuple[Call, dict[str, Any]]:
    """Export, as a worker of its own, so that the parent never loads torch."""
    size = SHAPES[shape]
    form = "fused" if fused else "plain"
    path = export_onnx(pathlib.Path(folder), size["heads"], size["hidden"], form=form)
    return (lambda: None), {"path": str(path)}


def onnxruntime_fp32(path: str, inputs: Inputs, threads: int) -> tuple[Call, dict[str, Any]]:
    """ONNX Runtime fp32 on an exported graph."""
    session = onnxruntime_session(path, threads)
    feed = onnx_feed(session, inputs)

    def call() -> NDArray[np.float32]:
        return session.run(["last_hidden_state"], feed)[0]

    call()
    return call, {"graph": pathlib.Path(path).name}
